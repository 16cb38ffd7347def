"""The Redis broker and the identity of its server: on a scripted one, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from hub import pubsub
from hub.pubsub import RedisBroker
from hub.redis_link import Server, server_of
from hub.redis_sentinel import SentinelPool
from tests.support.clock import run_virtually
from tests.support.miniredis import MiniRedis
from tests.support.waiting import eventually

A, B = b"a" * 40, b"b" * 40
SENTINEL = "redis+sentinel://mini/m"


class Listener:
    """What a broker says of its feed, in order."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def on_loss(self) -> None:
        self.said.append("loss")

    def on_gap(self, *, moved: bool) -> None:
        self.said.append("moved" if moved else "gap")

    def on_control(self, payload: bytes) -> None: ...


def info(lineage: bytes, role: bytes = b"master") -> bytes:
    return b"# Replication\r\nrole:%s\r\nmaster_replid:%s\r\nmaster_replid2:0\r\n" % (role, lineage)


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> MiniRedis:
    """The server that brokers with any URL talk to; it says who it is."""
    server = MiniRedis()
    server.lineage, server.info = A, info(A)
    monkeypatch.setattr(pubsub, "open_link", server.open_link)
    return server


def with_broker(test: Callable[[RedisBroker, Listener], Awaitable[None]], url: str = "redis://mini") -> None:
    """Run it in virtual time, on a broker that is ready."""

    async def main() -> None:
        broker, listener = RedisBroker(url), Listener()
        await broker.start(lambda channel, payload: None, listener)
        await eventually(lambda: broker.ready)
        await test(broker, listener)
        await broker.stop()

    run_virtually(main)


def test_what_info_says() -> None:
    """Role and lineage; what is missing is taken for a master without a name."""
    assert server_of(info(A)) == Server(False, A)
    assert server_of(info(B, b"slave")) == Server(True, B)
    assert server_of(info(B) + b"master_replid2:%s\r\n" % A) == Server(False, B, heir=True)
    assert server_of(info(B) + b"master_replid2:%s\r\n" % (b"0" * 40)) == Server(False, B, heir=False)
    assert server_of(b"redis_version:8\r\nnonsense") == Server(False, b"")


def test_a_feed_of_the_same_server(redis: MiniRedis) -> None:
    """It was lost, and is back: nothing but a gap. Looks that find nothing new change nothing."""

    async def test(broker: RedisBroker, listener: Listener) -> None:
        redis.link("feed").lose()
        await eventually(lambda: broker.ready and "gap" in listener.said)
        await asyncio.sleep(30)
        assert listener.said == ["loss", "gap"]

    with_broker(test)


def test_a_feed_of_another_server_takes_the_commands_along(redis: MiniRedis, caplog: pytest.LogCaptureFixture) -> None:
    """What the commands would read at the old one says nothing of what is heard at the new one."""

    async def test(broker: RedisBroker, listener: Listener) -> None:
        commands = redis.link("commands")
        redis.lineage, redis.info = B, info(B)
        redis.link("feed").lose()
        await eventually(lambda: "moved" in listener.said)
        assert commands.lost
        await eventually(lambda: broker.ready)
        await asyncio.sleep(30)
        assert listener.said == ["loss", "moved"]
        assert redis.link("commands").server.lineage == redis.link("feed").server.lineage == B

    with_broker(test)
    assert "is not the server that it was; dropping the older connection" in caplog.text


def test_commands_of_another_server_take_the_feed_along(redis: MiniRedis) -> None:
    """The feed of the old one goes on, and nobody publishes there any more."""

    async def test(broker: RedisBroker, listener: Listener) -> None:
        redis.lineage, redis.info = B, info(B)
        redis.link("commands").lose()
        await eventually(lambda: "moved" in listener.said)
        assert listener.said == ["loss", "moved"]

    with_broker(test)


def test_a_server_with_other_data(redis: MiniRedis, caplog: pytest.LogCaptureFixture) -> None:
    """Connections stay, its lineage does not: the feed begins anew, commands under way are not disturbed."""

    async def test(broker: RedisBroker, listener: Listener) -> None:
        commands = redis.link("commands")
        redis.lineage, redis.info = B, info(B)
        await eventually(lambda: "moved" in listener.said, 5)
        assert not commands.lost
        await asyncio.sleep(30)
        assert listener.said == ["loss", "moved"]

    with_broker(test)
    assert "has other data than before" in caplog.text


def test_a_master_that_becomes_a_replica(redis: MiniRedis, caplog: pytest.LogCaptureFixture) -> None:
    """Both connections leave it, at the next beat."""

    async def test(broker: RedisBroker, listener: Listener) -> None:
        links = tuple(redis.links)
        redis.info = info(A, b"slave")
        await eventually(lambda: all(link.lost for link in links), 2)
        redis.info = info(A)
        await eventually(lambda: broker.ready)

    with_broker(test)
    assert "has become a replica; leaving it" in caplog.text


@pytest.mark.parametrize("refusal", ["NOPERM no info", None])
def test_a_server_that_may_not_be_asked(redis: MiniRedis, refusal: str | None) -> None:
    """Under an ACL without INFO it has no name, and is not asked again; a refusal later changes nothing."""
    if refusal is None:
        redis.lineage = b""
    redis.refused = {b"INFO": refusal or "NOPERM"}

    async def test(broker: RedisBroker, listener: Listener) -> None:
        await asyncio.sleep(10)
        assert listener.said == []
        asked = b"".join(redis.link("commands").writes).count(b"$4\r\nINFO\r\n")
        assert bool(asked) is (refusal is not None)

    with_broker(test)


def test_what_the_sentinels_say(
    redis: MiniRedis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A master that works is left if they name another, and kept while they are away, or one of our own faults is."""
    here, there = ("10.0.0.1", 6379), ("10.0.0.2", 6379)
    answers: list[object] = []

    async def find_master(pool: SentinelPool) -> object:
        answer = answers.pop(0) if answers else here
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def open_link(pool: SentinelPool, handler: object, timeout: float) -> object:
        pool.address = await find_master(pool)  # type: ignore[assignment]
        return await redis.open_link(pool, handler, timeout)  # type: ignore[arg-type]

    monkeypatch.setattr(SentinelPool, "find_master", find_master)
    monkeypatch.setattr(pubsub, "open_link", open_link)

    async def test(broker: RedisBroker, listener: Listener) -> None:
        answers.extend([ConnectionError("away"), KeyError("odd"), here])
        await asyncio.sleep(3 * pubsub.FOLLOW + 1)
        assert (listener.said, answers) == ([], [])
        answers.append(there)
        links = tuple(redis.links)
        await eventually(lambda: all(link.lost for link in links), pubsub.FOLLOW + 1)
        await eventually(lambda: broker.ready)

    with_broker(test, SENTINEL)
    assert caplog.text.count("is at 10.0.0.2:6379 now; leaving the old master") == 2
    assert "unexpected fault while asking the sentinels" in caplog.text
