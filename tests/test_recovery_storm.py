"""Many clients that come back at once, and clients that come back while publications pour in."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from hub.embedded import EmbeddedServer
from hub.hub import HubCore
from hub.pubsub import RedisBroker
from hub.types import StreamPosition
from tests.support.positions import CHANNEL, KEPT, Hearer, MemoryFeed, ScriptedBroker, worker
from tests.support.waiting import eventually

CROWD = 1000
SAID = 50


async def publish(hub: HubCore, *numbers: int) -> StreamPosition:
    """The position after them."""
    results = [await hub.publish(CHANNEL, number) for number in numbers]
    return StreamPosition(results[-1].offset, results[-1].epoch)


async def come_back(hub: HubCore, top: StreamPosition) -> list[Hearer]:
    """A crowd at once, each from another position; publication number n has offset n."""
    positions = [StreamPosition(number % (SAID + 1), top.epoch) for number in range(CROWD)]
    crowd = await asyncio.gather(*(Hearer(hub).join(since) for since in positions))
    for since, hearer in zip(positions, crowd, strict=True):
        assert hearer.result is not None
        assert hearer.result.recovered
        assert hearer.result.offset == since.offset
        assert hearer.heard == list(range(since.offset + 1, top.offset + 1))
    return crowd


# A counting broker


async def test_a_crowd_costs_one_read() -> None:
    """A fresh worker reads the history once for all clients of a channel, wherever they stood."""
    broker = ScriptedBroker()
    async with worker(broker) as hub:
        top = await publish(hub, *range(1, SAID + 1))
        broker.dice = random.Random(0)
        crowd = await come_back(hub, top)
        assert broker.reads == [None]
        await publish(hub, SAID + 1)
        await eventually(lambda: all(hearer.heard[-1:] == [SAID + 1] for hearer in crowd))


async def test_a_crowd_costs_a_live_worker_nothing() -> None:
    """Where the channel is live, what clients missed is remembered."""
    broker = ScriptedBroker()
    async with worker(broker) as hub:
        await Hearer(hub).join()
        top = await publish(hub, *range(1, SAID + 1))
        await asyncio.sleep(0)
        reads = len(broker.reads)
        await come_back(hub, top)
        assert len(broker.reads) == reads == 1


async def test_a_crowd_that_cannot_recover_costs_two_reads() -> None:
    """Positions before what is kept or may be recovered, after the end, or of other histories: judged together."""
    broker = ScriptedBroker()
    options = KEPT.model_copy(update={"history_size": 40})
    async with worker(broker, options, recovery_limit=30) as hub:
        top = await publish(hub, *range(1, SAID + 1))
        bad = [(0, top.epoch), (5, top.epoch), (19, top.epoch), (SAID + 1, top.epoch), (20, "other"), (0, "other")]
        good = [(20, top.epoch), (SAID, top.epoch), (30, "")]
        crowd = [StreamPosition(*position) for position in (bad + good) * 100]
        came = await asyncio.gather(*(Hearer(hub).join(since) for since in crowd))
        for since, hearer in zip(crowd, came, strict=True):
            assert hearer.result is not None
            assert hearer.result.recovered == (tuple(since) in good), since
            assert hearer.result.was_recovering
            assert hearer.position == top, since
        # The second is for those who stand beyond the end: there might be more by now. It begins with the last one.
        assert broker.reads == [None, SAID - 1]


async def test_a_crowd_that_missed_more_than_is_remembered_costs_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the worker has forgotten of a live channel is read for all together."""
    monkeypatch.setattr("hub.protocol.stream.RING_BYTES", 20)
    broker = ScriptedBroker()
    async with worker(broker) as hub:
        await Hearer(hub).join()
        top = await publish(hub, *range(1, SAID + 1))
        await asyncio.sleep(0)
        del broker.reads[:]
        await come_back(hub, top)
        assert broker.reads == [0]


# A real server counts


@pytest.fixture
def counts(redis_server: EmbeddedServer) -> Any:
    """Calls of a command since the last `config_resetstat`."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def calls(client: redis.Redis, *commands: str) -> int:
    stats: Any = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{command}", {}).get("calls", 0) for command in commands)


@pytest.fixture
async def before(redis_server: EmbeddedServer) -> AsyncIterator[StreamPosition]:
    """What another worker has published: the position."""
    async with worker(RedisBroker(redis_server.url)) as hub:
        await eventually(lambda: hub.ready)
        yield await publish(hub, *range(1, SAID + 1))


async def test_a_crowd_costs_a_real_server_one_read(
    redis_server: EmbeddedServer, before: StreamPosition, counts: redis.Redis
) -> None:
    """As `INFO commandstats` has it: one range of the stream, one SUBSCRIBE of the channel."""
    async with worker(RedisBroker(redis_server.url)) as hub:
        await eventually(lambda: hub.ready)
        counts.config_resetstat()
        await come_back(hub, before)
        assert calls(counts, "xrange", "xrevrange") == 1
        assert calls(counts, "subscribe", "ssubscribe") == 1
        await come_back(hub, before)
        assert calls(counts, "xrange", "xrevrange") == 1


# While publications pour in


class Pour:
    """Random publications, losses, reads that take their time, and clients that come and go."""

    def __init__(self, hub: HubCore, feed: MemoryFeed, seed: int) -> None:
        self._hub, self._feed, self._dice = hub, feed, random.Random(seed)
        self._feed.broker.dice = self._dice
        self.said = 0
        self.epoch = ""
        # Each client's subscriptions: where it stood at first, and all that it has heard since.
        self.clients: list[tuple[int, list[int]]] = []
        self._present: list[tuple[int, Hearer]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            await self._dice.choice(
                (self._say, self._say, self._lose, self._come, self._come, self._return, self._wait)
            )()
        await asyncio.gather(*self._tasks)
        self._hub.on_gap()
        await eventually(self._at_rest)

    def _at_rest(self) -> bool:
        channel = self._hub.registry.channels[CHANNEL]
        stream = channel.stream
        arrived = stream is not None and stream.live and stream.offset == self.said and not self._feed.broker.deaf
        return arrived and not channel.pending

    async def _say(self) -> None:
        self.said += 1
        self.epoch = (await self._hub.publish(CHANNEL, self.said)).epoch

    async def _lose(self) -> None:
        self.said += 1
        await self._feed.lose(self.said)

    async def _wait(self) -> None:
        for _ in range(self._dice.randrange(4)):
            await asyncio.sleep(0)

    async def _come(self) -> None:
        """A new client, somewhere in what was said."""
        since = self._dice.randint(max(0, self.said - 20), self.said)
        self.clients.append((since, []))
        self._tasks.append(asyncio.create_task(self._join(len(self.clients) - 1, since)))

    async def _return(self) -> None:
        """One that is there leaves, and comes back to where it was at the same moment."""
        if self._present:
            index, hearer = self._present.pop(self._dice.randrange(len(self._present)))
            self._hub.remove(hearer)
            at = hearer.position.offset
            self._tasks.append(asyncio.create_task(self._join(index, at)))

    async def _join(self, index: int, since: int) -> None:
        hearer = Hearer(self._hub)
        hearer.heard = self.clients[index][1]
        await hearer.join(StreamPosition(since, self.epoch))
        assert hearer.result is not None
        assert hearer.result.recovered
        assert hearer.told == 0
        self._present.append((index, hearer))


@pytest.mark.parametrize("seed", range(60))
async def test_recovery_while_publications_pour_in(seed: int) -> None:
    """Whatever comes in between, each client hears all from its position to the end: each once, and in order."""
    feed = MemoryFeed()
    options = KEPT.model_copy(update={"history_size": 1000})
    async with worker(feed.broker, options, recovery_limit=1000) as hub:
        anchor = await Hearer(hub).join()
        pour = Pour(hub, feed, seed)
        await pour._say()
        await pour.run(150)
        assert anchor.heard == list(range(1, pour.said + 1))
        for since, heard in pour.clients:
            assert heard == list(range(since + 1, pour.said + 1)), since
        assert pour.clients
        assert hub.streams.lost.total == 0


class Chaos:
    """The same, and the history is trimmed and wiped now and then."""

    def __init__(self, hub: HubCore, feed: MemoryFeed, seed: int) -> None:
        self._hub, self._feed, self._dice = hub, feed, random.Random(seed)
        self._feed.broker.dice = self._dice
        self._said = 0
        # What stands where in which history.
        self.truth: dict[StreamPosition, int] = {}
        self.clients: list[Hearer] = []

    async def run(self, steps: int) -> None:
        moves = {self._say: 12, self._lose: 3, self._come: 6, self._turn: 3, self._feed.trim: 1, self._feed.wipe: 1}
        tasks = []
        for _ in range(steps):
            (move,) = self._dice.choices([*moves], [*moves.values()])
            if move == self._come:
                tasks.append(asyncio.create_task(self._come()))
            else:
                await move()
        await asyncio.gather(*tasks)
        await self._say()
        self._hub.on_gap()
        await eventually(self._at_rest)

    def _at_rest(self) -> bool:
        channel = self._hub.registry.channels[CHANNEL]
        stream = channel.stream
        current = stream is not None and stream.live and self.truth.get(stream.position) == self._said
        return current and not channel.pending

    async def _say(self) -> None:
        self._said += 1
        result = await self._hub.publish(CHANNEL, self._said)
        self.truth[StreamPosition(result.offset, result.epoch)] = self._said

    async def _lose(self) -> None:
        self._feed.broker.deaf = True
        await self._say()
        self._feed.broker.deaf = False

    async def _turn(self) -> None:
        await asyncio.sleep(0)

    async def _come(self) -> None:
        since = self._dice.choice([*self.truth][-15:] or [StreamPosition(0, "")])
        hearer = await Hearer(self._hub).join(since)
        assert hearer.result is not None
        if not hearer.result.recovered:
            assert hearer.heard == []
        self.clients.append(hearer)


@pytest.mark.parametrize("seed", range(60))
async def test_never_anything_wrong(seed: int) -> None:
    """Whatever is lost: a client hears one history without a gap until it is told, a raw one nothing twice."""
    feed = MemoryFeed()
    options = KEPT.model_copy(update={"history_size": 20})
    async with worker(feed.broker, options, recovery_limit=10) as hub:
        raw = await Hearer(hub).listen()
        chaos = Chaos(hub, feed, seed)
        await chaos.run(200)
        assert raw.heard == sorted(set(raw.heard))
        last = max(chaos.truth.values())
        assert raw.heard[-1] == last
        for hearer in chaos.clients:
            result = hearer.result
            assert result is not None
            expected = range(result.offset + 1, result.offset + 1 + len(hearer.heard))
            assert hearer.offsets == list(expected)
            assert hearer.heard == [chaos.truth[StreamPosition(offset, result.epoch)] for offset in expected]
            assert hearer.told or chaos.truth[hearer.position] == last
