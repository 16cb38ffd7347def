"""One event stream: a client that listens to one channel and says nothing."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from dataclasses import replace
from functools import partial
from typing import Any

from msgspec import UNSET
from starlette.requests import HTTPConnection

from .admission import SSE
from .authority import Grant, Principal
from .clients import Context
from .errors import Disconnect, Disconnects, Ended, Unsubscribe, Unsubscribes
from .protocol.commands import Subscribe
from .protocol.replies import SubscribeResult, client_info
from .protocol.sse import PING, SseForm, event_id, greeting, hub_event
from .sse_wire import Headers, Receive, Send, SseWire
from .subscription import Plan, Subscription, introduce, plan, subscribe
from .types import ClientInfo, StreamPosition
from .wire_contract import HttpConnection

__all__ = ["EventStream", "may_return"]

log: logging.Logger = logging.getLogger("hub.sse")

# Milliseconds after which a browser comes back, from which each stream gets its own: those of a worker that has died
# come one after the other.
RETRY = (1000, 4000)
# Seconds that a client has to take the end, while the server goes on.
CLOSE_TIMEOUT = 5.0
# The client has gone; HTTP has no word for why.
GONE = Disconnect(code=1005, reason="")


class EventStream:
    """Implements `hub.registry.Subscriber` and `hub.deadlines.Timed`; among the worker's clients it is one of them."""

    __slots__ = (
        "_channel",
        "_disconnect",
        "_leaving",
        "_next_ping",
        "_server",
        "_stall",
        "client_id",
        "connection",
        "context",
        "due",
        "expire_at",
        "info",
        "subs",
        "user",
        "wire",
    )

    # It says nothing, so there is nothing of its own to leave out.
    id: bytes = b""

    def __init__(self, context: Context, send: Send, server: HttpConnection | None) -> None:
        """`server` is what the request came through, where that is our own."""
        self.context: Context = context
        self.wire: SseWire = SseWire(send, context.settings.slow_budget, self._on_slow)
        self._server = server
        # The request while it is judged, and on if functions of typed channels may ask for it.
        self.connection: HTTPConnection | None = None
        self.client_id: str = str(uuid.uuid4())
        self.user: str = ""
        # `conn_info`, JSON or empty.
        self.info: bytes = b""
        self.subs: dict[str, Subscription] = {}
        # Unix time, 0 for never.
        self.expire_at: float = 0
        # What it listens to, or is about to, while it counts among the connections: from when its user is known until
        # `close`; else None.
        self._channel: str | None = None
        # How it ends, from the moment in which somebody decided that.
        self._disconnect: Disconnect | None = None
        # The server ends, and soon the stream does.
        self._leaving = False
        # `wire.sent` at the last visit, if the client was slow then; else -1.
        self._stall = -1
        # Loop time.
        self._next_ping = 0.0
        self.due: int = 0

    def __repr__(self) -> str:
        return f"<EventStream {self.client_id} of {self.user!r} in {', '.join(map(repr, self.subs)) or 'nothing'}>"

    def is_subscribed(self, channel: str) -> bool:
        return channel in self.subs

    @property
    def channels(self) -> list[str]:
        """The one that it is about to hear, too."""
        return [self._channel] if self._channel is not None else []

    @property
    def extra(self) -> dict[str, str]:
        """For log lines."""
        return {"connection": self.client_id, "user": self.user}

    # The beginning

    async def open(self, request: HTTPConnection, token: str, wish: Subscribe) -> None:
        """Find out who it is and subscribe; what is delivered waits for `serve`. `wish.token` is for the subscription.

        Raises Refused, Ended, BrokerUnavailable; `close` it then.
        """
        context, self.connection = self.context, request
        principal = await context.authority.connect(request, token)
        self.user, self.info, self.expire_at = principal.user, principal.info, principal.expire_at
        refusal = context.admission.check_room()  # others have come while the application was asked
        if refusal is not None:
            raise Ended(refusal)
        context.admission.enter(SSE)
        context.clients.add(self)  # from now on it hears what is ordered for its user
        self._channel = wish.channel
        await self._subscribe(wish, await self._grant(principal, wish))
        if self._disconnect is not None:
            raise Ended(self._disconnect)
        if not context.authority.hooks.keep_connections:
            self.connection = None

    async def _grant(self, principal: Principal, wish: Subscribe) -> Grant:
        """By the rules for protocol clients; a channel of the connection's own token needs nothing more."""
        authority = self.context.authority
        if wish.channel in principal.subs and not wish.token:
            return authority.grant(wish.channel, principal.subs[wish.channel])
        return await authority.subscribe(self, wish.channel, wish.token)

    async def _subscribe(self, wish: Subscribe, grant: Grant) -> None:
        context = self.context
        wanted = plan(wish, grant.options, partial(context.authority.may, self, wish.channel, grant.options))
        form = SseForm(positioned=wanted.form.positioned, join_leave=wanted.form.join_leave)
        planned = replace(wanted, form=form)
        await subscribe(context.hub, self, wish.channel, planned, grant, partial(self._begun, wish, grant, planned))

    def _begun(self, wish: Subscribe, grant: Grant, planned: Plan, result: SubscribeResult) -> None:
        """Delivery has begun: the greeting and what was missed come before it."""
        self.wire.begin(self._greeting(wish, planned, result) + b"".join(map(bytes, result.publications)))
        announce = grant.options.join_leave
        info = client_info(ClientInfo(user=self.user, client=self.client_id, conn_info=self.info, chan_info=grant.info))
        presence = grant.options.presence or announce
        self.subs[wish.channel] = Subscription(
            info=info, server_side=False, presence=presence, announce=announce, expire_at=grant.expire_at
        )
        if presence:
            introduce(self.context.hub, self, wish.channel)

    def _greeting(self, wish: Subscribe, planned: Plan, result: SubscribeResult) -> bytes:
        told: dict[str, Any] = {"channel": wish.channel, "client": self.client_id, "recoverable": result.recoverable}
        if wish.recover:
            told["recovered"] = result.recovered
        if result.data is not UNSET:
            told["data"] = result.data
        # Where the client stands before the publications that follow; in the mode `cache` it stands nowhere between.
        between = planned.options.force_recovery_mode == "cache" and result.publications
        here = result.positioned and not between
        id = event_id(StreamPosition(result.offset, result.epoch)) if here else b""
        return greeting(round(random.uniform(*RETRY)), {"subscribed": told}, id=id)

    async def serve(self, receive: Receive, headers: Headers) -> None:
        """Until the end, whoever brings it about."""
        log.debug("event stream opened: %r", self, extra=self.extra)
        self._expect_end_of_server()
        if not self._leaving:
            interval = self.context.settings.ping_interval
            self._next_ping = self._now() + random.uniform(0.5, 1.0) * interval
            self._set_timer(self._next_ping - self._now())
        await self.wire.serve(receive, headers)

    def _expect_end_of_server(self) -> None:
        if self._server is None:
            self.context.departures.watch(self.leave)
            return
        self._server.on_shutdown = self.leave
        if self._server.draining:  # let in just before the end: its browser would take no other answer for "later"
            self.leave()

    # What happens to it

    def send(self, data: Any) -> None:
        """A message to this client alone; `data` is what JSON can say."""
        self.wire.write(hub_event({"message": data}))

    def unsubscribe(self, channel: str, unsubscribe: Unsubscribe = Unsubscribes.SERVER) -> None:
        """A stream of nothing is no stream; one that is being made is refused."""
        if channel in self.channels:
            self.end(Disconnect(code=unsubscribe.code, reason=unsubscribe.reason, reconnect=False))

    def on_insufficient(self, channel: str) -> None:
        """It comes back with its last id, and learns whether what is missing can be had."""
        self.end(Disconnects.INSUFFICIENT_STATE)

    def prolong(self, expire_at: float) -> None:
        """The connection may last until then."""
        self.expire_at = expire_at
        if self.wire.serving and self._disconnect is None and not self._leaving:
            self._set_timer(self._next_ping - self._now())

    def _on_slow(self) -> None:
        """Nothing that it is told would get through; it comes back with the id of what did."""
        self.close(Disconnects.SLOW)
        self._abort()

    # Time

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def on_due(self) -> None:
        if self._disconnect is not None:
            self._abort()
        elif self._leaving:
            self.end(Disconnects.SHUTDOWN)
        elif self._is_over(self.expire_at):
            self.end(Disconnects.EXPIRED)
        elif any(self._is_over(subscription.expire_at) for subscription in self.subs.values()):
            self.end(Disconnects.SUBSCRIPTION_EXPIRED)
        elif self.wire.busy:
            self._check_stall()
        else:
            self._ping()

    def _is_over(self, expire_at: float) -> bool:
        return bool(expire_at) and time.time() >= expire_at + self.context.settings.client_expired_grace

    def _check_stall(self) -> None:
        """It has taken nothing between two visits. Our own server looks itself, and more closely."""
        if self._server is None and self._stall == self.wire.sent:
            self.wire.give_up()
        else:
            self._stall = self.wire.sent
            self._set_timer(self.context.settings.slow_timeout)

    def _ping(self) -> None:
        self._stall = -1
        if self._now() >= self._next_ping:
            self.wire.write(PING)
            self._next_ping = self._now() + self.context.settings.ping_interval
        self._set_timer(self._next_ping - self._now())

    def _set_timer(self, delay: float) -> None:
        """Come back then, or when it expires."""
        expiries = [self.expire_at, *(subscription.expire_at for subscription in self.subs.values())]
        left = [at + self.context.settings.client_expired_grace - time.time() for at in expiries if at]
        self.context.hub.deadlines.set(self, max(0.0, min([delay, *left])))

    # The end

    def leave(self) -> None:
        """The server ends, and does not before its streams do: they end one after the other in the drain window."""
        self._leaving = True
        spread = random.uniform(0, 0.7) * self.context.settings.drain
        self.context.hub.deadlines.set(self, spread if self._disconnect is None else self._patience)

    @property
    def _patience(self) -> float:
        """Seconds that a client has to take the end."""
        return max(0.25, 0.2 * self.context.settings.drain) if self._leaving else CLOSE_TIMEOUT

    def end(self, disconnect: Disconnect) -> None:
        """Tell the client, and end the stream. Browsers come back after that, unless the page closes it."""
        if self._disconnect is not None:
            return
        if not self.wire.serving:
            self._disconnect = disconnect
            return
        told = {"code": disconnect.code, "reason": disconnect.reason, "reconnect": may_return(disconnect)}
        self.wire.finish(hub_event({"disconnect": told}))
        self.close(disconnect)
        self.context.hub.deadlines.set(self, self._patience)

    def _abort(self) -> None:
        if self._server is not None:
            self._server.abort()
        else:
            self.wire.cut()

    def released(self) -> None:
        """The answer has ended: nothing is owed any more."""
        self.context.hub.deadlines.clear(self)
        if self._server is not None:
            stalled = self._server.stalled
            if self._server.on_shutdown == self.leave:  # and not of the next stream on this connection
                self._server.on_shutdown = None
            self.close(Disconnects.SLOW if stalled else GONE)
        else:
            self.context.departures.forget(self.leave)
            self.close(GONE)

    def close(self, disconnect: Disconnect) -> None:
        """It is no client any more; may be called again."""
        self._disconnect = self._disconnect or disconnect
        if self._channel is None:
            return
        self._channel = None
        context, disconnect = self.context, self._disconnect
        context.hub.remove(self)
        subs, self.subs = self.subs, {}
        for channel, subscription in subs.items():
            if subscription.presence:
                context.hub.broker.presence.remove(channel, self.client_id)
        context.clients.remove(self)
        context.admission.leave(SSE, disconnect.code)
        log.debug("event stream closed: %d %s", disconnect.code, disconnect.reason, extra=self.extra)
        if subs:
            context.tell_disconnected(self, disconnect.code, disconnect.reason)
            context.tell_gone(self, subs, disconnect.code, disconnect.reason)


def may_return(disconnect: Disconnect) -> bool:
    """Whether it makes sense to come back; of codes that applications choose, the ranges of the protocol tell."""
    return disconnect.reconnect and not (3500 <= disconnect.code < 4000 or 4500 <= disconnect.code < 5000)
