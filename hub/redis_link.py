"""One connection to Redis, as replies and a loss.

redis-py opens it (address, TLS, AUTH, database) and hands over its transport: its own pub/sub loop reconnects in
silence, does not notice a frozen server, and in 8.0.1 to 8.1.0 stops the whole event loop once the connection is
half-open. Against fakeredis, which has no transport, the connection's own reader is used.

A connection leads to a master or is none: on a replica, which may have been the master until now, nothing can be
kept, and what is published there reaches nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import urlsplit

import hiredis
import redis.asyncio as aioredis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.connection import SSLConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from .errors import BrokerUnavailable, ConfigError
from .redis_sentinel import SENTINEL_SCHEMES, SentinelPool, sentinel_pool, without_maintenance

__all__ = [
    "INFO",
    "Link",
    "LinkHandler",
    "LinkOwner",
    "Pool",
    "Server",
    "describe",
    "open_link",
    "pack",
    "private_options",
    "private_pool",
    "redacted",
    "require_client",
    "server_of",
]

log: logging.Logger = logging.getLogger("hub.redis")

Pool = aioredis.ConnectionPool


ENDED = "the server closed the connection"
# Asks what `server_of` understands.
INFO = ("INFO", "replication")


class Server(NamedTuple):
    """Who is at the other end."""

    replica: bool
    # Names the history of its data: another one after a restart, a failover or a restoration. Empty if it may not be
    # asked.
    lineage: bytes
    # It goes on with data of which others had copies, so one of these may have been further: a replica that became a
    # master, or a master with replicas that was restarted.
    heir: bool = False


def server_of(info: bytes) -> Server:
    """From the reply to `INFO`."""
    fields = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    heir = bool(fields.get(b"master_replid2", b"").strip(b"0"))
    return Server(fields.get(b"role") == b"slave", fields.get(b"master_replid", b""), heir)


class LinkHandler(Protocol):
    """Who owns a link. Both methods are synchronous."""

    def on_reply(self, reply: Any) -> None:
        """One complete reply or push: bytes, int, list, None, or a `hiredis.ReplyError`. Raising ends the link."""

    def on_lost(self, cause: Exception | None) -> None:
        """The link is gone, by either side; called once."""


class Link(Protocol):
    """An open connection."""

    # Who is there, as of when it was opened or last looked at.
    server: Server

    def send(self, packed: bytes) -> None:
        """Write packed commands; ignored after the loss."""

    def abort(self) -> None:
        """Drop the connection without waiting for anything; `on_lost` follows, soon and in any case."""


class LinkOwner:
    """Owns one link after another: what the `LinkHandler`s have in common."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        # None while there is no connection; the events say the same to those who wait.
        self.link: Link | None = None
        self.connected: asyncio.Event = asyncio.Event()
        self.lost: asyncio.Event = asyncio.Event()
        self.lost.set()
        # Why it was lost the last time, if that is known.
        self.cause: Exception | None = None
        # Questions since Redis last said anything; `on_reply` sets it to 0. Counted, not timed: an event loop that
        # was blocked for a while must not take its own absence for the silence of Redis.
        self.unanswered: int = 0

    @property
    def lineage(self) -> bytes:
        """`Server.lineage`, empty without a link."""
        return self.link.server.lineage if self.link is not None else b""

    def attach(self, link: Link) -> None:
        """The new link; it must have been opened for this owner."""
        self.link = link
        self.unanswered = 0
        self.lost.clear()
        self.connected.set()

    def abort(self) -> None:
        """Drop the link if there is one."""
        if self.link is not None:
            self.link.abort()

    def on_lost(self, cause: Exception | None) -> None:
        self.link = None
        self.cause = cause
        self.connected.clear()
        self.lost.set()


pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command


def private_options(timeout: float, name: str) -> dict[str, Any]:
    """Of each connection: no decoding, and RESP2, because redis-py formats each RESP3 push for a debug log."""
    return {
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry_on_error": [],
        "health_check_interval": 0,
        "client_name": name,
    }


def private_pool(source: str | aioredis.Redis, timeout: float, name: str) -> Pool:
    """A factory of connections like those of `source` (a URL or a client), with our own options.

    No retries, because a PUBLISH must not be sent twice. Raises ConfigError.
    """
    options = {**private_options(timeout, name), "retry": Retry(NoBackoff(), 0)}
    try:
        pool = _pool(source, timeout, options)
        pool.make_connection()  # type: ignore[no-untyped-call]  # refuses options that nobody knows
    except (ValueError, TypeError, RedisError):
        # Not its own words: they cite parts of the URL, and a password with a slash ends up as the port.
        raise ConfigError("the Redis URL cannot be used: check host, port, database and options") from None
    return pool


def _pool(source: str | aioredis.Redis, timeout: float, options: dict[str, Any]) -> Pool:
    if isinstance(source, str):
        if source.startswith(SENTINEL_SCHEMES):
            return sentinel_pool(source, timeout, options)
        _check_database(source)
        origin = Pool.from_url(source)
    else:
        require_client(source, aioredis.Redis)
        origin = source.connection_pool
    if isinstance(origin, SentinelConnectionPool):
        return sentinel_pool(origin, timeout, options)
    inherited = without_maintenance(origin.connection_kwargs)
    return Pool(connection_class=origin.connection_class, **{**inherited, **options})


def require_client(source: object, kind: type) -> None:
    """Raises ConfigError: the other kind's connections connect to nothing, and some do not say so."""
    if not isinstance(source, kind):
        raise ConfigError(f"redis must be a URL or a {_named(kind)}, not {_named(type(source))}")


def _named(kind: type) -> str:
    return f"{kind.__module__.removesuffix('.client')}.{kind.__qualname__}"


def _check_database(url: str) -> None:
    """redis-py takes 0 where the path is no number, and 12 for /1/2. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme != "unix" and not re.fullmatch(r"(/\d*)?/?", parts.path):
        raise ValueError("the database is a number")


def describe(pool: Pool) -> str:
    """The address without user and password."""
    options = pool.connection_kwargs
    database = f"/{options.get('db') or 0}"
    if path := options.get("path"):
        return f"unix://{path}{database}"
    if isinstance(pool, SentinelPool):
        return f"sentinel://{pool.service}{database}"
    scheme = "rediss" if issubclass(pool.connection_class, aioredis.SSLConnection | SSLConnection) else "redis"
    return f"{scheme}://{options.get('host', 'localhost')}:{options.get('port', 6379)}{database}"


def redacted(text: str, options: Mapping[str, Any]) -> str:
    """A server that does not know AUTH cites its arguments, and so the password in a connection's `options`."""
    password = options.get("password")
    return text.replace(str(password), "…") if password else text


async def open_link(pool: Pool, handler: LinkHandler, timeout: float) -> Link:
    """Connect to a master within `timeout` seconds. Raises BrokerUnavailable."""
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    try:
        if isinstance(pool, SentinelPool):
            await pool.locate()
            connection = pool.make_connection()  # type: ignore[no-untyped-call]
            server = await _connect_to_master(pool, connection, timeout)
        else:
            server = await _connect(connection, timeout)
        if server.replica:
            raise ConnectionError("it is a replica, and the hub needs the master")
        if _has_ended(connection):
            raise ConnectionResetError(ENDED)
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        await _discard(connection)
        cause = redacted(str(error), pool.connection_kwargs) or type(error).__name__
        raise BrokerUnavailable(f"cannot connect to {describe(pool)}: {cause}") from None
    except BaseException:
        await _discard(connection)
        raise
    if isinstance(connection._writer, asyncio.StreamWriter):
        return _TransportLink(connection, handler, server)
    return _ReaderLink(connection, handler, server)


async def _connect_to_master(pool: SentinelPool, connection: AbstractConnection, timeout: float) -> Server:
    """`_connect`, given up when the sentinels name another: that this one hangs may be their reason.

    They are asked at the end too: who was frozen and comes back takes himself for the master until somebody tells him.
    """
    leaving = asyncio.create_task(pool.leave(), name="hub redis sentinels")
    connecting = asyncio.create_task(_connect(connection, timeout), name="hub redis connection")
    try:
        await asyncio.wait((connecting, leaving), return_when=asyncio.FIRST_COMPLETED)
        server = connecting.result() if connecting.done() else None
        if server is None or await pool.find_master() != pool.address:
            raise ConnectionError("the sentinels name another master now")
        return server
    finally:
        connecting.cancel()
        leaving.cancel()
        await asyncio.gather(connecting, leaving, return_exceptions=True)


async def _connect(connection: AbstractConnection, timeout: float) -> Server:
    """Connect, log in and ask who it is, within `timeout` seconds."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        async with asyncio.timeout(timeout):
            await connection.connect()  # type: ignore[no-untyped-call]
            return await _identify(connection)
    finally:
        # redis-py uses `wait_for`, which before Python 3.12 swallows a cancellation that comes with the result.
        if task.cancelling() > before:
            raise asyncio.CancelledError


async def _identify(connection: AbstractConnection) -> Server:
    with contextlib.suppress(ResponseError):
        await _ask(connection, "PING")  # raises while the server reads its data: whose heir it is it knows only then
    try:
        info = await _ask(connection, *INFO)
        return server_of(info) if isinstance(info, bytes) else Server(False, b"")
    except ResponseError:  # it does without: NOPERM under an ACL, or a proxy that does not know it
        return Server(False, b"")


async def _ask(connection: AbstractConnection, *command: str) -> Any:
    if _has_ended(connection):
        raise ConnectionResetError(ENDED)
    await connection.send_command(*command)
    return await connection.read_response()


def _has_ended(connection: AbstractConnection) -> bool:
    """Whether the end came right after the last reply: the transport would not tell its new protocol."""
    reader, writer = connection._reader, connection._writer
    return reader is None or writer is None or reader.at_eof() or getattr(writer, "is_closing", bool)()


async def _discard(connection: AbstractConnection) -> None:
    with contextlib.suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)


class _TransportLink(asyncio.Protocol):
    """A real server: replies are parsed as they arrive, all that came in one read before anything else runs.

    `_reader` and `_writer` of redis-py's connection are the two private names that the hub rests on, here and above;
    tests/test_redis_link.py pins them.
    """

    def __init__(self, connection: AbstractConnection, handler: LinkHandler, server: Server) -> None:
        self.server = server
        # Kept alive: since Python 3.13 a StreamWriter closes its transport when it is collected.
        self._writer = connection._writer
        assert self._writer is not None
        connection._reader = connection._writer = None
        self._transport = cast(asyncio.Transport, self._writer.transport)
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._reader = hiredis.Reader()
        self._lost = False
        self._transport.set_protocol(self)
        if sys.platform == "win32":  # the proactor loop reads ahead only for the protocol that was there first
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._lost:
            return
        reader, on_reply = self._reader, self._handler.on_reply
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                on_reply(reply)
        except Exception:
            log.exception("unexpected fault in a reply of Redis; dropping the connection")
            self.abort()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._handler.on_lost(exc)

    def send(self, packed: bytes) -> None:
        if not self._lost and not self._transport.is_closing():
            self._transport.write(packed)

    def abort(self) -> None:
        self._transport.abort()
        # A transport that has ended already would stay silent.
        self._loop.call_soon(self.connection_lost, None)


class _ReaderLink:
    """fakeredis: a task reads replies through the connection's public API."""

    def __init__(self, connection: AbstractConnection, handler: LinkHandler, server: Server) -> None:
        self.server = server
        self._connection = connection
        connection.socket_timeout = None  # with one, redis-py writes inside the `wait_for` that `_connect` complains of
        self._handler = handler
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(), name="hub redis reader")
        self._task.add_done_callback(self._ended)

    async def _run(self) -> None:
        reader, writer = asyncio.ensure_future(self._read()), asyncio.ensure_future(self._write())
        try:
            done, _ = await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            await _discard(self._connection)

    def _ended(self, task: asyncio.Task[None]) -> None:
        cause = None if task.cancelled() else task.exception()
        if cause is not None and not isinstance(cause, RedisError | OSError):
            log.error("unexpected fault in a reply of Redis; the connection is dropped", exc_info=cause)
        self._handler.on_lost(cause if isinstance(cause, Exception) else None)

    async def _read(self) -> None:
        while True:
            try:
                reply = await self._connection.read_response(disconnect_on_error=False)
            except NoScriptError as error:  # redis-py takes the code out of the text
                reply = hiredis.ReplyError(f"NOSCRIPT {error}")
            except aioredis.ResponseError as error:
                reply = hiredis.ReplyError(str(error))
            self._handler.on_reply(reply)

    async def _write(self) -> None:
        while True:
            await self._connection.send_packed_command([await self._outbox.get()], check_health=False)

    def send(self, packed: bytes) -> None:
        self._outbox.put_nowait(packed)

    def abort(self) -> None:
        self._task.cancel()
