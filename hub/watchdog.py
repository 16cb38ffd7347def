"""Sees that the event loop turns: how late it is, and what holds it up.

A function that blocks stops every connection of the worker, its health checks and its metrics too. So a thread watches:
the loop leaves a mark a few times a second, and where the mark gets old the thread logs what the loop is doing.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback

from .histogram import Histogram

__all__ = ["Watchdog"]

log: logging.Logger = logging.getLogger("hub.watchdog")

# Seconds between two marks of the loop, and between two looks of the thread.
INTERVAL = 0.25
# What the loop was doing is logged after `limit`, and again each time that the time has grown by this factor.
AGAIN = 4.0
# Frames of the stack, the innermost ones: what is above them is the server.
DEPTH = 16

BLOCKED = "the event loop has stood still for %.1f s, and with it every client of this worker; it is in:\n%s"
STOPPED = (
    "the whole process stood still for %.1f s: it was stopped or starved, or code held the interpreter lock; now it is "
    "in:\n%s"
)


class Watchdog:
    """One event loop's. `start` and `stop` are called in it."""

    def __init__(self, limit: float) -> None:
        """The stack is logged when the loop has stood still for `limit` seconds; 0 only measures."""
        self._limit = limit
        # How late the loop was, at each mark.
        self.lag: Histogram = Histogram()
        # How often it stood still for longer than the limit.
        self.blocks: int = 0
        # From `start` to `stop`.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = threading.Event()
        # The loop's thread, and when it left its mark (`time.monotonic`).
        self._thread_id = 0
        self._mark = 0.0
        # How old the mark has to be to be told of.
        self._patience = limit

    def __repr__(self) -> str:
        return f"<Watchdog {'off' if self._loop is None else 'on'}, {self.blocks} blocks, lag {self.lag}>"

    def start(self) -> None:
        """Watch the running loop; does nothing if it does already."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        self.stop()
        self._loop, self._ended = loop, threading.Event()
        self._thread_id, self._mark, self._patience = threading.get_ident(), time.monotonic(), self._limit
        self._timer = loop.call_later(INTERVAL, self._turn)
        if self._limit:
            threading.Thread(target=self._watch, args=(loop, self._ended), name="hub watchdog", daemon=True).start()

    def stop(self) -> None:
        """May be called twice."""
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None

    # In the loop

    def _turn(self) -> None:
        now = time.monotonic()
        late = max(0.0, now - self._mark - INTERVAL)
        self._mark = now  # first: the thread looks at any moment, and a log line takes its time
        self.lag.observe(late)
        if self._patience > self._limit:
            late, self._patience = max(late, self._patience / AGAIN), self._limit
            log.error("the event loop goes on; it stood still for %.1f s", late)
        assert self._loop is not None
        self._timer = self._loop.call_later(INTERVAL, self._turn)

    # In the thread

    def _watch(self, loop: asyncio.AbstractEventLoop, ended: threading.Event) -> None:
        """Until `ended`, or the end of a loop that nobody has stopped watching."""
        looked = time.monotonic()
        while not ended.wait(INTERVAL) and not loop.is_closed():
            before, looked = looked, time.monotonic()
            if loop.is_running():
                self._look(looked - self._mark - INTERVAL, max(0.0, looked - before - INTERVAL))

    def _look(self, late: float, overslept: float) -> None:
        """The loop is late. The thread was held up as well, and for as long the loop is not to blame."""
        late -= overslept
        if overslept > self._limit:
            log.error(STOPPED, overslept, self._stack())
        elif late >= self._patience:
            self.blocks += self._patience <= self._limit
            self._patience = AGAIN * late
            log.error(BLOCKED, late, self._stack())

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread_id)
        return "".join(traceback.format_stack(frame)[-DEPTH:]).rstrip() if frame is not None else "  (its thread ended)"
