"""Our WebSocket class as a client meets it: raw bytes on a socket, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from fastapi import FastAPI

from hub import Hub, Settings
from hub.protocol.frames import close_frame, split, text_frame
from tests.protocol.test_frames import client_frame
from tests.support.uvicorn_server import serving

# Their transports differ in what they raise and when.
pytestmark = pytest.mark.both_loops

HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Raw:
    """A client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def read(self, count: int) -> bytes:
        async with asyncio.timeout(8):
            return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(8):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def handshake(self, path: bytes = b"/echo") -> bytes:
        self.writer.write(HANDSHAKE % path)
        async with asyncio.timeout(8):
            return await self.reader.readuntil(b"\r\n\r\n")


def small_socket(port: int) -> socket.socket:
    """A connection for which the client's kernel keeps next to nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


@contextlib.asynccontextmanager
async def raw(port: int | None = None, **options: Any) -> AsyncIterator[Raw]:
    address = {} if port is None else {"host": "127.0.0.1", "port": port}
    reader, writer = await asyncio.open_connection(**address, **options)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def hub_on_uvicorn(**settings: Any) -> AsyncIterator[tuple[Hub, int, Any]]:
    """(hub, port, server) of a hub in memory."""
    hub = Hub(Settings.load(**{"drain": 0, "handshake_timeout": 1, **settings}))
    app = FastAPI()
    app.include_router(hub.router)
    async with serving(app) as (port, server):
        yield hub, port, server


async def test_good_messages_before_a_broken_frame_are_answered() -> None:
    """A protocol error does not overtake: the echo comes first, then 1002, then the end."""
    async with hub_on_uvicorn() as (_, port, _), raw(port) as client:
        await client.handshake()
        client.writer.write(client_frame(1, b"good") + client_frame(3, b"bad"))
        assert await client.rest() == text_frame(b"good") + close_frame(1002, "protocol error")


async def test_each_fault_has_its_code() -> None:
    """The client gets the close frame even though it goes on sending."""
    attacks = {
        client_frame(1, b"\xff"): 1007,
        client_frame(2, b"x" * 70000)[:2000]: 1009,
        client_frame(8, b"x"): 1002,
        client_frame(1, b"x", masked=False): 1002,
    }
    async with hub_on_uvicorn() as (_, port, _):
        for attack, code in attacks.items():
            async with raw(port) as client:
                await client.handshake()
                client.writer.write(attack + b"\0" * 500_000)
                answer = await client.rest()
                assert answer[:1] == b"\x88"
                assert int.from_bytes(answer[2:4], "big") == code


async def test_a_frame_in_the_segment_of_the_handshake_is_not_lost() -> None:
    """uvicorn's own classes drop it."""
    async with hub_on_uvicorn() as (_, port, _), raw(port) as client:
        client.writer.write(HANDSHAKE % b"/echo" + client_frame(1, b"early"))
        async with asyncio.timeout(5):
            await client.reader.readuntil(b"\r\n\r\n")
        assert await client.read(7) == text_frame(b"early")


async def test_close_handshake_and_ping() -> None:
    """A ping is answered with its payload, a close with its code, and the server ends the connection."""
    async with hub_on_uvicorn() as (_, port, _), raw(port) as client:
        await client.handshake()
        client.writer.write(
            client_frame(9, b"payload") + client_frame(10, b"unasked") + client_frame(8, b"\x0f\xa0bye")
        )
        assert await client.rest() == b"\x8a\x07payload" + close_frame(4000)


async def test_a_vanished_client_is_forgotten() -> None:
    """A reset connection leaves nothing in any table."""
    async with hub_on_uvicorn() as (hub, port, server):
        async with raw(port) as client:
            await client.handshake(b"/ws/room")
            assert list(hub.registry.channels) == ["room"]
            sock: socket.socket = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.transport.abort()
        async with asyncio.timeout(5):
            while server.server_state.connections or hub.registry.channels:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert hub._admission.connections == 0


async def test_no_task_per_idle_connection() -> None:
    """After the handshake nothing runs for a connection."""
    async with hub_on_uvicorn() as (_, port, _), contextlib.AsyncExitStack() as stack:
        before = len(asyncio.all_tasks())
        clients = [await stack.enter_async_context(raw(port)) for _ in range(20)]
        for client in clients:
            await client.handshake(b"/ws/room")
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == before


async def test_a_client_that_does_not_read_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """It costs its budget and no more, the others hear everything, and the log says so."""
    options = {"slow_timeout": 1, "slow_budget": 200_000, "max_message_size": 60_000}
    async with hub_on_uvicorn(**options) as (hub, port, server), raw(port, limit=2**24) as good:
        await good.handshake(b"/ws/room")
        with small_socket(port) as stalled:
            await asyncio.get_running_loop().sock_sendall(stalled, HANDSHAKE % b"/ws/room")
            await until(lambda: len(hub.registry.channels["room"]) == 2)
            for _ in range(40):
                await hub.publish("room", b"x" * 50_000)
                await good.read(50_004)
            await until(lambda: len(hub.registry.channels["room"]) == 1)
            await until(lambda: len(server.server_state.connections) == 1, seconds=8)
    assert "clients disconnected because they read too slowly" in caplog.text


async def until(condition: Any, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("policy", ["drop_oldest", "keep_latest"])
async def test_dropping_policies_keep_the_connection(policy: str) -> None:
    """A client that pauses gets the newest when it reads again, in whole frames, and stays."""
    options = {"slow_budget": 200_000, "max_message_size": 60_000, "slow_policy": policy}
    async with hub_on_uvicorn(**options) as (hub, port, _), raw(limit=1024, sock=small_socket(port)) as client:
        await client.handshake(b"/ws/room")
        for number in range(200):
            await hub.publish("room", number.to_bytes(2, "big") * 25_000)
            await asyncio.sleep(0)
        numbers = []
        while not numbers or numbers[-1] != 199:
            head = await client.read(4)
            assert head == b"\x82\x7e\xc3\x50"
            payload = await client.read(50_000)
            assert payload == payload[:2] * 25_000
            numbers.append(int.from_bytes(payload[:2], "big"))
        assert numbers == sorted(numbers)
        assert len(numbers) < 200


@pytest.mark.parametrize("policy", ["drop_oldest", "keep_latest"])
async def test_dropping_policies_are_for_raw_clients(policy: str) -> None:
    """A protocol client relies on replies and on its position: it is disconnected, and has missed nothing before."""
    options = {"slow_budget": 200_000, "max_message_size": 60_000, "slow_policy": policy}
    async with hub_on_uvicorn(**options) as (hub, port, _), raw(limit=1024, sock=small_socket(port)) as client:
        await client.handshake(b"/connection/websocket")
        client.writer.write(client_frame(1, b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"chat:a"}}'))
        await until(lambda: hub.registry.subscriptions)
        for number in range(200):
            await hub.publish("chat:a", f"{number:03}" * 16_000)
            await asyncio.sleep(0)
        frames = list(split(await client.rest()))
        offsets = [json.loads(text)["push"]["pub"]["offset"] for _, text in frames if b'"pub"' in text]
        assert 0 < len(offsets) < 200
        assert offsets == list(range(1, len(offsets) + 1))
        assert int.from_bytes(frames[-1][1][:2], "big") == 3008


async def test_shutdown_closes_with_1012_and_ends() -> None:
    """uvicorn's shutdown: clients are told to come back, a stalled one does not hold it up."""
    async with hub_on_uvicorn(drain=1) as (_, port, server):
        clients = [await websockets.connect(f"ws://127.0.0.1:{port}/ws/room") for _ in range(5)]
        async with raw(port) as deaf:
            await deaf.handshake(b"/ws/room")
            server.should_exit = True
            for client in clients:
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await asyncio.wait_for(client.recv(), 5)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1012
            assert await deaf.rest() == close_frame(1012, "service restart")


async def test_a_fragment_flood_lets_others_through() -> None:
    """While one client sends 200,000 one-byte fragments, another's echo is not held up."""
    async with hub_on_uvicorn(max_message_size=2**20) as (_, port, _), raw(port) as bad, raw(port) as good:
        await bad.handshake()
        await good.handshake()
        bad.writer.write(client_frame(2, b"", fin=False))
        bad.writer.write(client_frame(0, b"x", fin=False) * 200_000)
        waits = []
        for _ in range(20):
            start = time.thread_time()
            good.writer.write(client_frame(1, b"hello"))
            await good.read(7)
            waits.append(time.thread_time() - start)
        # Server, attacker and victim share this thread: what the victim waits for is its processor time.
        assert max(waits) < 0.25
        bad.writer.write(client_frame(0, b"end"))
        echoed = await bad.read(10 + 200_003)
        assert echoed[10:] == b"x" * 200_000 + b"end"


async def test_a_mounted_hub_brings_its_limits() -> None:
    """Its lifespan is not run, so its options come with its first connection."""
    hub = Hub(Settings.load(max_message_size=1000, drain=0))
    app, inner = FastAPI(), FastAPI()
    inner.include_router(hub.router)
    app.mount("/rt", inner)
    async with serving(app) as (port, _), raw(port) as client:
        await client.handshake(b"/rt/ws/room")
        client.writer.write(client_frame(1, b"x" * 1001))
        assert await client.rest() == close_frame(1009, "message too big")
    await hub.stop()
