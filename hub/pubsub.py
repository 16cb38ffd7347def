"""The Redis broker: never deaf, never silent.

Two connections a worker. One carries commands (`Commands`), all that are issued in one turn of the event loop in one
write; the other carries the subscriptions (`Feed`). Each is kept up by a supervised task, and both are watched by a
heartbeat that the worker publishes and must hear through Redis, because an open socket proves nothing. `ready` is that
round trip.

    publish() ─▶ Commands ─▶ link ═▶ Redis ═▶ link ─▶ Feed ─▶ deliver()
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import random
import time
from collections.abc import Awaitable, Sequence
from typing import Any

import redis.asyncio as aioredis

from .broker import Deliver, Listener
from .errors import BrokerUnavailable
from .histogram import Histogram
from .redis_commands import Argument, Commands, Parse, refuse
from .redis_eviction import EvictionCheck
from .redis_feed import Feed
from .redis_history import RedisHistory
from .redis_link import INFO, Link, Pool, Server, describe, open_link, private_pool, server_of
from .redis_presence import RedisPresence
from .redis_scripts import Script
from .redis_sentinel import SentinelPool
from .types import HistoryOptions, HistoryPage, PublishResult

__all__ = ["RedisBroker"]

log: logging.Logger = logging.getLogger("hub.redis")

# Seconds between two beats, or a third of the timeout if that is shorter.
HEARTBEAT = 1.0
# Back-off between attempts to connect: short, because delivery has to resume soon after Redis is back. A connection
# that lasted this long was a good one, and the next back-off begins anew.
FIRST_PAUSE, LONGEST_PAUSE, STABLE = 0.05, 0.5, 1.0
# A feed that is connected has this long to be complete; then commands do without it.
COMPLETION = 1.0
# Seconds between two questions to the sentinels: they may name another master while the old one goes on.
FOLLOW = 2.0
# `stop` waits this long for the connections to end.
STOP_TIMEOUT = 1.0

NOT_SENT = "not sent: the broker is stopped"
NOT_SUBSCRIBED = "not subscribed: the broker is stopped"


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
        presence_lease: float = 10.0,
    ) -> None:
        """`source` is a URL or a client whose address and credentials are used; connections are always our own.

        Raises ConfigError if the URL cannot be used.
        """
        self.node: str = node or os.urandom(6).hex()
        # The process in which it is called so.
        self._pid = os.getpid()
        self.source = source
        self.name: str = describe(private_pool(source, timeout, "hub"))
        self.timeout = timeout
        self.publish_timeout = publish_timeout
        self.prefix = prefix
        # What all workers hear, and what comes before the name of a channel.
        self.everybody: str = f"{prefix}:nodes:all"
        self.channels: str = f"{prefix}:channel:"
        self._history = RedisHistory(prefix, self)
        self.lineage: str = self._history.lineage
        self.presence: RedisPresence = RedisPresence(prefix, self.node, presence_lease)
        # What each new connection tells the server before anything else.
        self.scripts: tuple[Script, ...] = self._history.scripts + self.presence.scripts
        # How often the feed was lost: what was published meanwhile did not reach this worker.
        self.gaps = 0
        # How often each connection broke and was begun again, and how long Redis took to answer the heartbeats.
        self.reconnects: dict[str, int] = {"commands": 0, "feed": 0}
        self.round_trips: Histogram = Histogram()
        self.eviction: EvictionCheck = EvictionCheck(self.name)
        # From `start` to `stop`.
        self._session: _Session | None = None

    def __repr__(self) -> str:
        return f"<RedisBroker {self.name} {'ready' if self.ready else 'not ready'}>"

    @property
    def control(self) -> str:
        """The channel of the heartbeat, and of what others tell this worker."""
        return f"{self.prefix}:node:{self.node}"

    @property
    def ready(self) -> bool:
        return self._session is not None and self._session.ready

    @property
    def canary_age(self) -> float:
        """Seconds since a heartbeat came back through pub/sub, or since the start; 0 while stopped."""
        return time.monotonic() - self._session.feed.canary if self._session is not None else 0.0

    @property
    def outbox_bytes(self) -> int:
        """What waits for Redis, sent or not."""
        return self._session.commands.bytes if self._session is not None else 0

    async def start(self, deliver: Deliver, listener: Listener | None = None) -> None:
        if self._pid != os.getpid():  # forked, as by `gunicorn --preload`: its siblings would have the same name
            self._pid, self.node = os.getpid(), os.urandom(6).hex()
            self.presence.node = self.node
        # In another loop it begins anew: the tasks of the first have ended with their loop.
        if self._session is None or self._session.loop is not asyncio.get_running_loop():
            self._session = _Session(self, deliver, listener)

    async def stop(self) -> None:
        session, self._session = self._session, None
        if session is not None and session.loop is asyncio.get_running_loop():
            await session.stop()

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[Any]:
        return self.execute(b"PUBLISH", self.channels + channel, payload)

    def broadcast(self, payload: bytes) -> asyncio.Future[int]:
        return self.execute(b"PUBLISH", self.everybody, payload)

    def tell(self, node: str, payload: bytes) -> asyncio.Future[int]:
        return self.execute(b"PUBLISH", f"{self.prefix}:node:{node}", payload)

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
        if history is None:
            return self._history.publish(channel, payload, idempotency_key)
        return self._history.append(channel, payload, history, idempotency_key, version, version_epoch)

    def read_history(
        self, channel: str, *, since: int | None, limit: int, reverse: bool, meta_ttl: float
    ) -> asyncio.Future[HistoryPage]:
        return self._history.read(channel, since, limit, reverse, meta_ttl)

    def remove_history(self, channel: str) -> asyncio.Future[None]:
        return self._history.remove(channel)

    def renew_history(self, channel: str, epoch: str) -> asyncio.Future[None]:
        return self._history.renew(channel, epoch)

    def execute(self, *command: Argument, parse: Parse | None = None) -> asyncio.Future[Any]:
        """`Commands.execute` on the present connection."""
        return self._session.commands.execute(*command, parse=parse) if self._session is not None else _stopped()

    def call(
        self, script: Script, keys: Sequence[Argument], args: Sequence[Argument], parse: Parse | None = None
    ) -> asyncio.Future[Any]:
        """`Commands.call` on the present connection."""
        return self._session.commands.call(script, keys, args, parse) if self._session is not None else _stopped()

    def subscribe(self, channel: str) -> Awaitable[None]:
        if self._session is not None:
            future = self._session.feed.subscribe(channel)
            if future.done():
                return future
        return self._subscribed(channel)

    async def _subscribed(self, channel: str) -> None:
        while self._session is not None:
            feed = self._session.feed
            future = feed.subscribe(channel)
            await asyncio.shield(future)
            # The connection may have broken since: then there is another future to wait for.
            if feed.wanted.get(channel) is future:
                return
        raise BrokerUnavailable(NOT_SUBSCRIBED)

    def listen(self, prefix: str, heard: Deliver) -> None:
        if self._session is not None:
            self._session.feed.listen(prefix, heard)

    def claim(self, key: str, seconds: float) -> asyncio.Future[bool]:
        name, life = f"{self.prefix}:claim:{key}", round(seconds * 1000)
        return self.execute(b"SET", name, b"1", b"NX", b"PX", life, parse=lambda answer: answer is not None)

    def unsubscribe(self, channel: str) -> None:
        if self._session is not None:
            self._session.feed.unsubscribe(channel)


def _stopped() -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    refuse(future, NOT_SENT)
    return future


class _Session:
    """A broker from `start` to `stop`: its connections and the tasks that keep them."""

    def __init__(self, broker: RedisBroker, deliver: Deliver, listener: Listener | None) -> None:
        self._broker = broker
        self._listener = listener
        # The feed was lost and is not complete again.
        self._gap = False
        # Of the server that was heard last.
        self._lineage = b""
        self.loop = asyncio.get_running_loop()
        self.commands = Commands(broker.publish_timeout, broker.scripts, broker.lineage)
        self.feed = Feed(
            broker.control, broker.everybody, broker.channels, deliver, self._on_control, self._on_confirmed
        )
        self._interval = min(HEARTBEAT, broker.timeout / 3)
        self._numbers = itertools.count(1)
        # Why Redis refused the last heartbeat, if it did.
        self._complaint = ""
        self._pools = {role: self._pool(role) for role in ("feed", "commands")}
        self._tasks = [
            asyncio.create_task(self._keep("feed", self.feed), name="hub redis feed"),
            asyncio.create_task(self._keep("commands", self.commands), name="hub redis commands"),
            asyncio.create_task(self._watch(), name="hub redis heartbeat"),
        ]
        pool = self._pool("sentinel")
        if isinstance(pool, SentinelPool):
            self._tasks.append(asyncio.create_task(self._follow(pool), name="hub redis sentinels"))
        broker.presence.start(self.commands)

    @property
    def ready(self) -> bool:
        return self.feed.heard_within(self._broker.timeout)

    async def stop(self) -> None:
        await self._broker.presence.stop()
        self.commands.turn_away(NOT_SENT)
        self.feed.close(NOT_SUBSCRIBED)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT):
                await self.commands.lost.wait()
                await self.feed.lost.wait()

    # The connections

    def _pool(self, role: str) -> Pool:
        return private_pool(self._broker.source, self._broker.timeout, f"hub-{self._broker.node}-{role}")

    async def _keep(self, role: str, owner: Commands | Feed) -> None:
        """Connect, wait for the loss, connect again; for ever."""
        broker, pool = self._broker, self._pools[role]
        pause, told = 0.0, False
        try:
            while True:
                await self._pause(owner, pause * random.uniform(0.5, 1.0))
                pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
                try:
                    if await self._connect(role, owner, pool) > STABLE:
                        pause = 0.0
                    told = False
                except BrokerUnavailable as error:
                    if self.commands.link is None:
                        self.commands.turn_away()
                    if not told:
                        log.warning("%s: %s; trying again", role, error)
                    told = True
                except Exception:
                    log.exception("%s: unexpected fault; connecting again to %s", role, broker.name)
                    owner.abort()
        finally:
            owner.abort()

    async def _pause(self, owner: Commands | Feed, seconds: float) -> None:
        """Before a connection. Commands follow the feed: what is published before it is back is not heard here."""
        if owner is self.feed or self.feed.confirmed.is_set():
            await asyncio.sleep(seconds)
            return
        await self.feed.connected.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COMPLETION):
                await self.feed.confirmed.wait()

    async def _connect(self, role: str, owner: Commands | Feed, pool: Pool) -> float:
        """One connection, from its beginning to its loss; how long it lasted. Raises BrokerUnavailable."""
        owner.attach(await open_link(pool, owner, self._broker.timeout))
        self._part_from_another_server(owner)
        since = self.loop.time()
        if owner is self.commands:
            self._beat()
            self._broker.presence.on_connected()
            self._broker.eviction.look(self.commands)
        await owner.lost.wait()
        self._broker.reconnects[role] += 1
        cause = f" ({owner.cause})" if owner.cause else ""
        log.warning("%s: the connection to %s broke%s; connecting again", role, self._broker.name, cause)
        if owner is self.feed:
            self._on_feed_lost()
        return self.loop.time() - since

    def _on_feed_lost(self) -> None:
        self._broker.gaps += 1
        self._gap = True
        if self._listener is not None:
            self._listener.on_loss()
        if self.feed.wanted:
            log.warning("publications of %d channels may be missing until it is back", len(self.feed.wanted))

    def _part_from_another_server(self, owner: Commands | Feed) -> None:
        """What is published at one server is not heard at another: the newer connection is the one that is right."""
        other = self.feed if owner is self.commands else self.commands
        if owner.lineage and other.lineage and owner.lineage != other.lineage:
            log.warning("%s is not the server that it was; dropping the older connection", self._broker.name)
            other.abort()

    async def _follow(self, pool: SentinelPool) -> None:
        """Leave a master that the sentinels do not take for one any more: others have left it too."""
        while True:
            await asyncio.sleep(FOLLOW)
            try:
                address = await pool.find_master()
            except ConnectionError:
                continue  # what works goes on without sentinels
            except Exception:
                log.exception("unexpected fault while asking the sentinels")
                continue
            for role, owner in (("feed", self.feed), ("commands", self.commands)):
                here = self._pools[role]
                if owner.link is not None and isinstance(here, SentinelPool) and here.address != address:
                    log.error("%s: %s is at %s:%d now; leaving the old master", role, self._broker.name, *address)
                    owner.abort()

    def _on_confirmed(self) -> None:
        """The feed is complete: Redis is back, and what is published from now on is heard here."""
        self.commands.welcome()
        self._beat()
        gap, self._gap = self._gap, False
        before, self._lineage = self._lineage, self.feed.lineage
        if gap and self._listener is not None:
            self._listener.on_gap(moved=before != self._lineage)

    def _on_control(self, payload: bytes) -> None:
        if self._listener is not None:
            self._listener.on_control(payload)

    # The proof that they work

    async def _watch(self) -> None:
        """At each beat: drop connections that are silent, clear what is overdue, ask both for an answer."""
        told = None
        while True:
            await asyncio.sleep(self._interval)
            now = self.loop.time()
            # If the event loop was blocked, what has arrived meanwhile is read before anything counts as late.
            await asyncio.sleep(0)
            try:
                self._drop_silent()
                self.commands.expire(now)
                self.feed.leave_due()
                self.feed.join_again()
                self.feed.listen_again()
                self.feed.ping()
                self._beat()
                self._look()
                told = self._tell(told)
            except Exception:
                log.exception("unexpected fault in the Redis heartbeat")

    def _beat(self) -> None:
        number = next(self._numbers)
        taken = self.commands.ask(b"PUBLISH", self._broker.control, b"%d" % number)
        if taken is not None:
            taken.add_done_callback(functools.partial(self._on_beat_taken, number, time.monotonic()))

    def _on_beat_taken(self, number: int, since: float, taken: asyncio.Future[None]) -> None:
        error = taken.exception()
        self._complaint = f": {error}" if error else ""
        if error is None:
            self._broker.round_trips.observe(time.monotonic() - since)
            self.feed.expect(number)

    def _look(self) -> None:
        """Ask whether it is a master still, with the data that it had."""
        link = self.commands.link
        if link is not None and link.server.lineage:
            looked = self.commands.execute(*INFO, parse=server_of)
            looked.add_done_callback(functools.partial(self._on_looked, link))

    def _on_looked(self, link: Link, looked: asyncio.Future[Server]) -> None:
        if looked.exception() is not None or self.commands.link is not link:
            return
        server = looked.result()
        if server.replica:
            log.error("%s has become a replica; leaving it", self._broker.name)
            self.feed.abort()
            self.commands.abort()
            return
        if server.lineage != link.server.lineage:
            log.warning("%s has other data than before; reading what has changed", self._broker.name)
            self.feed.abort()
        link.server = server
        self.commands.name_server()  # once more: FLUSHALL takes it away

    def _drop_silent(self) -> None:
        """A connection that says nothing is worse than none: only a new one can help."""
        for role, owner in (("commands", self.commands), ("feed", self.feed)):
            if owner.link is not None and owner.unanswered * self._interval >= self._broker.timeout:
                log.error("%s: %s is silent; dropping the connection", role, self._broker.name)
                owner.abort()
        if self.feed.turned_down:
            self.feed.abort()
        if self.feed.deaf:
            # Either of them may be the one that leads to the wrong server.
            log.error("%s takes heartbeats that do not come back; dropping both connections", self._broker.name)
            self.feed.abort()
            self.commands.abort()

    def _tell(self, told: tuple[bool, str] | None) -> tuple[bool, str]:
        """Log the state if it is not what was told last."""
        complaint = self._complaint or (": Redis is reading its data" if self.feed.loading else "")
        state = self.ready, "" if self.ready else complaint
        if state != told and self.ready:
            # The end of an outage is to be seen wherever its beginning was.
            log.log(logging.INFO if told is None else logging.WARNING, "relay through %s works", self._broker.name)
        elif state != told:
            log.error("relay through %s does not work%s", self._broker.name, complaint)
        return state
