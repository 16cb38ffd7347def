"""The protocol clients of this worker, by user, and what they share."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from .admission import Admission
from .authority import Asker, Authority
from .config import Settings
from .hub import HubCore
from .log import extra_of
from .orders import Orders
from .protocol.commands import Command
from .sse_departure import Departures

if TYPE_CHECKING:
    from .client import Client
    from .sse_client import EventStream

__all__ = ["Clients", "Connected", "Context", "Handlers"]

log: logging.Logger = logging.getLogger("hub.client")

# What handles a command, by the class of its body; a coroutine becomes a task of the client.
Handlers: TypeAlias = Mapping[type, Callable[["Client", Command], Coroutine[Any, Any, None] | None]]

# Who has connected.
Connected: TypeAlias = "Client | EventStream"


class _Client(Protocol):
    @property
    def client_id(self) -> str: ...

    @property
    def user(self) -> str: ...


C = TypeVar("C", bound=_Client)


class Clients(Generic[C]):
    """All that have connected and not ended."""

    def __init__(self) -> None:
        self._users: dict[str, dict[str, C]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def users(self) -> int:
        return len(self._users)

    def add(self, client: C) -> None:
        self._users.setdefault(client.user, {})[client.client_id] = client
        self._count += 1

    def remove(self, client: C) -> None:
        """Does nothing for one that never connected."""
        own = self._users.get(client.user)
        if own is not None and own.pop(client.client_id, None) is not None:
            self._count -= 1
            if not own:
                del self._users[client.user]

    def of(self, user: str, client: str = "") -> list[C]:
        """The clients of a user, or the one of them with that id."""
        own = self._users.get(user, {})
        if client:
            return [own[client]] if client in own else []
        return list(own.values())

    def __iter__(self) -> Iterator[C]:
        for own in tuple(self._users.values()):
            yield from tuple(own.values())


class Context:
    """What the protocol clients of a worker share."""

    def __init__(
        self,
        hub: HubCore,
        settings: Settings,
        authority: Authority,
        admission: Admission,
        clients: Clients[Connected],
        handlers: Handlers,
    ) -> None:
        self.hub = hub
        self.handlers = handlers
        self.settings = settings
        self.authority = authority
        self.admission = admission
        self.clients = clients
        # Commands that were refused, by the code of the error.
        self.refusals: Counter[int] = Counter()
        # What the application has ordered for these clients, and not had yet.
        self.orders: Orders = Orders()
        # Kept from the garbage collector while they run.
        self.tasks: set[asyncio.Task[Any]] = set()
        # Tells event streams that the server ends.
        self.departures: Departures = Departures()

    def tell_disconnected(self, client: Asker, code: int, reason: str) -> None:
        """Call the application's `on_disconnect`, if it has one."""
        hook = self.authority.hooks.disconnect
        if hook is not None:
            self._tell(client, partial(hook, client, code, reason), "on_disconnect")

    def tell_gone(self, client: Asker, channels: Iterable[str], code: int, reason: str) -> None:
        """Call what typed channels have for the end of a connection that was subscribed to them."""
        hook = self.authority.hooks.left
        for channel in channels if hook is not None else ():
            assert hook is not None
            if (ask := hook(client, channel, code, reason)) is not None:
                self._tell(client, ask, "on_disconnect")

    def tell_left(self, client: Client, channel: str) -> None:
        """Call what a typed channel has for the end of a subscription; what the client says next of it waits."""
        hook = self.authority.hooks.left
        if hook is not None and (ask := hook(client, channel, 0, "")) is not None:
            client.held.append(channel)
            told = self._tell(client, ask, "on_unsubscribe")
            client.run(_release(client, channel, told), lambda fault: None)

    def _tell(self, client: Asker, ask: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(_call(client, ask, name), name=f"hub {name}")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


async def _call(client: Asker, ask: Callable[[], Awaitable[None]], name: str) -> None:
    try:
        await ask()
    except Exception:
        log.exception("unexpected fault in the application's %s", name, extra=extra_of(client))


async def _release(client: Client, channel: str, told: asyncio.Task[None]) -> None:
    try:
        await asyncio.wait((told,))
    finally:
        client.held.remove(channel)
