"""Real replicas behind HAProxy, Caddy and Traefik as deploy/ configures them: one drains, one is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
import urllib.request
from collections.abc import AsyncIterator, Iterator

import pytest
import websockets

from hub.errors import Disconnects
from tests.support.checker import Checker, all_reach
from tests.support.deployment import KEY
from tests.support.fleet import Replica, running_replicas
from tests.support.ledger import Ledger
from tests.support.processes import wait_gone
from tests.support.proxies import KINDS, Kind, Running, proxying
from tests.support.sse import listening
from tests.support.traffic import Publisher, Traffic
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timed]

CHANNELS = [f"live-{number}" for number in range(3)]

every_kind = pytest.mark.parametrize("kind", KINDS, ids=repr)


@pytest.fixture(scope="module")
def replicas(redis_binary: str) -> Iterator[list[Replica]]:
    """Their notice is so long that only a second signal ends it."""
    with running_replicas(redis_binary, HUB_DRAIN_NOTICE="3600", HUB_DRAIN="0.5") as (_, replicas):
        yield replicas


@pytest.fixture
def fleet(replicas: list[Replica]) -> list[Replica]:
    """All of them, those again that a test has ended, or left at their end."""
    for replica in replicas:
        if replica.status("/health/ready") != 200:
            replica.kill()
            replica.start()
    for replica in replicas:
        replica.wait_ready()
    return replicas


def url_of(replica: Replica) -> str:
    return f"http://127.0.0.1:{replica.port}"


@contextlib.asynccontextmanager
async def listeners(kind: Kind, fleet: list[Replica]) -> AsyncIterator[tuple[Running, list[Checker]]]:
    """Clients of recoverable channels in which there is traffic; on leaving, that they have missed nothing of it."""
    ledger, rng = Ledger(), random.Random(1)
    async with proxying(kind, [replica.port for replica in fleet]) as proxy:
        checkers = [Checker(f"client {n}", proxy.port, CHANNELS, ledger, rng) for n in range(12)]
        try:
            await eventually(lambda: all(checker.ready for checker in checkers))
            async with Traffic(url_of(fleet[-1]), KEY, CHANNELS, 60, ledger, publishers=1) as traffic:
                yield proxy, checkers
                await eventually(lambda: all(checker.ready for checker in checkers))
                await traffic.stop()
                tops = await traffic.publishers[0].tops(CHANNELS)
                assert await all_reach(checkers, tops, 20), checkers
        finally:
            for checker in checkers:
                await checker.leave()
    ledger.judge()
    assert not ledger.violations, ledger.verdict
    assert ledger.deliveries >= 12 * traffic.sent > 0
    assert [checker for checker in checkers if checker.events["told"]] == []


class Newcomers:
    """They come one by one, and stay: who has the fewest connections is who they did not get to."""

    def __init__(self, proxy: Running) -> None:
        self._url = f"ws://127.0.0.1:{proxy.port}/ws/guests?hello=1"
        self._sockets = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Newcomers:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sockets.aclose()

    async def one(self) -> int:
        """The process id of the worker that serves it. Raises if it does not get in."""
        socket = await self._sockets.enter_async_context(websockets.connect(self._url, open_timeout=20))
        return int(json.loads(await socket.recv())["hub"]["hello"]["worker"])

    async def in_a_row(self, count: int, without: set[int]) -> None:
        """Until so many after each other got to other workers than these."""
        streak = 0
        async with asyncio.timeout(20):
            while streak < count:
                streak = 0 if await self.one() in without else streak + 1
                await asyncio.sleep(0.05)  # or hundreds would come until the proxy has looked


def codes(checkers: list[Checker]) -> list[int]:
    return [code for checker in checkers for _, code in checker.closes]


def streams(fleet: list[Replica]) -> float:
    """Open event streams, as the replicas count them."""
    total = 0.0
    for replica in fleet:
        with urllib.request.urlopen(f"{url_of(replica)}/metrics", timeout=20) as answer:
            total += sum(map(float, re.findall(r'^hub_connections\{.*"sse".*\} (\S+)', answer.read().decode(), re.M)))
    return total


@every_kind
async def test_event_streams(kind: Kind, fleet: list[Replica]) -> None:
    """Events come at once, one by one; and when the client has gone, the hub learns of it with the next one."""
    channel = "a channel/with a slash"
    async with (
        proxying(kind, [replica.port for replica in fleet]) as proxy,
        Publisher("p", url_of(fleet[0]), KEY, Ledger()) as publisher,
    ):
        async with listening(proxy.port, channel) as source:
            await source.greeting()
            for _ in range(3):
                await publisher.publish(channel)
                await source.take(1)
            assert await asyncio.to_thread(streams, fleet) == 1
        async with asyncio.timeout(20):
            while await asyncio.to_thread(streams, fleet):
                await publisher.publish(channel)


@every_kind
async def test_one_drains_and_one_is_killed(kind: Kind, fleet: list[Replica]) -> None:
    """Newcomers get in all the time, and to neither; the clients of both come back to the third and lose nothing."""
    async with listeners(kind, fleet) as (proxy, checkers), Newcomers(proxy) as newcomers:
        await drains(fleet[0], checkers, newcomers)
        before, workers = len(codes(checkers)), fleet[1].workers
        await asyncio.to_thread(fleet[1].kill)
        await asyncio.to_thread(wait_gone, workers, 20)
        for _ in range(12):
            await newcomers.one()
        await eventually(lambda: len(codes(checkers)) > before)
    assert set(codes(checkers)) == {Disconnects.SHUTDOWN.code, 1006}


async def drains(victim: Replica, checkers: list[Checker], newcomers: Newcomers) -> None:
    """From its notice on newcomers go elsewhere and its own clients stay; later they are told to leave."""
    workers = set(victim.workers)
    victim.process.send_signal(signal.SIGTERM)
    await newcomers.in_a_row(12, without=workers)
    assert set(victim.workers) == workers
    assert codes(checkers) == []
    victim.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(victim.process.wait, 20) == 0
    await eventually(lambda: codes(checkers))
    assert set(codes(checkers)) == {Disconnects.SHUTDOWN.code}
