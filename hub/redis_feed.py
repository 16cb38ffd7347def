"""The subscriptions of a worker, over any number of connections."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable
from typing import Any

from .broker import Deliver
from .redis_commands import refuse
from .redis_link import Link, LinkOwner, pack

__all__ = ["LINGER", "Feed"]

log: logging.Logger = logging.getLogger("hub.redis")

# An unsubscribed channel is kept this long, so that a page reload does not reach Redis.
LINGER = 1.0
# Channels in one SUBSCRIBE or UNSUBSCRIBE, so that no single command holds up a Redis that others use.
SUBSCRIBE_BATCH = 500
# Answers that came though a heartbeat was due before them; so many in a row, and the feed hears nothing.
DEAF = 2

# Seconds after which what was refused is tried again; if the feed was never complete, on another connection.
REFUSED_PAUSE = 3.0

# What a pattern takes for more than itself.
_SPECIAL = re.compile(rb"[\\*?\[\]^-]")

# Of a heartbeat's number: longer ones are not ours.
MAX_DIGITS = 20

LEFT = "not subscribed: the channel was left before Redis confirmed it"


class Feed(LinkOwner):
    """What the worker wants to hear, what Redis has confirmed, and the proof that it arrives.

    A channel has at most one command under way: it is left only when its SUBSCRIBE was confirmed, or refused a while
    ago. So each confirmation belongs to the last SUBSCRIBE, and a channel's future says what Redis does.
    """

    def __init__(
        self,
        control: str,
        everybody: str,
        prefix: str,
        deliver: Deliver,
        on_control: Callable[[bytes], object],
        on_confirmed: Callable[[], object],
    ) -> None:
        """`control` is the channel of the heartbeat and of what others tell this worker, `everybody` of what they tell
        all; both go to `on_control`. `on_confirmed` is called when all channels are subscribed.
        """
        super().__init__()
        self._control = control.encode()
        self._everybody = everybody.encode()
        self._on_control = on_control
        self._prefix = prefix.encode()
        self._deliver = deliver
        self._on_confirmed = on_confirmed
        # The intent. A future is done while Redis has confirmed the channel on the present connection.
        self.wanted: dict[str, asyncio.Future[None]] = {}
        # Of `listen`, by the pattern; and those that Redis has confirmed on the present connection.
        self._listening: dict[bytes, Deliver] = {}
        self._overhearing: set[bytes] = set()
        # When they were last asked for.
        self._asked_at = -math.inf
        # Wanted no longer; unsubscribed when the time has come and nobody has returned.
        self._leaving: dict[str, float] = {}
        # SUBSCRIBE of this turn.
        self._joining: list[bytes] = []
        # Set while everything that was wanted when the connection began is subscribed.
        self.confirmed: asyncio.Event = asyncio.Event()
        # When Redis has refused a subscription on the present connection, and not been asked again since.
        self._refused_at = math.inf
        # Redis reads its data: it passes messages on, and keeps none and reads no history.
        self.loading: bool = False
        # When the heartbeat came back on the present connection.
        self._heard_at = -math.inf
        # When it did on any (`time.monotonic`); the beginning before.
        self.canary: float = time.monotonic()
        # The last heartbeat that Redis took, and the last that was heard.
        self._taken = self._heard = 0
        # Whether one was owed at the last PING; how many PINGs were answered before it, though Redis keeps the order.
        self._owed_at_ping = False
        self._overtaken = 0

    def __repr__(self) -> str:
        confirmed = sum(future.done() for future in self.wanted.values())
        return f"<Feed {confirmed} of {len(self.wanted)} channels confirmed, {len(self._leaving)} leaving>"

    # Subscribing

    def subscribe(self, channel: str) -> asyncio.Future[None]:
        """The channel's future; shared, so wait for it behind a shield."""
        self._leaving.pop(channel, None)
        future = self.wanted.get(channel)
        if future is None:
            name = self._prefix + channel.encode()
            future = self.wanted[channel] = self.loop.create_future()
            if self.link is not None:
                if not self._joining:
                    self.loop.call_soon(self._flush)
                self._joining.append(name)
        return future

    def listen(self, prefix: str, heard: Deliver) -> None:
        """PSUBSCRIBE to all channels whose names begin so."""
        pattern = _SPECIAL.sub(rb"\\\g<0>", self._prefix + prefix.encode()) + b"*"
        self._listening[pattern] = heard
        self._send(b"PSUBSCRIBE", [pattern])

    def listen_again(self) -> None:
        """Ask once more for patterns that Redis has refused, which it may allow by now."""
        refused = [pattern for pattern in self._listening if pattern not in self._overhearing]
        if refused and self.confirmed.is_set() and self.loop.time() - self._asked_at >= REFUSED_PAUSE:
            self._asked_at = self.loop.time()
            self._send(b"PSUBSCRIBE", refused)

    def join_again(self) -> None:
        """Ask once more for channels that Redis has refused; one by one, because a refusal takes the whole command."""
        if not self.confirmed.is_set() or self.loop.time() - self._refused_at < REFUSED_PAUSE:
            return
        self._refused_at = math.inf
        for channel in [channel for channel, future in self.wanted.items() if not future.done()]:
            left = channel in self._leaving
            if left:
                self._forget(channel)
            self._send(b"UNSUBSCRIBE" if left else b"SUBSCRIBE", [self._prefix + channel.encode()])

    def unsubscribe(self, channel: str) -> None:
        """Begin to linger."""
        if channel in self.wanted:
            self._leaving[channel] = self.loop.time() + LINGER

    def leave_due(self) -> None:
        """UNSUBSCRIBE what has lingered long enough."""
        now = self.loop.time()
        due = [channel for channel, when in self._leaving.items() if when <= now and self._may_leave(channel)]
        for channel in due:
            self._forget(channel)
        self._send(b"UNSUBSCRIBE", [self._prefix + channel.encode() for channel in due])

    def _may_leave(self, channel: str) -> bool:
        return self.link is None or self.wanted[channel].done()

    def _forget(self, channel: str) -> None:
        del self._leaving[channel]
        refuse(self.wanted.pop(channel), LEFT)

    def close(self, reason: str) -> None:
        """Fail who waits, and want nothing more."""
        for future in self.wanted.values():
            refuse(future, reason)
        self.wanted.clear()
        self._leaving.clear()

    def _flush(self) -> None:
        joining, self._joining = self._joining, []
        self._send(b"SUBSCRIBE", joining)

    def _send(self, command: bytes, names: list[bytes]) -> None:
        if self.link is None:
            return
        for at in range(0, len(names), SUBSCRIBE_BATCH):
            self.link.send(pack((command, *names[at : at + SUBSCRIBE_BATCH])))

    # The proof that it hears

    @property
    def turned_down(self) -> bool:
        """Connected, and not let in: nobody tells us when that changes, so it has to be tried again."""
        return not self.confirmed.is_set() and self.loop.time() - self._refused_at >= REFUSED_PAUSE

    @property
    def deaf(self) -> bool:
        """Redis answers and takes heartbeats, yet they do not come: a replica cut off from its master, for example."""
        return self._overtaken >= DEAF

    def heard_within(self, seconds: float) -> bool:
        """Whether all is subscribed, the heartbeat came back in the last `seconds`, and Redis has read its data."""
        subscribed = self.confirmed.is_set() and len(self._overhearing) == len(self._listening)
        return subscribed and self.loop.time() - self._heard_at <= seconds and not self.loading

    def expect(self, heartbeat: int) -> None:
        """Redis has taken a heartbeat; they are numbered, because it may have been heard already."""
        self._taken = heartbeat

    def ping(self) -> None:
        """Ask for an answer, which Redis gives after all that it has sent us before."""
        if self.link is not None:
            self.unanswered += 1
            self._owed_at_ping = self._taken > self._heard and self.confirmed.is_set()
            self.link.send(pack((b"PING",)))

    # The link

    def attach(self, link: Link) -> None:
        super().attach(link)
        # The control channel is the last, so that its confirmation is that of all.
        self._asked_at = self.loop.time()
        self._send(b"PSUBSCRIBE", [*self._listening])
        names = [self._prefix + name.encode() for name in self.wanted]
        self._send(b"SUBSCRIBE", [*names, self._everybody, self._control])

    def on_reply(self, reply: Any) -> None:
        self.unanswered: int = 0
        if not isinstance(reply, list):
            if isinstance(reply, Exception):
                self._on_refused(str(reply))
            return
        kind = reply[0]
        if kind == b"message":
            self._on_message(reply[1], reply[2])
        elif kind == b"pmessage":
            self._on_overheard(*reply[1:])
        elif kind == b"subscribe":
            self._on_subscribed(reply[1])
        elif kind == b"psubscribe":
            self._overhearing.add(reply[1])
        elif kind == b"pong":
            self.loading = False
            self._overtaken += self._owed_at_ping

    def _on_refused(self, reason: str) -> None:
        if reason.startswith("LOADING"):  # the answer to a PING: it does take subscriptions then
            self.loading = True
            return
        self._refused_at = min(self._refused_at, self.loop.time())
        log.error("Redis refused a subscription command: %s", reason)  # e.g. NOPERM under an ACL

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        try:
            if channel == self._control and len(payload) < MAX_DIGITS and payload.isdigit():
                self._on_heartbeat(int(payload))
            elif channel == self._control or channel == self._everybody:
                self._on_control(payload)
            else:
                self._deliver(channel[len(self._prefix) :].decode(), payload)
        except Exception:
            log.exception("unexpected fault in the delivery of a publication")

    def _on_overheard(self, pattern: bytes, channel: bytes, payload: bytes) -> None:
        try:
            self._listening[pattern](channel[len(self._prefix) :].decode(), payload)
        except Exception:
            log.exception("unexpected fault in what hears a publication")

    def _on_heartbeat(self, number: int) -> None:
        self._heard, self._heard_at = number, self.loop.time()
        self.canary = time.monotonic()
        self._owed_at_ping, self._overtaken = False, 0

    def _on_subscribed(self, channel: bytes) -> None:
        if channel == self._control:
            self._heard = self._taken  # what was taken before went elsewhere
            self.confirmed.set()
            self._on_confirmed()
            return
        future = self.wanted.get(channel[len(self._prefix) :].decode())
        if future is not None and not future.done():
            future.set_result(None)

    def on_lost(self, cause: Exception | None) -> None:
        super().on_lost(cause)
        self.confirmed.clear()
        self._overhearing.clear()
        self._refused_at = math.inf
        self._heard_at = -math.inf
        self.loading = False
        self._owed_at_ping, self._overtaken = False, 0
        for channel in tuple(self._leaving):
            self._forget(channel)
        for channel, future in self.wanted.items():
            if future.done():
                self.wanted[channel] = self.loop.create_future()
