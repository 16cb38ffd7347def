"""The watchdog: an event loop that stands still is seen from outside, measured, and told of with its stack."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Iterator

import pytest

from hub import Hub, Settings, watchdog
from hub.watchdog import Watchdog
from tests.support.waiting import eventually

pytestmark = pytest.mark.timed

LIMIT = 0.2


@pytest.fixture
def dog(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Watchdog]:
    """One that looks every 40 ms and tells after 0.2 s."""
    monkeypatch.setattr(watchdog, "INTERVAL", 0.04)
    caplog.set_level(logging.DEBUG, "hub.watchdog")
    dog = Watchdog(LIMIT)
    yield dog
    dog.stop()


def threads() -> int:
    return sum(thread.name == "hub watchdog" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def _no_other_dogs() -> None:
    """Of the tests before, whose threads may be about to end."""
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not threads()


def a_handler_that_blocks(seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.both_loops
async def test_a_loop_that_stands_still(dog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    """The stack is logged while it lasts, its end and its length afterwards; both count once."""
    dog.start()
    await asyncio.sleep(0.05)
    started = time.time()
    a_handler_that_blocks(0.8)
    ended = time.time()
    await eventually(lambda: len(caplog.records) == 2)
    blocked, over = caplog.records
    assert blocked.levelno == over.levelno == logging.ERROR
    assert started + LIMIT <= blocked.created < ended <= over.created
    assert "a_handler_that_blocks" in blocked.getMessage()
    assert "time.sleep(seconds)" in blocked.getMessage()
    assert re.fullmatch(r"the event loop goes on; it stood still for (0\.[789]|1\.\d) s", over.getMessage())
    assert dog.blocks == 1
    assert dog.lag.sum >= 0.7


async def test_the_thread_looks_while_the_end_is_told(dog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    """A slow log is not a second time that the loop stands still."""

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "goes on" in record.getMessage():
                dog._look(time.monotonic() - dog._mark - watchdog.INTERVAL, 0.0)

    handler = Slow()
    watchdog.log.addHandler(handler)
    try:
        dog.start()
        a_handler_that_blocks(0.5)
        await eventually(lambda: len(caplog.records) == 2)
        assert dog.blocks == 1
    finally:
        watchdog.log.removeHandler(handler)


async def test_it_is_told_again(dog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    """Each time that it lasts four times as long, and anew the next time."""
    dog.start()
    a_handler_that_blocks(1.6)
    await eventually(lambda: len(caplog.records) == 3)
    a_handler_that_blocks(0.5)
    await eventually(lambda: len(caplog.records) == 5)
    assert ["goes on" in message for message in caplog.messages] == [False, False, True, False, True]
    first, second, *_ = (float(message.split(" for ")[1].split(" s")[0]) for message in caplog.messages)
    assert second >= 3.5 * first
    assert dog.blocks == 2


async def test_a_loop_that_turns(dog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    """Is measured, and nothing is said: not of many short steps either."""
    dog.start()
    for _ in range(20):
        a_handler_that_blocks(0.02)
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert sum(dog.lag.counts) > 5
    assert caplog.messages == []
    assert dog.blocks == 0


async def test_without_a_limit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It measures and has no thread."""
    monkeypatch.setattr(watchdog, "INTERVAL", 0.04)
    dog = Watchdog(0)
    dog.start()
    a_handler_that_blocks(0.4)
    await eventually(lambda: dog.lag.sum > 0.2)
    assert not threads()
    assert caplog.messages == []
    dog.stop()


async def test_a_process_that_stood_still(
    dog: Watchdog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, or without the interpreter lock: the thread was held up too, so it does not blame the loop."""

    class Held(threading.Event):
        """Returns much later than it was asked to."""

        def wait(self, timeout: float | None = None) -> bool:
            time.sleep(0.5)
            return super().wait(0)

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Event", Held)
        dog.start()
    await eventually(lambda: caplog.messages)
    assert caplog.messages[0].startswith("the whole process stood still for 0.")
    assert dog.blocks == 0


def test_a_thread_that_was_held_up_itself(dog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    """On a busy machine everything is late; only what the loop is late beyond that counts."""
    dog._look(late=0.3, overslept=0.15)
    assert not caplog.messages
    dog._look(late=0.4, overslept=0.15)
    assert "stood still for 0.2 s" in caplog.text
    assert dog.blocks == 1


async def test_start_and_stop(dog: Watchdog) -> None:
    """Started twice is once, and no thread is left."""
    dog.start()
    dog.start()
    assert threads() == 1
    assert repr(dog).startswith("<Watchdog on, 0 blocks, lag <Histogram of ")
    dog.stop()
    dog.stop()
    await eventually(lambda: not threads())
    assert repr(dog).startswith("<Watchdog off")


def test_a_loop_that_ends(dog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    """Its thread ends with it, though nobody has stopped it; in the next loop it begins anew."""

    async def run() -> None:
        dog.start()
        await asyncio.sleep(0.03)

    for _ in range(2):
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(run())
        deadline = time.monotonic() + 5
        while threads() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert not threads()
    assert caplog.messages == []


async def test_a_hub_has_one() -> None:
    """From its start to its stop."""
    async with Hub(Settings(watchdog=5)) as hub:
        assert threads() == 1
        await eventually(lambda: sum(hub._watchdog.lag.counts))
    await eventually(lambda: not threads())
