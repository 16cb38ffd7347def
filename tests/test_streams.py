"""Positions: what gets lost on the way is read from the history, in its place, or those who rely on it are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from hub import streams
from hub.errors import BrokerUnavailable
from hub.hub import HubCore
from hub.types import StreamPosition
from tests.support.positions import (
    CHANNEL,
    KEPT,
    FakeRedisFeed,
    Feed,
    Hearer,
    MemoryFeed,
    RedisFeed,
    say,
    worker,
)
from tests.support.waiting import eventually


@pytest.fixture(params=["memory", "fakeredis", "valkey"])
def feed(request: pytest.FixtureRequest) -> Iterator[Feed]:
    if request.param == "memory":
        place: Feed = MemoryFeed()
    elif request.param == "fakeredis":
        place = FakeRedisFeed()
    else:
        place = RedisFeed.at(request.getfixturevalue("redis_server").url)
    yield place
    place.close()


@pytest.fixture
async def hub(feed: Feed) -> AsyncIterator[HubCore]:
    async with worker(feed.broker) as core:
        await eventually(lambda: core.ready)
        yield core


async def hears(hearer: Hearer, *numbers: int) -> None:
    """Exactly these so far, in this order."""
    await eventually(lambda: len(hearer.heard) >= len(numbers))
    assert hearer.heard == [*numbers]


# On every backend


async def test_a_gap_is_healed_in_its_place(hub: HubCore, feed: Feed) -> None:
    """What the feed lost is delivered before what shows that it is missing, to everybody, once."""
    ann, bob = await Hearer(hub).join(), await Hearer(hub).listen()
    await say(hub, 1)
    await feed.lose(2)
    await feed.lose(3)
    await say(hub, 4, 5)
    await hears(ann, 1, 2, 3, 4, 5)
    await hears(bob, 1, 2, 3, 4, 5)
    assert ann.offsets == [1, 2, 3, 4, 5]
    assert (ann.told, hub.streams.healed, hub.streams.lost.total) == (0, 1, 0)


async def test_what_cannot_be_healed_is_told(hub: HubCore, feed: Feed, caplog: pytest.LogCaptureFixture) -> None:
    """Positioned subscribers are told and hear no more; others go on with what is left. It is counted, logged once."""
    ann, bob = await Hearer(hub).join(), await Hearer(hub).listen()
    await say(hub, 1)
    await hears(ann, 1)
    with caplog.at_level(logging.ERROR, "hub.streams"):
        await feed.lose(2)
        await feed.trim()
        await feed.lose(3)
        await say(hub, 4)
        await hears(bob, 1, 3, 4)
        await feed.lose(5)
        await feed.trim()
        await say(hub, 6)
        await hears(bob, 1, 3, 4, 6)
    assert (ann.told, ann.heard) == (1, [1])
    assert hub.streams.lost.total == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"1 channels lost publications that cannot be recovered (the last: '{CHANNEL}')"
    ]


async def test_a_wiped_history_is_another_one(hub: HubCore, feed: Feed) -> None:
    """After FLUSHALL offsets begin anew: positioned subscribers are told, others hear all of the new history, once."""
    ann, bob = await Hearer(hub).join(), await Hearer(hub).listen()
    await say(hub, 1, 2, 3)
    await hears(bob, 1, 2, 3)
    await feed.wipe()
    await say(hub, 4, 5, 6, 7, 8)
    await hears(bob, 1, 2, 3, 4, 5, 6, 7, 8)
    assert (ann.told, ann.heard) == (1, [1, 2, 3])
    carl = await Hearer(hub).join()
    await say(hub, 9)
    await hears(carl, 9)
    assert carl.offsets == [6]


async def test_who_stood_in_a_wiped_history_does_not_recover(hub: HubCore, feed: Feed) -> None:
    """Offsets of another epoch say nothing; who stands in the new one recovers from its beginning."""
    ann = await Hearer(hub).join()
    await say(hub, 1, 2)
    await hears(ann, 1, 2)
    old = ann.position
    await feed.wipe()
    await say(hub, 3, 4, 5)
    await eventually(lambda: ann.told)
    back = await Hearer(hub).join(old)
    assert back.result is not None
    assert (back.result.recovered, back.heard) == (False, [])
    assert back.result.epoch != old.epoch
    for offset, missed in ((0, [3, 4, 5]), (2, [5]), (3, [])):
        again = await Hearer(hub).join(StreamPosition(offset, back.result.epoch))
        assert again.result is not None
        assert again.result.recovered
        assert again.heard == missed


async def test_a_gap_of_the_feed_heals_all_channels(hub: HubCore, feed: Feed) -> None:
    """After a reconnect all histories are read, also those where nothing has come since."""
    ann, bob = await Hearer(hub).join(), await Hearer(hub).listen()
    await say(hub, 1)
    await feed.lose(2)
    await feed.lose(3)
    await hears(ann, 1)
    hub.on_gap()
    await hears(ann, 1, 2, 3)
    await hears(bob, 1, 2, 3)
    await say(hub, 4)
    await hears(ann, 1, 2, 3, 4)


@pytest.mark.parametrize("fresh", [0, 1, 2, 4])
async def test_a_history_that_has_lost_its_end(hub: HubCore, feed: Feed, fresh: int) -> None:
    """Others took the places of the lost: positioned subscribers are told, others hear what is new, nothing twice."""
    ann, bob = await Hearer(hub).join(), await Hearer(hub).listen()
    await say(hub, 1, 2, 3, 4)
    await hears(ann, 1, 2, 3, 4)
    before = ann.position
    hub.on_loss()
    await feed.fall_back(2)
    for number in range(5, 5 + fresh):
        await feed.lose(number)
    hub.on_gap(moved=True)
    await eventually(lambda: ann.told)
    await say(hub, 9)
    await hears(bob, 1, 2, 3, 4, *range(5, 5 + fresh), 9)
    assert (ann.told, ann.heard) == (1, [1, 2, 3, 4])
    assert hub.streams.renewed.total == hub.streams.lost.total == 1
    for offset in (1, 2, 3, 4):
        back = await Hearer(hub).join(StreamPosition(offset, before.epoch))
        assert back.result is not None
        assert (back.result.recovered, back.heard) == (False, [])
    again = await Hearer(hub).join(StreamPosition(2, back.result.epoch))
    assert again.result is not None
    assert (again.result.recovered, again.heard) == (True, [*range(5, 5 + fresh), 9])


async def test_nothing_is_believed_between_a_loss_and_its_end(hub: HubCore, feed: Feed) -> None:
    """What comes first over a new feed may follow on what is lost, though its number fits: it waits for a read."""
    ann = await Hearer(hub).join()
    await say(hub, 1, 2)
    await hears(ann, 1, 2)
    hub.on_loss()
    await feed.fall_back(1)
    await feed.lose(3)
    await say(hub, 4)
    joining = asyncio.create_task(Hearer(hub).join(ann.position))
    with pytest.raises(TimeoutError):
        await eventually(lambda: len(ann.heard) > 2 or joining.done(), 0.1)
    hub.on_gap(moved=True)
    back = await joining
    await eventually(lambda: ann.told)
    assert back.result is not None
    assert not back.result.recovered
    assert ann.heard == [1, 2]


async def test_a_server_that_has_everything(hub: HubCore, feed: Feed) -> None:
    """Another one, and yet nobody notices: what was missed is filled in."""
    ann = await Hearer(hub).join()
    await say(hub, 1, 2)
    await hears(ann, 1, 2)
    hub.on_loss()
    await feed.lose(3)
    hub.on_gap(moved=True)
    await hears(ann, 1, 2, 3)
    assert (ann.told, hub.streams.renewed.total) == (0, 0)


@pytest.mark.parametrize("moved", [True, False])
async def test_a_proof_that_was_trimmed(moved: bool) -> None:
    """The publication at the position has made room for others: another server proves nothing so."""
    feed, options = MemoryFeed(), KEPT.model_copy(update={"history_size": 4})
    async with worker(feed.broker, options) as hub:
        ann = await Hearer(hub).join()
        await say(hub, 1, 2, 3, 4)
        await hears(ann, 1, 2, 3, 4)
        hub.on_loss()
        if moved:
            await feed.fall_back(2)
        feed.broker.deaf = True
        await say(hub, *range(5, 11) if moved else range(5, 9))
        feed.broker.deaf = False
        hub.on_gap(moved=moved)
        if moved:
            await eventually(lambda: ann.told)
        else:
            await hears(ann, *range(1, 9))
        assert hub.streams.renewed.total == moved


LARGE = KEPT.model_copy(update={"history_size": 1000})


async def lose_many(feed: MemoryFeed, hub: HubCore, *numbers: int) -> None:
    feed.broker.deaf = True
    await say(hub, *numbers)
    feed.broker.deaf = False


async def test_what_was_missed_is_read_in_parts() -> None:
    """However much it is, no single answer takes long; the same for what a client wants to recover."""
    feed = MemoryFeed()
    async with worker(feed.broker, LARGE, recovery_limit=250) as hub:
        ann = await Hearer(hub).join()
        await lose_many(feed, hub, *range(1, 331))
        hub.on_gap()
        await hears(ann, *range(1, 331))
        assert feed.broker.reads == [None, 0, 100, 200, 300]
        late = await Hearer(hub).join(StreamPosition(100, ann.position.epoch))
        assert late.heard == [*range(101, 331)]
    async with worker(feed.broker, LARGE, recovery_limit=250) as other:
        del feed.broker.reads[:]
        await Hearer(other).join(ann.position)
        assert feed.broker.reads == [None, 231, 131]


@pytest.mark.parametrize("fault", ["wiped", "continued"])
async def test_what_happens_between_two_parts(fault: str) -> None:
    """Parts of two histories are none of one; what is published meanwhile is in the last part, and heard once."""
    feed = MemoryFeed()
    async with worker(feed.broker, LARGE, recovery_limit=250) as hub:
        script = Script(hub, feed)
        ann = await Hearer(hub).join()
        await lose_many(feed, hub, *range(1, 131))
        script.broker.slow = True
        hub.on_gap()
        await script.settle()
        if fault == "wiped":
            await feed.wipe()
        await say(hub, *range(131, 141))
        script.broker.slow = False
        script.broker.answer()
        if fault == "wiped":
            await eventually(lambda: ann.told)
            assert ann.heard == []
        else:
            await hears(ann, *range(1, 141))


async def test_a_feed_that_does_not_come_back(hub: HubCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who joins meanwhile is refused after a while."""
    await Hearer(hub).join()
    hub.on_loss()
    monkeypatch.setattr(streams, "PATIENCE", 0.05)
    with pytest.raises(BrokerUnavailable, match="the history cannot be read"):
        await Hearer(hub).join()


async def test_the_latest_publication(feed: Feed) -> None:
    """`cache` mode: who comes back gets the latest, unless it has it; whoever comes with auto_cache_recover too."""
    options = KEPT.model_copy(update={"force_recovery_mode": "cache", "auto_cache_recover": True})
    async with worker(feed.broker, options) as hub:
        await eventually(lambda: hub.ready)
        fresh = await Hearer(hub).join()
        assert fresh.result is not None
        assert (fresh.result.recovered, fresh.heard) == (False, [])
        await say(hub, 1, 2, 3)
        await hears(fresh, 1, 2, 3)
        for since, latest in ((None, [3]), (StreamPosition(1, fresh.result.epoch), [3]), (fresh.position, [])):
            back = await Hearer(hub).join(since)
            assert back.result is not None
            assert (back.result.recovered, back.heard) == (True, latest)


# When reads are slow, early, or fail


class Script:
    """A worker on a broker that does as it is told."""

    def __init__(self, hub: HubCore, feed: MemoryFeed) -> None:
        self.hub, self.feed, self.broker = hub, feed, feed.broker

    async def settle(self) -> None:
        """All that is about to happen by itself has happened."""
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    feed = MemoryFeed()
    async with worker(feed.broker) as hub:
        yield Script(hub, feed)


async def test_arrivals_during_a_read_keep_their_order(script: Script) -> None:
    """They wait for what is being read, and are not written twice if the read had them already."""
    ann = await Hearer(script.hub).join()
    await say(script.hub, 1)
    await script.settle()
    script.broker.slow = True
    await script.feed.lose(2)
    await say(script.hub, 3)
    await script.settle()
    assert script.broker.asked == 1
    await say(script.hub, 4, 5)
    await script.settle()
    assert ann.heard == [1]
    script.broker.answer()
    await script.settle()
    assert ann.heard == [1, 2, 3, 4, 5]
    assert (script.broker.asked, ann.told) == (0, 0)


async def test_a_gap_during_a_read_is_healed_by_another(script: Script) -> None:
    """What got lost after the history was looked at is not in what was read."""
    ann = await Hearer(script.hub).join()
    script.broker.slow = True
    await script.feed.lose(1)
    await say(script.hub, 2)
    await script.settle()
    await script.feed.lose(3)
    await say(script.hub, 4)
    await script.settle()
    script.broker.answer()
    await script.settle()
    assert (ann.heard, script.broker.asked) == ([1, 2], 1)
    script.broker.answer()
    await script.settle()
    assert (ann.heard, script.broker.asked) == ([1, 2, 3, 4], 0)


async def test_a_gap_of_the_feed_during_a_read_causes_another(script: Script) -> None:
    """The read may have come too early for what was missed; nothing on the channel would show it."""
    ann = await Hearer(script.hub).join()
    script.broker.slow = True
    script.hub.on_gap()
    await script.settle()
    await script.feed.lose(1)
    script.hub.on_gap()
    script.hub.on_gap()
    await script.settle()
    assert script.broker.asked == 1
    script.broker.answer()
    await script.settle()
    script.broker.answer()
    await script.settle()
    assert (ann.heard, script.broker.asked) == ([1], 0)


async def test_an_old_publication_cannot_disturb_a_new_history(script: Script) -> None:
    """One that was on its way when everything was wiped is dropped, and the reading ends."""
    ann, bob = await Hearer(script.hub).join(), await Hearer(script.hub).listen()
    await say(script.hub, 1)
    await script.settle()
    script.broker.slow = True
    script.hub.on_gap()
    await script.feed.lose(2)
    await say(script.hub, 3)
    await script.feed.wipe()
    await say(script.hub, 4)
    await script.settle()
    for _ in range(5):
        if script.broker.asked:
            script.broker.answer()
        await script.settle()
    assert script.broker.asked == 0
    assert bob.heard[-1] == 4
    assert sorted(set(bob.heard)) == bob.heard
    assert (ann.told, ann.heard) == (1, [1])
    await say(script.hub, 5)
    await script.settle()
    assert bob.heard[-2:] == [4, 5]


async def test_a_join_in_the_middle_of_a_tick(script: Script) -> None:
    """What was delivered in the same tick before the join is in its result, what comes after it is a push."""
    ann = await Hearer(script.hub).join()
    await say(script.hub, 1, 2)
    await script.settle()
    assert ann.result is not None
    start = StreamPosition(0, ann.result.epoch)
    for number in (3, 4):
        script.hub.deliver(CHANNEL, b"p%d:%b:j\0%d" % (number, start.epoch.encode(), number))
    joining = Hearer(script.hub)
    await joining.join(start)  # the channel is live: there is no other turn of the event loop in it
    assert ann.heard == [1, 2, 3, 4]
    assert joining.heard == [1, 2, 3, 4]
    script.hub.deliver(CHANNEL, b"p5:%b:j\0005" % start.epoch.encode())
    await script.settle()
    assert ann.heard == joining.heard == [1, 2, 3, 4, 5]


async def test_a_removed_history_is_not_recovered(script: Script) -> None:
    """What was removed from the history is gone for those who come back; who listens misses nothing."""
    ann = await Hearer(script.hub).join()
    await say(script.hub, 1, 2)
    await script.settle()
    assert ann.result is not None
    await script.broker.remove_history(CHANNEL)
    script.hub.streams.forget(CHANNEL)
    script.hub.streams.forget("kept:nobody")
    await say(script.hub, 3)
    await script.settle()
    assert (ann.heard, ann.told) == ([1, 2, 3], 0)
    for offset, recovered, missed in ((1, False, []), (2, True, [3]), (3, True, [])):
        back = await Hearer(script.hub).join(StreamPosition(offset, ann.result.epoch))
        assert back.result is not None
        assert (back.result.recovered, back.heard) == (recovered, missed)


async def test_what_comes_while_a_history_is_removed_is_the_latest() -> None:
    """Published behind the removal and ahead of the order to forget: the worker forgets it, and Redis has it."""
    feed = MemoryFeed()
    options = KEPT.model_copy(update={"force_recovery_mode": "cache", "auto_cache_recover": True})
    async with worker(feed.broker, options) as hub:
        await Hearer(hub).join()
        await say(hub, 1)
        await feed.broker.remove_history(CHANNEL)
        await say(hub, 2)
        await asyncio.sleep(0.01)
        hub.streams.forget(CHANNEL)
        newcomer = await Hearer(hub).join()
        assert newcomer.result is not None
        assert (newcomer.result.recovered, newcomer.heard) == (True, [2])


async def test_an_empty_history_is_read_once_for_its_latest() -> None:
    """However many come: that there is none stays true until something is published."""
    feed = MemoryFeed()
    options = KEPT.model_copy(update={"force_recovery_mode": "cache", "auto_cache_recover": True})
    async with worker(feed.broker, options) as hub:
        ann = await Hearer(hub).join()
        await say(hub, 1)
        await hears(ann, 1)
        await feed.broker.remove_history(CHANNEL)
        hub.streams.forget(CHANNEL)
        before = len(feed.broker.reads)
        for _ in range(3):
            newcomer = await Hearer(hub).join()
            assert newcomer.result is not None
            assert (newcomer.result.recovered, newcomer.heard) == (False, [])
        assert len(feed.broker.reads) == before + 1


async def test_a_wipe_ends_a_recovery(script: Script) -> None:
    """Nobody knows of the wipe yet when the client comes, and the worker must read to answer: it reads but once."""
    ann = await Hearer(script.hub).join()
    await say(script.hub, *range(1, 151))
    await script.settle()
    assert ann.result is not None
    await script.feed.wipe()
    back = await Hearer(script.hub).join(StreamPosition(20, ann.result.epoch))
    assert back.result is not None
    assert (back.result.recovered, back.heard) == (False, [])
    assert script.broker.reads[1:] == [0, None]


@pytest.mark.parametrize("mode", ["stream", "cache"])
async def test_a_client_may_be_ahead_of_its_worker(mode: str) -> None:
    """It comes from a worker that has heard more: what this one lacks is read before the client is judged."""
    feed = MemoryFeed()
    options = KEPT.model_copy(update={"force_recovery_mode": mode})
    async with worker(feed.broker, options) as hub:
        ann = await Hearer(hub).join()
        await say(hub, 1)
        await feed.lose(2)
        assert ann.result is not None
        back = await Hearer(hub).join(StreamPosition(2, ann.result.epoch))
        assert back.result is not None
        assert (back.result.recovered, back.heard) == (True, [])
        await say(hub, 3)
        await hears(ann, 1, 2, 3)
        await hears(back, 3)
