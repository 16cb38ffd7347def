"""A Redis that would drop histories rather than refuse publications is told of, once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from hub import pubsub
from hub.embedded import EmbeddedServer
from hub.pubsub import RedisBroker
from tests.support.clock import run_virtually
from tests.support.miniredis import MiniRedis
from tests.support.redis import running_redis
from tests.support.relay import Ear
from tests.support.waiting import eventually

A, B = b"a" * 40, b"b" * 40
MEBIBYTE = 2**20


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> MiniRedis:
    """The server that brokers with any URL talk to."""
    server = MiniRedis()
    monkeypatch.setattr(pubsub, "open_link", server.open_link)
    return server


def become(server: MiniRedis, lineage: bytes, policy: bytes = b"allkeys-lru", limit: int = MEBIBYTE) -> None:
    """Be this server, with these settings."""
    memory = b"maxmemory:%d\r\nmaxmemory_human:1.00M\r\nmaxmemory_policy:%s\r\n" % (limit, policy)
    server.lineage, server.info = lineage, b"role:master\r\nmaster_replid:%s\r\n%s" % (lineage, memory)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "maxmemory" in record.getMessage()]


def with_broker(test: Callable[[RedisBroker], Awaitable[None]]) -> None:
    """Run it in virtual time, on a broker that has been ready for some seconds."""

    async def main() -> None:
        broker = RedisBroker("redis://:s3cret@mini")
        await broker.start(lambda channel, payload: None)
        await eventually(lambda: broker.ready)
        await asyncio.sleep(5)
        await test(broker)
        await broker.stop()

    run_virtually(main)


async def nothing(broker: RedisBroker) -> None: ...


async def lose_both(redis: MiniRedis, broker: RedisBroker) -> None:
    """The connections break, and new ones are there."""
    for link in tuple(redis.links):
        link.lose()
    await eventually(lambda: broker.ready)
    await asyncio.sleep(5)


@pytest.mark.parametrize("policy", [b"allkeys-lru", b"volatile-ttl"])
def test_a_server_that_evicts(redis: MiniRedis, caplog: pytest.LogCaptureFixture, policy: bytes) -> None:
    """One warning, with the setting and what to set it to; histories expire, so volatile ones go too."""
    become(redis, A, policy)
    with_broker(nothing)
    [said] = warnings(caplog)
    assert f"its maxmemory-policy is {policy.decode()}" in said
    assert "set it to noeviction" in said
    assert said.startswith("redis://mini:6379/0 ")


@pytest.mark.parametrize(("policy", "limit"), [(b"noeviction", MEBIBYTE), (b"allkeys-lru", 0)])
def test_a_server_that_keeps(redis: MiniRedis, caplog: pytest.LogCaptureFixture, policy: bytes, limit: int) -> None:
    """Nothing to say where writes are refused, or where there is no limit."""
    become(redis, A, policy, limit)
    with_broker(nothing)
    assert warnings(caplog) == []
    assert redis.counts[b"INFO memory"] == 1


def test_once_a_server(redis: MiniRedis, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that breaks is not a reason to say it again, nor is another start; another server is."""

    async def main(broker: RedisBroker) -> None:
        await lose_both(redis, broker)
        await broker.stop()
        await broker.start(lambda channel, payload: None)
        await eventually(lambda: broker.ready)
        await asyncio.sleep(5)
        assert len(warnings(caplog)) == 1
        for lineage in (B, A, B):
            become(redis, lineage)
            await lose_both(redis, broker)

    become(redis, A)
    with_broker(main)
    assert len(warnings(caplog)) == 2


def test_a_server_that_does_not_say(redis: MiniRedis, caplog: pytest.LogCaptureFixture) -> None:
    """Whether it refuses or answers something else: no fault, and the next connection asks again."""

    async def main(broker: RedisBroker) -> None:
        redis.refused.clear()
        redis.info = b"maxmemory:many\r\n"
        await lose_both(redis, broker)
        assert redis.counts[b"INFO memory"] == 2
        become(redis, A)
        await lose_both(redis, broker)

    become(redis, A)
    redis.refused[b"INFO"] = "NOPERM User hub has no permissions to run the 'info' command"
    with_broker(main)
    assert len(warnings(caplog)) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_server_that_may_not_be_asked(redis: MiniRedis, caplog: pytest.LogCaptureFixture) -> None:
    """Who does not say at the connection who it is is not asked for more."""
    become(redis, b"")
    with_broker(nothing)
    assert warnings(caplog) == []
    assert redis.counts[b"INFO memory"] == 0


async def ask(url: str) -> None:
    """Until the answer must be there: Redis answers in order."""
    ear = await Ear(RedisBroker(url)).start()
    await eventually(lambda: ear.broker.ready)
    await ear.broker.publish("room", b"")
    await ear.broker.stop()


async def test_a_real_server(redis_binary: str, caplog: pytest.LogCaptureFixture) -> None:
    """It says so in the words that are understood here."""
    with running_redis(redis_binary, "--maxmemory", "64mb", "--maxmemory-policy", "volatile-lru") as server:
        await ask(server.url)
        assert [said.partition("maxmemory-policy is ")[2][:12] for said in warnings(caplog)] == ["volatile-lru"]
        with server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
        await ask(server.url)
    assert len(warnings(caplog)) == 1


async def test_our_own_server(redis_server: EmbeddedServer, caplog: pytest.LogCaptureFixture) -> None:
    """The embedded one has no limit, and nothing is said of it."""
    await ask(redis_server.url)
    assert warnings(caplog) == []
