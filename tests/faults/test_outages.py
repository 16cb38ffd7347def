"""Redis hangs, or dies and comes back with its data: publishers repeat what failed, and nothing is there twice.

Like `test_redis_faults`, with histories, publishers that retry with idempotency keys, and clients that judge.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from tests.support.checker import Checker, all_reach
from tests.support.deployment import KEY, serving
from tests.support.ledger import Ledger, Place, content
from tests.support.redis import RedisProcess, running_redis
from tests.support.server import HubProcess
from tests.support.traffic import Publisher
from tests.support.waiting import eventually

pytestmark = pytest.mark.timed

CHANNELS = ["one", "two", "three"]
CLIENTS, PUBLISHERS = 8, 4
FULL = os.environ.get("HUB_FAULTS") == "full"
HANG, AWAY = (10.0, 2.0) if FULL else (4.5, 1.0)
KEYS = 1000 if FULL else 100
DETECT_WITHIN = ANSWER_WITHIN = 5.0
CAUGHT_UP_WITHIN = 2.0


@pytest.fixture(scope="module")
def server(redis_binary: str) -> Iterator[RedisProcess]:
    """What it has acknowledged is there after a kill."""
    with running_redis(redis_binary, "--appendonly", "yes", "--appendfsync", "always") as process:
        yield process


@pytest.fixture(scope="module")
def hub(server: RedisProcess) -> Iterator[HubProcess]:
    with serving(server.url, workers=2) as process:
        yield process


class Persistent:
    """Publishes one after the other, each until it is accepted, always with the same key."""

    def __init__(self, name: str, hub: HubProcess, ledger: Ledger, channels: list[str]) -> None:
        self._name, self._hub, self._ledger, self._channels = name, hub, ledger, channels
        # The longest that an answer took; how many requests, and how many results that were of an earlier one.
        self.slowest = 0.0
        self.requests = 0

    async def run(self, over: asyncio.Event) -> None:
        async with httpx2.AsyncClient(base_url=self._hub.url, headers={"X-API-Key": KEY}, timeout=10) as client:
            for number in itertools.count():
                if over.is_set():
                    return
                channel = self._channels[number % len(self._channels)]
                text = content(self._name, number)
                place = await self._publish(client, channel, text, f"{self._name} {number}")
                self._ledger.accept(channel, place, text)
                await asyncio.sleep(0.02)

    async def _publish(self, client: httpx2.AsyncClient, channel: str, text: str, key: str) -> Place:
        body = {"channel": channel, "data": text, "idempotency_key": key}
        while True:
            start = time.monotonic()
            answer = (await client.post("/api/publish", json=body)).json()
            self.requests += 1
            self.slowest = max(self.slowest, time.monotonic() - start)
            if "result" in answer:
                return Place(answer["result"]["epoch"], answer["result"]["offset"])
            await asyncio.sleep(0.05)


@asynccontextmanager
async def persistence(hub: HubProcess, name: str) -> AsyncIterator[tuple[Ledger, list[Persistent]]]:
    """Clients and publishers before, during and after the block; then all was published once, and heard once."""
    ledger, rng, over = Ledger(), random.Random(1), asyncio.Event()
    channels = [f"{name}-{channel}" for channel in CHANNELS]
    checkers = [Checker(f"client {number}", hub.port, channels, ledger, rng) for number in range(CLIENTS)]
    publishers = [Persistent(f"{name} {number}", hub, ledger, channels) for number in range(PUBLISHERS)]
    try:
        await eventually(lambda: all(checker.ready for checker in checkers), 10)
        tasks = [asyncio.create_task(publisher.run(over)) for publisher in publishers]
        await asyncio.sleep(0.5)
        yield ledger, publishers
        await asyncio.sleep(0.5)
        over.set()
        await asyncio.gather(*tasks)
        async with Publisher("asking", hub.url, KEY, ledger) as asking:
            tops = await asking.tops(channels)
        assert await all_reach(checkers, tops, 5), (checkers, tops)
        assert sum(top.offset for top in tops.values()) == sum(map(len, ledger.accepted.values()))
    finally:
        await asyncio.gather(*(checker.leave() for checker in checkers))
    ledger.judge()
    assert not ledger.violations, ledger.verdict
    assert all(checker.events == Counter(connected=1) for checker in checkers), checkers


async def seconds_until_health_is(hub: HubProcess, status: int) -> float:
    start = time.monotonic()
    while await asyncio.to_thread(hub.status, "/health/ready") != status:
        assert time.monotonic() - start < DETECT_WITHIN
        await asyncio.sleep(0.02)
    return time.monotonic() - start


async def seconds_until_delivery(ledger: Ledger) -> float:
    start, before = time.monotonic(), ledger.deliveries
    await eventually(lambda: ledger.deliveries >= before + CLIENTS, 10)
    return time.monotonic() - start


async def test_redis_hangs(server: RedisProcess, hub: HubProcess) -> None:
    """SIGSTOP: not ready within 5 s, every request is answered within 5 s, and soon after SIGCONT all is as before."""
    async with persistence(hub, "hang") as (ledger, publishers):
        server.send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        red = await seconds_until_health_is(hub, 503)
        await asyncio.sleep(HANG - (time.monotonic() - frozen))
        server.send_signal(signal.SIGCONT)
        caught_up = await seconds_until_delivery(ledger)
    slowest = max(publisher.slowest for publisher in publishers)
    requests, accepted = sum(publisher.requests for publisher in publishers), sum(map(len, ledger.accepted.values()))
    print(
        f"figure: Redis frozen {HANG:g} s: not ready after {red:.2f} s, slowest answer of the API {slowest:.2f} s, "
        f"delivery {caught_up:.2f} s after SIGCONT, {requests} requests for {accepted} publications, 0 stored twice"
    )
    assert slowest < ANSWER_WITHIN
    assert caught_up < CAUGHT_UP_WITHIN
    assert requests > accepted


async def test_redis_is_killed_and_has_its_data(server: RedisProcess, hub: HubProcess) -> None:
    """kill -9, back with its append-only file: nobody is told anything, because nothing is missing."""
    async with persistence(hub, "kill") as (ledger, publishers):
        server.kill()
        red = await seconds_until_health_is(hub, 503)
        await asyncio.sleep(AWAY)
        server.start()
        caught_up = await seconds_until_delivery(ledger)
    requests, accepted = sum(publisher.requests for publisher in publishers), sum(map(len, ledger.accepted.values()))
    print(
        f"figure: Redis killed, back with AOF: not ready after {red:.2f} s, delivery {caught_up:.2f} s after it, "
        f"{requests} requests for {accepted} publications, 0 stored twice"
    )
    assert caught_up < CAUGHT_UP_WITHIN


async def test_two_workers_publish_with_the_same_key(hub: HubProcess) -> None:
    """At the same time, many keys: each is published once, and both have the same answer."""
    start = time.monotonic()
    async with httpx2.AsyncClient(base_url=hub.url, headers={"X-API-Key": KEY}, timeout=10) as client:
        for first in range(0, KEYS, 50):
            keys = [number // 2 for number in range(2 * first, 2 * first + 100)]
            bodies = [{"channel": "race", "data": key, "idempotency_key": f"race {key}"} for key in keys]
            answers = [
                reply.json()["result"] for reply in await asyncio.gather(*(post(client, body) for body in bodies))
            ]
            offsets = [answer["offset"] for answer in answers]
            assert offsets[::2] == offsets[1::2]
        top = (await client.post("/api/history", json={"channel": "race"})).json()["result"]["offset"]
    assert top == KEYS
    print(f"figure: {KEYS} keys raced by two requests each: {top} publications, {time.monotonic() - start:.1f} s")


async def post(client: httpx2.AsyncClient, body: dict[str, object]) -> httpx2.Response:
    return await client.post("/api/publish", json=body)
