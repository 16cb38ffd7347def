"""The broker in memory: one worker, its control messages and its clock."""

from __future__ import annotations

import asyncio

import pytest

from hub.broker import Broker
from hub.errors import BrokerUnavailable
from hub.memory import MemoryBroker
from hub.types import HistoryOptions
from tests.support.clock import in_virtual_time
from tests.support.waiting import eventually


class Told:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def on_loss(self) -> None:
        raise AssertionError("memory loses nothing")

    def on_gap(self, *, moved: bool) -> None:
        raise AssertionError("memory has no gaps")

    def on_control(self, payload: bytes) -> None:
        self.heard.append(payload)


def test_it_is_a_broker() -> None:
    """All of the contract, for the type checker and for `repr`."""
    broker: Broker = MemoryBroker()
    assert repr(broker) == "<MemoryBroker memory not ready>"
    assert int(broker.node, 16) >= 0
    assert MemoryBroker().node != broker.node


async def test_all_workers_are_this_one() -> None:
    """What is told to everybody or to this node is heard once, after the call has returned; others do not exist."""
    broker, told = MemoryBroker(), Told()
    await broker.start(lambda channel, payload: None, told)
    everybody, this, other = broker.broadcast(b"1"), broker.tell(broker.node, b"2"), broker.tell("other", b"3")
    assert told.heard == []
    assert [await everybody, await this, await other] == [1, 1, 0]
    await eventually(lambda: told.heard == [b"1", b"2"])
    await broker.stop()


async def test_nobody_is_told_after_the_stop() -> None:
    """Neither what was under way nor what comes later; without a listener nobody is told at all."""
    broker, told = MemoryBroker(), Told()
    await broker.start(lambda channel, payload: None, told)
    broker.broadcast(b"1")
    await broker.stop()
    with pytest.raises(BrokerUnavailable, match="the broker is stopped"):
        await broker.broadcast(b"2")
    await broker.start(lambda channel, payload: None)
    assert await broker.broadcast(b"3") == 1
    await asyncio.sleep(0)
    assert told.heard == []
    await broker.stop()


async def test_presence_is_told_as_publications_are() -> None:
    """Joins go to whoever hears the channel, and nobody is present after a stop."""
    broker, heard = MemoryBroker(), []
    await broker.start(lambda channel, payload: heard.append((channel, payload)))
    await broker.subscribe("room")
    await broker.presence.add("room", "client", "user", b"{}", announce=True)
    await eventually(lambda: heard == [("room", b"+{}")])
    await broker.stop()
    await broker.start(lambda channel, payload: None)
    assert await broker.presence.read("room") == {}
    await broker.stop()


@in_virtual_time
async def test_time_is_the_loops() -> None:
    """History ends by the clock that everything else here waits by."""
    broker = MemoryBroker()
    await broker.start(lambda channel, payload: None)
    kept = HistoryOptions(size=10, ttl=3600, meta_ttl=86400)
    result = await broker.append("room", b"1", history=kept, idempotency_key="key")
    await asyncio.sleep(299)
    assert (await broker.append("room", b"1", history=kept, idempotency_key="key")) == (*result[:2], True)
    await asyncio.sleep(1)
    assert (await broker.append("room", b"2", history=kept, idempotency_key="key")).offset == 2
    await asyncio.sleep(3599)
    page = await broker.read_history("room", since=None, limit=-1, reverse=False, meta_ttl=86400)
    assert len(page.publications) == 2
    await asyncio.sleep(1)
    page = await broker.read_history("room", since=None, limit=-1, reverse=False, meta_ttl=86400)
    assert page == ([], (2, result.epoch))
    await asyncio.sleep(86400)
    page = await broker.read_history("room", since=None, limit=-1, reverse=False, meta_ttl=86400)
    assert page.position.offset == 0
    assert page.position.epoch != result.epoch
    await broker.stop()
