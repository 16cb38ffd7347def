"""The virtual clock: whose time it is, when it passes, and what it waits for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import anyio
import anyio.to_thread
import pytest
import uvloop
from fastapi import FastAPI

from hub import Hub, Settings
from hub.testing import Cluster
from hub.testing.clock import LIMIT, VirtualClock

Log = list[tuple[str, float]]


@pytest.fixture
async def clock() -> AsyncIterator[VirtualClock]:
    """Of the running loop."""
    clock = VirtualClock(patience=0.0)
    clock.install()
    yield clock
    clock.uninstall()


def application() -> FastAPI:
    app = FastAPI()
    app.include_router(Hub(Settings()).router)
    return app


async def test_timers_go_off_in_order_at_their_times(clock: VirtualClock) -> None:
    """Each sees its own time, and what it starts happens before the next one; what is due later does not."""
    loop, begin = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    log: Log = []

    def note(name: str) -> None:
        log.append((name, round(loop.time() - begin, 6)))

    async def follow() -> None:
        note("followed")
        await asyncio.sleep(0)
        note("followed twice")

    loop.call_later(2, note, "second")
    loop.call_later(1, lambda: (note("first"), loop.create_task(follow())))
    loop.call_later(3, note, "at the end")
    loop.call_later(3.1, note, "too late")
    await clock.advance(3)
    expected = [("first", 1), ("followed", 1), ("followed twice", 1), ("second", 2), ("at the end", 3)]
    assert log == expected
    assert clock.elapsed == pytest.approx(3)


async def test_time_passes_where_somebody_waits(clock: VirtualClock) -> None:
    """A sleep of a day and a deadline of an hour take no time, and the loop's time is what has passed."""
    real = time.monotonic()
    await asyncio.sleep(500)
    clock.allow(86400)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(86400):
            await asyncio.Event().wait()
    assert clock.elapsed == pytest.approx(86900)
    assert time.monotonic() - real < 3600


async def test_idle_lets_no_time_pass(clock: VirtualClock) -> None:
    """Everything that can go on does, over any number of turns."""
    done: list[int] = []

    async def turn() -> None:
        for number in range(50):
            await asyncio.sleep(0)
            done.append(number)

    task = asyncio.create_task(turn())
    late = asyncio.create_task(asyncio.sleep(0.001))
    await clock.idle()
    assert (len(done), late.done(), clock.elapsed) == (50, False, 0)
    await asyncio.gather(task, late)


async def test_threads_are_waited_for(clock: VirtualClock) -> None:
    """However long they take, no virtual time passes meanwhile, because the loop has something to wait for."""
    gate, entered = threading.Event(), threading.Event()

    def work() -> bool:
        entered.set()
        return gate.wait(30)

    timer = asyncio.create_task(asyncio.sleep(0.001))
    task = asyncio.create_task(asyncio.to_thread(work))
    while not entered.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0)
    threading.Timer(0.05, gate.set).start()
    assert await task
    assert not timer.done()
    await timer


async def test_threads_with_a_limit_of_their_own(clock: VirtualClock) -> None:
    """They are waited for too: in these FastAPI closes dependencies that are no coroutines."""
    gate = threading.Event()
    task = asyncio.create_task(anyio.to_thread.run_sync(gate.wait, 30, limiter=anyio.CapacityLimiter(1)))
    timer = threading.Timer(0.05, gate.set)
    timer.start()
    async with asyncio.timeout(1):
        assert await task
    assert clock.elapsed == 0
    timer.join()


async def test_threads_are_left_as_they_were() -> None:
    """After the clock nothing of it stays."""
    before = anyio.to_thread.run_sync
    clock = VirtualClock(patience=0.0)
    clock.install()
    assert anyio.to_thread.run_sync is not before
    clock.uninstall()
    assert anyio.to_thread.run_sync is before


async def test_patience_is_for_what_comes_from_elsewhere() -> None:
    """A thread of nobody's knowledge hands something over: before the clock steps on, it is waited for."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    clock = VirtualClock(patience=20.0)
    clock.install()
    threading.Timer(0.05, loop.call_soon_threadsafe, (arrived.set,)).start()
    async with asyncio.timeout(1):
        await arrived.wait()
    assert clock.elapsed == 0
    clock.uninstall()


async def test_unix_time_follows_and_comes_back() -> None:
    """`time.time` is real at the start, then virtual, then real again."""
    before, real = time.time(), time.time
    clock = VirtualClock(patience=0.0)
    clock.install()
    await clock.advance(500)
    assert time.time() - before >= 500
    assert abs(time.time_ns() / 1e9 - time.time()) < 1
    clock.uninstall()
    assert time.time is real


async def test_the_hub_alone_has_a_virtual_monotonic() -> None:
    """Threads and other event loops wait by the real one."""
    from hub import admission

    clock = VirtualClock(patience=0.0)
    clock.install()
    before, real = admission.time.monotonic(), time.monotonic()
    await clock.advance(500)
    assert admission.time.monotonic() - before == pytest.approx(500)
    assert admission.time.perf_counter is time.perf_counter
    assert time.monotonic() - real < 400
    clock.uninstall()
    assert admission.time is time


async def test_the_loop_keeps_its_order_afterwards() -> None:
    """Its time goes on from where it is; what was to happen in a second happens in a real one, not in a thousand."""
    loop = asyncio.get_running_loop()
    clock = VirtualClock(patience=0.0)
    clock.install()
    begin = loop.time()
    await clock.advance(1000)
    rung = asyncio.Event()
    loop.call_later(0.05, rung.set)
    clock.uninstall()
    assert loop.time() >= begin + 1000
    async with asyncio.timeout(30):
        await rung.wait()
    assert "select" not in vars(loop._selector)  # type: ignore[attr-defined]
    async with Cluster(application(), workers=1) as cluster:
        await cluster.advance(1)


async def test_one_cluster_at_a_time() -> None:
    """Two clocks in one loop would be none."""
    async with Cluster(application(), workers=1):
        with pytest.raises(RuntimeError, match=r"another Cluster is running in this event loop: one at a time"):
            await Cluster(application(), workers=1).__aenter__()
    async with Cluster(application(), workers=1):
        pass


def test_uvloop_is_refused() -> None:
    """It cannot be told the time; the error says what can."""

    async def main() -> None:
        with pytest.raises(
            RuntimeError, match=r"this one is uvloop.Loop: run the test in an asyncio.SelectorEventLoop"
        ):
            await Cluster(application()).__aenter__()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_a_test_that_is_stuck_ends() -> None:
    """Something that never happens is waited for only so long, and the error says so."""
    with pytest.raises(AssertionError, match=rf"the test has waited for {LIMIT:g} s of virtual time"):
        async with Cluster(application(), workers=1):
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


def test_a_test_that_is_stuck_with_a_fixture(caplog: pytest.LogCaptureFixture) -> None:
    """It is another task than the one that has begun the cluster, as with pytest-asyncio; it went on for ever."""
    cluster = Cluster(application(), workers=1)

    async def begin() -> None:
        await cluster.__aenter__()

    async def wait() -> None:
        await asyncio.Event().wait()

    async def end() -> None:
        await cluster.__aexit__(None, None, None)

    with asyncio.Runner() as runner:
        runner.run(begin())
        with pytest.raises(asyncio.CancelledError):
            runner.run(wait())
        with pytest.raises(AssertionError, match=r"waited for 600 s of virtual time"):
            runner.run(end())
    assert "waited for 600 s of virtual time" in caplog.text


async def test_advancing_is_no_waiting() -> None:
    """A day on purpose is no day in vain."""
    async with Cluster(application(), workers=1) as cluster:
        await cluster.advance(2 * LIMIT)
        assert cluster.time == pytest.approx(2 * LIMIT)
        with pytest.raises(ValueError, match=r"time does not go back: seconds is -1"):
            await cluster.advance(-1)
