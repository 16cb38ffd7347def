"""What brokers relay through, by name: memory, fakeredis, and a real server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fakeredis
import pytest
import redis

from hub.broker import Broker
from hub.memory import MemoryBroker
from hub.pubsub import RedisBroker

BACKENDS = ("memory", "fakeredis", "valkey")


@dataclass(frozen=True, slots=True)
class Backend:
    """`make` makes brokers that relay to each other, as if they were in different processes."""

    make: Callable[[], Broker]
    # A plain client of the test's own; None without a server.
    client: Any

    def forget(self, channel: str) -> None:
        """Lose the position of a channel, and only that."""
        self.client.delete(f"hub:meta:{{{channel}}}")


def backend(name: str, request: pytest.FixtureRequest) -> Backend:
    """A fresh one; what it starts ends with the test."""
    if name == "memory":
        return Backend(MemoryBroker, None)
    if name == "fakeredis":
        server = fakeredis.FakeServer()
        return Backend(lambda: RedisBroker(fakeredis.FakeAsyncRedis(server=server)), fakeredis.FakeRedis(server=server))
    url: str = request.getfixturevalue("redis_server").url
    client = redis.Redis.from_url(url)
    request.addfinalizer(client.close)
    return Backend(lambda: RedisBroker(url), client)
