"""A wire into Python instead of a socket: what waits for an iterator, within a byte budget."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from .errors import HubError
from .log import Throttled
from .protocol.forms import Event, Form
from .registry import KeepsAll, Writer
from .types import DataKind, Membership, Publication, SlowPolicy

__all__ = ["VALUES", "Inbox", "MessagesLost", "Unsubscribed", "lost_messages", "value_of"]

log: logging.Logger = logging.getLogger("hub")

_lost = Throttled(log, logging.WARNING, "%d messages dropped for iterators that take them too slowly")

# Before the data of each message: its `DataKind`, and its length in bytes.
_HEAD = struct.Struct(">BI")


def lost_messages() -> int:
    """Of all iterators of this process, because they took them too slowly."""
    return _lost.total


class Unsubscribed(Exception):
    """The subscription has ended, and everything that came before has been taken."""


class MessagesLost(HubError):
    """An iterator was slower than its channel. Everything before was delivered; what comes next goes on behind the gap.

    `channel` is where, `lost` how many messages the gap has.
    """

    def __init__(self, channel: str, lost: int, budget: int) -> None:
        super().__init__(
            f"{lost} messages in {channel!r} were dropped, because more than {budget} bytes of others waited for this "
            "iterator: await less between two events, or set HUB_SLOW_BUDGET higher"
        )
        self.channel = channel
        self.lost = lost


@dataclass(frozen=True, slots=True)
class _ValueForm:
    """The data alone, as `_parts` takes them apart again."""

    positioned = False
    slow: ClassVar[SlowPolicy] = "disconnect"  # there is an `Inbox` behind it, which has a way of its own

    @property
    def next(self) -> Form:
        return self

    def frames(self, channel: str, events: Sequence[Event], base: Publication | None) -> list[bytes]:
        return [
            b"" if isinstance(event, Membership) else _HEAD.pack(event.kind, len(event.data)) + event.data
            for event in events
        ]


VALUES = _ValueForm()


def _parts(chunk: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and data of each message in joined frames of `VALUES`."""
    at = 0
    while at < len(chunk):
        kind, size = _HEAD.unpack_from(chunk, at)
        at += _HEAD.size + size
        yield kind, chunk[at - size : at]


def value_of(kind: int, data: bytes) -> Any:
    """What Python gets of a publication: text as `str`, JSON as its value, binary as `bytes`."""
    if kind == DataKind.BINARY:
        return data
    if kind == DataKind.JSON:
        try:
            return msgspec.json.decode(data)
        except (msgspec.MsgspecError, RecursionError):
            pass  # deeper than Python goes: its text
    return data.decode()


def _discard(chunk: bytes) -> None:
    """`write` at the end."""


class Inbox(KeepsAll):
    """One iterator's subscription. Implements `hub.registry.Subscriber`, and is the wire that is written to.

    Chunks are what a channel delivered in one turn of the loop; all iterators of the channel share them. Over the
    budget the newest are dropped, so that what was taken and what waits has no gap, until everything that waits has
    been taken: then the gap is told, and it goes on. What comes while nothing waits is always kept.
    """

    # Iterators hear what their own program publishes.
    id = b""

    def __init__(self, channel: str, budget: int) -> None:
        self.channel = channel
        self._budget = budget
        # The chunk that is being taken, then those behind it.
        self._messages: Iterator[tuple[int, bytes]] = iter(())
        self._chunks: deque[bytes] = deque()
        # Bytes in `_chunks`.
        self.size: int = 0
        # Messages dropped behind those that wait.
        self._lost = 0
        self._ended = False
        self._waker = asyncio.Event()
        # Another one from `end` on.
        self.write: Callable[[bytes], object] = self._keep

    # For the hub

    @property
    def wire(self) -> Writer:
        return self

    def _keep(self, chunk: bytes) -> None:
        if self._lost or (self._chunks and self.size + len(chunk) > self._budget):
            count = sum(1 for _ in _parts(chunk))
            self._lost += count
            _lost.add(count, last=repr(self.channel))
        else:
            self._chunks.append(chunk)
            self.size += len(chunk)
        self._waker.set()

    def on_insufficient(self, channel: str) -> None:
        """Told to positioned forms only."""

    # For the iterator

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self.write = _discard
        self._waker.set()

    async def take(self) -> Any:
        """The oldest message, by `value_of`.

        Raises MessagesLost at a gap, once, and Unsubscribed at the end.
        """
        while (message := next(self._messages, None)) is None:
            if self._chunks:
                self._open()
            elif self._lost:
                lost, self._lost = self._lost, 0
                raise MessagesLost(self.channel, lost, self._budget)
            elif self._ended:
                raise Unsubscribed(f"the subscription of {self.channel!r} has ended")
            else:
                self._waker.clear()
                await self._waker.wait()
        return value_of(*message)

    def _open(self) -> None:
        chunk = self._chunks.popleft()
        self.size -= len(chunk)
        self._messages = _parts(chunk)
