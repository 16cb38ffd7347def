"""What the hub has to reach, and whether it does: ratios of medians within one run."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .plan import Figures

__all__ = ["GUARDS", "PEER_TARGETS", "TARGETS", "Medians", "Sample", "Target", "Verdict", "judge", "medians"]

COMPARISONS = {">=": operator.ge, "<=": operator.le}

# Scenario → server → figure → median.
Medians = dict[str, dict[str, Figures]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One repetition."""

    scenario: str
    server: str
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the hub has to reach."""

    text: str
    scenario: str
    figure: str
    comparison: str
    bound: float
    # Whose figure it is; divided by that of the other server, None if it counts as it stands.
    server: str = "hub"
    against: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A target and what was measured."""

    text: str
    measured: float
    comparison: str
    bound: float
    reached: bool


def _fan_out(window: int, bound: float, against: str, server: str = "hub") -> Target:
    who = {"hub": "hub", "channels": "channel endpoint"}[server]
    whom = {"hub-long": "raw room, as many bytes"}.get(against, against)
    return Target(
        text=f"deliveries per CPU-second, {window} outstanding, {who} / {whom}",
        scenario=f"window-{window}",
        figure="deliveries_per_cpu_second",
        comparison=">=",
        bound=bound,
        server=server,
        against=against,
    )


def _endpoints(window: int, bound: float) -> Target:
    """Of the worker that fans out; what publishing costs is in `publishers`, and in the rooms of one worker."""
    return Target(
        text=f"deliveries per CPU-second, {window} outstanding, channel endpoint / raw room of the same worker",
        scenario="endpoints",
        figure=f"window_{window}_raw_by_channel",
        comparison=">=",
        bound=bound,
        server="channels-pair",
    )


def _memory(server: str, bound: float, text: str) -> Target:
    figure = "rss_kib_per_connection"
    return Target(text=text, scenario="connections", figure=figure, comparison="<=", bound=bound, server=server)


def _accept(bound: float) -> Target:
    return Target(
        text="CPU to accept a connection, hub / tutorial",
        scenario="connections",
        figure="accept_cpu_ms",
        comparison="<=",
        bound=bound,
        against="tutorial",
    )


# Of `make bench`, with a margin, so that a miss is a regression.
TARGETS = (
    _fan_out(1, 1.8, "tutorial"),
    _fan_out(32, 10, "tutorial"),
    _endpoints(1, 0.85),
    _endpoints(32, 0.85),
    _memory("hub", 8, "memory of an idle connection, KiB"),
    _accept(0.6),
)

# Of a run that is small and short, on a machine that does other things too: what only a regression misses.
GUARDS = (
    _fan_out(1, 1.3, "tutorial"),
    _fan_out(32, 5, "tutorial"),
    _fan_out(32, 0.6, "hub-long", "channels"),
    _memory("hub", 8, "memory of an idle connection, raw room, KiB"),
    _memory("channels", 10, "memory of an idle connection, channel endpoint, KiB"),
    _accept(1.0),
)

# Of `make bench-peers`: what is claimed.
PEER_TARGETS = (
    _fan_out(1, 2, "tutorial"),
    _fan_out(1, 18, "python-socketio"),
    _fan_out(1, 50, "channels-core"),
    _fan_out(1, 50, "channels-pubsub"),
    _fan_out(1, 1.2, "nchan"),
    _fan_out(1, 0.95, "c-loop"),
    _fan_out(32, 15, "tutorial"),
    _fan_out(32, 7, "nchan"),
    _fan_out(32, 7, "c-loop"),
    _endpoints(1, 0.85),
    _endpoints(32, 0.85),
    _memory("hub", 7, "memory of an idle connection, raw room, KiB"),
    _memory("channels", 9, "memory of an idle connection, channel endpoint, KiB"),
    _accept(0.5),
    Target(
        text="publishes per CPU-second, to Redis and back, hub / redis-py",
        scenario="publish",
        figure="publishes_per_cpu_second",
        comparison=">=",
        bound=6,
        server="publish-hub",
        against="publish-redis-py",
    ),
    Target(
        text="CPU of a delivery, 10,000 channels / 1 channel",
        scenario="many-channels",
        figure="cost_ratio",
        comparison="<=",
        bound=1.3,
        server="channels-pair",
    ),
    Target(
        text="p99 latency at half of what saturates the tutorial, hub / tutorial",
        scenario="half-load",
        figure="p99_ms",
        comparison="<=",
        bound=0.5,
        against="tutorial",
    ),
    Target(
        text="reads of a channel's history when 1,000 clients come back",
        scenario="recovery",
        figure="reads_per_channel",
        comparison="<=",
        bound=2,
        server="channels-pair",
    ),
)


def medians(samples: Iterable[Sample]) -> Medians:
    gathered: dict[str, dict[str, dict[str, list[float]]]] = {}
    for sample in samples:
        of_server = gathered.setdefault(sample.scenario, {}).setdefault(sample.server, {})
        for figure, value in sample.figures.items():
            of_server.setdefault(figure, []).append(value)
    return {
        scenario: {server: {f: statistics.median(values) for f, values in of.items()} for server, of in servers.items()}
        for scenario, servers in gathered.items()
    }


def judge(results: Medians, targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """Of each target for which everything was measured."""
    return [verdict for target in targets if (verdict := _judge(results.get(target.scenario, {}), target)) is not None]


def _judge(servers: dict[str, Figures], target: Target) -> Verdict | None:
    if not {target.server, target.against or target.server} <= servers.keys():
        return None
    measured = servers[target.server][target.figure]
    if target.against is not None:
        measured /= servers[target.against][target.figure]
    reached = COMPARISONS[target.comparison](measured, target.bound)
    return Verdict(
        text=target.text, measured=measured, comparison=target.comparison, bound=target.bound, reached=reached
    )
