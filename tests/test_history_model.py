"""Random uses of a history, on each broker, against a model of a page that has no clock and no optimisation."""

from __future__ import annotations

import random
from typing import Any

import pytest

from hub.broker import Broker
from hub.types import HistoryOptions
from tests.support.backends import BACKENDS, Backend, backend
from tests.support.relay import Ear

CHANNELS = ("room", "other")
STEPS = 400


class Stream:
    """The history of one channel as the contract describes it."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.top = 0
        self.kept: list[tuple[int, bytes]] = []
        self.version: tuple[int, str] | None = None

    def is_old(self, version: int, epoch: str) -> bool:
        return self.version is not None and epoch in ("", self.version[1]) and version <= self.version[0]


class Model:
    """All channels. Epochs are numbered, 0 is none."""

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        self.results: dict[tuple[str, str], tuple[int, int]] = {}
        # (channel, offset, epoch, payload), in order.
        self.sent: list[tuple[str, int, int, bytes]] = []
        self.epochs = 0

    def stream(self, channel: str) -> Stream:
        if channel not in self.streams:
            self.epochs += 1
            self.streams[channel] = Stream(self.epochs)
        return self.streams[channel]

    def append(
        self, channel: str, payload: bytes, size: int, key: str, version: int, version_epoch: str
    ) -> tuple[int, int, bool]:
        if key and (channel, key) in self.results:
            return (*self.results[channel, key], True)
        result = (0, 0)
        if size:
            stream = self.stream(channel)
            if version and stream.is_old(version, version_epoch):
                return stream.top, stream.epoch, True
            if version:
                stream.version = version, version_epoch
            stream.top += 1
            stream.kept = [*stream.kept, (stream.top, payload)][-size:]
            result = stream.top, stream.epoch
        if key:
            self.results[channel, key] = result
        self.sent.append((channel, *result, payload))
        return (*result, False)

    def read(
        self, channel: str, since: int | None, limit: int, reverse: bool
    ) -> tuple[list[tuple[int, bytes]], tuple[int, int]]:
        stream = self.stream(channel)
        kept = stream.kept[::-1] if reverse else stream.kept
        if since is not None:
            kept = [entry for entry in kept if (entry[0] < since if reverse else entry[0] > since)]
        return kept if limit < 0 else kept[:limit], (stream.top, stream.epoch)


class Run:
    """One sequence of random steps, on a broker and on the model."""

    def __init__(self, seed: int, broker: Broker, place: Backend) -> None:
        self.chance = random.Random(seed)
        self.broker, self.place = broker, place
        self.model = Model()
        # The numbers of the model for the epochs of the broker.
        self.numbers: dict[str, int] = {"": 0}

    def number(self, epoch: str) -> int:
        """A new epoch gets the next number, so that one that comes back or is shared is seen."""
        return self.numbers.setdefault(epoch, len(self.numbers))

    async def step(self) -> None:
        channel = self.chance.choice(CHANNELS)
        kind = self.chance.random()
        if kind < 0.6:
            await self.append(channel)
        elif kind < 0.95:
            await self.read(channel)
        elif kind < 0.98 or self.place.client is None:
            await self.broker.remove_history(channel)
            self.model.stream(channel).kept = []
            await self.read(channel)
        else:
            self.place.forget(channel)
            self.model.streams.pop(channel, None)

    async def append(self, channel: str) -> None:
        some = self.chance
        payload = some.randbytes(some.choice((0, 1, 20)))
        size = some.choice((0, 1, 3, 3, 10))
        key = some.choice(("", "", "", str(some.randrange(40))))
        version, epoch = some.choice(((0, ""), (0, ""), (some.randrange(1, 30), some.choice(("", "a", "b")))))
        result = await self.broker.append(
            channel,
            payload,
            history=HistoryOptions(size=size, ttl=60, meta_ttl=600) if size else None,
            idempotency_key=key,
            version=version,
            version_epoch=epoch,
        )
        expected = self.model.append(channel, payload, size, key, version, epoch)
        assert (result.offset, self.number(result.epoch), result.suppressed) == expected

    async def read(self, channel: str) -> None:
        some = self.chance
        since: Any = some.choice((None, 0, some.randrange(100), self.model.stream(channel).top - some.randrange(-2, 5)))
        since = None if since is None else max(0, since)
        limit, reverse = some.choice((-1, 0, 1, 2, 5, 20)), some.random() < 0.5
        page = await self.broker.read_history(channel, since=since, limit=limit, reverse=reverse, meta_ttl=600)
        offset, epoch = page.position
        expected = self.model.read(channel, since, limit, reverse)
        assert (page.publications, (offset, self.number(epoch))) == expected, (since, limit, reverse)

    def delivery(self, channel: str, offset: int, epoch: int, payload: bytes) -> tuple[str, bytes]:
        """What is heard of a publication of the model."""
        names = {number: name for name, number in self.numbers.items()}
        return channel, b"p%d:%s:%s" % (offset, names[epoch].encode(), payload) if offset else payload


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", BACKENDS)
async def test_random_uses(name: str, seed: int, request: pytest.FixtureRequest) -> None:
    """Every result, every page and every delivery is that of the model, in any order of calls."""
    place = backend(name, request)
    ear = await Ear(place.make()).start()
    for channel in CHANNELS:
        await ear.broker.subscribe(channel)
    run = Run(seed, ear.broker, place)
    for _ in range(STEPS):
        await run.step()
    assert run.model.sent
    heard = await ear.hears(len(run.model.sent))
    assert heard == [run.delivery(*sent) for sent in run.model.sent]
    await ear.broker.stop()
