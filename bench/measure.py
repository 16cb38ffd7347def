"""What the operating system says of processes (Linux)."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Mapping
from pathlib import Path

__all__ = ["CPUS", "TICK", "cpu_of", "cpu_seconds", "memory_bytes", "pin", "raise_file_limit"]

# The resolution of `cpu_seconds`.
TICK = 1 / os.sysconf("SC_CLK_TCK")

_allowed = sorted(os.sched_getaffinity(0))
# One CPU for the measured process and one for everything else; None where there is only one.
CPUS = (_allowed[0], _allowed[1]) if len(_allowed) > 1 else None


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def cpu_of(pids: Mapping[str, int]) -> dict[str, float]:
    """The same of several, by their names."""
    return {name: cpu_seconds(pid) for name, pid in pids.items()}


def memory_bytes(pid: int) -> dict[str, int]:
    """`Rss`, and `Pss`, which counts shared pages by their share.

    Pss also moves when another process that maps the same libraries starts or ends.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return {name: kib[name] * 1024 for name in ("Rss", "Pss")}


def pin(pid: int, cpu: int) -> None:
    """Keep every thread of a process on one CPU."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), {cpu})


def raise_file_limit() -> int:
    """Allow this process and its children as many open files as the system lets them; the number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
