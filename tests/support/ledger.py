"""What was published, what was heard, and what is wrong with it.

A content is unique in its channel, and a place (epoch and offset) has one content. So whoever hears something compares
it with what everybody else heard there, and what the API has answered for that place; memory grows with publications,
not with deliveries.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Ledger", "Place", "content", "follows", "sent_at"]

EXAMPLES = 30
# Where another server goes on with a history, its first publication stands right behind a multiple of this.
LEAP = 2**20


class Place(NamedTuple):
    """Where in the history of a channel."""

    epoch: str
    offset: int


def follows(offset: int, before: int) -> bool:
    """Whether it may be the next one: right behind, or where offsets have leapt."""
    return offset == before + 1 or (offset % LEAP == 1 and offset // LEAP > before // LEAP)


def content(publisher: str, number: int) -> str:
    """What a publication says: who, which of his, and when."""
    return f"{publisher}:{number}:{time.monotonic():.3f}"


def sent_at(text: str) -> float:
    return float(text.rpartition(":")[2])


class Ledger:
    """Shared by all publishers and listeners of one test."""

    def __init__(self) -> None:
        # By channel: publications that the API has answered with their place, and contents of which nobody knows
        # whether they were published.
        self.accepted: defaultdict[str, dict[Place, str]] = defaultdict(dict)
        self.doubtful: defaultdict[str, set[str]] = defaultdict(set)
        # By channel: what anybody has heard.
        self.heard: defaultdict[str, dict[Place, str]] = defaultdict(dict)
        self.deliveries = 0
        # The longest time from the call of the API to a client.
        self.slowest = 0.0
        self.violations: Counter[str] = Counter()
        self.examples: list[str] = []

    def __repr__(self) -> str:
        accepted, doubtful = (sum(map(len, table.values())) for table in (self.accepted, self.doubtful))
        return f"<Ledger {accepted} accepted, {doubtful} doubtful, {self.deliveries} deliveries, {self.verdict}>"

    @property
    def verdict(self) -> str:
        """What a test prints if anything is wrong."""
        if not self.violations:
            return "no violations"
        counts = ", ".join(f"{count} {kind}" for kind, count in self.violations.most_common())
        return "\n  ".join([counts, *self.examples])

    def violation(self, kind: str, detail: str, count: int = 1) -> None:
        self.violations[kind] += count
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{kind}: {detail:.300}")

    def lose(self, behind: Iterable[str]) -> None:
        """These have not got to the end of their channels."""
        for detail in behind:
            self.violation("lost", detail)

    # Publishing

    def accept(self, channel: str, place: Place, text: str) -> None:
        """The API has answered that `text` is there."""
        other = self.accepted[channel].setdefault(place, text)
        if other is not text:
            self.violation("place given twice", f"{channel} {place}: {other!r} and {text!r}")

    def doubt(self, channel: str, text: str) -> None:
        """It was sent, and no answer came, or none that says that it was not published."""
        self.doubtful[channel].add(text)

    # Hearing

    def hear(self, who: str, channel: str, place: Place, text: str) -> None:
        """A client was given `text` at `place`."""
        other = self.heard[channel].setdefault(place, text)
        if other != text:
            self.violation("changed", f"{who} heard {text!r} at {channel} {place}, another client {other!r}")
        self.deliveries += 1
        self.slowest = max(self.slowest, time.monotonic() - sent_at(text))

    def tell(self, who: str, channel: str) -> None:
        """A client was told that it may lack something: what it hears next need not follow what it has heard."""

    # Judging

    def judge(self) -> None:
        """Once, at the end: what was heard against what was published."""
        for channel, heard in self.heard.items():
            self._judge_contents(channel, heard)
            self._judge_repetitions(channel, heard)
        for channel, accepted in self.accepted.items():
            self._judge_order(channel, accepted)

    def _judge_contents(self, channel: str, heard: dict[Place, str]) -> None:
        """At each place is what the API said; what it did not speak of was at least sent."""
        accepted, doubtful = self.accepted[channel], self.doubtful[channel]
        for place, text in heard.items():
            if place in accepted and accepted[place] != text:
                self.violation("changed", f"{channel} {place}: accepted {accepted[place]!r}, heard {text!r}")
            elif place not in accepted and text not in doubtful:
                self.violation("invented", f"{channel} {place}: {text!r} was not accepted there")

    def _judge_repetitions(self, channel: str, heard: dict[Place, str]) -> None:
        """Nothing was published twice."""
        for text, count in Counter(heard.values()).items():
            if count > 1:
                self.violation("published twice", f"{channel}: {text!r} at {count} places")

    def _judge_order(self, channel: str, accepted: dict[Place, str]) -> None:
        """What one publisher got accepted one after the other stands in this order."""
        latest: dict[tuple[str, str], int] = {}
        for place, text in sorted(accepted.items()):
            publisher, number, _ = text.split(":")
            key = (place.epoch, publisher)
            if int(number) <= latest.get(key, -1):
                self.violation("out of order", f"{channel} {place}: {text!r} comes after number {latest[key]}")
            latest[key] = int(number)
