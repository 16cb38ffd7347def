"""The `ConnectionManager` of the FastAPI tutorial, for any number of workers.

The tutorial's class has four methods and a list, and knows the connections of its own process only. This one has the
same four methods and the same list; what it broadcasts travels through Redis. The rest of the program stays as it is::

    from hub.compat import ConnectionManager

    manager = ConnectionManager()

    @app.websocket("/ws/{client_id}")
    async def websocket_endpoint(websocket: WebSocket, client_id: int):
        await manager.connect(websocket)
        try:
            while True:
                data = await websocket.receive_text()
                await manager.broadcast(f"Client #{client_id} says: {data}")
        except WebSocketDisconnect:
            manager.disconnect(websocket)

The endpoint keeps the reading side of its connection. The writing side is shared: broadcasts go past the endpoint.

From here too: `Broadcast` and its kin, for programs on encode/broadcaster (see `hub.broadcast`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections import defaultdict
from types import CodeType, FrameType
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, finalize, ref

from starlette.websockets import WebSocket, WebSocketState

from .broadcast import Broadcast, BroadcastBackend, Event, MessagesLost, Subscriber, Unsubscribed
from .broker import Deliver, Listener
from .config import Settings
from .embed import Hub
from .errors import BrokerUnavailable, ConfigError, Disconnects
from .hub import publication_of
from .memory import MemoryBroker
from .plain import PlainWire
from .shared_connection import SharedConnection
from .types import DataKind, channel_name

__all__ = [
    "Broadcast",
    "BroadcastBackend",
    "ConnectionManager",
    "Event",
    "MessagesLost",
    "Subscriber",
    "Unsubscribed",
]


class ConnectionManager:
    """Connections that hear each other's broadcasts, on all workers.

    Without `hub` the managers of a process share one that is set up by `REDIS_URL` and `HUB_*`; it starts with the
    first connection and needs no lifespan. Managers with the same `channel` are one; without a `channel`, a manager is
    one with its counterpart in the other workers only.

    A connection that ends without `disconnect` is forgotten with its `WebSocket`.
    """

    def __init__(self, *, hub: Hub | None = None, channel: str | None = None) -> None:
        """Raises InvalidChannel; ConfigError where a channel is needed and not given."""
        self._given = hub
        self.channel: str = _default_channel() if channel is None else channel_name(channel)
        self._members: WeakKeyDictionary[WebSocket, _Member] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<ConnectionManager {self.channel!r}, {len(self._members)} connections here>"

    @property
    def active_connections(self) -> list[WebSocket]:
        """The connections of this worker, the oldest first."""
        return list(self._members)

    async def connect(self, websocket: WebSocket) -> None:
        """Accept the connection, unless that is done already; from then on it hears every broadcast.

        While Redis is away the client is closed with 1013, and WebSocketException ends the endpoint.
        """
        if websocket in self._members:
            return
        hub = self._hub()
        await hub.start()
        member = _Member(hub, websocket)
        await member.enter(self.channel, websocket)
        self._members[websocket] = member

    def disconnect(self, websocket: WebSocket) -> None:
        """Deliver nothing more to the connection; may be called twice."""
        member = self._members.pop(websocket, None)
        if member is not None:
            member.leave()

    async def send_personal_message(self, message: Any, websocket: WebSocket) -> None:
        """Send to this connection, which must be one of this worker. Does nothing if it has gone.

        `bytes` arrive as a binary message, a `str` as the text that it is, all else as JSON text, models of pydantic
        too.
        """
        if websocket.application_state is WebSocketState.CONNECTING:
            raise RuntimeError("the connection is not accepted yet: `await manager.connect(websocket)` comes first")
        member = self._members.get(websocket)
        if member is not None and member.given_up:
            return
        sent = publication_of(message)
        event = {"type": "websocket.send"} | (
            {"bytes": sent.data} if sent.kind is DataKind.BINARY else {"text": sent.data.decode()}
        )
        # Not `websocket.send`: where the client has gone it would mark the connection closed, so that the endpoint's
        # next `receive_text` raised RuntimeError in place of WebSocketDisconnect.
        try:
            async with asyncio.timeout(self._hub().settings.slow_timeout):
                await websocket._send(event)
        except TimeoutError:
            if member is not None:
                member.give_up()
        except (OSError, RuntimeError):  # it has gone, in the two ways in which servers say so
            pass

    async def broadcast(self, message: Any) -> None:
        """Send to every connection of every worker; `message` as in `send_personal_message`.

        Never fails because of a client that hears it. While Redis is away it waits `HUB_PUBLISH_TIMEOUT`, then the
        message is lost and that is logged, because an exception would end the connection of the endpoint that called.
        Raises MessageTooBig for more than `HUB_MAX_MESSAGE_SIZE` bytes, TypeError for what JSON cannot say.
        """
        hub = self._hub()
        await hub.start()
        try:
            await hub.send(self.channel, publication_of(message))
        except BrokerUnavailable:
            hub.unsent.add()

    def _hub(self) -> Hub:
        return self._given or _hub_of_this_loop()


class _Member(SharedConnection):
    """One connection of one manager."""

    def __init__(self, hub: Hub, websocket: WebSocket) -> None:
        super().__init__(hub, hub.settings, websocket)
        # Objects are collected in any thread, and in the middle of anything.
        loop = asyncio.get_running_loop()
        self._forgotten = finalize(websocket, _call_soon, loop, self.leave)
        self._forgotten.atexit = False

    def give_up(self) -> None:
        """The client takes nothing. Our own server has noticed that by itself, and knows better how it goes on."""
        if isinstance(self.wire, PlainWire):
            self.wire.close(Disconnects.SLOW)

    @property
    def given_up(self) -> bool:
        return isinstance(self.wire, PlainWire) and self.wire.ending

    def leave(self) -> None:
        super().leave()
        self._forgotten.detach()


def _call_soon(loop: asyncio.AbstractEventLoop, leave: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and with it everything
        loop.call_soon_threadsafe(leave)


# The hub of all managers that were given none


# With the task that stops it.
_hubs: dict[asyncio.AbstractEventLoop, tuple[Hub, asyncio.Task[None]]] = {}


def _hub_of_this_loop() -> Hub:
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        settings = Settings.load()
        hub = Hub(settings, broker=None if settings.redis_url else _ProcessBroker())
        _hubs[loop] = hub, loop.create_task(_stop_at_the_end(hub), name="hub compat")
    return _hubs[loop][0]


async def _stop_at_the_end(hub: Hub) -> None:
    """There is no lifespan that would; but event loops cancel their tasks when they end."""
    try:
        await asyncio.Event().wait()
    finally:
        del _hubs[asyncio.get_running_loop()]
        await hub.stop()


class _ProcessBroker(MemoryBroker):
    """Memory for all event loops of a process: a TestClient outside its `with` gives each connection a loop."""

    _peers: ClassVar[set[_ProcessBroker]] = set()

    async def start(self, deliver: Deliver, listener: Listener | None = None) -> None:
        await super().start(deliver, listener)
        self._loop = asyncio.get_running_loop()
        self._peers.add(self)

    async def stop(self) -> None:
        self._peers.discard(self)
        await super().stop()

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[None]:
        for peer in self._peers - {self}:
            with contextlib.suppress(RuntimeError):  # its loop has just ended
                peer._loop.call_soon_threadsafe(peer._arrive, channel, payload)
        return super().publish(channel, payload)


# The channels of managers that were given none


# How many a module has made so far.
_made: defaultdict[str, itertools.count[int]] = defaultdict(lambda: itertools.count(1))

# Where in the code each loop's tasks have made managers.
_makers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[CodeType, int], ref[asyncio.Task[Any]]]]
_makers = WeakKeyDictionary()


def _default_channel() -> str:
    """The n-th manager of a module has the same channel in every worker, because workers import the same modules.

    A control character keeps it out of the reach of raw clients, who may join any room that has a name.
    """
    frame = sys._getframe(2)
    while frame.f_code.co_name == "__init__" and frame.f_back is not None:  # of a subclass
        frame = frame.f_back
    _refuse_one_per_room(frame)
    module = frame.f_globals["__name__"]
    return f"\x1fmanager:{module}:{next(_made[module])}"


def _refuse_one_per_room(frame: FrameType) -> None:
    """Managers made on demand are made in another order in each worker, and rooms would hear each other."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return
    if task is None:
        return
    makers = _makers.setdefault(task.get_loop(), {})
    if makers.setdefault((frame.f_code, frame.f_lasti), ref(task))() is not task:
        raise ConfigError(
            f"{frame.f_code.co_qualname} makes managers while it runs, so each needs a channel of its own, "
            "the same in every worker: ConnectionManager(channel=...)"
        )
