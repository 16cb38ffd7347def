"""Fuzz what decodes bytes from outside: `python -m tests.fuzz --seconds 60`.

What reaches code that nothing has reached before is kept in tests/fuzz/corpus, which every run of the tests replays;
what fails goes to tests/fuzz/crashes, and the exit status is 1.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from .engine import CORPUS, CRASHES, Outcome, files, fuzz, is_installed, load, minimise
from .targets import TARGETS

__all__: list[str] = []

MODULE = "tests.fuzz.targets"


@click.command()
@click.option("--seconds", default=60, show_default=True, help="For each target.")
@click.option("--target", "names", multiple=True, type=click.Choice(list(TARGETS)), help="Only this one; repeatable.")
@click.option("--seed", default=0, help="Of libFuzzer; 0 is another one each time.")
@click.option("--smaller", is_flag=True, help="Keep as few files as reach the same, and fuzz nothing.")
@click.option("--replay", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Run one input, no more.")
def main(seconds: int, names: tuple[str, ...], seed: int, smaller: bool, replay: Path | None) -> None:
    """Fuzz all targets, one after another; the exit status is 1 if one fails."""
    chosen = names or tuple(TARGETS)
    if replay is not None:
        for name in chosen if names else (replay.name.partition("-")[0],):
            print(name, load(f"{MODULE}:{name}").run(replay.read_bytes()))
        return
    if not is_installed():
        raise click.ClickException("atheris is not installed; it has wheels for Linux on x86-64: pip install atheris")
    if smaller:
        for name in chosen:
            minimise(f"{MODULE}:{name}", CORPUS / name)
        return
    sys.exit(_fuzz(chosen, seconds, seed or time.time_ns() % 2**31))


def _fuzz(names: tuple[str, ...], seconds: int, seed: int) -> int:
    """The exit status."""
    console = Console(width=120)
    outcomes = {}
    for name in names:
        console.print(f"{name}: {seconds} s with seed {seed}")
        outcomes[name] = fuzz(f"{MODULE}:{name}", CORPUS / name, CRASHES, seconds=seconds, seed=seed)
        if crash := outcomes[name].crash:
            console.print(outcomes[name].report, markup=False, highlight=False)
            console.print(
                f"{name} fails; repeat it: python -m tests.fuzz --target {name} --replay {crash}", markup=False
            )
    console.print(_table(outcomes))
    return int(any(outcome.crash for outcome in outcomes.values()))


def _table(outcomes: dict[str, Outcome]) -> Table:
    shown = Table(title="coverage-guided fuzzing")
    for column in ("target", "executions", "edges", "new entries", "corpus", "failures"):
        shown.add_column(column, justify="left" if column == "target" else "right")
    for name, one in outcomes.items():
        numbers = one.executions, one.edges, one.new, len(files(CORPUS / name)), int(one.crash is not None)
        shown.add_row(name, *(f"{number:,}" for number in numbers))
    shown.add_row("all", f"{sum(one.executions for one in outcomes.values()):,}")
    return shown


if __name__ == "__main__":
    main()
