"""The contract between the hub and what relays between workers; `hub.memory` is the reference implementation."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

from .types import HistoryOptions, HistoryPage, PublishResult

__all__ = ["IDEMPOTENCY_TTL", "Broker", "Deliver", "Listener", "Overhearing", "PresenceStore", "fresh_epoch"]

# Called with the channel and the published bytes. Synchronous: there is no await between Redis and the socket.
Deliver = Callable[[str, bytes], None]


# Seconds for which the result of a publication with an idempotency key is kept.
IDEMPOTENCY_TTL = 300.0


def fresh_epoch() -> str:
    """A name that no history of any channel has had yet."""
    return os.urandom(5).hex()


class Listener(Protocol):
    """What a broker tells besides publications. Synchronous."""

    def on_loss(self) -> None:
        """Nothing is heard any more; `on_gap` follows when that is over."""

    def on_gap(self, *, moved: bool) -> None:
        """All channels are heard again after a time in which publications may have been missed.

        `moved`: from another server, or from one with other data; it may lack what was published last before.
        """

    def on_control(self, payload: bytes) -> None:
        """Another worker, or this one, has called `broadcast` or `tell`."""


class PresenceStore(Protocol):
    """Who is in which channel, of all workers together.

    An entry belongs to the worker that added it. If that worker dies, the others remove its entries within the lease,
    each once. What `add` and `remove` were last called with is what this worker wants to be true: while the broker is
    away it is remembered, and made true when the broker is back; the futures fail with BrokerUnavailable then, which
    may be ignored.
    """

    @property
    def entries(self) -> int:
        """How many this worker has."""

    def add(self, channel: str, client: str, user: str, info: bytes, *, announce: bool) -> asyncio.Future[None]:
        """Register a connection; `client` is its id, `info` a ClientInfo as JSON.

        With `announce` the channel hears of the join (as `hub.types.Membership`) if it was not registered before, and
        of its leave later, whoever removes the entry.
        """

    def remove(self, channel: str, client: str) -> asyncio.Future[None]:
        """Take a connection out again; nothing happens if it is not in."""

    def read(self, channel: str) -> asyncio.Future[dict[str, bytes]]:
        """ClientInfo as JSON by client id."""

    def stats(self, channel: str) -> asyncio.Future[tuple[int, int]]:
        """How many connections and how many different users; cheaper than `read`."""


@runtime_checkable
class Overhearing(Protocol):
    """What a broker can besides, if it can: hear channels that nobody names. For consumers (`hub.typed`)."""

    def listen(self, prefix: str, heard: Deliver) -> None:
        """Call `heard` for what is published in channels whose names begin so, from now on until `stop`.

        Independent of subscriptions, and at most once: there is no telling what was missed in a gap.
        """

    def claim(self, key: str, seconds: float) -> asyncio.Future[bool]:
        """Whether this worker is the first of all that asks for `key` within `seconds`."""


class Broker(Protocol):
    """Relays publications between workers.

    All methods are called from the event loop of the last `start`. Outside of `start` and `stop` nothing is relayed:
    `publish` and `subscribe` fail with BrokerUnavailable, and no subscription outlives `stop`.
    """

    @property
    def name(self) -> str:
        """What an operator would call it, without secrets: `redis://host:6379/0`, `memory`."""

    @property
    def node(self) -> str:
        """The id of this worker among all, hexadecimal."""

    @property
    def shared(self) -> bool:
        """Whether other workers hear what this one publishes."""

    @property
    def ready(self) -> bool:
        """Whether a publication made now is expected to come back.

        Proven by a round trip of this worker's own heartbeat within the last `redis_timeout` seconds, not by an open
        socket.
        """

    @property
    def presence(self) -> PresenceStore:
        """Who is where."""

    async def start(self, deliver: Deliver, listener: Listener | None = None) -> None:
        """Begin to connect. Returns at once: an unreachable broker is a state, not an error.

        Does nothing if it is running in this event loop; in another one it begins anew.
        """

    async def stop(self) -> None:
        """End every task and connection. What still waits fails with BrokerUnavailable. May be called twice."""

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[Any]:
        """Send `payload` to every worker with a subscription of `channel`, this one included.

        The publication is on its way (or refused) when the call returns, so two calls keep their order; the future
        says how it went: done once the broker has taken it, BrokerUnavailable otherwise. At most once: it is never
        repeated by itself. It need not be awaited, then a failure is lost.
        """

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
        """`publish` that is also kept, in one atomic step: the order of the history is the order of delivery.

        What is delivered is the payload behind its position, `p<offset>:<epoch>:` (`hub.protocol.envelope`). Without
        `history` nothing is kept and no position put in front. The same `idempotency_key` in the same channel within
        5 minutes returns the first result and sends nothing. With a `version` above 0, nothing is sent unless it is
        newer than the last one of that `version_epoch`. At most once, like `publish`: it is never repeated by itself.
        """

    def read_history(
        self, channel: str, *, since: int | None, limit: int, reverse: bool, meta_ttl: float
    ) -> asyncio.Future[HistoryPage]:
        """Publications after offset `since` (before it in `reverse`, newest first), and the end of the history.

        `since` None is one end of what is kept: the oldest, or in `reverse` the newest. `limit` 0 is none, -1 all.
        Reading gives a channel its epoch, if it has none, and lets it live for `meta_ttl` seconds more.
        """

    def remove_history(self, channel: str) -> asyncio.Future[None]:
        """Forget all publications; the position stays, so that offsets go on."""

    def renew_history(self, channel: str, epoch: str) -> asyncio.Future[None]:
        """Let the history go on under another epoch (`hub.protocol.stream.renewed`) if `epoch` is the present one.

        Publications and offsets stay. For a history that has lost publications which somebody may rely on.
        """

    def broadcast(self, payload: bytes) -> asyncio.Future[int]:
        """Tell every worker, this one included; how many were told."""

    def tell(self, node: str, payload: bytes) -> asyncio.Future[int]:
        """Tell the worker whose broker has this `node` id; 0 if there is none."""

    def subscribe(self, channel: str) -> Awaitable[None]:
        """Hear `channel` from now on, over reconnects, until `unsubscribe`.

        Done once the broker has confirmed: what is published afterwards arrives, unless the connection breaks.
        Waits as long as the broker is away (the caller brings the deadline). Several callers share one subscription.
        Raises BrokerUnavailable if the broker is stopped or the channel is unsubscribed meanwhile.
        """

    def unsubscribe(self, channel: str) -> None:
        """Stop hearing `channel`, for all who subscribed; does nothing if nobody did.

        The broker may linger, so that a quick return costs nothing.
        """
