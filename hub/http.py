"""uvicorn's HTTP class of `hub serve`, with the defences that a public port needs.

A request (a WebSocket handshake too) that does not come to its end in time is cut off; a head has a size limit; a frame
that follows the handshake in the same segment is not lost, as it is in uvicorn's own classes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .log import Throttled
from .wire_server import wire_server

__all__ = ["HubHttpProtocol"]

log = logging.getLogger("hub.http")

# Request line and headers; the usual limit of proxies is 8 to 32 KiB.
MAX_HEAD_SIZE = 65536

_invalid = Throttled(log, logging.WARNING, "%d requests refused because they are not HTTP")
_slow = Throttled(log, logging.WARNING, "%d requests cut off because they did not come to their end in time")


class HubHttpProtocol(HttpToolsProtocol):
    """One connection, until it becomes a WebSocket."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._wire_server = wire_server(self.config, self.server_state, self.app_state)
        self.due = 0
        # Bytes of the present request's head so far; -1 after it.
        self._head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wire_server.deadlines.set(self, self._wire_server.options.handshake_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wire_server.deadlines.clear(self)
        super().connection_lost(exc)

    def on_due(self) -> None:
        _slow.add()
        self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self._wire_server.deadlines.set(self, self._wire_server.options.handshake_timeout)

    def on_headers_complete(self) -> None:
        self._head = -1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._wire_server.deadlines.clear(self)
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._head >= 0:
            self._head += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            _invalid.add()
            self._refuse(400, "This is not a valid HTTP request.")
        else:
            if self._head > MAX_HEAD_SIZE:
                self._refuse(431, f"The request's head is larger than {MAX_HEAD_SIZE} bytes.")

    def _upgrade(self, rest: bytes) -> None:
        self._wire_server.deadlines.clear(self)
        if not self._should_upgrade():
            self._refuse(426, "The only protocol to upgrade to is websocket.")
            return
        self.handle_websocket_upgrade()
        if rest:
            cast(asyncio.Protocol, self.transport.get_protocol()).data_received(rest)

    def _refuse(self, status: int, reason: str) -> None:
        body = f"{reason}\n".encode()
        head = f"HTTP/1.1 {status} Refused\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        self.transport.close()
