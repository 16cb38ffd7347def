"""Durations as counts, in plain numbers that a collector reads."""

from __future__ import annotations

import itertools
from bisect import bisect_left

__all__ = ["BOUNDS", "Histogram"]

# Upper ends of the buckets, in seconds; the last bucket has none.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """How many durations fell into each bucket, and their sum."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts: list[int] = [0] * (len(BOUNDS) + 1)
        self.sum: float = 0.0

    def __repr__(self) -> str:
        return f"<Histogram of {sum(self.counts)}, {self.sum:.3f} s>"

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """(upper end, how many were not above it), as Prometheus wants it."""
        ends = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
        return list(zip(ends, map(float, itertools.accumulate(self.counts)), strict=True))
