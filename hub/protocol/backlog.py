"""What waits for a client that reads more slowly than it is written to, without I/O."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from ..types import SlowPolicy
from .frames import boundaries

__all__ = ["Backlog", "Lossy"]


class Lossy(NamedTuple):
    """Says of frames which channel's publications they are, all of them, and by which policy they may be left out."""

    channel: str
    policy: SlowPolicy


class Backlog:
    """Chunks of whole frames, at most `budget` bytes of them.

    A chunk is what one channel delivered in one tick, or a reply. What is not `Lossy` is never dropped. Beyond the
    budget the oldest of what is makes room; of a channel with `keep_latest` the frame that came last is all that ever
    waits. The newest frame is never dropped.
    """

    __slots__ = ("_budget", "_chunks", "_droppable", "_number", "dropped", "size")

    def __init__(self, budget: int) -> None:
        self._budget = budget
        # By the channel where one takes the place of the other, else by a number.
        self._chunks: OrderedDict[str | int, bytes] = OrderedDict()
        self._number = 0
        # Keys of those that may be dropped, the oldest first.
        self._droppable: OrderedDict[str | int, None] = OrderedDict()
        # Bytes that wait.
        self.size: int = 0
        # Frames thrown away so far.
        self.dropped: int = 0

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def push(self, chunk: bytes, lossy: Lossy | None = None) -> bool:
        """Keep `chunk`; false if the client is to be disconnected instead, because there is no room."""
        if lossy is None or lossy.policy == "disconnect":
            return self._make_room(chunk) and self._keep(chunk)
        if lossy.policy == "keep_latest":
            self._drop(lossy.channel)
            chunk = self._newest(chunk, 0)
        if not self._make_room(chunk):
            chunk = self._newest(chunk, self._budget - self.size)
            if self.size and self.size + len(chunk) > self._budget:
                return False
        return self._keep(chunk, lossy)

    def pop(self) -> bytes:
        """The oldest chunk. Raises KeyError if there is none."""
        key, chunk = self._chunks.popitem(last=False)
        self._droppable.pop(key, None)
        self.size -= len(chunk)
        return chunk

    def _keep(self, chunk: bytes, lossy: Lossy | None = None) -> bool:
        self._number += 1
        key = lossy.channel if lossy is not None and lossy.policy == "keep_latest" else self._number
        self._chunks[key] = chunk
        self.size += len(chunk)
        if lossy is not None:
            self._droppable[key] = None
        return True

    def _make_room(self, chunk: bytes) -> bool:
        while self.size + len(chunk) > self._budget and self._droppable:
            self._drop(next(iter(self._droppable)))
        return self.size + len(chunk) <= self._budget

    def _drop(self, key: str | int) -> None:
        chunk = self._chunks.pop(key, b"")
        self._droppable.pop(key, None)
        self.size -= len(chunk)
        self.dropped += sum(1 for _ in boundaries(chunk))

    def _newest(self, chunk: bytes, room: int) -> bytes:
        """The last frames of `chunk` for which there is room, at least one."""
        last = len(chunk)
        for start, _, end in boundaries(chunk):
            if last - start <= room or end == last:
                return chunk[start:]
            self.dropped += 1
        return chunk
