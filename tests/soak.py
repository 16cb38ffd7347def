"""Nothing is lost, repeated or turned round while workers are killed and Redis cuts connections: `make soak`.

Workers behind nginx, clients that recover as the SDKs do, publishers that use the server API. At random moments a
worker is killed with -9 (its supervisor starts another) and Redis drops its pub/sub connections. Every client judges
every publication; the exit status is 1 if any of them has anything to complain of.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import click
from rich.table import Table

from tests.support.checker import FREEZE, Checker, all_reach
from tests.support.deployment import KEY, Deployment, running_deployment
from tests.support.figures import quantile
from tests.support.ledger import Ledger, Place
from tests.support.soaking import finish, nginx_program, on_uvloop, redis_program
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

__all__ = ["Plan", "Report", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything; times in seconds."""

    clients: int = 200
    channels: int = 20
    # Of each client.
    subscriptions: int = 2
    # Publications a second, of all channels together.
    rate: float = 2000.0
    duration: float = 60.0
    seed: int = 1
    # Workers of each `hub serve`.
    shape: tuple[int, ...] = (3,)
    # Mean time between two kills of a worker, and between two cuts of pub/sub connections.
    kill_every: float = 4.0
    cut_every: float = 2.0
    # Mean time between two losses of the connection of each client, which resets it, closes it or freezes; 0 for none.
    churn: float = 0.0
    # Nobody may hear a publication later than this after the call of the API.
    patience: float = 20.0


@dataclass(slots=True)
class Report:
    """What has happened."""

    plan: Plan
    ledger: Ledger
    kills: int = 0
    cuts: int = 0
    churned: int = 0
    sent: int = 0
    unanswered: int = 0
    duration: float = 0.0
    # Deliveries that the ends of the channels call for.
    expected: int = 0
    events: Counter[str] = field(default_factory=Counter)
    # How long clients were away, once for each connection that they lost.
    absences: list[float] = field(default_factory=list)

    @property
    def violations(self) -> Counter[str]:
        return self.ledger.violations


async def run(plan: Plan, redis_binary: str, nginx: str) -> Report:
    """Start everything, disturb it, and judge."""
    report = Report(plan, Ledger())
    with running_deployment(redis_binary, nginx, plan.shape) as deployment:
        channels = [f"soak-{number}" for number in range(plan.channels)]
        async with _clients(plan, deployment, channels, report) as checkers:
            traffic = Traffic(deployment.url, KEY, channels, plan.rate, report.ledger)
            async with traffic:
                await _disturb(deployment, checkers, report)
                await traffic.stop()
                tops = await _ends(traffic, channels)
                await _settle(checkers, tops, report)
            report.sent, report.unanswered, report.duration = traffic.sent, traffic.unanswered, traffic.duration
    _judge(report)
    return report


async def _ends(traffic: Traffic, channels: list[str]) -> dict[str, Place]:
    """Where the channels end; asked until a worker answers, for the one that was asked may just have been killed."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(AssertionError):
                return await traffic.publishers[0].tops(channels)
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def _clients(
    plan: Plan, deployment: Deployment, channels: list[str], report: Report
) -> AsyncIterator[list[Checker]]:
    """All subscribed; gone at the end, with what they had to say in the report."""
    rng = random.Random(plan.seed)
    checkers = []
    for number in range(plan.clients):
        chosen = [channels[(number + step * 7) % len(channels)] for step in range(plan.subscriptions)]
        checkers.append(Checker(f"client {number}", deployment.port, chosen, report.ledger, rng))
    try:
        await eventually(lambda: all(checker.ready for checker in checkers), 30)
        yield checkers
    finally:
        await asyncio.gather(*(checker.leave() for checker in checkers))
        for checker in checkers:
            report.events += checker.events
            report.absences += checker.absences


async def _disturb(deployment: Deployment, checkers: list[Checker], report: Report) -> None:
    """For the duration, in its own rhythm each; quiet at the end, so that the last publications are not special."""
    plan, rng = report.plan, random.Random(report.plan.seed)
    over = time.monotonic() + plan.duration

    async def often(mean: float, do: Callable[[], None]) -> None:
        while mean and (pause := rng.uniform(0.5, 1.5) * mean) < over - time.monotonic():
            await asyncio.sleep(pause)
            await asyncio.to_thread(do)

    async def churn() -> None:
        while plan.churn and time.monotonic() < over - FREEZE:
            await asyncio.sleep(rng.expovariate(plan.clients / plan.churn))
            rng.choice(checkers).restart(rng.choice(("abort", "close", "freeze")))
            report.churned += 1

    def kill() -> None:
        report.kills += deployment.kill_a_worker(rng)

    def cut() -> None:
        report.cuts += deployment.cut_subscriptions(rng)

    await asyncio.gather(often(plan.kill_every, kill), often(plan.cut_every, cut), churn())
    await asyncio.sleep(max(0.0, over - time.monotonic()))


async def _settle(checkers: list[Checker], tops: dict[str, Place], report: Report) -> None:
    """All hear everything, or it is lost."""
    ledger = report.ledger
    if not await all_reach(checkers, tops, report.plan.patience):
        for checker in checkers:
            for channel in checker.stretches:
                _judge_end(checker, channel, tops[channel], ledger)
    for checker in checkers:
        for channel, stretches in checker.stretches.items():
            report.expected += tops[channel].offset - stretches[0].start
    for channel, accepted in ledger.accepted.items():
        if (last := max(accepted)) > tops[channel]:
            ledger.violation("lost", f"{channel} ends at {tops[channel]}, but {last} was accepted")


def _judge_end(checker: Checker, channel: str, top: Place, ledger: Ledger) -> None:
    """A client that did not get to the end in time."""
    at = checker.at(channel)
    if at != top:
        missing = top.offset - at.offset if at is not None else top.offset
        ledger.violation("lost", f"{checker!r} did not reach {top} of {channel}", missing)


def _judge(report: Report) -> None:
    plan, ledger = report.plan, report.ledger
    ledger.judge()
    if report.events["told"]:
        ledger.violation("not recovered", "clients were told that they cannot recover", report.events["told"])
    if ledger.slowest > plan.patience:
        ledger.violation("stale", f"a publication came {ledger.slowest:.1f} s after it was sent")
    if ledger.deliveries != report.expected:
        ledger.violation("miscounted", f"{ledger.deliveries} deliveries, {report.expected} expected")
    accepted = sum(map(len, ledger.accepted.values()))
    if accepted < 0.5 * plan.rate * plan.duration:
        ledger.violation("too little load", f"only {accepted} publications were accepted")


# The program


def _table(report: Report) -> Table:
    """What the operator sees."""
    ledger, events, absences = report.ledger, report.events, report.absences
    accepted, doubtful = (sum(map(len, table.values())) for table in (ledger.accepted, ledger.doubtful))
    table = Table(title=f"soak, seed {report.plan.seed}", show_header=False)
    rows = {
        "clients, channels": f"{report.plan.clients}, {report.plan.channels}",
        "publications": f"{report.sent} in {report.duration:.1f} s, {report.sent / report.duration:.0f}/s",
        "of which accepted": f"{accepted}; nobody knows of {doubtful}, in {report.unanswered} unanswered requests",
        "deliveries": f"{ledger.deliveries} of {report.expected}",
        "workers killed": f"{report.kills}",
        "pub/sub connections cut": f"{report.cuts}",
        "connections ended by clients": f"{report.churned}",
        "connections lost, recoveries": f"{events['connected'] - report.plan.clients}, {events['recovered']}",
        "back after": f"p50 {quantile(absences, 0.5):.2f} s, p99 {quantile(absences, 0.99):.2f} s",
        "unsubscribed with 2500": f"{events['unsubscribed 2500']}",
        "slowest delivery": f"{ledger.slowest:.2f} s",
        **{kind: f"{report.violations[kind]}" for kind in ("lost", "duplicated", "out of order")},
        "all violations": ", ".join(f"{count} {kind}" for kind, count in report.violations.items()) or "none",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


@click.command()
@click.option("--clients", default=Plan().clients, show_default=True)
@click.option("--channels", default=Plan().channels, show_default=True)
@click.option("--subscriptions", default=Plan().subscriptions, show_default=True, help="Channels of each client.")
@click.option("--rate", default=Plan().rate, show_default=True, help="Publications a second.")
@click.option("--seconds", "duration", default=Plan().duration, show_default=True)
@click.option("--kill-every", default=Plan().kill_every, show_default=True, help="Seconds between kills; 0 never.")
@click.option("--cut-every", default=Plan().cut_every, show_default=True, help="Of pub/sub connections; 0 never.")
@click.option("--churn", default=Plan().churn, show_default=True, help="Seconds that a client stays; 0 for good.")
@click.option("--seed", default=Plan().seed, show_default=True, help="Of what is killed and when.")
@click.option("--hubs", "shape", default="3", show_default=True, help="Workers of each `hub serve`: 1,1,1 are three.")
def main(shape: str, **options: float) -> None:
    """Kill and cut while everybody listens; the exit status is 1 if anything was lost, repeated or turned round."""
    plan = Plan(**options, shape=tuple(map(int, shape.split(","))))  # type: ignore[arg-type]
    report = on_uvloop(run(plan, redis_program(), nginx_program()))
    finish(_table(report), report.ledger, good=not report.violations)


if __name__ == "__main__":
    main()
