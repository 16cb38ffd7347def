"""Another server takes over that lacks what was published last: nobody is left with a picture that is not true.

Redis acknowledges a write before its replicas have it, so a failover may lose what the hub has delivered, and the new
master gives the same offsets to other publications, under the same epoch. Only contents tell the two apart.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from tests.support.centrifuge import connected
from tests.support.checker import Checker, all_reach
from tests.support.deployment import KEY, kill, serving, workers_of
from tests.support.ledger import LEAP, Place
from tests.support.lineage import Fork, line_of
from tests.support.proxy import Proxy
from tests.support.redis import READS_SLOWLY, RedisProcess
from tests.support.sentinel import replicated
from tests.support.server import HubProcess
from tests.support.traffic import Publisher
from tests.support.waiting import eventually
from tests.support.writer import Writer

pytestmark = pytest.mark.timed

# What the new master lacks of each channel, and how many it has got instead before the hub comes.
LOST = 5
FRESH = {"behind": 0, "before": LOST - 2, "at": LOST, "after": LOST + 3}
# Nothing is published here while the replica lags.
QUIET = "quiet"
CHANNELS = [*FRESH, QUIET]
CLIENTS = 6


@pytest.fixture
def servers(redis_binary: str) -> Iterator[tuple[RedisProcess, RedisProcess, Proxy]]:
    with replicated(redis_binary) as trio:
        yield trio


@pytest.fixture
def hub(servers: tuple[RedisProcess, RedisProcess, Proxy]) -> Iterator[HubProcess]:
    with serving(servers[2].url, workers=2) as process:
        yield process


@pytest.fixture
def fork() -> Fork:
    return Fork()


@pytest.fixture
async def checkers(hub: HubProcess, fork: Fork) -> AsyncIterator[list[Checker]]:
    """Each in all channels."""
    rng = random.Random(1)
    group = [Checker(f"client {number}", hub.port, CHANNELS, fork, rng) for number in range(CLIENTS)]
    try:
        await eventually(lambda: all(checker.ready for checker in group), 10)
        yield group
    finally:
        await asyncio.gather(*(checker.leave() for checker in group))


@pytest.fixture
async def publisher(hub: HubProcess, fork: Fork) -> AsyncIterator[Publisher]:
    async with Publisher("single", hub.url, KEY, fork) as one:
        yield one


async def publish_elsewhere(server: RedisProcess, fork: Fork) -> None:
    """What a worker does that has come to the new master before the others."""
    async with Writer("elsewhere", server.url, fork) as writer:
        for channel, count in FRESH.items():
            assert await writer.publish(channel, count) == count


async def everybody_has_everything(checkers: list[Checker], publisher: Publisher) -> dict[str, Place]:
    """Where that is. It is asked again, for a history may go on under another epoch after the first answer."""
    for _ in range(10):
        tops = await publisher.tops(CHANNELS)
        if await all_reach(checkers, tops, 1):
            return tops
    raise AssertionError((checkers, tops))


async def fail_over(
    servers: tuple[RedisProcess, RedisProcess, Proxy],
    fork: Fork,
    checkers: list[Checker],
    publisher: Publisher,
    dying: Sequence[int] = (),
) -> dict[str, Place]:
    """The replica falls behind and takes over; where everybody stood before. Processes that are `dying` end with it."""
    master, replica, proxy = servers
    for _ in range(10):
        await publisher.batch(CHANNELS, parallel=False)
    await everybody_has_everything(checkers, publisher)
    with replica.client() as client:
        await eventually(lambda: all(len(line_of(client, channel)) == 10 for channel in CHANNELS))
        for link in [each for each in proxy.open() if not each.name]:
            link.stall()
        for _ in range(LOST):
            await publisher.batch(list(FRESH), parallel=False)
        before = await everybody_has_everything(checkers, publisher)
        assert all(len(line_of(client, channel)) == 10 for channel in CHANNELS)
        client.replicaof("no", "one")
    await publish_elsewhere(replica, fork)
    for pid in dying:
        kill(pid)
    proxy.route = lambda name: replica.port
    master.kill()
    return before


async def has_settled(checkers: list[Checker], publisher: Publisher, fork: Fork) -> None:
    """A new publication reaches everybody."""
    before = sum(map(len, fork.taken.values()))
    async with asyncio.timeout(10):
        while sum(map(len, fork.taken.values())) < before + len(CHANNELS):
            await publisher.batch(CHANNELS, parallel=False)
    await everybody_has_everything(checkers, publisher)


def judge(server: RedisProcess, fork: Fork) -> None:
    with server.client() as client:
        lines = {channel: line_of(client, channel) for channel in CHANNELS}
    fork.judge_by(lines)
    assert not fork.violations, fork.verdict
    assert fork.lost_in(lines) == LOST * len(FRESH)


async def test_acknowledged_writes_are_lost_in_a_failover(
    servers: tuple[RedisProcess, RedisProcess, Proxy],
    hub: HubProcess,
    checkers: list[Checker],
    publisher: Publisher,
    fork: Fork,
) -> None:
    """Whether the new history is shorter, as long or longer: everybody is told; where nothing is lost, nobody is."""
    before = await fail_over(servers, fork, checkers, publisher)
    start = time.monotonic()
    await has_settled(checkers, publisher, fork)
    print(f"figure: failover that lost {LOST} writes a channel: settled after {time.monotonic() - start:.2f} s")
    judge(servers[1], fork)
    for checker in checkers:
        assert len(checker.stretches[QUIET]) == 1, checker
        assert all(len(checker.stretches[channel]) == 2 for channel in FRESH), checker
        assert checker.events["unsubscribed 2500"] == checker.events["told"] == len(FRESH)
        assert checker.events["connected"] == 1
    assert "lost publications that cannot be recovered" in hub.log
    # Who was away meanwhile brings a position from before; it looks like one of the new history, and is none.
    for _ in range(4):
        async with connected(hub.ws_url) as late:
            for channel, (epoch, offset) in before.items():
                answer = await late.ask("subscribe", channel=channel, recover=True, epoch=epoch, offset=offset)
                assert answer["was_recovering"] is True
                assert answer.get("recovered", False) is (channel == QUIET), (channel, answer)


async def test_the_workers_die_with_the_master(
    servers: tuple[RedisProcess, RedisProcess, Proxy],
    hub: HubProcess,
    checkers: list[Checker],
    publisher: Publisher,
    fork: Fork,
) -> None:
    """Nobody is left who knows what was lost, and the places of it are taken; yet all who have heard it are told."""
    await fail_over(servers, fork, checkers, publisher, workers_of(hub))
    await has_settled(checkers, publisher, fork)
    judge(servers[1], fork)
    for checker in checkers:
        assert len(checker.stretches[QUIET]) == 1, checker
        assert all(len(checker.stretches[channel]) == 2 for channel in FRESH), checker


async def test_a_failover_that_loses_nothing(
    servers: tuple[RedisProcess, RedisProcess, Proxy],
    checkers: list[Checker],
    publisher: Publisher,
    fork: Fork,
) -> None:
    """The replica has everything: clients notice nothing, and what was published meanwhile is filled in."""
    master, replica, proxy = servers
    await publisher.batch(CHANNELS, parallel=False)
    tops = await everybody_has_everything(checkers, publisher)
    with replica.client() as client:
        await eventually(lambda: all(len(line_of(client, channel)) == 1 for channel in CHANNELS))
        client.replicaof("no", "one")
    await publish_elsewhere(replica, fork)
    proxy.route = lambda name: replica.port
    master.kill()
    await has_settled(checkers, publisher, fork)
    assert all(checker.events == Counter(connected=1) for checker in checkers), checkers
    assert {tops[channel].epoch for channel in CHANNELS} == {(await publisher.top(name)).epoch for name in CHANNELS}
    with replica.client() as client:
        lines = {channel: line_of(client, channel) for channel in CHANNELS}
    fork.judge_by(lines)
    assert not fork.violations, fork.verdict
    assert fork.lost_in(lines) == 0


async def test_a_master_that_comes_back_reads_its_data(redis_binary: str, fork: Fork) -> None:
    """It says only afterwards that it goes on with what a replica has, and its first publication leaps all the same."""
    with replicated(redis_binary, *READS_SLOWLY) as (master, _, _):
        async with Writer("worker", master.url, fork) as writer:
            await writer.publish(QUIET)
            await asyncio.to_thread(master.restart_with, 600)
            async with asyncio.timeout(20):
                while not await writer.publish(QUIET):
                    pass
    assert [place.offset for place in fork.accepted[QUIET]] == [1, LEAP + 1]
