"""The Redis broker: detection, recovery and their times, on a scripted server in virtual time and on fakeredis."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import fakeredis
import pytest

from hub import pubsub
from hub.errors import BrokerUnavailable
from hub.pubsub import RedisBroker
from hub.redis_commands import OUTBOX_LIMIT
from tests.support.clock import run_virtually
from tests.support.miniredis import MiniRedis
from tests.support.relay import Ear
from tests.support.waiting import eventually

TIMEOUT = 3.0
# From the fault to its detection: the timeout and one beat.
DETECTION = TIMEOUT + pubsub.HEARTBEAT


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> MiniRedis:
    """The server that brokers with any URL talk to."""
    server = MiniRedis()
    monkeypatch.setattr(pubsub, "open_link", server.open_link)
    return server


@asynccontextmanager
async def started(*, ready: bool = True, source: Any = "redis://mini") -> AsyncIterator[Ear]:
    """A broker on the scripted server."""
    ear = await Ear(RedisBroker(source, timeout=TIMEOUT)).start()
    if ready:
        await eventually(lambda: ear.broker.ready)
    try:
        yield ear
    finally:
        await ear.broker.stop()


async def seconds_until(condition: Callable[[], object], timeout: float = 60) -> float:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await eventually(condition, timeout)
    return loop.time() - start


async def failure_of(publication: Awaitable[None]) -> str:
    with pytest.raises(BrokerUnavailable) as failure:
        await publication
    return str(failure.value)


def virtually(test: Callable[..., Awaitable[None]]) -> Callable[[MiniRedis], None]:
    """Run a test in virtual time."""

    def run(redis: MiniRedis) -> None:
        async def main() -> None:
            await test(redis)

        run_virtually(main)

    run.__doc__ = test.__doc__
    run.__name__ = test.__name__
    return run


# Detection


@virtually
async def test_a_silent_feed_is_dropped(redis: MiniRedis) -> None:
    """A half-open subscription connection: not ready within the timeout, replaced a beat later, heard again."""
    async with started() as ear:
        await ear.broker.subscribe("room")
        lost = redis.link("feed")
        lost.frozen = True
        assert await seconds_until(lambda: not ear.broker.ready) <= TIMEOUT + 0.01
        assert await seconds_until(lambda: lost.lost) <= DETECTION - TIMEOUT + 0.01
        await ear.broker.subscribe("room")
        await ear.broker.publish("room", b"back")
        await ear.hears(1)
        assert ear.broker.gaps == 1


@virtually
async def test_a_silent_command_connection_is_dropped(redis: MiniRedis) -> None:
    """What was sent into it fails as unknown, what comes later goes through the next one."""
    async with started() as ear:
        await ear.broker.subscribe("room")
        lost = redis.link("commands")
        lost.frozen = True
        publication = ear.broker.publish("room", b"into the void")
        assert await seconds_until(publication.done) <= 2 + pubsub.HEARTBEAT + 0.01
        assert "did not answer in time; the publication may have been sent or not" in await failure_of(publication)
        assert await seconds_until(lambda: lost.lost) <= DETECTION - 2 + 0.01
        await ear.broker.publish("room", b"back")
        assert await ear.hears(1) == [("room", b"back")]
        assert ear.broker.gaps == 0


@virtually
async def test_a_deaf_feed_is_dropped(redis: MiniRedis) -> None:
    """Redis answers on both connections and takes heartbeats, but they do not come: both are replaced."""
    async with started() as ear:
        before = tuple(redis.links)
        redis.deaf = True
        assert await seconds_until(lambda: all(link.lost for link in before)) <= 5
        redis.deaf = False
        assert await seconds_until(lambda: ear.broker.ready) <= 1


@virtually
async def test_a_backlog_is_not_deafness(redis: MiniRedis) -> None:
    """A feed that lags, but answers in order, is kept however late its heartbeats are."""
    async with started() as ear:
        feed = redis.link("feed")
        for _ in range(100):  # it answers in bursts, more than two beats late
            feed.held = []
            await asyncio.sleep(2.5)
            feed.release()
            await asyncio.sleep(0.1)
        assert redis.link("feed") is feed
        assert ear.broker.gaps == 0


@virtually
async def test_heartbeats_that_nobody_takes_are_not_deafness(redis: MiniRedis) -> None:
    """While commands are away the feed has nothing to hear, and keeps its subscriptions."""
    async with started() as ear:
        feed = redis.link("feed")
        for _ in range(10):
            redis.link("commands").frozen = True
            await eventually(lambda: not ear.broker.ready)
            assert await seconds_until(lambda: ear.broker.ready) <= DETECTION
        assert redis.link("feed") is feed


@virtually
async def test_a_blocked_event_loop_is_not_the_silence_of_redis(redis: MiniRedis) -> None:
    """A handler that holds up the loop for 20 s costs no connection and no publication."""
    async with started() as ear:
        await ear.broker.subscribe("room")
        before = tuple(redis.links)
        publication = ear.broker.publish("room", b"before")
        loop: Any = asyncio.get_running_loop()
        for _ in range(3):
            loop._virtual.now += 20
            await asyncio.sleep(1.5)
        await publication
        assert tuple(redis.links) == before
        assert ear.broker.gaps == 0
        assert ear.broker.ready


@pytest.mark.both_loops
async def test_what_came_while_the_event_loop_was_blocked_is_not_late(redis_server: Any) -> None:
    """Held up while it reads, uvloop runs its timers before it reads again: the reply is there, and counts."""
    ear = await Ear(RedisBroker(redis_server.url, timeout=0.3, publish_timeout=0.2)).start()
    await eventually(lambda: ear.broker.ready)
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: Blocking(0.5), sock=theirs)
    for _ in range(3):
        publication = ear.broker.publish("room", b"hi")
        await asyncio.sleep(0)
        ours.send(b"x")
        await publication
    transport.close()
    ours.close()
    await ear.broker.stop()


class Blocking(asyncio.Protocol):
    """Holds up the event loop whenever something comes."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def data_received(self, data: bytes) -> None:
        time.sleep(self._seconds)


@virtually
async def test_congestion_does_not_stop_the_heartbeat(redis: MiniRedis) -> None:
    """With as much waiting as is allowed, publications are refused, and the worker is still ready."""
    async with started() as ear:
        big = b"x" * (OUTBOX_LIMIT // 4)
        for _ in range(20):
            publications = [ear.broker.publish("room", big) for _ in range(4)]
            assert publications[-1].done()  # refused
            await asyncio.sleep(0.3)
            assert ear.broker.ready


@virtually
async def test_short_timeouts_beat_faster(redis: MiniRedis) -> None:
    """The heartbeat is a third of the timeout if that is less than its usual interval."""
    ear = await Ear(RedisBroker("redis://mini", timeout=0.3)).start()
    await eventually(lambda: ear.broker.ready)
    for _ in range(50):
        await asyncio.sleep(0.1)
        assert ear.broker.ready
    redis.frozen = True
    assert await seconds_until(lambda: not ear.broker.ready) <= 0.31
    await ear.broker.stop()


# Recovery


@virtually
async def test_a_restart_of_redis(redis: MiniRedis) -> None:
    """While it is away publications fail at once; when it is back everything resumes within the longest pause."""
    async with started() as ear:
        await ear.broker.subscribe("room")
        redis.kill()
        joining = asyncio.ensure_future(ear.broker.subscribe("new"))
        await asyncio.sleep(2)
        assert not ear.broker.ready
        publication = ear.broker.publish("room", b"lost")
        assert publication.done()
        assert await failure_of(publication) == "not sent: Redis cannot be reached"
        assert not joining.done()
        redis.down = False
        assert await seconds_until(joining.done) <= pubsub.LONGEST_PAUSE + 0.1
        for channel in ("room", "new"):  # not refused: who has joined may speak
            await ear.broker.publish(channel, b"back")
        assert await seconds_until(lambda: ear.broker.ready) <= 0.1
        assert await ear.hears(2) == [("room", b"back"), ("new", b"back")]
        assert ear.broker.gaps == 1


@virtually
async def test_readiness_returns_with_the_feed(redis: MiniRedis) -> None:
    """Not only at the next beat."""
    async with started() as ear:
        redis.link("feed").lose()
        assert not ear.broker.ready
        assert await seconds_until(lambda: ear.broker.ready) <= 0.1


@virtually
async def test_commands_return_after_the_feed(redis: MiniRedis) -> None:
    """What is published when Redis is back is heard by the worker's own clients: they are subscribed first."""
    async with started() as ear:
        names = [f"room-{number}" for number in range(1200)]
        await asyncio.gather(*(ear.broker.subscribe(name) for name in names))
        for _ in range(10):
            redis.kill()
            await asyncio.sleep(1)
            redis.down = False
            ear.heard.clear()
            await eventually(lambda: not ear.broker.publish(names[-1], b"first").done())
            assert await ear.hears(1) == [(names[-1], b"first")]


@virtually
async def test_a_worker_without_its_feed_still_publishes(redis: MiniRedis) -> None:
    """Others hear it; it is not ready, and says so."""
    async with started() as ear, started() as other:
        await other.broker.subscribe("room")
        redis.down = True
        redis.link("feed").lose()
        await asyncio.sleep(1)
        await ear.broker.publish("room", b"hi")
        assert not ear.broker.ready
        await other.hears(1)


@virtually
async def test_commands_do_not_wait_for_ever_for_the_feed(redis: MiniRedis) -> None:
    """A worker that may not subscribe can still publish: `hub publish`, for example."""
    redis.refused[b"SUBSCRIBE"] = "NOPERM"
    async with started(ready=False) as ear:
        publication = ear.broker.publish("room", b"hi")
        assert await seconds_until(publication.done) <= pubsub.COMPLETION + 0.1
        await publication
        assert not ear.broker.ready


@virtually
async def test_a_short_loss_of_commands_costs_only_what_was_under_way(redis: MiniRedis) -> None:
    """What was sent and not answered is told as unknown and not repeated; what came later waits, and is sent once."""
    async with started() as ear:
        await ear.broker.subscribe("room")
        redis.link("commands").frozen = True
        sent = ear.broker.publish("room", b"sent")
        await asyncio.sleep(0)
        redis.link("commands").lose()
        waits = ear.broker.publish("room", b"waits")
        assert "broke; the publication may have been sent or not" in await failure_of(sent)
        await waits
        assert await ear.hears(1) == [("room", b"waits")]
        assert ear.broker.ready


@virtually
async def test_a_publication_waits_no_longer_than_its_timeout(redis: MiniRedis) -> None:
    """Also while the attempt to connect takes longer."""
    redis.frozen = True
    async with started(ready=False) as ear:
        publication = ear.broker.publish("room", b"waits")
        assert await seconds_until(publication.done) <= 2 + pubsub.HEARTBEAT + 0.01
        assert await failure_of(publication) == "not sent: Redis cannot be reached"


@virtually
async def test_attempts_are_frequent_but_bounded(redis: MiniRedis) -> None:
    """Never more than the longest pause apart, never a busy loop, and never in step."""
    redis.down = True
    async with started(ready=False):
        await asyncio.sleep(60)
        times = [at for at, role in redis.attempts if role == "feed"]
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert max(pauses) <= pubsub.LONGEST_PAUSE
        assert min(pauses[5:]) >= pubsub.LONGEST_PAUSE / 2
        assert len({round(pause, 6) for pause in pauses[5:]}) > 10
        assert "commands" not in {role for _, role in redis.attempts}


@virtually
async def test_connections_that_break_at_once_are_not_a_busy_loop(redis: MiniRedis) -> None:
    """Killed again and again (an output buffer that overflows): the pauses grow all the same, and shrink in peace."""
    async with started() as ear:
        for _ in range(10):
            redis.link("feed").lose()
            await eventually(lambda: any(link.role == "feed" for link in redis.links))
        assert redis.attempts[-1][0] - redis.attempts[-2][0] >= pubsub.LONGEST_PAUSE / 2
        await asyncio.sleep(pubsub.STABLE + 1)
        redis.link("feed").lose()
        assert (
            await seconds_until(lambda: any(link.role == "feed" for link in redis.links)) <= pubsub.FIRST_PAUSE + 0.02
        )
        assert ear.broker.gaps == 11


@virtually
async def test_a_subscription_survives_a_loss_between_confirmation_and_return(redis: MiniRedis) -> None:
    """`subscribe` returns for the connection that is, not for the one that was."""
    async with started() as ear:
        feed = redis.link("feed")
        tell = feed.tell

        def tell_and_lose(reply: Any) -> None:
            tell(reply)
            feed.lose()  # before the joiner has its turn

        feed.tell = tell_and_lose  # type: ignore[method-assign]
        await ear.broker.subscribe("room")
        await ear.broker.publish("room", b"hi")
        await ear.hears(1)


@virtually
async def test_a_long_life_of_faults(redis: MiniRedis) -> None:
    """An hour of them, one after another: at the end everything is as at the beginning."""
    async with started() as ear:
        tasks = len(asyncio.all_tasks())
        await ear.broker.subscribe("room")
        for turn in range(600):
            if turn % 4 == 0:
                redis.kill()
            elif turn % 4 == 1:
                redis.frozen = True
            else:
                redis.link(("feed", "commands")[turn % 2]).frozen = True
            ear.broker.publish("room", b"lost")
            await asyncio.sleep(turn % 7)
            redis.down = False
            redis.thaw()
            assert await seconds_until(lambda: ear.broker.ready) <= DETECTION + 1
        ear.heard.clear()
        await ear.broker.publish("room", b"end")
        assert await ear.hears(1) == [("room", b"end")]
        assert sorted(link.role for link in redis.links) == ["commands", "feed"]
        assert len(asyncio.all_tasks()) == tasks


# What only one side sees


@virtually
async def test_the_publications_of_a_turn_go_out_in_one_write(redis: MiniRedis) -> None:
    """However many: one write, in order; the next turn's are another."""
    async with started() as ear:
        writes = redis.link("commands").writes
        writes.clear()
        first = [ear.broker.publish("room", b"%d" % number) for number in range(100)]
        await asyncio.gather(*first)
        second = [ear.broker.publish("room", b"%d" % number) for number in range(100, 150)]
        await asyncio.gather(*second)
        assert [write.count(b"PUBLISH") for write in writes] == [100, 50]


@virtually
async def test_a_refusal_is_told_to_its_caller_and_to_the_operator(redis: MiniRedis) -> None:
    """NOPERM, for example: the publication fails with Redis's words, and readiness with them."""
    async with started() as ear:
        redis.refused[b"PUBLISH"] = "NOPERM no rights"
        assert "Redis refused: NOPERM no rights" in await failure_of(ear.broker.publish("room", b"x"))
        await eventually(lambda: not ear.broker.ready)


def test_the_log_of_an_outage(redis: MiniRedis, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each thing that happens, none for each attempt; what it means for clients is said."""
    caplog.set_level(logging.INFO, "hub.redis")

    async def main() -> None:
        async with started() as ear:
            await ear.broker.subscribe("room")
            await asyncio.sleep(2)
            redis.kill()
            await asyncio.sleep(60)
            redis.down = False
            await asyncio.sleep(2)

    run_virtually(main)
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("relay through redis://mini:6379/0 works") == 2
    assert lines.count("relay through redis://mini:6379/0 does not work") == 1
    # Python drops what is no warning where nobody has set up logging, and an outage would seem to last.
    assert levels_of_works(caplog) == [logging.INFO, logging.WARNING]
    assert lines.count("feed: the connection to redis://mini:6379/0 broke (reset by peer); connecting again") == 1
    assert lines.count("publications of 1 channels may be missing until it is back") == 1
    assert sum("trying again" in line for line in lines) == 1
    assert len(lines) == 7


def levels_of_works(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.levelno for record in caplog.records if record.getMessage().endswith(" works")]


def test_the_log_of_a_late_start(redis: MiniRedis, caplog: pytest.LogCaptureFixture) -> None:
    """Redis that was away at first is back as loudly as it was missed."""
    caplog.set_level(logging.INFO, "hub.redis")

    async def main() -> None:
        redis.refused = {b"PUBLISH": "NOPERM no channel"}
        async with started(ready=False):
            await asyncio.sleep(10)
            redis.refused = {}
            await asyncio.sleep(10)

    run_virtually(main)
    assert levels_of_works(caplog) == [logging.WARNING]


def test_the_log_says_why_it_is_not_ready(redis: MiniRedis, caplog: pytest.LogCaptureFixture) -> None:
    """Rights that are missing from the beginning are named; they are tried again, but not all the time."""
    redis.refused = {b"PUBLISH": "NOPERM no channel", b"SUBSCRIBE": "NOPERM no subscribe"}

    async def main() -> None:
        async with started(ready=False):
            await asyncio.sleep(10)

    run_virtually(main)
    assert "does not work: Redis refused: NOPERM no channel" in caplog.text
    assert caplog.text.count("Redis refused a subscription command: NOPERM no subscribe") in (3, 4)
    assert len(caplog.records) < 10


def test_an_unexpected_fault_does_not_end_the_tasks(
    redis: MiniRedis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is raised while connecting or at a beat is logged, and tried again."""
    faults = iter([ValueError("odd"), KeyError("odder")])
    open_link = redis.open_link

    async def sometimes(*arguments: Any) -> Any:
        for fault in faults:
            raise fault
        return await open_link(*arguments)

    async def main() -> None:
        monkeypatch.setattr(pubsub, "open_link", sometimes)
        async with started() as ear:
            monkeypatch.setattr("hub.redis_feed.Feed.leave_due", lambda feed: 1 / 0)
            await asyncio.sleep(3)
            monkeypatch.undo()
            await asyncio.sleep(3)
            assert ear.broker.ready

    run_virtually(main)
    assert caplog.text.count("unexpected fault; connecting again") == 2
    assert "ZeroDivisionError" in caplog.text


def test_a_fault_after_connecting_closes_the_connection(
    redis: MiniRedis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A link that could not be taken into service is not left open."""
    attach = pubsub.Feed.attach
    faults = iter([ValueError("odd")])

    def sometimes(feed: Any, link: Any) -> None:
        attach(feed, link)
        for fault in faults:
            raise fault

    async def main() -> None:
        monkeypatch.setattr(pubsub.Feed, "attach", sometimes)
        async with started():
            assert [link.role for link in redis.links].count("feed") == 1
            assert [role for _, role in redis.attempts].count("feed") == 2

    run_virtually(main)
    assert "ValueError: odd" in caplog.text


# Stopping


@virtually
async def test_what_waits_fails_with_the_stop(redis: MiniRedis) -> None:
    """Joiners and publications that wait for Redis are told at once; nobody waits for ever."""
    redis.frozen = True
    async with started(ready=False) as ear:
        joining = asyncio.ensure_future(ear.broker.subscribe("room"))
        publication = ear.broker.publish("room", b"waits")
        await asyncio.sleep(0.1)
        await ear.broker.stop()
        assert await failure_of(joining) == "not subscribed: the broker is stopped"
        assert await failure_of(publication) == "not sent: the broker is stopped"


@virtually
async def test_what_was_sent_fails_with_the_stop(redis: MiniRedis) -> None:
    """It may have arrived."""
    async with started() as ear:
        redis.link("commands").frozen = True
        publication = ear.broker.publish("room", b"sent")
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(ear.broker.stop())
        await asyncio.sleep(0)
        late = ear.broker.publish("room", b"late")
        await stopping
        assert "may have been sent or not" in await failure_of(publication)
        assert await failure_of(late) == "not sent: the broker is stopped"


@virtually
async def test_a_joiner_whose_channel_is_left_meanwhile_is_told(redis: MiniRedis) -> None:
    """It neither waits for ever nor is it cancelled."""
    redis.down = True
    async with started(ready=False) as ear:
        joining = asyncio.ensure_future(ear.broker.subscribe("room"))
        await asyncio.sleep(0)
        ear.broker.unsubscribe("room")
        assert await seconds_until(joining.done) <= 3
        assert "the channel was left" in await failure_of(joining)


@virtually
async def test_a_connection_that_does_not_end_does_not_hold_up_the_stop(redis: MiniRedis) -> None:
    """It has a second."""
    ear = await Ear(RedisBroker("redis://mini")).start()
    await eventually(lambda: len(redis.links) == 2)
    for link in redis.links:
        link.abort = lambda: None  # type: ignore[method-assign]
    assert await seconds_until(asyncio.ensure_future(ear.broker.stop()).done) <= pubsub.STOP_TIMEOUT + 0.1


# fakeredis


def test_an_outage_on_fakeredis() -> None:
    """Detected by the heartbeat, within the timeout; delivery resumes when it is back."""
    server = fakeredis.FakeServer()

    async def main() -> None:
        async with started(source=fakeredis.FakeAsyncRedis(server=server)) as ear:
            await ear.broker.subscribe("room")
            server.connected = False
            assert await seconds_until(lambda: not ear.broker.ready) <= TIMEOUT
            await failure_of(ear.broker.publish("room", b"lost"))
            await asyncio.sleep(5)
            server.connected = True
            assert await seconds_until(lambda: ear.broker.ready) <= 1
            await ear.broker.publish("room", b"back")
            assert await ear.hears(1) == [("room", b"back")]

    run_virtually(main)


def test_workers_on_one_fakeredis() -> None:
    """Several brokers in one process are several workers; each hears its own heartbeat only."""
    server = fakeredis.FakeServer()

    async def main() -> None:
        ears = [Ear(RedisBroker(fakeredis.FakeAsyncRedis(server=server))) for _ in range(3)]
        for ear in ears:
            await ear.start()
            await ear.broker.subscribe("room")
        await asyncio.sleep(60)
        assert all(ear.broker.ready for ear in ears)
        assert all(ear.heard == [] for ear in ears)
        await asyncio.gather(*(ear.broker.stop() for ear in ears))

    run_virtually(main)


def test_prefixes_keep_hubs_apart() -> None:
    """Two hubs on one Redis do not hear each other."""
    server = fakeredis.FakeServer()

    async def main() -> None:
        client = fakeredis.FakeAsyncRedis(server=server)
        ours, theirs = Ear(RedisBroker(client, prefix="a")), Ear(RedisBroker(client, prefix="b"))
        for ear in (ours, theirs):
            await ear.start()
            await ear.broker.subscribe("room")
        await ours.broker.publish("room", b"hi")
        await ours.hears(1)
        await asyncio.sleep(1)
        assert theirs.heard == []
        await asyncio.gather(ours.broker.stop(), theirs.broker.stop())

    run_virtually(main)
