"""Redis runs out of memory, is paused, forgets its scripts or cuts a worker off: what is kept is what is delivered.

Clients judge every publication; in the end all of them have heard exactly what the history has.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from tests.support.checker import Checker, all_reach
from tests.support.deployment import KEY, serving, workers_of
from tests.support.ledger import Ledger
from tests.support.redis import RedisProcess, running_redis
from tests.support.server import HubProcess
from tests.support.traffic import Publisher, Traffic
from tests.support.waiting import eventually
from tests.support.writer import Writer

pytestmark = pytest.mark.timed

CHANNELS = ["one", "two", "three"]
WORKERS, CLIENTS = 2, 8
# Milliseconds and commands; shorter and longer than the hub waits.
PAUSES = [(500, "WRITE"), (4000, "ALL")]
if os.environ.get("HUB_FAULTS") == "full":
    PAUSES += [(500, "ALL"), (4000, "WRITE")]


@pytest.fixture(scope="module")
def server(redis_binary: str) -> Iterator[RedisProcess]:
    with running_redis(redis_binary) as process:
        yield process


@pytest.fixture(scope="module")
def hub(server: RedisProcess) -> Iterator[HubProcess]:
    """One for all tests, each of which leaves it as it was."""
    with serving(server.url, workers=WORKERS) as process:
        yield process


@pytest.fixture(autouse=True)
def no_limits(server: RedisProcess) -> Iterator[None]:
    """Again, whatever the test has done."""
    yield
    with server.client() as client:
        client.config_set("maxmemory", 0)
        client.config_set("client-output-buffer-limit", "pubsub 32mb 8mb 60")


@pytest.fixture
def channels(request: pytest.FixtureRequest) -> list[str]:
    return [f"{request.node.name}-{channel}" for channel in CHANNELS]


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    book = Ledger()
    yield book
    book.judge()
    assert not book.violations, book.verdict


@pytest.fixture
async def checkers(
    server: RedisProcess, hub: HubProcess, ledger: Ledger, channels: list[str]
) -> AsyncIterator[list[Checker]]:
    """At least one on each worker: who accepts a connection is up to the kernel."""
    rng = random.Random(1)
    group: list[Checker] = []
    try:
        with server.client() as client:
            while len(group) < CLIENTS or listening(client, channels[0]) < WORKERS:
                group.append(Checker(f"client {len(group)}", hub.port, channels, ledger, rng))
                await eventually(lambda: group[-1].ready, 10)
        yield group
    finally:
        await asyncio.gather(*(checker.leave() for checker in group))


def listening(client: redis.Redis, channel: str) -> int:
    """Workers with a client of this channel."""
    return int(client.pubsub_numsub(f"hub:channel:{channel}")[0][1])


async def everybody_has_everything(hub: HubProcess, ledger: Ledger, checkers: list[Checker], patience: float) -> float:
    """Seconds until all have heard what was accepted, and nothing else is there."""
    start = time.monotonic()
    channels = list(checkers[0].stretches)
    async with Publisher("asking", hub.url, KEY, ledger) as asking:
        tops = await asking.tops(channels)
    assert await all_reach(checkers, tops, patience), (checkers, tops)
    for channel in channels:
        assert len(ledger.heard[channel]) == tops[channel].offset
    return time.monotonic() - start


# Memory


async def test_the_memory_limit_is_reached(
    server: RedisProcess, hub: HubProcess, checkers: list[Checker], ledger: Ledger, channels: list[str]
) -> None:
    """noeviction: publications are refused, as a whole. What was delivered is kept, and what is kept was delivered."""
    with server.client() as client:
        limit = client.info("memory")["used_memory"] + 2_000_000
        client.config_set("maxmemory", limit)
        async with (
            Writer("x" * 20_000, server.url, ledger) as writer,
            Publisher("p", hub.url, KEY, ledger) as publisher,
        ):
            accepted = 0
            for turn in range(100):
                accepted += await writer.publish(channels[turn % 3], 5)
            assert 0 < accepted < 500
            assert "OOM" in writer.refusals[0]
            await everybody_has_everything(hub, ledger, checkers, 5)
            # Small ones may still have fitted.
            client.config_set("maxmemory", client.info("memory")["used_memory"] - 100_000)
            await publisher.batch(channels, parallel=False)
            assert all(len(ledger.doubtful[channel]) == 1 for channel in channels)
            client.config_set("maxmemory", 0)
            await publisher.batch(channels, parallel=False)
            assert await writer.publish(channels[0]) == 1
        seconds = await everybody_has_everything(hub, ledger, checkers, 5)
        for channel in channels:
            kept = client.xlen(f"hub:stream:{{{channel}}}")
            assert kept == len(ledger.accepted[channel]) == len(ledger.heard[channel])
    assert all(checker.events["told"] == 0 for checker in checkers)
    print(f"figure: memory limit: {accepted} accepted, {len(writer.refusals)} refused, {seconds:.2f} s to settle")


# Time


async def test_redis_is_paused(
    server: RedisProcess, hub: HubProcess, checkers: list[Checker], ledger: Ledger, channels: list[str]
) -> None:
    """CLIENT PAUSE, for a moment and for longer than the hub waits, of writes and of everything."""
    async with Traffic(hub.url, KEY, channels, 100, ledger, publishers=2):
        for milliseconds, what in PAUSES:
            with server.client() as client:
                client.execute_command("CLIENT", "PAUSE", milliseconds, what)
            await asyncio.sleep(milliseconds / 1000)
            resumed = await works_again(hub, ledger, channels[0], f"after {milliseconds} {what}")
            print(f"figure: CLIENT PAUSE {milliseconds} {what}: works after {resumed:.2f} s")
            assert resumed < 2
    await everybody_has_everything(hub, ledger, checkers, 5)
    assert all(checker.events["told"] == 0 for checker in checkers)


async def works_again(hub: HubProcess, ledger: Ledger, channel: str, name: str) -> float:
    """Seconds until a publication is accepted."""
    start, before = time.monotonic(), len(ledger.accepted[channel])
    async with Publisher(name, hub.url, KEY, ledger) as publisher:
        while len(ledger.accepted[channel]) == before:
            await publisher.publish(channel)
    return time.monotonic() - start


async def test_scripts_are_flushed(
    server: RedisProcess, hub: HubProcess, checkers: list[Checker], ledger: Ledger, channels: list[str]
) -> None:
    """SCRIPT FLUSH again and again in traffic: not one publication is refused or repeated."""
    async with Traffic(hub.url, KEY, channels, 300, ledger, publishers=3):
        with server.client() as client:
            for _ in range(40):
                client.script_flush()
                await asyncio.sleep(0.02)
    seconds = await everybody_has_everything(hub, ledger, checkers, 5)
    assert not any(ledger.doubtful.values())
    assert all(checker.events["told"] == 0 for checker in checkers)
    print(f"figure: SCRIPT FLUSH 40 times in 0.8 s: {ledger.deliveries} deliveries, settled after {seconds:.2f} s")


# Buffers


async def test_a_frozen_worker_is_cut_off(
    server: RedisProcess, hub: HubProcess, checkers: list[Checker], ledger: Ledger, channels: list[str]
) -> None:
    """SIGSTOP under load until its output buffer overflows: it is back by itself, and its clients miss nothing.

    Those that cannot take as much at once as was missed lose their connection for it, and are told if it is too much.
    """
    worker = workers_of(hub)[0]
    with server.client() as client:
        # Besides what the kernel holds.
        client.config_set("client-output-buffer-limit", "pubsub 256kb 256kb 1")
        async with Writer("x" * 16_000, server.url, ledger) as writer:
            os.kill(worker, signal.SIGSTOP)
            try:
                feeds = count_feeds(client)
                async with asyncio.timeout(20):
                    while count_feeds(client) == feeds:
                        assert await writer.publish(channels[0], 20) == 20
            finally:
                os.kill(worker, signal.SIGCONT)
            start = time.monotonic()
            await eventually(lambda: count_feeds(client) == feeds, 10)
            back = time.monotonic() - start
        seconds = await everybody_has_everything(hub, ledger, checkers, 20)
    size = len(ledger.accepted[channels[0]]) * 0.016
    figure = f"back {back:.2f} s after SIGCONT, {size:.0f} MB, settled {seconds:.2f} s later"
    print(f"figure: frozen worker cut off: {figure}; {sum((checker.events for checker in checkers), Counter())}")
    assert back < 2


def count_feeds(client: redis.Redis) -> int:
    """Workers that hear, by what Redis knows."""
    return sum(entry["name"].endswith("-feed") for entry in client.client_list())
