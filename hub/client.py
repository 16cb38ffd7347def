"""One client of the Centrifuge protocol: what it says is handled in order, what it owes in time is watched.

Commands that need nothing but this worker are handled at once; others are tasks, so that an idle connection has none.
`connect` holds up everything behind it, and a subscription that begins or ends holds up what names its channel.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec
from starlette.requests import HTTPConnection

from .admission import CHANNELS
from .authority import Principal
from .clients import Context, Handlers
from .errors import BrokerUnavailable, Disconnect, Disconnects, Ended, Error, Errors, Refused, Unsubscribe, Unsubscribes
from .pending import EarlyWire, PendingReplies, PendingReply, settle
from .protocol.commands import Command, Malformed, Publish, parse
from .protocol.deflate import pack
from .protocol.replies import PING, client_info, error_reply, push, reply
from .protocol.session import Action, State, is_pong, judge
from .registry import Writer
from .subscription import Subscription, introduce
from .types import ClientInfo
from .wire import Wire

__all__ = ["Client", "Context", "Handlers"]

log: logging.Logger = logging.getLogger("hub.client")

# Commands of one client that wait or are being answered before its reading pauses.
BACKLOG = 256
# Commands of one frame that are handled before the others get their turn; a frame has room for thousands.
COMMANDS_PER_TURN = 16
NO_SUBS = frozenset[str]()
# Seconds that a client whose `connect` was refused has to read why.
LINGER = 3.0


class Client:
    """Implements `hub.wire.Handler`, `hub.registry.Subscriber` and `hub.deadlines.Timed`."""

    __slots__ = (
        "__weakref__",
        "_bucket",
        "_held",
        "_next_ping",
        "_pending",
        "_pong_due",
        "_queue",
        "_resting",
        "_running",
        "client_id",
        "connection",
        "context",
        "due",
        "expire_at",
        "held",
        "info",
        "opening",
        "refreshes",
        "state",
        "subs",
        "token_subs",
        "user",
        "wire",
        "writer",
    )

    # Clients hear of their own publications.
    id = b""
    # How the server's own end is told (`hub.wire.Handler`).
    shutdown: Disconnect = Disconnects.SHUTDOWN

    def __init__(self, context: Context, wire: Wire, connection: HTTPConnection) -> None:
        self.context: Context = context
        self.wire: Writer = EarlyWire()
        self.writer: Wire = wire
        # The request of the handshake; until `connect` is answered, and on if the application judges its refreshes.
        self.connection: HTTPConnection | None = connection
        self._bucket = context.admission.bucket()
        self.client_id: str = str(uuid.uuid4())
        self.state: State = State.NEW
        self.user: str = ""
        # `conn_info`, JSON or empty.
        self.info: bytes = b""
        self.subs: dict[str, Subscription] = {}
        # Subscriptions that are being made, with what ends them as soon as they are.
        self.opening: dict[str, Unsubscribe | None] = {}
        # Channels in which something else is being done; commands about these and the others wait.
        self.held: list[str] = []
        # Server-side subscriptions of the token: a new one with others means another connection.
        self.token_subs: frozenset[str] = NO_SUBS
        # Unix time, 0 for never; whether the client was told to refresh its token.
        self.expire_at: float = 0.0
        self.refreshes: bool = False
        # Lists, because an empty one takes a tenth of a deque or a set, of every connection.
        self._queue: list[Command] = []
        self._running: list[asyncio.Task[None]] = []
        self._pending = PendingReplies()
        # Reading is paused; others have their turn.
        self._held = self._resting = False
        # Loop times; 0 for none.
        self._next_ping = self._pong_due = 0.0
        self.due: int = 0
        context.hub.deadlines.set(self, context.settings.client_stale_timeout)

    def __repr__(self) -> str:
        return f"<Client {self.client_id} of {self.user!r} {self.state.name.lower()} {len(self.subs)} subscriptions>"

    def is_subscribed(self, channel: str) -> bool:
        return channel in self.subs

    @property
    def channels(self) -> list[str]:
        """Those of subscriptions that are being made, or wait for that, too."""
        return list({**self.subs, **self.opening, **dict.fromkeys(self.context.orders.channels(self))})

    @property
    def extra(self) -> dict[str, str]:
        """For log lines."""
        return {"connection": self.client_id, "user": self.user}

    # Commands

    def on_message(self, payload: bytes, text: bool) -> None:
        hub = self.context.hub
        hub.received += 1
        hub.received_bytes += len(payload)
        try:
            commands = parse(payload, text=text)
        except Malformed:
            self.end(Disconnects.BAD_REQUEST)
            return
        for command in commands:
            if self._bucket is not None and not self._bucket.take():
                self.end(Disconnects.TOO_MANY_REQUESTS)
                return
            if self._pong_due and is_pong(command):
                self._handle(command)  # now: it is no answer to what holds up the commands before it
            else:
                self._queue.append(command)
        self._work()

    def _work(self) -> None:
        """Handle what is not held up by something before it."""
        queue, left = self._queue, 0 if self._resting else COMMANDS_PER_TURN
        while left and queue and not self._is_held_up(queue[0]):
            self._handle(queue.pop(0))
            left -= 1
        if not left and queue and not self._resting:
            self._resting = True
            asyncio.get_running_loop().call_soon(self._go_on)
        self._throttle(len(queue) + self._waiting >= BACKLOG)

    def _is_held_up(self, command: Command) -> bool:
        if self.state is State.CONNECTING or self._waiting >= BACKLOG:
            return True
        return self.is_changing(getattr(command.body, "channel", None))

    def is_changing(self, channel: str | None) -> bool:
        """Whether something is being done in a channel, and what is to be done next waits."""
        return channel in self.held or channel in self.opening

    @property
    def _waiting(self) -> int:
        """Commands that are being answered."""
        return len(self._running) + len(self._pending)

    def _go_on(self) -> None:
        self._resting = False
        self._work()

    def _throttle(self, full: bool) -> None:
        if full != self._held and self.state is not State.CLOSED:
            self._held = full
            (self.writer.pause_reading if full else self.writer.resume_reading)()

    def _handle(self, command: Command) -> None:
        action = judge(self.state, command, pinged=bool(self._pong_due))
        if action is Action.END:
            self.end(Disconnects.BAD_REQUEST)
        elif action is Action.PONG:
            self._pong_due = 0.0
            self._set_timer()
        elif action is Action.RUN:
            try:
                work = self.context.handlers[type(command.body)](self, command)
            except Exception as fault:
                self._on_fault(command, fault)
            else:
                if work is not None:
                    self.run(work, partial(self._on_fault, command))

    def run(self, work: Coroutine[Any, Any, None], on_fault: Callable[[Exception], None]) -> None:
        """A task that ends with the client."""
        task = asyncio.create_task(work, name="hub client command")
        self._running.append(task)
        task.add_done_callback(partial(self._ran, on_fault))

    def _ran(self, on_fault: Callable[[Exception], None], task: asyncio.Task[None]) -> None:
        fault = None if task.cancelled() else task.exception()
        if isinstance(fault, Exception):
            on_fault(fault)
        self._running.remove(task)
        if self.state is not State.CLOSED:
            self.context.orders.carry_out(self)
            self._work()

    def _on_fault(self, command: Command, fault: Exception) -> None:
        """What a command's fault is to the client."""
        match fault:
            case Refused():
                self.refuse(command, fault.error)
            case Ended():
                self.end(fault.disconnect)
            case BrokerUnavailable():
                hub = self.context.hub
                (hub.unsent if isinstance(command.body, Publish) else hub.unserved).add(last=str(fault))
                self.refuse(command, Errors.INTERNAL)
            case _:
                log.error("unexpected fault in a command of %r", self, exc_info=fault, extra=self.extra)
                self.refuse(command, Errors.INTERNAL)

    def reply(self, command: Command, kind: str, result: msgspec.Struct | None = None) -> None:
        if command.id:
            self.writer.write(pack(reply(command.id, kind, result), self.writer.compression))

    def await_reply(self, command: Command, future: asyncio.Future[Any]) -> None:
        """Reply to a publication without a task once `future` is done; till then it counts as being answered."""
        self._pending.add(PendingReply(command, future), self._answer)

    def _answer(self, due: list[PendingReply]) -> None:
        replies, faults = settle(due, self.writer.compression)
        if self.state is State.CLOSED:
            return
        if replies:
            self.writer.write(replies)
        for command, fault in faults:
            self._on_fault(command, fault)
        self._work()

    def refuse(self, command: Command, error: Error) -> None:
        if self.state is State.CLOSED:
            return
        if command.id:
            self.writer.write(error_reply(command.id, error))
            self.context.refusals[error.code] += 1
        if self.state is State.CONNECTING:
            self.state = State.REFUSED
            self._leave()
            self._queue.clear()  # SDKs send subscriptions with `connect`, and are to read its error
            self.context.hub.deadlines.set(self, LINGER)

    # The connection's life

    def begin(self, principal: Principal, *, by_token: bool) -> None:
        """`connect` was granted; who is known by something else than a token is not told to refresh it."""
        self.user, self.info = principal.user, principal.info
        self.expire_at = principal.expire_at
        self.refreshes = by_token and bool(principal.expire_at)
        if principal.subs:
            self.token_subs = frozenset(principal.subs)
        self.context.clients.add(self)

    def open(self, answer: bytes) -> None:
        """Answer `connect`; what was delivered meanwhile follows."""
        early = self.wire
        assert isinstance(early, EarlyWire)
        self.state = State.OPEN
        log.debug("client connected", extra=self.extra)
        hooks = self.context.authority.hooks
        if not hooks.keep_connections and not (self.refreshes and hooks.authenticate):
            self.connection = None
        self.writer.write(pack(answer, self.writer.compression))
        self.wire = self.writer
        self.context.hub.registry.rewire(self)
        if early.frames:
            self.writer.write(b"".join(early.frames))
        interval = self.context.settings.ping_interval
        self._next_ping = self._now() + random.uniform(0.5, 1.0) * interval
        self._set_timer()

    def end(self, disconnect: Disconnect) -> None:
        """Close the connection; nothing more that it said is handled."""
        self._queue.clear()
        self.writer.close(disconnect)

    def on_close(self, code: int, reason: str) -> None:
        if self.state is State.CLOSED:
            return
        was_open, self.state = self.state is State.OPEN, State.CLOSED
        context = self.context
        context.hub.deadlines.clear(self)
        self._queue.clear()
        for task in self._running:  # but what Redis was sent is done
            task.cancel()
        context.tell_gone(self, self.subs, code, reason)
        self._leave()
        context.admission.leave(CHANNELS, code)
        log.debug("client gone: %d %s", code, reason, extra=self.extra)
        if was_open:
            context.tell_disconnected(self, code, reason)

    def _leave(self) -> None:
        """End all subscriptions, and be no client that others could find."""
        hub = self.context.hub
        hub.remove(self)
        for channel, subscription in self.subs.items():
            if subscription.presence:
                hub.broker.presence.remove(channel, self.client_id)
        self.subs.clear()
        self.opening.clear()
        self.context.orders.forget(self)
        self.context.clients.remove(self)

    def send(self, data: Any) -> None:
        """A message to this client alone, outside of all channels; `data` is what JSON can say."""
        if self.state is not State.CLOSED:
            self.wire.write(push("message", {"data": data}))

    # Subscriptions

    def channel_info(self, chan_info: bytes) -> bytes:
        """This client in a channel, as JSON."""
        info = ClientInfo(user=self.user, client=self.client_id, conn_info=self.info, chan_info=chan_info)
        return client_info(info)

    def add(self, channel: str, subscription: Subscription) -> None:
        """Delivery has begun; others may know."""
        self.subs[channel] = subscription
        if subscription.presence:
            subscription.registering = registering = introduce(self.context.hub, self, channel)
            registering.add_done_callback(lambda _: setattr(subscription, "registering", None))
        if subscription.expire_at and self.state is State.OPEN:
            self._set_timer()

    def drop(self, channel: str) -> asyncio.Future[None] | None:
        """End a subscription, if there is one; the client is not told. Done when others see that it has left."""
        subscription = self.subs.pop(channel, None)
        if subscription is None:
            return None
        self.context.hub.unsubscribe(self, channel)
        self.context.tell_left(self, channel)
        return self.context.hub.broker.presence.remove(channel, self.client_id) if subscription.presence else None

    def unsubscribe(self, channel: str, unsubscribe: Unsubscribe = Unsubscribes.SERVER) -> None:
        """The application's order: what is being made ends when it is, and what waits to be made is not."""
        self.context.orders.withdraw(self, channel)
        if channel in self.opening:
            self.opening[channel] = unsubscribe
        else:
            self.end_subscription(channel, unsubscribe)

    def end_subscription(self, channel: str, unsubscribe: Unsubscribe) -> None:
        """If there is one, and tell the client; what was ordered for later stays."""
        if channel in self.subs:
            self.drop(channel)
            told = {"code": unsubscribe.code, "reason": unsubscribe.reason}
            self.wire.write(push("unsubscribe", told, channel))

    def on_insufficient(self, channel: str) -> None:
        subscription = self.subs.get(channel)
        if subscription is not None and subscription.server_side:
            self.end(Disconnects.INSUFFICIENT_STATE)
        else:
            self.end_subscription(channel, Unsubscribes.INSUFFICIENT_STATE)

    # Time

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def on_due(self) -> None:
        if self.state is State.REFUSED:
            self.end(Disconnects.CONNECTION_CLOSED)
        elif self.state is not State.OPEN:
            self.end(Disconnects.STALE)
        elif self._pong_due and self._now() >= self._pong_due:
            self._miss_pong()
        elif self.expire_at and time.time() >= self._grace(self.expire_at):
            self.end(Disconnects.EXPIRED)
        elif not self._expire_subscriptions():
            self._ping()
            self._set_timer()

    def _ping(self) -> None:
        now = self._now()
        if now < self._next_ping:
            return
        self.wire.write(PING)
        self._next_ping = now + self.context.settings.ping_interval
        self._pong_due = now + self.context.settings.ping_timeout

    def _miss_pong(self) -> None:
        """While reading is paused none can be heard; its time begins anew then."""
        if self._held:
            self._pong_due = self._now() + self.context.settings.ping_timeout
            self._set_timer()
        else:
            self.end(Disconnects.NO_PONG)

    def _expire_subscriptions(self) -> bool:
        """Whether that ended the connection."""
        now = time.time()
        expired = [c for c, sub in self.subs.items() if sub.expire_at and now >= self._grace(sub.expire_at)]
        for channel in expired:
            if self.subs[channel].server_side:
                self.end(Disconnects.SUBSCRIPTION_EXPIRED)
                return True
            self.end_subscription(channel, Unsubscribes.EXPIRED)
        return False

    def _grace(self, expire_at: float) -> float:
        return expire_at + self.context.settings.client_expired_grace

    def _set_timer(self) -> None:
        """Come back for what is due first."""
        wall = time.time()
        delays = [(self._pong_due or self._next_ping) - self._now()]
        delays += [self._grace(at) - wall for at in (self.expire_at, *self._expiries()) if at]
        self.context.hub.deadlines.set(self, max(0.0, min(delays)))

    def _expiries(self) -> list[float]:
        return [sub.expire_at for sub in self.subs.values() if sub.expire_at]

    def prolong(self, expire_at: float) -> None:
        """A refresh: the connection may last until then."""
        self.expire_at = expire_at
        if self.state is State.OPEN:
            self._set_timer()
