"""A chat client that comes back when its connection ends, as the page does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import websockets

from .cluster import Cluster
from .waiting import eventually

TOKEN = "s3cret"


class Member:
    """In one room from its creation until `leave`."""

    def __init__(self, cluster: Cluster, room: str) -> None:
        self._url = f"{cluster.ws_url}/ws/{room}?hello=1&token={TOKEN}"
        self._task = asyncio.create_task(self._run())
        # Of the present connection, or the last.
        self._socket: websockets.ClientConnection | None = None
        self.worker = 0
        self.connected = asyncio.Event()
        # Close codes seen, failed attempts to connect, texts heard.
        self.closes: list[int] = []
        self.refusals: list[str] = []
        self.heard: list[str] = []
        self._news = asyncio.Event()

    async def _run(self) -> None:
        while True:
            try:
                async with websockets.connect(self._url, ping_interval=None) as self._socket:
                    await self._listen(self._socket)
            except (OSError, websockets.InvalidHandshake, TimeoutError) as error:
                self.refusals.append(repr(error))
            self.connected.clear()
            await asyncio.sleep(0.05)

    async def _listen(self, socket: websockets.ClientConnection) -> None:
        try:
            self.worker = json.loads(await socket.recv())["hub"]["hello"]["worker"]
            self.connected.set()
            while True:
                self.heard.append(str(await socket.recv()))
                self._news.set()
        except websockets.ConnectionClosed as closed:
            self.closes.append(closed.rcvd.code if closed.rcvd else 1006)

    async def say(self, text: str) -> None:
        await self.connected.wait()
        assert self._socket is not None
        await self._socket.send(text)

    async def hears(self, text: str) -> None:
        while text not in self.heard:
            self._news.clear()
            await self._news.wait()

    async def leave(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def members(cluster: Cluster, count: int) -> AsyncIterator[list[Member]]:
    """`count` members of one room, all connected, on every replica."""
    group = [Member(cluster, "room") for _ in range(count)]
    try:
        await eventually(lambda: all(member.connected.is_set() for member in group), 20)
        assert {member.worker for member in group} == {replica.worker for replica in cluster.replicas.values()}
        yield group
    finally:
        await asyncio.gather(*(member.leave() for member in group))


async def everybody_hears_everybody(group: list[Member], turn: str) -> None:
    """Each says one thing; all hear all of it."""
    said = [f"{turn}-{number}" for number in range(len(group))]
    async with asyncio.timeout(20):
        await asyncio.gather(*(member.say(text) for member, text in zip(group, said, strict=True)))
        await asyncio.gather(*(member.hears(text) for member in group for text in said))
