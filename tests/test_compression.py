"""Connections that have agreed on permessage-deflate, and others beside them."""

# ruff: noqa: F811 - a fixture that is imported is named again where a test asks for it

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import websockets
from playwright.async_api import Browser
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from hub.protocol import deflate
from hub.protocol.backlog import Lossy
from hub.protocol.frames import binary_frame, close_frame, split, text_frame
from hub.wire import HubProtocol
from tests.protocol.test_deflate import RSV1, bomb, compress, inflate
from tests.protocol.test_frames import client_frame
from tests.support.browser import browser  # noqa: F401
from tests.support.clock import in_virtual_time
from tests.support.processes import children
from tests.support.server import hub_serve
from tests.support.sockets import HANDSHAKE, upgraded
from tests.support.transport import FakeTransport, Recorder, Worker
from tests.test_wire import Raw, hub_on_uvicorn, raw

pytestmark = pytest.mark.timed

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
PROSE = "It was the best of times, it was the worst of times. " * 40


def offering(path: bytes, offer: bytes = OFFER) -> bytes:
    return (HANDSHAKE % path)[:-2] + offer + b"\r\n"


async def agreed(client: Raw, path: bytes, offer: bytes = OFFER) -> bytes:
    """Make the handshake with an offer; the answer."""
    client.writer.write(offering(path, offer))
    async with asyncio.timeout(8):
        return await client.reader.readuntil(b"\r\n\r\n")


async def frame(client: Raw) -> bytes:
    """The next whole frame, of up to 64 KiB."""
    head = await client.read(2)
    if head[1] == 126:
        head += await client.read(2)
    return head + await client.read(int.from_bytes(head[2:], "big") if head[2:] else head[1])


async def connected(worker: Worker) -> tuple[HubProtocol, FakeTransport]:
    """A connection after a handshake with an offer."""
    protocol, transport = worker.connect()
    transport.feed(offering(b"/"))
    while not transport.sent:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert b"permessage-deflate" in transport.sent
    transport.sent = b""
    return protocol, transport


async def test_off_by_default() -> None:
    """Who offers gets no answer to it, and a compressed frame is an error."""
    async with hub_on_uvicorn() as (_, port, _), raw(port) as client:
        assert b"Extensions" not in await agreed(client, b"/echo")
        client.writer.write(client_frame(1, compress(b"x"), rsv=RSV1))
        assert await client.rest() == close_frame(1002, "protocol error")


async def test_an_echo() -> None:
    """Both directions are compressed, small messages are not, and both kinds may follow each other."""
    async with hub_on_uvicorn(compression=True) as (_, port, _), raw(port) as client:
        answer = await agreed(client, b"/echo")
        assert b"permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n" in answer
        for message in (PROSE, "short", PROSE):
            client.writer.write(client_frame(1, compress(message.encode()), rsv=RSV1))
            client.writer.write(client_frame(1, message.encode()))
            for _ in range(2):
                echo = await frame(client)
                assert inflate(echo) == message.encode()
                assert echo[0] == (0xC1 if message is PROSE else 0x81)


async def test_early_frames() -> None:
    """A compressed frame in the segment of the handshake is read."""
    async with hub_on_uvicorn(compression=True) as (_, port, _), raw(port) as client:
        client.writer.write(offering(b"/echo") + client_frame(1, compress(b"early"), rsv=RSV1))
        async with asyncio.timeout(8):
            await client.reader.readuntil(b"\r\n\r\n")
        assert await frame(client) == text_frame(b"early")


async def test_a_room_compresses_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all with the same window, whether or not there are others; and everybody hears the same."""
    compressed: list[bytes] = []
    compress = deflate._Compressor.compress

    def noting(self: Any, payload: memoryview) -> bytes:
        compressed.append(bytes(payload))
        return compress(self, payload)

    monkeypatch.setattr(deflate._Compressor, "compress", noting)
    small_window = [ClientPerMessageDeflateFactory(server_max_window_bits=10, client_max_window_bits=True)]
    async with hub_on_uvicorn(compression=True) as (hub, port, _):
        uri = f"ws://127.0.0.1:{port}/ws/room"
        kinds: list[dict[str, Any]] = [{}, {"compression": None}, {"compression": None, "extensions": small_window}]
        clients = [await websockets.connect(uri, **kind) for kind in kinds * 3]
        await hub.publish("room", PROSE)
        await hub.publish("room", "short")
        for client in clients:
            assert [await client.recv(), await client.recv()] == [PROSE, "short"]
        assert compressed == [PROSE.encode()] * 2
        assert [type(form).__name__ for form in hub.registry.channels["room"].groups] == [
            "_DeflatedForm",
            "RawForm",
            "_DeflatedForm",
        ]
        for client in clients:
            await client.close()


async def test_own_messages_left_out() -> None:
    """`echo=0` holds for compressed messages too."""
    async with hub_on_uvicorn(compression=True) as (_, port, _):
        async with (
            websockets.connect(f"ws://127.0.0.1:{port}/ws/room?echo=0") as mute,
            websockets.connect(f"ws://127.0.0.1:{port}/ws/room") as other,
        ):
            await mute.send(PROSE)
            await other.send(PROSE[::-1])
            assert [await other.recv(), await other.recv()] == [PROSE, PROSE[::-1]]
            assert await mute.recv() == PROSE[::-1]


async def test_the_protocol_endpoint() -> None:
    """Pushes and long replies are compressed, and say what they say without."""
    options = {
        "compression": True,
        "client_insecure": True,
        "without_namespace": {"history_size": 9, "history_ttl": 60},
    }
    async with hub_on_uvicorn(**options) as (hub, port, _), raw(port) as client:
        await agreed(client, b"/connection/websocket")

        async def ask(command: dict[str, Any]) -> dict[str, Any]:
            client.writer.write(client_frame(1, compress(json.dumps(command).encode()), rsv=RSV1))
            answer = await frame(client)
            compressed.append(answer[0] == 0xC1)
            return json.loads(inflate(answer))

        compressed: list[bool] = []
        assert "connect" in await ask({"id": 1, "connect": {}})
        assert "subscribe" in await ask({"id": 2, "subscribe": {"channel": "news"}})
        await hub.publish("news", {"text": PROSE})
        push = await frame(client)
        assert push[0] == 0xC1
        assert json.loads(inflate(push))["push"]["pub"]["data"] == {"text": PROSE}
        answer = await ask({"id": 3, "history": {"channel": "news", "limit": 5}})
        assert answer["history"]["publications"][0]["data"] == {"text": PROSE}
        assert compressed == [False, False, True]


@in_virtual_time
async def test_any_application() -> None:
    """What an ASGI application sends by itself is compressed too."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": (await receive())["text"]})
        await send({"type": "websocket.send", "bytes": b"short"})

    _, transport = await connected(Worker(app, compression=True))
    transport.feed(client_frame(1, compress(PROSE.encode()), rsv=RSV1))
    while b"short" not in transport.sent:  # noqa: ASYNC110
        await asyncio.sleep(0)
    long = transport.sent[: transport.sent.index(binary_frame(b"short"))]
    assert inflate(long) == PROSE.encode()
    assert len(long) < len(PROSE) / 10


@in_virtual_time
async def test_a_slow_client_drops_whole_frames() -> None:
    """What waits for a client that does not read is compressed already, and is dropped frame by frame."""
    worker = Worker(Recorder(), compression=True, slow_budget=3000)
    protocol, transport = await connected(worker)
    transport.stalled = True
    protocol.write(binary_frame(b"x" * 70_000))
    assert protocol.congested
    packed = [deflate.pack(text_frame(str(number).encode() * 1500), protocol.compression) for number in range(300)]
    for each in packed:
        protocol.offer(each, Lossy("a", "drop_oldest"))
    transport.stalled = False
    transport.take()
    [first, *rest] = split(transport.sent)
    assert first == (2, b"x" * 70_000)
    kept = len(rest)
    assert 1 < kept < 300
    assert transport.sent.endswith(b"".join(packed[-kept:]))


# Attacks


async def test_a_bomb_is_refused() -> None:
    """The close comes while it is still arriving, and says why."""
    async with hub_on_uvicorn(compression=True) as (_, port, _), raw(port) as client:
        await agreed(client, b"/echo")
        body = bomb(2**26)
        client.writer.write(client_frame(2, body[:30_000], fin=False, rsv=RSV1))
        client.writer.write(client_frame(0, body[30_000:]))
        assert await client.rest() == close_frame(1009, "message too big")


async def test_garbage_is_refused() -> None:
    """With a reason of its own."""
    async with hub_on_uvicorn(compression=True) as (_, port, _), raw(port) as client:
        await agreed(client, b"/echo")
        client.writer.write(client_frame(1, b"no deflate stream", rsv=RSV1))
        assert await client.rest() == close_frame(1007, "compressed message is malformed")


def memory(pid: int, name: str) -> int:
    """`VmRSS` or its maximum, `VmHWM`, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_bomb_costs_no_more_than_twice_the_limit() -> None:
    """1 GiB in 1 MiB: refused within a moment, while the worker's memory grows by no more than two such messages."""
    limit, body = 2**24, bomb(2**30)
    arguments = {"HUB_COMPRESSION": "true", "HUB_MAX_MESSAGE_SIZE": str(limit), "HUB_SLOW_BUDGET": str(limit)}
    with hub_serve(env=arguments) as hub, upgraded(hub.port, "/echo", headers=OFFER) as client:
        [worker] = children(hub.pid, "hub.worker")
        before = memory(worker, "VmRSS")
        client.sendall(client_frame(2, body[:100_000], fin=False, rsv=RSV1))
        start = time.monotonic()
        answer = client.recv(1000)
        assert answer == close_frame(1009, "message too big")
        assert time.monotonic() - start < 5
        assert memory(worker, "VmHWM") - before < 2 * limit


# Browsers


@pytest.mark.browser
async def test_a_browser(browser: Browser) -> None:
    """Chromium offers compression always: a room and a channel are heard, and what it says arrives."""
    script = """async ([url, text]) => {
        const socket = new WebSocket(url), heard = [];
        await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onclose = reject; });
        socket.onmessage = ({data}) => heard.push(data);
        for (const each of text) {
            const before = heard.length;
            socket.send(each);
            while (heard.length === before) await new Promise((resolve) => setTimeout(resolve, 5));
        }
        socket.close();
        return [socket.extensions, heard];
    }"""
    with hub_serve(env={"HUB_COMPRESSION": "true", "HUB_CLIENT_INSECURE": "true"}) as hub:
        page = await browser.new_page()
        await page.goto(hub.url)
        extensions, heard = await page.evaluate(script, [f"{hub.ws_url}/ws/room", [PROSE, "short", PROSE * 20]])
        assert extensions == "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        assert heard == [PROSE, "short", PROSE * 20]
        commands = [
            {"id": 1, "connect": {"data": PROSE}},
            {"id": 2, "subscribe": {"channel": "x"}},
            {"id": 3, "publish": {"channel": "x", "data": PROSE}},
        ]
        _, heard = await page.evaluate(script, [f"{hub.ws_url}/connection/websocket", [*map(json.dumps, commands)]])
        said = [json.loads(line) for each in heard for line in each.splitlines()]
        assert [each["id"] for each in said if "id" in each] in ([1, 2], [1, 2, 3])
        assert PROSE in [each["push"]["pub"]["data"] for each in said if "push" in each]
