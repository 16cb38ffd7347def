"""`make bench`: the hub beside the FastAPI tutorial's manager, in one run. See docs/benchmarks.md."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .measure import CPUS, pin, raise_file_limit
from .report import Sample, judge, medians, report, show, write
from .scenarios import SCENARIOS, Plan
from .servers import SERVERS

RESULTS = Path(__file__).parent / "results"
QUICK = Plan(sockets=20, seconds=0.3, warm_up=0.1, idle=300, warm_connections=20, pause=0.1, repeats=1)
# Of each process that holds sockets, besides them.
SPARE_FILES = 100


def run_all(plan: Plan, scenarios: list[str], servers: list[str]) -> Iterator[Sample]:
    """Repetition by repetition; the servers alternate, so that a drift of the machine meets them all."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Drawn rarely: it shares a CPU with the load.
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as progress:
        task = progress.add_task("", total=plan.repeats * len(scenarios) * len(servers))
        for repeat in range(plan.repeats):
            for scenario in scenarios:
                for name in servers if repeat % 2 == 0 else reversed(servers):
                    progress.update(task, description=f"{scenario}: {name}")
                    with SERVERS[name]() as server:
                        figures = SCENARIOS[scenario](server, plan)
                    yield Sample(scenario=scenario, server=name, figures=figures)
                    progress.advance(task)


def prepare(plan: Plan) -> None:
    """File limit and CPUs of this process, which its children inherit."""
    files, needed = raise_file_limit(), max(plan.sockets, plan.idle + plan.warm_connections) + SPARE_FILES
    if files < needed:
        raise click.ClickException(f"{needed} open files are needed, allowed are {files}: raise `ulimit -Hn`")
    if CPUS is not None:
        pin(os.getpid(), CPUS[1])


def chosen(only: tuple[str, ...], names: list[str]) -> list[str]:
    """Those of `names` that `only` mentions; all if it mentions none of them."""
    return [name for name in names if name in only] or names


@click.command()
@click.option("--sockets", type=click.IntRange(2), help=f"Sockets in the room. [default: {Plan().sockets}]")
@click.option("--seconds", type=click.FloatRange(0.1), help=f"Length of a fan-out. [default: {Plan().seconds:g}]")
@click.option("--idle", type=click.IntRange(1), help=f"Idle connections. [default: {Plan().idle}]")
@click.option("--repeats", type=click.IntRange(1), help=f"Repetitions, for the median. [default: {Plan().repeats}]")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([*SCENARIOS, *SERVERS]),
    help="Only this scenario, or this server; may be given several times.",
)
@click.option("--quick", is_flag=True, help="Small and short, to see that it works; its figures mean nothing.")
@click.option("--check", is_flag=True, help="Exit status 1 if a target is missed.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file. [default: bench/results/latest.json, with --quick quick.json]",
)
def main(only: tuple[str, ...], quick: bool, check: bool, output: Path | None, **amounts: Any) -> None:
    """Measure the hub beside the FastAPI tutorial's ConnectionManager, each with one worker, in one run.

    Needs Linux, and about four minutes on an otherwise idle machine with two CPUs or more.
    """
    given = {name: value for name, value in amounts.items() if value is not None}
    plan = dataclasses.replace(QUICK if quick else Plan(), **given)
    prepare(plan)
    try:
        samples = list(run_all(plan, chosen(only, list(SCENARIOS)), chosen(only, list(SERVERS))))
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    results, console = medians(samples), Console(highlight=False)
    show(console, results, pinned=CPUS is not None)
    if quick:
        console.print("--quick: too small and too short for its figures to mean anything", style="yellow")
    path = output or RESULTS / ("quick.json" if quick else "latest.json")
    write(path, report(samples, plan, ["python", "-m", "bench", *sys.argv[1:]]))
    console.print(f"written to {path}", soft_wrap=True)
    if check and not all(verdict.reached for verdict in judge(results)):
        sys.exit(1)


if __name__ == "__main__":
    main()
