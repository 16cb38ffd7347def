"""What a real Centrifuge server does with a channel: publications, history, recovery, tags, deltas."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import ANY

import httpx2
import pytest

from hub.protocol import fossil
from tests.sdk.session import token
from tests.support.centrifuge import Client, connected
from tests.support.server import HubProcess

from .words import call, error

# Subscriptions, publications, history


async def test_subscribing_twice(hub: HubProcess, ann: Client, channel: str) -> None:
    """105, also where the server has subscribed the client already."""
    await ann.ask("subscribe", channel=channel)
    assert await ann.ask("subscribe", channel=channel) == error(105)
    async with connected(hub.ws_url, token=token(sub="7")) as bob:
        assert await bob.ask("subscribe", channel="#7") == error(105)


async def test_publishing(hub: HubProcess, channel: str) -> None:
    """An empty result, and the publication with who it was; the first of a channel tells the epoch."""
    async with connected(hub.ws_url, token=token(sub="42", info={"name": "Bob"})) as bob:
        epoch = (await bob.ask("subscribe", channel=channel))["epoch"]
        for offset, data in enumerate(({"a": [1, None, "é"]}, "text"), 1):
            number = await bob.command("publish", channel=channel, data=data)
            assert await bob.reply(number) == {"id": number, "publish": {}}
            publication = await bob.push(channel, "pub", offset)
            info = {"user": "42", "client": ANY, "conn_info": {"name": "Bob"}}
            first = {"epoch": epoch} if offset == 1 else {}
            assert publication == {"data": data, "info": info, "offset": offset, **first}


async def test_nothing_after_unsubscribe(ann: Client, api: httpx2.AsyncClient, channel: str) -> None:
    """After the reply no push of the channel comes: SDKs would hand it on."""
    await ann.ask("subscribe", channel=channel)
    await ann.push(channel, "join")
    assert await ann.ask("unsubscribe", channel=channel) == {}
    before = len(ann.received)
    await call(api, "publish", channel=channel, data=1)
    await ann.ask("subscribe", channel=f"{channel}_other")
    await call(api, "publish", channel=f"{channel}_other", data=1)
    await ann.push(f"{channel}_other", "pub")
    assert [m["push"] for m in ann.received[before:] if m.get("push", {}).get("channel") == channel] == []


async def test_unsubscribe_and_subscribe_without_waiting(ann: Client, channel: str) -> None:
    """Commands of a channel run one after another: neither 105 nor a client that is left outside."""
    subscribe, unsubscribe = {"subscribe": {"channel": channel}}, {"unsubscribe": {"channel": channel}}
    numbers = range(100, 120)
    await ann.send(*({"id": number, **(unsubscribe if number % 2 else subscribe)} for number in numbers))
    for number in numbers:
        reply = await ann.reply(number)
        assert list(reply) == ["id", "unsubscribe" if number % 2 else "subscribe"]
    assert await ann.ask("presence_stats", channel=channel) == {"num_clients": 0, "num_users": 0}


async def test_who_is_there(hub: HubProcess, ann: Client, channel: str) -> None:
    """Joins and leaves with the ClientInfo that `presence` has too, and how many."""
    await ann.ask("subscribe", channel=channel)
    async with connected(hub.ws_url, token=token(sub="42", info={"n": 1})) as bob:
        sub_token = token(sub="42", channel=channel, info="in")
        await bob.ask("subscribe", channel=channel, token=sub_token)
        join = await ann.push(channel, "join", 2)
        assert join == {"info": {"user": "42", "client": ANY, "conn_info": {"n": 1}, "chan_info": "in"}}
        present = (await ann.ask("presence", channel=channel))["presence"]
        assert present[join["info"]["client"]] == join["info"]
        assert len(present) == 2
        assert await ann.ask("presence_stats", channel=channel) == {"num_clients": 2, "num_users": 2}
        await bob.ask("unsubscribe", channel=channel)
        assert await ann.push(channel, "leave") == join
    assert await ann.ask("presence_stats", channel=channel) == {"num_clients": 1, "num_users": 1}
    assert len(ann.pushes(channel, "leave")) == 1


async def test_history(ann: Client, api: httpx2.AsyncClient, channel: str) -> None:
    """Nothing but the end without a limit; all with -1; after and before a place."""
    for number in range(1, 6):
        await call(api, "publish", channel=channel, data=number)
    end = await ann.ask("history", channel=channel)
    assert end == {"publications": [], "epoch": ANY, "offset": 5}
    since = {"offset": 3, "epoch": end["epoch"]}
    for fields, offsets in (
        ({"limit": -1}, [1, 2, 3, 4, 5]),
        ({"limit": 2}, [1, 2]),
        ({"limit": 2, "reverse": True}, [5, 4]),
        ({"limit": -1, "since": since}, [4, 5]),
        ({"limit": -1, "since": since, "reverse": True}, [2, 1]),
        ({"limit": 1, "since": {"offset": 3}}, [4]),
    ):
        result = await ann.ask("history", channel=channel, **fields)
        for publication in result["publications"]:
            publication.pop("epoch", None)  # the first may tell it here too
        assert result == {**end, "publications": [{"data": offset, "offset": offset} for offset in offsets]}, fields


# Recovery


async def test_recovering_from_the_beginning(ann: Client, api: httpx2.AsyncClient, channel: str) -> None:
    """Offset 0 without epoch: all that is kept; the requested offset, 0, is left out of the reply."""
    for number in range(1, 4):
        await call(api, "publish", channel=channel, data=number)
    result = await ann.ask("subscribe", channel=channel, recover=True, offset=0, epoch="")
    publications = [{"data": number, "offset": number} for number in range(1, 4)]
    first = {"epoch": result["epoch"]} if "epoch" in result["publications"][0] else {}
    publications[0] |= first
    assert result == {
        "recoverable": True, "positioned": True, "epoch": ANY,
        "recovered": True, "was_recovering": True, "publications": publications,
    }  # fmt: skip


async def test_recovering_what_was_missed(ann: Client, api: httpx2.AsyncClient, channel: str) -> None:
    """The reply has the requested offset: the client gets on by the publications."""
    epoch = (await call(api, "publish", channel=channel, data=1))["epoch"]
    for number in (2, 3):
        await call(api, "publish", channel=channel, data=number)
    result = await ann.ask("subscribe", channel=channel, recover=True, offset=1, epoch=epoch)
    assert result == {
        "recoverable": True, "positioned": True, "epoch": epoch, "offset": 1, "recovered": True,
        "was_recovering": True, "publications": [{"data": 2, "offset": 2}, {"data": 3, "offset": 3}],
    }  # fmt: skip
    assert await ann.ask("unsubscribe", channel=channel) == {}
    result = await ann.ask("subscribe", channel=channel, recover=True, offset=3, epoch=epoch)
    assert result == {
        "recoverable": True, "positioned": True, "epoch": epoch, "offset": 3, "recovered": True, "was_recovering": True,
    }  # fmt: skip


async def test_recovering_an_empty_stream(ann: Client, channel: str) -> None:
    """Nothing was missed of nothing."""
    result = await ann.ask("subscribe", channel=channel, recover=True, offset=0, epoch="")
    assert result == {
        "recoverable": True, "positioned": True, "epoch": ANY, "recovered": True, "was_recovering": True
    }  # fmt: skip


@pytest.mark.parametrize("lost", ["foreign epoch", "trimmed", "from the future"])
async def test_what_cannot_be_recovered(ann: Client, api: httpx2.AsyncClient, channel: str, lost: str) -> None:
    """The end of the channel, never a part of what was missed; 112 where the client prefers that."""
    channel = f"smallhistory:{channel}"
    for number in range(1, 6):
        epoch = (await call(api, "publish", channel=channel, data=number))["epoch"]
    request = {
        "foreign epoch": {"offset": 4, "epoch": "foreign"},
        "trimmed": {"offset": 1, "epoch": epoch},
        "from the future": {"offset": 9, "epoch": epoch},
    }[lost]
    assert await ann.ask("subscribe", channel=channel, recover=True, flag=3, **request) == error(112)
    result = await ann.ask("subscribe", channel=channel, recover=True, flag=1, **request)
    assert result == {
        "recoverable": True, "positioned": True, "epoch": epoch, "offset": 5, "was_recovering": True
    }  # fmt: skip
    await call(api, "publish", channel=channel, data=6)
    assert await ann.push(channel, "pub") == {"data": 6, "offset": 6}


# Tags and deltas


async def test_a_filter_by_tags(ann: Client, api: httpx2.AsyncClient, channel: str) -> None:
    """What does not match is not delivered, but counted."""
    condition = {"key": "a", "cmp": "eq", "val": "1"}
    await ann.ask("subscribe", channel=channel, tf=condition)
    for value in ("2", "1"):
        await call(api, "publish", channel=channel, data=f"a is {value}", tags={"a": value})
    publication = await ann.push(channel, "pub")
    assert publication == {"data": "a is 1", "offset": 2, "tags": {"a": "1"}}
    assert len(ann.pushes(channel, "pub")) == 1


@pytest.mark.parametrize(
    "broken", [{"cmp": "eq"}, {"op": "xor", "nodes": []}, {"key": "a", "cmp": "like", "val": "1"}, "a=1"]
)
async def test_a_filter_that_is_none(ann: Client, channel: str, broken: Any) -> None:
    """Error 107, also where filters are not allowed."""
    assert await ann.ask("subscribe", channel=channel, tf=broken) == error(107)
    good = {"key": "a", "cmp": "eq", "val": "1"}
    assert await ann.ask("subscribe", channel=f"recovery:{channel}", tf=good) == error(107)


async def test_a_delta_keeps_characters_whole(ann: Client, api: httpx2.AsyncClient, channel: str) -> None:
    """é and è share their first byte; a patch that cuts there is no text, and the peers' SDKs break on it."""
    channel = f"delta:{channel}"
    result = await ann.ask("subscribe", channel=channel, delta="fossil")
    assert result["delta"] is True
    base = b""
    filler = "a text that is long enough for a patch to be worth it, " * 4
    documents = [{"text": f"{filler}caf{letter} au lait"} for letter in ("é", "è", "é", "😀", "😁")]
    for number, document in enumerate(documents, 1):
        await call(api, "publish", channel=channel, data=document)
        publication = await ann.push(channel, "pub", number)
        text = publication["data"].encode()
        assert isinstance(publication["data"], str)
        base = fossil.apply(base, text) if publication.get("delta") else text
        assert json.loads(base) == document
    patches = [publication.get("delta", False) for publication in ann.pushes(channel, "pub")]
    assert patches == [False, True, True, True, True]


async def test_no_delta_unless_asked(ann: Client, api: httpx2.AsyncClient, channel: str) -> None:
    """In the same channel, plain JSON; and where the namespace has none, a wish is ignored."""
    assert "delta" not in await ann.ask("subscribe", channel=f"delta:{channel}")
    assert "delta" not in await ann.ask("subscribe", channel=f"recovery:{channel}", delta="fossil")
    for name in (f"delta:{channel}", f"recovery:{channel}"):
        for number in (1, 2):
            await call(api, "publish", channel=name, data={"number": number})
            assert (await ann.push(name, "pub", number))["data"] == {"number": number}
