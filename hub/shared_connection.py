"""A connection that an endpoint of the application has accepted, or will: the endpoint reads, the hub writes."""

from __future__ import annotations

import asyncio

from starlette.exceptions import WebSocketException
from starlette.websockets import WebSocket, WebSocketState

from .config import Settings
from .errors import BrokerUnavailable, Disconnects, Ended
from .hub import HubCore
from .plain import PlainWire
from .raw_sessions import RawSession
from .wire_contract import Wire
from .ws import wire_of

__all__ = ["SharedConnection"]


class SharedConnection:
    """What is common to `hub.compat` and `join` of typed channels. Implements `hub.registry.Subscriber`.

    Holds the `WebSocket` nowhere: its end may have to be noticed.
    """

    # It hears what it publishes.
    id: bytes = b""
    # None without a user.
    session: RawSession | None = None

    def __init__(self, hub: HubCore, settings: Settings, websocket: WebSocket) -> None:
        self._core = hub
        self.wire: Wire = wire_of(websocket.scope, websocket._receive, websocket._send, settings.wire())
        # On servers other than our own, once the connection is accepted.
        self._writer: asyncio.Task[None] | None = None

    async def enter(self, channel: str, websocket: WebSocket) -> None:
        """Subscribe, then accept what is not accepted yet, then write: until `leave`, or until the client has gone.

        While Redis is away the client is closed with 1013, and one whose user was thrown out meanwhile as he was:
        WebSocketException, which ends the endpoint.
        """
        try:
            # In this order: a client whose connection is open shall miss nothing.
            await self._subscribe(channel)
            await _accept(websocket)
        except Ended as ended:
            self.leave()
            await _accept(websocket)
            raise WebSocketException(ended.disconnect.code, ended.disconnect.reason) from None
        except BaseException:  # the client has gone meanwhile
            self.leave()
            raise
        if isinstance(self.wire, PlainWire):  # our own server writes by itself
            self._writer = asyncio.create_task(self.wire.serve_writes(), name="hub connection writer")
            self._writer.add_done_callback(lambda writer: self.leave())

    async def _subscribe(self, channel: str) -> None:
        """Raises Ended."""
        if self.session is not None:
            self.session.enter(self)
        try:
            await self._core.subscribe(self, channel, self._core.raw_form(channel))
        except BrokerUnavailable:
            raise Ended(Disconnects.UNAVAILABLE) from None
        if self.session is not None:
            self.session.open()

    def on_insufficient(self, channel: str) -> None:
        """Told to positioned forms only."""

    def leave(self) -> None:
        """Write nothing more; may be called twice."""
        self._core.remove(self)
        if self.session is not None:
            self.session.leave()
        if self._writer is not None:
            self._writer.cancel()


async def _accept(websocket: WebSocket) -> None:
    if websocket.application_state is WebSocketState.CONNECTING:
        await websocket.accept()
