"""Numbered messages at a fixed rate through one worker, and what became of each call."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from .dialects import message
from .verdict import Sent

__all__ = ["Post", "Publisher", "as_text", "to_hub"]

# Seconds. A call that takes longer has no answer.
PATIENCE = 15.0

# Path, headers and body of the call that publishes a text.
Post = Callable[[str], tuple[str, dict[str, str], bytes]]


def as_text(text: str) -> tuple[str, dict[str, str], bytes]:
    """As the peers' programs here want it."""
    return "/publish", {"Content-Type": "text/plain"}, text.encode()


@dataclass(frozen=True, slots=True)
class to_hub:
    """The server API of the hub, with errors as HTTP statuses."""

    channel: str
    key: str

    def __call__(self, text: str) -> tuple[str, dict[str, str], bytes]:
        headers = {"Content-Type": "application/json", "X-API-Key": self.key, "X-Centrifugo-Error-Mode": "transport"}
        return "/api/publish", headers, json.dumps({"channel": self.channel, "data": text}).encode()


class Publisher:
    """Every call begins when its time has come, whether or not those before were answered."""

    def __init__(self, port: int, post: Post, rate: float, size: int) -> None:
        self.sent: list[Sent] = []
        self._port = port
        self._post = post
        self._pause = 1 / rate
        self._size = size
        self._calls: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._run(), name="publisher")

    async def stop(self) -> None:
        """Send no more; who has not been answered within two more seconds has no answer."""
        self._task.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=2)
        for call in tuple(self._calls):
            call.cancel()
        await asyncio.gather(self._task, *self._calls, return_exceptions=True)

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            call = asyncio.create_task(self._publish())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            due += self._pause
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _publish(self) -> None:
        sent = Sent(len(self.sent), time.monotonic())
        self.sent.append(sent)
        try:
            async with asyncio.timeout(PATIENCE):
                sent.status = await _call(self._port, *self._post(message(sent.number, self._size)))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):  # TimeoutError too
            sent.status = 0
        sent.answered_at = time.monotonic()


async def _call(port: int, path: str, headers: dict[str, str], body: bytes) -> int:
    """POST, on a connection of its own; the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = {"Host": f"127.0.0.1:{port}", "Connection": "close", "Content-Length": str(len(body)), **headers}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        answer = await reader.readuntil(b"\r\n")
        return int(answer.split()[1])
    finally:
        writer.transport.abort()
