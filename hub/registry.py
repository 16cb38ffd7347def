"""Who listens to what in this worker: channel → subscribers and subscriber → channels.

Both tables change in the same method, which says whether the subscriber was the channel's first or last, and leave
nothing behind when they get empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .types import Publication

__all__ = ["Channel", "Registry", "Subscriber", "Writer"]


class Writer(Protocol):
    """The part of a `Wire` that delivery needs."""

    # Takes ready-made WebSocket frames. Must not raise, wait, or change the registry.
    write: Callable[[bytes], object]


class Subscriber(Protocol):
    """One connection's interest in channels."""

    # Compared with `Publication.exclude`; empty if the connection wants its own messages too.
    id: bytes

    @property
    def wire(self) -> Writer:
        """The connection."""


class Channel:
    """A channel with at least one local subscriber."""

    __slots__ = ("name", "pending", "subscribers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.subscribers: set[Subscriber] = set()
        # Delivered in this tick and not yet written.
        self.pending: list[Publication] = []

    def __repr__(self) -> str:
        return f"<Channel {self.name!r} {len(self.subscribers)} subscribers>"


class Registry:
    """The tables of one worker."""

    def __init__(self) -> None:
        self.channels: dict[str, Channel] = {}
        # A tuple, not a set: most connections have one channel, and there are many connections.
        self._names: dict[Subscriber, tuple[str, ...]] = {}

    @property
    def subscribers(self) -> int:
        """Connections with at least one channel."""
        return len(self._names)

    def channels_of(self, subscriber: Subscriber) -> tuple[str, ...]:
        return self._names.get(subscriber, ())

    def subscribe(self, subscriber: Subscriber, name: str) -> bool:
        """Add a subscription; true if it is the channel's first in this worker."""
        channel = self.channels.get(name)
        first = channel is None
        if channel is None:
            channel = self.channels[name] = Channel(name)
        if subscriber not in channel.subscribers:
            channel.subscribers.add(subscriber)
            self._names[subscriber] = (*self._names.get(subscriber, ()), name)
        return first

    def unsubscribe(self, subscriber: Subscriber, name: str) -> bool:
        """Remove a subscription if there is one; true if it was the channel's last in this worker."""
        channel = self.channels.get(name)
        if channel is None or subscriber not in channel.subscribers:
            return False
        channel.subscribers.remove(subscriber)
        names = tuple(other for other in self._names[subscriber] if other != name)
        if names:
            self._names[subscriber] = names
        else:
            del self._names[subscriber]
        if channel.subscribers:
            return False
        del self.channels[name]
        return True

    def remove(self, subscriber: Subscriber) -> list[str]:
        """Remove all subscriptions of a connection; the channels that it was the last of."""
        return [name for name in self.channels_of(subscriber) if self.unsubscribe(subscriber, name)]
