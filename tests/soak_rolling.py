"""Deploys without pain: `python -m tests.soak_rolling`.

Replicas behind nginx and thousands of clients in recoverable channels. One replica after another gets SIGTERM, ends and
is started again, before the next. Every client judges every publication, and every close and every replica is looked
at: the exit status is 1 if anything is not as `docs/deployment.md` promises.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import click
from rich.table import Table

from tests.support.attackers import allow_many_sockets
from tests.support.checker import Checker, all_reach, behind
from tests.support.deployment import KEY
from tests.support.figures import most_in_a_second, quantile
from tests.support.fleet import Fleet, Intake, Replica, running_fleet
from tests.support.ledger import Ledger
from tests.support.soaking import finish, nginx_program, on_uvloop, redis_program, verdict
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

__all__ = ["Plan", "Report", "Stop", "run", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything; times in seconds."""

    clients: int = 3000
    channels: int = 300
    # Publications a second, of all channels together.
    rate: float = 300.0
    # What the hubs are told: HUB_CONNECT_RATE, HUB_DRAIN, HUB_DRAIN_NOTICE.
    connect_rate: float = 150.0
    drain: float = 8.0
    notice: float = 1.0
    # For the ends of the interpreters.
    slack: float = 1.5
    seed: int = 1
    patience: float = 30.0

    @property
    def window(self) -> float:
        """From SIGTERM to the end of the process."""
        return self.notice + self.drain + self.slack


@dataclass(slots=True)
class Stop:
    """One replica's end, in seconds since SIGTERM."""

    replica: str
    # When /health/ready stopped to say 200, and the process its end.
    unready: float = 0.0
    ended: float = 0.0
    # When clients were closed, and with what.
    closes: list[tuple[float, int]] = field(default_factory=list)
    # Until all clients were in their channels again, and the replica took connections again.
    recovered: float = 0.0


@dataclass(slots=True)
class Report:
    plan: Plan
    ledger: Ledger
    stops: list[Stop] = field(default_factory=list)
    absences: list[float] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    # Most WebSockets that one replica opened in a second.
    intake: float = 0.0
    # Replicas' logs.
    log: str = ""


async def run(plan: Plan, redis_binary: str, nginx: str) -> Report:
    """Restart every replica while everybody listens, and judge."""
    report = Report(plan, Ledger())
    names = ("connect_rate", "drain", "drain_notice")
    values = (plan.connect_rate, plan.drain, plan.notice)
    variables = {f"HUB_{name.upper()}": str(value) for name, value in zip(names, values, strict=True)}
    with running_fleet(redis_binary, nginx, **variables) as fleet:
        channels = [f"soak-{number}" for number in range(plan.channels)]
        async with _clients(plan, fleet, channels, report) as checkers:
            async with Traffic(fleet.url, KEY, channels, plan.rate, report.ledger) as traffic, Intake(fleet) as intake:
                for replica in fleet.replicas:
                    await _restart(replica, checkers, report)
                await traffic.stop()
                tops = await traffic.publishers[0].tops(channels)
            report.intake = intake.highest
            if not await all_reach(checkers, tops, plan.patience):
                report.ledger.lose(behind(checkers, tops))
        report.log = fleet.log
    _judge(report)
    return report


@contextlib.asynccontextmanager
async def _clients(plan: Plan, fleet: Fleet, channels: list[str], report: Report) -> AsyncIterator[list[Checker]]:
    """All subscribed, each to one channel."""
    rng = random.Random(plan.seed)
    checkers: list[Checker] = []
    try:
        for number in range(plan.clients):
            channel = channels[number % len(channels)]
            checkers.append(Checker(f"client {number}", fleet.port, [channel], report.ledger, rng, look_every=2))
            await asyncio.sleep(1 / (2 * plan.connect_rate))
        await eventually(lambda: all(checker.ready for checker in checkers), plan.patience)
        for checker in checkers:
            checker.events.clear()
        yield checkers
    finally:
        await asyncio.gather(*(checker.leave() for checker in checkers))
        for checker in checkers:
            report.events += checker.events
            report.absences += checker.absences


async def _restart(replica: Replica, checkers: list[Checker], report: Report) -> None:
    """SIGTERM, the end, the start; until everybody is in again."""
    stop = Stop(replica.name)
    report.stops.append(stop)
    before = [len(checker.closes) for checker in checkers]
    start = time.monotonic()
    ending = asyncio.create_task(asyncio.to_thread(replica.stop, report.plan.window + 30))
    while await asyncio.to_thread(replica.status, "/health/ready") == 200:
        pass
    stop.unready = time.monotonic() - start
    stop.ended = await ending
    replica.start()
    await asyncio.to_thread(replica.wait_ready)
    await eventually(lambda: all(checker.ready for checker in checkers), report.plan.patience)
    stop.recovered = time.monotonic() - start
    for checker, count in zip(checkers, before, strict=True):
        stop.closes += [(at - start, code) for at, code in checker.closes[count:]]
    stop.closes.sort()


def _judge(report: Report) -> None:
    plan, complain = report.plan, report.ledger.violation
    report.ledger.judge()
    if report.events["told"]:
        complain("not recovered", "clients were told that they cannot recover", report.events["told"])
    for word in ("Traceback", "killing it", "unexpected fault"):
        if word in report.log:
            complain("fault in a log", word, report.log.count(word))
    # Its bucket holds a tenth of a second's worth, at least ten.
    if report.intake > plan.connect_rate + max(10.0, plan.connect_rate / 10):
        complain("too fast", f"a replica opened {report.intake:.0f} WebSockets in a second")
    for stop in report.stops:
        _judge_stop(plan, stop, report.ledger)


def _judge_stop(plan: Plan, stop: Stop, ledger: Ledger) -> None:
    times = [at for at, _ in stop.closes]
    others = Counter(code for _, code in stop.closes if code not in (3001, 1012))
    for code, count in others.items():
        ledger.violation("wrong close", f"{stop.replica}: {code}", count)
    if stop.ended > plan.window:
        ledger.violation("too long", f"{stop.replica} took {stop.ended:.1f} s to end")
    if not times or stop.unready > times[0]:
        ledger.violation("not told first", f"{stop.replica}: not ready after {stop.unready:.2f} s, {times[:1]}")
    # They are uniform over 70 % of the window; on a busy machine clients see some of them late, and together.
    spread = quantile(times, 0.95) - quantile(times, 0.05)
    if spread < 0.5 * 0.7 * plan.drain:
        ledger.violation("not spread", f"{stop.replica}: 90 % of the closes came within {spread:.2f} s")


# The program


def table(report: Report) -> Table:
    """What the operator sees."""
    plan, events, stops = report.plan, report.events, report.stops
    shown = Table(title=f"rolling restart of {len(stops)} replicas, {plan.clients} clients", show_header=False)
    closes = Counter(code for stop in stops for _, code in stop.closes)
    refused = {name.removeprefix("refused "): n for name, n in events.items() if name.startswith("refused ")}
    rows = {
        "closes, by code": ", ".join(f"{count} x {code}" for code, count in closes.items()),
        "most closes in a second": str(max(most_in_a_second([at for at, _ in stop.closes]) for stop in stops)),
        "not ready after SIGTERM": _seconds([stop.unready for stop in stops]),
        "first close": _seconds([stop.closes[0][0] for stop in stops if stop.closes]),
        "last close": _seconds([stop.closes[-1][0] for stop in stops if stop.closes]),
        f"exit (window {plan.window:g} s)": _seconds([stop.ended for stop in stops]),
        "everybody is back": _seconds([stop.recovered for stop in stops]),
        "a client is away": f"p50 {quantile(report.absences, 0.5):.2f} s, p99 {quantile(report.absences, 0.99):.2f} s, "
        f"longest {max(report.absences, default=0):.2f} s",
        "most WebSockets opened by one": f"{report.intake:.0f} a second (HUB_CONNECT_RATE {plan.connect_rate:g})",
        "handshakes refused, by status": ", ".join(f"{count} x {code}" for code, count in refused.items()) or "none",
        "recoveries": f"{events['recovered']}, of which not complete: {events['told']}",
        "deliveries": f"{report.ledger.deliveries}, the slowest after {report.ledger.slowest:.2f} s",
        "all violations": verdict(report.ledger),
    }
    for name, value in rows.items():
        shown.add_row(name, value)
    return shown


def _seconds(values: list[float]) -> str:
    return ", ".join(f"{value:.2f} s" for value in values)


@click.command()
@click.option("--clients", default=Plan().clients, show_default=True)
@click.option("--channels", default=Plan().channels, show_default=True)
@click.option("--rate", default=Plan().rate, show_default=True, help="Publications a second.")
@click.option("--connect-rate", default=Plan().connect_rate, show_default=True, help="HUB_CONNECT_RATE.")
@click.option("--drain", default=Plan().drain, show_default=True, help="HUB_DRAIN.")
@click.option("--notice", default=Plan().notice, show_default=True, help="HUB_DRAIN_NOTICE.")
@click.option("--seed", default=Plan().seed, show_default=True)
def main(**options: int) -> None:
    """Restart three replicas one after another; the exit status is 1 if anybody noticed more than a reconnect."""
    allow_many_sockets()
    report = on_uvloop(run(Plan(**options), redis_program(), nginx_program()))
    finish(table(report), report.ledger, good=not report.ledger.violations)


if __name__ == "__main__":
    main()
