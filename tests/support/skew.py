"""Processes whose clock is wrong: by Python itself, or for all that is in them by libfaketime, if HUB_FAKETIME is where
it is (`apt install faketime`; /usr/lib/…/faketime/libfaketime.so.1).
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["skewed", "tidy_up"]

# Python imports it at its start as `sitecustomize`. Nothing of the hub asks for the time in another way.
SHIFT = """
import os, time
real, seconds = time.time, float(os.environ["SKEW"])
time.time = lambda: real() + seconds
"""


def skewed(seconds: int, folder: Path) -> dict[str, str]:
    """The environment of a process whose clock is so far ahead. How long something takes it measures rightly."""
    library = os.environ.get("HUB_FAKETIME")
    if library:
        return {"LD_PRELOAD": library, "FAKETIME": f"{seconds:+d}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    (folder / "sitecustomize.py").write_text(SHIFT)
    return {"PYTHONPATH": str(folder), "SKEW": str(seconds)}


def tidy_up(pid: int) -> None:
    """What libfaketime leaves behind when such a process is killed."""
    for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
        Path("/dev/shm", name).unlink(missing_ok=True)
