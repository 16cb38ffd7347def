"""Everybody comes back at once: `python -m tests.soak_herd`.

Workers behind nginx and thousands of clients in recoverable channels. Workers are killed with -9, so that all their
clients reconnect and recover in the same moment, while publications go on. The exit status is 1 if a client had to wait
longer than it should, was refused after the first second, or missed anything.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import click
from rich.table import Table

from tests.support.attackers import allow_many_sockets
from tests.support.checker import Checker, all_reach, behind
from tests.support.deployment import KEY, kill
from tests.support.figures import quantile
from tests.support.fleet import Fleet, running_fleet
from tests.support.ledger import Ledger
from tests.support.soaking import finish, nginx_program, on_uvloop, redis_program, verdict
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

__all__ = ["Plan", "Report", "run"]


Victim: TypeAlias = Literal["worker", "node", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything; times in seconds."""

    clients: int = 1500
    channels: int = 150
    # Publications a second, of all channels together.
    rate: float = 100.0
    replicas: int = 3
    # Of each replica.
    workers: int = 1
    # A worker, whose supervisor starts another; a node: a replica with its supervisor, which stays away; all workers.
    kill: Victim = "node"
    # HUB_CONNECT_RATE.
    connect_rate: float = 0.0
    seed: int = 1
    # 99 of 100 clients are back in this time.
    back_within: float = 1.0
    patience: float = 30.0


@dataclass(slots=True)
class Report:
    plan: Plan
    ledger: Ledger
    # How long clients were away; how many lost their connection.
    absences: list[float] = field(default_factory=list)
    herd: int = 0
    # Handshakes that nginx or a worker answered with an error: seconds since the kill, status.
    refusals: list[tuple[float, int]] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)


async def run(plan: Plan, redis_binary: str, nginx: str) -> Report:
    """Kill, and watch them come back."""
    report = Report(plan, Ledger())
    variables = {"HUB_CONNECT_RATE": str(plan.connect_rate)}
    with running_fleet(redis_binary, nginx, replicas=plan.replicas, workers=plan.workers, **variables) as fleet:
        rng = random.Random(plan.seed)
        channels = [f"herd-{number}" for number in range(plan.channels)]
        checkers = await _gather(plan, fleet.port, channels, report.ledger, rng)
        try:
            async with Traffic(fleet.url, KEY, channels, plan.rate, report.ledger, publishers=2) as traffic:
                await asyncio.sleep(1)
                await _stampede(plan, fleet, checkers, report, rng)
                await traffic.stop()
                tops = await traffic.publishers[0].tops(channels)
            if not await all_reach(checkers, tops, plan.patience):
                report.ledger.lose(behind(checkers, tops))
        finally:
            await asyncio.gather(*(checker.leave() for checker in checkers))
        for checker in checkers:
            report.absences += checker.absences
            report.events += checker.events
    _judge(report)
    return report


async def _gather(plan: Plan, port: int, channels: list[str], ledger: Ledger, rng: random.Random) -> list[Checker]:
    """All subscribed, each to one channel."""
    checkers = []
    for number in range(plan.clients):
        channel = channels[number % len(channels)]
        checkers.append(Checker(f"client {number}", port, [channel], ledger, rng, look_every=2))
        await asyncio.sleep(1 / (plan.connect_rate or 1000))
    await eventually(lambda: all(checker.ready for checker in checkers), plan.patience)
    for checker in checkers:
        checker.events.clear()
        checker.refusals.clear()
    return checkers


async def _stampede(plan: Plan, fleet: Fleet, checkers: list[Checker], report: Report, rng: random.Random) -> None:
    """kill -9, and until all are back, who then stay for a moment."""
    start = time.monotonic()
    workers = [pid for replica in fleet.replicas for pid in replica.workers]
    if plan.kill == "node":
        rng.choice(fleet.replicas).kill()
    for worker in {"worker": [rng.choice(workers)], "node": [], "all": workers}[plan.kill]:
        kill(worker)
    await eventually(lambda: any(checker.closes for checker in checkers), 5)
    await asyncio.sleep(0.5)
    await eventually(lambda: all(checker.ready for checker in checkers), plan.patience)
    await asyncio.sleep(1)
    report.herd = sum(bool(checker.closes) for checker in checkers)
    report.refusals = sorted((at - start, status) for checker in checkers for at, status in checker.refusals)


def _judge(report: Report) -> None:
    plan, complain = report.plan, report.ledger.violation
    report.ledger.judge()
    if report.events["told"]:
        complain("not recovered", "clients were told that they cannot recover", report.events["told"])
    if (slow := quantile(report.absences, 0.99)) > plan.back_within:
        complain("too slow", f"1 % of the clients were away for {slow:.2f} s and longer")
    if not plan.connect_rate and (late := [refusal for refusal in report.refusals if refusal[0] > 1]):
        complain("refused late", f"the last after {late[-1][0]:.2f} s", len(late))


# The program


def table(report: Report) -> Table:
    """What the operator sees."""
    plan, absences, events = report.plan, report.absences, report.events
    title = f"{plan.clients} clients, {plan.replicas} replicas of {plan.workers} workers, killed: {plan.kill}"
    shown = Table(title=title, show_header=False)
    refused = Counter(status for _, status in report.refusals)
    rows = {
        "clients that lost their connection": f"{report.herd}",
        "back after": f"p50 {quantile(absences, 0.5):.2f} s, p99 {quantile(absences, 0.99):.2f} s, "
        f"longest {max(absences, default=0):.2f} s",
        "refused": ", ".join(f"{count} x {status}" for status, count in refused.items()) or "none",
        "last refusal": f"{report.refusals[-1][0]:.2f} s after the kill" if report.refusals else "",
        "recoveries": f"{events['recovered']}, of which not complete: {events['told']}",
        "deliveries": f"{report.ledger.deliveries}, the slowest after {report.ledger.slowest:.2f} s",
        "all violations": verdict(report.ledger),
    }
    for name, value in rows.items():
        shown.add_row(name, value)
    return shown


@click.command()
@click.option("--clients", default=Plan().clients, show_default=True)
@click.option("--channels", default=Plan().channels, show_default=True)
@click.option("--rate", default=Plan().rate, show_default=True, help="Publications a second.")
@click.option("--replicas", default=Plan().replicas, show_default=True)
@click.option("--workers", default=Plan().workers, show_default=True, help="Of each replica.")
@click.option("--kill", type=click.Choice(["worker", "node", "all"]), default=Plan().kill, show_default=True)
@click.option("--connect-rate", default=Plan().connect_rate, show_default=True, help="HUB_CONNECT_RATE.")
@click.option("--back-within", default=Plan().back_within, show_default=True, help="Seconds, for 99 of 100 clients.")
@click.option("--seed", default=Plan().seed, show_default=True)
def main(**options: Any) -> None:
    """Kill workers; the exit status is 1 if their clients are not back in time and complete."""
    allow_many_sockets()
    report = on_uvloop(run(Plan(**options), redis_program(), nginx_program()))
    finish(table(report), report.ledger, good=not report.ledger.violations)


if __name__ == "__main__":
    main()
