"""People in one room, each on another worker, who listen all the time."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import websockets

from .server import HubProcess
from .waiting import eventually


class Member:
    """A client that keeps what it hears and what the hub tells it."""

    def __init__(self, client: websockets.ClientConnection) -> None:
        self._client = client
        self.worker = 0
        self.sent = 0
        self.heard: list[str] = []
        self.errors: list[dict[str, Any]] = []
        # How and when the connection ended; None while it is open.
        self.close_code: int | None = None
        self.closed_at = 0.0
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def join(cls, url: str, **options: Any) -> Member:
        """Connect, and wait for the hub's hello."""
        separator = "&" if "?" in url else "?"
        client = await websockets.connect(f"{url}{separator}hello=1", ping_interval=None, **options)
        member = cls(client)
        await eventually(lambda: member.worker)
        return member

    async def send(self, text: str) -> None:
        self.sent += 1
        await self._client.send(text)

    async def leave(self) -> None:
        await self._client.close()
        await self._listening

    async def _listen(self) -> None:
        try:
            async for message in self._client:
                self._take(str(message))
        except websockets.ConnectionClosedError:
            pass
        self.closed_at = time.monotonic()
        self.close_code = self._client.close_code

    def _take(self, message: str) -> None:
        if not message.startswith('{"hub":'):
            self.heard.append(message)
            return
        told = json.loads(message)["hub"]
        if "error" in told:
            self.errors.append(told["error"])
        else:
            self.worker = told["hello"]["worker"]


class Room:
    """Members who do not hear themselves."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self._numbers = itertools.count(1)

    async def resumed(self, timeout: float = 10) -> float:
        """All talk until each has heard something new from every other; the seconds that took."""
        start, first = time.monotonic(), next(self._numbers)
        async with asyncio.timeout(timeout):
            while not self._all_hear_all(first):
                await self.talk()
                await asyncio.sleep(0.02)
        return time.monotonic() - start

    async def talk(self) -> None:
        """Everybody says one thing."""
        number = next(self._numbers)
        for index, member in enumerate(self.members):
            await member.send(f"{index} {number}")

    async def refused(self, timeout: float = 5) -> float:
        """All talk until each was told that a message was not relayed; the seconds that took."""
        start, before = time.monotonic(), [len(member.errors) for member in self.members]
        async with asyncio.timeout(timeout):
            while any(len(member.errors) == count for member, count in zip(self.members, before, strict=True)):
                await self.talk()
                await asyncio.sleep(0.1)
        return time.monotonic() - start

    def _all_hear_all(self, first: int) -> bool:
        everybody = set(range(len(self.members)))
        for index, member in enumerate(self.members):
            said = (message.split() for message in reversed(member.heard))
            recent = itertools.takewhile(lambda words: int(words[1]) >= first, said)
            if everybody - {index} - {int(words[0]) for words in recent}:
                return False
        return True


@asynccontextmanager
async def room_across(hub: HubProcess, workers: int = 2) -> AsyncIterator[Room]:
    """A room with one member on each worker, who talk; they must still be connected at the end."""
    by_worker: dict[int, Member] = {}
    async with asyncio.timeout(20):
        while len(by_worker) < workers:
            member = await Member.join(f"{hub.ws_url}/ws/fault?echo=0")
            if by_worker.setdefault(member.worker, member) is not member:
                await member.leave()
    room = Room(list(by_worker.values()))
    try:
        await room.resumed()
        yield room
        assert [member.close_code for member in room.members] == [None] * workers
    finally:
        await asyncio.gather(*(member.leave() for member in room.members))
