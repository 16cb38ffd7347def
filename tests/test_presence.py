"""The contract of presence, in memory, on fakeredis, and on a real server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from hub.broker import Broker
from hub.errors import BrokerUnavailable
from hub.memory_presence import MemoryPresence
from tests.support.backends import BACKENDS, Backend, backend
from tests.support.presence import balance, comings, info
from tests.support.relay import Ear
from tests.support.waiting import eventually

# Long enough for what should not come.
SILENCE = 0.05


@pytest.fixture(params=BACKENDS)
def relay(request: pytest.FixtureRequest) -> Backend:
    return backend(request.param, request)


@pytest.fixture
async def ears(relay: Backend) -> AsyncIterator[list[Ear]]:
    """Two started brokers that hear `room`; without a network the same twice."""
    first = relay.make()
    brokers = [first, relay.make() if first.shared else first]
    ears = [await Ear(broker).start() for broker in dict.fromkeys(brokers)]
    for ear in ears:
        await ear.broker.subscribe("room")
    yield [ears[0], ears[-1]]
    await asyncio.gather(*(ear.broker.stop() for ear in ears))


def add(broker: Broker, client: str, user: str = "u", channel: str = "room") -> asyncio.Future[None]:
    return broker.presence.add(channel, client, user, info(user, client), announce=True)


async def test_who_comes_and_goes_is_announced_once(ears: list[Ear]) -> None:
    """A join when an entry is new, a leave when it goes; nothing for what changes nothing."""
    here, there = ears[0].broker.presence, ears[1]
    await here.add("room", "c1", "ann", b'{"client":"c1"}', announce=True)
    await here.add("room", "c1", "ann", b'{"client":"c1","x":1}', announce=True)
    await here.remove("room", "c1")
    await here.remove("room", "c1")
    await here.remove("elsewhere", "c1")
    await there.hears(2)
    await asyncio.sleep(SILENCE)
    assert there.heard == [("room", b'+{"client":"c1"}'), ("room", b'-{"client":"c1","x":1}')]


async def test_without_announce_nobody_hears(ears: list[Ear]) -> None:
    """It is there, and comes and goes in silence."""
    here, there = ears[0].broker.presence, ears[1]
    await here.add("room", "c1", "ann", info("ann", "c1"), announce=False)
    assert await there.broker.presence.read("room") == {"c1": info("ann", "c1")}
    await here.remove("room", "c1")
    await asyncio.sleep(SILENCE)
    assert there.heard == []


async def test_everybody_reads_the_same(ears: list[Ear]) -> None:
    """All entries of all workers, with what was registered last."""
    await asyncio.gather(add(ears[0].broker, "c1", "ann"), add(ears[1].broker, "c2", "ben"))
    await ears[1].broker.presence.add("room", "c2", "bob", b"{}", announce=True)
    for ear in ears:
        assert await ear.broker.presence.read("room") == {"c1": info("ann", "c1"), "c2": b"{}"}
        assert await ear.broker.presence.read("empty") == {}


async def test_statistics_count_connections_and_users(ears: list[Ear]) -> None:
    """A user with two connections is one, and stays until the last of them has gone; so does the anonymous one."""
    here, there = ears[0].broker, ears[1].broker
    assert await here.presence.stats("room") == (0, 0)
    await asyncio.gather(add(here, "c1", "ann"), add(there, "c2", "ann"), add(here, "c3", ""), add(here, "c4", ""))
    assert await there.presence.stats("room") == (4, 2)
    await there.presence.remove("room", "c2")
    assert await here.presence.stats("room") == (3, 2)
    await here.presence.remove("room", "c1")
    assert await here.presence.stats("room") == (2, 1)
    await add(here, "c3", "ann")
    await add(here, "c4", "ann")
    assert await there.presence.stats("room") == (2, 1)
    await asyncio.gather(here.presence.remove("room", "c3"), here.presence.remove("room", "c4"))
    assert await here.presence.stats("room") == (0, 0)


@pytest.mark.parametrize("channel", ["{a}", "}", "a b", "*", "ü:🎈", "x" * 255], ids=ascii)
async def test_names_and_values_of_any_kind(ears: list[Ear], channel: str) -> None:
    """Channels, users and infos are data, whatever they look like."""
    here, there = ears[0].broker.presence, ears[1]
    await there.broker.subscribe(channel)
    values = {
        "c1": ("", b""),
        "c2": ("7 0 x", b" 1 \r\n\0\xff"),
        "c3": ("ü\n\0%s", '{"ü":"%d"}'.encode()),
        "c4": ("long " * 1000, b"[1]" * 1000),
    }
    for client, (user, value) in values.items():
        await here.add(channel, client, user, value, announce=True)
    expected = {client: value for client, (_, value) in values.items()}
    assert await there.broker.presence.read(channel) == expected
    assert await there.broker.presence.stats(channel) == (4, 4)
    for client in values:
        await here.remove(channel, client)
    heard = [payload for payload in (await there.hears(8)) if payload[0] == channel]
    assert [payload for _, payload in heard] == [sign + value for sign in (b"+", b"-") for value in expected.values()]


async def test_the_last_word_counts(ears: list[Ear]) -> None:
    """However quickly a client comes and goes: it ends where the last call has put it, and so does who listens."""
    here, there = ears[0].broker.presence, ears[1]
    rng = random.Random(1)
    wanted: dict[str, bool] = {}
    futures = []
    for turn in range(500):
        client = f"c{rng.randrange(10)}"
        wanted[client] = rng.random() < 0.5
        if wanted[client]:
            futures.append(here.add("room", client, "u", info("u", client), announce=True))
        else:
            futures.append(here.remove("room", client))
        if turn % 3 == 0:
            await asyncio.sleep(0.001 * rng.randrange(3))
    await asyncio.gather(*futures)
    present = {client for client, here in wanted.items() if here}
    assert (await here.read("room")).keys() == present
    await eventually(lambda: {client for client, count in balance(there, "room").items() if count} == present)
    assert set(balance(there, "room").values()) <= {0, 1}


async def test_many_at_once(ears: list[Ear]) -> None:
    """A thousand in one turn of the event loop, of which each is announced."""
    await asyncio.gather(*(add(ears[0].broker, f"c{number}", f"u{number % 10}") for number in range(1000)))
    assert await ears[1].broker.presence.stats("room") == (1000, 10)
    assert len(await ears[1].broker.presence.read("room")) == 1000
    await ears[1].hears(1000)
    assert len(set(comings(ears[1], "room"))) == 1000


async def test_a_stopped_broker_registers_nobody(relay: Backend) -> None:
    """Neither before its start, nor after its stop; failures need not be looked at."""
    broker = relay.make()

    async def refuses() -> None:
        presence = broker.presence
        presence.remove("room", "c")
        for attempt in (add(broker, "c"), presence.remove("room", "c"), presence.read("room"), presence.stats("room")):
            with pytest.raises(BrokerUnavailable, match="stopped"):
                await attempt

    await refuses()
    await broker.start(lambda channel, payload: None)
    await add(broker, "c")
    await broker.stop()
    await refuses()
    await broker.start(lambda channel, payload: None)
    assert await broker.presence.read("room") == {}
    await broker.stop()


async def test_the_state_of_the_reference_is_shown() -> None:
    """For an operator with a debugger."""
    presence = MemoryPresence(lambda channel, payload: None)
    presence.start()
    await presence.add("room", "c", "u", b"", announce=True)
    assert repr(presence) == "<MemoryPresence 1 entries, 1 channels>"


# Between workers


@pytest.mark.parametrize("relay", BACKENDS[1:], indirect=True)
async def test_what_is_left_at_the_stop_is_taken_out(ears: list[Ear]) -> None:
    """Those who stay hear of all the leaves."""
    await asyncio.gather(*(add(ears[0].broker, f"c{number}") for number in range(700)), add(ears[1].broker, "other"))
    await ears[0].broker.stop()
    assert await ears[1].broker.presence.read("room") == {"other": info("u", "other")}
    await ears[1].hears(1401)
    assert +balance(ears[1], "room") == {"other": 1}


@pytest.mark.parametrize("relay", BACKENDS[1:], indirect=True)
async def test_nothing_stays_behind(relay: Backend, ears: list[Ear]) -> None:
    """When everybody has gone there are no keys but those of the leases."""
    await asyncio.gather(*(add(ears[0].broker, f"c{number}", f"u{number}") for number in range(20)))
    await asyncio.gather(*(ears[0].broker.presence.remove("room", f"c{number}") for number in range(20)))
    assert relay.client.keys() == [b"hub:leases"]
    for ear in ears:
        await ear.broker.stop()
    assert relay.client.keys() == [b"hub:leases:reaped"]
