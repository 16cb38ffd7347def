"""Presence while workers are killed and cut off, and Redis forgets, freezes, dies and comes back with old data."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis

from hub.errors import BrokerUnavailable
from hub.pubsub import RedisBroker
from tests.support.presence import Worker, alternates, balance, comings
from tests.support.proxy import proxy_to
from tests.support.redis import RedisProcess, running_redis
from tests.support.waiting import eventually

pytestmark = pytest.mark.timed

# Seconds; the tests wait for it to end.
LEASE = 1.5
# The one after which a killed process is looked for: at full size that which a hub has without settings.
KILLED_LEASE = 10.0 if os.environ.get("HUB_FAULTS") == "full" else LEASE

Hire = Callable[..., Any]


@pytest.fixture
def server(redis_binary: str) -> Iterator[RedisProcess]:
    with running_redis(redis_binary) as process:
        yield process


@pytest.fixture
async def hire(server: RedisProcess) -> AsyncIterator[Hire]:
    """Starts workers that hold a lease and hear `room`."""
    async with AsyncExitStack() as stack:

        async def start(url: str = server.url, lease: float = LEASE) -> Worker:
            worker = await Worker(RedisBroker(url, presence_lease=lease, timeout=1.0, publish_timeout=0.5)).start()
            stack.push_async_callback(worker.broker.stop)
            await worker.broker.subscribe("room")
            return await worker.leased()

        yield start


async def fill(worker: Worker, prefix: str, count: int = 50) -> set[str]:
    names = {f"{prefix}{number}" for number in range(count)}
    await asyncio.gather(*(worker.add("room", name) for name in names))
    return names


async def agree(*workers: Worker, timeout: float = 10) -> None:
    """Wait until Redis has exactly what all of them together want."""
    async with asyncio.timeout(timeout):
        while True:
            if await _agree(workers):
                return
            await asyncio.sleep(0.05)


async def _agree(workers: tuple[Worker, ...]) -> bool:
    with contextlib.suppress(BrokerUnavailable):
        for channel in {channel for worker in workers for channel in worker.members}:
            wanted = Counter(user for worker in workers for user in worker.members.get(channel, {}).values())
            clients = {client for worker in workers for client in worker.members.get(channel, {})}
            presence = workers[0].broker.presence
            if set(await presence.read(channel)) != clients:
                return False
            if await presence.stats(channel) != (len(clients), len(wanted)):
                return False
        return True
    return False


async def hears_all(observer: Worker, *workers: Worker) -> None:
    """Wait until joins minus leaves are what all of them together want, and check that none came twice."""
    present = {client for worker in workers for client in worker.members["room"]}
    await eventually(lambda: +balance(observer, "room") == dict.fromkeys(present, 1), 10)
    assert alternates(observer, "room")


async def ignore(*futures: asyncio.Future[None]) -> None:
    """Wait for the end of each, whatever it is."""
    await asyncio.gather(*futures, return_exceptions=True)


# Redis


async def test_redis_is_wiped(hire: Hire, server: RedisProcess) -> None:
    """FLUSHALL: everything is registered again, without a join that was announced before, without a leave lost."""
    first, second = await hire(), await hire()
    await fill(first, "a", 300)
    await fill(second, "b", 300)
    await first.hears(600)
    with server.client() as client:
        client.flushall()
    await ignore(first.remove("room", "a0"), second.add("room", "new"), first.remove("room", "a1"))
    await agree(first, second)
    await hears_all(second, first, second)
    await hears_all(first, first, second)
    assert len(first.heard) == 603


async def test_redis_is_restarted_empty(hire: Hire, server: RedisProcess) -> None:
    """Who came and went meanwhile is announced when it is back; who stayed is not."""
    first, second = await hire(), await hire()
    await fill(first, "a")
    await fill(second, "b")
    await first.hears(100)
    server.kill()
    await eventually(lambda: not (first.broker.ready or second.broker.ready))
    with pytest.raises(BrokerUnavailable):
        await first.add("room", "new")
    with pytest.raises(BrokerUnavailable):
        await second.remove("room", "b0")
    server.start()
    await agree(first, second)
    # The feed comes before the commands, so what was announced then is heard.
    await hears_all(first, first, second)
    await hears_all(second, first, second)
    assert len(second.heard) == 102


async def test_redis_is_restarted_with_old_data(hire: Hire, server: RedisProcess) -> None:
    """It knows the leases, but not what was written after the save: that is written again, the rest removed."""
    first, second = await hire(), await hire()
    stayed = await fill(first, "a")
    await fill(second, "b")
    with server.client() as client:
        client.save()
    late = await fill(first, "late")
    await asyncio.gather(*(second.remove("room", f"b{number}") for number in range(10)))
    server.kill()
    server.start()
    await agree(first, second)
    await asyncio.sleep(LEASE)  # until what is too much has expired
    await agree(first, second)
    heard = Counter(comings(second, "room"))
    assert {heard["+", name] for name in stayed | late} == {1}
    assert {heard["-", name] for name in stayed | late} == {0}


async def test_redis_is_away_for_longer_than_the_lease(hire: Hire, server: RedisProcess) -> None:
    """With its data kept nobody has left when it is back, and nobody is said to have."""
    first, second = await hire(), await hire()
    await fill(first, "a")
    await fill(second, "b")
    await first.hears(100)
    with server.client() as client:
        client.save()
    server.kill()
    await asyncio.sleep(LEASE)
    server.start()
    await agree(first, second)
    await asyncio.sleep(LEASE)
    await agree(first, second)
    assert len(first.heard) == 100


async def test_redis_is_frozen_for_longer_than_the_lease(hire: Hire, server: RedisProcess) -> None:
    """The same, and the connections may break or not; what was wanted meanwhile becomes true."""
    first, second = await hire(), await hire()
    await fill(first, "a")
    await fill(second, "b")
    await second.hears(100)
    server.send_signal(signal.SIGSTOP)
    attempts = first.add("room", "new"), second.remove("room", "b0")
    await asyncio.sleep(1.5 * LEASE)
    server.send_signal(signal.SIGCONT)
    await ignore(*attempts)
    await agree(first, second)
    await asyncio.sleep(LEASE)
    await agree(first, second)


# Workers


async def test_a_worker_is_cut_off_for_longer_than_the_lease(hire: Hire, server: RedisProcess) -> None:
    """Its clients leave; those who are still there join again when it is back, those who came meanwhile join."""
    with proxy_to(server.port) as proxy:
        cut, other = await hire(proxy.url), await hire()
        await fill(cut, "a")
        await fill(other, "b")
        route, proxy.route = proxy.route, lambda name: 1
        with server.client() as client:
            for entry in client.client_list():
                if cut.broker.node in entry["name"]:
                    client.client_kill_filter(_id=entry["id"])
        await ignore(cut.add("room", "new"), cut.remove("room", "a0"))
        await eventually(lambda: +balance(other, "room") == dict.fromkeys(other.members["room"], 1), LEASE + 2)
        proxy.route = route
        await agree(cut, other)
        await hears_all(other, cut, other)
        await cut.broker.stop()


async def test_a_short_cut_is_nobodys_leave(hire: Hire, server: RedisProcess) -> None:
    """Shorter than the lease: nothing is announced but what has changed."""
    cut, other = await hire(), await hire()
    await fill(cut, "a")
    with server.client() as client:
        for entry in client.client_list():
            if cut.broker.node in entry["name"]:
                client.client_kill_filter(_id=entry["id"])
    await ignore(cut.add("room", "new"), cut.remove("room", "a0"))
    await agree(cut, other)
    await hears_all(other, cut)
    assert len(other.heard) == 52


WORKER = """
import asyncio, sys
from hub.pubsub import RedisBroker

async def main():
    broker = RedisBroker(sys.argv[1], presence_lease=float(sys.argv[2]))
    await broker.start(lambda channel, payload: None)
    add = broker.presence.add
    await asyncio.gather(*(add("room", f"p{n}", "u", b'{"client":"p%d"}' % n, announce=True) for n in range(500)))
    print("registered", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_process_is_killed(hire: Hire, server: RedisProcess) -> None:
    """kill -9 of a real worker: each of its clients leaves once, all within the lease."""
    witness, other = await hire(lease=KILLED_LEASE), await hire(lease=KILLED_LEASE)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, server.url, str(KILLED_LEASE), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"registered\n"
        await witness.hears(500)
    finally:
        process.kill()
    killed = time.monotonic()
    await process.wait()
    await witness.hears(1000, KILLED_LEASE)
    took = time.monotonic() - killed
    print(f"500 clients of a killed worker have left after {took:.2f} s, with a lease of {KILLED_LEASE} s")
    assert took < KILLED_LEASE
    await agree(witness, other)
    await asyncio.sleep(KILLED_LEASE / 2)
    assert len(witness.heard) == 1000
    assert not +balance(witness, "room")
    assert alternates(witness, "room")


# All at once


class Storm:
    """Workers that come, go and are killed, and their clients; a model of what should be."""

    def __init__(self, hire: Hire, seed: int) -> None:
        self.hire, self.rng = hire, random.Random(seed)
        self.workers: list[Worker] = []
        self.numbers = iter(range(10**9))

    async def step(self) -> None:
        """One thing happens to one of them."""
        worker = self.rng.choice(self.workers)
        dice = self.rng.random()
        present = [(channel, client) for channel, clients in worker.members.items() for client in clients]
        if dice < 0.02 and len(self.workers) > 1:
            await self._lose(worker, self.rng.choice((Worker.die, _stop)))
        elif dice < 0.04 and len(self.workers) < 4:
            self.workers.append(await self.hire())
        elif dice < 0.45 and present:
            channel, client = self.rng.choice(present)
            worker.remove(channel, client)
            if self.rng.random() < 0.3:  # a reload of the page that keeps its id
                worker.add(channel, client, self._user())
        else:
            worker.add(self.rng.choice(("room", "room", "other")), f"c{next(self.numbers)}", self._user())

    def _user(self) -> str:
        return f"u{self.rng.randrange(20)}"

    async def _lose(self, worker: Worker, end: Any) -> None:
        self.workers.remove(worker)
        await end(worker)
        if not self.workers:
            self.workers.append(await self.hire())


async def _stop(worker: Worker) -> None:
    await worker.broker.stop()
    worker.members.clear()


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_of_comings_goings_and_kills(hire: Hire, server: RedisProcess, seed: int) -> None:
    """A thousand: at the end presence is the model, and joins minus leaves are presence, for each client."""
    storm, observer = Storm(hire, seed), await hire()
    storm.workers = [await hire() for _ in range(3)]
    for turn in range(1000):
        await storm.step()
        if turn % 5 == 0:
            await asyncio.sleep(0.002)
    await agree(observer, *storm.workers, timeout=2 * LEASE)
    for worker in (observer, *storm.workers):
        worker.members.setdefault("room", {})
    await hears_all(observer, *storm.workers)
    assert {client for _, client in comings(observer, "room")} > set(storm.workers[0].members["room"])


@pytest.mark.parametrize("seed", range(2))
async def test_a_storm_with_broken_connections(hire: Hire, server: RedisProcess, seed: int) -> None:
    """The connections of commands are killed all the time, by the server; in the end everything is as it should be."""
    storm, observer = Storm(hire, seed), await hire()
    storm.workers = [await hire() for _ in range(3)]
    with server.client() as client:
        for turn in range(1000):
            await storm.step()
            if turn % 5 == 0:
                await asyncio.sleep(0.002)
            if turn % 20 == 0:
                _break_one(client, storm.rng, observer.broker.node)
    for worker in (observer, *storm.workers):
        worker.members.setdefault("room", {})
    await agree(observer, *storm.workers, timeout=4 * LEASE)
    await asyncio.sleep(LEASE)
    await agree(observer, *storm.workers)
    await hears_all(observer, *storm.workers)


def _break_one(client: redis.Redis, rng: random.Random, spared: str) -> None:
    """CLIENT KILL the commands of somebody, but not of the observer."""
    found = [each for each in client.client_list() if each["name"].endswith("commands") and spared not in each["name"]]
    if found:
        client.client_kill_filter(_id=rng.choice(found)["id"])
