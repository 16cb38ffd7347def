"""One connection: what it takes from redis-py, how it ends, and what it never tells."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fakeredis
import hiredis
import pytest
import redis
import redis.asyncio as aioredis
from redis.asyncio.sentinel import Sentinel

from hub.errors import BrokerUnavailable, ConfigError
from hub.pubsub import RedisBroker
from hub.redis_link import Link, LinkOwner, Pool, describe, open_link, pack, private_pool
from tests.support.certificate import self_signed
from tests.support.redis import RedisProcess, running_redis
from tests.support.waiting import eventually

SECRET = "s3cret/p@ss"
QUOTED = "s3cret%2Fp%40ss"

pytestmark = pytest.mark.both_loops


class Owner(LinkOwner):
    """Keeps the replies and counts the losses."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: list[Any] = []
        self.losses = 0

    def on_reply(self, reply: Any) -> None:
        if reply == b"raise":
            raise ValueError("cannot take this")
        self.replies.append(reply)

    def on_lost(self, cause: Exception | None) -> None:
        super().on_lost(cause)
        self.losses += 1

    async def opened(self, source: Any, timeout: float = 3) -> Owner:
        self.attach(await open_link(private_pool(source, timeout, "test-link"), self, timeout))
        return self

    async def ask(self, *command: Any) -> Any:
        """The reply to one command."""
        assert self.link is not None
        count = len(self.replies)
        self.link.send(pack(command))
        await eventually(lambda: len(self.replies) > count)
        return self.replies[-1]

    async def close(self) -> None:
        self.abort()
        async with asyncio.timeout(1):
            await self.lost.wait()


@pytest.fixture(scope="module")
def guarded(redis_binary: str) -> Iterator[RedisProcess]:
    """A server with a password for everybody, and a user who may do what the hub does and nothing else."""
    rights = "&hub:* +publish +subscribe +unsubscribe +ping +client|setname +client|setinfo".split()
    with running_redis(redis_binary, "--requirepass", SECRET, "--user", "hub", "on", f">{SECRET}", *rights) as server:
        yield server


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def fake_server(talk: Talk) -> AsyncIterator[str]:
    """A server that misbehaves; its URL, with a password in it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://:{QUOTED}@127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()


async def read_command(reader: asyncio.StreamReader) -> list[bytes]:
    """One command in RESP."""
    parts = []
    for _ in range(int((await reader.readline())[1:] or 0)):
        size = int((await reader.readline())[1:])
        parts.append((await reader.readexactly(size + 2))[:-2])
    return parts


# What redis-py must keep


async def test_the_private_attributes_of_redis_py(redis_server: Any) -> None:
    """A link takes `_reader` and `_writer` of a connection; without them redis-py holds on to nothing."""
    connection: Any = private_pool(redis_server.url, 1, "pin").make_connection()
    assert connection._reader is None
    assert connection._writer is None
    await connection.connect()
    assert isinstance(connection._reader, asyncio.StreamReader)
    assert isinstance(connection._writer, asyncio.StreamWriter)
    assert connection._writer.transport.get_protocol() is not None
    writer = connection._writer
    connection._reader = connection._writer = None
    assert not connection.is_connected
    writer.close()
    await writer.wait_closed()


async def test_fakeredis_has_no_transport() -> None:
    """That is how a link tells the two apart."""
    connection: Any = private_pool(fakeredis.FakeAsyncRedis(), 1, "pin").make_connection()
    await connection.connect()
    assert connection._writer is not None
    assert not isinstance(connection._writer, asyncio.StreamWriter)
    await connection.disconnect()


@pytest.fixture(params=["valkey", "fakeredis"])
def source(request: pytest.FixtureRequest) -> Any:
    """Both kinds of links."""
    return request.getfixturevalue("redis_server").url if request.param == "valkey" else fakeredis.FakeAsyncRedis()


async def test_commands_and_replies(source: Any) -> None:
    """Replies of every kind come as hiredis has them, errors as values."""
    owner = await Owner().opened(source)
    assert await owner.ask(b"PING") == b"PONG"
    assert await owner.ask(b"PUBLISH", "räum", b"\x00\xff") == 0
    assert await owner.ask(b"GET", "nothing") is None
    assert isinstance(await owner.ask(b"NONSENSE"), hiredis.ReplyError)
    assert await owner.ask(b"SUBSCRIBE", "räum") == [b"subscribe", "räum".encode(), 1]
    assert await owner.ask(b"PING") == [b"pong", b""]
    await owner.close()


async def test_our_options_win(redis_server: Any) -> None:
    """RESP2, our name and our deadline, whatever the URL asks for; its database is kept."""
    url = f"{redis_server.url}?db=3&protocol=3&client_name=theirs&socket_timeout=60&decode_responses=True"
    owner = await Owner().opened(url)
    info = await owner.ask(b"CLIENT", b"INFO")
    assert b" name=test-link " in info
    assert b" db=3 " in info
    assert b" resp=2 " in info
    await owner.close()
    assert private_pool(url, 1.5, "x").connection_kwargs["socket_timeout"] == 1.5


async def test_a_clients_own_address_is_used(redis_server: Any) -> None:
    """A client given instead of a URL lends its address and credentials, and keeps its connections."""
    client = aioredis.Redis.from_url(redis_server.url, db=2, decode_responses=True, protocol=3)
    owner = await Owner().opened(client)
    assert b" db=2 " in await owner.ask(b"CLIENT", b"INFO")
    await owner.close()
    assert await client.ping()
    await client.aclose()


# Addresses


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (f"redis://hub:{QUOTED}@redis.example:6380/2", "redis://redis.example:6380/2"),
        (f"redis://:{QUOTED}@redis.example", "redis://redis.example:6379/0"),
        (f"redis://redis.example?password={QUOTED}&db=4", "redis://redis.example:6379/4"),
        (f"rediss://hub:{QUOTED}@redis.example/1?ssl_cert_reqs=none", "rediss://redis.example:6379/1"),
        (f"unix://hub:{QUOTED}@/run/redis.sock?db=1", "unix:///run/redis.sock/1"),
        (f"unix:///run/redis.sock?password={QUOTED}", "unix:///run/redis.sock/0"),
    ],
)
async def test_the_address_without_secrets(url: str, name: str) -> None:
    """Scheme, host, port and database are told; user and password are not."""
    pool = private_pool(url, 1, "x")
    assert describe(pool) == name
    broker = RedisBroker(url)
    assert broker.name == name
    assert "s3cret" not in repr(broker)


async def test_the_address_of_a_sentinel() -> None:
    """A master behind Sentinel has a name instead of an address, and is looked up for each connection."""
    sentinel = Sentinel([("127.0.0.1", 1)], sentinel_kwargs={"socket_connect_timeout": 1})
    client = sentinel.master_for("mymaster", db=5, password=SECRET)
    pool = private_pool(client, 1, "x")
    assert describe(pool) == "sentinel://mymaster/5"
    with pytest.raises(BrokerUnavailable, match=r"cannot connect to sentinel://mymaster/5"):
        await open_link(pool, Owner(), 1)
    await client.aclose()


@pytest.mark.parametrize(
    "url",
    [
        f"redis://hub:{SECRET}@redis.example:6379/0",  # not quoted: the slash ends the host
        f"redis://:{QUOTED}@redis.example:port",
        f"redis://:{QUOTED}@redis.example?db=first",
        f"redis://:{QUOTED}@redis.example/first",  # which redis-py takes for database 0
        f"rediss://:{QUOTED}@redis.example/1/2",  # and this for 12
        f"redis://:{QUOTED}@redis.example?no_such_option=1",
        f"http://:{QUOTED}@redis.example",
    ],
)
async def test_addresses_that_cannot_be_used(url: str) -> None:
    """They are refused at once, in one sentence without the password."""
    with pytest.raises(ConfigError, match=r"^the Redis URL cannot be used") as failure:
        RedisBroker(url)
    assert "s3cret" not in str(failure.value)
    assert failure.value.__suppress_context__


async def test_a_client_without_coroutines() -> None:
    """Each attempt to connect would fail, for ever, in words that say nothing of the reason."""
    with pytest.raises(ConfigError, match=r"a URL or a redis\.asyncio\.Redis, not redis\.Redis$"):
        RedisBroker(redis.Redis())  # type: ignore[arg-type]


@pytest.mark.parametrize(("path", "database"), [("", 0), ("/", 0), ("/3", 3), ("/3/", 3), ("?db=3", 3)])
async def test_the_database_of_an_address(path: str, database: int) -> None:
    """In the path, or as an option."""
    assert describe(private_pool(f"redis://redis.example{path}", 1, "x")) == f"redis://redis.example:6379/{database}"


# Logging in


async def test_password_and_user(guarded: RedisProcess) -> None:
    """AUTH with a password only, and as a user of least privilege."""
    for user in ("", "hub"):
        owner = await Owner().opened(f"redis://{user}:{QUOTED}@127.0.0.1:{guarded.port}/0")
        assert await owner.ask(b"PUBLISH", "hub:channel:x", b"") == 0
        await owner.close()


async def test_least_privilege(guarded: RedisProcess) -> None:
    """The hub needs seven commands and its own channels."""
    broker = RedisBroker(f"redis://hub:{QUOTED}@127.0.0.1:{guarded.port}/0")
    heard: list[bytes] = []
    await broker.start(lambda channel, payload: heard.append(payload))
    await broker.subscribe("room")
    await broker.publish("room", b"hi")
    await eventually(lambda: heard == [b"hi"] and broker.ready)
    await broker.stop()


async def test_a_wrong_password_is_told_without_it(guarded: RedisProcess, caplog: pytest.LogCaptureFixture) -> None:
    """In the error, in the log, in the broker's state: where and why, but never with what."""
    caplog.set_level(logging.DEBUG)
    url = f"redis://hub:{QUOTED}wrong@127.0.0.1:{guarded.port}/0"
    with pytest.raises(BrokerUnavailable, match=rf"cannot connect to redis://127.0.0.1:{guarded.port}/0: .*password"):
        await Owner().opened(url)
    broker = RedisBroker(url)
    await broker.start(lambda channel, payload: None)
    await eventually(lambda: "trying again" in caplog.text)
    with pytest.raises(BrokerUnavailable) as failure:
        await broker.publish("room", b"hi")
    await broker.stop()
    told = f"{failure.value!r} {broker!r} {caplog.text}"
    assert "s3cret" not in told


async def test_a_server_that_cites_the_password() -> None:
    """One that does not know AUTH repeats its arguments; we do not."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arguments = b"' '".join((await read_command(reader))[1:])
        writer.write(b"-ERR unknown command 'AUTH', with args beginning with: '%s'\r\n" % arguments)
        await reader.read()

    async with fake_server(refuse) as url:
        with pytest.raises(BrokerUnavailable, match=r"unknown command 'AUTH'.*'…'") as failure:
            await Owner().opened(url)
    assert "s3cret" not in str(failure.value)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Made once."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def tls_in_front_of(port: int, certificate: Path, key: Path) -> AsyncIterator[int]:
    """A port that speaks TLS and hands on to `port`; closing a connection there closes it here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, upstream), pipe(upstream_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0.05)  # TLS ends with an exchange


async def test_tls(guarded: RedisProcess, certificate: tuple[Path, Path]) -> None:
    """rediss:// with a certificate that is checked: publications large and small, and a loss that is noticed."""
    async with tls_in_front_of(guarded.port, *certificate) as port:
        url = f"rediss://:{QUOTED}@127.0.0.1:{port}/0?ssl_ca_certs={certificate[0]}"
        heard: list[bytes] = []
        broker = RedisBroker(url)
        await broker.start(lambda channel, payload: heard.append(payload))
        async with asyncio.timeout(10):
            await broker.subscribe("room")
            for size in (1, 300_000, 1_000_000):
                await broker.publish("room", b"x" * size)
            await eventually(lambda: [len(payload) for payload in heard] == [1, 300_000, 1_000_000])
            with guarded.client(password=SECRET) as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                await eventually(lambda: broker.gaps == 1)
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await broker.subscribe("room")
            await eventually(lambda: broker.ready)
            await broker.publish("room", b"back")
            await eventually(lambda: heard[-1] == b"back")
        await broker.stop()


async def test_a_certificate_of_nobody(guarded: RedisProcess, certificate: tuple[Path, Path]) -> None:
    """Without the authority the connection is refused, and the reason told."""
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with tls_in_front_of(guarded.port, *certificate) as port:
        with pytest.raises(BrokerUnavailable, match=rf"rediss://127.0.0.1:{port}/0: .*(?i:certificate)"):
            await Owner().opened(f"rediss://:{QUOTED}@127.0.0.1:{port}/0")


# Ends


async def test_a_drop_of_ours_is_told_once(source: Any) -> None:
    """`on_lost` follows in any case, and once: also when the link is dropped before it did anything, or twice."""
    for pause in (None, 0.01):
        owner = await Owner().opened(source)
        if pause is not None:
            await asyncio.sleep(pause)
        link = owner.link
        assert link is not None
        link.abort()
        link.abort()
        async with asyncio.timeout(1):
            await owner.lost.wait()
        link.abort()
        link.send(pack((b"PING",)))
        await asyncio.sleep(0.01)
        assert (owner.losses, owner.replies, owner.link) == (1, [], None)


async def test_an_owner_that_fails_loses_the_link(source: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A reply that cannot be handled leaves commands and replies out of step: the link ends, loudly."""
    owner = await Owner().opened(source)
    await owner.ask(b"PING")
    assert owner.link is not None
    owner.link.send(pack((b"ECHO", b"raise")) + pack((b"PING",)))
    async with asyncio.timeout(1):
        await owner.lost.wait()
    assert owner.losses == 1
    assert "unexpected fault in a reply of Redis" in caplog.text
    assert "cannot take this" in caplog.text


async def test_a_server_that_ends_the_connection(guarded: RedisProcess) -> None:
    """CLIENT KILL is noticed at once."""
    owner = await Owner().opened(f"redis://:{QUOTED}@127.0.0.1:{guarded.port}/0")
    with guarded.client(password=SECRET) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    async with asyncio.timeout(1):
        await owner.lost.wait()
    assert owner.losses == 1


async def test_a_server_that_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """What is not RESP ends the link."""

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(6):
            await read_command(reader)
            writer.write(b"+OK\r\n")
        await read_command(reader)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with fake_server(web) as url:
        owner = await Owner().opened(url)
        assert owner.link is not None
        owner.link.send(pack((b"PING",)))
        async with asyncio.timeout(1):
            await owner.lost.wait()
    assert "dropping the connection" in caplog.text


async def test_an_end_right_after_the_last_reply() -> None:
    """The transport has told its first protocol that the server is gone; it will not tell ours."""

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(6):
            await read_command(reader)
            writer.write(b"+OK\r\n")

    async with fake_server(leave) as url, asyncio.timeout(5):
        for _ in range(50):
            owner = Owner()
            with contextlib.suppress(BrokerUnavailable):
                await owner.opened(url)
            await owner.lost.wait()


async def test_an_end_before_the_handover_is_not_overlooked(redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is closed between the last reply and the link: no link then."""
    connect = aioredis.UnixDomainSocketConnection.connect

    async def connect_and_lose(connection: Any) -> None:
        await connect(connection)
        connection._writer.transport.abort()
        await asyncio.sleep(0.01)

    monkeypatch.setattr(aioredis.UnixDomainSocketConnection, "connect", connect_and_lose)
    with pytest.raises(BrokerUnavailable, match="the server closed the connection"):
        await Owner().opened(redis_server.url)


async def test_a_transport_that_stays_silent_about_its_end(redis_server: Any) -> None:
    """Dropping a link whose transport has ended unnoticed still tells the owner."""
    owner = await Owner().opened(redis_server.url)
    link: Any = owner.link
    link._transport.set_protocol(asyncio.Protocol())
    link._transport.abort()
    await asyncio.sleep(0.01)
    assert owner.losses == 0
    await owner.close()
    assert owner.losses == 1


async def test_nothing_is_heard_after_the_loss(redis_server: Any) -> None:
    """What a transport still has belongs to an owner that may have another link by now."""
    owner = await Owner().opened(redis_server.url)
    link: Any = owner.link
    await owner.close()
    link.data_received(b"+late\r\n")
    assert owner.replies == []


async def test_a_server_that_says_nothing() -> None:
    """Accepting is not answering: the attempt ends with the deadline."""

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with fake_server(nothing) as url:
        with pytest.raises(BrokerUnavailable, match="cannot connect"):
            await Owner().opened(url, timeout=0.1)


async def test_a_server_that_reads_its_data() -> None:
    """It knows only afterwards what `INFO` is asked for (`master_replid2`), so there is no link before."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (command := await read_command(reader)) != [b"PING"]:
            writer.write(b"*0\r\n" if command[0] == b"INFO" else b"+OK\r\n")
        writer.write(b"-LOADING Redis is loading the dataset in memory\r\n")
        await reader.read()

    async with fake_server(talk) as url:
        with pytest.raises(BrokerUnavailable, match=r"cannot connect to .*: Redis is loading the dataset in memory"):
            await Owner().opened(url, timeout=1)


async def test_nobody_listens() -> None:
    """Refused connections are told with their address."""
    with pytest.raises(BrokerUnavailable, match=r"cannot connect to redis://127.0.0.1:1/0: .*(refused|Connect call)"):
        await Owner().opened("redis://127.0.0.1:1/0")


@pytest.mark.parametrize("outcome", ["connects", "fails"])
async def test_a_cancellation_is_not_lost(redis_server: Any, monkeypatch: pytest.MonkeyPatch, outcome: str) -> None:
    """redis-py's `wait_for` swallows one that comes with the result (Python 3.11): a stop would wait for ever."""
    connect = aioredis.UnixDomainSocketConnection.connect

    async def connect_and_swallow(connection: Any) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            if outcome == "fails":
                raise ConnectionError("the server closed the connection") from None
        await connect(connection)

    monkeypatch.setattr(aioredis.UnixDomainSocketConnection, "connect", connect_and_swallow)
    opening: asyncio.Task[Owner] = asyncio.create_task(Owner().opened(redis_server.url))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening


def test_a_link_is_a_protocol() -> None:
    """Both kinds have the methods of the contract."""
    assert {name for name in vars(Link) if not name.startswith("_")} == {"send", "abort"}
    assert issubclass(Pool, aioredis.ConnectionPool)
