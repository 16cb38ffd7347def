"""The broker of a single process, without a network: for one worker, and the reference for the others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from typing import Any, TypeVar

from .broker import Deliver, Listener
from .errors import BrokerUnavailable
from .memory_history import MemoryHistory
from .memory_presence import MemoryPresence
from .types import HistoryOptions, HistoryPage, PublishResult

__all__ = ["MemoryBroker"]

T = TypeVar("T")

NOT_SENT = "not sent: the broker is stopped"


class MemoryBroker:
    """Implements `hub.broker.Broker`. History stays as long as this object, over `stop` and `start` too."""

    name = "memory"
    shared = False

    def __init__(self) -> None:
        self.node: str = os.urandom(6).hex()
        self.ready: bool = False
        self._channels: set[str] = set()
        # Of `listen`, by the prefix.
        self._listening: dict[str, Deliver] = {}
        self._history = MemoryHistory()
        self.presence: MemoryPresence = MemoryPresence(self.publish)
        # Set by `start`.
        self._deliver: Deliver | None = None
        self._listener: Listener | None = None

    def __repr__(self) -> str:
        return f"<MemoryBroker {self.name} {'ready' if self.ready else 'not ready'}>"

    async def start(self, deliver: Deliver, listener: Listener | None = None) -> None:
        self._deliver, self._listener = deliver, listener
        self.presence.start()
        self.ready = True

    async def stop(self) -> None:
        self._deliver = self._listener = None
        self._channels.clear()
        self._listening.clear()
        self.presence.stop()
        self.ready = False

    # Publications

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[Any]:
        if self._deliver is None:
            return _refused(NOT_SENT)
        # As with Redis, the publisher's stack is not the subscriber's.
        asyncio.get_running_loop().call_soon(self._arrive, channel, payload)
        return _answer(None)

    def _arrive(self, channel: str, payload: bytes) -> None:
        if self._deliver is not None and channel in self._channels:
            self._deliver(channel, payload)
        for prefix, heard in self._listening.items():
            if channel.startswith(prefix):
                heard(channel, payload)

    def listen(self, prefix: str, heard: Deliver) -> None:
        self._listening[prefix] = heard

    def claim(self, key: str, seconds: float) -> asyncio.Future[bool]:
        return _answer(True)  # there is no other worker

    def subscribe(self, channel: str) -> Awaitable[None]:
        if self._deliver is None:
            return _refused("not subscribed: the broker is stopped")
        self._channels.add(channel)
        return _answer(None)

    def unsubscribe(self, channel: str) -> None:
        self._channels.discard(channel)

    # History

    def append(
        self,
        channel: str,
        payload: bytes,
        *,
        history: HistoryOptions | None,
        idempotency_key: str = "",
        version: int = 0,
        version_epoch: str = "",
    ) -> asyncio.Future[PublishResult]:
        if self._deliver is None:
            return _refused(NOT_SENT)
        now = asyncio.get_running_loop().time()
        if idempotency_key:
            first = self._history.first_result(now, channel, idempotency_key)
            if first is not None:
                return _answer(first._replace(suppressed=True))
        result = PublishResult()
        if history is not None:
            result = self._history.append(now, channel, payload, history, version, version_epoch)
            if result.suppressed:
                return _answer(result)
            payload = b"p%d:%b:%b" % (result.offset, result.epoch.encode(), payload)
        if idempotency_key:
            self._history.remember(now, channel, idempotency_key, result)
        self.publish(channel, payload)
        return _answer(result)

    def read_history(
        self, channel: str, *, since: int | None, limit: int, reverse: bool, meta_ttl: float
    ) -> asyncio.Future[HistoryPage]:
        if self._deliver is None:
            return _refused("not read: the broker is stopped")
        now = asyncio.get_running_loop().time()
        return _answer(self._history.read(now, channel, since, limit, reverse, meta_ttl))

    def remove_history(self, channel: str) -> asyncio.Future[None]:
        if self._deliver is None:
            return _refused("not removed: the broker is stopped")
        self._history.remove(channel)
        return _answer(None)

    def renew_history(self, channel: str, epoch: str) -> asyncio.Future[None]:
        if self._deliver is None:
            return _refused("not renewed: the broker is stopped")
        self._history.renew(channel, epoch)
        return _answer(None)

    # Workers: there is one

    def broadcast(self, payload: bytes) -> asyncio.Future[int]:
        return self.tell(self.node, payload)

    def tell(self, node: str, payload: bytes) -> asyncio.Future[int]:
        if self._deliver is None:
            return _refused(NOT_SENT)
        if node != self.node:
            return _answer(0)
        asyncio.get_running_loop().call_soon(self._hear, payload)
        return _answer(1)

    def _hear(self, payload: bytes) -> None:
        if self._listener is not None:
            self._listener.on_control(payload)


def _answer(value: T) -> asyncio.Future[T]:
    """A future that is done."""
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    done.set_result(value)
    return done


def _refused(reason: str) -> asyncio.Future[Any]:
    """A future that has failed; an error that nobody waits for is not worth asyncio's warning."""
    failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    failed.set_exception(BrokerUnavailable(reason))
    failed.exception()
    return failed
