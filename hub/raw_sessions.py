"""Users on raw WebSockets, who are found and thrown out as protocol clients are. A connection without a user has none.

A session begins as soon as the user is known: what is ordered for him while the application decides, or while the
handshake runs, does not pass him by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, cast

from starlette.requests import HTTPConnection

from .admission import EXPIRE_AT, USER
from .authority import User
from .clients import Clients
from .errors import Disconnect, Disconnects, Ended
from .hub import HubCore
from .registry import KeepsAll, Subscriber
from .wire_contract import Wire

__all__ = ["RawSession", "RawSessions", "delay", "earliest", "end_of_identity"]

# Seconds; `expire_at` may be infinity.
FOR_EVER = 1e9


def earliest(*ends: float) -> float:
    """Of Unix times, of which 0 is never. Raises TypeError for times that are none."""
    return min((float(end) for end in ends if end), default=0.0)


def delay(expire_at: float) -> float:
    """Seconds until then."""
    return min(max(0.0, expire_at - time.time()), FOR_EVER)


def end_of_identity(connection: HTTPConnection) -> float:
    """Until when it is who it is."""
    user = connection.scope.get(USER)
    return earliest(connection.scope.get(EXPIRE_AT, 0), user.expire_at if isinstance(user, User) else 0)


class _Member(Subscriber, Protocol):
    """The connection in its room."""

    wire: Wire


class _Silence(KeepsAll):
    __slots__ = ("write",)

    def __init__(self) -> None:
        self.write: Callable[[bytes], object] = lambda chunk: None


# The wire of who is thrown out before it can be told: what is published from then on is not for it.
SILENCE = cast(Wire, _Silence())


class RawSession:
    """Among a user's clients it is one of them; it has one room for ever. Implements `hub.deadlines.Timed`."""

    __slots__ = ("_disconnect", "_member", "_open", "_sessions", "client_id", "due", "room", "user")

    def __init__(self, sessions: RawSessions, user: str, client_id: str, room: str) -> None:
        self._sessions = sessions
        self.user: str = user
        # What the log calls the connection.
        self.client_id: str = client_id
        self.room: str = room
        # From its subscription on; then whether it can be told of its end.
        self._member: _Member | None = None
        self._open = False
        # How it ends, from the moment in which somebody decided that.
        self._disconnect: Disconnect | None = None
        self.due: int = 0

    def __repr__(self) -> str:
        return f"<RawSession {self.client_id} of {self.user!r} in {self.room!r}>"

    @property
    def channels(self) -> list[str]:
        return [self.room]

    @property
    def extra(self) -> dict[str, str]:
        """For log lines."""
        return {"connection": self.client_id, "user": self.user}

    # Its beginning

    def enter(self, member: _Member) -> None:
        """It may, and subscribes. Raises Ended if it was thrown out meanwhile."""
        self._check()
        self._member = member

    def open(self) -> None:
        """It is subscribed, and the handshake is answered. Raises Ended if it was thrown out meanwhile."""
        self._check()
        self._open = True

    def _check(self) -> None:
        if self._disconnect is not None:
            raise Ended(self._disconnect)

    def leave(self) -> None:
        """It has ended; may be called twice."""
        self._sessions.remove(self)
        self._sessions.hub.deadlines.clear(self)

    # What happens to it

    def end(self, disconnect: Disconnect) -> None:
        if self._disconnect is not None:
            return
        self._disconnect = disconnect
        if self._member is not None and self._open:
            self._member.wire.close(disconnect)
        elif self._member is not None:
            self._member.wire = SILENCE
            self._sessions.hub.registry.rewire(self._member)

    def unsubscribe(self, channel: str) -> None:
        """A connection to no room is none."""
        if channel == self.room:
            self.end(Disconnects.UNSUBSCRIBED)

    def prolong(self, expire_at: float) -> None:
        """Its user is who he is until then, 0 for ever."""
        if expire_at:
            self._sessions.hub.deadlines.set(self, delay(expire_at))
        else:
            self._sessions.hub.deadlines.clear(self)

    def on_due(self) -> None:
        """It cannot show another token, but come again."""
        self.end(Disconnects.EXPIRED)


class RawSessions(Clients[RawSession]):
    """Those of one worker."""

    def __init__(self, hub: HubCore) -> None:
        super().__init__()
        self.hub: HubCore = hub

    def begin(self, user: str, name: bytes, room: str, expire_at: float = 0) -> RawSession | None:
        """None for nobody in particular."""
        if not user:
            return None
        session = RawSession(self, user, name.decode(), room)
        self.add(session)
        session.prolong(expire_at)
        return session

    @contextmanager
    def arriving(self, connection: HTTPConnection, name: bytes, room: str) -> Iterator[RawSession | None]:
        """That of an admitted connection; it ends with the block if that fails."""
        user = connection.scope.get(USER)
        known = user.id if isinstance(user, User) else ""
        session = self.begin(known, name, room, end_of_identity(connection))
        try:
            yield session
        except BaseException:
            if session is not None:
                session.leave()
            raise
