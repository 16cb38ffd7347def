"""The contract between the hub and what relays between workers, and its reference implementation in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from .errors import BrokerUnavailable

__all__ = ["Broker", "Deliver", "MemoryBroker"]

# Called with the channel and the published bytes. Synchronous: there is no await between Redis and the socket.
Deliver = Callable[[str, bytes], None]


class Broker(Protocol):
    """Relays publications between workers.

    All methods are called from the event loop of the last `start`. Outside of `start` and `stop` nothing is relayed:
    `publish` and `subscribe` fail with BrokerUnavailable, and no subscription outlives `stop`.
    """

    @property
    def name(self) -> str:
        """What an operator would call it, without secrets: `redis://host:6379/0`, `memory`."""

    @property
    def shared(self) -> bool:
        """Whether other workers hear what this one publishes."""

    @property
    def ready(self) -> bool:
        """Whether a publication made now is expected to come back.

        Proven by a round trip of this worker's own heartbeat within the last `redis_timeout` seconds, not by an open
        socket.
        """

    async def start(self, deliver: Deliver) -> None:
        """Begin to connect. Returns at once: an unreachable broker is a state, not an error.

        Does nothing if it is running in this event loop; in another one it begins anew.
        """

    async def stop(self) -> None:
        """End every task and connection. What still waits fails with BrokerUnavailable. May be called twice."""

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[None]:
        """Send `payload` to every worker with a subscription of `channel`, this one included.

        The publication is on its way (or refused) when the call returns, so two calls keep their order; the future
        says how it went: None once the broker has taken it, BrokerUnavailable otherwise. At most once: it is never
        repeated by itself. It need not be awaited, then a failure is lost.
        """

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


class MemoryBroker:
    """One process, no network: for a single worker, and the reference that the others are tested against."""

    name = "memory"
    shared = False

    def __init__(self) -> None:
        self.ready = False
        self._channels: set[str] = set()
        # Set by `start`.
        self._deliver: Deliver | None = None

    def __repr__(self) -> str:
        return f"<MemoryBroker {self.name} {'ready' if self.ready else 'not ready'}>"

    async def start(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self.ready = True

    async def stop(self) -> None:
        self._deliver = None
        self._channels.clear()
        self.ready = False

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[None]:
        if self._deliver is None:
            return _answer(BrokerUnavailable("not sent: the broker is stopped"))
        # As with Redis, the publisher's stack is not the subscriber's.
        asyncio.get_running_loop().call_soon(self._arrive, channel, payload)
        return _answer()

    def _arrive(self, channel: str, payload: bytes) -> None:
        if self._deliver is not None and channel in self._channels:
            self._deliver(channel, payload)

    def subscribe(self, channel: str) -> Awaitable[None]:
        if self._deliver is None:
            return _answer(BrokerUnavailable("not subscribed: the broker is stopped"))
        self._channels.add(channel)
        return _answer()

    def unsubscribe(self, channel: str) -> None:
        self._channels.discard(channel)


def _answer(error: BrokerUnavailable | None = None) -> asyncio.Future[None]:
    """A future that is done; an error that nobody waits for is not worth asyncio's warning."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
        done.exception()
    return done
