"""Positions over time: reads that are tried again, looks at quiet channels, the end of what is kept."""

from __future__ import annotations

import asyncio

import pytest

from hub import streams
from hub.errors import BrokerUnavailable
from hub.hub import HubCore
from hub.namespaces import ChannelOptions
from hub.protocol.stream import RING_BYTES
from hub.streams import CHECK_INTERVAL, RETRY
from hub.types import StreamPosition
from tests.support.clock import in_virtual_time
from tests.support.positions import CHANNEL, Hearer, MemoryFeed, say, worker


@in_virtual_time
async def test_failed_reads_are_tried_again() -> None:
    """While the broker is away what comes is held back, and a channel is tried at the same pace, however many ask."""
    feed = MemoryFeed()
    async with worker(feed.broker) as hub:
        ann = await Hearer(hub).join()
        feed.broker.failing = True
        await feed.lose(1)
        await say(hub, 2)
        await asyncio.sleep(RETRY / 2)
        before = len(feed.broker.reads)
        for _ in range(10):
            with pytest.raises(BrokerUnavailable):
                await Hearer(hub).join()
        assert len(feed.broker.reads) == before + 10
        await asyncio.sleep(10 * RETRY)
        assert len(feed.broker.reads) == before + 20
        feed.broker.failing = False
        await asyncio.sleep(RETRY)
        assert (ann.heard, ann.told) == ([1, 2], 0)
        assert len(feed.broker.reads) == before + 21


@in_virtual_time
async def test_not_all_channels_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a gap, nor when those reads have failed; what is asked for is read ahead of the others."""
    monkeypatch.setattr(streams, "READS_AT_ONCE", 3)
    feed = MemoryFeed()
    async with worker(feed.broker) as hub:
        options = hub.namespaces.of_room(CHANNEL).history
        assert options is not None
        channels = [hub.registry.reserve(f"kept:{number}") for number in range(10)]
        for channel in channels:
            await hub.streams.locate(channel, options)
        feed.broker.slow = True
        hub.on_loss()
        hub.on_gap()
        await asyncio.sleep(0)
        assert feed.broker.asked == 3
        asked_for = asyncio.create_task(hub.streams.locate(channels[9], options))
        await asyncio.sleep(0.01)
        assert feed.broker.asked == 4
        for _ in range(4):
            feed.broker.answer(BrokerUnavailable("away"))
        await asyncio.sleep(0.01)
        assert isinstance(asked_for.exception(), BrokerUnavailable)
        assert feed.broker.asked == 3
        await asyncio.sleep(2 * RETRY)
        assert feed.broker.asked == 3
        while feed.broker.asked:
            feed.broker.answer()
            await asyncio.sleep(0.01)
            assert feed.broker.asked <= 3
        assert [channel.stream is not None and channel.stream.live for channel in channels] == [True] * 10


@in_virtual_time
async def test_nobody_is_served_while_the_history_is_away() -> None:
    """The first subscribers of a channel fail together, with one read, and leave nothing behind."""
    feed = MemoryFeed()
    async with worker(feed.broker) as hub:
        feed.broker.failing = True
        outcomes = await asyncio.gather(*(Hearer(hub).join() for _ in range(10)), return_exceptions=True)
        assert all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes)
        assert (len(feed.broker.reads), hub.registry.channels) == (1, {})
        await asyncio.sleep(10 * RETRY)
        assert len(feed.broker.reads) == 1


@in_virtual_time
async def test_a_fault_in_a_read_is_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong, the channel is not deaf for ever."""
    feed = MemoryFeed()
    async with worker(feed.broker) as hub:
        ann = await Hearer(hub).join()
        feed.broker.slow = True
        await feed.lose(1)
        hub.on_gap()
        await asyncio.sleep(0)
        feed.broker.slow = False
        feed.broker.answer(RuntimeError("no such fault is known"))
        await asyncio.sleep(2 * RETRY)
        assert ann.heard == [1]
    assert [record.getMessage() for record in caplog.records] == [
        f"unexpected fault while reading the history of {CHANNEL!r}"
    ]


@in_virtual_time
async def test_a_last_publication_lost_on_a_quiet_channel() -> None:
    """Nothing follows that would show the gap: it is found by the periodic look at quiet channels."""
    feed = MemoryFeed()
    async with worker(feed.broker) as hub:
        ann = await Hearer(hub).join()
        await say(hub, 1)
        await feed.lose(2)
        await asyncio.sleep(2 * CHECK_INTERVAL + 1)
        assert ann.heard == [1, 2]
        reads, checks = len(feed.broker.reads), feed.broker.checks
        await asyncio.sleep(2 * CHECK_INTERVAL)
        assert (len(feed.broker.reads), feed.broker.checks) == (reads, checks + 1)


@in_virtual_time
async def test_busy_channels_are_not_looked_at() -> None:
    """What arrives shows gaps by itself."""
    feed = MemoryFeed()
    async with worker(feed.broker) as hub:
        ann = await Hearer(hub).join()
        for number in range(20):
            await say(hub, number)
            await asyncio.sleep(CHECK_INTERVAL / 2)
        assert (len(ann.heard), feed.broker.checks) == (20, 0)


@in_virtual_time
async def test_the_look_survives_what_it_finds(caplog: pytest.LogCaptureFixture) -> None:
    """A broker that is away, or faulty, at the time of a look is asked again at the next."""
    feed = MemoryFeed()
    async with worker(feed.broker) as hub:
        ann = await Hearer(hub).join()
        await feed.lose(1)
        await asyncio.sleep(CHECK_INTERVAL + 1)
        feed.broker.failing = True
        await asyncio.sleep(CHECK_INTERVAL)
        feed.broker.failing, read = False, feed.broker.read_history
        feed.broker.read_history = None  # type: ignore[assignment]
        await asyncio.sleep(CHECK_INTERVAL)
        feed.broker.read_history = read  # type: ignore[method-assign]
        assert ann.heard == []
        await asyncio.sleep(CHECK_INTERVAL)
        assert ann.heard == [1]
    assert [record.getMessage() for record in caplog.records] == ["unexpected fault while checking positions"]


@in_virtual_time
async def test_publications_end_with_their_ttl() -> None:
    """Who comes back later than that recovers only if it has missed nothing, in this worker and in a fresh one."""
    feed = MemoryFeed()
    options = ChannelOptions(history_size=100, history_ttl=60.0, force_recovery=True)
    async with worker(feed.broker, options) as hub:
        ann = await Hearer(hub).join()
        await say(hub, 1, 2)
        await asyncio.sleep(30)
        assert (await Hearer(hub).join(StreamPosition(0, ann.position.epoch))).heard == [1, 2]
        await asyncio.sleep(31)
        for core in (hub, HubCore(feed.broker, namespaces=hub.namespaces)):
            for since, recovered in ((1, False), (2, True)):
                back = await Hearer(core).join(StreamPosition(since, ann.position.epoch))
                assert back.result is not None
                assert (back.result.recovered, back.heard) == (recovered, [])


@in_virtual_time
async def test_the_position_of_a_channel_with_subscribers_stays() -> None:
    """However short the time for which the namespace keeps it: nobody is told of a loss because nothing was said."""
    feed = MemoryFeed()
    options = ChannelOptions(history_size=10, history_ttl=5.0, history_meta_ttl=5.0, force_recovery=True)
    async with worker(feed.broker, options) as hub:
        ann = await Hearer(hub).join()
        for number in (1, 2, 3):
            await asyncio.sleep(2 * CHECK_INTERVAL - 1)
            await say(hub, number)
        await asyncio.sleep(10 * CHECK_INTERVAL)
        await say(hub, 4)
        await asyncio.sleep(1)
        assert (ann.heard, ann.told) == ([1, 2, 3, 4], 0)


@in_virtual_time
async def test_quiet_channels_give_their_memory_back() -> None:
    """What a first read, or a recovery, has fetched beyond what a channel may remember; and all of it after the ttl."""
    feed = MemoryFeed()
    options = ChannelOptions(history_size=100, history_ttl=200.0, force_recovery=True)
    async with worker(feed.broker, options, max_message_size=RING_BYTES) as hub:
        for _ in range(8):
            await hub.publish(CHANNEL, "x" * (RING_BYTES // 4))
        ann = await Hearer(hub).join()
        stream = hub.registry.channels[CHANNEL].stream
        assert stream is not None
        assert len(stream.ring) == 8
        await asyncio.sleep(2 * CHECK_INTERVAL + 1)
        assert 0 < sum(len(publication.data) for publication in stream.ring) <= RING_BYTES
        back = await Hearer(hub).join(StreamPosition(0, ann.position.epoch))
        assert back.result is not None
        assert back.result.recovered
        await asyncio.sleep(200.0 + CHECK_INTERVAL)
        assert (len(stream.ring), stream.last) == (0, None)


@in_virtual_time
async def test_a_stop_ends_what_is_under_way(caplog: pytest.LogCaptureFixture) -> None:
    """Reads and their repetitions end with the hub, and it can be started again."""
    feed = MemoryFeed()
    async with worker(feed.broker) as hub:
        await Hearer(hub).join()
        feed.broker.failing = True
        hub.on_gap()
        await asyncio.sleep(RETRY / 2)
        feed.broker.slow, feed.broker.failing = True, False
        hub.on_gap()
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    before = len(feed.broker.reads)
    await asyncio.sleep(10 * RETRY)
    assert len(feed.broker.reads) == before
    feed.broker.slow = False
    async with hub:
        await Hearer(hub).join()
    assert caplog.records == []
