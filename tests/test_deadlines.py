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
    """A visit comes not before its time and at most a tick after, also after a change of mind."""

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
            assert 0 <= visit - start - delay <= RESOLUTION
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


def test_a_visit_that_changes_others() -> None:
    """Whoever was to be visited in the same tick and is cleared or put off by a visit is not visited."""

    async def main() -> None:
        deadlines = Deadlines(asyncio.get_running_loop())
        first, cleared, later = Item(), Item(), Item()

        def change() -> None:
            deadlines.clear(cleared)
            deadlines.set(later, 5)

        first.on_due = change  # type: ignore[method-assign]
        for item in (first, cleared, later):
            deadlines.set(item, 1)
        await asyncio.sleep(3)
        assert cleared.visits == later.visits == []
        await asyncio.sleep(5)
        assert len(later.visits) == 1

    run_virtually(main)


def test_time_left() -> None:
    """Until the visit; nothing for who has no deadline."""

    async def main() -> None:
        deadlines, item = Deadlines(asyncio.get_running_loop()), Item()
        assert deadlines.left(item) == 0
        deadlines.set(item, 10)
        await asyncio.sleep(4)
        assert 6 <= deadlines.left(item) <= 6 + RESOLUTION
        await asyncio.sleep(10)
        assert deadlines.left(item) == 0

    run_virtually(main)
