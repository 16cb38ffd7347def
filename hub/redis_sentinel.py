"""Redis behind Sentinel: which server is the master is asked of the sentinels before each connection.

redis-py asks one sentinel after the other, so that a single one that hangs takes all the time there is; and it believes
the first that answers, which may be the one that was cut off from the others and knows of no failover. Here all are
asked at once, a majority has to answer if it can, and the answer with the latest configuration counts.

    redis+sentinel://[user:password@]sentinel-1:26379,sentinel-2,sentinel-3/name-of-the-master[/database][?options]
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis.asyncio as aioredis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import RedisError

__all__ = ["SENTINEL_SCHEMES", "SentinelPool", "sentinel_pool"]

SENTINEL_SCHEMES = ("redis+sentinel://", "rediss+sentinel://")
DEFAULT_PORT = 26379
# How much of the time for a connection the sentinels may take.
SHARE = 1 / 3
# Seconds between two questions while a connection is being made.
ASK_AGAIN = 0.5


class _Address(NamedTuple):
    host: str
    port: int


class _Answer(NamedTuple):
    """What a sentinel says. They are ordered by `epoch`, which grows with each failover."""

    epoch: int
    address: _Address


class SentinelPool(aioredis.ConnectionPool):
    """A factory of connections to the present master of `service`; call `locate` before `make_connection`."""

    def __init__(
        self, service: str, sentinels: Sequence[aioredis.ConnectionPool], timeout: float, **options: Any
    ) -> None:
        """`sentinels` make connections to one sentinel each, `options` are those of connections to the master."""
        super().__init__(**options)
        self.service = service
        self._sentinels = sentinels
        self._patience = timeout * SHARE
        # Where the next connection will lead; None before the first `locate`.
        self.address: _Address | None = None

    async def locate(self) -> None:
        """Ask where the master is. Raises ConnectionError."""
        self.address = await self.find_master()
        self.connection_kwargs.update(self.address._asdict())

    async def leave(self) -> None:
        """Return when the sentinels name another master than at the last `locate`."""
        while True:
            await asyncio.sleep(ASK_AGAIN)
            with contextlib.suppress(ConnectionError):
                if await self.find_master() != self.address:
                    return

    async def find_master(self) -> _Address:
        """The address of the master, as the sentinels have it now. Raises ConnectionError."""
        asking = [asyncio.create_task(self._ask(sentinel), name="hub sentinel") for sentinel in self._sentinels]
        answers, faults = [], ["no answer"]
        try:
            async with asyncio.timeout(self._patience):
                for answer in asyncio.as_completed(asking):
                    try:
                        answers.append(await answer)
                    except (RedisError, OSError, ValueError) as error:
                        faults.append(str(error) or type(error).__name__)
                    if len(answers) > len(asking) // 2:
                        break
        except TimeoutError:
            pass
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if not answers:
            raise ConnectionError(f"no sentinel knows the master {self.service!r} ({faults[-1]})")
        return max(answers).address

    async def _ask(self, sentinel: aioredis.ConnectionPool) -> _Answer:
        connection: AbstractConnection = sentinel.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command("SENTINEL", "MASTER", self.service)
            return _answer(await connection.read_response())
        finally:
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)


def _answer(reply: Any) -> _Answer:
    """The reply is a list of names and values by turns. Raises ValueError."""
    try:
        said = dict(zip(reply[::2], reply[1::2], strict=True))
        return _Answer(int(said[b"config-epoch"]), _Address(said[b"ip"].decode(), int(said[b"port"])))
    except (TypeError, KeyError) as error:
        raise ValueError(f"a sentinel says what cannot be understood: {error!r}") from None


def sentinel_pool(source: str | aioredis.ConnectionPool, timeout: float, options: dict[str, Any]) -> SentinelPool:
    """From a URL of `SENTINEL_SCHEMES`, or from the pool of redis-py's `Sentinel.master_for`.

    `options` win over what the source asks for. Raises ValueError.
    """
    if isinstance(source, str):
        return _from_url(source, timeout, options)
    assert isinstance(source, SentinelConnectionPool)
    inherited = dict(source.connection_kwargs)
    inherited.pop("connection_pool")
    secure = issubclass(source.connection_class, aioredis.SSLConnection)
    sentinels = [client.connection_pool for client in source.sentinel_manager.sentinels]
    return SentinelPool(
        source.service_name,
        [_quick(pool.connection_class, pool.connection_kwargs, timeout) for pool in sentinels],
        timeout,
        connection_class=aioredis.SSLConnection if secure else aioredis.Connection,
        **without_maintenance({**inherited, **options}),
    )


def _from_url(url: str, timeout: float, options: dict[str, Any]) -> SentinelPool:
    parts = urlsplit(url.replace("+sentinel", "", 1))
    credentials, at, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not all(hosts.split(",")) or not (database or "0").isdigit():
        raise ValueError("it takes hosts, the name of the master, and a number if there is a database")
    query = dict(parse_qsl(parts.query))
    login = {name: query.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    # redis-py knows what the other options mean, and which of them exist.
    plain = f"{parts.scheme}://{credentials}{at}sentinel/{database}?{urlencode(query)}"
    origin = aioredis.ConnectionPool.from_url(plain)
    inherited = without_maintenance({**origin.connection_kwargs, **options})
    secured = {name: value for name, value in inherited.items() if name.startswith("ssl")}
    return SentinelPool(
        service,
        [_quick(origin.connection_class, {**secured, **login, **_host(host)}, timeout) for host in hosts.split(",")],
        timeout,
        connection_class=origin.connection_class,
        **inherited,
    )


def _host(text: str) -> dict[str, Any]:
    """`host`, `host:port`, `[v6]:port`. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a sentinel has no host")
    return {"host": parts.hostname, "port": parts.port or DEFAULT_PORT}


def _quick(kind: type[Any], options: dict[str, Any], timeout: float) -> aioredis.ConnectionPool:
    """For one question, which is worth nothing later."""
    limits = {"socket_timeout": timeout * SHARE, "socket_connect_timeout": timeout * SHARE}
    fixed = {"protocol": 2, "decode_responses": False, "health_check_interval": 0, "client_name": None, **limits}
    return aioredis.ConnectionPool(connection_class=kind, **without_maintenance({**options, **fixed}))


def without_maintenance(options: dict[str, Any]) -> dict[str, Any]:
    """Notifications of maintenance exist under RESP3 only."""
    return {name: value for name, value in options.items() if not name.startswith("maint_")}
