"""A WebSocket client that costs little, for hundreds of clients in one process: callbacks, no checks but framing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

__all__ = ["HandshakeRefused", "LeanSocket"]

_REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_MASK = b"\0\0\0\0"  # leaves the payload as it is


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, 0x80 | size)) + _MASK + payload
    return bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big") + _MASK + payload


class HandshakeRefused(ConnectionError):
    """The server answered with another status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the handshake was answered with {status}")
        self.status = status


class LeanSocket(asyncio.Protocol):
    """`on_message` gets every message; `ended` is done with the close code and reason, 1006 if none came."""

    def __init__(self, on_message: Callable[[bytes], None], port: int, path: str) -> None:
        self._on_message = on_message
        self._request = _REQUEST.format(path=path, port=port).encode()
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        # Whoever opens it may have given up meanwhile.
        self.opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        self.ended: asyncio.Future[tuple[int, str]] = loop.create_future()
        # Bytes of the frame that is not complete yet.
        self._buffer = b""
        self._close = (1006, "")
        self._transport: asyncio.Transport

    @classmethod
    async def open(cls, port: int, path: str, on_message: Callable[[bytes], None]) -> LeanSocket:
        """Raises OSError if the handshake fails; the caller brings the deadline."""
        loop = asyncio.get_running_loop()
        _, socket = await loop.create_connection(lambda: cls(on_message, port, path), "127.0.0.1", port)
        try:
            await socket.opened
        except BaseException:
            socket.abort()
            raise
        return socket

    def send(self, payload: bytes) -> None:
        """One text frame of less than 64 KiB."""
        self._transport.write(_frame(_TEXT, payload))

    def close(self) -> None:
        """Say goodbye; the server's answer is the end."""
        if not self._transport.is_closing():
            self._transport.write(_frame(_CLOSE, (1000).to_bytes(2, "big")))

    def freeze(self, seconds: float) -> None:
        """Take nothing for a while, then vanish."""
        if not self._transport.is_closing() and self._transport.is_reading():
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(seconds, self.abort)

    def abort(self) -> None:
        """Vanish."""
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by name
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self.opened.done() and not self._answered():
            return
        self._buffer = self._buffer[self._read_frames() :]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("closed during the handshake"))
        self.ended.set_result(self._close)

    def _answered(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        self._buffer = rest
        if head.startswith(b"HTTP/1.1 101 "):
            self.opened.set_result(None)
            return True
        status = head[9:12]
        self.opened.set_exception(HandshakeRefused(int(status) if status.isdigit() else 0))
        self._transport.abort()
        return False

    def _read_frames(self) -> int:
        """Hand on all complete frames; how many bytes they had."""
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 2:
            size, start = buffer[at + 1], at + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                if len(buffer) < start:
                    break
                size = int.from_bytes(buffer[at + 2 : start], "big")
            if len(buffer) < start + size:
                break
            self._take(buffer[at], buffer[start : start + size])
            at = start + size
        return at

    def _take(self, first: int, payload: bytes) -> None:
        opcode = first & 15
        if opcode in (_TEXT, _BINARY) and first & 0x80:
            self._on_message(payload)
        elif opcode == _PING:
            self._transport.write(_frame(_PONG, payload))
        elif opcode == _CLOSE:
            code = int.from_bytes(payload[:2], "big") if payload else 1005
            self._close = (code, payload[2:].decode())
            self._transport.write(_frame(_CLOSE, payload[:2]))
            self._transport.close()
        elif opcode != _PONG:
            self._close = (1002, f"a frame that begins with {first:#x} was not expected")
            self._transport.abort()
