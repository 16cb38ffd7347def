"""The Redis broker: never deaf, never silent.

Two connections a worker. One carries commands, all that are issued in one turn of the event loop in one write. The
other carries the subscriptions. Each is kept up by a supervised task; both are watched by a heartbeat that the worker
publishes and must hear through Redis, because an open socket proves nothing. `ready` is that round trip.

    publish() ─▶ Commands ─▶ link ═▶ Redis ═▶ link ─▶ Feed ─▶ deliver()

`Feed.wanted` is the intent, Redis's acknowledgement the fact: a channel's future is done only while Redis has it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import deque
from typing import Any

import redis.asyncio as aioredis

from .broker import Deliver
from .errors import BrokerUnavailable
from .redis_link import Link, LinkHandler, describe, open_link, pack, private_pool

__all__ = ["RedisBroker"]

log = logging.getLogger("hub.redis")

HEARTBEAT = 1.0
# An unsubscribed channel is kept this long, so that a page reload does not reach Redis.
LINGER = 1.0
# Back-off between attempts to connect: short, because delivery has to resume soon after Redis is back.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
# Publications that wait for Redis, sent or not, in bytes; beyond, new ones are refused.
OUTBOX_LIMIT = 16 * 1024 * 1024
# Channels in one SUBSCRIBE: replies to a larger one would hold up the event loop.
SUBSCRIBE_BATCH = 500


def _fail(future: asyncio.Future[None], error: BrokerUnavailable) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # a failure that nobody waits for is not worth a warning: it was counted


class Commands(LinkHandler):
    """Commands and their replies, first in first out.

    What was not sent waits for the next connection until its deadline; what was sent and not answered fails, because
    repeating it could apply it twice.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        # (packed, future, deadline): not sent, and sent but not answered. Both in order of deadline.
        self._outbox: deque[tuple[bytes, asyncio.Future[None], float]] = deque()
        self._inflight: deque[tuple[int, asyncio.Future[None], float]] = deque()
        self._bytes = 0
        self._flush_scheduled = False
        self.lost = asyncio.Event()
        self.lost.set()

    @property
    def stalled_since(self) -> float | None:
        """When the oldest unanswered command was due; None if nothing is late."""
        due = self._inflight[0][2] if self._inflight else None
        return due if due is not None and due < self._loop.time() else None

    def execute(self, *command: Any) -> asyncio.Future[None]:
        """Send with the others of this turn. The future fails with BrokerUnavailable, in `timeout` s at the latest."""
        future: asyncio.Future[None] = self._loop.create_future()
        packed = pack(command)
        if self._bytes + len(packed) > OUTBOX_LIMIT:
            _fail(future, BrokerUnavailable("not sent: too many publications wait for Redis"))
            return future
        self._bytes += len(packed)
        self._outbox.append((packed, future, self._loop.time() + self._timeout))
        if self._link is not None and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._link is None or not self._outbox:
            return
        batch = list(self._outbox)
        self._outbox.clear()
        self._inflight.extend((len(packed), future, due) for packed, future, due in batch)
        self._link.send(b"".join([packed for packed, _, _ in batch]))

    def attach(self, link: Link) -> None:
        self._link = link
        self.lost.clear()
        self._flush()

    def abort(self) -> None:
        if self._link is not None:
            self._link.abort()

    def on_reply(self, reply: Any) -> None:
        size, future, _ = self._inflight.popleft()
        self._bytes -= size
        if future.done():
            return
        if isinstance(reply, Exception):
            _fail(future, BrokerUnavailable(f"Redis refused the publication: {reply}"))
        else:
            future.set_result(None)

    def on_lost(self, cause: Exception | None) -> None:
        self._link = None
        for size, future, _ in self._inflight:
            self._bytes -= size
            _fail(
                future,
                BrokerUnavailable("the connection to Redis broke; the publication may have been sent or not"),
            )
        self._inflight.clear()
        self.lost.set()

    def expire(self) -> None:
        """Fail what is past its deadline."""
        now = self._loop.time()
        for _, future, due in self._inflight:
            if due > now:
                break
            # It stays in the queue: its reply must be paired off should it come.
            _fail(
                future,
                BrokerUnavailable("Redis did not answer in time; the publication may have been sent or not"),
            )
        while self._outbox and self._outbox[0][2] <= now:
            self._drop_unsent()

    def _drop_unsent(self) -> None:
        packed, future, _ = self._outbox.popleft()
        self._bytes -= len(packed)
        _fail(future, BrokerUnavailable("not sent: Redis cannot be reached"))

    def close(self) -> None:
        self.abort()
        while self._outbox:
            self._drop_unsent()


class Feed(LinkHandler):
    """The subscriptions of a worker over any number of connections."""

    def __init__(self, control: str, prefix: str, deliver: Deliver) -> None:
        self._loop = asyncio.get_running_loop()
        self._control = control.encode()
        self._prefix = prefix.encode()
        self._deliver = deliver
        self._link: Link | None = None
        # The intent. A future is done while Redis has confirmed the channel on the present connection.
        self.wanted: dict[str, asyncio.Future[None]] = {}
        # Wanted no longer; unsubscribed when the time has come and nobody has returned.
        self._leaving: dict[str, float] = {}
        # UNSUBSCRIBE sent and not confirmed: until then an acknowledgement may belong to an earlier SUBSCRIBE.
        self._unconfirmed: set[bytes] = set()
        # SUBSCRIBE of this turn.
        self._joining: list[str] = []
        self.lost = asyncio.Event()
        self.lost.set()
        self.control_confirmed = asyncio.Event()
        # When Redis last said anything, and when the heartbeat last came back; 0 before.
        self.last_reply = 0.0
        self.last_heartbeat = 0.0

    def subscribe(self, channel: str) -> asyncio.Future[None]:
        self._leaving.pop(channel, None)
        future = self.wanted.get(channel)
        if future is None:
            future = self.wanted[channel] = self._loop.create_future()
            if self._link is not None:
                if not self._joining:
                    self._loop.call_soon(self._flush)
                self._joining.append(channel)
        return future

    def _flush(self) -> None:
        joining, self._joining = self._joining, []
        self._send_subscribe([self._prefix + name.encode() for name in joining if name in self.wanted])

    def _send_subscribe(self, channels: list[bytes]) -> None:
        if self._link is None:
            return
        for at in range(0, len(channels), SUBSCRIBE_BATCH):
            self._link.send(pack((b"SUBSCRIBE", *channels[at : at + SUBSCRIBE_BATCH])))

    def unsubscribe(self, channel: str) -> None:
        if channel in self.wanted:
            self._leaving[channel] = self._loop.time() + LINGER

    def leave_due(self) -> None:
        """UNSUBSCRIBE what has lingered long enough."""
        now = self._loop.time()
        due = [channel for channel, when in self._leaving.items() if when <= now]
        for channel in due:
            del self._leaving[channel]
            self.wanted.pop(channel).cancel()
        if due and self._link is not None:
            names = [self._prefix + channel.encode() for channel in due]
            self._unconfirmed.update(names)
            self._link.send(pack((b"UNSUBSCRIBE", *names)))

    def attach(self, link: Link) -> None:
        self._link = link
        self.lost.clear()
        self.last_reply = self._loop.time()
        self._send_subscribe([self._control, *(self._prefix + name.encode() for name in self.wanted)])

    def ping(self) -> None:
        if self._link is not None:
            self._link.send(pack((b"PING",)))

    def abort(self) -> None:
        if self._link is not None:
            self._link.abort()

    def on_reply(self, reply: Any) -> None:
        self.last_reply = self._loop.time()
        if not isinstance(reply, list):
            log.error("Redis refused a subscription command: %s", reply)  # e.g. NOPERM under an ACL
            return
        kind = reply[0]
        if kind == b"message":
            self._on_message(reply[1], reply[2])
        elif kind == b"subscribe":
            self._on_subscribed(reply[1])
        elif kind == b"unsubscribe":
            self._unconfirmed.discard(reply[1])

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        if channel == self._control:
            self.last_heartbeat = self.last_reply
        else:
            self._deliver(channel[len(self._prefix) :].decode(), payload)

    def _on_subscribed(self, channel: bytes) -> None:
        if channel == self._control:
            self.control_confirmed.set()
            return
        future = self.wanted.get(channel[len(self._prefix) :].decode())
        if future is not None and not future.done() and channel not in self._unconfirmed:
            future.set_result(None)

    def on_lost(self, cause: Exception | None) -> None:
        self._link = None
        self.control_confirmed.clear()
        self._unconfirmed.clear()
        for channel, future in self.wanted.items():
            if future.done():
                self.wanted[channel] = self._loop.create_future()
        self.lost.set()


class RedisBroker:
    """Relays through Redis ≥ 7.0 or Valkey. Implements `hub.broker.Broker`; all durations in seconds."""

    shared = True

    def __init__(
        self,
        source: str | aioredis.Redis,
        *,
        prefix: str = "hub",
        node: str | None = None,
        timeout: float = 3.0,
        publish_timeout: float = 2.0,
    ) -> None:
        """`source` is a URL or a client whose address and credentials are used; connections are always our own."""
        self.node = node or os.urandom(6).hex()
        self.name = describe(private_pool(source, timeout, "hub"))
        self._source = source
        self._prefix = prefix
        self._timeout = timeout
        self._publish_timeout = publish_timeout
        # From `start` to `stop`.
        self._commands: Commands | None = None
        self._feed: Feed | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._was_ready = False
        # How often the feed was lost: what was published meanwhile did not reach this worker.
        self.gaps = 0

    def __repr__(self) -> str:
        return f"<RedisBroker {self.name} {'ready' if self.ready else 'not ready'}>"

    @property
    def ready(self) -> bool:
        if self._feed is None or not self._feed.control_confirmed.is_set():
            return False
        age = asyncio.get_running_loop().time() - self._feed.last_heartbeat
        return self._feed.last_heartbeat > 0 and age <= self._timeout

    async def start(self, deliver: Deliver) -> None:
        control = f"{self._prefix}:node:{self.node}"
        self._commands = Commands(self._publish_timeout)
        self._feed = Feed(control, f"{self._prefix}:channel:", deliver)
        self._tasks = [
            asyncio.create_task(self._keep("commands", self._commands), name="hub redis commands"),
            asyncio.create_task(self._keep("feed", self._feed), name="hub redis feed"),
            asyncio.create_task(self._watch(control), name="hub redis heartbeat"),
        ]

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._commands is not None and self._feed is not None:
            self._commands.close()
            self._feed.abort()
            async with asyncio.timeout(1):
                await self._commands.lost.wait()
                await self._feed.lost.wait()
        self._commands = self._feed = None

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[None]:
        if self._commands is None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            _fail(future, BrokerUnavailable("not sent: the broker is stopped"))
            return future
        return self._commands.execute(b"PUBLISH", f"{self._prefix}:channel:{channel}", payload)

    async def subscribe(self, channel: str) -> None:
        # A reconnect replaces the future: one that is done was true when it was set.
        while self._feed is not None:
            future = self._feed.subscribe(channel)
            await asyncio.shield(future)
            if self._feed is not None and self._feed.wanted.get(channel) is future:
                return

    def unsubscribe(self, channel: str) -> None:
        if self._feed is not None:
            self._feed.unsubscribe(channel)

    # The connections

    async def _keep(self, role: str, owner: Commands | Feed) -> None:
        """Connect, wait for the loss, connect again; for ever."""
        pool = private_pool(self._source, self._timeout, f"hub-{self.node}-{role}")
        pause = FIRST_PAUSE
        reported = False
        while True:
            try:
                link = await open_link(pool, owner, self._timeout)
            except BrokerUnavailable as error:
                if not reported:
                    log.warning("%s: %s; trying again", role, error)
                    reported = True
            except Exception:
                log.exception("%s: unexpected fault while connecting to %s; trying again", role, self.name)
            else:
                owner.attach(link)
                self._heartbeat_now()
                pause, reported = FIRST_PAUSE, False
                await owner.lost.wait()
                self._note_loss(role)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _note_loss(self, role: str) -> None:
        assert self._feed is not None
        log.warning("%s: the connection to %s broke; connecting again", role, self.name)
        if role == "feed":
            self.gaps += 1
            if self._feed.wanted:
                log.warning("publications of %d channels may be missing until it is back", len(self._feed.wanted))

    # The proof that they work

    async def _watch(self, control: str) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            try:
                self._beat()
            except Exception:
                log.exception("unexpected fault in the Redis heartbeat")

    def _beat(self) -> None:
        """Once a second: send a heartbeat, clear what is overdue, drop connections that are silent."""
        assert self._feed is not None
        assert self._commands is not None
        self._heartbeat_now()
        self._feed.ping()
        self._feed.leave_due()
        self._commands.expire()
        self._drop_silent()
        if self.ready != self._was_ready:
            self._was_ready = self.ready
            level, state = (logging.INFO, "works") if self.ready else (logging.ERROR, "does not work")
            log.log(level, "relay through %s %s", self.name, state)

    def _heartbeat_now(self) -> None:
        if self._commands is not None:
            self._commands.execute(b"PUBLISH", f"{self._prefix}:node:{self.node}", b"")

    def _drop_silent(self) -> None:
        """A link that says nothing is worse than none: only a new connection can help."""
        assert self._feed is not None
        assert self._commands is not None
        now = asyncio.get_running_loop().time()
        late = self._commands.stalled_since
        if late is not None and now - late > self._timeout - self._publish_timeout:
            self._commands.abort()
        if self._feed.lost.is_set():
            return
        silent = now - self._feed.last_reply > self._timeout
        # PONGs come but the heartbeat does not: a replica cut off from its master, for example.
        deaf = not silent and late is None and self._feed.last_heartbeat > 0 and not self.ready
        if silent or (deaf and now - self._feed.last_heartbeat > 2 * self._timeout):
            log.error(
                "the subscription connection to %s is %s; dropping it",
                self.name,
                "silent" if silent else "deaf",
            )
            self._feed.abort()
