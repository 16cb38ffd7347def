"""One process that publishes to Redis and hears it again, without any WebSocket: the hub's way, or redis-py's.

`python -m bench.publishing hub|redis-py URL` goes on until it is ended. What it publishes is counted at Redis, and what
comes back here.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop
from redis.asyncio import Redis

from hub import Hub
from hub.registry import KeepsAll

from .dialects import PAYLOAD, head_of

__all__ = ["READY"]

READY = "publishing"
CHANNEL = "bench"
MESSAGE = "." * PAYLOAD
FRAME = len(head_of(PAYLOAD)) + PAYLOAD
PUBLISHERS = 100
# Publications that may be under way before the subscriber is said to lose them.
BEHIND = 10_000


class Wire(KeepsAll):
    """Counts the frames that it is to write."""

    def __init__(self) -> None:
        self.heard = 0
        self.write: Callable[[bytes], object] = self._count

    def _count(self, data: bytes) -> None:
        self.heard += len(data) // FRAME


class Subscriber:
    """The hub's one subscriber."""

    id = b""

    def __init__(self) -> None:
        self.wire = Wire()

    def on_insufficient(self, channel: str) -> None:
        """Nothing is positioned here."""


class Balance:
    """What was published against what came back."""

    def __init__(self) -> None:
        self.published = 0

    def add(self, heard: int) -> None:
        self.published += 1
        if self.published - heard > BEHIND:
            raise RuntimeError(f"{self.published} were published and {heard} heard")


async def hub(url: str) -> None:
    """A hundred tasks, each awaiting its publication."""
    subscriber, balance = Subscriber(), Balance()
    async with Hub(redis=url) as hub:
        await hub.subscribe(subscriber, CHANNEL)
        print(READY, flush=True)

        async def publish() -> None:
            while True:
                await hub.publish(CHANNEL, MESSAGE)
                balance.add(subscriber.wire.heard)

        async with asyncio.TaskGroup() as group:
            for _ in range(PUBLISHERS):
                group.create_task(publish())


async def redis_py(url: str) -> None:
    """One awaited PUBLISH at a time, and a task that listens."""
    client: Redis = Redis.from_url(url)
    balance, heard = Balance(), 0
    async with client, client.pubsub() as pubsub:
        await pubsub.subscribe(CHANNEL)
        print(READY, flush=True)

        async def listen() -> None:
            nonlocal heard
            async for message in pubsub.listen():
                heard += message["type"] == "message"

        async with asyncio.TaskGroup() as group:
            group.create_task(listen())
            while True:
                await client.publish(CHANNEL, MESSAGE)
                balance.add(heard)


WAYS: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {"hub": hub, "redis-py": redis_py}

if __name__ == "__main__":
    uvloop.run(WAYS[sys.argv[1]](sys.argv[2]))
