"""Presence in Redis, by lease of the worker.

    <prefix>:presence:{<channel>}  hash: client → `<lease> <announce> <length of user> <user><info>`
    <prefix>:users:{<channel>}     hash: user → how many of its connections are in

The worker's own table is the truth about its connections, and Redis follows it. Each change marks its entry; one task
writes what is marked, all that has come together in a few scripts, and never the same entry twice at once. What fails
stays marked. A new lease (see `hub.redis_lease`) marks everything. So every recovery is the same: go through the marks.

Joins and leaves are published by the script that changes an entry, if it changes it: each once. If Redis has lost its
data, nothing that it holds says what was announced; then the worker's own memory does (`told`), so that joins are not
repeated and leaves are not swallowed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any, NamedTuple, TypeAlias

from .log import Throttled
from .redis_commands import Argument, refuse
from .redis_lease import SCRIPTS, Lease, Redis, presence_script
from .redis_scripts import Script

__all__ = ["RedisPresence", "malformed_entries"]

log: logging.Logger = logging.getLogger("hub.redis")

# Entries written by one script, and scripts that are on their way together.
BATCH, PIPELINE = 250, 4

# Seconds from the return of Redis to the first write, so that the feeds of the other workers are back too: joins and
# leaves are not repeated for those who were not there.
RETURN = 0.75

STOPPED = "not registered: the broker is stopped"
FAULT = "not registered: unexpected fault"
OCCUPIED = "not registered: the key of the channel's presence holds something else"

_WRITE, _STATS = presence_script("presence_write"), presence_script("presence_stats")

_malformed = Throttled(log, logging.ERROR, "%d entries of presence in Redis are not the hub's")
_occupied = Throttled(
    log, logging.ERROR, "%d entries of presence cannot be written, because their keys hold something else; delete them"
)

# Channel and client.
_Key: TypeAlias = tuple[str, str]


def malformed_entries() -> int:
    """That this process has found in Redis."""
    return _malformed.total


class _Member(NamedTuple):
    """A connection, as others see it."""

    user: str
    info: bytes
    announce: bool


class _Entry:
    """What this worker wants of one connection in one channel, and what Redis knows of it."""

    __slots__ = ("told", "unsure", "waiters", "wanted")

    def __init__(self) -> None:
        # None: it should not be there.
        self.wanted: _Member | None = None
        # What Redis has confirmed; None: it is not there, or nobody knows.
        self.told: _Member | None = None
        # A write is on its way, or was, and nobody knows what became of it.
        self.unsure = False
        # Those who wait for the next confirmation.
        self.waiters: list[asyncio.Future[None]] = []

    @property
    def needless(self) -> bool:
        """It is not wanted, and Redis knows nothing of it."""
        return self.wanted is None and self.told is None and not self.unsure


class _Sent(NamedTuple):
    """An entry on its way."""

    key: _Key
    entry: _Entry
    # What it is made to be.
    member: _Member | None
    waiters: list[asyncio.Future[None]]
    # As before.
    unsure: bool


class RedisPresence:
    """Implements `hub.broker.PresenceStore`; from `start` to `stop`."""

    # All that it may run.
    scripts: tuple[Script, ...] = (*SCRIPTS, _WRITE, _STATS)

    def __init__(self, prefix: str, node: str, lease: float) -> None:
        """Within `lease` seconds of a worker's death its entries are gone."""
        self._prefix, self._seconds = prefix, lease
        # Of the worker.
        self.node: str = node
        # From `start` to `stop`.
        self._session: _Session | None = None

    def __repr__(self) -> str:
        return f"<RedisPresence {self._session or 'stopped'}>"

    @property
    def entries(self) -> int:
        return self._session.entries if self._session is not None else 0

    def start(self, redis: Redis) -> None:
        """Begin with an empty table, in this event loop."""
        self._session = _Session(self._prefix, self.node, self._seconds, redis)

    async def stop(self) -> None:
        """Take out what is left of this worker. What still waits fails with BrokerUnavailable."""
        session, self._session = self._session, None
        if session is not None:
            await session.stop()

    def on_connected(self) -> None:
        """Commands have a new connection."""
        if self._session is not None:
            self._session.lease.check()

    def add(self, channel: str, client: str, user: str, info: bytes, *, announce: bool) -> asyncio.Future[None]:
        if self._session is None:
            return _stopped()
        return self._session.want((channel, client), _Member(user, info, announce))

    def remove(self, channel: str, client: str) -> asyncio.Future[None]:
        return self._session.want((channel, client), None) if self._session is not None else _stopped()

    def read(self, channel: str) -> asyncio.Future[dict[str, bytes]]:
        return self._session.read(channel) if self._session is not None else _stopped()

    def stats(self, channel: str) -> asyncio.Future[tuple[int, int]]:
        return self._session.stats(channel) if self._session is not None else _stopped()


class _Session:
    """The table of a worker, and the task that makes Redis follow it. Implements `hub.redis_lease.LeaseHolder`."""

    def __init__(self, prefix: str, node: str, seconds: float, redis: Redis) -> None:
        self._prefix, self._redis = prefix, redis
        self._loop = asyncio.get_running_loop()
        # Everything that is wanted, or not known to be gone.
        self._entries: dict[_Key, _Entry] = {}
        # To be written; in order, so that none waits for ever.
        self._marked: dict[_Key, None] = {}
        # A write that failed may still come true, from what the server has read of a connection that was given up, even
        # after a later one. So it is made twice: at once, and when the lease was renewed twice since.
        self._doubtful: set[_Key] = set()
        self._settling: set[_Key] = set()
        # Why nothing is written: set by a failure, None again when the lease has been renewed.
        self._blocked: str | None = None
        # While nothing is written, though it could be: until the others are back as well.
        self._return: asyncio.TimerHandle | None = None
        # Whether there was a lease before.
        self._began = False
        # Set when there may be something to write.
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._follow(), name="hub redis presence")
        self.lease = Lease(prefix, node, seconds, self, redis)

    def __repr__(self) -> str:
        return f"{len(self._entries)} entries, {len(self._marked)} to write, {self.lease}"

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._return is not None:
            self._return.cancel()
        self.on_failed(STOPPED)
        # What Redis has under the lease goes with it, also what the table does not know for sure.
        await self.lease.stop()

    # What the hub wants

    @property
    def entries(self) -> int:
        return len(self._entries)

    def want(self, key: _Key, member: _Member | None) -> asyncio.Future[None]:
        """Have `member` registered under `key`, or nobody; done once Redis has it."""
        future: asyncio.Future[None] = self._loop.create_future()
        entry = self._entries.get(key) or _Entry()
        entry.wanted = member
        entry.waiters.append(future)
        if entry.needless:
            self._forget(key, entry)
            return future
        self._entries[key] = entry
        self._marked[key] = None
        if self._blocked is None:
            self._wake.set()
        else:
            _refuse_all(entry, self._blocked)
        return future

    def _forget(self, key: _Key, entry: _Entry) -> None:
        self._entries.pop(key, None)
        self._marked.pop(key, None)
        _confirm(entry.waiters)

    def read(self, channel: str) -> asyncio.Future[dict[str, bytes]]:
        return self._redis.execute(b"HGETALL", f"{self._prefix}:presence:{{{channel}}}", parse=_infos)

    def stats(self, channel: str) -> asyncio.Future[tuple[int, int]]:
        keys = (f"{self._prefix}:presence:{{{channel}}}", f"{self._prefix}:users:{{{channel}}}")
        return self._redis.call(_STATS, keys, (self._prefix,), _pair)

    # What the lease says

    def on_lease(self) -> None:
        self._marked.update(dict.fromkeys(self._entries))
        # What is late comes under the old lease, so Redis refuses it.
        self._doubtful.clear()
        self._settling.clear()
        self._resume(at_once=not self._began)
        self._began = True

    def on_lapsed(self) -> None:
        for entry in self._entries.values():
            entry.told = None

    def on_kept(self) -> None:
        if self._may_write:
            self._settle()
        self._resume(at_once=self._blocked is None)

    def _settle(self) -> None:
        """Write what was doubtful once more."""
        for key in self._settling:
            entry = self._entries.setdefault(key, _Entry())
            entry.told, entry.unsure = None, True
            self._marked[key] = None
        self._settling, self._doubtful = self._doubtful, set()

    def on_failed(self, reason: str) -> None:
        if self._blocked is None:
            if reason.startswith("Redis refused"):  # an ACL, or no memory; that it is away is told elsewhere
                log.error("presence cannot be written: %s", reason)
            for key in self._marked:
                _refuse_all(self._entries[key], reason)
        self._blocked = reason

    def _resume(self, at_once: bool) -> None:
        self._blocked = None
        if not at_once and self._return is None:
            self._return = self._loop.call_later(RETURN, self._on_return)
        self._wake.set()

    def _on_return(self) -> None:
        self._return = None
        self._wake.set()

    @property
    def _may_write(self) -> bool:
        return self._blocked is None and self._return is None and self.lease.name is not None

    # Making Redis follow

    async def _follow(self) -> None:
        """Write what is marked, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while self._marked and self._may_write:
                    await self._round()
            except Exception:
                log.exception("unexpected fault in the writing of presence")
                self.on_failed(FAULT)

    async def _round(self) -> None:
        """One round trip. The next begins when it is over, so no entry is on its way twice."""
        keys = list(itertools.islice(self._marked, BATCH * PIPELINE))
        await asyncio.wait([self._send(keys[at : at + BATCH]) for at in range(0, len(keys), BATCH)])

    def _send(self, keys: list[_Key]) -> asyncio.Future[Any]:
        assert self.lease.name is not None
        args: list[Argument] = [self._prefix, self.lease.name]
        for key in keys:
            args += _item(key, self._entries[key])
        write = self._redis.call(_WRITE, (), args)
        batch = [self._take(key) for key in keys]
        # A callback, so that what Redis says is noted in the order in which it is said: this before a lapse.
        write.add_done_callback(lambda write: self._on_reply(batch, write))
        return write

    def _take(self, key: _Key) -> _Sent:
        """An entry that is on its way is not marked, unless it changes again."""
        entry = self._entries[key]
        sent = _Sent(key, entry, entry.wanted, entry.waiters, entry.unsure)
        entry.waiters, entry.unsure = [], True
        del self._marked[key]
        return sent

    def _on_reply(self, batch: list[_Sent], write: asyncio.Future[Any]) -> None:
        if error := write.exception():
            self._on_failure(batch, str(error))
        elif write.result() == 0:
            self._on_refusal(batch)
        else:
            # The entries that could not be written, by their place; the others were.
            occupied = [batch[place] for place in write.result() or ()]
            self._on_success([sent for sent in batch if sent not in occupied] if occupied else batch)
            self._on_occupied(occupied)

    def _on_success(self, batch: list[_Sent]) -> None:
        for key, entry, member, waiters, _ in batch:
            entry.told, entry.unsure = member, False
            _confirm(waiters)
            if entry.needless:
                self._forget(key, entry)

    def _on_occupied(self, batch: list[_Sent]) -> None:
        """Somebody else has used the key: they are tried again now and then, and hold up nobody."""
        for key, entry, _, waiters, _ in batch:
            _occupied.add(last=repr(key[0]))
            for waiter in waiters:
                refuse(waiter, OCCUPIED)
            entry.told = None
            if entry.wanted is not None:
                self._doubtful.add(key)
            else:  # nothing of it can be there
                self._forget(key, entry)

    def _on_refusal(self, batch: list[_Sent]) -> None:
        """The lease was lost; nothing was written. It goes on when there is a new one."""
        for key, entry, _, waiters, unsure in batch:
            entry.waiters[:0], entry.unsure = waiters, unsure
            self._marked[key] = None
            if self._blocked is not None:
                _refuse_all(entry, self._blocked)
        self.lease.check()

    def _on_failure(self, batch: list[_Sent], reason: str) -> None:
        sent = not reason.startswith("not sent")
        for key, entry, _, waiters, unsure in batch:
            for waiter in waiters:
                refuse(waiter, reason)
            self._marked[key] = None
            if sent:
                entry.told = None
                self._doubtful.add(key)
            else:
                entry.unsure = unsure
        self.on_failed(reason)


def _item(key: _Key, entry: _Entry) -> tuple[Argument, ...]:
    """What the script has to do with an entry."""
    if entry.wanted is not None:
        what, member = "=" if entry.told else "+", entry.wanted
    elif entry.told is not None:
        what, member = "!", entry.told
    else:
        return "-", *key, b"", b""
    return f"{what}{member.announce:d}", *key, member.user, member.info


def _confirm(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


def _refuse_all(entry: _Entry, reason: str) -> None:
    for waiter in entry.waiters:
        refuse(waiter, reason)
    entry.waiters.clear()


def _stopped() -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    refuse(future, STOPPED)
    return future


# The meaning of replies


def _infos(reply: Any) -> dict[str, bytes]:
    """By client. What is not the hub's is left out."""
    found = {}
    for client, value in zip(reply[::2], reply[1::2], strict=True):
        try:
            found[client.decode()] = _info(value)
        except ValueError:
            _malformed.add(last=repr(client[:50]))
    return found


def _info(value: bytes) -> bytes:
    _, _, length, rest = value.split(b" ", 3)
    return rest[int(length) :]


def _pair(reply: Any) -> tuple[int, int]:
    return reply[0], reply[1]
