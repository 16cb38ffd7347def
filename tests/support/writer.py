"""Publishes as a worker does, past all of them: fast, in large pieces, or at a server that none has come to yet."""

from __future__ import annotations

import asyncio
from itertools import count
from types import TracebackType
from typing import Self

from hub.errors import BrokerUnavailable
from hub.protocol import envelope
from hub.pubsub import RedisBroker
from hub.types import DataKind, HistoryOptions, Publication

from .ledger import Ledger, Place, content
from .waiting import eventually

__all__ = ["Writer"]

# As `deployment.CONFIG` has it.
KEPT = HistoryOptions(size=10_000, ttl=300.0, meta_ttl=30 * 24 * 3600.0)


class Writer:
    """A broker of its own."""

    def __init__(self, name: str, url: str, ledger: Ledger) -> None:
        """A long `name` makes large publications."""
        self._name, self._ledger = name, ledger
        self._broker = RedisBroker(url)
        self._numbers = count()
        # Why publications were refused, one entry each.
        self.refusals: list[str] = []

    async def __aenter__(self) -> Self:
        await self._broker.start(lambda channel, payload: None)
        await eventually(lambda: self._broker.ready)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._broker.stop()

    async def publish(self, channel: str, number: int = 1) -> int:
        """That many at once; how many were accepted."""
        texts = [content(self._name, next(self._numbers)) for _ in range(number)]
        payloads = [envelope.encode(Publication(f'"{text}"'.encode(), DataKind.JSON)) for text in texts]
        appends = [self._broker.append(channel, payload, history=KEPT) for payload in payloads]
        accepted = 0
        for text, result in zip(texts, await asyncio.gather(*appends, return_exceptions=True), strict=True):
            if isinstance(result, BrokerUnavailable):
                self.refusals.append(str(result))
                if "may have been sent" in str(result):
                    self._ledger.doubt(channel, text)
            elif isinstance(result, BaseException):
                raise result
            else:
                accepted += 1
                self._ledger.accept(channel, Place(result.epoch, result.offset), text)
        return accepted
