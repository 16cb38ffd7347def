"""Processes by their numbers."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")


def table() -> dict[int, tuple[int, str]]:
    """All processes that run: pid → parent and command line. A zombie does not run."""
    return _from_proc() if (PROC / "self" / "stat").exists() else _from_ps()


def _from_proc() -> dict[int, tuple[int, str]]:
    found = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has ended meanwhile
            continue
        if state != "Z":
            found[int(folder.name)] = (int(parent), command)
    return found


def _from_ps() -> dict[int, tuple[int, str]]:
    command = ["ps", "-A", "-o", "pid=,ppid=,stat=,command="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in listing.splitlines()]
    return {int(row[0]): (int(row[1]), row[-1]) for row in rows if row[2][0] != "Z"}


def children(pid: int, word: str = "") -> list[int]:
    """The children of `pid` with `word` in their command line."""
    return [child for child, (parent, command) in table().items() if parent == pid and word in command]


def wait_gone(pids: Iterable[int], timeout: float) -> float:
    """Seconds until none of `pids` runs."""
    wanted, start = set(pids), time.monotonic()
    while left := wanted & table().keys():
        if time.monotonic() - start > timeout:
            raise TimeoutError(f"still running after {timeout} s: {left}")
        time.sleep(0.02)
    return time.monotonic() - start
