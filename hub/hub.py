"""The core: lifecycle, publish, subscribe, deliver."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

from msgspec.structs import replace

from .broker import Broker
from .deadlines import Deadlines
from .delivery import Delivery
from .errors import BrokerUnavailable, Errors, Refused
from .log import Throttled
from .namespaces import Namespaces
from .protocol import envelope
from .protocol.forms import RAW, Form, RawForm
from .protocol.replies import read_client_info
from .publishing import Order, check_size, prepare, publication_of
from .registry import Channel, Registry, Subscriber
from .streams import Streams
from .types import (
    ClientInfo,
    HistoryResult,
    PresenceStats,
    Publication,
    PublishResult,
    SlowPolicy,
    StreamPosition,
    channel_name,
)

__all__ = ["HubCore", "publication_of"]

log: logging.Logger = logging.getLogger("hub")

ELSEWHERE = (
    "the hub runs in the event loop of another thread: call it there, with asyncio.run_coroutine_threadsafe or "
    "anyio.from_thread.run, or publish with hub.sync.Publisher (a TestClient has one loop inside of its `with` only)"
)


class HubCore:
    """One worker's hub: its local connections on one side, the broker on the other."""

    def __init__(
        self,
        broker: Broker,
        *,
        max_message_size: int = 65536,
        subscribe_timeout: float = 5.0,
        namespaces: Namespaces | None = None,
        recovery_limit: int = 300,
        slow_policy: SlowPolicy = "disconnect",
    ) -> None:
        self.broker = broker
        self.registry: Registry = Registry()
        self.delivery: Delivery = Delivery(self.registry)
        self.streams: Streams = Streams(broker, self.registry, self.delivery.emit, recovery_limit)
        self.namespaces: Namespaces = namespaces or Namespaces()
        self._recovery_limit = recovery_limit
        # Of raw clients where the namespace says nothing.
        self._slow_policy = slow_policy
        # What connections owe in time; from `start` on.
        self.deadlines: Deadlines = None  # type: ignore[assignment]
        self._max_message_size = max_message_size
        self._subscribe_timeout = subscribe_timeout
        self._ids = itertools.count(1)
        # None while stopped.
        self._loop: asyncio.AbstractEventLoop | None = None
        # Whether the process is about to end: it serves, but nobody new is to be sent to it.
        self.leaving = False
        self._starting = asyncio.Lock()
        # For `hub.metrics`, each with its bytes: messages of clients, publications for the relay.
        self.received = self.received_bytes = 0
        self.taken: int = 0
        self.taken_bytes: int = 0
        self.malformed: Throttled = Throttled(
            log, logging.ERROR, "%d messages on the hub's Redis channels are not the hub's"
        )
        self.unsent: Throttled = Throttled(log, logging.ERROR, "%d publications could not be relayed")
        self.unhandled: Throttled = Throttled(log, logging.ERROR, "%d messages were not handled by on_message")
        self.unserved: Throttled = Throttled(
            log, logging.ERROR, "%d commands of clients failed because Redis did not answer"
        )

    def __repr__(self) -> str:
        state = "stopped" if self._loop is None else "ready" if self.ready else "not ready"
        channels, clients = len(self.registry.channels), self.registry.subscribers
        return f"<{type(self).__name__} {channels} channels, {clients} clients, {self.broker.name} {state}>"

    @property
    def node(self) -> str:
        """This worker among all; in hello frames, logs and connection ids."""
        return self.broker.node

    # Lifecycle

    @property
    def ready(self) -> bool:
        """Whether what is published now is expected to arrive (`Broker.ready`), and will be for a while."""
        return self._loop is not None and self.broker.ready and not self.leaving

    async def start(self) -> None:
        """Start relaying; does nothing if it is running in this event loop.

        Raises RuntimeError if it relays to other processes and runs in the event loop of another thread.
        """
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None and self._loop.is_running() and self.broker.shared:
            raise RuntimeError(ELSEWHERE)  # there its connections would stay, and be heard twice
        async with self._starting:
            if self._loop is not loop:
                await self.broker.start(self.deliver, self)
                self.streams.start()
                self.delivery.start(loop)
                self.deadlines = Deadlines(loop)
                self._loop = loop

    async def stop(self) -> None:
        """The start reversed. Connections are closed by the server, not here."""
        if self._loop is not None:
            self._loop = None
            self.delivery.stop()
            await self.streams.stop()
            await self.broker.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # Publishing

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        exclude: bytes = b"",
        tags: Mapping[str, str] | None = None,
        idempotency_key: str = "",
        version: int = 0,
        version_epoch: str = "",
        skip_history: bool = False,
        delta: bool = False,
        known: bool = False,
    ) -> PublishResult:
        """Send `data` to every client of `channel`, on every worker.

        `bytes` arrive as a binary message, a `str` as the text that it is, all else as JSON text: a model of pydantic
        too, by its aliases. Returns once Redis has taken it. It is at most once: kept if the channel's namespace has a
        history, else gone when delivered.

        `exclude` is the `id` of a connection of `join` (bytes) that shall not get it; protocol clients and event
        streams hear everything, also what they publish themselves, and a raw client leaves out its own by `echo=0`. The
        same `idempotency_key` within 5 minutes publishes nothing and returns the first result; so does a `version` that
        is not newer than the last. With `delta` it may be sent as the difference to the one before, to clients that
        asked for it. With `known` the channel's namespace must be configured and take such data; else it is like one
        without a namespace.

        Raises Refused (102) for a namespace that is not known (with `known`) and for a name that none of a namespace's
        typed channels has; Refused (107) for data that do not fit a typed channel's model, or the namespace's format
        (with `known`); BrokerUnavailable if Redis is away (it says whether the publication may have been sent);
        InvalidChannel, MessageTooBig, TypeError for what JSON cannot say.
        """
        await self.start()
        return await self.issue(
            prepare(
                self.namespaces,
                channel,
                data,
                exclude,
                tags,
                idempotency_key,
                version,
                version_epoch,
                skip_history,
                delta,
                known,
            )
        )

    async def issue(self, order: Order) -> PublishResult:
        """`publish` what is prepared; the hub must be started. Raises BrokerUnavailable, MessageTooBig."""
        if self.delivery.tracing is None:
            return await self._issue(order)
        with self.delivery.tracing.publishing(order) as traced:
            return await self._issue(traced)

    async def _issue(self, order: Order) -> PublishResult:
        payload = envelope.encode(self._take(order.publication))
        try:
            if order.plain:
                await self.broker.publish(order.channel, payload)
                return PublishResult()
            return await self.broker.append(
                order.channel,
                payload,
                history=order.history,
                idempotency_key=order.idempotency_key,
                version=order.version,
                version_epoch=order.version_epoch,
            )
        except BrokerUnavailable as error:
            self.unsent.add(last=str(error))
            raise

    def send(self, channel: str, publication: Publication) -> asyncio.Future[Any]:
        """Publish without waiting, for callers that keep an order. Raises MessageTooBig."""
        if self.namespaces.of_room(channel).history is not None:
            return self.append(channel, publication)
        return self.broker.publish(channel, envelope.encode(self._take(publication)))

    def append(self, channel: str, publication: Publication) -> asyncio.Future[PublishResult]:
        """Publish into the history, as the channel's namespace has it. Raises MessageTooBig."""
        options = self.namespaces.of_room(channel)
        if options.delta_publish and not publication.delta:
            publication = replace(publication, delta=True)
        return self.broker.append(channel, envelope.encode(self._take(publication)), history=options.history)

    def _take(self, publication: Publication) -> Publication:
        """Count it, if it is not too big."""
        size = check_size(publication, self._max_message_size)
        self.taken += 1
        self.taken_bytes += size
        return publication

    # Subscribing

    def next_id(self) -> bytes:
        """A connection id that no other connection of any worker has."""
        return f"{self.node}{next(self._ids):x}".encode()

    def raw_form(self, channel: str) -> Form:
        """Of a subscriber that gets the data alone."""
        return RawForm(self.namespaces.of_room(channel).slow_policy or self._slow_policy)

    async def subscribe(self, subscriber: Subscriber, channel: str, form: Form = RAW) -> None:
        """Deliver `channel` to `subscriber`; done once the broker has confirmed.

        Raises BrokerUnavailable if that takes longer than `subscribe_timeout`; nothing is left behind then.
        """
        history = self.namespaces.of_room(channel).history
        if history is not None:
            async with self.attending(channel) as attended:
                await self.streams.locate(attended, history)
                self.join(subscriber, attended, form)
            return
        self.registry.subscribe(subscriber, channel, form)
        try:
            await self._confirmed(channel)
        except BaseException:
            self.unsubscribe(subscriber, channel)
            raise

    @asynccontextmanager
    async def attending(self, name: str) -> AsyncIterator[Channel]:
        """A channel that is heard in this worker while the block runs, and longer if somebody joins in it.

        Raises BrokerUnavailable if entering takes longer than `subscribe_timeout`.
        """
        channel = self.registry.reserve(name)
        try:
            await self._confirmed(name)
            yield channel
        finally:
            self._release(channel)

    async def _confirmed(self, channel: str) -> None:
        confirming = self.broker.subscribe(channel)
        if isinstance(confirming, asyncio.Future) and confirming.done():
            confirming.result()  # who is not its first needs no timer
            return
        try:
            async with asyncio.timeout(self._subscribe_timeout):
                await confirming
        except TimeoutError:
            raise BrokerUnavailable(
                f"Redis has not confirmed a subscription in {self._subscribe_timeout:g} s"
            ) from None

    def join(self, subscriber: Subscriber, channel: Channel, form: Form) -> None:
        """Write to `subscriber` what is delivered from now on, and nothing of what was delivered before."""
        if channel.pending:
            self.delivery.write(channel)
        channel.interest += 1
        self.registry.join(subscriber, channel, form)

    def _release(self, channel: Channel) -> None:
        if self.registry.release(channel):
            self.broker.unsubscribe(channel.name)

    def unsubscribe(self, subscriber: Subscriber, channel: str) -> None:
        """Stop delivering `channel` to `subscriber`, at once."""
        if self.registry.unsubscribe(subscriber, channel):
            self.broker.unsubscribe(channel)

    def remove(self, subscriber: Subscriber) -> None:
        """Forget a connection; may be called twice."""
        for channel in self.registry.remove(subscriber):
            self.broker.unsubscribe(channel)

    # Asking

    async def history(
        self, channel: str, *, limit: int = 0, since: StreamPosition | None = None, reverse: bool = False
    ) -> HistoryResult:
        """What was published in `channel`, after `since` (in `reverse` before it, newest first), and the end.

        `limit` 0 is nothing but the position, -1 all; more than `recovery_limit` is never read. Raises Refused if the
        channel has no history (108) or another one than `since` says (112), BrokerUnavailable.
        """
        await self.start()
        options = self.namespaces.find(channel_name(channel))
        if options is None:
            raise Refused(Errors.UNKNOWN_CHANNEL)
        if options.history is None:
            raise Refused(Errors.NOT_AVAILABLE)
        if reverse and since is not None and since.offset == 0:
            raise Refused(Errors.BAD_REQUEST)
        most = self._recovery_limit
        page = await self.broker.read_history(
            channel,
            since=since.offset if since is not None else None,
            limit=most if limit < 0 else min(limit, most),
            reverse=reverse,
            meta_ttl=options.history.meta_ttl,
        )
        if since is not None and since.epoch not in ("", page.position.epoch):
            raise Refused(Errors.UNRECOVERABLE_POSITION)
        return HistoryResult(self.streams.publications(channel, page), page.position)

    async def presence(self, channel: str) -> dict[str, ClientInfo]:
        """Who is in `channel`, by the id of the connection. Raises Refused (108), BrokerUnavailable."""
        self._require_presence(channel)
        await self.start()
        return {key: read_client_info(info) for key, info in (await self.presence_infos(channel)).items()}

    async def presence_infos(self, channel: str) -> dict[str, bytes]:
        """The same as JSON, without asking whether there is presence; what is not the hub's is counted and left out."""
        found = await self.broker.presence.read(channel)
        known = {key: info for key, info in found.items() if envelope.is_json_object(info)}
        if len(known) < len(found):
            self.malformed.add(len(found) - len(known), last=f"presence in {channel!r}")
        return known

    async def presence_stats(self, channel: str) -> PresenceStats:
        """How many connections and users are in `channel`. Raises Refused (108), BrokerUnavailable."""
        self._require_presence(channel)
        await self.start()
        return PresenceStats(*await self.broker.presence.stats(channel))

    def _require_presence(self, channel: str) -> None:
        options = self.namespaces.find(channel_name(channel))
        if options is None:
            raise Refused(Errors.UNKNOWN_CHANNEL)
        if not options.presence:
            raise Refused(Errors.NOT_AVAILABLE)

    # Delivering: from here to the socket there is no await, no queue and no task

    def deliver(self, name: str, payload: bytes) -> None:
        """Called by the broker for each publication; it is written at the end of the tick, with the tick's others."""
        channel = self.registry.channels.get(name)
        if channel is None or self._loop is None:
            return  # the broker lingers after the last unsubscribe
        try:
            event = envelope.decode(payload)
        except ValueError:
            self.malformed.add(last=repr(name))
            return
        if isinstance(event, Publication) and event.offset:
            self.streams.arrive(channel, event)
        else:
            self.delivery.emit(channel, event)

    def on_loss(self) -> None:
        """Called by the broker when it hears nothing any more."""
        self.streams.doubt_all()

    def on_gap(self, *, moved: bool = False) -> None:
        """Called by the broker when it hears again: what was missed is read from the histories."""
        self.streams.heal_all(moved=moved)

    def on_control(self, payload: bytes) -> None:
        """Called by the broker for what workers tell each other; see `hub.control`."""
