"""One timer a worker for all connections: each is visited when its own time has come."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Protocol

from .log import extra_of

__all__ = ["RESOLUTION", "Deadlines", "Timed"]

log: logging.Logger = logging.getLogger("hub.wire")

# Seconds; a visit is this much late at most.
RESOLUTION = 0.25


class Timed(Protocol):
    """Something with at most one deadline."""

    # Belongs to `Deadlines`; 0 without a deadline.
    due: int

    def on_due(self) -> None:
        """The time has come. The deadline is cleared before."""


class Deadlines:
    """A wheel of ticks. Setting and clearing cost a dict operation each, an idle connection costs one a period."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, dict[Timed, None]] = {}
        # None while nothing has a deadline.
        self._timer: asyncio.TimerHandle | None = None
        # The last tick whose slot was visited.
        self._now = 0

    def set(self, item: Timed, delay: float) -> None:
        """Visit `item` in `delay` seconds and not before; replaces its deadline."""
        self.clear(item)
        if self._timer is None:
            self._now = int(self._loop.time() / RESOLUTION)
            self._wind_up()
        item.due = max(math.ceil((self._loop.time() + delay) / RESOLUTION), self._now + 1)
        self._slots.setdefault(item.due, {})[item] = None

    def left(self, item: Timed) -> float:
        """Seconds until the visit of `item`; 0 without a deadline."""
        return max(0.0, item.due * RESOLUTION - self._loop.time())

    def clear(self, item: Timed) -> None:
        """Forget the deadline of `item`, if it has one."""
        if not item.due:
            return
        slot = self._slots.get(item.due)
        if slot is not None:
            slot.pop(item, None)
            if not slot:
                del self._slots[item.due]
        item.due = 0

    def _tick(self) -> None:
        last = int(self._loop.time() / RESOLUTION)
        while self._now < last:
            self._now += 1
            for item in self._slots.pop(self._now, ()):
                if item.due == self._now:  # an earlier visit may have changed it
                    item.due = 0
                    self._visit(item)
        self._timer = None
        if self._slots:
            self._wind_up()

    def _wind_up(self) -> None:
        self._timer = self._loop.call_at((self._now + 1) * RESOLUTION, self._tick)

    def _visit(self, item: Timed) -> None:
        try:
            item.on_due()
        except Exception:
            log.exception("unexpected fault at the deadline of %r", item, extra=extra_of(item))
