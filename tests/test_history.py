"""The contract of history, on the reference in memory, on fakeredis, and on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from hub.broker import Broker
from hub.errors import BrokerUnavailable
from hub.types import HistoryOptions, HistoryPage, PublishResult, StreamPosition
from tests.support.backends import BACKENDS, Backend, backend
from tests.support.relay import Ear

KEPT = HistoryOptions(size=100, ttl=60, meta_ttl=600)
# Long enough for a publication that should not come.
SILENCE = 0.05


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest) -> Backend:
    return backend(request.param, request)


@pytest.fixture
async def workers(place: Backend) -> AsyncIterator[list[Ear]]:
    """Three started brokers that hear `room`; without a network there is but one."""
    count = 3 if place.make().shared else 1
    ears = [await Ear(place.make()).start() for _ in range(count)]
    await asyncio.gather(*(ear.broker.subscribe("room") for ear in ears))
    yield ears
    await asyncio.gather(*(ear.broker.stop() for ear in ears))


@pytest.fixture
def ear(workers: list[Ear]) -> Ear:
    """One of them, which hears `room`."""
    return workers[0]


@pytest.fixture
def broker(ear: Ear) -> Broker:
    return ear.broker


async def page(broker: Broker, channel: str = "room", since: int | None = None, **options: object) -> HistoryPage:
    """Everything, unless the options say otherwise."""
    how = {"limit": -1, "reverse": False, "meta_ttl": KEPT.meta_ttl, **options}
    return await broker.read_history(channel, since=since, **how)  # type: ignore[arg-type]


async def kept(broker: Broker, channel: str = "room", since: int | None = None, **options: object) -> list[int]:
    """The offsets of `page`."""
    return [offset for offset, _ in (await page(broker, channel, since, **options)).publications]


async def fill(broker: Broker, count: int, history: HistoryOptions = KEPT, channel: str = "room") -> str:
    """Publish that many; the epoch."""
    results = [broker.append(channel, b"%d" % number, history=history) for number in range(1, count + 1)]
    return [await result for result in results][-1].epoch


def positioned(result: PublishResult, payload: bytes) -> tuple[str, bytes]:
    """What is heard of a publication that was kept."""
    return "room", b"p%d:%s:%s" % (result.offset, result.epoch.encode(), payload)


# Offsets and epochs


@pytest.mark.both_loops
async def test_publications_are_numbered_from_one(ear: Ear) -> None:
    """Each has the next offset of one epoch, in the result and in front of what is delivered."""
    results = [ear.broker.append("room", b"%d" % number, history=KEPT) for number in (1, 2, 3)]
    first, second, third = [await result for result in results]
    assert (first.offset, second.offset, third.offset) == (1, 2, 3)
    assert first.epoch == second.epoch == third.epoch != ""
    assert not third.suppressed
    assert await ear.hears(3) == [positioned(first, b"1"), positioned(second, b"2"), positioned(third, b"3")]
    assert await page(ear.broker) == ([(1, b"1"), (2, b"2"), (3, b"3")], (3, first.epoch))


@pytest.mark.both_loops
async def test_the_order_of_delivery_is_the_order_of_the_history(workers: list[Ear]) -> None:
    """However many workers publish at once, each hears exactly what the history has, in its order."""
    count = 60 * len(workers)
    for number in range(60):
        for index, ear in enumerate(workers):
            ear.broker.append("room", b"%d-%d" % (index, number), history=HistoryOptions(size=500, ttl=60, meta_ttl=60))
        await asyncio.sleep(0)
    heard = [await ear.hears(count) for ear in workers]
    publications, (top, epoch) = await page(workers[-1].broker)
    assert [offset for offset, _ in publications] == list(range(1, count + 1))
    assert top == count
    expected = [positioned(PublishResult(offset, epoch), payload) for offset, payload in publications]
    assert all(each == expected for each in heard)
    for index in range(len(workers)):
        own = [payload for _, payload in publications if payload.startswith(b"%d-" % index)]
        assert own == [b"%d-%d" % (index, number) for number in range(60)]


async def test_channels_have_nothing_in_common(broker: Broker) -> None:
    """Offsets, epochs and publications are of one channel, whatever its name looks like."""
    names = ["room", "room1", "{room}", "{}", "r*om", "a b", "räume", "room:x"]
    epochs = [await fill(broker, number, channel=name) for number, name in enumerate(names, 1)]
    assert len(set(epochs)) == len(names)
    for number, name in enumerate(names, 1):
        assert await kept(broker, name) == list(range(1, number + 1))


async def test_workers_share_one_history(workers: list[Ear]) -> None:
    """What one worker appends, each of them reads, in the same epoch."""
    epoch = await fill(workers[0].broker, 2)
    assert await fill(workers[-1].broker, 1) == epoch
    pages = [await page(ear.broker) for ear in workers]
    assert all(each == ([(1, b"1"), (2, b"2"), (3, b"1")], (3, epoch)) for each in pages)


async def test_without_history_nothing_is_kept(ear: Ear) -> None:
    """The payload is delivered as it is, and the result has no position."""
    assert await ear.broker.append("room", b"hi", history=None) == PublishResult()
    assert await ear.hears(1) == [("room", b"hi")]
    publications, position = await page(ear.broker)
    assert publications == []
    assert position.offset == 0


async def test_a_publication_without_history_leaves_the_position_alone(ear: Ear) -> None:
    """With and without history in one channel: offsets count what is kept."""
    epoch = await fill(ear.broker, 1)
    await ear.broker.append("room", b"not kept", history=None)
    await ear.broker.publish("room", b"nor this")
    assert (await ear.broker.append("room", b"2", history=KEPT))[:2] == (2, epoch)
    heard = [payload for _, payload in await ear.hears(4)]
    assert heard == [b"p1:%s:1" % epoch.encode(), b"not kept", b"nor this", b"p2:%s:2" % epoch.encode()]


async def test_the_history_outlives_the_broker_that_wrote_it(place: Backend) -> None:
    """A new start finds what there was."""
    broker = place.make()
    await broker.start(lambda channel, payload: None)
    epoch = await fill(broker, 2)
    await broker.stop()
    await broker.start(lambda channel, payload: None)
    assert await page(broker) == ([(1, b"1"), (2, b"2")], (2, epoch))
    await broker.stop()


# What is kept, and for how long


async def test_only_the_newest_are_kept(broker: Broker) -> None:
    """Exactly `size`; the offsets go on."""
    await fill(broker, 10, HistoryOptions(size=3, ttl=60, meta_ttl=600))
    publications, position = await page(broker)
    assert publications == [(8, b"8"), (9, b"9"), (10, b"10")]
    assert position.offset == 10


async def test_the_size_is_that_of_the_last_publication(broker: Broker) -> None:
    """A smaller size trims, a larger one brings nothing back."""
    await fill(broker, 5)
    await fill(broker, 1, HistoryOptions(size=2, ttl=60, meta_ttl=600))
    assert await kept(broker) == [5, 6]
    await fill(broker, 1)
    assert await kept(broker) == [5, 6, 7]


async def test_publications_end_and_the_position_stays(broker: Broker) -> None:
    """After `ttl` nothing is left of them but the offset, and the next one follows it."""
    brief = HistoryOptions(size=10, ttl=0.05, meta_ttl=600)
    epoch = await fill(broker, 3, brief)
    await asyncio.sleep(0.1)
    assert await page(broker) == ([], (3, epoch))
    assert await broker.append("room", b"4", history=KEPT) == (4, epoch, False)
    assert await page(broker) == ([(4, b"4")], (4, epoch))


async def test_each_publication_prolongs_the_others(broker: Broker) -> None:
    """`ttl` counts from the last one, for all."""
    await fill(broker, 1, HistoryOptions(size=10, ttl=0.05, meta_ttl=600))
    await fill(broker, 1)
    await asyncio.sleep(0.1)
    offsets = await kept(broker)
    assert offsets in ([1, 2], [2])  # the second, if the machine was slow
    await fill(broker, 1, HistoryOptions(size=10, ttl=0.05, meta_ttl=600))
    await asyncio.sleep(0.1)
    assert await kept(broker) == []


async def test_a_forgotten_position_begins_anew(broker: Broker) -> None:
    """After `meta_ttl` the channel has another epoch, and nothing is left of the old one, even what is not due yet."""
    short = HistoryOptions(size=10, ttl=60, meta_ttl=0.05)
    old = await fill(broker, 3, short)
    await asyncio.sleep(0.1)
    publications, position = await page(broker)
    assert (publications, position.offset) == ([], 0)
    assert position.epoch != old
    assert await broker.append("room", b"new", history=KEPT) == (1, position.epoch, False)
    assert await page(broker) == ([(1, b"new")], (1, position.epoch))


async def test_a_publication_after_a_forgotten_position(broker: Broker) -> None:
    """The first of the new epoch does not meet those of the old one."""
    old = await fill(broker, 3, HistoryOptions(size=10, ttl=60, meta_ttl=0.05))
    await asyncio.sleep(0.1)
    result = await broker.append("room", b"new", history=KEPT)
    assert result.offset == 1
    assert result.epoch != old
    assert await page(broker) == ([(1, b"new")], result[:2])


async def test_a_read_fixes_the_epoch(broker: Broker) -> None:
    """Who subscribes to an empty channel has a position that the first publication continues."""
    publications, position = await page(broker)
    assert publications == []
    assert position.offset == 0
    assert await page(broker) == ([], position)
    assert await fill(broker, 1) == position.epoch


async def test_a_read_prolongs_the_position(broker: Broker) -> None:
    """Positions are known as long as somebody asks."""
    epoch = await fill(broker, 1, HistoryOptions(size=10, ttl=60, meta_ttl=1))
    await page(broker, meta_ttl=60)
    await asyncio.sleep(1.1)
    assert (await page(broker)).position == StreamPosition(1, epoch)


async def test_removed_history(broker: Broker) -> None:
    """Publications go, offsets and epoch go on; removing nothing does nothing."""
    await broker.remove_history("room")
    epoch = await fill(broker, 3)
    await broker.remove_history("room")
    assert await page(broker) == ([], (3, epoch))
    assert await broker.append("room", b"4", history=KEPT) == (4, epoch, False)
    assert await kept(broker) == [4]


async def test_renewed_history(ear: Ear) -> None:
    """It goes on under another epoch of the same origin, once, whoever asks for it."""
    broker = ear.broker
    await broker.renew_history("room", "nobody's")
    epoch = await fill(broker, 3)
    await broker.renew_history("room", "another")
    assert (await page(broker)).position == (3, epoch)
    await asyncio.gather(*(broker.renew_history("room", epoch) for _ in range(3)))
    publications, (offset, renewed) = await page(broker)
    assert ([number for number, _ in publications], offset) == ([1, 2, 3], 3)
    assert renewed != epoch
    assert renewed.startswith(f"{epoch}.")
    result = await broker.append("room", b"4", history=KEPT)
    assert result == (4, renewed, False)
    assert (await ear.hears(4))[-1] == positioned(result, b"4")
    await broker.renew_history("room", renewed)
    last = (await page(broker)).position.epoch
    assert last not in (epoch, renewed)
    assert len(last) == len(renewed)


# Reading a part


@pytest.mark.parametrize(
    ("since", "forward", "reverse"),
    [
        (None, [4, 5, 6, 7, 8], [8, 7, 6, 5, 4]),
        (0, [4, 5, 6, 7, 8], []),
        (2, [4, 5, 6, 7, 8], []),
        (4, [5, 6, 7, 8], []),
        (5, [6, 7, 8], [4]),
        (7, [8], [6, 5, 4]),
        (8, [], [7, 6, 5, 4]),
        (9, [], [8, 7, 6, 5, 4]),
        (2**53 + 1, [], [8, 7, 6, 5, 4]),
        (2**64, [], [8, 7, 6, 5, 4]),
    ],
)
async def test_parts_of_the_history(broker: Broker, since: int | None, forward: list[int], reverse: list[int]) -> None:
    """After an offset, or before it and newest first, with any limit; the position is always that of the end."""
    epoch = await fill(broker, 8, HistoryOptions(size=5, ttl=60, meta_ttl=60))
    for backward, expected in ((False, forward), (True, reverse)):
        assert await kept(broker, since=since, reverse=backward) == expected
        for limit in (0, 1, 2, 5, 100):
            assert await kept(broker, since=since, reverse=backward, limit=limit) == expected[:limit]
        assert (await page(broker, since=since, reverse=backward)).position == (8, epoch)


async def test_parts_of_nothing(broker: Broker) -> None:
    """A channel without publications has none after any offset."""
    for since in (None, 0, 1, 2**64 - 1):
        assert await kept(broker, since=since) == []
        assert await kept(broker, since=since, reverse=True) == []


# Idempotency and versions


async def test_the_same_key_publishes_once(workers: list[Ear]) -> None:
    """Whichever worker repeats it, there is one delivery, one entry and one result, which says so."""
    first, last = workers[0], workers[-1]
    result = await first.broker.append("room", b"1", history=KEPT, idempotency_key="key")
    again = await last.broker.append("room", b"other", history=KEPT, idempotency_key="key")
    assert again == result._replace(suppressed=True)
    second = await last.broker.append("room", b"2", history=KEPT, idempotency_key="key 2")
    assert second.offset == 2
    for ear in workers:
        assert await ear.hears(2) == [positioned(result, b"1"), positioned(second, b"2")]
    await asyncio.sleep(SILENCE)
    assert len(first.heard) == 2
    assert await kept(first.broker) == [1, 2]


async def test_the_same_key_at_the_same_time(workers: list[Ear]) -> None:
    """Of those that are sent together, one is published."""
    calls = [ear.broker.append("room", b"x", history=KEPT, idempotency_key="key") for ear in workers for _ in range(10)]
    results = [await call for call in calls]
    assert {result.offset for result in results} == {1}
    assert sum(not result.suppressed for result in results) == 1
    assert await kept(workers[0].broker) == [1]


async def test_the_same_key_without_history(ear: Ear) -> None:
    """There is one delivery, and no position in either result."""
    assert await ear.broker.append("room", b"1", history=None, idempotency_key="key") == PublishResult()
    assert await ear.broker.append("room", b"2", history=None, idempotency_key="key") == (0, "", True)
    assert await ear.broker.append("room", b"3", history=None, idempotency_key="k2") == PublishResult()
    assert await ear.hears(2) == [("room", b"1"), ("room", b"3")]
    await asyncio.sleep(SILENCE)
    assert len(ear.heard) == 2


async def test_a_key_with_and_without_history(broker: Broker) -> None:
    """It is the same key, whatever is kept: the first result comes back."""
    result = await broker.append("room", b"1", history=KEPT, idempotency_key="kept")
    assert await broker.append("room", b"1", history=None, idempotency_key="kept") == (1, result.epoch, True)
    await broker.append("room", b"1", history=None, idempotency_key="not kept")
    assert await broker.append("room", b"1", history=KEPT, idempotency_key="not kept") == (0, "", True)


async def test_a_key_belongs_to_its_channel(broker: Broker) -> None:
    """Another channel has its own."""
    await broker.append("room", b"1", history=KEPT, idempotency_key="key")
    assert not (await broker.append("other", b"1", history=KEPT, idempotency_key="key")).suppressed


async def test_a_key_survives_the_publication(broker: Broker) -> None:
    """Its result is kept also when the publication is gone."""
    result = await broker.append("room", b"1", history=KEPT, idempotency_key="key")
    await broker.remove_history("room")
    assert (await broker.append("room", b"1", history=KEPT, idempotency_key="key")) == (*result[:2], True)


async def test_only_newer_versions_are_published(ear: Ear) -> None:
    """Same and older ones are not; the result is where the channel is."""
    epoch = ""
    for version, offset, suppressed in ((5, 1, False), (5, 1, True), (4, 1, True), (6, 2, False), (10, 3, False)):
        result = await ear.broker.append("room", b"%d" % version, history=KEPT, version=version)
        epoch = epoch or result.epoch
        assert result == (offset, epoch, suppressed)
    assert (await ear.broker.append("room", b"any", history=KEPT)).offset == 4
    assert (await ear.broker.append("room", b"9", history=KEPT, version=9)) == (4, epoch, True)
    assert [payload for _, payload in (await page(ear.broker)).publications] == [b"5", b"6", b"10", b"any"]
    assert len(await ear.hears(4)) == 4


async def test_versions_have_64_bits(broker: Broker) -> None:
    """Two that are the same for a float are two."""
    top = 2**64 - 1
    for version, suppressed in ((9, False), (2**53 + 1, False), (2**53, True), (top - 1, False), (top, False)):
        assert (await broker.append("room", b"x", history=KEPT, version=version)).suppressed == suppressed
    assert (await broker.append("room", b"x", history=KEPT, version=top)).suppressed


async def test_versions_begin_anew_with_their_epoch(broker: Broker) -> None:
    """Versions of another epoch are new, however small; without an epoch they are compared to whatever was last."""
    for version, epoch, suppressed in (
        (5, "a", False),
        (5, "a", True),
        (1, "b", False),
        (1, "b", True),
        (5, "a", False),
        (5, "", True),
        (6, "", False),
        (1, "a", False),
    ):
        result = await broker.append("room", b"x", history=KEPT, version=version, version_epoch=epoch)
        assert result.suppressed == suppressed, (version, epoch)


async def test_a_version_below_one_is_none(broker: Broker) -> None:
    """It suppresses nothing and is not remembered: -1 has more characters than 5, and would pass for newer."""
    for version in (-1, 0, 5, -1, 6):
        assert not (await broker.append("room", b"x", history=KEPT, version=version)).suppressed, version


async def test_a_suppressed_version_leaves_its_key_free(broker: Broker) -> None:
    """What was not published for its version has no result under its key."""
    await broker.append("room", b"5", history=KEPT, version=5)
    assert (await broker.append("room", b"4", history=KEPT, version=4, idempotency_key="key")).suppressed
    assert await broker.append("room", b"6", history=KEPT, version=6, idempotency_key="key") == (
        2,
        (await page(broker)).position.epoch,
        False,
    )


# Payloads and ends


@pytest.mark.parametrize(
    "payload",
    [b"", bytes(range(256)), b"p1:x:j{}", "grün".encode(), b"x" * 1_000_000],
    ids=["empty", "binary", "like a position", "utf-8", "1 MB"],
)
async def test_payloads_arrive_and_stay_as_they_are(ear: Ear, payload: bytes) -> None:
    """Any bytes, behind the position and in the history."""
    result = await ear.broker.append("room", payload, history=KEPT)
    assert await ear.hears(1) == [positioned(result, payload)]
    assert (await page(ear.broker)).publications == [(1, payload)]


async def test_a_stopped_broker_refuses(place: Backend) -> None:
    """Nothing is kept, read or removed outside of start and stop, and nobody has to wait for the refusal."""
    broker = place.make()
    calls = (
        lambda: broker.append("room", b"hi", history=KEPT),
        lambda: broker.append("room", b"hi", history=None),
        lambda: broker.read_history("room", since=None, limit=-1, reverse=False, meta_ttl=60),
        lambda: broker.remove_history("room"),
        lambda: broker.renew_history("room", "epoch"),
    )
    for call in calls:
        with pytest.raises(BrokerUnavailable, match="the broker is stopped"):
            await call()
        call()
