"""The raw endpoint: `new WebSocket("ws://host/ws/room")`, no library; and `/echo`.

Query parameters: `token` for the authenticator; `echo=0` leaves out one's own messages; `hello=1` asks for a first
frame that tells the worker. What the hub itself says in a room is a text message, a JSON object whose only key is
`hub`: `{"hub": {"hello": {...}}}` and `{"hub": {"error": {...}}}`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from .admission import ECHO, RAW, Admission
from .authority import Authority, RoomRights
from .config import Settings, WireOptions
from .errors import BrokerUnavailable, Disconnect, Disconnects, Ended, Error, Errors, InvalidChannel
from .hub import HubCore
from .plain import PlainWire
from .protocol.deflate import pack
from .protocol.forms import as_json, deflated
from .protocol.frames import binary_frame, text_frame
from .raw_sessions import RawSession, RawSessions, delay, earliest, end_of_identity
from .types import LOBBY, DataKind, Publication, channel_name
from .wire import EXTENSION, HubProtocol, Wire

__all__ = ["EchoEndpoint", "RawEndpoint", "is_ours", "wire_of"]

log: logging.Logger = logging.getLogger("hub.ws")

# What of one connection may wait for Redis before its reading pauses: 256 messages, or fewer larger ones, so that one
# client cannot fill the worker's outbox.
UNACKNOWLEDGED_LIMIT = 256 * 1024
LEAST_COST = 1024


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

    __slots__ = ("_admission", "_bucket", "_hub", "_rights", "_unacknowledged", "due", "id", "name", "room", "wire")

    def __init__(
        self, hub: HubCore, admission: Admission, wire: Wire, room: str, name: bytes, *, echo: bool, rights: RoomRights
    ) -> None:
        self._hub = hub
        self._rights = rights
        self._admission = admission
        self.wire: Wire = wire
        self.room: str = room
        self.name: bytes = name
        self.id: bytes = b"" if echo else self.name
        # None without a limit.
        self._bucket = admission.bucket()
        self._unacknowledged = 0
        self.due: int = 0

    def __repr__(self) -> str:
        return f"<RawConnection {self.name.decode()} in {self.room!r}>"

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
        sent = self._hub.send(self.room, publication)
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
        log.debug("connection opened in %r", self.room, extra=self.extra)
        if self._rights.expire_at:
            self._hub.deadlines.set(self, delay(self._rights.expire_at))

    def on_due(self) -> None:
        """It cannot show another token, but come again."""
        self.wire.close(Disconnects.EXPIRED)

    @property
    def extra(self) -> dict[str, str]:
        """For log lines."""
        return {"connection": self.name.decode()}


class UserConnection(RawConnection):
    """One that has a user."""

    __slots__ = ("_session",)

    def __init__(self, session: RawSession, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._session = session

    def on_close(self, code: int, reason: str) -> None:
        self._session.leave()
        super().on_close(code, reason)

    @property
    def extra(self) -> dict[str, str]:
        return self._session.extra


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

    def __init__(
        self, hub: HubCore, settings: Settings, admission: Admission, authority: Authority, sessions: RawSessions
    ) -> None:
        super().__init__(hub, settings, admission)
        self._authority = authority
        self._sessions = sessions

    async def _serve(self, connection: HTTPConnection, receive: Receive, send: Send) -> None:
        try:
            room = channel_name(connection.scope["path_params"].get("room", LOBBY))
        except InvalidChannel:
            await refuse(connection.scope, send, self._admission.refuse(Disconnects.BAD_ROOM))
            return
        name = self._hub.next_id()
        try:
            with self._sessions.arriving(connection, name, room) as session:
                rights = await self._rights(connection, room, known=session is not None)
                wire = wire_of(connection.scope, receive, send, self._options)
                echo = connection.query_params.get("echo") != "0"
                given = self._hub, self._admission, wire, room, name
                if session is None:
                    client = RawConnection(*given, echo=echo, rights=rights)
                else:
                    client = UserConnection(session, *given, echo=echo, rights=rights)
                await self._open(client, session, connection, send)
        except Ended as ended:
            await refuse(connection.scope, send, ended.disconnect)
            return
        client.on_open()
        await wire.serve(client)

    async def _rights(self, connection: HTTPConnection, room: str, *, known: bool) -> RoomRights:
        """Raises Ended if it may not come in; TypeError for times that are none."""
        trusted = self._admission.is_known(connection)
        rights = await self._authority.room(room, trusted=trusted, connection=connection)
        # A room is open to a client no longer than it is who it is; a user's session minds that.
        until = earliest(rights.expire_at, 0 if known else end_of_identity(connection))
        if not rights.join:
            raise Ended(self._admission.refuse(Disconnects.FORBIDDEN_ROOM, repr(room)))
        refusal = self._admission.check_room()
        if refusal is not None:  # others have come while the application was asked
            raise Ended(refusal)
        return rights._replace(expire_at=until)

    async def _open(
        self, client: RawConnection, session: RawSession | None, connection: HTTPConnection, send: Send
    ) -> None:
        """Subscribe, then answer the handshake. Raises Ended."""
        # Before the subscription: what it delivers waits in the wire until the handshake is answered.
        if connection.query_params.get("hello") == "1":
            hello = {"node": self._hub.node, "worker": os.getpid(), "room": client.room}
            client.wire.write(control_frame("hello", hello))
        self._admission.enter(RAW)
        try:
            await self._subscribe(client, session)
            await send({"type": "websocket.accept"})
        except Ended as ended:
            client.on_close(ended.disconnect.code, ended.disconnect.reason)
            raise Ended(self._admission.refuse(ended.disconnect)) from None
        except BaseException:  # the client has gone meanwhile
            client.on_close(1006, "")
            raise

    async def _subscribe(self, client: RawConnection, session: RawSession | None) -> None:
        """Raises Ended."""
        form = deflated(self._hub.raw_form(client.room), client.wire.compression)
        if session is not None:
            session.enter(client)
        try:
            await self._hub.subscribe(client, client.room, form)
        except BrokerUnavailable:
            raise Ended(Disconnects.UNAVAILABLE) from None
        if session is not None:
            session.open()


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
