"""What waits for a client that reads more slowly than it is written to, without I/O."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ..types import SlowPolicy
from .frames import boundaries

__all__ = ["Backlog", "Lossy"]


class Lossy(NamedTuple):
    """Says of frames which channel's publications they are, all of them, and by which policy they may be left out."""

    channel: str
    policy: SlowPolicy


class _Droppable:
    """A chunk that may be taken back; empty from then on. `channel` if it gives way to the next one of that."""

    __slots__ = ("channel", "chunk")

    def __init__(self, chunk: bytes, channel: str | None) -> None:
        self.chunk = chunk
        self.channel = channel


class Backlog:
    """Chunks of whole frames, at most `budget` bytes of them.

    A chunk is what one channel delivered in one tick, or a reply. Beyond the budget the oldest chunks of channels with
    `drop_oldest` make room; of a channel with `keep_latest` the frame that came last is all that ever waits. Nothing
    else is dropped, nor the newest frame.
    """

    __slots__ = ("_budget", "_chunks", "_gone", "_latest", "_oldest", "dropped", "size")

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._chunks: deque[bytes | _Droppable] = deque()
        # Of channels with `drop_oldest`, in order; and of those with `keep_latest`.
        self._oldest: deque[_Droppable] = deque()
        self._latest: dict[str, _Droppable] = {}
        # How many of `_chunks` were taken back.
        self._gone = 0
        # Bytes that wait.
        self.size: int = 0
        # Frames thrown away so far.
        self.dropped: int = 0

    def __bool__(self) -> bool:
        return bool(self.size)

    def push(self, chunk: bytes, lossy: Lossy | None = None) -> bool:
        """Keep `chunk`; false if the client is to be disconnected instead, because there is no room."""
        if lossy is None or lossy.policy == "disconnect":
            return self._make_room(chunk) and self._keep(chunk)
        channel = lossy.channel if lossy.policy == "keep_latest" else None
        if channel is not None:
            self._drop(self._latest.get(channel))
            chunk = self._newest(chunk, 0)
        if not self._make_room(chunk):
            chunk = self._newest(chunk, self._budget - self.size)
            if self.size and self.size + len(chunk) > self._budget:
                return False
        return self._keep(chunk, _Droppable(chunk, channel))

    def pop(self, most: int = 0) -> bytes:
        """The oldest chunk, joined with those behind it as long as they have `most` bytes together.

        Raises IndexError if there is none.
        """
        chunks = [self._pop()]
        size = len(chunks[0])
        while self.size and (size := size + len(self._next())) <= most:
            chunks.append(self._pop())
        return b"".join(chunks) if len(chunks) > 1 else chunks[0]

    def _next(self) -> bytes:
        """The oldest chunk, which stays; there is one."""
        while True:
            first = self._chunks[0]
            chunk = first if isinstance(first, bytes) else first.chunk
            if chunk:
                return chunk
            self._chunks.popleft()
            self._gone -= 1

    def _pop(self) -> bytes:
        chunk = self._next()
        first = self._chunks.popleft()
        if not isinstance(first, bytes):
            self._take(first)
        self.size -= len(chunk)
        return chunk

    def _keep(self, chunk: bytes, droppable: _Droppable | None = None) -> bool:
        self._chunks.append(droppable or chunk)
        self.size += len(chunk)
        if droppable is not None and droppable.channel is not None:
            self._latest[droppable.channel] = droppable
        elif droppable is not None:
            self._oldest.append(droppable)
        return True

    def _make_room(self, chunk: bytes) -> bool:
        while self.size + len(chunk) > self._budget and self._oldest:
            self._drop(self._oldest[0])
        return self.size + len(chunk) <= self._budget

    def _drop(self, droppable: _Droppable | None) -> None:
        if droppable is None:
            return
        chunk = self._take(droppable)
        self.size -= len(chunk)
        self.dropped += sum(1 for _ in boundaries(chunk))
        self._gone += 1
        if self._gone > len(self._chunks) / 2:
            self._chunks = deque(chunk for chunk in self._chunks if isinstance(chunk, bytes) or chunk.chunk)
            self._gone = 0

    def _take(self, droppable: _Droppable) -> bytes:
        chunk, droppable.chunk = droppable.chunk, b""
        if chunk and droppable.channel is not None:
            del self._latest[droppable.channel]
        elif chunk:
            self._oldest.popleft()  # both are in order
        return chunk

    def _newest(self, chunk: bytes, room: int) -> bytes:
        """The last frames of `chunk` for which there is room, at least one."""
        last = len(chunk)
        for start, _, end in boundaries(chunk):
            if last - start <= room or end == last:
                return chunk[start:]
            self.dropped += 1
        return chunk
