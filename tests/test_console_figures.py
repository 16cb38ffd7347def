"""What workers tell about themselves: while somebody looks, to whom may see it, and what the numbers are."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from hub import Hub, Settings, console_figures
from hub.console_figures import FIGURES, Meter, busiest
from hub.errors import InvalidChannel, Refused
from hub.memory import MemoryBroker
from hub.protocol.forms import JsonForm
from hub.protocol.frames import split
from hub.registry import KeepsAll
from tests.support.waiting import eventually

PATIENCE = 20


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in a tenth of the time."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    for name in ("INTERVAL", "FIRST", "LISTING", "LEASE", "AGAIN"):
        monkeypatch.setattr(console_figures, name, getattr(console_figures, name) / 10)


class Listener(KeepsAll):
    """Somebody who looks: a subscriber of the figures."""

    id = b""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    @property
    def wire(self) -> Listener:
        return self

    def write(self, chunk: bytes) -> None:
        for _, payload in split(chunk):
            self.told += [json.loads(line)["push"]["pub"]["data"] for line in payload.splitlines()]

    def on_insufficient(self, channel: str) -> None: ...

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [told[kind] for told in self.told if kind in told]

    async def look(self, hub: Hub) -> None:
        async with hub.attending(FIGURES) as channel:
            hub._figures.watch()
            hub.join(self, channel, JsonForm())


@contextlib.asynccontextmanager
async def workers(count: int) -> AsyncIterator[list[Hub]]:
    """Hubs on one Redis that hear each other."""
    server = FakeServer()
    async with contextlib.AsyncExitStack() as stack:
        hubs = [Hub(Settings(), redis=FakeAsyncRedis(server=server)) for _ in range(count)]
        for hub in hubs:
            await stack.enter_async_context(hub)
        await eventually(lambda: all(hub.ready for hub in hubs), PATIENCE)
        yield hubs


def rests(hub: Hub) -> bool:
    return "at rest" in repr(hub._figures)


async def test_all_workers_tell_while_somebody_looks() -> None:
    """Each of the cluster, again and again, whichever the viewer came to; nothing before and nothing afterwards."""
    async with workers(2) as hubs:
        here, there = hubs
        assert rests(here)
        assert rests(there)
        assert here.delivery.tally is None
        viewer = Listener()
        await viewer.look(here)
        nodes = {hub.node for hub in hubs}
        await eventually(lambda: {told["node"] for told in viewer.of("worker")} == nodes, PATIENCE)
        await eventually(lambda: {told["node"] for told in viewer.of("channels")} == nodes, PATIENCE)
        one = viewer.of("worker")[-1]
        assert one["state"] == "ready"
        assert one["round_trip"] is None or one["round_trip"] > 0
        assert not one["replaceable"]
        assert viewer.of("gone") == []
        before = Counter(told["node"] for told in viewer.of("worker"))
        await eventually(
            lambda: Counter(t["node"] for t in viewer.of("worker"))[there.node] > before[there.node], PATIENCE
        )
        await there.stop()
        await eventually(lambda: viewer.of("gone") == [{"node": there.node}], PATIENCE)
        here.remove(viewer)
        await eventually(lambda: rests(here) and rests(there), PATIENCE)
        assert here.delivery.tally is there.delivery.tally is None


async def test_without_redis_a_worker_tells_those_who_look_at_it() -> None:
    """That it is not ready is what they have to see."""
    async with Hub(Settings(), broker=MemoryBroker()) as hub:
        viewer = Listener()
        await viewer.look(hub)
        await eventually(lambda: viewer.of("worker"), PATIENCE)
        hub.broker.ready = False  # type: ignore[misc]
        await eventually(lambda: viewer.of("worker")[-1]["state"] == "not ready", PATIENCE)
        hub.leaving = True
        await eventually(lambda: viewer.of("worker")[-1]["state"] == "draining", PATIENCE)


async def test_a_fault_does_not_silence_a_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the next reminder begins it anew."""
    read, faults = Meter.read, iter([ZeroDivisionError("once")])

    def sometimes(self: Meter, *arguments: Any) -> Any:
        for fault in faults:
            raise fault
        return read(self, *arguments)

    monkeypatch.setattr(Meter, "read", sometimes)
    async with Hub(Settings(), broker=MemoryBroker()) as hub:
        viewer = Listener()
        await viewer.look(hub)
        await eventually(lambda: viewer.of("worker"), PATIENCE)
    assert "unexpected fault in the figures of the console" in caplog.text


async def test_nobody_else_can_name_the_channel() -> None:
    """Neither a client nor the server API: so what is told there comes from workers, and goes to the console."""
    async with Hub(Settings(client_insecure=True), broker=MemoryBroker()) as hub:
        with pytest.raises(InvalidChannel):
            await hub.publish(FIGURES, {})
        with pytest.raises(Refused, match="control characters"):
            hub.authority.options(FIGURES)
        viewer = Listener()
        await viewer.look(hub)
        assert await hub.channels() == {}


async def test_the_busiest_channels() -> None:
    """Those where most is written come first; how many is bounded, and it is said if there are others."""
    async with Hub(Settings(), broker=MemoryBroker()) as hub:
        for number in range(console_figures.MOST_CHANNELS + 5):
            await hub.subscribe(Listener(), f"one.{number}")
        for _ in range(3):
            await hub.subscribe(Listener(), "three")
        told = await busiest(hub._vitals, Counter({"one.7": 40, "three": 4}), 2.0)
        first, second = told.channels[:2]
        assert (first.name, first.subscribers, first.rate) == ("one.7", 1, 20.0)
        assert (second.name, second.subscribers, second.rate) == ("three", 3, 2.0)
        assert len(told.channels) == console_figures.MOST_CHANNELS
        assert not told.all


async def test_publications_are_counted_by_channel() -> None:
    """While somebody looks."""
    async with Hub(Settings(), broker=MemoryBroker()) as hub:
        heard, viewer = Listener(), Listener()
        await hub.subscribe(heard, "prices", JsonForm())
        await viewer.look(hub)
        await eventually(lambda: viewer.of("channels"), PATIENCE)

        def rates() -> list[float]:
            return [rate for told in viewer.of("channels") for name, _, rate in told["channels"] if name == "prices"]

        await hub.publish("prices", 1)
        await eventually(lambda: any(rates()), PATIENCE)
        assert viewer.of("channels")[-1]["all"]
        assert [name for told in viewer.of("channels") for name, _, _ in told["channels"] if name == FIGURES] == []


async def test_rates_are_of_the_time_since_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the worker's life."""
    now = 100.0
    async with Hub(Settings(), broker=MemoryBroker()) as hub:
        monkeypatch.setattr(console_figures.time, "monotonic", lambda: now)
        hub.taken = 1000
        meter = Meter(hub._vitals)
        hub.taken, now = 1050, 110.0
        before = meter.read("ready", False)
        assert before.published == 5.0
        now = 111.0
        figures = meter.read("ready", False)
        assert figures.published == 0.0
        assert figures.connections == figures.channels == 0
        assert figures.silence is None
        assert figures.trouble == before.trouble  # counted for the process, so it may not be 0 in a run of many tests
        monkeypatch.undo()


async def test_an_order_of_a_worker_that_is_not_replaceable(caplog: pytest.LogCaptureFixture) -> None:
    """It stays and says why; under `hub serve` it asks its supervisor, and says that it is about to go."""
    async with Hub(Settings(), broker=MemoryBroker()) as hub:
        assert not await hub.retire("somebody else")
        assert await hub.retire(hub.node)
        await eventually(lambda: "nobody would replace it" in caplog.text, PATIENCE)
        asked: list[int] = []
        hub.retire_here = lambda: asked.append(1)
        viewer = Listener()
        await viewer.look(hub)
        assert await hub.retire(hub.node)
        await eventually(lambda: asked and viewer.of("worker"), PATIENCE)
        await eventually(lambda: viewer.of("worker")[-1]["state"] == "retiring", PATIENCE)
        assert viewer.of("worker")[-1]["replaceable"]
