"""The network between one worker and Redis stalls, swallows, is slow or loses packets; the others' does not.

Clients of all workers judge every publication: nothing is lost, repeated or turned round, and nobody is told anything.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.support.checker import Checker, all_reach
from tests.support.deployment import KEY, serving
from tests.support.ledger import Ledger
from tests.support.proxy import Proxy, proxy_to
from tests.support.redis import RedisProcess, running_redis
from tests.support.server import HubProcess
from tests.support.traffic import Publisher, Traffic
from tests.support.waiting import eventually

pytestmark = pytest.mark.timed

CHANNELS = ["one", "two", "three"]
CLIENTS = 8
# Seconds; longer than the hub believes in a silent connection.
STALL = 8.0 if os.environ.get("HUB_FAULTS") == "full" else 4.5
# Seconds from the end of the fault until everybody has everything.
SETTLES_WITHIN = 1.0


@pytest.fixture(scope="module")
def server(redis_binary: str) -> Iterator[RedisProcess]:
    with running_redis(redis_binary) as process:
        yield process


@pytest.fixture(scope="module")
def proxy(server: RedisProcess) -> Iterator[Proxy]:
    with proxy_to(server.port) as between:
        yield between


@pytest.fixture(scope="module")
def hub(proxy: Proxy) -> Iterator[HubProcess]:
    with serving(proxy.url, workers=2) as process:
        yield process


@pytest.fixture(scope="module")
def other(server: RedisProcess) -> Iterator[HubProcess]:
    """Publishes, over a network that works."""
    with serving(server.url, workers=1) as process:
        yield process


@asynccontextmanager
async def traffic(
    hub: HubProcess, other: HubProcess, channels: list[str], rate: float = 100
) -> AsyncIterator[tuple[Ledger, Callable[[], float]]]:
    """Before, during and after what happens in the block; then everybody must have everything, soon.

    Gives the ledger, and what tells it that the fault is over: it returns the longest delay since the last call.
    """
    ledger, rng = Ledger(), random.Random(1)
    checkers = [Checker(f"client {number}", hub.port, channels, ledger, rng) for number in range(CLIENTS)]
    over = time.monotonic()

    def heal() -> float:
        nonlocal over
        over, slowest, ledger.slowest = time.monotonic(), ledger.slowest, 0.0
        return slowest

    try:
        await eventually(lambda: all(checker.ready for checker in checkers), 10)
        async with Traffic(other.url, KEY, channels, rate, ledger, publishers=2):
            await asyncio.sleep(0.3)
            yield ledger, heal
            await asyncio.sleep(SETTLES_WITHIN)
        async with Publisher("asking", other.url, KEY, ledger) as asking:
            assert await all_reach(checkers, await asking.tops(channels), 5), checkers
    finally:
        await asyncio.gather(*(checker.leave() for checker in checkers))
    ledger.judge()
    assert not ledger.violations, ledger.verdict
    assert not any(checker.events["told"] + checker.events["unsubscribed 2500"] for checker in checkers), checkers


async def a_node(server: RedisProcess, channels: list[str]) -> str:
    """The worker with most subscriptions to `channels`, by what the names of its connections have in common."""
    names = {f"hub:channel:{channel}".encode() for channel in channels}
    with server.client() as client:
        # The last test's are kept for a moment.
        await eventually(lambda: set(client.pubsub_channels("hub:channel:*")) == names, 10)
        feeds = [entry for entry in client.client_list() if entry["name"].endswith("-feed")]
    return str(max(feeds, key=lambda entry: int(entry["sub"]))["name"]).removesuffix("-feed")


@pytest.mark.parametrize(
    ("fault", "seconds"), [(Proxy.stall, STALL), (Proxy.blackhole, 3.0)], ids=["stall", "blackhole"]
)
async def test_the_link_of_one_worker(
    server: RedisProcess,
    hub: HubProcess,
    other: HubProcess,
    proxy: Proxy,
    fault: Callable[[Proxy, str], None],
    seconds: float,
) -> None:
    """Both its connections, and all that it tries to open: its clients have what they missed soon after the end."""
    name = fault.__name__
    channels = [f"{name}-{channel}" for channel in CHANNELS]
    async with traffic(hub, other, channels) as (ledger, heal):
        node = await a_node(server, channels)
        fault(proxy, node)
        await asyncio.sleep(seconds)
        proxy.release(node)
        heal()
    late = ledger.slowest - seconds
    print(f"figure: link of one worker, {name} {seconds:g} s: the latest delivery {late:.2f} s after it")
    assert -0.5 < late < SETTLES_WITHIN


async def test_subscriptions_are_killed(server: RedisProcess, hub: HubProcess, other: HubProcess) -> None:
    """CLIENT KILL TYPE pubsub, twenty times at random moments: a little late, and nothing else."""
    rng = random.Random(2)
    async with traffic(hub, other, [f"killed-{channel}" for channel in CHANNELS], 400) as (ledger, heal):
        heal()
        with server.client() as client:
            for _ in range(20):
                client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                await asyncio.sleep(rng.uniform(0, 0.2))
        slowest = heal()
    print(f"figure: CLIENT KILL TYPE pubsub 20 times: latest delivery {slowest:.2f} s, {ledger.deliveries} deliveries")
    assert slowest < SETTLES_WITHIN


async def test_a_slow_network(hub: HubProcess, other: HubProcess, proxy: Proxy) -> None:
    """200 ms each way: late, and nothing else; connections stay."""
    before = sorted(each.name for each in proxy.open())
    async with traffic(hub, other, [f"slow-{channel}" for channel in CHANNELS]) as (ledger, heal):
        heal()
        proxy.latency = 0.2
        await asyncio.sleep(1)
        slowest = heal()
        proxy.latency = 0.0
    print(f"figure: 200 ms of latency: the latest delivery after {slowest:.2f} s, {ledger.deliveries} deliveries")
    assert slowest < 1
    assert sorted(each.name for each in proxy.open()) == before


async def test_a_network_that_loses_packets(hub: HubProcess, other: HubProcess, proxy: Proxy) -> None:
    """5 % have to be sent again, and what is behind them waits: late, and nothing else; connections stay."""
    before = sorted(each.name for each in proxy.open())
    async with traffic(hub, other, [f"lossy-{channel}" for channel in CHANNELS]) as (ledger, heal):
        heal()
        proxy.loss = 0.05
        await asyncio.sleep(1)
        slowest = heal()
        proxy.loss = 0.0
    print(f"figure: 5 % of packets lost: the latest delivery after {slowest:.2f} s, {ledger.deliveries} deliveries")
    assert sorted(each.name for each in proxy.open()) == before
