"""Who listens to what in this worker: channel → subscribers and subscriber → channels.

Both tables change in the same method, which says whether the subscriber was the channel's first or last, and leave
nothing behind when they get empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from .protocol.backlog import Lossy
from .protocol.forms import RAW, Event, Form
from .protocol.stream import Stream
from .types import Publication

__all__ = ["Channel", "KeepsAll", "Registry", "Subscriber", "Writer"]


class Writer(Protocol):
    """The part of a `Wire` that delivery needs."""

    # Takes ready-made WebSocket frames. Must not raise, wait, or change the registry.
    write: Callable[[bytes], object]

    @property
    def waits(self) -> bool:
        """Whether what is written waits. Else each write is a system call, and several chunks are better joined."""

    @property
    def descriptor(self) -> int:
        """Where `hub.direct_writes` may write: a socket, while nothing waits before it and it takes frames as they are.

        Else -1, and the rest of what it does not take, too, is for `write`.
        """

    def offer(self, chunk: bytes, lossy: Lossy, /) -> None:
        """The same with frames that may be left out if the client reads too slowly."""


class KeepsAll:
    """A `Writer` that leaves nothing out, and keeps it for somebody to fetch."""

    __slots__ = ()

    write: Callable[[bytes], object]
    waits = True
    descriptor = -1

    def offer(self, chunk: bytes, lossy: Lossy, /) -> None:
        self.write(chunk)


class Subscriber(Protocol):
    """One connection's interest in channels."""

    # Compared with `Publication.exclude`; empty if the connection wants its own messages too.
    id: bytes

    @property
    def wire(self) -> Writer:
        """The connection; if it changes, `Registry.rewire` must know."""

    def on_insufficient(self, channel: str) -> None:
        """Publications were lost for good. Called for subscribers with a positioned form only."""


class Channel:
    """A channel with at least one local subscriber, or one that is about to be."""

    __slots__ = ("groups", "interest", "last", "name", "pending", "stream")

    def __init__(self, name: str) -> None:
        self.name: str = name
        # Subscribers by the form in which they get its events, each with its wire: a fan-out then touches nothing but
        # wires, in the order in which they came, which is about that of their places in memory. In the order of a set,
        # through the subscribers, a write takes up to a third longer.
        self.groups: dict[Form, dict[Subscriber, Writer]] = {}
        # Subscribers, and those who wait to become one.
        self.interest: int = 0
        # Delivered in this tick and not yet written.
        self.pending: list[Event] = []
        # The last publication that was written.
        self.last: Publication | None = None
        # Where it stands; None without history.
        self.stream: Stream | None = None

    def __repr__(self) -> str:
        return f"<Channel {self.name!r} {len(self)} subscribers>"

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))

    def __iter__(self) -> Iterator[Subscriber]:
        for group in self.groups.values():
            yield from group

    def __contains__(self, subscriber: object) -> bool:
        return any(subscriber in group for group in self.groups.values())

    @property
    def positioned(self) -> list[Subscriber]:
        """Those who rely on getting everything."""
        return [subscriber for form, group in self.groups.items() if form.positioned for subscriber in group]

    def advance(self, events: Sequence[Event]) -> None:
        """These were written: who is in a form for its first events goes on to the next form."""
        for event in reversed(events):
            if isinstance(event, Publication):
                self.last = event
                break
        else:
            return
        for form in [form for form in self.groups if form.next is not form]:
            self.groups.setdefault(form.next, {}).update(self.groups.pop(form))

    def _discard(self, subscriber: Subscriber) -> None:
        form, group = next(pair for pair in self.groups.items() if subscriber in pair[1])
        del group[subscriber]
        if not group:
            del self.groups[form]


class Registry:
    """The tables of one worker."""

    def __init__(self) -> None:
        self.channels: dict[str, Channel] = {}
        # A tuple, not a set: most connections have one channel, and there are many connections.
        self._names: dict[Subscriber, tuple[str, ...]] = {}
        # Pairs of a subscriber and a channel.
        self.subscriptions: int = 0

    @property
    def subscribers(self) -> int:
        """Connections with at least one channel."""
        return len(self._names)

    @property
    def overlapping(self) -> bool:
        """Whether any connection has more than one channel."""
        return self.subscriptions > len(self._names)

    def channels_of(self, subscriber: Subscriber) -> tuple[str, ...]:
        return self._names.get(subscriber, ())

    # Interest

    def reserve(self, name: str) -> Channel:
        """Announce a subscriber that is not ready yet: the channel stays until `release`."""
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name)
        channel.interest += 1
        return channel

    def release(self, channel: Channel) -> bool:
        """Take back a reservation; true if it was the channel's last interest in this worker."""
        channel.interest -= 1
        if channel.interest:
            return False
        del self.channels[channel.name]
        return True

    # Subscriptions

    def join(self, subscriber: Subscriber, channel: Channel, form: Form) -> None:
        """Turn a reservation into a subscription: what is delivered from now on is written to the subscriber."""
        channel.groups.setdefault(form, {})[subscriber] = subscriber.wire
        self._names[subscriber] = (*self._names.get(subscriber, ()), channel.name)
        self.subscriptions += 1

    def subscribe(self, subscriber: Subscriber, name: str, form: Form = RAW) -> bool:
        """Add a subscription; true if it is the channel's first in this worker."""
        first = name not in self.channels
        if first or subscriber not in self.channels[name]:
            self.join(subscriber, self.reserve(name), form)
        return first

    def rewire(self, subscriber: Subscriber) -> None:
        """From now on its wire is another one."""
        for name in self.channels_of(subscriber):
            for group in self.channels[name].groups.values():
                if subscriber in group:
                    group[subscriber] = subscriber.wire

    def unsubscribe(self, subscriber: Subscriber, name: str) -> bool:
        """Remove a subscription if there is one; true if it was the channel's last in this worker."""
        channel = self.channels.get(name)
        if channel is None or subscriber not in channel:
            return False
        channel._discard(subscriber)
        self.subscriptions -= 1
        names = tuple(other for other in self._names[subscriber] if other != name)
        if names:
            self._names[subscriber] = names
        else:
            del self._names[subscriber]
        return self.release(channel)

    def remove(self, subscriber: Subscriber) -> list[str]:
        """Remove all subscriptions of a connection; the channels that it was the last of."""
        return [name for name in self.channels_of(subscriber) if self.unsubscribe(subscriber, name)]
