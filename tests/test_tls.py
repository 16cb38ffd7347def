"""TLS in uvicorn itself: its transports differ from sockets in how they flush, pause and end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from fastapi import FastAPI

from hub import Hub, Settings
from hub.protocol.frames import close_frame, text_frame
from tests.protocol.test_frames import client_frame
from tests.support.certificate import self_signed, trusting
from tests.support.sockets import HANDSHAKE
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.both_loops


class Server:
    """A running hub; `context` is for its clients."""

    def __init__(self, hub: Hub, port: int, uvicorn: Any, context: ssl.SSLContext) -> None:
        self.hub, self.port, self.uvicorn, self.context = hub, port, uvicorn, context

    @property
    def connections(self) -> int:
        return len(self.uvicorn.server_state.connections)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Made once."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def server(certificate: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> AsyncIterator[Server]:
    """A hub behind TLS, which logs no fault whatever its clients do."""
    chain, key = certificate
    hub = Hub(Settings(drain=0, slow_timeout=1, slow_budget=200_000, max_message_size=100_000))
    app = FastAPI()
    app.include_router(hub.router)
    async with serving(app, ssl_certfile=chain, ssl_keyfile=key) as (port, uvicorn):
        yield Server(hub, port, uvicorn, trusting(chain))
    assert "Traceback" not in caplog.text


async def test_conversation(server: Server) -> None:
    """Rooms, echo and both ends of a close, and 1012 when the server stops."""
    url = f"wss://127.0.0.1:{server.port}"
    async with websockets.connect(f"{url}/ws/room", ssl=server.context) as stays:
        async with websockets.connect(f"{url}/echo", ssl=server.context) as client:
            for message in ("grüße", b"\x00" * 100_000):
                await client.send(message)
                assert await client.recv() == message
        await server.hub.publish("room", "hello")
        assert await stays.recv() == "hello"
        server.uvicorn.should_exit = True
        with pytest.raises(websockets.ConnectionClosed, match="1012"):
            await stays.recv()


async def test_a_broken_frame(server: Server) -> None:
    """TLS has no half-closed connections: the close frame comes all the same, and then the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=server.context)
    writer.write(HANDSHAKE % b"/echo" + client_frame(1, b"good") + client_frame(3, b"") + b"\0" * 500_000)
    await reader.readuntil(b"\r\n\r\n")
    expected = text_frame(b"good") + close_frame(1002, "protocol error")
    assert await reader.readexactly(len(expected)) == expected
    writer.close()
    await eventually(lambda: server.connections == 0)
    writer.transport.abort()


async def test_a_client_that_does_not_read(server: Server) -> None:
    """It is dropped in time; that of TLS, which would wait for its farewell, does not hold it up."""
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", server.port))
        wrapped = await asyncio.to_thread(server.context.wrap_socket, plain, server_hostname="127.0.0.1")
        with wrapped:
            wrapped.sendall(HANDSHAKE % b"/ws/room")
            await eventually(lambda: "room" in server.hub.registry.channels)
            while "room" in server.hub.registry.channels:
                await server.hub.publish("room", b"x" * 50_000)
                await asyncio.sleep(0)
            await eventually(lambda: server.connections == 0, timeout=2.5)


async def test_clients_that_vanish(server: Server) -> None:
    """Resets during the TLS handshake, the request, and a message leave nothing behind."""
    for data in (b"", b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\n\r\n"):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(data)
        await asyncio.sleep(0.02)
        writer.transport.abort()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=server.context)
    writer.write(HANDSHAKE % b"/ws/room")
    await reader.readuntil(b"\r\n\r\n")
    writer.write(client_frame(1, b"half")[:-2])
    await asyncio.sleep(0.02)
    writer.transport.abort()
    await eventually(lambda: server.connections == 0 and not server.hub.registry.channels)
