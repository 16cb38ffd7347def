"""Presence of one process: the reference that the other store is tested against."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from .errors import BrokerUnavailable

__all__ = ["MemoryPresence"]

T = TypeVar("T")

STOPPED = "not registered: the broker is stopped"


class _Entry(NamedTuple):
    user: str
    info: bytes
    announce: bool


class MemoryPresence:
    """Who is in which channel. Implements `hub.broker.PresenceStore`."""

    def __init__(self, publish: Callable[[str, bytes], object]) -> None:
        """`publish` takes a channel and the payload of a join or leave."""
        self._publish = publish
        # From `start` to `stop`.
        self._started = False
        # No channel without entries.
        self._channels: defaultdict[str, dict[str, _Entry]] = defaultdict(dict)

    def __repr__(self) -> str:
        return f"<MemoryPresence {sum(map(len, self._channels.values()))} entries, {len(self._channels)} channels>"

    @property
    def entries(self) -> int:
        return sum(map(len, self._channels.values()))

    def start(self) -> None:
        """Begin with nobody."""
        self._started = True

    def stop(self) -> None:
        """Forget everybody, without a word: nobody would hear it."""
        self._started = False
        self._channels.clear()

    def add(self, channel: str, client: str, user: str, info: bytes, *, announce: bool) -> asyncio.Future[None]:
        if not self._started:
            return _stopped()
        entries = self._channels[channel]
        joins = client not in entries
        entries[client] = _Entry(user, info, announce)
        if joins and announce:
            self._publish(channel, b"+" + info)
        return _done(None)

    def remove(self, channel: str, client: str) -> asyncio.Future[None]:
        if not self._started:
            return _stopped()
        entries = self._channels.get(channel, {})
        entry = entries.pop(client, None)
        if entry is not None and not entries:
            del self._channels[channel]
        if entry is not None and entry.announce:
            self._publish(channel, b"-" + entry.info)
        return _done(None)

    def read(self, channel: str) -> asyncio.Future[dict[str, bytes]]:
        if not self._started:
            return _stopped()
        return _done({client: entry.info for client, entry in self._channels.get(channel, {}).items()})

    def stats(self, channel: str) -> asyncio.Future[tuple[int, int]]:
        if not self._started:
            return _stopped()
        entries = self._channels.get(channel, {})
        return _done((len(entries), len({entry.user for entry in entries.values()})))


def _done(result: T) -> asyncio.Future[T]:
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future


def _stopped() -> asyncio.Future[Any]:
    """An error that nobody waits for is not worth asyncio's warning."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(BrokerUnavailable(STOPPED))
    future.exception()
    return future
