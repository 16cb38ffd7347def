"""Backends that people wrote for broadcaster, as brokers of the hub. They carry text, and keep no history."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

from .broker import Deliver, Listener
from .errors import BrokerUnavailable
from .hub import publication_of
from .inbox import value_of
from .log import Throttled
from .memory import MemoryBroker
from .protocol import envelope
from .types import Publication

__all__ = ["BackendBroker", "BroadcastBackend"]

log: logging.Logger = logging.getLogger("hub")

# Seconds before a backend that failed is asked again.
RETRY = 1.0


class BroadcastBackend(ABC):
    """What carries messages between processes. Whatever has these six methods will do."""

    @abstractmethod
    async def connect(self) -> None:
        """Called before all else, by `Broadcast.connect`."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Called after all else, by `Broadcast.disconnect`."""

    @abstractmethod
    async def subscribe(self, channel: str) -> None:
        """`next_published` has messages of `channel` from now on. Called for the first subscriber only."""

    @abstractmethod
    async def unsubscribe(self, channel: str) -> None:
        """Called after the last one."""

    @abstractmethod
    async def publish(self, channel: str, message: Any) -> None:
        """Give a text to every process, this one included; what it raises, `Broadcast.publish` raises."""

    @abstractmethod
    async def next_published(self) -> Any:
        """Wait for a message; an `Event`, or anything else with `channel` and `message`."""


class BackendBroker(MemoryBroker):
    """Implements `hub.broker.Broker` with a backend; only `publish` and `subscribe` go beyond this process."""

    shared = True
    # False while the backend fails.
    ready: bool

    def __init__(self, backend: BroadcastBackend) -> None:
        super().__init__()
        self.name: str = type(backend).__name__
        self._backend = backend
        self._unreadable = Throttled(log, logging.ERROR, "%d messages of a backend could not be taken")
        # Confirmations of the channels that are wanted.
        self._asked: dict[str, asyncio.Task[None]] = {}
        # A backend is asked for one thing after the other; each event loop has a lock of its own.
        self._turns = asyncio.Lock()
        # What runs, from `start` to `stop`, besides publications: these are their callers'.
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, deliver: Deliver, listener: Listener | None = None) -> None:
        self._turns = asyncio.Lock()
        await self._backend.connect()
        await super().start(deliver, listener)
        self._spawn(self._read_for_ever())

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._asked.clear()
        await super().stop()
        await self._backend.disconnect()

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[Any]:
        event = envelope.decode(payload)
        if self._deliver is None or not isinstance(event, Publication):
            return super().publish(channel, payload)
        return asyncio.ensure_future(self._backend.publish(channel, value_of(event.kind, event.data)))

    async def subscribe(self, channel: str) -> None:
        await super().subscribe(channel)
        asked = self._asked.get(channel)
        if asked is None:
            asked = self._asked[channel] = self._spawn(self._in_turn(self._backend.subscribe, channel))
        await asyncio.wait((asked,))
        if asked.cancelled():
            raise BrokerUnavailable("not subscribed: the broker has been stopped")
        asked.result()

    def unsubscribe(self, channel: str) -> None:
        super().unsubscribe(channel)
        if self._asked.pop(channel, None) is not None and self._deliver is not None:
            self._spawn(self._in_turn(self._backend.unsubscribe, channel)).add_done_callback(_report)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="hub broadcast backend")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _in_turn(self, action: Callable[[str], Coroutine[Any, Any, None]], channel: str) -> None:
        async with self._turns:
            await action(channel)

    async def _read_for_ever(self) -> None:
        while True:
            try:
                event = await self._backend.next_published()
            except Exception:
                if self.ready:
                    log.exception("%s fails: nothing is heard; it is asked again every %g s", self.name, RETRY)
                self.ready = False
                await asyncio.sleep(RETRY)
                continue
            self.ready = True
            if not self._take(event):
                await asyncio.sleep(0)  # it may have no end of such things, and wait for nothing

    def _take(self, event: Any) -> bool:
        """Whether it was a message."""
        try:
            channel, payload = event.channel, envelope.encode(publication_of(event.message))
        except (AttributeError, TypeError, ValueError) as error:
            self._unreadable.add(last=str(error))
            return False
        self._arrive(channel, payload)
        return True


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a backend could not unsubscribe", exc_info=task.exception())
