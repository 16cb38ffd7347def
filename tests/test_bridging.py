"""Raw rooms and protocol channels of the same name are one: whoever speaks, all hear it, each in its own way."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import websockets

from tests.support.centrifuge import Client, connected
from tests.support.server import HubProcess, hub_serve

EACH = 3
# What a raw client says, and what that is to a protocol client.
RAW_SAYS: list[tuple[str | bytes, Any]] = [
    ("hi", "hi"),
    ("", ""),
    ("grüße 🎉\nzwei\x00", "grüße 🎉\nzwei\x00"),
    ('{"text": "hi",\n "n": [1, null]}', {"text": "hi", "n": [1, None]}),
    ('[1, {"two": 2.5}]', [1, {"two": 2.5}]),
    ("[]", []),
    # Not an object or array, or not JSON: the text that it is.
    ("42", "42"),
    ("null", "null"),
    ('"quoted"', '"quoted"'),
    ("{not json}", "{not json}"),
    ("[1, 2", "[1, 2"),
    ("[" * 5000, "[" * 5000),
    (b"\x00\xff\x80", {"b64data": base64.b64encode(b"\x00\xff\x80").decode()}),
    (b"", {"b64data": ""}),
    (b"text", {"b64data": base64.b64encode(b"text").decode()}),
]
# What a protocol client publishes, and what that is to a raw client.
CLIENT_SAYS: list[tuple[Any, str]] = [
    ("hi", "hi"),
    ("", ""),
    ("zwei\nZeilen 🎉", "zwei\nZeilen 🎉"),
    ("null", "null"),
    ({"text": "hi", "n": [1, None]}, '{"text":"hi","n":[1,null]}'),
    ([1, 2.5], "[1,2.5]"),
    (42, "42"),
    (None, "null"),
    (True, "true"),
    ({"b64data": "AP8="}, '{"b64data":"AP8="}'),
]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    """As it comes, on two workers; but for the key."""
    with hub_serve("--workers", "2", env={"HUB_API_KEY": "key"}) as process:
        yield process


class Both:
    """Raw and protocol clients of one channel."""

    def __init__(self, hub: HubProcess, channel: str, raw: list[websockets.ClientConnection], clients: list[Client]):
        self.hub, self.channel, self.raw, self.clients = hub, channel, raw, clients
        self._pushed = 0

    async def hear_raw(self, *messages: str | bytes) -> None:
        """Every raw client gets these next, of the same type."""
        for listener in self.raw:
            async with asyncio.timeout(10):
                heard = [await listener.recv() for _ in messages]
            assert heard == [*messages]

    async def hear_pushes(self, *data: Any) -> list[Any]:
        """Every protocol client gets these next; what the first one was told."""
        self._pushed += len(data)
        for listener in self.clients:
            await listener.push(self.channel, "pub", self._pushed)
            assert [pub["data"] for pub in listener.pushes(self.channel, "pub")[-len(data) :]] == [*data]
        return self.clients[0].pushes(self.channel, "pub")[-len(data) :]


@contextlib.asynccontextmanager
async def both(hub: HubProcess, channel: str) -> AsyncIterator[Both]:
    async with contextlib.AsyncExitStack() as stack:
        url = f"{hub.ws_url}/ws/{channel}?hello=1"
        raw = [await stack.enter_async_context(websockets.connect(url)) for _ in range(EACH)]
        for listener in raw:
            assert "hello" in json.loads(await listener.recv())["hub"]
        clients = [await stack.enter_async_context(connected(hub.ws_url)) for _ in range(EACH)]
        for listener in clients:
            assert "error" not in await listener.ask("subscribe", channel=channel)
        yield Both(hub, channel, raw, clients)


def api(hub: HubProcess, method: str, **body: Any) -> Any:
    request = urllib.request.Request(f"{hub.url}/api/{method}", json.dumps(body).encode(), {"X-API-Key": "key"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)["result"]


CHANNELS = pytest.mark.parametrize("namespace", ["", "chat:"], ids=["plain", "with history"])


@CHANNELS
async def test_raw_clients_are_heard_by_all(hub: HubProcess, namespace: str) -> None:
    """Raw clients get the message as it was sent; protocol clients its JSON, its text, or its base64."""
    async with both(hub, f"{namespace}from-raw") as room:
        for message, _ in RAW_SAYS:
            await room.raw[0].send(message)
        await room.hear_raw(*(message for message, _ in RAW_SAYS))
        pushes = await room.hear_pushes(*(data for _, data in RAW_SAYS))
        assert all("info" not in push for push in pushes)
        offsets = [push.get("offset") for push in pushes]
        assert offsets == (list(range(1, len(RAW_SAYS) + 1)) if namespace else [None] * len(RAW_SAYS))


@CHANNELS
async def test_protocol_clients_are_heard_by_all(hub: HubProcess, namespace: str) -> None:
    """Protocol clients get the data as it was published; raw clients a JSON string as its text, all else as JSON."""
    async with both(hub, f"{namespace}from-client") as room:
        for number, (data, _) in enumerate(CLIENT_SAYS, 1000):
            command = {"id": number, "publish": {"channel": room.channel, "data": data}}
            await room.clients[0].send(json.dumps(command, separators=(",", ":"), ensure_ascii=False))
            assert (await room.clients[0].reply(number))["publish"] == {}
        await room.hear_raw(*(text for _, text in CLIENT_SAYS))
        pushes = await room.hear_pushes(*(data for data, _ in CLIENT_SAYS))
        assert len({push["info"]["client"] for push in pushes}) == 1


@CHANNELS
async def test_the_api_is_heard_by_all(hub: HubProcess, namespace: str) -> None:
    """What the server API publishes arrives like what a protocol client says; its `b64data` as bytes."""
    async with both(hub, f"{namespace}from-api") as room:
        for data, _ in CLIENT_SAYS:
            await asyncio.to_thread(api, hub, "publish", channel=room.channel, data=data)
        await room.hear_raw(*(text for _, text in CLIENT_SAYS))
        await room.hear_pushes(*(data for data, _ in CLIENT_SAYS))
        await asyncio.to_thread(api, hub, "publish", channel=room.channel, b64data="AP8=")
        await room.hear_raw(b"\x00\xff")
        await room.hear_pushes({"b64data": "AP8="})


@CHANNELS
async def test_everybody_hears_the_same_order(hub: HubProcess, namespace: str) -> None:
    """Raw and protocol clients who talk at once: one order for all of them."""
    async with both(hub, f"{namespace}order") as room:
        talking = [client.send(f"raw {turn}") for turn in range(20) for client in room.raw]
        talking += [
            client.command("publish", channel=room.channel, data=f"client {turn}")
            for turn in range(20)
            for client in room.clients
        ]
        await asyncio.gather(*talking)
        await room.clients[0].push(room.channel, "pub", 40 * EACH)
        order = [push["data"] for push in room.clients[0].pushes(room.channel, "pub")]
        await room.hear_raw(*order)
        await room.hear_pushes(*order)


async def test_raw_rooms_are_recorded(hub: HubProcess) -> None:
    """In a namespace with history, what raw clients say can be read and recovered, though none of them could."""
    async with websockets.connect(f"{hub.ws_url}/ws/chat:recorded") as raw, connected(hub.ws_url) as client:
        subscribed = await client.ask("subscribe", channel="chat:recorded")
        for message, _ in RAW_SAYS:
            await raw.send(message)
        await client.push("chat:recorded", "pub", len(RAW_SAYS))
        expected = [data for _, data in RAW_SAYS]
        history = await client.ask("history", channel="chat:recorded", limit=-1)
        assert [publication["data"] for publication in history["publications"]] == expected
        assert (await asyncio.to_thread(api, hub, "history", channel="chat:recorded", limit=-1))["offset"] == len(
            expected
        )
        async with connected(hub.ws_url) as late:
            since = {"recover": True, "offset": 3, "epoch": subscribed["epoch"]}
            recovered = await late.ask("subscribe", channel="chat:recorded", **since)
        assert recovered["recovered"]
        assert [publication["data"] for publication in recovered["publications"]] == expected[3:]


async def test_other_rooms_are_not_recorded(hub: HubProcess) -> None:
    """A room without a namespace, or of one that nobody configured, is gone when it was delivered."""
    for room in ("plain", "unknown:room"):
        async with websockets.connect(f"{hub.ws_url}/ws/{room}") as raw:
            await raw.send("hi")
            assert await raw.recv() == "hi"
    async with connected(hub.ws_url) as client:
        assert (await client.ask("subscribe", channel="unknown:room"))["error"]["code"] == 102
        assert await client.ask("subscribe", channel="plain") == {}
        assert (await client.ask("history", channel="plain", limit=-1))["error"]["code"] in (103, 108)


async def test_raw_clients_are_present_to_nobody(hub: HubProcess) -> None:
    """They have no identity: presence and joins are of protocol clients only, and raw clients hear of neither."""
    async with websockets.connect(f"{hub.ws_url}/ws/chat:who") as raw, connected(hub.ws_url) as client:
        await client.ask("subscribe", channel="chat:who")
        await client.push("chat:who", "join")
        assert (await client.ask("presence_stats", channel="chat:who")) == {"num_clients": 1, "num_users": 1}
        await raw.send("after the join")
        assert await raw.recv() == "after the join"


async def test_a_raw_client_without_echo(hub: HubProcess) -> None:
    """echo=0 leaves out its own messages, in a channel with positions too; the others get them with their offsets."""
    async with both(hub, "chat:echo") as room, websockets.connect(f"{hub.ws_url}/ws/chat:echo?echo=0") as quiet:
        await quiet.send("mine")
        await room.hear_raw("mine")
        await room.hear_pushes("mine")
        await room.raw[0].send("yours")
        assert await quiet.recv() == "yours"
