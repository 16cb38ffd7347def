"""A connection without a network: our protocol class on a transport that does what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from hub.config import WireOptions
from hub.wire import HubProtocol
from hub.wire_server import OPTIONS_STATE
from tests.support.sockets import HANDSHAKE

App = Callable[..., Awaitable[None]]


class FakeTransport(asyncio.Transport):
    """Keeps order and state like a socket's, and refuses late writes, as uvloop's does."""

    def __init__(self, protocol: HubProtocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._marks = (65536, 16384)
        self._paused = self._closing = self._ended = self._told = False
        # What the client has got; what waits because it does not read.
        self.sent = b""
        self.buffer = b""
        # The client takes nothing.
        self.stalled = False
        self.reading = True
        self.eof = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._marks = (high or 0, low or 0)
        self._pause()

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def write(self, data: Any) -> None:
        if self.eof or self._told:
            raise RuntimeError("write after the end")
        if not self._ended:
            self.buffer += data
            self._flow()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        """As a socket: what waits is sent first."""
        if not self._closing:
            self._closing = True
            self.take(0 if self.stalled else None)

    def abort(self) -> None:
        self._closing, self.buffer = True, b""
        self._lose(None)

    @property
    def lost(self) -> bool:
        """Whether the protocol was told of the end, or is about to be."""
        return self._ended

    # What the client does

    def take(self, count: int | None = None) -> None:
        """Read what waits, or a part of it."""
        count = len(self.buffer) if count is None else count
        self.sent, self.buffer = self.sent + self.buffer[:count], self.buffer[count:]
        if self._paused and len(self.buffer) <= self._marks[1]:
            self._paused = False
            self._protocol.resume_writing()
        if self._closing and not self.buffer:
            self._lose(None)

    def feed(self, data: bytes) -> None:
        """Bytes from the client."""
        assert self.reading, "the server does not read"
        assert not self._closing, "the connection is closed"
        self._protocol.data_received(data)

    def hang_up(self) -> None:
        """The client closes its direction."""
        self._protocol.eof_received()
        self.close()

    def reset(self) -> None:
        """The client's host ends the connection."""
        self._closing = True
        self._lose(ConnectionResetError())

    def _flow(self) -> None:
        if not self.stalled:
            self.take()
        else:
            self._pause()

    def _pause(self) -> None:
        if len(self.buffer) > self._marks[0] and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _lose(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self._loop.call_soon(self._tell, error)

    def _tell(self, error: Exception | None) -> None:
        self._told = True
        self._protocol.connection_lost(error)


async def until_lost(transport: FakeTransport) -> float:
    """Wait for the end of the connection; how long that took."""
    start = asyncio.get_running_loop().time()
    while not transport.lost:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    return asyncio.get_running_loop().time() - start


class Worker:
    """What uvicorn keeps for its connections."""

    def __init__(self, app: App, **options: Any) -> None:
        self.config = Config(app, ws=HubProtocol, log_config=None, server_header=False)
        self.config.load()
        self.state = ServerState()
        self.app_state = {OPTIONS_STATE: WireOptions(**options)}

    def connect(self) -> tuple[HubProtocol, FakeTransport]:
        """A connection before its handshake."""
        protocol = HubProtocol(self.config, self.state, self.app_state)
        transport = FakeTransport(protocol)
        protocol.connection_made(transport)
        return protocol, transport

    async def upgraded(self) -> tuple[HubProtocol, FakeTransport]:
        """A connection after its handshake, of which nothing is left in `sent`."""
        protocol, transport = self.connect()
        transport.feed(HANDSHAKE % b"/")
        while not transport.sent:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert transport.sent.startswith(b"HTTP/1.1 101")
        await asyncio.sleep(0)
        transport.sent = b""
        return protocol, transport


class Recorder:
    """A handler that notes what it is told; also the application that makes it one."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bool]] = []
        self.closed: list[tuple[int, str]] = []
        self.wire: Any = None

    def on_message(self, payload: bytes, text: bool) -> None:
        self.messages.append((payload, text))

    def on_close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.wire = scope["extensions"]["hub.wire"]["wire"]
        await receive()
        await send({"type": "websocket.accept"})
        await self.wire.serve(self)
