"""The core: lifecycle, publish, subscribe, deliver."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Iterable
from typing import Any, Self

import msgspec

from .broker import Broker
from .errors import BrokerUnavailable, MessageTooBig
from .log import Throttled
from .protocol import envelope
from .protocol.frames import binary_frame, text_frame
from .registry import Channel, Registry, Subscriber
from .types import Publication, channel_name

__all__ = ["HubCore", "publication_of"]

log = logging.getLogger("hub")


def publication_of(data: Any, exclude: bytes = b"") -> Publication:
    """How Python values travel: `bytes` as a binary message, `str` as the text that it is, all else as JSON text.

    Raises TypeError for what JSON cannot say.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return Publication(bytes(data), False, exclude)
    if isinstance(data, str):
        return Publication(data.encode(), True, exclude)
    return Publication(msgspec.json.encode(data), True, exclude)


class HubCore:
    """One worker's hub: its local connections on one side, the broker on the other."""

    def __init__(self, broker: Broker, *, max_message_size: int = 65536, subscribe_timeout: float = 5.0) -> None:
        self.broker = broker
        self.registry = Registry()
        # This worker among all; in hello frames, logs and connection ids.
        self.node = os.urandom(6).hex()
        self._max_message_size = max_message_size
        self._subscribe_timeout = subscribe_timeout
        self._ids = itertools.count(1)
        # Channels with pending publications; a flush is scheduled while there are any.
        self._dirty: list[Channel] = []
        # None while stopped.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = asyncio.Lock()
        self.malformed = Throttled(log, logging.ERROR, "%d messages on the hub's Redis channels are not the hub's")
        self.unsent = Throttled(log, logging.ERROR, "%d publications of clients could not be relayed")

    def __repr__(self) -> str:
        state = "stopped" if self._loop is None else "ready" if self.ready else "not ready"
        channels, clients = len(self.registry.channels), self.registry.subscribers
        return f"<{type(self).__name__} {channels} channels, {clients} clients, {self.broker.name} {state}>"

    # Lifecycle

    @property
    def ready(self) -> bool:
        """Whether what is published now is expected to arrive; see `Broker.ready`."""
        return self._loop is not None and self.broker.ready

    async def start(self) -> None:
        """Start relaying; does nothing if it is running in this event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        async with self._starting:
            if self._loop is not loop:
                await self.broker.start(self.deliver)
                self._loop = loop

    async def stop(self) -> None:
        """The start reversed. Connections are closed by the server, not here."""
        if self._loop is not None:
            self._loop = None
            await self.broker.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # Publishing

    async def publish(self, channel: str, data: Any, *, exclude: bytes = b"") -> None:
        """Send `data` to every client of `channel`, on every worker.

        `bytes` arrive as a binary message, a `str` as the text that it is, all else as JSON text. Returns once Redis
        has taken it: at most once, and not stored. `exclude` is the `id` of a connection that shall not get it.

        Raises BrokerUnavailable if Redis is away (it says whether the publication may have been sent), InvalidChannel,
        MessageTooBig, TypeError for what JSON cannot say.
        """
        await self.start()
        await self.send(channel_name(channel), publication_of(data, exclude))

    def send(self, channel: str, publication: Publication) -> asyncio.Future[None]:
        """`publish` without waiting, for callers that keep an order. Raises MessageTooBig."""
        if len(publication.data) > self._max_message_size:
            raise MessageTooBig(
                f"the message has {len(publication.data)} bytes, allowed are {self._max_message_size} "
                "(HUB_MAX_MESSAGE_SIZE)"
            )
        return self.broker.publish(channel, envelope.encode(publication))

    # Subscribing

    def next_id(self) -> bytes:
        """A connection id that no other connection of any worker has."""
        return f"{self.node}{next(self._ids):x}".encode()

    async def subscribe(self, subscriber: Subscriber, channel: str) -> None:
        """Deliver `channel` to `subscriber`; done once the broker has confirmed.

        Raises BrokerUnavailable if that takes longer than `subscribe_timeout`; nothing is left behind then.
        """
        self.registry.subscribe(subscriber, channel)
        try:
            async with asyncio.timeout(self._subscribe_timeout):
                await self.broker.subscribe(channel)
        except TimeoutError:
            self.unsubscribe(subscriber, channel)
            raise BrokerUnavailable(
                f"Redis has not confirmed a subscription in {self._subscribe_timeout:g} s"
            ) from None
        except BaseException:
            self.unsubscribe(subscriber, channel)
            raise

    def unsubscribe(self, subscriber: Subscriber, channel: str) -> None:
        """Stop delivering `channel` to `subscriber`, at once."""
        if self.registry.unsubscribe(subscriber, channel):
            self.broker.unsubscribe(channel)

    def remove(self, subscriber: Subscriber) -> None:
        """Forget a connection; may be called twice."""
        for channel in self.registry.remove(subscriber):
            self.broker.unsubscribe(channel)

    # Delivering: from here to the socket there is no await, no queue and no task

    def deliver(self, name: str, payload: bytes) -> None:
        """Called by the broker for each publication; it is written at the end of the tick, with the tick's others."""
        channel = self.registry.channels.get(name)
        if channel is None or self._loop is None:
            return  # the broker lingers after the last unsubscribe
        try:
            publication = envelope.decode(payload)
        except ValueError:
            self.malformed.add()
            return
        if not channel.pending:
            if not self._dirty:
                self._loop.call_soon(self._flush)
            self._dirty.append(channel)
        channel.pending.append(publication)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for channel in dirty:
            publications, channel.pending = channel.pending, []
            try:
                _fan_out(channel, publications)
            except Exception:
                log.exception("unexpected fault while writing to the clients of %r", channel)


def _fan_out(channel: Channel, publications: list[Publication]) -> None:
    frames = [text_frame(p.data) if p.text else binary_frame(p.data) for p in publications]
    joined = frames[0] if len(frames) == 1 else b"".join(frames)
    excluded = {p.exclude for p in publications if p.exclude}
    if not excluded:
        for subscriber in channel.subscribers:
            subscriber.wire.write(joined)
        return
    for subscriber in channel.subscribers:
        if subscriber.id in excluded:
            _write_others(subscriber, zip(publications, frames, strict=True))
        else:
            subscriber.wire.write(joined)


def _write_others(subscriber: Subscriber, framed: Iterable[tuple[Publication, bytes]]) -> None:
    if others := b"".join([frame for publication, frame in framed if publication.exclude != subscriber.id]):
        subscriber.wire.write(others)
