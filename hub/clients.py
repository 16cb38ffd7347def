"""The protocol clients of this worker, by user, and what they share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from .admission import Admission
from .authority import Authority
from .config import Settings
from .hub import HubCore
from .protocol.commands import Command

if TYPE_CHECKING:
    from .client import Client

__all__ = ["Clients", "Context", "Handlers"]

# What handles a command, by the class of its body; a coroutine becomes a task of the client.
Handlers: TypeAlias = Mapping[type, Callable[["Client", Command], Coroutine[Any, Any, None] | None]]


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
        clients: Clients[Client],
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
        # Kept from the garbage collector while they run.
        self.tasks: set[asyncio.Task[Any]] = set()
