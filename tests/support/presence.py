"""Workers that register connections, die, and hear who comes and goes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

from hub.pubsub import RedisBroker

from .relay import Ear
from .waiting import eventually


def info(user: str, client: str) -> bytes:
    """A ClientInfo as JSON."""
    return json.dumps({"user": user, "client": client}, separators=(",", ":")).encode()


def comings(ear: Ear, channel: str) -> list[tuple[str, str]]:
    """What was heard in a channel: (`+` or `-`, client), in order."""
    return [(payload[:1].decode(), json.loads(payload[1:])["client"]) for payload in ear.payloads(channel)]


def balance(ear: Ear, channel: str) -> Counter[str]:
    """Joins minus leaves of each client that was heard of in a channel."""
    total: Counter[str] = Counter()
    for sign, client in comings(ear, channel):
        total[client] += 1 if sign == "+" else -1
    return total


def alternates(ear: Ear, channel: str) -> bool:
    """Whether each client's joins and leaves take turns, a join first."""
    last: dict[str, str] = {}
    for sign, client in comings(ear, channel):
        if sign == last.get(client, "-"):
            return False
        last[client] = sign
    return True


class Worker(Ear):
    """A started broker on Redis, and what it wants to be registered."""

    broker: RedisBroker

    def __init__(self, broker: RedisBroker) -> None:
        super().__init__(broker)
        # Client → user, by channel.
        self.members: dict[str, dict[str, str]] = {}

    async def start(self) -> Worker:
        await super().start()
        return self

    def add(self, channel: str, client: str, user: str = "u", *, announce: bool = True) -> asyncio.Future[None]:
        self.members.setdefault(channel, {})[client] = user
        return self.broker.presence.add(channel, client, user, info(user, client), announce=announce)

    def remove(self, channel: str, client: str) -> asyncio.Future[None]:
        del self.members[channel][client]
        return self.broker.presence.remove(channel, client)

    @property
    def lease(self) -> Any:
        """Its `hub.redis_lease.Lease`."""
        session = self.broker.presence._session
        assert session is not None
        return session.lease

    async def leased(self, timeout: float = 5) -> Worker:
        """Wait until it holds a lease."""
        await eventually(lambda: self.lease.name, timeout)
        return self

    async def die(self) -> None:
        """As after kill -9: everything ends at once, and nobody says good-bye."""
        session, presence = self.broker._session, self.broker.presence._session
        assert session is not None
        assert presence is not None
        self.broker._session = self.broker.presence._session = None
        tasks = [*session._tasks, presence._task, *presence.lease._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.members.clear()
