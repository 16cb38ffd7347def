"""The position of one channel in one worker, without I/O.

One ordered feed serves all local subscribers of a channel, so there is one position for all of them, and what came
before it is remembered once. A publication that is not the next one shows a gap: from then on publications are held
back until the missing ones have been read from the history and can be delivered in order, or are found to be lost.
The history ends as a whole, some time after its last publication, and so does what is remembered of it: `now` is a
time in seconds by any clock, but always the same one.

    arrive() ─▶ what to deliver now            gap ─▶ begin() … read … fill() ─▶ what to deliver, and what is lost

A server that takes the place of another may lack the last publications, and give their offsets to others. So each read
begins with the publication at the position: if the history has another one there, or does not reach as far, it is not
the one that was delivered. It goes on under a *renewed* epoch then, and everybody's position is an old one.
Besides, offsets *leap* at the first publication that such a server takes, which says what it follows: whoever stands in
between has had publications that are lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from ..types import HistoryOptions, Publication, StreamPosition

__all__ = ["HELD_LIMIT", "Filled", "Recovery", "Stream", "renewed"]

# Publications that are held back while a gap is filled; more are dropped, and so become a gap of their own.
HELD_LIMIT = 10_000
# Bytes of recent publications that a channel remembers.
RING_BYTES = 1024 * 1024


@dataclass(slots=True, frozen=True)
class Filled:
    """The outcome of a read. `lost`: what is missing cannot be had any more, positioned subscribers must be told."""

    deliver: list[Publication] = field(default_factory=list)
    lost: bool = False
    # How many were held back that the history does not reach.
    strays: int = 0


@dataclass(slots=True, frozen=True)
class Recovery:
    """All that a client missed, oldest first; None if that cannot be had."""

    publications: list[Publication] | None


def _leads(start: int, publications: Sequence[Publication], end: int) -> bool:
    """Whether these are all publications from offset `start` to `end`."""
    for publication in publications:
        if publication.previous != start:
            return False
        start = publication.offset
    return start == end


def renewed(epoch: str, fresh: str) -> str:
    """The epoch after `epoch` of a history that has lost its end and keeps the rest; `fresh` was never one."""
    return f"{_origin(epoch)}.{fresh}"


def _origin(epoch: str) -> str:
    """What all epochs of one history have in common."""
    return epoch.partition(".")[0]


class Stream:
    """Where a channel stands. Live while nothing is known to be missing and no read is under way."""

    __slots__ = (
        "_back",
        "_bytes",
        "_expires",
        "_floor",
        "_held",
        "_limit",
        "_owed",
        "_removed",
        "_settled",
        "_tip",
        "doubted",
        "epoch",
        "history",
        "last",
        "offset",
        "reading",
        "reads",
        "ring",
        "suspected",
    )

    def __init__(self, history: HistoryOptions, limit: int) -> None:
        """`limit`: how many recent publications are remembered at most."""
        self.history: HistoryOptions = history
        self._limit = min(limit, history.size)
        # The position, if `epoch` is not empty.
        self.offset: int = 0
        self.epoch: str = ""
        # Recent publications without a gap, the last one at the position.
        self.ring: deque[Publication] = deque()
        self._bytes = 0
        # What came while a read was under way.
        self._held: list[Publication] = []
        self.reading: bool = False
        # Something may have been missed, or the history be another one: nothing is delivered before the next read.
        self.doubted: bool = False
        # The history may be that of another server: it must prove that it is the one that was delivered.
        self.suspected: bool = False
        # The history had the publication at the position when the feed was lost.
        self._owed = False
        # Reads begun so far.
        self.reads: int = 0
        # Of the read: how many were held back when it began; whether it reaches behind the position; whether the
        # history was removed since.
        self._settled, self._back, self._removed = 0, False, False
        # The history is known not to reach behind this offset.
        self._floor = 0
        # The last publication, if the history still has it; the ring may be empty.
        self.last: Publication | None = None
        # When the history lets go of it.
        self._expires = 0.0
        # The publication at the position, kept or not; None if the history had none there when the position was read.
        self._tip: Publication | None = None

    @property
    def live(self) -> bool:
        return bool(self.epoch) and not self.reading and not self.doubted

    @property
    def position(self) -> StreamPosition:
        return StreamPosition(self.offset, self.epoch)

    @property
    def _start(self) -> int:
        """Who stands here, or later, can recover from the ring."""
        return self.ring[0].previous if self.ring else self.offset

    # Arrivals

    def arrive(self, publication: Publication, now: float) -> list[Publication] | None:
        """What of it to deliver now; None if it shows a gap, it is held back then."""
        if not self.live:
            self._hold(publication)
            return []
        if publication.epoch == self.epoch and publication.offset <= self.offset:
            return []  # late: it was read from the history already
        if publication.epoch == self.epoch and publication.previous == self.offset:
            self._advance(publication, now)
            return [publication]
        self._hold(publication)
        return None

    def _hold(self, publication: Publication) -> None:
        if len(self._held) < HELD_LIMIT:
            self._held.append(publication)

    def doubt(self, now: float) -> None:
        """The feed is lost, and may come back from another server: what is held back need not be of its history."""
        self.doubted = True
        self._owed = self.newest(now) is not None
        self._held.clear()
        self._settled = 0

    def _advance(self, publication: Publication, now: float) -> None:
        self._expire(now)
        self.offset = publication.offset
        self.last = self._tip = publication
        self._expires = now + self.history.ttl
        self.ring.append(publication)
        self._bytes += len(publication.data)
        self._trim()

    def _trim(self) -> None:
        while len(self.ring) > self._limit or self._bytes > RING_BYTES:
            self._bytes -= len(self.ring.popleft().data)

    # Reads

    def begin(self, back: int = 0) -> int | None:
        """A read of what is missing begins; the offset after which to read, None if nothing is known yet.

        It includes the publication at the position, and `back` asks for so many up to there, for the ring. If the read
        fails the stream is not live until another one succeeds.
        """
        self.reading, self.doubted = True, False
        self.reads += 1
        self._settled = len(self._held)
        self._back, self._removed = bool(back), self._removed and bool(self._held)
        return self._behind(max(back, 1)) if self.epoch else None

    def _behind(self, back: int) -> int:
        """The offset that is so many publications behind the position; leaps that are not remembered do not count."""
        offset = self.offset - back
        for publication in reversed(self.ring):
            if offset < publication.offset - 1:
                offset -= publication.offset - 1 - publication.previous
        return max(0, offset)

    def is_contradicted(self, kept: Sequence[Publication], top: StreamPosition, now: float) -> bool:
        """Whether the read has found, under the same epoch, another history than the one that was delivered."""
        if top.epoch != self.epoch:
            return False
        here = next((p for p in kept if p.offset == self.offset), None)
        if top.offset < self.offset or (here is not None and here != self._tip):
            return True
        if here is not None or not (self.suspected or self.doubted) or not self.offset:
            return False
        if any(p.before for p in kept if p.offset > self.offset):
            return False  # it says itself whether it follows
        # It is not there to prove anything, though it had not ended with its history when the feed was lost; or others
        # have pushed it out, and whether they followed it nobody knows.
        return self._owed or self.newest(now) is not None or len(kept) >= self.history.size

    def fill(self, kept: Sequence[Publication], top: StreamPosition, now: float) -> Filled:
        """The outcome of the read: what the history has after the offset that `begin` named (all of it if that was
        None, or if it is another history), and its end. Live again afterwards.
        """
        newer, known = self._newer(kept, top), bool(self.epoch)
        whole = top.epoch == self.epoch and _leads(self.offset, newer, top.offset)
        lost = known and (not whole or self.is_contradicted(kept, top, now))
        if lost or not known:
            self._reset(top)
            self._remember(kept, now)
        else:
            if self._back:
                self._remember(kept, now)
            elif not any(p.offset == self.offset for p in kept):
                self._drop()  # the history was removed, and the order to forget it may be lost; or it has ended
            for publication in newer:
                self._advance(publication, now)
        self.reading, self.suspected = False, self.suspected and self.doubted
        # What is left goes to those who do not rely on completeness; of another history nobody had anything yet.
        filled = self._release(Filled(newer if known else [], lost), now)
        if self._removed:
            self.forget()
        return filled

    def _newer(self, kept: Sequence[Publication], top: StreamPosition) -> list[Publication]:
        """What came after the position, up to `top`. What was held back the history may have dropped meanwhile."""
        after = self.offset if top.epoch == self.epoch else self._shared(kept, top)
        found = {p.offset: p for p in (*self._held, *kept) if p.epoch == top.epoch and after < p.offset <= top.offset}
        return [found[offset] for offset in sorted(found)]

    def _shared(self, kept: Sequence[Publication], top: StreamPosition) -> int:
        """Up to where a history of another epoch is the one that was delivered; 0 if it has begun anew.

        What is remembered says it. What was before that was delivered too; if nothing is remembered, all was.
        """
        if _origin(top.epoch) != _origin(self.epoch):
            return 0
        ours = {publication.offset: publication for publication in self.ring}
        same = [p.offset for p in kept if p.offset in ours and replace(p, epoch=self.epoch) == ours[p.offset]]
        return same[-1] if same else self._start

    def _release(self, filled: Filled, now: float) -> Filled:
        """Let go what was held back; if that shows the next gap, the rest is held back again.

        What came before the read began and is of another history, or further than this one goes, is none of it: nobody
        misses what is older than what was read, and no read would ever find what was never kept.
        """
        held, self._held = self._held, []
        deliver, gap, strays = filled.deliver, False, 0
        for index, publication in enumerate(held):
            if index < self._settled and (publication.epoch != self.epoch or publication.offset > self.offset):
                strays += publication.epoch == self.epoch
                continue
            if gap:
                self._hold(publication)
                continue
            next_ones = self.arrive(publication, now)
            gap = next_ones is None
            deliver += next_ones or ()
        return Filled(deliver, filled.lost, strays)

    @property
    def gap(self) -> bool:
        """Live, and yet something is held back: the next read is due."""
        return not self.reading and bool(self._held)

    def _reset(self, top: StreamPosition) -> None:
        self.offset, self.epoch = top
        self._tip = None
        self._drop()

    # What is remembered

    def forget(self) -> None:
        """The history was removed: what is remembered of it, held back or being read, is not recovered.

        The position stays.
        """
        self._drop()
        self._removed = self.reading or bool(self._held)

    def tidy(self, now: float) -> None:
        """Let go of what has ended, and of what a read has fetched beyond what is remembered."""
        self._expire(now)
        self._trim()

    def _expire(self, now: float) -> None:
        if self.last is not None and now >= self._expires:
            self._drop()

    def _drop(self) -> None:
        self.ring.clear()
        self._bytes = 0
        self.last = None

    def _remember(self, kept: Sequence[Publication], now: float) -> None:
        """Learn what the history has up to the position, and how far it reaches back without a gap."""
        tail: deque[Publication] = deque()
        for publication in reversed([p for p in kept if p.offset <= self.offset]):
            if publication.offset != (tail[0].previous if tail else self.offset):
                break
            tail.appendleft(publication)
        self._expire(now)
        if self.last is None:
            self._expires = now + self.history.ttl
        self.ring, self._bytes = tail, sum(len(p.data) for p in tail)
        self.last = tail[-1] if tail else None
        self._tip = self.last or self._tip
        self._floor = self._start

    # Recovery

    def recover(self, since: StreamPosition, limit: int, now: float) -> Recovery | None:
        """What comes after `since`, at most `limit`; None if the history must be read first, back to `limit`.

        A client that stood in another epoch, further than the channel is, or where offsets have leapt, has seen another
        history. Offset 0 without an epoch is the beginning of what was ever published.
        """
        self._expire(now)
        if since.epoch not in ("", self.epoch) or since.offset > self.offset:
            return Recovery(None)
        missed = [p for p in self.ring if p.offset > since.offset]
        if since.offset >= self._start:
            whole = len(missed) <= limit and _leads(since.offset, missed, self.offset)
            return Recovery(missed if whole else None)
        too_many = self._start - since.offset + len(missed) > limit
        return Recovery(None) if too_many or since.offset < self._floor else None

    def newest(self, now: float) -> Publication | None:
        """The last publication, if the history still has it."""
        self._expire(now)
        return self.last

    def knows_newest(self, now: float) -> bool:
        """Whether `newest` needs no read: None is then for a history that was found empty, not for one forgotten."""
        return self.newest(now) is not None or self._floor == self.offset
