"""The server's half of one ASGI WebSocket conversation, for any application, until it ends or is handed over.

ASGI WebSocket specification 2.4: https://asgi.readthedocs.io/en/latest/specs/www.html#websocket
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from websockets.datastructures import Headers
from websockets.http11 import Response

from .errors import Disconnect, Disconnects
from .protocol import frames

if TYPE_CHECKING:
    from .wire import HubProtocol

__all__ = ["AsgiSession", "ClientDisconnected"]

log = logging.getLogger("hub.wire")

# Messages that wait for the application before reading pauses.
QUEUE_LIMIT = 32

Event = dict[str, Any]


class ClientDisconnected(OSError):
    """The application sends to a client that has gone; the specification wants a subclass of OSError."""


class AsgiSession:
    """States: connecting ─accept▶ open ─close or loss▶ closed; connecting ─http.response▶ responding ▶ closed."""

    def __init__(self, wire: HubProtocol, scope: Event, response: Response) -> None:
        self.scope = scope
        self._wire = wire
        # The 101 that `accept` completes.
        self._response = response
        self._state = "connecting"
        # Of a denial response: status, headers, body so far.
        self._denial: tuple[int, Headers, bytearray] | None = None
        self._queue: deque[Event] = deque([{"type": "websocket.connect"}])
        # What `receive` and `send` wait for; None while nobody does.
        self._receiver: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    async def run(self, app: Callable[..., Awaitable[Any]]) -> None:
        """Run the application to its end; what it left open is closed."""
        try:
            await app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception:
            log.exception("exception in the ASGI application")
            self._end(Disconnects.INTERNAL)
        else:
            if self._state == "connecting":
                log.error("the ASGI application returned without accepting or closing a WebSocket")
            self._end(Disconnects.NORMAL)

    def _end(self, disconnect: Disconnect) -> None:
        if self._wire.session is not self:
            return  # handed over
        if self._state in ("connecting", "responding"):
            self._refuse(500, Headers(), b"Internal Server Error")
        elif self._state == "open":
            self._state = "closed"
            self._wire.close(disconnect)

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
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _push(self, event: Event) -> None:
        self._queue.append(event)
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    # Called by the application

    async def receive(self) -> Event:
        while not self._queue:
            self._receiver = asyncio.get_running_loop().create_future()
            await self._receiver
        event = self._queue.popleft()
        if len(self._queue) == QUEUE_LIMIT // 2:
            self._wire.resume_reading()
        return event

    async def send(self, message: Event) -> None:
        kind = message["type"]
        if self._state == "closed":
            raise ClientDisconnected("the WebSocket is closed")
        if self._state == "connecting":
            self._answer_handshake(kind, message)
        elif self._state == "responding":
            self._continue_denial(kind, message)
        elif kind == "websocket.send":
            await self._send_data(message)
        elif kind == "websocket.close":
            self._state = "closed"
            self._wire.close(Disconnect(code=message.get("code", 1000), reason=message.get("reason") or ""))
        else:
            raise RuntimeError(f"expected 'websocket.send' or 'websocket.close', but got {kind!r}")

    async def _send_data(self, message: Event) -> None:
        data = message.get("bytes")
        frame = frames.text_frame(message["text"].encode()) if data is None else frames.binary_frame(data)
        self._wire.write(frame)
        while self._wire.congested and self._state == "open":
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def _answer_handshake(self, kind: str, message: Event) -> None:
        if kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._refuse(403, Headers(), b"")
        elif kind == "websocket.http.response.start":
            headers = Headers()
            for name, value in message.get("headers", ()):
                headers[name.decode("latin-1")] = value.decode("latin-1")
            self._denial = (message["status"], headers, bytearray())
            self._state = "responding"
        else:
            raise RuntimeError(
                f"expected 'websocket.accept', 'websocket.close' or 'websocket.http.response.start', but got {kind!r}"
            )

    def _accept(self, message: Event) -> None:
        headers = self._response.headers
        for name, value in message.get("headers", ()):
            headers[name.decode("latin-1")] = value.decode("latin-1")
        if subprotocol := message.get("subprotocol"):
            headers["Sec-WebSocket-Protocol"] = subprotocol
        self._state = "open"
        self._wire.open(self._response.serialize())

    def _continue_denial(self, kind: str, message: Event) -> None:
        if kind != "websocket.http.response.body" or self._denial is None:
            raise RuntimeError(f"expected 'websocket.http.response.body', but got {kind!r}")
        status, headers, body = self._denial
        body += message.get("body", b"")
        if not message.get("more_body", False):
            self._refuse(status, headers, bytes(body))

    def _refuse(self, status: int, headers: Headers, body: bytes) -> None:
        self._state = "closed"
        self._push({"type": "websocket.disconnect", "code": 1006, "reason": ""})
        self._wire.refuse(status, headers, body)
