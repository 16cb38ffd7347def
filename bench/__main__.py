"""`make bench`, `make bench-peers`: the hub beside the FastAPI tutorial's manager, or beside all peers, in one run.

See docs/benchmarks.md.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .client import ROOT
from .contenders import PEERS
from .document import publish
from .fan_out import half_of_saturation
from .measure import CPUS, pin, raise_file_limit
from .plan import Plan
from .report import report, show, write
from .scenarios import SCENARIOS
from .servers import SERVERS
from .targets import GUARDS, PEER_TARGETS, TARGETS, Medians, Sample, Target, judge, medians
from .variants import VARIANTS

RESULTS = ROOT / "bench" / "results"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
QUICK = Plan(sockets=20, seconds=0.3, warm_up=0.1, idle=300, warm_connections=20, pause=0.1, repeats=1, channels=200)
GUARD = Plan(sockets=200, seconds=1.0, warm_up=0.3, idle=500, warm_connections=200, pause=0.3, repeats=2, channels=1000)
# Of each process that holds sockets, besides them.
SPARE_FILES = 100
CONTENDERS = SERVERS | PEERS | VARIANTS
# Of `make bench`.
USUAL = ("window-1", "window-32", "endpoints", "connections")

# Scenario and server of each.
Runs = list[tuple[str, str]]


def run_all(plan: Plan, runs: Runs, left_out: list[str]) -> Iterator[Sample]:
    """Repetition by repetition; the servers alternate, so that a drift of the machine meets them all.

    A peer that does not hold out is left out, and that is told; without the hub or the tutorial there is no result.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Drawn rarely: it shares a CPU with the load.
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as progress:
        task = progress.add_task("", total=plan.repeats * len(runs))
        for repeat in range(plan.repeats):
            for scenario, name in runs if repeat % 2 == 0 else reversed(runs):
                progress.update(task, description=f"{scenario}: {name}")
                try:
                    with CONTENDERS[name].start() as server:
                        figures = SCENARIOS[scenario].measure(server, plan)
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    if name not in PEERS:
                        raise
                    left_out.append(f"{name} in {scenario}: {error}")
                    progress.console.print(f"left out: {left_out[-1]}", markup=False, soft_wrap=True)
                else:
                    yield Sample(scenario=scenario, server=name, figures=figures)
                progress.advance(task)


def prepare(plan: Plan, runs: Runs) -> None:
    """File limit and CPUs of this process, which its children inherit."""
    many = plan.channels if any(scenario == "many-channels" for scenario, _ in runs) else 0
    files, needed = raise_file_limit(), max(plan.sockets, plan.idle + plan.warm_connections, many) + SPARE_FILES
    if files < needed:
        raise click.ClickException(f"{needed} open files are needed, allowed are {files}: raise `ulimit -Hn`")
    if CPUS is not None:
        pin(os.getpid(), CPUS[1])


def chosen(only: tuple[str, ...], *, peers: bool) -> Runs:
    """What `only` mentions; of what it does not mention all that is usual, or all with `peers`."""
    scenarios = [name for name in SCENARIOS if name in only] or list(SCENARIOS if peers else USUAL)
    compared = [*SERVERS, *PEERS] if peers else list(SERVERS)
    mentioned = [name for name in CONTENDERS if name in only]
    runs = [
        (scenario, name)
        for scenario in scenarios
        for _ in range(SCENARIOS[scenario].times if peers else 1)
        for name in SCENARIOS[scenario].servers or mentioned or compared
    ]
    return [(scenario, name) for scenario, name in runs if not mentioned or name in mentioned]


def present(runs: Runs, left_out: list[str]) -> Runs:
    """Those whose server can be started here; of the others it is told why not."""
    missing = {name: reason for _, name in runs if (reason := CONTENDERS[name].missing())}
    left_out += sorted(set(missing.values()))
    for reason in left_out:
        click.secho(f"left out: {reason}", fg="yellow", err=True)
    return [(scenario, name) for scenario, name in runs if name not in missing]


def with_rate(plan: Plan, runs: Runs) -> Plan:
    """Where it matters, the rate is found out once for all servers."""
    if plan.rate or not any(scenario == "half-load" for scenario, _ in runs):
        return plan
    return dataclasses.replace(plan, rate=half_of_saturation(plan))


def shown(results: Medians, targets: Sequence[Target]) -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:  # a file has room for the tables
        console.width = 140
    show(console, results, targets, pinned=CPUS is not None)
    return console


def versions(runs: Runs) -> dict[str, dict[str, str]]:
    """Of what the servers are made of, beside the hub's own environment."""
    names = dict.fromkeys(name for _, name in runs)
    return {name: found for name in names if (found := CONTENDERS[name].versions())}


@click.command()
@click.option("--sockets", type=click.IntRange(2), help=f"Sockets in the room. [default: {Plan().sockets}]")
@click.option("--seconds", type=click.FloatRange(0.1), help=f"Length of a fan-out. [default: {Plan().seconds:g}]")
@click.option("--idle", type=click.IntRange(1), help=f"Idle connections. [default: {Plan().idle}]")
@click.option("--channels", type=click.IntRange(1), help=f"Channels, where many. [default: {Plan().channels}]")
@click.option("--repeats", type=click.IntRange(1), help=f"Repetitions, for the median. [default: {Plan().repeats}]")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(dict.fromkeys([*SCENARIOS, *CONTENDERS]))),
    help="Only this scenario, or this server; may be given several times.",
)
@click.option("--peers", is_flag=True, help="With all peers that are installed, and all scenarios.")
@click.option("--quick", is_flag=True, help="Small and short, to see that it works; its figures mean nothing.")
@click.option("--check", is_flag=True, help="Exit status 1 if a target is missed.")
@click.option("--guard", is_flag=True, help="Small and short, and checked with the margins that this needs.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file. [default: in bench/results latest.json, peers.json, guard.json or quick.json]",
)
@click.option("--document", is_flag=True, help="Write tables and plots into docs/benchmarks.md.")
def main(
    only: tuple[str, ...],
    peers: bool,
    quick: bool,
    check: bool,
    guard: bool,
    output: Path | None,
    document: bool,
    **amounts: Any,
) -> None:
    """Measure the hub beside the FastAPI tutorial's ConnectionManager, each with one worker, in one run.

    Needs Linux, and about six minutes on an otherwise idle machine with two CPUs or more; with --peers, which is a
    dozen servers and scenarios, about an hour.
    """
    if (quick or guard) and document:
        raise click.UsageError("--quick and --guard have no figures that could be published")
    given = {name: value for name, value in amounts.items() if value is not None}
    plan, left_out = dataclasses.replace(QUICK if quick else GUARD if guard else Plan(), **given), list[str]()
    runs = present(chosen(only, peers=peers), left_out)
    prepare(plan, runs)
    try:
        plan = with_rate(plan, runs)
        samples = list(run_all(plan, runs, left_out))
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    results, targets = medians(samples), GUARDS if guard else PEER_TARGETS if peers else TARGETS
    console = shown(results, targets)
    if quick:
        console.print("--quick: too small and too short for its figures to mean anything", style="yellow")
    content = report(samples, plan, targets, versions(runs), left_out)
    name = "quick" if quick else "guard" if guard else "peers" if peers else "latest"
    path = output or RESULTS / f"{name}.json"
    write(path, content)
    console.print(f"written to {path}", soft_wrap=True)
    if document:
        publish(content, {name: CONTENDERS[name].title for _, name in runs}, DOCUMENT)
        console.print(f"and into {DOCUMENT}", soft_wrap=True)
    if (check or guard) and not all(verdict.reached for verdict in judge(results, targets)):
        sys.exit(1)


if __name__ == "__main__":
    main()
