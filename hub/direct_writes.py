"""One chunk to a crowd: straight into the sockets, past their transports, which saves 4 to 7 % of a delivery.

A transport keeps the interpreter while it writes, `os.write` lets go of it. A thread that computes has it then for a
switch interval (5 ms): a thousand writes took half a second in place of 3.5 ms. So each is timed, and after the first
such wait everything goes through the transports for a while.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterator

from .registry import Writer

__all__ = ["DirectWrites"]

# Clients from which it is worth the beginning, and bytes up to which: a socket may not take more at once.
CROWD, MOST = 16, 32768
# Seconds of a write that may have had to wait; that a fan-out may lose so; for which the transports write when it has.
LONG, PATIENCE, RESPITE = 50e-6, 1e-3, 5.0

if sys.platform == "linux":
    import resource

    def _waits() -> int:
        """How often this thread has waited, but not for the processor; 0 if nobody counts."""
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw

else:

    def _waits() -> int:
        return 0


class DirectWrites:
    """The writes of one thread."""

    def __init__(self) -> None:
        # By `time.perf_counter`.
        self._not_before = 0.0

    def write(self, wires: Collection[Writer], chunk: bytes) -> None:
        """The same as `write` of each of them."""
        rest = iter(wires)
        worth_it = len(wires) >= CROWD and len(chunk) <= MOST and time.perf_counter() >= self._not_before
        if worth_it and (waits := _waits()):
            self._write_past(rest, chunk, waits)
        for wire in rest:
            wire.write(chunk)

    def _write_past(self, wires: Iterator[Writer], chunk: bytes, waits: int) -> None:
        """To all, or until another thread has taken the interpreter for too long."""
        write, clock, size = os.write, time.perf_counter, len(chunk)
        lost, now = 0.0, clock()
        for wire in wires:
            if (descriptor := wire.descriptor) < 0:
                wire.write(chunk)
                continue
            try:
                taken = write(descriptor, chunk)
            except OSError:  # it is full, or broken, which its transport will find out
                taken = 0
            if taken != size:
                wire.write(chunk[taken:])
            begun, now = now, clock()
            if now - begun > LONG and (seen := _waits()) > waits:
                lost, waits = lost + now - begun, seen
                if lost > PATIENCE:
                    self._not_before = now + RESPITE
                    return
