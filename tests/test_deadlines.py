"""One timer for all: each is visited when its time has come, and costs nothing else."""

from __future__ import annotations

import asyncio

from hub.deadlines import RESOLUTION, Deadlines
from tests.support.clock import run_virtually


class Item:
    """Notes when it was visited."""

    def __init__(self, fails: bool = False) -> None:
        self.due = 0
        self.visits: list[float] = []
        self._fails = fails

    def on_due(self) -> None:
        self.visits.append(asyncio.get_running_loop().time())
        if self._fails:
            raise RuntimeError("a fault of one connection")


def test_visits_are_in_time() -> None:
    """A visit comes not before its time and at most two ticks after, also after a change of mind."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(loop)
        items = {delay: Item() for delay in (0, 0.1, 1, 25, 3600)}
        start = loop.time()
        for delay, item in items.items():
            deadlines.set(item, 7)
            deadlines.set(item, delay)
        await asyncio.sleep(4000)
        for delay, item in items.items():
            (visit,) = item.visits
            assert 0 <= visit - start - delay <= 2 * RESOLUTION
            assert item.due == 0

    run_virtually(main)


def test_cleared_items_are_not_visited_or_kept() -> None:
    """Clearing forgets; a fault of one item does not touch the others; without items no timer runs."""

    async def main() -> None:
        deadlines = Deadlines(asyncio.get_running_loop())
        cleared, broken, other = Item(), Item(fails=True), Item()
        for item in (cleared, broken, other):
            deadlines.set(item, 1)
        deadlines.clear(cleared)
        deadlines.clear(cleared)
        await asyncio.sleep(3)
        assert (len(cleared.visits), len(broken.visits), len(other.visits)) == (0, 1, 1)
        assert deadlines._slots == {}
        assert deadlines._timer is None

    run_virtually(main)
