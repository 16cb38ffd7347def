"""The contract of brokers, on the reference in memory, on fakeredis, and on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from hub import pubsub, redis_feed
from hub.broker import Broker
from hub.errors import BrokerUnavailable
from hub.memory import MemoryBroker
from hub.testing import contract
from hub.testing.contract import BrokerContract, Make
from tests.support.backends import BACKENDS, backend

LOOPS: dict[str, Callable[[], Any]] = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
# fakeredis brings the tasks and queues of asyncio, whatever the loop.
PLACES = [("memory", "asyncio"), ("memory", "uvloop"), ("fakeredis", "asyncio"), ("valkey", "asyncio")]


class TestBroker(BrokerContract):
    """Ours."""

    @pytest.fixture(params=[*PLACES, ("valkey", "uvloop")], ids="-".join)
    def place(self, request: pytest.FixtureRequest) -> tuple[str, str]:
        found: tuple[str, str] = request.param
        return found

    @pytest.fixture
    def make(self, place: tuple[str, str], request: pytest.FixtureRequest) -> Make:
        return backend(place[0], request).make

    @pytest.fixture
    def new_loop(self, place: tuple[str, str]) -> Callable[[], Any]:
        return LOOPS[place[1]]

    @pytest.fixture
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pubsub, "HEARTBEAT", 0.02)
        monkeypatch.setattr(redis_feed, "LINGER", 0.1)


@pytest.mark.parametrize("name", BACKENDS)
async def test_why_a_stopped_broker_does_nothing(name: str, request: pytest.FixtureRequest) -> None:
    """In the same words for all."""
    broker = backend(name, request).make()
    with pytest.raises(BrokerUnavailable, match="not sent: the broker is stopped"):
        await broker.publish("room", b"hi")
    with pytest.raises(BrokerUnavailable, match="not subscribed: the broker is stopped"):
        await broker.subscribe("room")


# The contract is only as good as what it finds


class Forgetful(MemoryBroker):
    """Delivers every third publication to nobody."""

    count = 0

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[None]:
        self.count += 1
        if self.count % 3 == 0:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        return super().publish(channel, payload)


class Clinging(MemoryBroker):
    """Never leaves a channel."""

    def unsubscribe(self, channel: str) -> None:
        pass


class Undying(MemoryBroker):
    """Goes on after its end."""

    async def stop(self) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Forgetful, "test_everybody_hears_everybody_in_one_order"),
        (Clinging, "test_unsubscribe_lingers_and_then_stops"),
        (Undying, "test_ready_between_start_and_stop"),
    ],
)
def test_brokers_that_break_it(kind: Callable[[], Broker], test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is found by the test that is about that."""
    monkeypatch.setattr(contract, "PATIENCE", 0.5)
    with pytest.raises((AssertionError, TimeoutError)):
        getattr(BrokerContract(), test)(make=kind, new_loop=asyncio.SelectorEventLoop)
