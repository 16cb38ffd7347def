"""A worker's protocol clients without a network: what they say goes in, what they are told is kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import HTTPConnection

from hub import Hub, Settings
from hub.client import Client, Context
from hub.errors import Disconnect
from hub.handlers import HANDLERS
from hub.memory import MemoryBroker
from hub.protocol.frames import split
from hub.registry import KeepsAll
from hub.tokens import sign

SECRET = "a secret of at least thirty-two bytes"

Json = dict[str, Any]


class Gated(MemoryBroker):
    """Confirms subscriptions while its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def _confirm(self) -> None:
        await self.gate.wait()

    def subscribe(self, channel: str) -> Any:
        super().subscribe(channel)
        return self._confirm()


class FakeWire(KeepsAll):
    """A connection that keeps what is written to it. It tells of its end at once, or when the test says so."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.client: Client
        self.received: list[Json] = []
        self.closed: Disconnect | None = None
        self.reading = True
        self.compression = 0
        self._at_once = at_once

    def write(self, chunk: bytes) -> None:
        if self.closed is None:
            self.received += [json.loads(payload) for _, payload in split(chunk)]

    def close(self, disconnect: Disconnect) -> None:
        if self.closed is None:
            self.closed = disconnect
            if self._at_once:
                self.client.on_close(disconnect.code, disconnect.reason)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Session(FakeWire):
    """A connection and the client that the hub has made for it."""

    def __init__(self, context: Context, **options: bool) -> None:
        super().__init__(**options)
        scope = {"type": "websocket", "headers": [], "query_string": b"", "path": "/"}
        self.client = Client(context, self, HTTPConnection(scope))  # type: ignore[arg-type]
        context.admission.enter("channels")

    def say(self, *commands: Json) -> None:
        """One frame."""
        self.client.on_message("\n".join(map(json.dumps, commands)).encode(), True)

    async def ask(self, number: int, **command: Any) -> Json:
        """Say one command; the reply."""
        self.say({"id": number, **command})
        async with asyncio.timeout(60):
            while not (found := self.replies(number)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return found[0]

    def replies(self, number: int) -> list[Json]:
        return [message for message in self.received if message.get("id") == number]

    @property
    def answered(self) -> list[int]:
        """The ids of all replies so far, in order."""
        return [message["id"] for message in self.received if "id" in message]

    def pushes(self, kind: str) -> list[Any]:
        return [message["push"][kind] for message in self.received if kind in message.get("push", {})]

    @property
    def pings(self) -> int:
        return self.received.count({})


class World:
    """A hub with its protocol clients."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        admission = hub._admission
        self.context = Context(hub, hub.settings, hub.authority, admission, hub.clients, HANDLERS)

    def open(self, **options: bool) -> Session:
        """A connection on which nothing was said."""
        return Session(self.context, **options)

    async def connected(self, **claims: Any) -> Session:
        """A client that has connected; with a token if it has claims."""
        session = self.open()
        reply = await session.ask(1, connect={"token": sign(claims, SECRET)} if claims else {})
        assert "client" in reply["connect"]
        return session

    async def nothing_is_left(self) -> None:
        """Of no client."""
        await asyncio.sleep(0.01)
        assert self.hub.registry.channels == {}
        assert self.hub.registry.subscribers == 0
        assert "0 entries" in repr(self.hub.broker.presence)
        assert len(self.hub.clients) == self.hub.clients.users == 0
        assert self.hub.deadlines._slots == {}
        assert repr(self.context.orders) == "<Orders 0 waiting>"
        assert self.context.admission.connections == 0
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("hub client")] == []


@contextlib.asynccontextmanager
async def world(broker: MemoryBroker | None = None, *, redis: Any = None, **settings: Any) -> AsyncIterator[World]:
    """A running hub; on memory, unless it has a Redis client. It does not complain of a machine that stands still."""
    given = {
        "token_hmac_secret_key": SECRET,
        "allow_anonymous_connect_without_token": True,
        "watchdog": 0.0,
        **settings,
    }
    async with Hub(Settings(**given), redis=redis, broker=None if redis else broker or MemoryBroker()) as hub:
        yield World(hub)


def connect(token: str = "") -> Json:
    return {"id": 1, "connect": {"token": token} if token else {}}


def about(number: int, command: str, channel: str, **fields: Any) -> Json:
    return {"id": number, command: {"channel": channel, **fields}}
