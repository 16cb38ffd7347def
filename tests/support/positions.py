"""One worker's hub whose feed loses what it is told to lose, and subscribers that keep what they are written."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import fakeredis
import redis

from hub.authority import Grant
from hub.broker import Broker
from hub.errors import BrokerUnavailable
from hub.hub import HubCore
from hub.memory import MemoryBroker
from hub.memory_history import MemoryHistory
from hub.namespaces import ChannelOptions, Namespaces
from hub.protocol import envelope
from hub.protocol.commands import Subscribe
from hub.protocol.forms import RAW
from hub.protocol.frames import split
from hub.protocol.replies import SubscribeResult
from hub.pubsub import RedisBroker
from hub.registry import KeepsAll
from hub.subscription import plan, subscribe
from hub.types import DataKind, HistoryPage, Publication, StreamPosition

__all__ = [
    "CHANNEL",
    "KEPT",
    "FakeRedisFeed",
    "Feed",
    "Hearer",
    "MemoryFeed",
    "RedisFeed",
    "ScriptedBroker",
    "say",
    "worker",
]

CHANNEL = "kept:room"
KEPT = ChannelOptions(history_size=100, history_ttl=300.0, force_recovery=True)


class ScriptedBroker(MemoryBroker):
    """A memory broker that can be deaf, and that answers reads when and how the test wants."""

    def __init__(self) -> None:
        super().__init__()
        # What is published now is kept, but does not arrive.
        self.deaf = False
        # Reads fail.
        self.failing = False
        # Reads wait for `answer`.
        self.slow = False
        # Reads take a few turns of the event loop if this is set.
        self.dice: random.Random | None = None
        # `since` of each read; and of the checks, which ask for nothing but the position, how many there were.
        self.reads: list[int | None] = []
        self.checks = 0
        self._waiting: list[tuple[asyncio.Future[HistoryPage], asyncio.Future[HistoryPage]]] = []

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[Any]:
        if not self.deaf:
            return super().publish(channel, payload)
        lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        lost.set_result(None)
        return lost

    def read_history(
        self, channel: str, *, since: int | None, limit: int, reverse: bool, meta_ttl: float
    ) -> asyncio.Future[HistoryPage]:
        if limit == 0:
            self.checks += 1
        else:
            self.reads.append(since)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[HistoryPage] = loop.create_future()
        if self.failing:
            answer.set_exception(BrokerUnavailable("away"))
            return answer
        page = super().read_history(channel, since=since, limit=limit, reverse=reverse, meta_ttl=meta_ttl)
        if self.slow:
            self._waiting.append((answer, page))
            return answer
        if self.dice is not None:
            self._pass_on(answer, page, self.dice.randrange(6))
            return answer
        return page

    def _pass_on(self, answer: asyncio.Future[HistoryPage], page: asyncio.Future[HistoryPage], turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._pass_on, answer, page, turns - 1)
        elif not answer.done():
            answer.set_result(page.result())

    @property
    def asked(self) -> int:
        """Reads that wait for `answer`."""
        return len(self._waiting)

    def answer(self, fault: Exception | None = None) -> None:
        """Let the oldest read end; what it says is from the moment of the call."""
        answer, page = self._waiting.pop(0)
        if fault is not None:
            answer.set_exception(fault)
        else:
            answer.set_result(page.result())


class Feed(Protocol):
    """A broker, and what may happen to its history behind its back."""

    broker: Broker

    async def lose(self, number: int) -> None:
        """Publish into the history alone, as if the way to this worker had swallowed it."""

    async def trim(self) -> None:
        """All publications are gone, the position is not."""

    async def wipe(self) -> None:
        """Everything is gone."""

    async def fall_back(self, count: int) -> None:
        """The last ones were never there, as after a failover to a server that lacks them."""

    def close(self) -> None: ...


class MemoryFeed:
    """Implements `Feed` in the process."""

    def __init__(self) -> None:
        self.broker = ScriptedBroker()

    async def lose(self, number: int) -> None:
        self.broker.deaf = True
        await self.broker.append(CHANNEL, _payload(number), history=KEPT.history)
        self.broker.deaf = False

    async def trim(self) -> None:
        await self.broker.remove_history(CHANNEL)

    async def wipe(self) -> None:
        self.broker._history = MemoryHistory()

    async def fall_back(self, count: int) -> None:
        stream = self.broker._history._streams[CHANNEL]
        stream.offset -= count
        for _ in range(count):
            stream.entries.pop()

    def close(self) -> None:
        pass


class RedisFeed:
    """Implements `Feed` with a server of the test's own."""

    def __init__(self, client: redis.Redis, broker: Broker) -> None:
        self.client, self.broker = client, broker

    @classmethod
    def at(cls, url: str) -> RedisFeed:
        return cls(redis.Redis.from_url(url), RedisBroker(url))

    async def lose(self, number: int) -> None:
        offset = self.client.hincrby(f"hub:meta:{{{CHANNEL}}}", "s", 1)
        self.client.xadd(f"hub:stream:{{{CHANNEL}}}", {"d": _payload(number)}, id=f"{offset}-0")

    async def trim(self) -> None:
        self.client.delete(f"hub:stream:{{{CHANNEL}}}")

    async def wipe(self) -> None:
        self.client.flushall()

    async def fall_back(self, count: int) -> None:
        top = int(self.client.hincrby(f"hub:meta:{{{CHANNEL}}}", "s", -count))
        # A stream refuses ids that are not above its last one, so it is written anew.
        key = f"hub:stream:{{{CHANNEL}}}"
        entries: Any = self.client.xrange(key)
        self.client.delete(key)
        for name, fields in entries[: len(entries) - count]:
            self.client.xadd(key, fields, id=name)
        assert top >= 0

    def close(self) -> None:
        self.client.close()


class FakeRedisFeed(RedisFeed):
    """The same with a server that is not one."""

    def __init__(self) -> None:
        server = fakeredis.FakeServer()
        super().__init__(
            fakeredis.FakeRedis(server=server),
            RedisBroker(fakeredis.FakeAsyncRedis(server=server)),
        )


def _payload(number: int) -> bytes:
    return envelope.encode(Publication(b"%d" % number, DataKind.JSON))


class Hearer(KeepsAll):
    """A subscriber of `CHANNEL`. Publications are numbers; `heard` has those of the subscribe result too."""

    id = b""

    def __init__(self, hub: HubCore) -> None:
        self._hub = hub
        self.write: Callable[[bytes], object] = self._write
        self.heard: list[int] = []
        self.offsets: list[int] = []
        # The result of the subscription; None in a raw room.
        self.result: SubscribeResult | None = None
        # How often it was told that something is lost; it leaves then.
        self.told = 0

    @property
    def wire(self) -> Hearer:
        return self

    def _write(self, chunk: bytes) -> None:
        for _, payload in split(chunk):
            said = json.loads(payload)
            if isinstance(said, dict):
                self._take(said["push"]["pub"])
            else:
                self.heard.append(said)

    def on_insufficient(self, channel: str) -> None:
        self.told += 1
        self._hub.unsubscribe(self, channel)

    @property
    def position(self) -> StreamPosition:
        """Where it stands."""
        assert self.result is not None
        return StreamPosition(self.offsets[-1] if self.offsets else self.result.offset, self.result.epoch)

    def _take(self, publication: dict[str, Any]) -> None:
        self.heard.append(publication["data"])
        self.offsets.append(publication["offset"])

    def _begin(self, result: SubscribeResult) -> None:
        self.result = result
        for publication in result.publications:
            self._take(json.loads(bytes(publication)))

    async def listen(self) -> Hearer:
        """As a raw client, without a position."""
        await self._hub.subscribe(self, CHANNEL, RAW)
        return self

    async def join(self, since: StreamPosition | None = None) -> Hearer:
        """As a protocol client, which recovers from `since`."""
        offset, epoch = since or (0, "")
        wish = Subscribe(CHANNEL, recover=since is not None, offset=offset, epoch=epoch)
        options = self._hub.namespaces.of_room(CHANNEL)
        planned = plan(wish, options, lambda what: True)
        await subscribe(self._hub, self, CHANNEL, planned, Grant(options=options), self._begin)
        return self


@asynccontextmanager
async def worker(broker: Broker, options: ChannelOptions = KEPT, **limits: Any) -> AsyncIterator[HubCore]:
    """A started hub with the namespace `kept`."""
    hub = HubCore(broker, namespaces=Namespaces(named={"kept": options}), **limits)
    async with hub:
        yield hub


async def say(hub: HubCore, *numbers: int) -> None:
    """Publish them, one after the other."""
    for number in numbers:
        await hub.publish(CHANNEL, number)
