"""The supervisor's decisions: what to relay through, and what happens to a worker's place.

Real processes are in tests/test_serve.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from hub import supervisor
from hub.config import Settings
from hub.embedded import EmbeddedServer
from hub.errors import ConfigError
from hub.supervisor import Slot, choose_relay, reloaded
from tests.support.clock import run_virtually
from tests.support.waiting import eventually

PATIENCE = 9.0


def settings(**given: Any) -> Settings:
    return Settings.load(**{"port": 0, **given})


# What to relay through


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://hub:s3cret@redis.example:6380/2", "redis://redis.example:6380/2"),
        ("unix:///run/redis.sock?password=s3cret", "unix:///run/redis.sock/0"),
    ],
)
def test_a_given_redis(url: str, told: str) -> None:
    """Workers get the URL as it is, the terminal without its secrets."""
    relay = choose_relay(settings(redis_url=url, workers=4))
    assert (relay.url, relay.description, relay.server) == (url, told, None)


def test_a_given_redis_that_cannot_be_used() -> None:
    """It is refused before anything starts."""
    with pytest.raises(ConfigError, match="the Redis URL cannot be used"):
        choose_relay(settings(redis_url="redis://localhost:port"))


def test_a_server_of_our_own(redis_binary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started when no URL is given."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(supervisor, "find_server", lambda: (Path(redis_binary), "a server"))
    relay = choose_relay(settings(workers=2))
    assert isinstance(relay.server, EmbeddedServer)
    assert (relay.url, relay.description) == (relay.server.url, "a server, for these workers only")
    relay.server.stop()


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker runs in memory; several would not hear each other, which is refused with what to do."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(supervisor, "find_server", lambda: None)
    relay = choose_relay(settings(workers=1))
    assert (relay.url, relay.server) == (None, None)
    assert "in memory" in relay.description
    with pytest.raises(ConfigError, match=r"^2 workers need a Redis .* --redis-url.*--workers 1$"):
        choose_relay(settings(workers=2))


# New settings


def test_what_cannot_change_in_place(caplog: pytest.LogCaptureFixture) -> None:
    """It is as it was, and one warning names it without its value; everything else is new."""
    old = settings(host="127.0.0.1", workers=2, token="old", drain=3)
    new = reloaded(old, settings(host="::1", workers=3, redis_url="redis://:s3cret@redis", token="new"))
    assert new == settings(host="127.0.0.1", workers=2, redis_url=None, token="new")
    [line] = caplog.messages
    assert line == "host, workers, redis_url: what has changed there takes a restart"


def test_nothing_has_changed_that_cannot(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said."""
    assert reloaded(settings(token="old"), settings(token="new")) == settings(token="new")
    assert not caplog.messages


# The place of a worker


class FakeWorker:
    """A worker process that does as it is told."""

    pids = iter(range(100, 10_000))

    def __init__(self, *, ready: bool = True, starts_in: float = 0.0, stubborn: bool = False) -> None:
        self.pid = next(self.pids)
        self.end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.wish: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready, self._starts_in, self._stubborn = ready, starts_in, stubborn
        self.serving = self.terminated = self.killed = False

    async def is_ready(self) -> bool:
        await asyncio.sleep(self._starts_in)
        self.serving = self._ready and not self.end.done()
        return self.serving

    async def terminate(self) -> None:
        self.terminated = True
        await asyncio.wait((self.end,), timeout=PATIENCE if self._stubborn else 1)
        self.exit(0)

    def kill(self) -> None:
        self.killed = True
        self.exit(-9)

    def exit(self, status: int) -> None:
        if not self.end.done():
            self.end.set_result(status)


@contextlib.contextmanager
def complaints() -> Iterator[list[str]]:
    """What the supervisor logs as errors meanwhile."""
    said: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    supervisor.log.addHandler(handler)
    try:
        yield said
    finally:
        supervisor.log.removeHandler(handler)


class Place:
    """A slot that runs, the workers that it started, and how the next ones will be."""

    def __init__(self, *plans: dict[str, Any] | OSError) -> None:
        self.plans = list(plans)
        self.workers: list[Any] = []
        self.stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.slot = Slot(self.spawn, self.stopping)
        self.running = asyncio.create_task(self.slot.run())

    async def spawn(self) -> Any:
        plan = self.plans.pop(0) if self.plans else {}
        if isinstance(plan, OSError):
            raise plan
        self.workers.append(FakeWorker(**plan))
        return self.workers[-1]

    async def serves(self, count: int) -> Any:
        """Wait until the worker of that number serves."""
        await eventually(lambda: len(self.workers) >= count and self.workers[count - 1].serving, 60)
        return self.workers[count - 1]

    async def stop(self) -> bool:
        if not self.stopping.done():
            self.stopping.set_result(None)
        return await self.running


def virtually(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in virtual time."""

    def run() -> None:
        run_virtually(test)

    run.__doc__, run.__name__ = test.__doc__, test.__name__
    return run


async def seconds(waiting: Coroutine[Any, Any, Any]) -> float:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await waiting
    return loop.time() - start


@virtually
async def test_a_worker_that_ends_is_replaced() -> None:
    """Soon the first time, later if it happens again and again, soon again after a good life."""
    place = Place()
    pauses = []
    for count in range(1, 10):
        (await place.serves(count)).exit(-9)
        pauses.append(round(await seconds(place.serves(count + 1)), 1))
    assert pauses == sorted(pauses)
    assert pauses[0] <= 0.3
    assert pauses[-1] == supervisor.LONGEST_PAUSE
    await asyncio.sleep(supervisor.STABLE + 1)
    place.workers[-1].exit(0)
    assert await seconds(place.serves(11)) <= 0.2
    assert await place.stop()
    assert place.workers[-1].terminated


@virtually
async def test_a_first_worker_that_does_not_start_ends_everything() -> None:
    """The next would not either: the configuration is at fault."""
    assert await Place({"ready": False}).running is False
    assert await Place(OSError("no more processes")).running is False


@virtually
async def test_a_later_worker_that_does_not_start_is_tried_again() -> None:
    """Memory or processes may be scarce for a while."""
    place = Place({}, OSError("no more processes"), {"ready": False}, {})
    (await place.serves(1)).exit(1)
    await place.serves(3)
    assert place.workers[1].terminated
    assert await place.stop()


@virtually
async def test_a_stop_while_a_worker_starts() -> None:
    """It is ended too, without waiting for it to be ready, and counts as no fault."""
    place = Place({"starts_in": 50})
    await asyncio.sleep(1)
    assert await seconds(place.stop()) <= 1
    assert place.running.result() is True
    assert place.workers[0].terminated


@virtually
async def test_a_stop_between_two_workers() -> None:
    """Nobody is started any more."""
    place = Place()
    (await place.serves(1)).exit(1)
    await asyncio.sleep(0.05)
    assert await place.stop()
    assert len(place.workers) == 1


@virtually
async def test_a_renewal_leaves_no_gap() -> None:
    """The old one is retired when the new one serves; the renewal is over when the old one has ended."""
    place = Place()
    old = await place.serves(1)
    place.plans.append({"starts_in": 3})
    renewal = asyncio.create_task(place.slot.renew())
    await asyncio.sleep(2)
    assert not old.terminated
    new = await place.serves(2)
    await asyncio.sleep(0.1)
    assert old.terminated
    assert not renewal.done()
    assert await renewal
    assert old.end.done()
    assert not new.terminated
    assert await place.stop()


@virtually
async def test_a_renewal_that_fails_keeps_the_old_worker() -> None:
    """A configuration that does not work any more does not take down what runs."""
    place = Place({}, {"ready": False}, OSError("no more processes"))
    old = await place.serves(1)
    for _ in range(2):
        assert not await place.slot.renew()
        assert not old.terminated
        assert not old.end.done()
    assert await place.stop()


@virtually
async def test_a_worker_that_wishes_to_go() -> None:
    """It goes when another one serves in its place, and stays if none does; then it may wish again."""
    place = Place({}, {"ready": False}, {})
    old = await place.serves(1)
    old.wish.set_result(None)
    await eventually(lambda: old.wish is not None and not old.wish.done(), 60)
    assert place.workers[1].terminated
    assert not old.terminated
    old.wish.set_result(None)
    new = await place.serves(3)
    await eventually(lambda: old.terminated, 60)
    assert len(place.workers) == 3
    assert not new.terminated
    assert await place.stop()


@virtually
async def test_the_new_worker_ends_while_the_old_one_drains() -> None:
    """It is replaced at once, not when the old one has ended."""
    place = Place({"stubborn": True})
    await place.serves(1)
    renewal = asyncio.create_task(place.slot.renew())
    (await place.serves(2)).exit(1)
    assert await seconds(place.serves(3)) < 1
    assert not renewal.done()
    await renewal
    assert await place.stop()


@virtually
async def test_the_old_worker_ends_while_the_new_one_starts() -> None:
    """The new one takes its place as planned."""
    place = Place({}, {"starts_in": 2})
    old = await place.serves(1)
    renewal = asyncio.create_task(place.slot.renew())
    await asyncio.sleep(1)
    old.exit(1)
    await place.serves(2)
    await renewal
    await asyncio.sleep(20)
    assert len(place.workers) == 2
    assert await place.stop()


@virtually
async def test_a_renewal_while_a_worker_starts() -> None:
    """At the very beginning, or after a crash: it comes after, and ends nothing but the worker that it replaces."""
    place = Place({"starts_in": 2})
    renewal = asyncio.create_task(place.slot.renew())
    first = await place.serves(1)
    await renewal
    assert first.end.done()
    assert not (await place.serves(2)).end.done()
    assert await place.stop()


@virtually
async def test_a_stop_in_the_middle_of_a_renewal() -> None:
    """Old and new both end; nobody is forgotten, and nobody is said to stay."""
    for starts_in in (0, 30):
        place = Place({"stubborn": True}, {"starts_in": starts_in})
        await place.serves(1)
        renewal = asyncio.create_task(place.slot.renew())
        await asyncio.sleep(1)
        with complaints() as said:
            assert await place.stop()
        assert said == []
        assert all(worker.end.done() for worker in place.workers)
        assert len(place.workers) == 2
        renewal.cancel()


@virtually
async def test_kill_ends_everything_of_the_place_at_once() -> None:
    """The present worker and those that drain."""
    place = Place({"stubborn": True}, {"stubborn": True})
    await place.serves(1)
    renewal = asyncio.create_task(place.slot.renew())
    await place.serves(2)
    stop = asyncio.create_task(place.stop())
    await asyncio.sleep(0.1)
    place.slot.kill()
    assert await seconds(asyncio.wait_for(stop, 5)) < 0.1
    assert all(worker.killed for worker in place.workers)
    renewal.cancel()
