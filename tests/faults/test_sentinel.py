"""Sentinels name another master: every worker follows, be the old one dead, frozen, or at work as if nothing were.

Real sentinels. What the new master lacks of what was delivered is told (see test_failover.py for all the ways).
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.pubsub import RedisBroker
from tests.support.checker import Checker, all_reach
from tests.support.deployment import KEY, serving
from tests.support.lineage import Fork, line_of
from tests.support.redis import RedisProcess, running_redis
from tests.support.relay import Ear
from tests.support.sentinel import SERVICE, SentinelProcess, Watched, watched
from tests.support.traffic import Publisher, Traffic
from tests.support.waiting import eventually

pytestmark = pytest.mark.timed

CHANNELS = ["one", "two", "three"]
RESUME_WITHIN = 3.0
NOTICE_WITHIN = 10.0


@pytest.fixture
def sentinels(redis_binary: str) -> Iterator[Watched]:
    with watched(redis_binary) as everything:
        yield everything


async def let_fall_behind(sentinels: Watched, publisher: Publisher, checkers: list[Checker]) -> None:
    """Everybody hears what the replica will never have."""
    sentinels.hold_replication()
    for _ in range(3):
        await publisher.batch(CHANNELS, parallel=False)
    assert await all_reach(checkers, await publisher.tops(CHANNELS), 10)


async def everybody_hears(fork: Fork, clients: int) -> float:
    """Seconds until each client has heard something."""
    start = time.monotonic()
    await eventually(lambda: sum(when > start for when in fork.heard_at.values()) == clients, 20)
    return time.monotonic() - start


@pytest.mark.parametrize("how", ["killed before the replica has everything", "frozen, and back later"])
async def test_the_master_fails(sentinels: Watched, how: str) -> None:
    """All workers deliver again within 3 s of the failover; nobody misses anything without being told."""
    fork, rng = Fork(), random.Random(1)
    with serving(sentinels.url, workers=2) as hub:
        checkers = [Checker(f"client {number}", hub.port, CHANNELS, fork, rng) for number in range(6)]
        async with Publisher("single", hub.url, KEY, fork) as publisher:
            await eventually(lambda: all(checker.ready for checker in checkers), 10)
            async with Traffic(hub.url, KEY, CHANNELS, 60, fork, publishers=2):
                await asyncio.sleep(0.5)
            if "before" in how:
                await let_fall_behind(sentinels, publisher, checkers)
            sentinels.master.send_signal(signal.SIGKILL if "killed" in how else signal.SIGSTOP)
            failed = time.monotonic()
            async with Traffic(hub.url, KEY, CHANNELS, 60, fork, publishers=2):
                switched = await asyncio.to_thread(sentinels.wait_for_failover)
                resumed = await everybody_hears(fork, len(checkers))
                await asyncio.sleep(0.3)
            if "frozen" in how:
                sentinels.master.send_signal(signal.SIGCONT)
            figure = f"new master after {switched:.2f} s, everybody hears {resumed:.2f} s later"
            print(f"figure: sentinel, master {how}: {figure}, settled after {time.monotonic() - failed:.2f} s")
            assert resumed < RESUME_WITHIN
            await publisher.batch(CHANNELS, parallel=False)
            tops = await publisher.tops(CHANNELS)
            assert await all_reach(checkers, tops, 10), (checkers, tops)
        await asyncio.gather(*(checker.leave() for checker in checkers))
    with sentinels.replica.client() as client:
        lines = {channel: line_of(client, channel) for channel in CHANNELS}
    fork.judge_by(lines)
    assert not fork.violations, fork.verdict
    lost = fork.lost_in(lines)
    print(f"figure: sentinel, master {how}: {lost} accepted writes lost, {fork.deliveries} deliveries")
    if "before" in how:
        assert lost >= 3 * len(CHANNELS)
        assert all(len(checker.stretches[channel]) == 2 for checker in checkers for channel in CHANNELS)


# Both sides work


async def test_the_sentinels_name_another_master_while_the_old_one_works(redis_binary: str, tmp_path: Path) -> None:
    """Its heartbeats come back, and yet nobody else is there any more: it is left within seconds."""
    with running_redis(redis_binary) as old, running_redis(redis_binary) as new:
        sentinel = SentinelProcess(redis_binary, tmp_path, old.port)
        try:
            await eventually(lambda: sentinel.knows(0, 0))
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}"
            ears = [Ear(RedisBroker(url)), Ear(RedisBroker(new.url))]
            await heard_by(ears[:1])
            start = time.monotonic()
            with sentinel.client() as client:
                client.execute_command("SENTINEL", "REMOVE", SERVICE)
                client.execute_command("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", new.port, 1)
            await heard_by(ears)
            print(f"figure: sentinels name another, the old one works: followed in {time.monotonic() - start:.2f} s")
            assert time.monotonic() - start < NOTICE_WITHIN
            assert ears[0].broker.gaps == 1
            await asyncio.gather(*(ear.broker.stop() for ear in ears))
        finally:
            sentinel.stop()


@pytest.mark.parametrize("comes_back", [False, True], ids=["for good", "and comes back"])
async def test_another_master_while_the_first_hangs(redis_binary: str, tmp_path: Path, comes_back: bool) -> None:
    """A frozen server takes connections and says nothing: who waits for it follows at once, and does not take it for
    the master if it comes back in the same moment.
    """
    with running_redis(redis_binary) as old, running_redis(redis_binary) as new:
        sentinel = SentinelProcess(redis_binary, tmp_path, old.port)
        old.send_signal(signal.SIGSTOP)
        ear = Ear(RedisBroker(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}", timeout=60))
        try:
            await ear.start()
            await asyncio.sleep(1)
            assert not ear.broker.ready
            with sentinel.client() as client:
                client.execute_command("SENTINEL", "REMOVE", SERVICE)
                client.execute_command("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", new.port, 1)
            if comes_back:
                old.send_signal(signal.SIGCONT)
            await eventually(lambda: ear.broker.ready, 3)
            assert ear.broker.reconnects == {"commands": 0, "feed": 0}
            with new.client() as client:
                assert len(client.pubsub_channels("hub:*")) == 2
            await ear.broker.stop()
        finally:
            old.send_signal(signal.SIGCONT)
            sentinel.stop()


async def heard_by(ears: list[Ear]) -> None:
    """Publications of each reach all."""
    for ear in ears:
        await ear.start()
        await ear.broker.subscribe("room")
    await eventually(lambda: all(ear.broker.ready for ear in ears))
    for ear in ears:
        ear.heard.clear()
    async with asyncio.timeout(NOTICE_WITHIN):
        while any({payload for _, payload in ear.heard} != set(_names(ears)) for ear in ears):
            for ear, name in zip(ears, _names(ears), strict=True):
                ear.broker.publish("room", name)
            await asyncio.sleep(0.02)


def _names(ears: list[Ear]) -> list[bytes]:
    return [b"%d" % number for number in range(len(ears))]


async def test_a_master_that_becomes_a_replica(redis_binary: str, caplog: pytest.LogCaptureFixture) -> None:
    """It answers, and takes heartbeats; but nothing can be kept there: it is left, and not taken for a master again."""
    with running_redis(redis_binary) as server, running_redis(redis_binary) as other, server.client() as client:
        ear = Ear(RedisBroker(server.url))
        await heard_by([ear])
        start = time.monotonic()
        client.replicaof("127.0.0.1", str(other.port))
        await eventually(lambda: not ear.broker.ready, NOTICE_WITHIN)
        print(f"figure: the master becomes a replica: noticed in {time.monotonic() - start:.2f} s")
        await eventually(lambda: "it is a replica, and the hub needs the master" in caplog.text)
        assert "has become a replica; leaving it" in caplog.text
        start = time.monotonic()
        client.replicaof("no", "one")
        await eventually(lambda: ear.broker.ready)
        await heard_by([ear])
        print(f"figure: and a master again: works after {time.monotonic() - start:.2f} s")
        await ear.broker.stop()


async def test_a_server_that_gets_other_data_for_a_moment(redis_binary: str) -> None:
    """It was a replica between two looks: connections stayed, but what clients have heard may not be there."""
    quick = ("--repl-diskless-sync-delay", "0")
    with running_redis(redis_binary) as server, running_redis(redis_binary, *quick) as other, server.client() as client:
        listener = Listener()
        broker = RedisBroker(server.url)
        await broker.start(lambda channel, payload: None, listener)
        await eventually(lambda: broker.ready)
        await become(server, other)
        client.replicaof("no", "one")
        await eventually(lambda: listener.moved, NOTICE_WITHIN)
        assert listener.moved == [True]
        await eventually(lambda: broker.ready)
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: len(listener.moved) == 2)
        assert listener.moved == [True, False]
        await broker.stop()


async def become(server: RedisProcess, other: RedisProcess) -> None:
    """`server` takes over the data of `other`."""
    with server.client() as client:
        client.replicaof("127.0.0.1", str(other.port))
        await eventually(lambda: client.info("replication")["master_link_status"] == "up")


class Listener:
    """Keeps what a broker says of its gaps."""

    def __init__(self) -> None:
        self.losses = 0
        self.moved: list[bool] = []

    def on_loss(self) -> None:
        self.losses += 1

    def on_gap(self, *, moved: bool) -> None:
        self.moved.append(moved)

    def on_control(self, payload: bytes) -> None: ...
