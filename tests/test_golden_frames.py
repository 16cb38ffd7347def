"""What a real Centrifuge server answers on the wire, row by row, and what ours answers.

Replies are compared whole: a field too many is a difference. The configuration is that of the public SDK tests.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx2
import pytest
import websockets

from hub.protocol import fossil
from tests.sdk.session import token
from tests.support.centrifuge import PATH, Client, Json, client, connected
from tests.support.server import HubProcess, hub_serve
from tests.support.waiting import eventually

CONFIG = Path(__file__).parent / "sdk" / "hub.toml"

CONNECT = '{"id":1,"connect":{}}'

# The protocol's texts (§6); the SDKs hand them to the application.
DISCONNECTS = {
    3001: "shutdown",
    3005: "connection expired",
    3012: "no pong",
    3500: "invalid token",
    3501: "bad request",
    3502: "stale",
    3503: "force disconnect",
    3508: "not available",
}
ERRORS = {
    102: "unknown channel",
    103: "permission denied",
    105: "already subscribed",
    107: "bad request",
    108: "not available",
    109: "token expired",
    112: "unrecoverable position",
}


def error(code: int) -> Json:
    return {"error": {"code": code, "message": ERRORS[code]}}


def past() -> int:
    return int(time.time()) - 60


def future() -> int:
    return int(time.time()) + 60


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    """Two workers, so that a call of the API often has to find its client on the other."""
    with hub_serve("--workers", "2", "--config", str(CONFIG), "--drain", "0") as process:
        yield process
        assert "Traceback" not in process.log
        assert "unexpected fault" not in process.log


@pytest.fixture
def channel() -> str:
    """A channel that no other test uses."""
    return f"golden_{uuid.uuid4().hex}"


@pytest.fixture
async def ann(hub: HubProcess) -> AsyncIterator[Client]:
    """A client after `connect`, without a token."""
    async with connected(hub.ws_url) as opened:
        yield opened


@pytest.fixture
async def api(hub: HubProcess) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"X-API-Key": "api_key"}
    async with httpx2.AsyncClient(base_url=f"{hub.url}/api/", headers=headers, trust_env=False) as opened:
        yield opened


async def call(api: httpx2.AsyncClient, method: str, **request: Any) -> Json:
    """The result of a call that must go well."""
    answer = (await api.post(method, json=request)).json()
    assert "result" in answer, answer
    result: Json = answer["result"]
    return result


# What ends a connection


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param('{"id":1,"subscribe":{"channel":"c"}}', id="subscribe first"),
        pytest.param('{"id":1,"rpc":{}}', id="rpc first"),
        pytest.param('{"send":{"data":1}}', id="send first"),
        pytest.param("{}", id="pong first"),
        pytest.param('{"connect":{}}', id="connect without id"),
        pytest.param('{"id":0,"connect":{}}', id="connect with id 0"),
        pytest.param("", id="empty frame"),
        pytest.param("x", id="not JSON"),
        pytest.param("[]", id="an array"),
        pytest.param(f"[{CONNECT}]", id="an array of commands"),
        pytest.param(f"\n{CONNECT}", id="blank line before"),
        pytest.param(f"{CONNECT}\n\n", id="blank line after"),
        pytest.param(b"\xff", id="binary that is not UTF-8"),
        pytest.param('{"id":1,"connect":[]}', id="connect with an array"),
        pytest.param('{"id":1,"connect":{"token":7}}', id="a token that is a number"),
        pytest.param('{"id":"1","connect":{}}', id="an id that is a text"),
    ],
)
async def test_a_first_frame_that_ends_it(hub: HubProcess, frame: str | bytes) -> None:
    """Anything but `connect`, and anything that is not JSON lines, closes with 3501 and no reply."""
    async with client(hub.ws_url) as opened:
        await opened.send(frame)
        assert await opened.closed() == (3501, DISCONNECTS[3501])
        assert opened.received == []


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param('{"id":2,"connect":{}}', 3501, id="second connect"),
        pytest.param("{}", 3501, id="unasked pong"),
        pytest.param("", 3501, id="empty frame"),
        pytest.param("\n", 3501, id="nothing but a newline"),
        pytest.param("x", 3501, id="not JSON"),
        pytest.param("[]", 3501, id="an array"),
        pytest.param("null", 3501, id="null"),
        pytest.param('{"id":2}', 3501, id="no body"),
        pytest.param('{"id":2,"foo":{}}', 3501, id="unknown body"),
        pytest.param('{"id":2,"rpc":{}}\n\n{"id":3,"rpc":{}}', 3501, id="blank line between"),
        pytest.param('{"id":-1,"rpc":{}}', 3501, id="id -1"),
        pytest.param('{"id":4294967296,"rpc":{}}', 3501, id="id of 33 bits"),
        pytest.param('{"id":2,"ping":{}}', 3501, id="ping command"),
        pytest.param('{"rpc":{}}', 3501, id="rpc without id"),
        pytest.param('{"subscribe":{"channel":"c"}}', 3501, id="subscribe without id"),
        pytest.param('{"id":2,"subscribe":{}}', 3501, id="subscribe without channel"),
        pytest.param('{"id":2,"subscribe":{"channel":""}}', 3501, id="subscribe with empty channel"),
        pytest.param('{"id":2,"unsubscribe":{}}', 3501, id="unsubscribe without channel"),
        pytest.param('{"id":2,"publish":{"data":1}}', 3501, id="publish without channel"),
        pytest.param('{"id":2,"presence":{}}', 3501, id="presence without channel"),
        pytest.param('{"id":2,"presence_stats":{}}', 3501, id="presence_stats without channel"),
        pytest.param('{"id":2,"history":{}}', 3501, id="history without channel"),
        pytest.param('{"id":2,"sub_refresh":{"token":"t"}}', 3501, id="sub_refresh without channel"),
        pytest.param('{"id":2,"subscribe":{"channel":"c","delta":"foo"}}', 3501, id="unknown delta"),
        pytest.param('{"id":2,"refresh":{"token":""}}', 3501, id="refresh with empty token"),
        pytest.param('{"send":{"data":{"a":1}}}', 3508, id="send without handler"),
        pytest.param('{"id":2,"send":{"data":1}}', 3508, id="send with an id"),
    ],
)
async def test_a_later_frame_that_ends_it(ann: Client, frame: str, code: int) -> None:
    """The close code of each, with its reason, and no reply besides that to `connect`."""
    await ann.send(frame)
    assert await ann.closed() == (code, DISCONNECTS[code])
    assert [message["id"] for message in ann.received] in ([1], [1, 2])
    assert len(ann.received) == 1 or "\n" in frame


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param("garbage", id="no token"),
        pytest.param("a.b.c", id="three parts"),
        pytest.param(token(sub="42")[:-3] + "abc", id="wrong signature"),
        pytest.param("eyJhbGciOiJub25lIn0.eyJzdWIiOiI0MiJ9.", id="algorithm none"),
        pytest.param(token(sub="42", channel="c"), id="a subscription's token"),
        pytest.param(token(sub=42), id="a user that is a number"),
    ],
)
async def test_connecting_with_a_bad_token(hub: HubProcess, bad: str) -> None:
    """3500 invalid token."""
    async with client(hub.ws_url) as opened:
        await opened.command("connect", token=bad)
        assert await opened.closed() == (3500, DISCONNECTS[3500])


@pytest.mark.parametrize("claims", [{"sub": "42", "channel": "other"}, {"sub": "43"}, {"sub": ""}])
async def test_a_subscription_token_of_somebody_else(hub: HubProcess, channel: str, claims: Json) -> None:
    """For another channel or another user: 3500."""
    async with connected(hub.ws_url, token=token(sub="42")) as bob:
        await bob.command("subscribe", channel=channel, token=token(**{"channel": channel, **claims}))
        assert await bob.closed() == (3500, DISCONNECTS[3500])


async def test_refreshing_with_a_bad_token(hub: HubProcess) -> None:
    """3500; so does the token of another user."""
    for bad in ("garbage", token(sub="43", exp=future())):
        async with connected(hub.ws_url, token=token(sub="42", exp=future())) as bob:
            await bob.command("refresh", token=bad)
            assert await bob.closed() == (3500, DISCONNECTS[3500])


async def test_refreshing_unasked(hub: HubProcess) -> None:
    """A client that was not told to refresh may not, not even with a good token."""
    async with connected(hub.ws_url, token=token(sub="42")) as bob:
        await bob.command("refresh", token=token(sub="42", exp=future()))
        assert await bob.closed() == (3501, DISCONNECTS[3501])


async def test_connecting_with_an_expired_token(hub: HubProcess) -> None:
    """Error 109, then a close within 5 s after which SDKs come back; a further command ends it at once."""
    expired = token(sub="42", exp=past())
    async with client(hub.ws_url) as opened, client(hub.ws_url) as hasty:
        assert await opened.ask("connect", token=expired) == error(109)
        start = time.monotonic()
        code, reason = await opened.closed(6)
        assert time.monotonic() - start < 5.5
        assert 3000 <= code < 3500
        assert reason
        await hasty.ask("connect", token=expired)
        await hasty.command("rpc")
        assert await hasty.closed() == (3501, DISCONNECTS[3501])


# Commands and their replies


@pytest.mark.parametrize(
    ("command", "fields", "expected"),
    [
        pytest.param("rpc", {"method": "m", "data": {}}, error(108), id="rpc without handler"),
        pytest.param("subscribe", {"channel": "unknown:x"}, error(102), id="subscribe to an unknown namespace"),
        pytest.param("subscribe", {"channel": "x" * 256}, error(107), id="a channel of 256 bytes"),
        pytest.param("subscribe", {"channel": "x", "token": "bad"}, error(103), id="bad subscription token"),
        pytest.param("unsubscribe", {"channel": "never"}, {}, id="unsubscribe without subscription"),
        pytest.param("sub_refresh", {"channel": "x", "token": "t"}, error(103), id="sub_refresh without subscription"),
        pytest.param("publish", {"channel": "unknown:x", "data": 1}, error(102), id="publish to an unknown namespace"),
        pytest.param("publish", {"channel": "x"}, error(107), id="publish nothing"),
        pytest.param("publish", {"channel": "x" * 256, "data": 1}, error(107), id="publish to a long channel"),
        pytest.param("presence", {"channel": "nobody"}, {"presence": {}}, id="presence of nobody"),
        pytest.param("presence_stats", {"channel": "nobody"}, {"num_clients": 0, "num_users": 0}, id="stats of nobody"),
        pytest.param("presence", {"channel": "recovery:x"}, error(108), id="presence that is off"),
        pytest.param("presence_stats", {"channel": "recovery:x"}, error(108), id="presence_stats that is off"),
        pytest.param("presence", {"channel": "unknown:x"}, error(102), id="presence of an unknown namespace"),
        pytest.param("history", {"channel": "unknown:x"}, error(102), id="history of an unknown namespace"),
        pytest.param("history", {"channel": "x", "reverse": True, "since": {"offset": 0, "epoch": ""}}, error(107),
                     id="history backwards from 0"),
        pytest.param("history", {"channel": "x", "since": {"offset": 0, "epoch": "foreign"}}, error(112),
                     id="history of a foreign epoch"),
        pytest.param("history", {"channel": "empty"}, {"publications": [], "epoch": ANY, "offset": 0},
                     id="history that is empty"),
        *(pytest.param("subscribe", {"channel": "x", "type": kind}, error(108), id=f"subscription type {kind}")
          for kind in (1, 2, 3, 4)),
    ],
)  # fmt: skip
async def test_a_reply(ann: Client, command: str, fields: Json, expected: Json) -> None:
    """The whole reply, and the connection stays."""
    number = await ann.command(command, **fields)
    body = expected if "error" in expected else {command: expected}
    assert await ann.reply(number) == {"id": number, **body}
    assert await ann.ask("unsubscribe", channel="any") == {}


async def test_an_expired_subscription_token(hub: HubProcess, channel: str) -> None:
    """Error 109, upon which SDKs fetch another; the connection stays."""
    async with connected(hub.ws_url, token=token(sub="42")) as bob:
        expired = token(sub="42", channel=channel, exp=past())
        assert await bob.ask("subscribe", channel=channel, token=expired) == error(109)
        fresh = token(sub="42", channel=channel, exp=future())
        result = await bob.ask("subscribe", channel=channel, token=fresh)
        assert (result["expires"], result["ttl"]) == (True, pytest.approx(60, abs=2))


async def test_the_reply_to_connect(hub: HubProcess) -> None:
    """Exactly these fields; with a token that expires, two more."""
    async with client(hub.ws_url) as opened:
        await opened.send(CONNECT)
        reply = await opened.reply(1)
        assert reply == {"id": 1, "connect": {"client": ANY, "version": ANY, "ping": 25, "pong": True}}
        assert str(uuid.UUID(reply["connect"]["client"])) == reply["connect"]["client"]
        assert reply["connect"]["version"]
    async with client(hub.ws_url) as opened:
        result = await opened.ask("connect", token=token(sub="", exp=future()))
        assert result.pop("ttl") in (59, 60)
        assert result == {"client": ANY, "version": ANY, "ping": 25, "pong": True, "expires": True}


async def test_connect_and_subscribe_in_one_frame(hub: HubProcess, channel: str) -> None:
    """Two replies in order, then the client's own join."""
    subscribe = f'{{"id":2,"subscribe":{{"channel":"{channel}"}}}}'
    async with client(hub.ws_url) as opened:
        await opened.send(f"{CONNECT}\n{subscribe}")
        connect = await opened.receive()
        assert connect == {"id": 1, "connect": {"client": ANY, "version": ANY, "ping": 25, "pong": True}}
        reply = await opened.receive()
        assert reply == {"id": 2, "subscribe": {"recoverable": True, "epoch": ANY, "positioned": True}}
        assert reply["subscribe"]["epoch"]
        info = {"user": "", "client": connect["connect"]["client"]}
        assert await opened.receive() == {"push": {"channel": channel, "join": {"info": info}}}


async def test_a_frame_of_many_commands(ann: Client, channel: str) -> None:
    """Each is answered, in order, though some of them wait for Redis and others do not."""
    commands: list[Json] = [
        {"id": 10, "subscribe": {"channel": channel}},
        {"id": 11, "publish": {"channel": channel, "data": 1}},
        {"id": 12, "history": {"channel": channel, "limit": -1}},
        {"id": 13, "rpc": {}},
        {"id": 14, "unsubscribe": {"channel": channel}},
        {"id": 15, "presence": {"channel": channel}},
    ]
    await ann.send("\n".join(map(json.dumps, commands)))
    replies = [await ann.reply(command["id"]) for command in commands]
    assert [list(reply)[-1] for reply in replies] == [
        "subscribe", "publish", "history", "error", "unsubscribe", "presence"
    ]  # fmt: skip
    assert [publication["offset"] for publication in replies[2]["history"]["publications"]] == [1]
    assert replies[5]["presence"] == {"presence": {}}


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(f"{CONNECT}\n", id="trailing newline"),
        pytest.param(CONNECT.encode(), id="binary frame"),
        pytest.param(f"{CONNECT}\n".encode(), id="both"),
        pytest.param('{"id":1,"connect":{"foo":[],"name":"js","headers":{"a":"b"}},"bar":2}', id="unknown fields"),
        pytest.param(' {"id" : 1 , "connect" : { } } ', id="spaces"),
    ],
)
async def test_a_frame_that_is_accepted(hub: HubProcess, frame: str | bytes) -> None:
    """JSON is JSON."""
    async with client(hub.ws_url) as opened:
        await opened.send(frame)
        assert (await opened.reply(1))["connect"]["client"]


async def test_subprotocols(hub: HubProcess) -> None:
    """`centrifuge-json` is chosen; where only an unknown one is offered, none is, and JSON spoken."""
    for offered, chosen in ((["foo", "centrifuge-json"], "centrifuge-json"), (["foo"], None)):
        async with websockets.connect(hub.ws_url + PATH, subprotocols=offered, proxy=None) as socket:
            assert socket.subprotocol == chosen
            await socket.send(CONNECT)
            assert json.loads(await socket.recv())["connect"]["client"]


def test_a_request_without_upgrade(hub: HubProcess) -> None:
    """Some HTTP status, not a reset connection: the Python SDK's tests look whether a server is there."""
    assert 400 <= hub.status(PATH) < 500


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


# Server-side subscriptions, and the server API


async def test_the_personal_channel(hub: HubProcess, channel: str) -> None:
    """Subscribed with `connect`; the client hears its own join there and may publish."""
    user = channel
    async with connected(hub.ws_url, token=token(sub=user)) as bob:
        subs = bob.received[0]["connect"]["subs"]
        assert subs == {f"#{user}": {"recoverable": True, "epoch": ANY, "positioned": True}}
        assert await bob.push(f"#{user}", "join") == {"info": {"user": user, "client": ANY}}
        assert await bob.ask("publish", channel=f"#{user}", data="me") == {}
        assert (await bob.push(f"#{user}", "pub"))["data"] == "me"


async def test_the_api_unsubscribes(hub: HubProcess, api: httpx2.AsyncClient, channel: str) -> None:
    """A push with 2000, after which nothing of the channel comes."""
    async with connected(hub.ws_url, token=token(sub=channel)) as bob:
        await bob.ask("subscribe", channel=channel)
        assert await call(api, "unsubscribe", user=channel, channel=channel) == {}
        push = await bob.push(channel, "unsubscribe")
        assert push == {"code": 2000, "reason": "server unsubscribe"}
        assert await bob.ask("presence_stats", channel=channel) == {"num_clients": 0, "num_users": 0}


async def test_the_api_subscribes(hub: HubProcess, api: httpx2.AsyncClient, channel: str) -> None:
    """A push with the position, if there is one; publications follow."""
    async with connected(hub.ws_url, token=token(sub=channel)) as bob:
        assert await call(api, "subscribe", user=channel, channel=channel) == {}
        push = await bob.push(channel, "subscribe")
        assert push == {"recoverable": True, "epoch": ANY, "positioned": True}
        await call(api, "publish", channel=channel, data=1)
        assert await bob.push(channel, "pub") == {"data": 1, "offset": 1, "epoch": push["epoch"]}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(None, (3503, "force disconnect"), id="by default"),
        pytest.param({"code": 4500, "reason": "bye"}, (4500, "bye"), id="with a code"),
        pytest.param({"code": 4000, "reason": ""}, (4000, ANY), id="without a reason"),
    ],
)
async def test_the_api_disconnects(
    hub: HubProcess, api: httpx2.AsyncClient, channel: str, asked: Json | None, expected: tuple[int, str]
) -> None:
    """A close frame whose reason is never empty: with an empty one JavaScript reconnects even when it must not."""
    async with connected(hub.ws_url, token=token(sub=channel)) as bob:
        await call(api, "disconnect", user=channel, **({"disconnect": asked} if asked else {}))
        code, reason = await bob.closed()
        assert (code, reason) == expected
        assert reason


async def test_the_api_publishes_once(ann: Client, api: httpx2.AsyncClient, channel: str) -> None:
    """The same idempotency key: the same place, one push."""
    await ann.ask("subscribe", channel=channel)
    first = await call(api, "publish", channel=channel, data="a", idempotency_key="k")
    assert first == {"offset": 1, "epoch": ANY}
    assert await call(api, "publish", channel=channel, data="b", idempotency_key="k") == first
    await call(api, "publish", channel=channel, data="c")
    await ann.push(channel, "pub", 2)
    assert [publication["data"] for publication in ann.pushes(channel, "pub")] == ["a", "c"]


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("publish", {"channel": "unknown:x", "data": 1}, 102),
        ("publish", {"channel": "x"}, 107),
        ("presence", {"channel": "recovery:x"}, 108),
        ("presence_stats", {"channel": "recovery:x"}, 108),
        ("history", {"channel": "x", "since": {"offset": 1, "epoch": "foreign"}}, 112),
        ("history", {"channel": "unknown:x"}, 102),
    ],
)
async def test_the_api_refuses(api: httpx2.AsyncClient, method: str, request_: Json, code: int) -> None:
    """With status 200; in transport mode with the HTTP status that fits."""
    response = await api.post(method, json=request_)
    assert response.status_code == 200
    assert response.json() == {"error": {"code": code, "message": ANY}}
    assert response.json()["error"]["message"].startswith(ERRORS[code])
    response = await api.post(method, json=request_, headers={"X-Centrifugo-Error-Mode": "transport"})
    assert response.status_code == {102: 404, 107: 400, 108: 400, 112: 416}[code]
    assert response.json()["code"] == code


async def test_who_may_call_the_api(hub: HubProcess) -> None:
    """Both keys of the configuration, in any of three places; 401, 405 and 400 for what is wrong."""
    async with httpx2.AsyncClient(base_url=f"{hub.url}/api/", trust_env=False) as http:
        for key in ("api_key", "test-api-key"):
            assert (await http.post("info", json={}, headers={"X-API-Key": key})).status_code == 200
            assert (await http.post("info", json={}, headers={"Authorization": f"apikey {key}"})).status_code == 200
            assert (await http.post(f"info?api_key={key}", json={})).status_code == 200
        assert (await http.post("info", json={})).status_code == 401
        assert (await http.post("info", json={}, headers={"X-API-Key": "wrong"})).status_code == 401
        assert (await http.get("info", headers={"X-API-Key": "api_key"})).status_code == 405
        assert (await http.post("info", content=b"{", headers={"X-API-Key": "api_key"})).status_code == 400


# Time


@pytest.fixture(scope="module")
def impatient() -> Iterator[HubProcess]:
    """The same with short times."""
    times = {"PING_INTERVAL": "2", "PING_TIMEOUT": "1", "CLIENT_STALE_TIMEOUT": "1", "CLIENT_EXPIRED_GRACE": "0.5"}
    environment = {f"HUB_{name}": value for name, value in times.items()}
    with hub_serve("--config", str(CONFIG), "--drain", "0", env=environment) as process:
        yield process


async def test_no_pong(impatient: HubProcess) -> None:
    """The first ping comes in the second half of the interval; 3012 a timeout later, whatever else is said."""
    async with connected(impatient.ws_url, answers_pings=False) as mute:
        start = asyncio.get_running_loop().time()

        async def talk() -> None:
            while mute.end is None:
                await mute.command("rpc")
                await asyncio.sleep(0.1)

        talking = asyncio.create_task(talk())
        assert await mute.closed() == (3012, DISCONNECTS[3012])
        ended = asyncio.get_running_loop().time()
        await talking
        assert mute.received[0]["connect"]["ping"] == 2
        assert len(mute.pings) == 1
        assert 0.9 <= mute.pings[0] - start <= 2.5
        assert 0.9 <= ended - mute.pings[0] <= 2


async def test_pongs(impatient: HubProcess) -> None:
    """A client that answers stays; a second answer to the same ping ends it."""
    async with connected(impatient.ws_url) as good:
        await eventually(lambda: len(good.pings) == 3, 10)
        await good.ask("rpc")
        await good.send("{}")
        assert await good.closed() == (3501, DISCONNECTS[3501])


async def test_stale(impatient: HubProcess) -> None:
    """Who does not `connect` in time is closed."""
    async with client(impatient.ws_url) as opened:
        assert await opened.closed(3) == (3502, DISCONNECTS[3502])


async def test_the_connection_expires(impatient: HubProcess) -> None:
    """At the end of its token and a grace; who refreshes stays."""
    async with (
        connected(impatient.ws_url, token=token(sub="1", exp=int(time.time()) + 2)) as idle,
        connected(impatient.ws_url, token=token(sub="1", exp=int(time.time()) + 2)) as eager,
    ):
        assert await eager.ask("refresh", token=token(sub="1", exp=future())) == {"expires": True, "ttl": ANY}
        assert await idle.closed() == (3005, DISCONNECTS[3005])
        assert await eager.ask("rpc") == error(108)


async def test_shutdown() -> None:
    """SIGTERM: 3001, upon which SDKs go to another worker."""
    with hub_serve("--config", str(CONFIG), "--drain", "0.2") as hub:
        async with connected(hub.ws_url) as opened:
            stopping = asyncio.create_task(asyncio.to_thread(hub.stop))
            assert await opened.closed() == (3001, DISCONNECTS[3001])
            assert await stopping == 0
