"""The raw endpoint: `new WebSocket("ws://host/ws/room")`, no library; and `/echo`.

Query parameters: `token` for the authenticator; `echo=0` leaves out one's own messages; `hello=1` asks for a first
frame that tells the worker. What the hub itself says in a room is a text message, a JSON object whose only key is
`hub`: `{"hub": {"hello": {...}}}` and `{"hub": {"error": {...}}}`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from .admission import ECHO, EXPIRE_AT, RAW, USER, Admission
from .authority import Authority, RoomRights, User
from .config import Settings, WireOptions
from .errors import BrokerUnavailable, Disconnect, Disconnects, Error, Errors, InvalidChannel
from .hub import HubCore
from .plain import PlainWire
from .protocol.deflate import pack
from .protocol.forms import as_json, deflated
from .protocol.frames import binary_frame, text_frame
from .types import LOBBY, DataKind, Publication, channel_name
from .wire import EXTENSION, HubProtocol, Wire

__all__ = ["EchoEndpoint", "RawEndpoint", "is_ours", "wire_of"]

log: logging.Logger = logging.getLogger("hub.ws")

# What of one connection may wait for Redis before its reading pauses: 256 messages, or fewer larger ones, so that one
# client cannot fill the worker's outbox.
UNACKNOWLEDGED_LIMIT = 256 * 1024
LEAST_COST = 1024
# Seconds; `expire_at` may be infinity.
FOR_EVER = 1e9


class _RoomConvertor(Convertor[str]):
    """A room as it stands in a path, slashes included. Newlines too, so that they are refused with a reason."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("hub_room", _RoomConvertor())


def is_ours(scope: Scope) -> bool:
    """Whether our own protocol class serves the connection."""
    return EXTENSION in scope.get("extensions", {})


def wire_of(scope: Scope, receive: Receive, send: Send, options: WireOptions) -> Wire:
    """The connection of an ASGI WebSocket scope: our own protocol class where it serves, plain ASGI elsewhere."""
    extension = scope.get("extensions", {}).get(EXTENSION)
    if extension is not None:
        wire: HubProtocol = extension["wire"]
        wire.configure(options)
        return wire
    return PlainWire(receive, send, options)


def control_frame(kind: str, body: Any) -> bytes:
    """What the hub itself says to a raw client."""
    return text_frame(msgspec.json.encode({"hub": {kind: body}}))


class RawConnection:
    """A client in one room: `hub.registry.Subscriber`, `hub.wire.Handler` and `hub.deadlines.Timed`."""

    __slots__ = ("_admission", "_bucket", "_hub", "_rights", "_room", "_unacknowledged", "due", "id", "name", "wire")

    def __init__(
        self, hub: HubCore, admission: Admission, wire: Wire, room: str, *, echo: bool, rights: RoomRights
    ) -> None:
        self._hub = hub
        self._rights = rights
        self._admission = admission
        self.wire: Wire = wire
        self._room = room
        self.name: bytes = hub.next_id()
        self.id: bytes = b"" if echo else self.name
        # None without a limit.
        self._bucket = admission.bucket()
        self._unacknowledged = 0
        self.due: int = 0

    def __repr__(self) -> str:
        return f"<RawConnection {self.name.decode()} in {self._room!r}>"

    def on_message(self, payload: bytes, text: bool) -> None:
        self._hub.received += 1
        self._hub.received_bytes += len(payload)
        if self._bucket is not None and not self._bucket.take():
            self.wire.close(Disconnects.TOO_MANY_MESSAGES)
            return
        publication = Publication(payload, DataKind.TEXT if text else DataKind.BINARY, self.id)
        if (error := self._objection(publication)) is not None:
            self._tell(error)
            return
        cost = max(len(payload), LEAST_COST)
        self._unacknowledged += cost
        if self._unacknowledged >= UNACKNOWLEDGED_LIMIT:
            self.wire.pause_reading()
        sent = self._hub.send(self._room, publication)
        sent.add_done_callback(partial(self._acknowledged, cost))

    def _objection(self, publication: Publication) -> Error | None:
        """Why it may not be published; what is text here counts as the JSON that protocol clients get of it."""
        if not self._rights.publish:
            return Errors.PERMISSION_DENIED
        if self._rights.strict is None:
            return None
        binary = publication.kind is DataKind.BINARY
        data = publication.data if binary or not publication.data else as_json(publication)
        complaint = self._rights.strict.complaint(data, binary=binary)
        return replace(Errors.BAD_REQUEST, message=complaint) if complaint else None

    def _acknowledged(self, cost: int, sent: asyncio.Future[None]) -> None:
        self._unacknowledged -= cost
        if self._unacknowledged < UNACKNOWLEDGED_LIMIT // 2:
            self.wire.resume_reading()
        if (error := sent.exception()) is not None:
            self._hub.unsent.add(last=str(error))
            self._tell(replace(Errors.NOT_RELAYED, message=str(error)))

    def _tell(self, error: Error) -> None:
        told = {"code": error.code, "message": error.message, "temporary": error.temporary}
        self.wire.write(control_frame("error", told))

    def on_insufficient(self, channel: str) -> None:
        """Raw clients know no positions; what is lost to them is counted (`Streams.lost`)."""

    def on_close(self, code: int, reason: str) -> None:
        self._admission.leave(RAW, code)
        self._hub.remove(self)
        self._hub.deadlines.clear(self)
        log.debug("connection closed: %d %s", code, reason, extra=self.extra)

    def on_open(self) -> None:
        log.debug("connection opened in %r", self._room, extra=self.extra)
        if self._rights.expire_at:
            self._hub.deadlines.set(self, min(max(0.0, self._rights.expire_at - time.time()), FOR_EVER))

    def on_due(self) -> None:
        """It cannot show another token, but come again."""
        self.wire.close(Disconnects.EXPIRED)

    @property
    def extra(self) -> dict[str, str]:
        """For log lines."""
        return {"connection": self.name.decode()}


class EchoConnection:
    """A client of `/echo`."""

    __slots__ = ("_admission", "_bucket", "_hub", "_wire")

    def __init__(self, hub: HubCore, admission: Admission, wire: Wire) -> None:
        self._hub = hub
        self._admission = admission
        self._bucket = admission.bucket()
        self._wire = wire

    def on_message(self, payload: bytes, text: bool) -> None:
        self._hub.received += 1
        self._hub.received_bytes += len(payload)
        if self._bucket is not None and not self._bucket.take():
            self._wire.close(Disconnects.TOO_MANY_MESSAGES)
            return
        self._wire.write(pack(text_frame(payload) if text else binary_frame(payload), self._wire.compression))

    def on_close(self, code: int, reason: str) -> None:
        self._admission.leave(ECHO, code)


class _Endpoint:
    """An ASGI application: admit, then serve."""

    def __init__(self, hub: HubCore, settings: Settings, admission: Admission) -> None:
        self._hub = hub
        self._options = settings.wire()
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._hub.start()
        await receive()  # websocket.connect
        connection = HTTPConnection(scope)
        refusal = await self._admission.check(connection, paced=is_ours(scope))
        if refusal is not None:
            await refuse(scope, send, refusal)
        else:
            await self._serve(connection, receive, send)

    async def _serve(self, connection: HTTPConnection, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class EchoEndpoint(_Endpoint):
    """`/echo`: each message back to its sender."""

    async def _serve(self, connection: HTTPConnection, receive: Receive, send: Send) -> None:
        wire = wire_of(connection.scope, receive, send, self._options)
        client = EchoConnection(self._hub, self._admission, wire)
        self._admission.enter(ECHO)
        try:
            await send({"type": "websocket.accept"})
        except BaseException:  # the client has gone meanwhile
            client.on_close(1006, "")
            raise
        await wire.serve(client)


class RawEndpoint(_Endpoint):
    """`/ws` and `/ws/{room}`."""

    def __init__(self, hub: HubCore, settings: Settings, admission: Admission, authority: Authority) -> None:
        super().__init__(hub, settings, admission)
        self._authority = authority

    async def _serve(self, connection: HTTPConnection, receive: Receive, send: Send) -> None:
        scope = connection.scope
        try:
            room = channel_name(scope["path_params"].get("room", LOBBY))
        except InvalidChannel:
            await refuse(scope, send, self._admission.refuse(Disconnects.BAD_ROOM))
            return
        rights = await self._authority.room(room, trusted=self._admission.is_known(connection), connection=connection)
        rights = _limited(rights, connection)
        if not rights.join:
            await refuse(scope, send, self._admission.refuse(Disconnects.FORBIDDEN_ROOM, repr(room)))
            return
        refusal = self._admission.check_room()
        if refusal is not None:  # others have come while the application was asked
            await refuse(scope, send, refusal)
            return
        query = connection.query_params
        wire = wire_of(scope, receive, send, self._options)
        echo = query.get("echo") != "0"
        client = RawConnection(self._hub, self._admission, wire, room, echo=echo, rights=rights)
        # Before the subscription: what it delivers waits in the wire until the handshake is answered.
        if query.get("hello") == "1":
            wire.write(control_frame("hello", {"node": self._hub.node, "worker": os.getpid(), "room": room}))
        self._admission.enter(RAW)
        try:
            await self._hub.subscribe(client, room, deflated(self._hub.raw_form(room), wire.compression))
            await send({"type": "websocket.accept"})
        except BrokerUnavailable:
            client.on_close(Disconnects.UNAVAILABLE.code, Disconnects.UNAVAILABLE.reason)
            await refuse(scope, send, self._admission.refuse(Disconnects.UNAVAILABLE))
            return
        except BaseException:  # the client has gone meanwhile
            client.on_close(1006, "")
            raise
        client.on_open()
        await wire.serve(client)


def _limited(rights: RoomRights, connection: HTTPConnection) -> RoomRights:
    """A room is open to a client no longer than its user is who he is. Raises TypeError for times that are none."""
    user = connection.scope.get(USER)
    ends = rights.expire_at, connection.scope.get(EXPIRE_AT, 0), user.expire_at if isinstance(user, User) else 0
    return rights._replace(expire_at=min((float(end) for end in ends if end), default=0.0))


async def refuse(scope: Scope, send: Send, disconnect: Disconnect) -> None:
    """End a connection that was not admitted.

    A browser learns the code and the reason only of a connection that was open, so it is opened first; except for a
    foreign origin, which gets nothing but HTTP 403.
    """
    if disconnect is not Disconnects.FORBIDDEN_ORIGIN:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": disconnect.code, "reason": disconnect.reason})
    elif is_ours(scope):
        body = b"This origin may not connect; list it in HUB_ORIGINS.\n"
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "websocket.http.response.start", "status": 403, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": disconnect.code, "reason": disconnect.reason})
