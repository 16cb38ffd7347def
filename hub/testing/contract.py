"""The contract of brokers (`hub.broker.Broker`) as tests: what every hub relies on, whatever relays.

::

    from hub.testing.contract import BrokerContract

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        def make(self):
            return lambda: MyBroker(...)    # each call another worker; all of one test hear each other

It covers what `publish`, `subscribe`, `unsubscribe`, `start`, `stop` and `ready` promise; not histories and presence.
The tests bring their own event loops: no plugin of pytest has to be set up, and nothing is mocked.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ..broker import Broker
from ..errors import BrokerUnavailable

__all__ = ["BrokerContract", "Ear", "Make"]

Make = Callable[[], Broker]
Loop = Callable[[], asyncio.AbstractEventLoop]
Test = Callable[..., Coroutine[Any, Any, None]]

# Seconds: long enough for a publication that should not come, and for what has to come on a machine that is busy.
SILENCE = 0.05
PATIENCE = 20.0


class Ear:
    """A broker as a worker has it; `heard` is what it has delivered, in order."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.heard: list[tuple[str, bytes]] = []

    def deliver(self, channel: str, payload: bytes) -> None:
        self.heard.append((channel, payload))

    def payloads(self, channel: str) -> list[bytes]:
        """What came on one channel."""
        return [payload for name, payload in self.heard if name == channel]

    async def start(self) -> Ear:
        await self.broker.start(self.deliver)
        return self

    async def hears(self, count: int, timeout: float | None = None) -> list[tuple[str, bytes]]:
        """Wait until at least `count` publications have come, for so many seconds, or for long; all of them."""
        await _until(lambda: len(self.heard) >= count, timeout)
        return self.heard


async def _until(condition: Callable[[], object], timeout: float | None = None) -> None:
    async with asyncio.timeout(PATIENCE if timeout is None else timeout):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@asynccontextmanager
async def _listening(make: Make, count: int = 1) -> AsyncIterator[list[Ear]]:
    """Started brokers, as many as workers; without a network there is but one."""
    count = count if make().shared else 1
    ears = [await Ear(make()).start() for _ in range(count)]
    yield ears
    await asyncio.gather(*(ear.broker.stop() for ear in ears))


def _in_loop(test: Test) -> Callable[..., None]:
    """Run the coroutine of a test in a loop of its own."""

    @functools.wraps(test)
    def run(*arguments: Any, new_loop: Loop, **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(test(*arguments, **fixtures))

    signature = inspect.signature(test)
    loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), loop])  # type: ignore[attr-defined]
    return run


class BrokerContract:
    """Subclass it as `Test…` with a fixture `make`."""

    @pytest.fixture
    def make(self) -> Make:
        """Makes brokers that relay to each other, as if they were in different processes."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `make` that returns a function: a new broker")

    @pytest.fixture
    def new_loop(self) -> Loop:
        """What makes the event loop of each test."""
        return asyncio.new_event_loop

    @pytest.fixture
    def quick(self) -> None:
        """Shorten the time for which the broker keeps a channel that was left, if it does, to 0.1 s."""

    # Relaying

    @_in_loop
    async def test_everybody_hears_everybody_in_one_order(self, make: Make) -> None:
        """Each worker hears all publications of all workers, its own included, in the same order as the others."""
        async with _listening(make, 3) as workers:
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

    @_in_loop
    async def test_only_what_was_subscribed_is_heard(self, make: Make) -> None:
        """Other channels, also those whose names look like patterns of this one, are somebody else's."""
        async with _listening(make) as (ear,):
            await ear.broker.subscribe("room")
            for other in ("roo", "room1", "r*", "[r]oom", "ROOM", "lobby"):
                await ear.broker.publish(other, b"not mine")
            await ear.broker.publish("room", b"mine")
            assert await ear.hears(1) == [("room", b"mine")]
            await asyncio.sleep(SILENCE)
            assert ear.heard == [("room", b"mine")]

    @_in_loop
    async def test_concurrent_first_subscribers_all_get_the_message(self, make: Make) -> None:
        """Three joiners at once: each is in when its call returns, and each publication is delivered once."""
        async with _listening(make, 3) as workers:
            for turn in range(20):
                channel = f"room-{turn}"
                for ear in workers:
                    await asyncio.gather(*(ear.broker.subscribe(channel) for _ in range(3)))
                await workers[0].broker.publish(channel, b"hi")
                for ear in workers:
                    await _until(lambda ear=ear, channel=channel: ear.payloads(channel))  # type: ignore[misc]
            await asyncio.sleep(SILENCE)
            for ear in workers:
                assert len(ear.heard) == 20

    @_in_loop
    async def test_one_joiner_that_gives_up_does_not_take_the_others_along(self, make: Make) -> None:
        """A cancelled subscriber leaves the subscription to those who wait with it."""
        async with _listening(make) as (ear,):

            async def join() -> None:
                await ear.broker.subscribe("room")

            first, second = asyncio.create_task(join()), asyncio.create_task(join())
            await asyncio.sleep(0)
            first.cancel()
            await second
            await ear.broker.publish("room", b"hi")
            await ear.hears(1)

    @_in_loop
    async def test_who_is_subscribed_misses_nothing(self, make: Make) -> None:
        """What another worker publishes the moment after `subscribe` has returned is heard."""
        async with _listening(make, 3) as workers:
            for turn in range(50):
                await workers[-1].broker.subscribe(f"room-{turn}")
                workers[0].broker.publish(f"room-{turn}", b"now")
            assert await workers[-1].hears(50) == [(f"room-{turn}", b"now") for turn in range(50)]

    @pytest.mark.parametrize("channel", ["räum/日本 🎉", "a b", "#$:*?[a-z]\\", "x" * 255, "hub:channel:x"])
    @_in_loop
    async def test_channel_names_are_kept(self, make: Make, channel: str) -> None:
        """Every script and every character that is a pattern elsewhere is part of a name and nothing more."""
        async with _listening(make, 3) as workers:
            await workers[-1].broker.subscribe(channel)
            await workers[0].broker.publish(channel, b"hi")
            assert await workers[-1].hears(1) == [(channel, b"hi")]

    @pytest.mark.parametrize(
        "payload",
        [b"", b"\x00", bytes(range(256)), b"\r\n$5\r\nhello\r\n", b"+OK\r\n", b"\xff\xfe" * 150_000],
        ids=["empty", "nul", "all bytes", "looks like RESP", "looks like OK", "300 kB"],
    )
    @_in_loop
    async def test_payloads_are_kept(self, make: Make, payload: bytes) -> None:
        """Payloads are bytes, whatever they look like and however many they are."""
        async with _listening(make, 3) as workers:
            await workers[-1].broker.subscribe("room")
            for _ in range(3):
                await workers[0].broker.publish("room", payload)
            assert await workers[-1].hears(3) == [("room", payload)] * 3

    @_in_loop
    async def test_a_fault_in_a_delivery_costs_that_delivery_only(self, make: Make) -> None:
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
        await _until(lambda: heard == [b"1", b"2"])
        await broker.publish("room", b"3")
        await _until(lambda: heard == [b"1", b"2", b"3"])
        await broker.stop()

    # Leaving

    @pytest.mark.usefixtures("quick")
    @_in_loop
    async def test_unsubscribe_lingers_and_then_stops(self, make: Make) -> None:
        """After the last subscriber has left, deliveries end, and nothing else does."""
        async with _listening(make) as (ear,):
            await ear.broker.subscribe("room")
            await ear.broker.subscribe("other")
            ear.broker.unsubscribe("room")

            async def deaf() -> bool:
                await ear.broker.publish("room", b"?")
                ear.heard.clear()
                await ear.broker.publish("room", b"!")
                await asyncio.sleep(SILENCE)
                return not ear.heard

            async with asyncio.timeout(PATIENCE):
                while not await deaf():
                    pass
            await ear.broker.publish("other", b"hi")
            assert await ear.hears(1) == [("other", b"hi")]

    @pytest.mark.usefixtures("quick")
    @_in_loop
    async def test_a_return_within_the_linger_misses_nothing(self, make: Make) -> None:
        """A page reload: from the first subscription on, every publication is heard, also long after the linger."""
        async with _listening(make) as (ear,):
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
    @_in_loop
    async def test_a_return_at_any_time_is_a_subscription(self, make: Make, away: float) -> None:
        """Just before, while and long after the broker gives a channel up: who subscribes again is in."""
        async with _listening(make) as (ear,):
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

    @_in_loop
    async def test_leaving_what_was_never_joined_is_nothing(self, make: Make) -> None:
        """Nor is leaving twice."""
        async with _listening(make) as (ear,):
            ear.broker.unsubscribe("room")
            await ear.broker.subscribe("room")
            ear.broker.unsubscribe("room")
            ear.broker.unsubscribe("room")

    # Beginning and ending

    @_in_loop
    async def test_ready_between_start_and_stop(self, make: Make) -> None:
        """Not before the start, soon after it, and no longer after the stop."""
        broker = make()
        assert not broker.ready
        await broker.start(lambda channel, payload: None)
        await _until(lambda: broker.ready)
        await broker.stop()
        assert not broker.ready

    @_in_loop
    async def test_nothing_is_relayed_outside_of_start_and_stop(self, make: Make) -> None:
        """Publishing to and subscribing at a stopped broker fail at once, and say why."""
        broker = make()
        await _fails_when_stopped(broker)
        await broker.start(lambda channel, payload: None)
        await broker.publish("room", b"hi")
        await broker.stop()
        await _fails_when_stopped(broker)

    @_in_loop
    async def test_start_and_stop_twice(self, make: Make) -> None:
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

    @_in_loop
    async def test_a_new_start_begins_with_nothing(self, make: Make) -> None:
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
    def test_a_start_in_another_event_loop(self, make: Make, new_loop: Loop, stop: bool) -> None:
        """As with `asyncio.run` twice, or a TestClient after another: also when the first was never stopped."""
        ear = Ear(make())

        async def use(number: int) -> None:
            await ear.start()
            await ear.broker.subscribe("room")
            await ear.broker.publish("room", b"%d" % number)
            await ear.hears(number)
            if stop:
                await ear.broker.stop()

        async def end() -> None:
            await ear.broker.stop()
            with pytest.raises(BrokerUnavailable):
                await ear.broker.publish("room", b"hi")

        for work in (use(1), use(2), use(3), end()):
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(work)
        assert ear.payloads("room") == [b"1", b"2", b"3"]

    @_in_loop
    async def test_no_task_outlives_the_stop(self, make: Make) -> None:
        """What a broker starts it ends."""
        before = asyncio.all_tasks()
        ear = await Ear(make()).start()
        await ear.broker.subscribe("room")
        await ear.broker.publish("room", b"hi")
        await ear.hears(1)
        await ear.broker.stop()
        assert asyncio.all_tasks() == before

    def test_the_name_tells_brokers_apart(self, make: Make) -> None:
        """An operator can tell brokers apart."""
        broker = make()
        assert broker.name
        assert str(broker.name) in repr(broker)


async def _fails_when_stopped(broker: Broker) -> None:
    with pytest.raises(BrokerUnavailable, match="not sent"):
        await broker.publish("room", b"hi")
    with pytest.raises(BrokerUnavailable, match="not subscribed"):
        await broker.subscribe("room")
    broker.unsubscribe("room")
    broker.publish("room", b"nobody waits for this").cancel()
