"""One connection to Redis, as replies and a loss.

redis-py opens it (address, TLS, AUTH, database, Sentinel) and hands over its transport: its own pub/sub loop
reconnects in silence, does not notice a frozen server, and in 8.0.1 to 8.1.0 stops the whole event loop once the
connection is half-open. Against fakeredis, which has no transport, the connection's own reader is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any, Protocol, cast

import hiredis
import redis.asyncio as aioredis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from .errors import BrokerUnavailable

__all__ = ["Link", "LinkHandler", "describe", "open_link", "pack", "private_pool"]

Pool = aioredis.ConnectionPool


class LinkHandler(Protocol):
    """Who owns a link. Both methods are synchronous."""

    def on_reply(self, reply: Any) -> None:
        """One complete reply or push: bytes, int, list, None, or a `hiredis.ReplyError`."""

    def on_lost(self, cause: Exception | None) -> None:
        """The link is gone, by either side; called once."""


class Link(Protocol):
    """An open connection."""

    def send(self, packed: bytes) -> None:
        """Write packed commands; ignored after the loss."""

    def abort(self) -> None:
        """Drop the connection without waiting for anything; `on_lost` follows."""


pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command


def private_pool(source: str | aioredis.Redis, timeout: float, name: str) -> Pool:
    """A factory of connections like those of `source` (a URL or a client), with our own options.

    RESP2, because redis-py formats each RESP3 push for a debug log; no retries, because a PUBLISH must not be sent
    twice; no decoding.
    """
    options: dict[str, Any] = {
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "health_check_interval": 0,
        "client_name": name,
    }
    if isinstance(source, str):
        return Pool.from_url(source, **options)
    pool = source.connection_pool
    # Maintenance notifications exist under RESP3 only.
    inherited = {name: value for name, value in pool.connection_kwargs.items() if not name.startswith("maint_")}
    return Pool(connection_class=pool.connection_class, **{**inherited, **options})


def describe(pool: Pool) -> str:
    """The address without user and password."""
    options = pool.connection_kwargs
    database = f"/{options.get('db') or 0}"
    if path := options.get("path"):
        return f"unix://{path}{database}"
    scheme = "rediss" if issubclass(pool.connection_class, aioredis.SSLConnection) else "redis"
    return f"{scheme}://{options.get('host', 'localhost')}:{options.get('port', 6379)}{database}"


async def open_link(pool: Pool, handler: LinkHandler, timeout: float) -> Link:
    """Connect within `timeout` seconds. Raises BrokerUnavailable."""
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    try:
        async with asyncio.timeout(timeout):
            await connection.connect()  # type: ignore[no-untyped-call]
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        await _discard(connection)
        raise BrokerUnavailable(f"cannot connect to {describe(pool)}: {error or type(error).__name__}") from None
    except BaseException:
        await _discard(connection)
        raise
    # The two private attributes of redis-py that the hub rests on; pinned by tests/test_redis_link.py.
    if isinstance(connection._writer, asyncio.StreamWriter):
        return _TransportLink(connection, handler)
    return _ReaderLink(connection, handler)


async def _discard(connection: AbstractConnection) -> None:
    with contextlib.suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)


class _TransportLink(asyncio.Protocol):
    """A real server: replies are parsed as they arrive, all that came in one read before anything else runs."""

    def __init__(self, connection: AbstractConnection, handler: LinkHandler) -> None:
        # Kept alive: since Python 3.13 a StreamWriter closes its transport when it is collected.
        self._writer = connection._writer
        assert self._writer is not None
        connection._reader = connection._writer = None
        self._transport = cast(asyncio.Transport, self._writer.transport)
        self._handler = handler
        self._reader = hiredis.Reader()
        self._lost = False
        self._transport.set_protocol(self)
        if sys.platform == "win32":  # the proactor loop reads ahead only for the protocol that was there first
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        reader, on_reply = self._reader, self._handler.on_reply
        reader.feed(data)
        while (reply := reader.gets()) is not False:
            on_reply(reply)

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


class _ReaderLink:
    """fakeredis: a task reads replies through the connection's public API."""

    def __init__(self, connection: AbstractConnection, handler: LinkHandler) -> None:
        self._connection = connection
        self._handler = handler
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(), name="hub redis reader")

    async def _run(self) -> None:
        cause: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read())
                group.create_task(self._write())
        except* (RedisError, OSError) as group_error:
            cause = BrokerUnavailable(str(group_error.exceptions[0]))
        finally:
            await _discard(self._connection)
            self._handler.on_lost(cause)

    async def _read(self) -> None:
        while True:
            try:
                reply = await self._connection.read_response(disconnect_on_error=False)
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
