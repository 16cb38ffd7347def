"""encode/broadcaster's `Broadcast` on the hub: `from hub.compat import Broadcast` is all that changes.

::

    broadcast = Broadcast("redis://localhost:6379")     # or memory://, for one process

    async with broadcast:                               # or connect(), disconnect()
        async with broadcast.subscribe(channel="chatroom") as subscriber:
            await broadcast.publish(channel="chatroom", message="hello")
            async for event in subscriber:
                print(event.channel, event.message)

What is different, and why, is in docs/migrating.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from .broadcast_backend import BackendBroker, BroadcastBackend
from .config import Settings
from .embed import Hub
from .errors import ConfigError
from .inbox import VALUES, Inbox, MessagesLost, Unsubscribed
from .memory import MemoryBroker
from .namespaces import OPEN, ChannelOptions
from .types import channel_name

__all__ = ["Broadcast", "BroadcastBackend", "Event", "MessagesLost", "Subscriber", "Unsubscribed"]

REDIS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
STREAM = "redis-stream"

# What broadcaster takes and the hub does not speak.
ELSEWHERE = {"postgres": "Postgres", "postgresql": "Postgres", "kafka": "Kafka"}

# Publications and seconds that are kept under redis-stream://, so that an interruption of Redis costs no message.
STREAM_SIZE = 300
STREAM_TTL = 300.0


@dataclass(frozen=True, slots=True)
class Event:
    """One message of one channel.

    `message` is the text that was published, or the value where it was neither text nor bytes; see `publish`.
    """

    channel: str
    message: Any


class Subscriber:
    """The messages of a channel: `async for event in subscriber`, or `await subscriber.get()`.

    What waits for it is bounded by `HUB_SLOW_BUDGET` bytes (1 MiB). Beyond it messages are dropped, counted and
    logged; the iterator gets all that came before, then MessagesLost, and may go on behind the gap.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def __repr__(self) -> str:
        return f"<Subscriber {self._inbox.channel!r}, {self._inbox.size} bytes wait>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Ends with the subscription. Raises MessagesLost."""
        try:
            return await self.get()
        except Unsubscribed:
            raise StopAsyncIteration from None

    async def get(self) -> Event:
        """The next event. Raises Unsubscribed when the subscription has ended, MessagesLost."""
        return Event(self._inbox.channel, await self._inbox.take())


class Broadcast:
    """Channels over all processes that have the same URL."""

    def __init__(
        self, url: str | None = None, *, backend: BroadcastBackend | None = None, hub: Hub | None = None
    ) -> None:
        """One of three: a `url` (what `REDIS_URL` may be, or memory://), a `backend`, or the application's own `hub`.

        With `hub`, its channels are these: its WebSocket clients and the iterators hear each other. All else is set
        by `HUB_*`.

        Raises ConfigError.
        """
        if [url, backend, hub].count(None) != 2:
            raise ConfigError('Broadcast needs one of url, backend and hub: Broadcast("redis://localhost:6379")')
        self._own = hub is None
        self._hub = hub or (_hub_on(backend) if backend is not None else _hub_at(url or ""))
        # Subscriptions whose blocks have not ended yet.
        self._inboxes: set[Inbox] = set()
        self._connected = False

    def __repr__(self) -> str:
        state = "connected" if self._connected else "not connected"
        return f"<Broadcast {self._hub.broker.name}, {len(self._inboxes)} subscribers here, {state}>"

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    async def connect(self) -> None:
        """Begin; twice is once. Redis need not be there yet."""
        await self._hub.start()
        self._connected = True

    async def disconnect(self) -> None:
        """End every subscription, and with it its iteration. A `hub` that was given stays as it is."""
        self._connected = False
        for inbox in self._inboxes:
            self._hub.remove(inbox)
            inbox.end()
        if self._own:
            await self._hub.stop()

    async def publish(self, channel: str, message: Any) -> None:
        """Send to every subscriber of `channel` in every process; returns once Redis has taken it.

        `str` arrives as it is; `bytes`, which must be UTF-8, and numbers arrive as `str`; all else travels as JSON and
        arrives as the value that JSON has of it.

        Raises BrokerUnavailable if Redis is away (it says whether the message may have been sent), MessageTooBig,
        InvalidChannel, ValueError for bytes that are not text, TypeError for what JSON cannot say, RuntimeError if not
        connected.
        """
        self._require_connected()
        await self._hub.publish(channel, _sent(message))
        if not self._hub.broker.shared:  # memory takes everything at once, and nobody could read meanwhile
            await asyncio.sleep(0)

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[Subscriber]:
        """Hear `channel` within the block: all that is published from its beginning on, in the order of Redis.

        Raises BrokerUnavailable if Redis does not confirm it within `HUB_SUBSCRIBE_TIMEOUT`, InvalidChannel,
        RuntimeError if not connected. Once it is confirmed it outlasts every interruption of Redis.
        """
        self._require_connected()
        inbox = Inbox(channel_name(channel), self._hub.settings.slow_budget)
        self._inboxes.add(inbox)
        try:
            await self._hub.subscribe(inbox, channel, VALUES)
            yield Subscriber(inbox)
        finally:
            self._inboxes.discard(inbox)
            self._hub.remove(inbox)
            inbox.end()

    def _require_connected(self) -> None:
        if not self._connected:
            raise RuntimeError(
                "the Broadcast is not connected: `await broadcast.connect()` or `async with broadcast` comes first"
            )


def _sent(message: Any) -> Any:
    """As redis-py would have said it, where it would have."""
    if isinstance(message, bytes | bytearray | memoryview):
        try:
            return bytes(message).decode()
        except UnicodeDecodeError:
            raise ValueError(
                "the message has bytes that are not UTF-8 text, which iterators get: encode them, in base64 for "
                "example, or publish them to WebSocket clients with `hub.publish`"
            ) from None
    if isinstance(message, int | float) and not isinstance(message, bool):
        return repr(message)
    return message


# The hub behind it


def _hub_on(backend: BroadcastBackend) -> Hub:
    if not hasattr(backend, "next_published"):
        raise ConfigError(f"{type(backend).__name__} is not a backend: it needs the methods of BroadcastBackend")
    plain = Settings.load().model_copy(update={"without_namespace": OPEN, "namespaces": {}})
    return Hub(plain, broker=BackendBroker(backend))


def _hub_at(url: str) -> Hub:
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        return Hub(Settings.load(), broker=MemoryBroker())
    if scheme in REDIS:
        return Hub(Settings.load(), redis=url)
    if scheme == STREAM:
        return Hub(_keeping(Settings.load()), redis=url.replace(STREAM, "redis", 1))
    if scheme in ELSEWHERE:
        raise ConfigError(
            f"{scheme}://: the hub does not relay through {ELSEWHERE[scheme]}; give Broadcast a redis:// URL "
            "(memory:// for one process), and publish there what comes from elsewhere"
        )
    known = ", ".join(f"{name}://" for name in ("memory", *REDIS, STREAM))
    raise ConfigError(f"{scheme or 'no scheme'}: the URL of a Broadcast begins with one of {known}")


def _keeping(settings: Settings) -> Settings:
    """With a history for channels without a namespace, if they have none."""
    options = settings.without_namespace
    if options.history is not None:
        return settings
    kept = {"history_size": STREAM_SIZE, "history_ttl": STREAM_TTL}
    return settings.model_copy(update={"without_namespace": ChannelOptions(**{**options.model_dump(), **kept})})
