"""Commands to Redis without an event loop, from any thread: each takes a connection that nobody else uses meanwhile.

redis-py makes the connections, and nothing more: its client sends a command a second time when an answer is lost, and
does not tell a publication that was not sent from one that may have been.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio as aioredis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, NoScriptError, RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from .errors import BrokerUnavailable, ConfigError
from .redis_commands import BROKEN, LATE, Argument, Parse
from .redis_link import INFO, Server, describe, pack, private_options, private_pool, redacted, require_client, server_of
from .redis_scripts import Script
from .redis_sentinel import SentinelPool, without_maintenance

__all__ = ["SyncRedis", "Unreachable"]

# Seconds for which a connection that led to the master is believed to do so still.
TRUST = 3.0

_NAME = "hub-publisher"
_KINDS: dict[Any, Any] = {
    aioredis.Connection: redis.Connection,
    aioredis.SSLConnection: redis.SSLConnection,
    aioredis.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
}

CLOSED = "not sent: the publisher is closed"


class Unreachable(BrokerUnavailable):
    """Redis did not answer, so what comes next will most likely not be answered either."""


@dataclass(slots=True)
class _Line:
    """An open connection to a master."""

    connection: Any
    # Where the sentinels said that it is; None without sentinels.
    address: tuple[str, int] | None
    # When it was seen to be the master the last time.
    seen: float = 0.0

    def ask(self, packed: bytes) -> Any:
        self.connection.send_packed_command([packed], check_health=False)
        return self.connection.read_response()

    def close(self) -> None:
        with contextlib.suppress(RedisError, OSError):
            self.connection.disconnect()


class SyncRedis:
    """Sends commands for `hub.redis_history.RedisHistory`, which then returns results instead of futures.

    Thread-safe: there are as many connections as threads that were using it at once. Fork-safe: a child makes its own.
    """

    def __init__(self, source: str | redis.Redis, timeout: float) -> None:
        """`source` is a URL, or a client whose address and credentials are used; connections are always our own.

        `timeout` in seconds is for each step, to connect and to be answered. Raises ConfigError.
        """
        self._sentinels: SentinelPool | None = None
        self.name: str
        self._kind, self._options, self.name = self._understand(source, timeout)
        # Where a server finds its own lineage, ahead of every publication: scripts compare (`lua/append.lua`).
        self.lineage_key = ""
        # Lines that nobody uses at the moment. A list's `append` and `pop` are atomic, so there is no lock that a fork
        # could leave locked.
        self._idle: list[_Line] = []
        self._pid = os.getpid()
        self._closed = False

    def _understand(self, source: str | redis.Redis, timeout: float) -> tuple[Any, dict[str, Any], str]:
        """Class and options of connections, and what to call the server."""
        ours = {**private_options(timeout, _NAME), "retry": Retry(NoBackoff(), 0)}
        if isinstance(source, str):
            pool = private_pool(source, timeout, _NAME)
            self._sentinels = pool if isinstance(pool, SentinelPool) else None
            return _KINDS[pool.connection_class], {**pool.connection_kwargs, **ours}, describe(pool)
        require_client(source, redis.Redis)
        origin: Any = source.connection_pool
        if isinstance(origin, SentinelConnectionPool):
            raise ConfigError("for Redis behind Sentinel give the URL: redis+sentinel://host,host/name-of-the-master")
        return origin.connection_class, {**without_maintenance(origin.connection_kwargs), **ours}, describe(origin)

    # Commands

    def execute(self, *command: Argument, parse: Parse | None = None) -> Any:
        """What `parse` makes of the reply (bytes, int, list or None). Raises BrokerUnavailable.

        Nothing is repeated: the error says whether the command may have been carried out.
        """
        return self._run(pack(command), None, parse)

    def call(self, script: Script, keys: Any, args: Any, parse: Parse | None = None) -> Any:
        """Run a script, by its digest; in full if the server does not have it."""
        rest = (len(keys), *keys, *args)
        return self._run(pack((b"EVALSHA", script.sha, *rest)), (b"EVAL", script.source, *rest), parse)

    def close(self) -> None:
        """Close the connections; commands that are under way end as they do. May be called twice."""
        self._closed = True
        while (line := self._pop()) is not None:
            line.close()

    def _run(self, packed: bytes, in_full: tuple[Any, ...] | None, parse: Parse | None) -> Any:
        line = self._take()
        try:
            reply = _answer(line, packed, in_full)
        except BaseException as error:
            # Also when a signal or a greenlet's timeout comes between question and answer: the answer would be taken
            # for that of the next question.
            line.close()
            if isinstance(error, RedisError | OSError):
                raise _fault(error) from None
            raise
        self._idle.append(line)
        if self._closed:
            self.close()
        return _meaning(reply, parse)

    # Connections

    def _take(self) -> _Line:
        """A line to the master. Raises BrokerUnavailable; nothing has been sent then."""
        if self._closed:
            raise BrokerUnavailable(CLOSED)
        if self._pid != os.getpid():
            # They are the parent's: dropped, not shut down.
            self._idle, self._pid = [], os.getpid()
        try:
            return self._find() or self._open()
        except (RedisError, OSError) as error:
            cause = redacted(str(error), self._options) or type(error).__name__
            raise Unreachable(f"not sent: cannot connect to {self.name}: {cause}") from None

    def _find(self) -> _Line | None:
        """One that is there already, and as good as new."""
        while (line := self._pop()) is not None:
            if self._is_good(line):
                return line
            line.close()
        return None

    def _pop(self) -> _Line | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _is_good(self, line: _Line) -> bool:
        """Whether it may be used. Raises TimeoutError if the server is silent: another line would be of no help."""
        try:
            if line.connection.can_read(timeout=0):
                return False  # the end, or an answer that nobody has asked for
            if time.monotonic() - line.seen > TRUST:
                self._look(line)
        except redis.TimeoutError:
            line.close()
            raise
        except (RedisError, OSError):
            return False
        return True

    def _open(self) -> _Line:
        address = self._locate()
        place = {"host": address[0], "port": address[1]} if address else {}
        line = _Line(self._kind(**{**self._options, **place}), address)
        try:
            line.connection.connect()
            self._look(line)
        except BaseException:
            line.close()
            raise
        return line

    def _look(self, line: _Line) -> None:
        """It leads to the master: what is published at a replica reaches nobody else. Raises ConnectionError."""
        server = _identify(line)
        if server.replica:
            raise ConnectionError("it is a replica, and the hub needs the master")
        if line.address != self._locate():
            raise ConnectionError("the sentinels name another master now")
        if server.heir and self.lineage_key:
            line.ask(pack((b"SET", self.lineage_key, server.lineage)))
        line.seen = time.monotonic()

    def _locate(self) -> tuple[str, int] | None:
        """Where the sentinels say that the master is. They are all asked at once, in a loop of a thread's own."""
        sentinels = self._sentinels
        if sentinels is None:
            return None
        with ThreadPoolExecutor(1, "hub-sentinels") as thread:
            return thread.submit(lambda: asyncio.run(sentinels.find_master())).result()


def _identify(line: _Line) -> Server:
    with contextlib.suppress(ResponseError):
        line.ask(pack(("PING",)))  # as in `redis_link`: it raises while the server reads its data
    try:
        info = line.ask(pack(INFO))
        return server_of(info) if isinstance(info, bytes) else Server(False, b"")
    except ResponseError:  # it does without: NOPERM under an ACL, or a proxy that does not know it
        return Server(False, b"")


def _answer(line: _Line, packed: bytes, in_full: tuple[Any, ...] | None) -> Any:
    if in_full is None:
        return line.ask(packed)
    try:
        return line.ask(packed)
    except NoScriptError:
        return line.ask(pack(in_full))


def _fault(error: Exception) -> BrokerUnavailable:
    """Of a command that was sent."""
    if isinstance(error, ResponseError | BusyLoadingError):
        return BrokerUnavailable(f"Redis refused: {error}")
    return Unreachable(LATE if isinstance(error, redis.TimeoutError) else BROKEN)


def _meaning(reply: Any, parse: Parse | None) -> Any:
    try:
        return reply if parse is None else parse(reply)
    except Exception as error:
        raise BrokerUnavailable(f"Redis answered {reply!r:.100}, which means nothing: {error!r}") from None
