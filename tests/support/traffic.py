"""Publishers that use the server API, and keep account of what it answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from itertools import count
from types import TracebackType
from typing import Any, Self

import httpx2

from .ledger import Ledger, Place, content

__all__ = ["Publisher", "Traffic"]

# Seconds. What is not answered by then may still have been published.
TIMEOUT = 5.0


class Publisher:
    """Sends one request after the other, so that of two accepted publications the first was published first."""

    def __init__(self, name: str, url: str, key: str, ledger: Ledger) -> None:
        self._name = name
        self._ledger = ledger
        self._client = httpx2.AsyncClient(
            base_url=f"{url}/api/", headers={"X-API-Key": key}, timeout=TIMEOUT, trust_env=False
        )
        self._numbers = count()
        # Publications that were sent, and requests without an answer.
        self.sent = 0
        self.unanswered = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    # Three ways to publish; each takes every channel at most once

    async def publish(self, channel: str) -> None:
        """One publication."""
        text = self._next()
        answer = await self._call("publish", {"channel": channel, "data": text})
        self._account(channel, text, answer.get("result"))

    async def broadcast(self, channels: list[str]) -> None:
        """The same text to all."""
        text = self._next()
        answer = await self._call("broadcast", {"channels": channels, "data": text})
        responses = answer.get("result", {}).get("responses") or [{}] * len(channels)
        for channel, response in zip(channels, responses, strict=True):
            self._account(channel, text, response.get("result"))

    async def batch(self, channels: list[str], *, parallel: bool) -> None:
        """Another text to each."""
        texts = [self._next() for _ in channels]
        pairs = list(zip(channels, texts, strict=True))
        commands = [{"publish": {"channel": channel, "data": text}} for channel, text in pairs]
        answer = await self._call("batch", {"commands": commands, "parallel": parallel})
        replies = answer.get("replies") or [{}] * len(channels)
        for (channel, text), reply in zip(pairs, replies, strict=True):
            self._account(channel, text, reply.get("publish"))

    # What is known about the end of a channel

    async def top(self, channel: str) -> Place:
        """Where its history ends. Raises AssertionError if the API does not say."""
        answer = await self._call("history", {"channel": channel})
        assert "result" in answer, answer
        return Place(answer["result"]["epoch"], answer["result"]["offset"])

    async def tops(self, channels: Iterable[str]) -> dict[str, Place]:
        return {channel: await self.top(channel) for channel in channels}

    def _next(self) -> str:
        return content(self._name, next(self._numbers))

    async def _call(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer; empty if there is none, or none that is the API's."""
        try:
            response = await self._client.post(method, json=request)
        except httpx2.TransportError:
            self.unanswered += 1
            return {}
        if response.status_code != 200:  # nginx has lost the worker
            self.unanswered += 1
            return {}
        answer: dict[str, Any] = response.json()
        return answer

    def _account(self, channel: str, text: str, result: dict[str, Any] | None) -> None:
        """Accepted with its place, or in doubt: an error may mean either."""
        self.sent += 1
        if result is not None:
            self._ledger.accept(channel, Place(result["epoch"], result["offset"]), text)
        else:
            self._ledger.doubt(channel, text)


class Traffic:
    """Publishers that together keep a rate, in a mixture of all ways to publish, until `stop`."""

    def __init__(
        self, url: str, key: str, channels: list[str], rate: float, ledger: Ledger, publishers: int = 4
    ) -> None:
        self._channels = channels
        self._rate = rate / publishers
        self.publishers = [Publisher(f"p{number}", url, key, ledger) for number in range(publishers)]
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._resources = AsyncExitStack()
        self._started = 0.0
        # Seconds from `start` to `stop`.
        self.duration = 0.0

    @property
    def sent(self) -> int:
        return sum(publisher.sent for publisher in self.publishers)

    @property
    def unanswered(self) -> int:
        return sum(publisher.unanswered for publisher in self.publishers)

    async def __aenter__(self) -> Self:
        for publisher in self.publishers:
            await self._resources.enter_async_context(publisher)
        self._started = time.monotonic()
        self._tasks = [asyncio.create_task(self._run(publisher)) for publisher in self.publishers]
        return self

    async def stop(self) -> None:
        """No more requests; returns when the last was answered."""
        self._over.set()
        await asyncio.gather(*self._tasks)
        self.duration = self.duration or time.monotonic() - self._started

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        finally:
            await self._resources.aclose()

    async def _run(self, publisher: Publisher) -> None:
        """As fast as needed to be where it should be by now; after a stall it catches up."""
        at = 0
        for turn in count():
            if self._over.is_set():
                return
            due = int(self._rate * (time.monotonic() - self._started)) - publisher.sent
            if due > 0:
                size = min(due, len(self._channels))
                channels = [self._channels[(at + step) % len(self._channels)] for step in range(size)]
                at += size
                await self._publish(publisher, turn % 3, channels)
            await self._rest(due - len(self._channels))

    async def _publish(self, publisher: Publisher, way: int, channels: list[str]) -> None:
        if len(channels) == 1:
            await publisher.publish(channels[0])
        elif way == 0:
            await publisher.broadcast(channels)
        else:
            await publisher.batch(channels, parallel=way == 1)

    async def _rest(self, behind: int) -> None:
        """Until a full round is due, so that requests carry as much as they can."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(0.5, max(0.0, -behind / self._rate))):
                await self._over.wait()
