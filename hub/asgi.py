"""The server's half of one ASGI WebSocket conversation, for any application, until it ends or is handed over.

ASGI WebSocket specification 2.4: https://asgi.readthedocs.io/en/latest/specs/www.html#websocket
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from websockets.datastructures import Headers
from websockets.http11 import Response

from .errors import Disconnect, Disconnects
from .protocol import frames
from .protocol.deflate import pack

if TYPE_CHECKING:
    from .wire import HubProtocol

__all__ = ["AsgiSession", "ClientDisconnected"]

log: logging.Logger = logging.getLogger("hub.wire")

# Messages that wait for the application before reading pauses.
QUEUE_LIMIT = 32

# What the application may send, by state; in "closed" nothing.
#
#     connecting ──accept──▶ open ──close, or the client's end──▶ closed
#     connecting ──http.response.start──▶ responding ──the last body──▶ closed
EXPECTED: dict[str, tuple[str, ...]] = {
    "connecting": ("websocket.accept", "websocket.close", "websocket.http.response.start"),
    "responding": ("websocket.http.response.body",),
    "open": ("websocket.send", "websocket.close"),
}

Event = dict[str, Any]


class ClientDisconnected(OSError):
    """The application sends to a client that has gone; the specification wants a subclass of OSError."""


class AsgiSession:
    """One conversation; its states are those of `EXPECTED`."""

    def __init__(self, wire: HubProtocol, scope: Event, response: Response) -> None:
        self.scope = scope
        self._wire = wire
        # The 101 that `accept` completes.
        self._response = response
        self._state = "connecting"
        # Of a denial response: status, headers, body so far.
        self._denial: tuple[int, Headers, bytearray] | None = None
        self._queue: deque[Event] = deque([{"type": "websocket.connect"}])
        # What `receive` and `send` wait for. Events, because several tasks of an application may wait.
        self._arrived = asyncio.Event()
        self._drained = asyncio.Event()

    async def run(self, app: Callable[..., Awaitable[Any]]) -> None:
        """Run the application to its end; what it left open is closed."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:
            # It may be of another connection, to which the application sent.
            if not isinstance(error, ClientDisconnected) or self._state != "closed":
                log.exception("exception in the ASGI application")
            self._end(Disconnects.INTERNAL)
        else:
            if self._state == "connecting":
                log.error("the ASGI application returned without accepting or closing a WebSocket")
            self._end(Disconnects.NORMAL)

    def _end(self, disconnect: Disconnect) -> None:
        if self._wire.session is not self:
            return  # over, or handed over
        if self._state == "open":
            self._wire.close(disconnect)
        elif self._state != "closed":
            self._refuse(500, Headers(), b"Internal Server Error")

    # Called by the connection

    def on_message(self, payload: bytes, text: bool) -> None:
        event: Event = {"type": "websocket.receive"}
        event["text" if text else "bytes"] = payload.decode() if text else payload
        self._push(event)
        if len(self._queue) >= QUEUE_LIMIT:
            self._wire.pause_reading()

    def on_close(self, code: int, reason: str) -> None:
        """The connection has ended, or is about to."""
        self._state = "closed"
        self._push({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.on_drained()

    def on_drained(self) -> None:
        self._drained.set()

    def unread(self) -> Iterator[tuple[bytes, bool]]:
        """The messages that the application has not received, as (payload, whether it is text)."""
        for event in self._queue:
            if event["type"] == "websocket.receive":
                text = event.get("text")
                yield (event["bytes"], False) if text is None else (text.encode(), True)

    def _push(self, event: Event) -> None:
        self._queue.append(event)
        self._arrived.set()

    # Called by the application

    async def receive(self) -> Event:
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        if len(self._queue) == 1 and self._state == "closed":
            return self._queue[0]  # the disconnect, as often as it is asked for
        event = self._queue.popleft()
        if len(self._queue) == QUEUE_LIMIT // 2:
            self._wire.resume_reading()
        return event

    async def send(self, message: Event) -> None:
        kind = message["type"]
        if self._state == "closed":
            raise ClientDisconnected("the WebSocket is closed")
        if kind not in EXPECTED[self._state]:
            raise RuntimeError(f"expected {' or '.join(map(repr, EXPECTED[self._state]))}, but got {kind!r}")
        if kind == "websocket.send":
            await self._send_data(message)
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._close(message)
        elif kind == "websocket.http.response.start":
            self._denial = (message["status"], _add_headers(Headers(), message), bytearray())
            self._state = "responding"
        else:
            self._continue_denial(message)

    async def _send_data(self, message: Event) -> None:
        data = message.get("bytes")
        frame = frames.text_frame(message["text"].encode()) if data is None else frames.binary_frame(data)
        self._wire.write(pack(frame, self._wire.compression))
        while self._wire.congested and self._state == "open":
            self._drained.clear()
            await self._drained.wait()

    def _accept(self, message: Event) -> None:
        _add_headers(self._response.headers, message)
        if subprotocol := message.get("subprotocol"):
            self._response.headers["Sec-WebSocket-Protocol"] = subprotocol
        self._state = "open"
        self._wire.open(self._response.serialize())

    def _close(self, message: Event) -> None:
        if self._state == "connecting":
            self._refuse(403, Headers(), b"")
            return
        code = message.get("code", 1000)
        if not frames.may_be_sent(code):
            raise ValueError(f"a close frame cannot have the code {code}")
        self._wire.close(Disconnect(code=code, reason=message.get("reason") or ""))

    def _continue_denial(self, message: Event) -> None:
        assert self._denial is not None
        status, headers, body = self._denial
        body += message.get("body", b"")
        if not message.get("more_body", False):
            self._refuse(status, headers, bytes(body))

    def _refuse(self, status: int, headers: Headers, body: bytes) -> None:
        self._wire.refuse(status, headers, body)
        self.on_close(1006, "")


def _add_headers(headers: Headers, message: Event) -> Headers:
    for name, value in message.get("headers", ()):
        headers[name.decode("latin-1")] = value.decode("latin-1")
    return headers
