"""The history of channels in one process: the reference for what the scripts in `hub/lua` do.

Nothing here runs by itself. A look at a channel sees what has expired as gone, and each call frees the memory of what
has expired since, which is all that can be there: without calls nothing is added.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush, heapreplace
from itertools import islice

from .broker import IDEMPOTENCY_TTL, fresh_epoch
from .protocol.stream import renewed
from .types import HistoryOptions, HistoryPage, PublishResult, StreamPosition

__all__ = ["MAX_CHANNELS", "MemoryHistory"]

# Beyond, the channel that would be forgotten next is forgotten at once: its clients learn from the new epoch that they
# cannot recover. Positions live for weeks, and who may name channels could fill the memory with them.
MAX_CHANNELS = 100_000


class MemoryHistory:
    """Positions and publications of channels. `now` is any clock in seconds, but always the same one."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        # Channels by the time when their publications end, and by the time when they are forgotten altogether.
        self._ends, self._lives = _Queue(), _Queue()
        # The results of publications by channel and idempotency key, with the time of their end; oldest first.
        self._results: dict[tuple[str, str], tuple[float, PublishResult]] = {}

    def __len__(self) -> int:
        """How many channels have a position."""
        return len(self._streams)

    def append(
        self, now: float, channel: str, payload: bytes, options: HistoryOptions, version: int, version_epoch: str
    ) -> PublishResult:
        """Keep a publication, unless there was a newer version."""
        stream = self._stream(now, channel, options.meta_ttl)
        if version > 0:
            if stream.has(version, version_epoch):
                return PublishResult(stream.offset, stream.epoch, True)
            stream.version, stream.version_epoch = version, version_epoch
        stream.append(payload, options.size)
        stream.ends = now + options.ttl
        self._ends.add(channel, stream.ends)
        return PublishResult(stream.offset, stream.epoch)

    def read(
        self, now: float, channel: str, since: int | None, limit: int, reverse: bool, meta_ttl: float
    ) -> HistoryPage:
        """The publications after `since`, in `reverse` those before it, and the position."""
        stream = self._stream(now, channel, meta_ttl)
        skip = stream.distance(since, reverse) if since is not None else 0
        entries = reversed(stream.entries) if reverse else iter(stream.entries)
        publications = list(islice(entries, skip, skip + limit if limit >= 0 else None))
        return HistoryPage(publications, StreamPosition(stream.offset, stream.epoch))

    def remove(self, channel: str) -> None:
        """Forget the publications; the position stays."""
        if channel in self._streams:
            self._streams[channel].entries.clear()

    def renew(self, channel: str, epoch: str) -> None:
        """Go on under another epoch, if this is the present one."""
        stream = self._streams.get(channel)
        if stream is not None and stream.epoch == epoch:
            stream.epoch = renewed(epoch, fresh_epoch())

    def first_result(self, now: float, channel: str, key: str) -> PublishResult | None:
        """What `remember` was told for this idempotency key."""
        while self._results:
            oldest = next(iter(self._results))
            if self._results[oldest][0] > now:
                break
            del self._results[oldest]
        _, result = self._results.get((channel, key), (0, None))
        return result

    def remember(self, now: float, channel: str, key: str, result: PublishResult) -> None:
        """Keep a result for 5 minutes; only if there is none yet."""
        self._results[channel, key] = now + IDEMPOTENCY_TTL, result

    def _stream(self, now: float, channel: str, meta_ttl: float) -> _Stream:
        """The stream as it is now, new if there was none, and to be kept for `meta_ttl` more."""
        self._end_publications(now)
        self._forget(now)
        stream = self._streams.get(channel)
        if stream is None or stream.forgotten <= now:
            if len(self) >= MAX_CHANNELS:
                self._forget(None)
            stream = self._streams[channel] = _Stream()
        elif stream.ends <= now:
            stream.entries.clear()
        stream.forgotten = now + meta_ttl
        self._lives.add(channel, stream.forgotten)
        return stream

    def _end_publications(self, now: float) -> None:
        """Free those that have expired."""
        while (channel := self._ends.due(now)) is not None:
            stream = self._streams.get(channel)
            if stream is not None and stream.ends > now:
                self._ends.put_off(stream.ends)
                continue
            self._ends.pop()
            if stream is not None:
                stream.entries.clear()

    def _forget(self, now: float | None) -> None:
        """Free the channels whose time has come, or (None) the one that is next."""
        while (channel := self._lives.due(now)) is not None:
            if self._streams[channel].forgotten > self._lives.first:
                self._lives.put_off(self._streams[channel].forgotten)
                continue
            self._lives.pop()
            del self._streams[channel]
            if now is None:
                break


class _Stream:
    """The history of one channel."""

    __slots__ = ("ends", "entries", "epoch", "forgotten", "offset", "version", "version_epoch")

    def __init__(self) -> None:
        self.epoch = fresh_epoch()
        # Of the last publication.
        self.offset = 0
        self.version, self.version_epoch = 0, ""
        # (offset, payload), oldest first.
        self.entries: deque[tuple[int, bytes]] = deque()
        # When the entries end, and when all of this does.
        self.ends = self.forgotten = 0.0

    def has(self, version: int, version_epoch: str) -> bool:
        """Whether a publication of this version would be old."""
        return version <= self.version and version_epoch in ("", self.version_epoch)

    def distance(self, since: int, reverse: bool) -> int:
        """How many entries there are from the oldest (in `reverse` from the newest) up to and including `since`."""
        first = self.offset - len(self.entries)
        distance = self.offset + 1 - since if reverse else since - first
        return min(max(0, distance), len(self.entries))

    def append(self, payload: bytes, size: int) -> None:
        self.offset += 1
        self.entries.append((self.offset, payload))
        while len(self.entries) > size:
            self.entries.popleft()


class _Queue:
    """Channels by a time that is usually put off before it comes; each is in it once at most.

    To put off costs nothing: the time in the queue is the one from when the channel was added, and whoever finds it
    due looks at the true one.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._members: set[str] = set()

    @property
    def first(self) -> float:
        """The earliest time; there must be one."""
        return self._heap[0][0]

    def add(self, channel: str, time: float) -> None:
        """Does nothing if the channel is in already."""
        if channel not in self._members:
            self._members.add(channel)
            heappush(self._heap, (time, channel))

    def due(self, now: float | None) -> str | None:
        """The first channel if its time has come, or (None) in any case."""
        if self._heap and (now is None or self._heap[0][0] <= now):
            return self._heap[0][1]
        return None

    def pop(self) -> None:
        """Take the first one out."""
        _, channel = heappop(self._heap)
        self._members.remove(channel)

    def put_off(self, time: float) -> None:
        """Give the first one its true time."""
        heapreplace(self._heap, (time, self._heap[0][1]))
