"""What one client of the protocol may try on a hub that lets everybody do everything, in any size."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice

from .centrifuge import PATH
from .lean_socket import LeanSocket
from .waiting import eventually

__all__ = ["Abuser", "abuser", "fickle", "greedy", "hectic"]

# Commands of one frame, which is to stay below 64 KiB.
PER_FRAME = 300
# Replies that may be outstanding: the hub reads no faster than it answers.
WINDOW = 5000
PATIENCE = 120.0


class Abuser:
    """One connection after `connect`, which counts the replies: 0 for a result, else the error's code."""

    def __init__(self) -> None:
        self.replies: Counter[int] = Counter()
        self.sent = 0
        self.socket: LeanSocket

    @property
    def unanswered(self) -> int:
        return self.sent - self.replies.total()

    def on_message(self, payload: bytes) -> None:
        for line in payload.split(b"\n"):
            if line == b"{}":
                self.socket.send(b"{}")
                continue
            message = json.loads(line)
            if "id" in message:
                self.replies[message.get("error", {}).get("code", 0)] += 1

    async def say(self, commands: list[str]) -> None:
        """Each with an id, in one frame; waits while too many are unanswered."""
        lines = [f'{{"id":{self.sent + number},{command}}}' for number, command in enumerate(commands, 2)]
        self.sent += len(commands)
        self.socket.send("\n".join(lines).encode())
        if self.unanswered > WINDOW:
            await eventually(lambda: self.unanswered < WINDOW // 2 or self.socket.ended.done(), PATIENCE)

    async def say_all(self, commands: Iterator[str]) -> None:
        """Until all are answered, or the hub has had enough."""
        while not self.socket.ended.done() and (group := list(islice(commands, PER_FRAME))):
            await self.say(group)
        await eventually(lambda: not self.unanswered or self.socket.ended.done(), PATIENCE)


@asynccontextmanager
async def abuser(port: int) -> AsyncIterator[Abuser]:
    one = Abuser()
    one.socket = await LeanSocket.open(port, PATH, one.on_message)
    one.socket.send(b'{"id":1,"connect":{}}')
    await eventually(lambda: one.replies or one.socket.ended.done())
    one.replies.clear()
    try:
        yield one
    finally:
        one.socket.abort()


async def greedy(port: int, channels: int) -> Counter[int]:
    """Wants to be in so many channels at once; the replies."""
    async with abuser(port) as one:
        await one.say_all(f'"subscribe":{{"channel":"greedy-{number}"}}' for number in range(channels))
        return one.replies


async def fickle(port: int, channels: int, prefix: str) -> Counter[int]:
    """In so many channels, one after the other, in each for a moment; the replies."""
    async with abuser(port) as one:
        names = (f"{prefix}-{number}" for number in range(channels))
        words = ("subscribe", "unsubscribe")
        await one.say_all(f'"{word}":{{"channel":"{name}"}}' for name in names for word in words)
        return one.replies


async def hectic(port: int, rate: float, seconds: float) -> Counter[int]:
    """Commands of many kinds at a rate; the replies."""
    kinds = ("publish", "history", "presence", "presence_stats", "rpc", "subscribe", "unsubscribe")
    bodies = {"publish": '{"channel":"h","data":1}', "rpc": '{"method":"none"}'}
    commands = [f'"{kind}":{bodies.get(kind, json.dumps({"channel": "h"}))}' for kind in kinds]
    start = time.monotonic()
    async with abuser(port) as one:
        while (now := time.monotonic() - start) < seconds and not one.socket.ended.done():
            due = int(now * rate) - one.sent
            if due > 0:
                await one.say([commands[(one.sent + step) % len(commands)] for step in range(min(due, PER_FRAME))])
            await asyncio.sleep(0.001)
        await eventually(lambda: not one.unanswered or one.socket.ended.done(), PATIENCE)
        return one.replies
