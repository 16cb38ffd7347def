"""Leases: what a worker leaves behind is removed once, and what it wants to keep comes back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis

from hub import redis_lease
from hub.embedded import EmbeddedServer
from hub.errors import BrokerUnavailable
from hub.pubsub import RedisBroker
from hub.redis_commands import BROKEN, UNREACHABLE, refuse
from hub.redis_presence import _WRITE, BATCH, PIPELINE, RedisPresence
from tests.support.presence import Worker, alternates, balance, comings, info
from tests.support.waiting import eventually

pytestmark = pytest.mark.timed

# Seconds; the tests wait for it to end.
LEASE = 1.0

Hire = Callable[..., Any]


@pytest.fixture
async def hire(redis_server: EmbeddedServer) -> AsyncIterator[Hire]:
    """Starts workers that hold a lease and hear `room`."""
    async with AsyncExitStack() as stack:

        async def start(lease: float = LEASE) -> Worker:
            worker = await Worker(RedisBroker(redis_server.url, presence_lease=lease)).start()
            stack.push_async_callback(worker.broker.stop)
            await worker.broker.subscribe("room")
            return await worker.leased()

        yield start


@pytest.fixture
def client(redis_server: EmbeddedServer) -> AsyncIterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


async def clients_of(worker: Worker, channel: str = "room") -> set[str]:
    return set(await worker.broker.presence.read(channel))


async def fill(worker: Worker, count: int, channels: int = 1) -> set[str]:
    """Register connections `c<n>` in `room` and, from the second on, other channels."""
    names = {f"c{number}" for number in range(count)}
    rooms = ["room", *(f"room{number}" for number in range(1, channels))]
    await asyncio.gather(*(worker.add(room, name) for room in rooms for name in names))
    return names


async def reads(worker: Worker, expected: set[str], timeout: float = 5) -> None:
    """Wait until `room` has exactly these."""
    async with asyncio.timeout(timeout):
        while True:
            if await clients_of(worker) == expected:
                return
            await asyncio.sleep(0.01)


# The removal of what dead workers have left


async def test_the_leaves_of_a_dead_worker_are_out_within_the_lease(hire: Hire, client: redis.Redis) -> None:
    """All of them, each once; the entries of others stay, and nothing of the dead one does."""
    dead, first, second = await hire(), await hire(), await hire()
    names = await fill(dead, 600, channels=3)
    await first.add("room", "alive")
    await asyncio.sleep(2 * first.lease._renewal)  # they do not claim before
    start = time.monotonic()
    await dead.die()
    for worker in (first, second):
        await eventually(lambda worker=worker: +balance(worker, "room") == {"alive": 1})
    assert time.monotonic() - start < LEASE
    assert alternates(first, "room")
    assert comings(first, "room") == comings(second, "room")
    assert {name for sign, name in comings(first, "room") if sign == "-"} == names
    await eventually(lambda: client.zcard("hub:leases:reaped") == 1)
    keys = {b"hub:leases", b"hub:leases:reaped", b"hub:presence:{room}", b"hub:users:{room}"}
    assert set(client.keys()) == {*keys, f"hub:lease:{first.lease.name}".encode()}
    assert await first.broker.presence.stats("room") == (1, 1)


async def test_two_claimers_at_once_do_no_harm(hire: Hire) -> None:
    """Even if both take the same lease for theirs, each leave is published once."""
    dead, first, second = await hire(60), await hire(60), await hire(60)
    await fill(dead, 1000)
    name = dead.lease.name
    await dead.die()
    removed = await asyncio.gather(first.lease._reap(name), second.lease._reap(name))
    assert sum(removed) == 1000
    assert min(removed) > 0
    await first.hears(2000)
    assert not +balance(first, "room")
    assert alternates(first, "room")


async def test_a_claimer_that_dies_in_the_middle_is_replaced(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has removed stays removed and is not announced again; another one does the rest."""
    monkeypatch.setattr(redis_lease, "REAP_BATCH", 10)
    dead, claimer, observer = await hire(), await hire(), await hire()
    await fill(dead, 100)
    name = dead.lease.name
    batches: list[int] = []
    call = claimer.lease._redis.call

    async def dies() -> None:
        await claimer.die()

    def counted(script: Any, keys: Any, args: Any, parse: Any = None) -> asyncio.Future[Any]:
        if script is redis_lease._REAP:
            batches.append(1)
            if len(batches) == 4:
                deaths.append(asyncio.ensure_future(dies()))
                return asyncio.get_running_loop().create_future()
        return call(script, keys, args, parse)

    deaths: list[asyncio.Future[None]] = []
    monkeypatch.setattr(claimer.lease._redis, "call", counted)
    monkeypatch.setattr(observer.lease, "_look", 60.0)  # from the next look on
    await asyncio.sleep(0.2)
    await dead.die()
    await eventually(lambda: deaths)
    await deaths[0]
    await observer.hears(130)
    assert balance(observer, "room").total() == 70
    late = await hire()
    await eventually(lambda: not +balance(observer, "room"))
    assert alternates(observer, "room")
    assert await clients_of(late) == set()
    assert name not in (observer.lease.name, late.lease.name)


async def test_a_claimer_that_dies_at_once_is_replaced(hire: Hire, client: redis.Redis) -> None:
    """It has claimed and done nothing: somebody else does it soon."""
    dead, claimer, other = await hire(60), await hire(), await hire()
    await fill(dead, 3)
    client.zadd("hub:leases", {dead.lease.name: 1})
    await dead.die()
    claimer.lease._patience = 0
    assert await claimer.lease._claim_next()
    await claimer.die()
    await eventually(lambda: other.heard[3:] and not +balance(other, "room"))
    assert alternates(other, "room")


async def test_a_big_removal_holds_up_nobody(hire: Hire, client: redis.Redis) -> None:
    """Others use Redis, and the event loop of the claimer, while 20,000 entries go."""
    dead, claimer = await hire(60), await hire(60)
    await asyncio.gather(*(dead.add(f"room{n % 100}", f"c{n}", f"u{n}") for n in range(20_000)))
    name = dead.lease.name
    await dead.die()
    reaping = asyncio.ensure_future(claimer.lease._reap(name))
    slowest = 0.0
    while not reaping.done():
        start = time.monotonic()
        await claimer.broker.execute("PING")
        slowest = max(slowest, time.monotonic() - start)
    assert await reaping == 20_000
    assert slowest < 0.2
    assert set(client.keys()) == {b"hub:leases"}


async def test_the_refresh_does_not_know_how_many_they_are(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three thousand entries, and a worker that sends what one without any sends."""
    busy, idle = await hire(), await hire()
    await fill(busy, 1000, channels=3)
    sent: dict[Worker, int] = {busy: 0, idle: 0}
    for worker in sent:

        def counted(script: Any, keys: Any, args: Any, parse: Any = None, worker: Any = worker) -> Any:
            sent[worker] += sum(len(str(arg)) for arg in args)
            return worker.broker.call(script, keys, args, parse)

        monkeypatch.setattr(worker.lease, "_redis", type("Counting", (), {"call": staticmethod(counted)})())
    await asyncio.sleep(1.5 * LEASE)
    assert 0 < sent[busy] < 1.5 * sent[idle]
    assert len(await clients_of(idle)) == 1000


# A worker that lost its lease


async def test_a_worker_that_was_given_up_comes_back(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections have left, then they join again, but for those that have gone meanwhile."""
    frozen, other = await hire(), await hire()
    names = await fill(frozen, 300, channels=2)
    monkeypatch.setattr(frozen.lease, "_renewal", 60.0)
    await eventually(lambda: not +balance(other, "room"))
    monkeypatch.undo()
    gone = frozen.remove("room", "c0")
    come = frozen.add("room", "new")
    await asyncio.gather(gone, come)  # refused, which shows it what has happened
    await reads(other, names - {"c0"} | {"new"})
    await eventually(lambda: +balance(other, "room") == dict.fromkeys(names - {"c0"} | {"new"}, 1))
    assert alternates(other, "room")
    assert await other.broker.presence.stats("room1") == (300, 1)


async def test_a_worker_that_comes_back_while_it_is_being_given_up(hire: Hire) -> None:
    """Half of its entries are gone: those join again, the others stay without a word."""
    worker, claimer = await hire(60), await hire(60)
    names = await fill(worker, 2 * redis_lease.REAP_BATCH)
    old = worker.lease.name
    client = claimer.broker
    await client.execute("ZADD", "hub:leases", 0, old)
    claimer.lease._patience = 0
    assert await claimer.lease._claim_next() == old
    await claimer.lease._call(redis_lease._REAP, old, redis_lease.REAP_BATCH, 60_000)
    worker.lease.check()
    await eventually(lambda: worker.lease.name not in (old, None))
    await reads(claimer, names)
    assert await claimer.lease._reap(old) == 0
    await reads(claimer, names)
    await eventually(lambda: +balance(claimer, "room") == dict.fromkeys(names, 1))
    assert alternates(claimer, "room")
    assert comings(claimer, "room").count(("-", "c0")) <= 1
    assert sum(sign == "-" for sign, _ in comings(claimer, "room")) == redis_lease.REAP_BATCH


async def test_nobody_is_given_up_who_could_not_renew(hire: Hire, client: redis.Redis) -> None:
    """All leases have expired, as after a time without Redis: whoever comes back first does not claim the others'."""
    first, second = await hire(), await hire()
    await fill(first, 3)
    await second.add("room", "other")
    await first.hears(4)
    for _ in range(20):
        leases = client.zrange("hub:leases", 0, -1)
        client.zadd("hub:leases", dict.fromkeys(leases, 1))
        await asyncio.sleep(0.03)
    await asyncio.sleep(LEASE)
    assert len(first.heard) == len(second.heard) == 4
    assert await first.broker.presence.stats("room") == (4, 1)


async def test_a_fresh_worker_is_patient(hire: Hire, client: redis.Redis) -> None:
    """It cannot know whether those whose leases have expired had a chance to renew them."""
    await hire(60)
    client.zadd("hub:leases", {"somebody": 1})
    await hire(LEASE)
    await asyncio.sleep(redis_lease.RENEWAL * LEASE)
    assert client.zscore("hub:leases", "somebody")
    await eventually(lambda: client.zscore("hub:leases:reaped", "somebody"))


async def test_who_has_not_renewed_claims_nothing(hire: Hire, client: redis.Redis) -> None:
    """When the clock of Redis jumps all leases seem to have expired: the own one says so too, before it is renewed."""
    worker = await hire(60)
    worker.lease._patience = 0
    client.zadd("hub:leases", {"somebody": 1, worker.lease.name: 1})
    assert await worker.lease._claim_next() is None
    worker.lease.check()
    await eventually(lambda: client.zscore("hub:leases", worker.lease.name) > 1)
    assert await worker.lease._claim_next() is None
    worker.lease._patience = 0
    assert await worker.lease._claim_next() == "somebody"
    assert await worker.lease._claim_next() is None


@pytest.mark.parametrize("place", ["hub:leases", "hub:leases:lapsed"])
async def test_the_clock_of_redis_goes_back(hire: Hire, client: redis.Redis, place: str) -> None:
    """An hour, as in a failover to a machine with the wrong time: who died just before is gone within the lease."""
    first, second = await hire(), await hire()
    await first.add("room", "dead")
    await second.add("room", "alive")
    name = first.lease.name
    await first.die()
    client.zrem("hub:leases", name)
    client.zadd(place, {name: (time.time() + 3600) * 1000})
    await reads(second, {"alive"}, 2 * LEASE)


async def test_nobody_is_given_up_because_the_clock_went_back(hire: Hire, client: redis.Redis) -> None:
    """All leases end in an hour then: who has not renewed claims nothing, and then the others have their turn."""
    first, second = await hire(), await hire()
    await fill(first, 3)
    await first.hears(3)
    first.lease._patience = second.lease._patience = 0
    for _ in range(20):
        future = (time.time() + 3600) * 1000
        client.zadd("hub:leases", dict.fromkeys(client.zrange("hub:leases", 0, -1), future))
        assert await first.lease._claim_next() is None
        await asyncio.sleep(0.03)
    await asyncio.sleep(LEASE)
    assert len(second.heard) == 3
    assert await first.broker.presence.stats("room") == (3, 1)


async def test_leases_that_ended_long_ago_are_forgotten(hire: Hire, client: redis.Redis) -> None:
    """After a day nobody comes back."""
    now = time.time() * 1000
    day = redis_lease.MEMORY * 1000
    client.zadd("hub:leases:reaped", {"old": now - day - 60_000, "young": now - day + 60_000})
    await hire()
    await eventually(lambda: client.zrange("hub:leases:reaped", 0, -1) == [b"young"])


# Redis refuses, loses or delays what is written


class Faulty:
    """Commands of which writes of presence fail, as long as `fault` says how."""

    def __init__(self, worker: Worker) -> None:
        assert worker.broker._session is not None
        self.commands = worker.broker._session.commands
        # `unsent`; `lost`: done, but the answer does not come; `late`: done when `arrive` is called.
        self.fault = ""
        self.late: list[Any] = []
        self.writes = 0

    def execute(self, *command: Any, parse: Any = None) -> asyncio.Future[Any]:
        return self.commands.execute(*command, parse=parse)

    def call(self, script: Any, keys: Any, args: Any, parse: Any = None) -> asyncio.Future[Any]:
        if script is not _WRITE:
            return self.commands.call(script, keys, args, parse)
        self.writes += 1
        if self.fault in ("", "lost"):
            future = self.commands.call(script, keys, args, parse)
            if not self.fault:
                return future
        if self.fault == "late":
            self.late.append((script, keys, args, parse))
        failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        refuse(failed, UNREACHABLE if self.fault == "unsent" else BROKEN)
        return failed

    async def arrive(self) -> None:
        """What was late happens now."""
        await asyncio.gather(*(self.commands.call(*call) for call in self.late))


@pytest.fixture
async def faulty(hire: Hire) -> AsyncIterator[tuple[Faulty, RedisPresence, Worker]]:
    """A presence of its own on faulty commands, and a worker that hears it."""
    worker = await hire()
    redis, presence = Faulty(worker), RedisPresence("hub", "faulty", LEASE)
    presence.start(redis)
    await eventually(lambda: presence._session is not None and presence._session.lease.name)
    yield redis, presence, worker
    redis.fault = ""
    await presence.stop()


async def settled(presence: RedisPresence, worker: Worker) -> None:
    """Wait until everything is written, and until `worker` has heard what was published by that."""
    session = presence._session
    assert session is not None
    await eventually(lambda: not session._marked and not any(each.unsure for each in session._entries.values()))
    await worker.broker.subscribe("end")
    await worker.broker.publish("end", b"")
    await eventually(lambda: worker.payloads("end"))


def put(presence: RedisPresence, client: str) -> asyncio.Future[None]:
    return presence.add("room", client, "u", info("u", client), announce=True)


async def test_who_does_not_wait_any_longer_changes_nothing(faulty: tuple[Faulty, RedisPresence, Worker]) -> None:
    """A caller with a deadline of its own cancels its future; the entry is as wanted all the same."""
    redis, presence, worker = faulty
    put(presence, "c1").cancel()
    await reads(worker, {"c1"})
    redis.fault = "unsent"
    put(presence, "c2").cancel()
    writes = redis.writes
    await eventually(lambda: redis.writes > writes)
    redis.fault = ""
    await reads(worker, {"c1", "c2"})


async def test_a_lease_that_is_lost_while_writes_fail(faulty: tuple[Faulty, RedisPresence, Worker]) -> None:
    """Of two writes one fails and one is refused: both callers are told, and both entries come."""
    redis, presence, worker = faulty
    await worker.broker.execute("DEL", "hub:leases")
    futures = [put(presence, f"c{number}") for number in range(BATCH + 1)]
    call = redis.call

    def first_fails(script: Any, *rest: Any) -> asyncio.Future[Any]:
        redis.fault = "unsent" if script is _WRITE and not redis.writes else ""
        return call(script, *rest)

    redis.writes = 0
    redis.call = first_fails  # type: ignore[method-assign]
    assert all(isinstance(each, BrokerUnavailable) for each in await asyncio.gather(*futures, return_exceptions=True))
    await reads(worker, {f"c{number}" for number in range(BATCH + 1)})


@pytest.mark.parametrize("fault", ["unsent", "lost"])
async def test_what_failed_is_made_true_later(faulty: tuple[Faulty, RedisPresence, Worker], fault: str) -> None:
    """The callers learn that it failed; when it works again the entries are as wanted, each change announced once."""
    redis, presence, worker = faulty
    await asyncio.gather(*(put(presence, f"c{number}") for number in range(4)))
    redis.fault = fault
    for attempt in [put(presence, "new"), presence.remove("room", "c0")]:
        with pytest.raises(BrokerUnavailable):
            await attempt
    presence.remove("room", "c1")
    put(presence, "brief")
    presence.remove("room", "brief")
    put(presence, "c1")
    redis.fault = ""
    await settled(presence, worker)
    await reads(worker, {"c1", "c2", "c3", "new"})
    assert +balance(worker, "room") == dict.fromkeys(("c1", "c2", "c3", "new"), 1)
    assert alternates(worker, "room")


async def test_a_write_that_comes_true_late_is_set_right(faulty: tuple[Faulty, RedisPresence, Worker]) -> None:
    """Redis does what a connection sent that was given up, after what the next has sent: a wrong state is short."""
    redis, presence, worker = faulty
    session = presence._session
    assert session is not None
    await put(presence, "stays")
    redis.fault = "late"
    attempts = [put(presence, "left"), presence.remove("room", "stays")]
    await asyncio.gather(*attempts, return_exceptions=True)
    redis.fault = ""
    presence.remove("room", "left")
    put(presence, "stays")
    await eventually(lambda: not session._marked)
    assert await clients_of(worker) == {"stays"}
    await redis.arrive()
    assert await clients_of(worker) == {"left"}
    await reads(worker, {"stays"})
    await eventually(lambda: +balance(worker, "room") == {"stays": 1})
    assert alternates(worker, "room")
    assert len(session._entries) == 1


async def test_churn_without_redis_takes_no_memory(faulty: tuple[Faulty, RedisPresence, Worker]) -> None:
    """Who comes and goes while nothing can be written leaves no trace."""
    redis, presence, worker = faulty
    await put(presence, "known")
    redis.fault = "unsent"
    with pytest.raises(BrokerUnavailable):
        await put(presence, "first")
    session, writes = presence._session, redis.writes
    assert session is not None
    for number in range(1000):
        put(presence, f"c{number}")
        presence.remove("room", f"c{number}")
    presence.remove("room", "first")
    assert len(session._entries) == 1
    assert redis.writes - writes <= 2
    redis.fault = ""
    await asyncio.sleep(LEASE)
    assert await clients_of(worker) == {"known"}
    assert comings(worker, "room") == [("+", "known")]


async def test_churn_where_the_key_is_somebody_elses(hire: Hire, client: redis.Redis) -> None:
    """Who could not be registered and has gone leaves no trace, and is not tried for ever."""
    worker = await hire()
    client.set("hub:presence:{room}", "somebody else's")
    for number in range(20):
        with pytest.raises(BrokerUnavailable, match="something else"):
            await worker.add("room", f"c{number}")
        worker.remove("room", f"c{number}")
    await worker.add("other", "c")
    await eventually(lambda: worker.broker.presence.entries == 1)
    await asyncio.sleep(LEASE)
    assert worker.broker.presence.entries == 1


async def test_a_backlog_is_written_in_bounded_steps(faulty: tuple[Faulty, RedisPresence, Worker]) -> None:
    """So that Redis and the worker have time for others, and no single command grows with the backlog."""
    redis, presence, worker = faulty
    count = 3 * BATCH * PIPELINE
    redis.writes = 0
    futures = [put(presence, f"c{number}") for number in range(count)]
    await eventually(lambda: redis.writes)
    assert redis.writes == PIPELINE
    await asyncio.gather(*futures)
    assert redis.writes == count / BATCH
    assert (await worker.broker.presence.stats("room"))[0] == count


async def test_a_fault_of_ours_is_logged_and_survived(
    faulty: tuple[Faulty, RedisPresence, Worker], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the three tasks goes on after an error that nobody has thought of."""
    redis, presence, worker = faulty
    assert presence._session is not None

    def broken(*args: Any) -> Any:
        raise ValueError("no idea")

    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(redis, "call", broken)
    with pytest.raises(BrokerUnavailable):
        await put(presence, "c")
    presence.on_connected()
    await eventually(lambda: len({record.message for record in caplog.records}) == 3)
    monkeypatch.undo()
    await reads(worker, {"c"})
    monkeypatch.setattr(redis, "call", broken)
    await presence.stop()
    assert "unexpected fault at the end of presence lease" in caplog.text


async def test_a_redis_that_is_full_is_no_end(
    hire: Hire, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses writes (OOM): caller and operator are told; when there is room again everything is registered."""
    worker = await hire()
    client.config_set("maxmemory", 1)
    with pytest.raises(BrokerUnavailable, match="OOM"):
        await worker.add("room", "c1")
    assert [record.message.partition(":")[0] for record in caplog.records] == ["presence cannot be written"]
    client.config_set("maxmemory", 0)
    await reads(worker, {"c1"})


async def test_the_state_is_shown(hire: Hire) -> None:
    """For an operator with a debugger, and for us."""
    worker = await hire()
    await worker.add("room", "c")
    lease = f"<Lease {worker.lease.name}>"
    assert repr(worker.broker.presence) == f"<RedisPresence 1 entries, 0 to write, {lease}>"
    stopped = RedisPresence("hub", "node", LEASE)
    stopped.on_connected()
    await stopped.stop()
    assert repr(stopped) == "<RedisPresence stopped>"


async def test_it_may_be_stopped_before_it_has_begun() -> None:
    """Redis has never been there: those who wait are told, and nothing holds up the stop."""
    broker = RedisBroker("redis://127.0.0.1:1")
    await broker.start(lambda channel, payload: None)
    waiting = broker.presence.add("room", "c", "u", b"", announce=True)
    start = time.monotonic()
    await broker.stop()
    assert time.monotonic() - start < redis_lease.STOP_TIMEOUT
    with pytest.raises(BrokerUnavailable):
        await waiting


async def test_a_stop_during_an_outage_is_quick(hire: Hire, redis_server: EmbeddedServer) -> None:
    """What cannot be removed is left to the others."""
    worker = await hire()
    await worker.add("room", "c")
    redis_server.stop()
    await eventually(lambda: not worker.broker.ready)
    start = time.monotonic()
    await worker.broker.stop()
    assert time.monotonic() - start < redis_lease.STOP_TIMEOUT + 1
