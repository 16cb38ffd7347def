"""Backends that people wrote for broadcaster."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from hub import BrokerUnavailable
from hub.broadcast_backend import BackendBroker
from hub.compat import Broadcast, BroadcastBackend, Event
from tests.support.broadcasts import left_behind, soon
from tests.support.waiting import eventually


class Post(BroadcastBackend):
    """A post office for all backends that have the same one."""

    def __init__(self, office: set[Post]) -> None:
        self.office = office
        self.wanted: list[str] = []
        self.calls: list[str] = []
        self.arrived: asyncio.Queue[Any] = asyncio.Queue()

    async def connect(self) -> None:
        self.office.add(self)

    async def disconnect(self) -> None:
        self.office.discard(self)

    async def subscribe(self, channel: str) -> None:
        await asyncio.sleep(0)
        self.calls.append(f"+{channel}")

    async def unsubscribe(self, channel: str) -> None:
        self.calls.append(f"-{channel}")
        if channel == "sticky":
            raise OSError("it sticks")

    async def publish(self, channel: str, message: Any) -> None:
        for other in self.office:
            other.arrived.put_nowait(Event(channel, message))

    async def next_published(self) -> Event:
        event = await self.arrived.get()
        if isinstance(event, Exception):
            raise event
        return event


async def test_a_backend() -> None:
    """It is asked once for each channel, in turn, and messages go through it as they are."""
    office: set[Post] = set()
    one, two = Post(office), Post(office)
    async with Broadcast(backend=one) as here, Broadcast(backend=two) as there:
        async with here.subscribe("chat:x") as first, here.subscribe("chat:x") as second:
            for message in ("hello", {"n": 1}):
                await there.publish("chat:x", message)
                assert await soon(first) == await soon(second) == message
        async with here.subscribe("chat:x"):
            pass
        await eventually(lambda: one.calls == ["+chat:x", "-chat:x"] * 2)
        assert two.calls == []
    assert office == set()


async def test_a_backend_that_fails(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is deaf for it: it is asked again, and what it does wrong is in the log."""
    monkeypatch.setattr("hub.broadcast_backend.RETRY", 0.01)
    post = Post(set())
    async with Broadcast(backend=post) as broadcast:
        async with broadcast.subscribe("x") as subscriber, broadcast.subscribe("sticky"):
            for wrong in (OSError("the wire is cut"), Event("x", object()), "no event"):
                post.arrived.put_nowait(wrong)
            await broadcast.publish("x", "back")
            assert await soon(subscriber) == "back"
        await eventually(lambda: "could not unsubscribe" in caplog.text)
    levels = {record.levelno for record in caplog.records if record.name == "hub"}
    assert levels == {logging.ERROR}
    assert "Post fails: nothing is heard" in caplog.text
    assert "1 messages of a backend could not be taken" in caplog.text


async def test_a_backend_that_goes_on_failing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback a second, for hours, would hide what else is in the log."""
    monkeypatch.setattr("hub.broadcast_backend.RETRY", 0.001)
    post = Post(set())
    async with Broadcast(backend=post) as broadcast, broadcast.subscribe("x") as subscriber:
        for _ in range(2):
            for _ in range(5):
                post.arrived.put_nowait(OSError("the wire is cut"))
            await broadcast.publish("x", "back")
            assert await soon(subscriber) == "back"
    assert caplog.text.count("Post fails: nothing is heard") == 2


async def test_a_backend_that_talks_nonsense() -> None:
    """Without end and without a pause: the program goes on, and hears what makes sense."""
    post = Post(set())
    nonsense: list[Any] = [None, SimpleNamespace(message="no channel")] * 1000

    async def next_published() -> Any:
        return nonsense.pop() if nonsense else await post.arrived.get()

    post.next_published = next_published  # type: ignore[method-assign]
    async with Broadcast(backend=post) as broadcast:
        await eventually(lambda: len(nonsense) < 2000)
        assert nonsense
        async with broadcast.subscribe("x") as subscriber:
            await broadcast.publish("x", "back")
            assert await soon(subscriber) == "back"


async def test_a_backend_that_does_not_confirm() -> None:
    """Who waits for it learns that it was stopped, and is not cancelled."""
    post = Post(set())
    post.subscribe = lambda channel: asyncio.Event().wait()  # type: ignore[assignment,return-value]
    broadcast = Broadcast(backend=post)
    await broadcast.connect()
    block = broadcast.subscribe("x")
    joining = asyncio.create_task(block.__aenter__())
    await eventually(lambda: broadcast._hub.registry.subscribers == 1)
    await asyncio.sleep(0)
    await broadcast.disconnect()
    with pytest.raises(BrokerUnavailable, match="stopped"):
        await asyncio.wait_for(joining, 5)
    assert not left_behind(broadcast)


async def test_a_stopped_backend() -> None:
    """After `stop` it says so."""
    broker = BackendBroker(Post(set()))
    with pytest.raises(BrokerUnavailable, match="stopped"):
        await broker.publish("x", b"t\x00x")
    with pytest.raises(BrokerUnavailable, match="stopped"):
        await broker.subscribe("x")
    broker.unsubscribe("x")
