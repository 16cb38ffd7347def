"""Clients of a program like broadcaster's example: it accepts a connection before it subscribes to the room."""

from __future__ import annotations

import asyncio
import contextlib
from uuid import uuid4

import websockets

__all__ = ["greetings", "join"]


async def join(url: str) -> websockets.ClientConnection:
    """A client that hears the room, because it has heard itself. Raises TimeoutError."""
    client = await websockets.connect(url)
    mine = f"I am {uuid4()}"
    async with asyncio.timeout(10):
        while True:
            await client.send(mine)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    while await client.recv() != mine:
                        pass
                return client


async def greetings(client: websockets.ClientConnection, count: int) -> list[str]:
    """The next messages that begin with `hello`. Raises TimeoutError."""
    heard: list[str] = []
    async with asyncio.timeout(10):
        while len(heard) < count:
            if (text := str(await client.recv())).startswith("hello"):
                heard.append(text)
    return heard
