"""The scripts of history on a real server: keys, commands, faults and losses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hub.broker import Broker
from hub.errors import BrokerUnavailable
from hub.protocol import envelope
from hub.types import HistoryOptions, HistoryPage, Publication
from tests.support.backends import Backend, backend
from tests.support.relay import Ear
from tests.support.waiting import eventually

KEPT = HistoryOptions(size=100, ttl=60, meta_ttl=600)
LEAP = 2**20
STREAM, META = b"hub:stream:{room}", b"hub:meta:{room}"


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Backend:
    return backend("valkey", request)


@pytest.fixture
def server(place: Backend) -> Any:
    """A plain client of the test's own."""
    return place.client


@pytest.fixture
async def ear(place: Backend) -> AsyncIterator[Ear]:
    """A broker that works and hears `room`."""
    ear = await Ear(place.make()).start()
    await ear.broker.subscribe("room")
    await eventually(lambda: ear.broker.ready)
    yield ear
    await ear.broker.stop()


@pytest.fixture
def broker(ear: Ear) -> Broker:
    return ear.broker


def read(broker: Broker, limit: int = -1) -> asyncio.Future[HistoryPage]:
    return broker.read_history("room", since=None, limit=limit, reverse=False, meta_ttl=600)


async def fill(broker: Broker, count: int) -> str:
    """Publish that many; the epoch."""
    results = [broker.append("room", b"%d" % number, history=KEPT) for number in range(1, count + 1)]
    return [await result for result in results][-1].epoch


def calls(server: Any) -> dict[str, int]:
    """How often each command has run since `CONFIG RESETSTAT`, in scripts too."""
    stats = server.info("commandstats")
    return {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}


# Keys and commands


async def test_keys_of_a_channel(broker: Broker, server: Any) -> None:
    """They share a hash tag, hold what the module says, and end in time."""
    result = await broker.append("room", b"hi", history=KEPT, idempotency_key="key", version=7, version_epoch="v")
    place = b"%d:%s" % (1, result.epoch.encode())
    assert sorted(server.keys("hub:*{room}*")) == [META, b"hub:result:{room}:key", STREAM]
    assert server.xrange(STREAM) == [(b"1-0", {b"d": b"hi"})]
    assert server.hgetall(META) == {b"s": b"1", b"e": result.epoch.encode(), b"v": b"7", b"ve": b"v"}
    assert server.get("hub:result:{room}:key") == place
    for key, seconds in ((STREAM, 60), (META, 600), ("hub:result:{room}:key", 300)):
        assert seconds - 10 < server.pttl(key) / 1000 <= seconds


async def test_offsets_leap_where_another_server_goes_on(broker: Broker, server: Any, ear: Ear) -> None:
    """Once for each lineage, in channels that have a history; the first publication says what it follows."""
    assert [(await broker.append("room", b"t\0one", history=KEPT)).offset for _ in range(3)] == [1, 2, 3]
    server.set("hub:lineage", "B")
    offsets = [(await broker.append("room", b"t\0two", history=KEPT)).offset for _ in range(2)]
    assert offsets == [LEAP + 1, LEAP + 2]
    assert (await broker.append("fresh", b"t\0new", history=KEPT)).offset == 1
    server.set("hub:lineage", "C")
    assert (await broker.append("room", b"t\0three", history=KEPT)).offset == 2 * LEAP + 1
    assert (await broker.append("fresh", b"t\0new", history=KEPT)).offset == LEAP + 1
    page = await read(broker)
    found = [envelope.decode(envelope.positioned(payload, offset, "e")) for offset, payload in page.publications]
    assert [(p.offset, p.before) for p in found if isinstance(p, Publication)] == [
        (1, 0),
        (2, 0),
        (3, 0),
        (LEAP + 1, 3),
        (LEAP + 2, 0),
        (2 * LEAP + 1, LEAP + 2),
    ]
    assert page.position.offset == 2 * LEAP + 1
    await eventually(lambda: len(ear.heard) == 6)
    assert [envelope.decode(payload).before for _, payload in ear.heard][3:] == [3, 0, LEAP + 2]


async def test_keys_of_a_channel_without_history(broker: Broker, server: Any) -> None:
    """Only the result of an idempotent publication, for five minutes."""
    await broker.append("room", b"hi", history=None, idempotency_key="key")
    assert server.keys("hub:*{room}*") == [b"hub:result:{room}:key"]
    assert 290_000 < server.pttl("hub:result:{room}:key") <= 300_000


async def test_a_ttl_counts_from_the_last_publication(broker: Broker, server: Any) -> None:
    """Each sets those of the stream and of the position anew; a read only that of the position."""
    await fill(broker, 1)
    server.pexpire(STREAM, 5000)
    server.pexpire(META, 5000)
    await read(broker)
    assert server.pttl(META) > 500_000
    assert server.pttl(STREAM) <= 5000
    server.pexpire(META, 5000)
    await fill(broker, 1)
    assert server.pttl(META) > 500_000
    assert server.pttl(STREAM) > 50_000


async def test_what_a_publication_costs(broker: Broker, server: Any) -> None:
    """The hot path: a handful of commands in one script, and no other round trip."""
    await fill(broker, 1)
    server.config_resetstat()
    await fill(broker, 10)
    found = calls(server)
    beats = found.pop("publish") - 10
    assert 0 <= beats <= 2
    for noise in ("config|resetstat", "info", "ping"):
        found.pop(noise, None)
    assert found == {"evalsha": 10, "get": 10, "hmget": 10, "hincrby": 10, "pexpire": 20, "xadd": 10}


async def test_what_a_read_costs(broker: Broker, server: Any) -> None:
    """The position alone does not touch the stream."""
    await fill(broker, 3)
    server.config_resetstat()
    await read(broker, limit=0)
    await read(broker, limit=2)
    found = calls(server)
    assert (found["evalsha"], found["hmget"], found["pexpire"], found["xrange"]) == (2, 2, 2, 1)


async def test_offsets_stay_whole_numbers(broker: Broker, server: Any) -> None:
    """Also where Lua would write them with an exponent."""
    epoch = await fill(broker, 1)
    server.hset(META, "s", 2**53 - 3)
    for offset in (2**53 - 2, 2**53 - 1):
        result = await broker.append("room", b"x", history=KEPT, idempotency_key=str(offset))
        assert result == (offset, epoch, False)
        again = await broker.append("room", b"x", history=KEPT, idempotency_key=str(offset))
        assert again == (offset, epoch, True)
    page = await read(broker)
    assert [offset for offset, _ in page.publications] == [1, 2**53 - 2, 2**53 - 1]
    assert page.position.offset == 2**53 - 1


# Losses


async def test_publications_go_on_without_their_scripts(ear: Ear, server: Any) -> None:
    """SCRIPT FLUSH in the middle: nothing is lost, doubled or out of order."""
    results = []
    for number in range(300):
        results.append(ear.broker.append("room", b"%d" % number, history=HistoryOptions(size=500, ttl=60, meta_ttl=60)))
        if number % 50 == 49:
            await asyncio.sleep(0)  # what is issued goes out; the flush meets it under way
            server.script_flush()
    assert [(await result).offset for result in results] == list(range(1, 301))
    heard = await ear.hears(300)
    assert [payload.rpartition(b":")[2] for _, payload in heard] == [b"%d" % number for number in range(300)]


async def test_a_wiped_server_begins_a_new_epoch(broker: Broker, server: Any) -> None:
    """FLUSHALL: offsets begin again, under a name by which every older position is known to be lost."""
    old = await fill(broker, 3)
    server.flushall()
    page = await read(broker)
    assert page.publications == []
    assert page.position.offset == 0
    assert page.position.epoch != old
    server.flushall()
    result = await broker.append("room", b"new", history=KEPT)
    assert result.offset == 1
    assert result.epoch not in (old, page.position.epoch)


async def test_no_position_is_given_twice(broker: Broker, server: Any) -> None:
    """Each call brings an epoch of its own, so that two sides of a wipe in one pipeline cannot agree by accident."""
    results = []
    for _ in range(20):
        results.append(broker.append("room", b"x", history=KEPT))
        await asyncio.sleep(0)
        server.flushall()
    positions = [(await result)[:2] for result in results]
    assert len(set(positions)) == 20


@pytest.mark.parametrize("first", ["read", "append"])
async def test_a_lost_position_takes_the_publications_along(broker: Broker, server: Any, first: str) -> None:
    """The meta hash may be evicted alone: then what is left has no offsets that anybody could trust."""
    old = await fill(broker, 3)
    server.delete(META)
    if first == "read":
        page = await read(broker)
        assert page.publications == []
        assert page.position.offset == 0
        assert not server.exists(STREAM)
    result = await broker.append("room", b"new", history=KEPT)
    assert result.offset == 1
    assert result.epoch != old
    assert await read(broker) == ([(1, b"new")], (1, result.epoch))


async def test_lost_publications_leave_the_position(broker: Broker, server: Any) -> None:
    """The stream may be evicted alone: whoever is behind learns that it missed something."""
    epoch = await fill(broker, 3)
    server.delete(STREAM)
    assert await read(broker) == ([], (3, epoch))
    assert await broker.append("room", b"4", history=KEPT) == (4, epoch, False)
    assert await read(broker) == ([(4, b"4")], (4, epoch))


# Refusals


def state(server: Any) -> dict[bytes, bytes]:
    """Everything in the server."""
    return {key: server.dump(key) for key in server.keys("*{room}*")}


@pytest.mark.parametrize("used", [True, False], ids=["used channel", "new channel"])
@pytest.mark.parametrize(
    ("setting", "value", "usual", "reason"),
    [("maxmemory", 1, 0, "OOM"), ("min-replicas-to-write", 1, 0, "NOREPLICAS")],
)
async def test_a_refused_publication_leaves_nothing_half_done(
    ear: Ear, server: Any, used: bool, setting: str, value: int, usual: int, reason: str
) -> None:
    """With or without key, version and history: no offset is taken, nothing is delivered, and the next one follows."""
    if used:
        await ear.broker.append("room", b"1", history=KEPT, version=1)
        await ear.hears(1)
    before, count = state(server), len(ear.heard)
    server.config_set(setting, value)
    attempts: list[dict[str, Any]] = [
        {"history": KEPT},
        {"history": KEPT, "idempotency_key": "key"},
        {"history": KEPT, "version": 9},
        {"history": None, "idempotency_key": "key"},
    ]
    for attempt in attempts:
        with pytest.raises(BrokerUnavailable, match=reason):
            await ear.broker.append("room", b"refused", **attempt)
    server.config_set(setting, usual)
    assert state(server) == before
    assert (await ear.broker.append("room", b"next", history=KEPT, version=2)).offset == count + 1
    heard = await ear.hears(count + 1)
    assert [payload.rpartition(b":")[2] for _, payload in heard] == [b"1", b"next"][-count - 1 :]


async def test_a_refused_publication_does_not_tidy_up(broker: Broker, server: Any) -> None:
    """Publications without a position stay until one is taken that replaces them."""
    await fill(broker, 1)
    server.delete(META)
    before = state(server)
    server.config_set("maxmemory", 1)
    with pytest.raises(BrokerUnavailable, match="OOM"):
        await broker.append("room", b"refused", history=KEPT)
    assert state(server) == before


async def test_history_is_read_from_a_full_server(broker: Broker, server: Any) -> None:
    """Whoever recovers needs no memory there."""
    epoch = await fill(broker, 2)
    server.config_set("maxmemory", 1)
    assert await read(broker) == ([(1, b"1"), (2, b"2")], (2, epoch))


async def test_a_replica_refuses(broker: Broker, server: Any) -> None:
    """After a failover to the wrong side nothing is taken that would be lost."""
    await fill(broker, 1)
    before = state(server)
    server.replicaof("127.0.0.1", "1")
    with pytest.raises(BrokerUnavailable, match="READONLY"):
        await broker.append("room", b"2", history=KEPT)
    server.replicaof("NO", "ONE")
    assert state(server) == before
    assert (await broker.append("room", b"2", history=KEPT)).offset == 2
