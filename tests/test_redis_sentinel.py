"""Where the master is: what sentinels are asked, which of their answers counts, and what a URL says of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import hiredis
import pytest
import redis.asyncio as aioredis
from redis.asyncio.sentinel import Sentinel

from hub.config import Settings
from hub.errors import BrokerUnavailable, ConfigError
from hub.redis_link import LinkOwner, describe, open_link, private_pool
from hub.redis_sentinel import SentinelPool
from tests.support.redis import running_redis

pytestmark = pytest.mark.timed

TIMEOUT = 0.6


class FakeSentinel:
    """Says that the master is at `port`, as of failover number `epoch`."""

    def __init__(self, epoch: int, port: int, *, silent: bool = False, reply: bytes = b"") -> None:
        self.answer = reply or _master(epoch, port)
        self.silent = silent
        # What it was asked.
        self.asked: list[list[bytes]] = []
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        with contextlib.closing(writer):
            while data := await reader.read(4096):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    self.asked.append(command)
                    if not self.silent:
                        writer.write(self.answer if command[0] == b"SENTINEL" else b"+OK\r\n")


def _master(epoch: int, port: int) -> bytes:
    fields = {"name": "m", "ip": "127.0.0.1", "port": str(port), "flags": "master", "config-epoch": str(epoch)}
    words = [word for pair in fields.items() for word in pair]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)


@asynccontextmanager
async def running(*sentinels: FakeSentinel) -> AsyncIterator[str]:
    """Their URL."""
    servers = []
    for sentinel in sentinels:
        server = await asyncio.start_server(sentinel.serve, "127.0.0.1", 0)
        servers.append(server)
        sentinel.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield f"redis+sentinel://{','.join(sentinel.address for sentinel in sentinels)}/m"
    finally:
        for server in servers:
            server.close()


def pool_of(source: Any) -> SentinelPool:
    pool = private_pool(source, TIMEOUT, "test")
    assert isinstance(pool, SentinelPool)
    return pool


async def test_the_latest_configuration_counts() -> None:
    """A sentinel that was cut off during a failover still names the old master."""
    for sentinels in (
        [FakeSentinel(3, 1), FakeSentinel(7, 2)],
        [FakeSentinel(7, 2), FakeSentinel(3, 1)],
        [FakeSentinel(3, 1), FakeSentinel(9, 3, silent=True), FakeSentinel(7, 2)],
    ):
        async with running(*sentinels) as url:
            assert await pool_of(url).find_master() == ("127.0.0.1", 2)


async def test_a_sentinel_that_hangs_costs_nothing() -> None:
    """A majority is enough; less than that is believed when the time is over."""
    hanging = FakeSentinel(1, 1, silent=True)
    async with running(hanging, FakeSentinel(1, 2), FakeSentinel(1, 2)) as url:
        start = time.monotonic()
        assert await pool_of(url).find_master() == ("127.0.0.1", 2)
        assert time.monotonic() - start < TIMEOUT / 3
        assert hanging.asked
    async with running(FakeSentinel(1, 1, silent=True), FakeSentinel(1, 1, silent=True), FakeSentinel(1, 2)) as url:
        assert await pool_of(url).find_master() == ("127.0.0.1", 2)


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (b"-ERR No such master with that name\r\n", "No such master"),
        (b"*2\r\n$2\r\nip\r\n$1\r\nx\r\n", "what cannot be understood"),
        (b"+OK\r\n", "what cannot be understood"),
    ],
)
async def test_nobody_knows_the_master(reply: bytes, cause: str) -> None:
    """It is told which master is meant, and why."""
    async with running(FakeSentinel(0, 0, reply=reply)) as url:
        with pytest.raises(ConnectionError, match=rf"no sentinel knows the master 'm' \(.*{cause}"):
            await pool_of(url).find_master()
        with pytest.raises(BrokerUnavailable, match="cannot connect to sentinel://m/0: no sentinel knows"):
            await open_link(pool_of(url), None, TIMEOUT)  # type: ignore[arg-type]


async def test_nobody_answers() -> None:
    """All hang, or are not there."""
    async with running(FakeSentinel(1, 1, silent=True)) as url:
        with pytest.raises(ConnectionError, match="no sentinel knows the master"):
            await pool_of(url).find_master()
    with pytest.raises(ConnectionError, match="no sentinel knows the master"):
        await pool_of("redis+sentinel://127.0.0.1:1/m").find_master()


async def test_a_connection_to_the_master(redis_binary: str) -> None:
    """Opened where the sentinels say, unless a replica is there: they may not have heard of it yet."""
    with running_redis(redis_binary) as server:
        async with running(FakeSentinel(1, server.port)) as url:
            owner = Owner()
            owner.attach(await open_link(pool_of(url), owner, 2))
            assert len(owner.lineage) == 40
            owner.abort()
            await owner.lost.wait()
            with server.client() as client:
                client.replicaof("127.0.0.1", "1")
            with pytest.raises(BrokerUnavailable, match="it is a replica, and the hub needs the master"):
                await open_link(pool_of(url), owner, 2)


class Owner(LinkOwner):
    """Needs no replies."""

    def on_reply(self, reply: Any) -> None: ...


async def test_a_client_of_redis_py() -> None:
    """`Sentinel.master_for` gives the sentinels, their logins, and the options of connections to the master."""
    fake = FakeSentinel(1, 7)
    async with running(fake):
        host, port = fake.address.split(":")
        sentinel = Sentinel([(host, int(port))], sentinel_kwargs={"password": "s3cret"})
        client = sentinel.master_for("m", db=5, username="hub", password="other")
        pool = pool_of(client)
        await pool.locate()
        await client.aclose()
    options = pool.connection_kwargs
    assert [options[name] for name in ("host", "port", "db", "username")] == ["127.0.0.1", 7, 5, "hub"]
    assert fake.asked[0][:2] == [b"AUTH", b"s3cret"]
    assert fake.asked[-1] == [b"SENTINEL", b"MASTER", b"m"]
    assert describe(pool) == "sentinel://m/5"


async def test_what_a_url_says() -> None:
    """Hosts with and without port, two logins, a database, options of redis-py, TLS for both."""
    url = (
        "rediss+sentinel://hub:p%40ss@one,two:7000,[::1]:7001/m/3"
        "?sentinel_username=asker&sentinel_password=s%2Fcret&ssl_cert_reqs=none&socket_keepalive=true"
    )
    pool = pool_of(url)
    options = pool.connection_kwargs
    assert (pool.service, options["db"], options["username"], options["password"]) == ("m", 3, "hub", "p@ss")
    assert (options["socket_keepalive"], options["ssl_cert_reqs"]) == (True, "none")
    assert issubclass(pool.connection_class, aioredis.SSLConnection)
    asked = [sentinel.connection_kwargs for sentinel in pool._sentinels]
    assert [(each["host"], each["port"]) for each in asked] == [("one", 26379), ("two", 7000), ("::1", 7001)]
    assert {(each["username"], each["password"], each["ssl_cert_reqs"]) for each in asked} == {
        ("asker", "s/cret", "none")
    }
    assert describe(pool) == "sentinel://m/3"
    assert Settings(redis_url=url).redis_url is not None


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://one",
        "redis+sentinel:///m",
        "redis+sentinel://one,/m",
        "redis+sentinel://:7000/m",
        "redis+sentinel://one:port/m",
        "redis+sentinel://one/m/first",
        "redis+sentinel://one/m?no_such_option=1",
    ],
)
def test_urls_that_cannot_be_used(url: str) -> None:
    """They are refused at once, without the password."""
    with pytest.raises(ConfigError, match=r"^the Redis URL cannot be used") as failure:
        private_pool(url.replace("://", "://:s3cret@", 1), TIMEOUT, "test")
    assert "s3cret" not in str(failure.value)
