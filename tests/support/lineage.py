"""What clients have heard of histories that fork: a server took over that lacked the last publications.

Then a place no longer has one content, so `Ledger` cannot judge. But the history that is there at the end can be read,
and contents are unique: a client that has once heard what is not in it may hear nothing that is, unless it was told in
between that something is lost; and in the end it must stand in the history that there is.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import redis

from hub.protocol import envelope
from hub.types import Publication

from .ledger import Ledger, Place, follows

__all__ = ["Fork", "line_of"]


class Line(dict[int, str]):
    """What stands at each offset of a channel's history."""

    def __init__(self, epoch: str, texts: Mapping[int, str]) -> None:
        super().__init__(texts)
        self.epoch = epoch

    def between(self, before: int, place: Place) -> list[int]:
        """The offsets in front of a place that come after `before`; none if it is of a history that has ended."""
        if _history(place.epoch) != _history(self.epoch):
            return []
        return [offset for offset in self if before < offset < place.offset]


def _history(epoch: str) -> str:
    """What all epochs of one history have in common."""
    return epoch.partition(".")[0]


class Fork(Ledger):
    """A ledger for one server after another."""

    def __init__(self) -> None:
        super().__init__()
        # By channel, what was accepted, whatever became of it.
        self.taken: defaultdict[str, set[str]] = defaultdict(set)
        # By client and channel, in order: stretches, in which each publication seemed to be the next.
        self.stretches: defaultdict[tuple[str, str], list[list[tuple[Place, str]]]] = defaultdict(lambda: [[]])
        # When each client has heard something for the last time.
        self.heard_at: dict[str, float] = {}

    def accept(self, channel: str, place: Place, text: str) -> None:
        self.accepted[channel][place] = text
        self.taken[channel].add(text)

    def hear(self, who: str, channel: str, place: Place, text: str) -> None:
        stretches = self.stretches[who, channel]
        before = stretches[-1][-1][0] if stretches[-1] else None
        if before is not None and (place.epoch != before.epoch or not follows(place.offset, before.offset)):
            stretches.append([])
        stretches[-1].append((place, text))
        self.heard_at[who] = time.monotonic()
        self.deliveries += 1

    def tell(self, who: str, channel: str) -> None:
        self.stretches[who, channel].append([])

    def judge_by(self, lines: dict[str, Line]) -> None:
        """`lines`: by channel, what stands there in the end."""
        for (who, channel), stretches in self.stretches.items():
            texts = [text for stretch in stretches for _, text in stretch]
            if len(set(texts)) < len(texts):
                self.violation("duplicated", f"{who} heard something of {channel} twice")
            if invented := set(texts) - self.taken[channel] - self.doubtful[channel]:
                self.violation("invented", f"{who} heard {invented} in {channel}")
            for stretch in filter(None, stretches):
                self._judge_stretch(f"{who} in {channel}", stretch, lines[channel])

    def lost_in(self, lines: dict[str, Line]) -> int:
        """Publications that were accepted and are not there any more."""
        return sum(len(taken - set(lines[channel].values())) for channel, taken in self.taken.items())

    def _judge_stretch(self, where: str, stretch: list[tuple[Place, str]], line: Line) -> None:
        gone, before = False, stretch[0][0].offset
        for place, text in stretch:
            if left_out := line.between(before, place):
                self.violation("lost", f"{where}: {left_out} are there, and were not heard before {place}")
            before = place.offset
            is_there = line.get(place.offset) == text
            if gone and is_there:
                self.violation("silent fork", f"{where}: {place} {text!r} follows what is lost")
                return
            gone = gone or not is_there


def line_of(client: redis.Redis, channel: str) -> Line:
    """Read the history of a channel."""
    entries: Any = client.xrange(f"hub:stream:{{{channel}}}")
    epoch: Any = client.hget(f"hub:meta:{{{channel}}}", "e") or b""
    line = {}
    for name, fields in entries:
        offset = int(name.split(b"-")[0])
        event = envelope.decode(envelope.positioned(fields[b"d"], offset, ""))
        assert isinstance(event, Publication)
        line[offset] = event.data.decode().strip('"')
    return Line(epoch.decode(), line)
