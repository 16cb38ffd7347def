"""The contract of brokers, on the reference in memory, on fakeredis, and on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import fakeredis
import pytest

from hub import pubsub, redis_feed
from hub.broker import Broker
from hub.errors import BrokerUnavailable
from hub.memory import MemoryBroker
from hub.pubsub import RedisBroker
from tests.support.relay import Ear
from tests.support.waiting import eventually

Make = Callable[[], Broker]

# Long enough for a publication that should not come.
SILENCE = 0.05


@pytest.fixture(params=["memory", "fakeredis", "valkey"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes brokers that relay to each other, were they in different processes."""
    if request.param == "memory":
        return MemoryBroker
    if request.param == "fakeredis":
        server = fakeredis.FakeServer()
        return lambda: RedisBroker(fakeredis.FakeAsyncRedis(server=server))
    url: str = request.getfixturevalue("redis_server").url
    return lambda: RedisBroker(url)


@pytest.fixture
async def ear(make: Make) -> AsyncIterator[Ear]:
    """One started broker."""
    ear = await Ear(make()).start()
    yield ear
    await ear.broker.stop()


@pytest.fixture
async def workers(make: Make) -> AsyncIterator[list[Ear]]:
    """Three started brokers; without a network there is but one."""
    count = 3 if make().shared else 1
    ears = [await Ear(make()).start() for _ in range(count)]
    yield ears
    await asyncio.gather(*(ear.broker.stop() for ear in ears))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lingering that a test can wait for."""
    monkeypatch.setattr(pubsub, "HEARTBEAT", 0.02)
    monkeypatch.setattr(redis_feed, "LINGER", 0.1)


@pytest.mark.both_loops
async def test_everybody_hears_everybody_in_one_order(workers: list[Ear]) -> None:
    """Each worker hears all publications of all workers, its own included, in the same order as the others."""
    await asyncio.gather(*(ear.broker.subscribe("room") for ear in workers))
    for number in range(100):
        for index, ear in enumerate(workers):
            ear.broker.publish("room", f"{index}-{number}".encode())
        await asyncio.sleep(0)
    count = 100 * len(workers)
    heard = [await ear.hears(count) for ear in workers]
    assert all(each == heard[0] for each in heard)
    assert len(set(heard[0])) == count
    for index in range(len(workers)):
        own = [payload for _, payload in heard[0] if payload.startswith(b"%d-" % index)]
        assert own == [b"%d-%d" % (index, number) for number in range(100)]


async def test_only_what_was_subscribed_is_heard(ear: Ear) -> None:
    """Other channels, also those whose names look like patterns of this one, are somebody else's."""
    await ear.broker.subscribe("room")
    for other in ("roo", "room1", "r*", "[r]oom", "ROOM", "lobby"):
        await ear.broker.publish(other, b"not mine")
    await ear.broker.publish("room", b"mine")
    assert await ear.hears(1) == [("room", b"mine")]
    await asyncio.sleep(SILENCE)
    assert ear.heard == [("room", b"mine")]


async def test_concurrent_first_subscribers_all_get_the_message(workers: list[Ear]) -> None:
    """Three joiners at once: each is in when its call returns, and each publication is delivered once."""
    for turn in range(20):
        channel = f"room-{turn}"
        for ear in workers:
            await asyncio.gather(*(ear.broker.subscribe(channel) for _ in range(3)))
        await workers[0].broker.publish(channel, b"hi")
        for ear in workers:
            await eventually(lambda ear=ear, channel=channel: ear.payloads(channel))
    await asyncio.sleep(SILENCE)
    for ear in workers:
        assert len(ear.heard) == 20


async def test_one_joiner_that_gives_up_does_not_take_the_others_along(ear: Ear) -> None:
    """A cancelled subscriber leaves the subscription to those who wait with it."""

    async def join() -> None:
        await ear.broker.subscribe("room")

    first, second = asyncio.create_task(join()), asyncio.create_task(join())
    await asyncio.sleep(0)
    first.cancel()
    await second
    await ear.broker.publish("room", b"hi")
    await ear.hears(1)


@pytest.mark.both_loops
async def test_who_is_subscribed_misses_nothing(workers: list[Ear]) -> None:
    """What another worker publishes the moment after `subscribe` has returned is heard."""
    for turn in range(50):
        await workers[-1].broker.subscribe(f"room-{turn}")
        workers[0].broker.publish(f"room-{turn}", b"now")
    assert await workers[-1].hears(50) == [(f"room-{turn}", b"now") for turn in range(50)]


@pytest.mark.usefixtures("quick")
async def test_unsubscribe_lingers_and_then_stops(ear: Ear) -> None:
    """After the last subscriber has left, deliveries end, and nothing else does."""
    await ear.broker.subscribe("room")
    await ear.broker.subscribe("other")
    ear.broker.unsubscribe("room")

    async def deaf() -> bool:
        await ear.broker.publish("room", b"?")
        ear.heard.clear()
        await ear.broker.publish("room", b"!")
        await asyncio.sleep(SILENCE)
        return not ear.heard

    async with asyncio.timeout(5):
        while not await deaf():
            pass
    await ear.broker.publish("other", b"hi")
    assert await ear.hears(1) == [("other", b"hi")]


@pytest.mark.usefixtures("quick")
async def test_a_return_within_the_linger_misses_nothing(ear: Ear) -> None:
    """A page reload: from the first subscription on, every publication is heard, also long after the linger."""
    await ear.broker.subscribe("room")
    for number in range(40):
        if number == 3:
            ear.broker.unsubscribe("room")
            await ear.broker.subscribe("room")
        await ear.broker.publish("room", b"%d" % number)
        await asyncio.sleep(0.01)
    assert await ear.hears(40) == [("room", b"%d" % number) for number in range(40)]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("away", [0.09, 0.11, 0.13, 0.3])
async def test_a_return_at_any_time_is_a_subscription(ear: Ear, away: float) -> None:
    """Just before, while and long after the broker gives a channel up: who subscribes again is in."""
    await ear.broker.subscribe("room")
    ear.broker.unsubscribe("room")
    await asyncio.sleep(away)
    await ear.broker.subscribe("room")
    ear.heard.clear()
    await ear.broker.publish("room", b"hi")
    await ear.hears(1)
    await asyncio.sleep(0.2)
    await ear.broker.publish("room", b"still")
    assert await ear.hears(2) == [("room", b"hi"), ("room", b"still")]


async def test_leaving_what_was_never_joined_is_nothing(ear: Ear) -> None:
    """Nor is leaving twice."""
    ear.broker.unsubscribe("room")
    await ear.broker.subscribe("room")
    ear.broker.unsubscribe("room")
    ear.broker.unsubscribe("room")


@pytest.mark.parametrize("channel", ["räum/日本 🎉", "a b", "#$:*?[a-z]\\", "x" * 255, "hub:channel:x"])
async def test_channel_names_are_kept(workers: list[Ear], channel: str) -> None:
    """Every script and every character of Redis's patterns is part of a name and nothing more."""
    await workers[-1].broker.subscribe(channel)
    await workers[0].broker.publish(channel, b"hi")
    assert await workers[-1].hears(1) == [(channel, b"hi")]


@pytest.mark.both_loops
@pytest.mark.parametrize(
    "payload",
    [b"", b"\x00", bytes(range(256)), b"\r\n$5\r\nhello\r\n", b"+OK\r\n", b"\xff\xfe" * 150_000],
    ids=["empty", "nul", "all bytes", "looks like RESP", "looks like OK", "300 kB"],
)
async def test_payloads_are_kept(workers: list[Ear], payload: bytes) -> None:
    """Payloads are bytes, whatever they look like and however many they are."""
    await workers[-1].broker.subscribe("room")
    for _ in range(3):
        await workers[0].broker.publish("room", payload)
    assert await workers[-1].hears(3) == [("room", payload)] * 3


async def test_a_fault_in_a_delivery_costs_that_delivery_only(make: Make) -> None:
    """Whoever takes publications may fail; the next ones still come."""
    heard: list[bytes] = []

    def deliver(channel: str, payload: bytes) -> None:
        if payload == b"bad":
            raise ValueError("cannot take this")
        heard.append(payload)

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    broker = make()
    await broker.start(deliver)
    await broker.subscribe("room")
    for payload in (b"1", b"bad", b"2"):
        await broker.publish("room", payload)
    await eventually(lambda: heard == [b"1", b"2"])
    await broker.publish("room", b"3")
    await eventually(lambda: heard == [b"1", b"2", b"3"])
    await broker.stop()


async def test_ready_between_start_and_stop(make: Make) -> None:
    """Not before the start, soon after it, and no longer after the stop."""
    broker = make()
    assert not broker.ready
    await broker.start(lambda channel, payload: None)
    await eventually(lambda: broker.ready)
    await broker.stop()
    assert not broker.ready


async def test_nothing_is_relayed_outside_of_start_and_stop(make: Make) -> None:
    """Publishing to and subscribing at a stopped broker fail at once, and say why."""
    broker = make()
    await fails_when_stopped(broker)
    await broker.start(lambda channel, payload: None)
    await broker.publish("room", b"hi")
    await broker.stop()
    await fails_when_stopped(broker)


async def fails_when_stopped(broker: Broker) -> None:
    with pytest.raises(BrokerUnavailable, match=r"not sent: the broker is stopped"):
        await broker.publish("room", b"hi")
    with pytest.raises(BrokerUnavailable, match=r"not subscribed: the broker is stopped"):
        await broker.subscribe("room")
    broker.unsubscribe("room")
    broker.publish("room", b"nobody waits for this").cancel()


async def test_start_and_stop_twice(make: Make) -> None:
    """A second start keeps what the first has; a stop without a start and a second stop do nothing."""
    ear = Ear(make())
    await ear.broker.stop()
    await ear.start()
    await ear.broker.subscribe("room")
    await ear.start()
    await ear.broker.publish("room", b"hi")
    assert await ear.hears(1) == [("room", b"hi")]
    await asyncio.gather(ear.broker.stop(), ear.broker.stop())
    await ear.broker.stop()


async def test_a_new_start_begins_with_nothing(make: Make) -> None:
    """Subscriptions end with the stop."""
    ear = await Ear(make()).start()
    await ear.broker.subscribe("room")
    await ear.broker.stop()
    await ear.start()
    await ear.broker.subscribe("other")
    await ear.broker.publish("room", b"old")
    await ear.broker.publish("other", b"new")
    assert await ear.hears(1) == [("other", b"new")]
    await ear.broker.stop()


@pytest.mark.parametrize("stop", [True, False], ids=["stopped", "abandoned"])
def test_a_start_in_another_event_loop(make: Make, stop: bool) -> None:
    """As with `asyncio.run` twice, or a TestClient after another: also when the first was never stopped."""
    ear = Ear(make())

    async def use(number: int) -> None:
        await ear.start()
        await ear.broker.subscribe("room")
        await ear.broker.publish("room", b"%d" % number)
        await ear.hears(number)
        if stop:
            await ear.broker.stop()

    for number in (1, 2, 3):
        asyncio.run(use(number))
    assert ear.payloads("room") == [b"1", b"2", b"3"]
    asyncio.run(stopped(ear.broker))


async def stopped(broker: Broker) -> None:
    await broker.stop()
    with pytest.raises(BrokerUnavailable):
        await broker.publish("room", b"hi")


@pytest.mark.both_loops
async def test_no_task_and_no_connection_outlives_the_stop(make: Make) -> None:
    """What a broker starts it ends."""
    before = asyncio.all_tasks()
    ear = await Ear(make()).start()
    await ear.broker.subscribe("room")
    await ear.broker.publish("room", b"hi")
    await ear.hears(1)
    await ear.broker.stop()
    assert asyncio.all_tasks() == before


async def test_the_name_tells_brokers_apart(make: Make) -> None:
    """An operator can tell brokers apart."""
    broker: Any = make()
    assert broker.name
    assert str(broker.name) in repr(broker)
