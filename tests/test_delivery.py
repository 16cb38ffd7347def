"""The writes of a worker: one a turn for each client, or for what has gathered where publications come thick."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from hub import delivery
from hub.delivery import GATHER, Delivery
from hub.protocol.forms import RAW, Event, RawForm
from hub.protocol.frames import text_frame
from hub.registry import Channel, KeepsAll, Registry
from hub.types import Publication
from tests.support.waiting import eventually

pytestmark = pytest.mark.both_loops

# Seconds of the processor that writing to the slow client takes.
SLOW = 0.05


class Client(KeepsAll):
    """A subscriber that costs processor time; `writes` has the bytes, `times` when they came."""

    id = b""
    waits = False

    def __init__(self, takes: float) -> None:
        self._takes = takes
        self.writes: list[bytes] = []
        self.times: list[float] = []

    @property
    def wire(self) -> Client:
        return self

    def write(self, chunk: bytes) -> None:
        self.times.append(time.monotonic())
        self.writes.append(chunk)
        end = time.thread_time() + self._takes
        while time.thread_time() < end:
            pass

    def on_insufficient(self, channel: str) -> None:
        raise AssertionError


@pytest.fixture(autouse=True)
def _one_is_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "CROWD", 1)


async def started(registry: Registry | None = None) -> Delivery:
    """In the running loop."""
    running = Delivery(registry or Registry())
    running.start(asyncio.get_running_loop())
    return running


def heard_by(client: Client, name: str = "room") -> Channel:
    """A channel with one subscriber."""
    registry = Registry()
    registry.subscribe(client, name)
    return registry.channels[name]


def emit(running: Delivery, channel: Channel, *texts: str) -> None:
    for text in texts:
        running.emit(channel, Publication(text.encode()))


def frames(*texts: str) -> bytes:
    return b"".join(text_frame(text.encode()) for text in texts)


async def test_publications_gather_after_some_that_came_together() -> None:
    """The first of them waits for a share of what the last writes took, and goes out with those that come meanwhile."""
    running, client = await started(), Client(SLOW)
    channel = heard_by(client)
    emit(running, channel, "1", "2")
    await asyncio.sleep(0)
    assert client.writes == [frames("1", "2")]
    begun = time.monotonic()
    emit(running, channel, "3")
    await asyncio.sleep(0)
    emit(running, channel, "4")
    assert len(client.writes) == 1
    await asyncio.sleep(2 * GATHER * SLOW)
    assert client.writes[1:] == [frames("3", "4")]
    assert client.times[1] - begun > GATHER * SLOW * 0.9


async def test_a_single_publication_waits_for_nobody() -> None:
    """Who publishes now and then is never held up, however many listen."""
    running, client = await started(), Client(SLOW)
    channel = heard_by(client)
    for text in ("1", "2", "3"):
        emit(running, channel, text)
        await asyncio.sleep(0)
    assert client.writes == [frames(text) for text in ("1", "2", "3")]


async def test_few_clients_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to gain, and nothing depends on how long something took."""
    monkeypatch.setattr(delivery, "CROWD", 2)
    running, client = await started(), Client(SLOW)
    channel = heard_by(client)
    emit(running, channel, "1", "2")
    await asyncio.sleep(0)
    emit(running, channel, "3")
    await asyncio.sleep(0)
    assert client.writes == [frames("1", "2"), frames("3")]


async def test_after_a_quiet_time_none_waits() -> None:
    """The next publication after it is written in its own turn."""
    running, client = await started(), Client(SLOW)
    channel = heard_by(client)
    emit(running, channel, "1", "2")
    await asyncio.sleep(0)
    await asyncio.sleep(1.5 * SLOW)
    emit(running, channel, "3")
    await asyncio.sleep(0)
    assert client.writes[1:] == [frames("3")]


async def test_a_newcomer_while_publications_gather() -> None:
    """Gets nothing of what was delivered before, and the others get it once."""
    running, old, new = await started(), Client(SLOW), Client(0)
    channel = heard_by(old)
    emit(running, channel, "1", "2")
    await asyncio.sleep(0)
    emit(running, channel, "3")
    running.write(channel)
    channel.groups[RAW][new] = new
    emit(running, channel, "4")
    await asyncio.sleep(2 * GATHER * SLOW)
    assert old.writes[1:] == [frames("3"), frames("4")]
    assert new.writes == [frames("4")]


async def test_publications_of_all_channels_gather_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the worker wrote in the turn counts, and another channel waits too."""
    monkeypatch.setattr(delivery, "GATHER", 1.0)
    running, client = await started(), Client(SLOW)
    first, second = heard_by(client, "first"), heard_by(client, "second")
    emit(running, first, "1", "2")
    emit(running, second, "3")
    await asyncio.sleep(0)
    emit(running, second, "4")
    await asyncio.sleep(0)
    assert len(client.writes) == 2
    await asyncio.sleep(3 * SLOW)
    assert client.times[2] - client.times[0] > 4 * SLOW * 0.9


async def test_another_loop_does_not_inherit_what_was_pending() -> None:
    """A hub whose loop ended with something to write, delivers in the next loop; it was deaf there."""
    running, client = Delivery(Registry()), Client(SLOW)
    channel = heard_by(client)

    async def last_turn() -> None:
        running.start(asyncio.get_running_loop())
        emit(running, channel, "1", "2")
        await asyncio.sleep(0)
        emit(running, channel, "3")

    await asyncio.to_thread(asyncio.run, last_turn())
    running.start(asyncio.get_running_loop())
    emit(running, channel, "4")
    emit(running, heard_by(client, "other"), "5")
    await eventually(lambda: len(client.writes) == 3)
    assert client.writes[1:] == [frames("4"), frames("5")]


# Clients in several channels


@dataclass(frozen=True)
class Broken(RawForm):
    """A form with a fault."""

    def frames(self, channel: str, events: Sequence[Event], base: Publication | None) -> list[bytes]:
        raise RuntimeError("no form")


async def test_a_client_in_several_channels_gets_all_of_a_turn_in_one_write() -> None:
    registry = Registry()
    running, one, both = await started(registry), Client(0), Client(0)
    for client, name in ((one, "a"), (both, "a"), (both, "b")):
        registry.subscribe(client, name)
    a, b = registry.channels["a"], registry.channels["b"]
    emit(running, a, "1")
    emit(running, b, "2")
    emit(running, a, "3")
    await asyncio.sleep(0)
    assert (one.writes, both.writes) == ([frames("1", "3")], [frames("1", "3", "2")])
    emit(running, b, "4")
    await eventually(lambda: len(both.writes) == 2)
    assert both.writes[1] == frames("4")
    assert (running.messages, running.bytes) == (6, len(frames("1", "3")) * 2 + len(frames("2", "4")))


async def test_what_may_be_left_out_does_not_wait_for_other_channels() -> None:
    """It says of which channel it is, so it is handed over by itself; what excludes somebody is too."""
    registry = Registry()
    running, client = await started(registry), Client(0)
    registry.subscribe(client, "kept")
    registry.subscribe(client, "lossy", RawForm("drop_oldest"))
    registry.subscribe(client, "excluding")
    for name in ("kept", "lossy", "excluding"):
        running.emit(registry.channels[name], Publication(name.encode(), exclude=b"x" if name == "excluding" else b""))
    await asyncio.sleep(0)
    assert client.writes == [frames("lossy"), frames("excluding"), frames("kept")]


class Waiting(Client):
    """It is not taken at once."""

    waits = True


@pytest.mark.parametrize(("kind", "length"), [(Waiting, 1), (Client, delivery.JOINED // 2)])
async def test_what_waits_is_shared(kind: type[Client], length: int) -> None:
    """A joined chunk is a copy for each client; where many are slow, or much is written, that would be their memory."""
    registry = Registry()
    running, one, other = await started(registry), kind(0), kind(0)
    for client, name in ((one, "a"), (one, "b"), (other, "a"), (other, "b")):
        registry.subscribe(client, name)
    for name in "ab":
        emit(running, registry.channels[name], name * length)
    await asyncio.sleep(0)
    assert one.writes == [frames("a" * length), frames("b" * length)]
    assert all(mine is yours for mine, yours in zip(one.writes, other.writes, strict=True))


class Raising(Client):
    """A wire with a fault."""

    def write(self, chunk: bytes) -> None:
        raise RuntimeError("no transport")


async def test_a_fault_of_one_client_costs_the_others_nothing() -> None:
    registry = Registry()
    running, broken, client = await started(registry), Raising(0), Client(0)
    for each, name in ((broken, "a"), (broken, "b"), (client, "a"), (client, "b")):
        registry.subscribe(each, name)
    for name in "ab":
        emit(running, registry.channels[name], name)
    await asyncio.sleep(0)
    assert (client.writes, running.failed) == ([frames("a", "b")], 2)


async def test_a_fault_in_one_channel_costs_the_others_nothing() -> None:
    registry = Registry()
    running, client = await started(registry), Client(0)
    registry.subscribe(client, "a")
    registry.subscribe(client, "b", Broken())
    registry.subscribe(client, "c")
    for name in "abc":
        emit(running, registry.channels[name], name)
    await asyncio.sleep(0)
    assert (client.writes, running.failed) == ([frames("a", "c")], 1)
