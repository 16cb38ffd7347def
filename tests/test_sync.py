"""`hub.sync.Publisher`: publishes as `Hub.publish` does, from threads and forked processes, and repeats nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import fakeredis
import hiredis
import pytest
import redis
import redis.asyncio as aioredis
from redis.sentinel import Sentinel

from hub import BrokerUnavailable, ConfigError, Hub, Settings, redis_sync
from hub.embedded import EmbeddedServer
from hub.errors import HubError
from hub.namespaces import ChannelOptions
from hub.protocol import envelope
from hub.pubsub import RedisBroker
from hub.redis_scripts import Script
from hub.sync import Publisher
from hub.types import PublishResult
from tests.support.protocol_clients import world
from tests.support.proxy import proxy_to
from tests.support.redis import READS_SLOWLY, RedisProcess, running_redis
from tests.support.relay import Ear
from tests.support.sentinel import replicated
from tests.support.waiting import eventually

MAY = {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}
KEPT = ChannelOptions(history_size=1000, history_ttl=60, **MAY)
OBJECTS = ChannelOptions(publication_data_format="json_object")
DELTAS = ChannelOptions(history_size=10, history_ttl=60, delta_publish=True)
SETTINGS = Settings(namespaces={"kept": KEPT, "objects": OBJECTS, "deltas": DELTAS}, max_message_size=1000)
MAY_HAVE_BEEN_SENT = "the publication may have been sent or not"


def impatient(url: str) -> Publisher:
    return Publisher(SETTINGS.model_copy(update={"publish_timeout": 0.3}), redis=url)


@pytest.fixture
def publisher(redis_server: EmbeddedServer) -> Iterator[Publisher]:
    with Publisher(SETTINGS, redis=redis_server.url) as publisher:
        yield publisher


@pytest.fixture
def client(redis_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """The test's own."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def tcp_server(redis_binary: str) -> Iterator[RedisProcess]:
    """One that can be killed and frozen."""
    with running_redis(redis_binary) as server:
        yield server


def kept(client: Any, channel: str) -> list[str]:
    """The texts in the history of a channel."""
    entries = client.xrange(f"hub:stream:{{{channel}}}")
    return [envelope.decode(fields[b"d"]).data.decode() for _, fields in entries]


def connections(client: Any) -> int:
    return sum(each["name"] == "hub-publisher" for each in client.client_list())


# The same as the hub's own


async def test_clients_hear_it(publisher: Publisher, redis_server: EmbeddedServer) -> None:
    """With its position in a channel with history, and without in others."""
    async with world(redis=redis_server.url, namespaces={"kept": KEPT}) as w:
        session = await w.connected()
        await session.ask(2, subscribe={"channel": "kept:news"})
        await session.ask(3, subscribe={"channel": "plain"})
        first = publisher.publish("kept:news", {"n": 1}, tags={"kind": "test"})
        assert publisher.publish("plain", {"n": 2}) == PublishResult()
        await eventually(lambda: len(session.pushes("pub")) == 2)
        assert [push["data"] for push in session.pushes("pub")] == [{"n": 1}, {"n": 2}]
        assert session.pushes("pub")[0]["offset"] == first.offset == 1
        assert session.pushes("pub")[0]["tags"] == {"kind": "test"}
        page = await w.hub.history("kept:news", limit=10)
        assert page.position == first[:2]


CHANNELS = ("plain", "kept:room", "deltas:room")
DATA: tuple[Any, ...] = (b"\x00bytes", "a text", {"an": "object"}, None)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"exclude": b"c1", "tags": {"a": "b"}},
        {"delta": True, "known": True},
        {"skip_history": True},
        {"skip_history": True, "idempotency_key": "key"},
        {"version": 7, "version_epoch": "v"},
    ],
    ids=lambda options: "+".join(options) or "nothing",
)
async def test_what_travels(redis_server: EmbeddedServer, options: dict[str, Any]) -> None:
    """Byte for byte what the hub sends for the same arguments, where both begin with nothing."""
    calls = [(channel, data) for data in DATA for channel in CHANNELS]
    async with Hub(settings_of("one"), redis=redis_server.url) as hub, ear_of("one", redis_server.url) as ear:
        await eventually(lambda: hub.ready)
        theirs = [await hub.publish(channel, data, **options) for channel, data in calls]
        expected = await told(ear, theirs)
    with Publisher(settings_of("two"), redis=redis_server.url) as publisher:
        async with ear_of("two", redis_server.url) as ear:
            ours = [publisher.publish(channel, data, **options) for channel, data in calls]
            assert await told(ear, ours) == expected
    deltas = [b"d" in payload.partition(b"::")[2][:1] for channel, payload in expected if channel == "deltas:room"]
    assert all(deltas) or options
    assert [(r.offset, bool(r.epoch), r.suppressed) for r in ours] == [
        (r.offset, bool(r.epoch), r.suppressed) for r in theirs
    ]


def settings_of(prefix: str) -> Settings:
    return SETTINGS.model_copy(update={"redis_prefix": prefix})


@asynccontextmanager
async def ear_of(prefix: str, url: str) -> AsyncIterator[Ear]:
    """Who hears all `CHANNELS`."""
    ear = await Ear(RedisBroker(url, prefix=prefix)).start()
    for channel in CHANNELS:
        await ear.broker.subscribe(channel)
    yield ear
    await ear.broker.stop()


async def told(ear: Ear, results: list[PublishResult]) -> list[tuple[str, bytes]]:
    """What was heard, without the epochs, which are others each time."""
    await ear.hears(sum(not result.suppressed for result in results))
    epochs = re.compile("|".join({result.epoch for result in results if result.epoch}) or "nothing")
    return [(channel, epochs.sub("", payload.decode("latin-1")).encode()) for channel, payload in ear.heard]


@pytest.mark.parametrize(
    ("channel", "data", "options"),
    [
        ("", "x", {}),
        ("a\nb", "x", {}),
        ("room", "x" * 1001, {}),
        ("room", object(), {}),
        ("room", "x", {"tags": {"n": 1}}),
        ("unknown:room", "x", {"known": True}),
        ("objects:room", [1], {"known": True}),
    ],
)
async def test_refusals(
    publisher: Publisher, client: redis.Redis, channel: str, data: Any, options: dict[str, Any]
) -> None:
    """Errors and texts are the hub's, and nothing reaches Redis."""
    async with Hub(SETTINGS) as hub:
        with pytest.raises((HubError, TypeError)) as theirs:
            await hub.publish(channel, data, **options)
    with pytest.raises(theirs.type) as ours:
        publisher.publish(channel, data, **options)
    assert str(ours.value) == str(theirs.value)
    assert connections(client) == 0


async def test_once_for_a_key(publisher: Publisher, redis_server: EmbeddedServer, client: redis.Redis) -> None:
    """Whoever comes second gets the first result, the hub or the publisher; so does an older version."""
    first = publisher.publish("kept:room", "hi", idempotency_key="a")
    assert publisher.publish("kept:room", "hi", idempotency_key="a") == (*first[:2], True)
    async with Hub(SETTINGS, redis=redis_server.url) as hub:
        await eventually(lambda: hub.ready)
        assert await hub.publish("kept:room", "hi", idempotency_key="a") == (*first[:2], True)
        second = await hub.publish("kept:room", "there", idempotency_key="b", version=9)
    assert publisher.publish("kept:room", "there", idempotency_key="b") == (*second[:2], True)
    assert publisher.publish("kept:room", "old", version=8).suppressed
    assert publisher.publish("plain", "x", idempotency_key="c") == PublishResult()
    assert publisher.publish("plain", "x", idempotency_key="c") == PublishResult(suppressed=True)
    assert kept(client, "kept:room") == ["hi", "there"]


async def test_fakeredis() -> None:
    """A client of redis-py will do, and one of fakeredis."""
    server = fakeredis.FakeServer()
    async with world(redis=fakeredis.FakeAsyncRedis(server=server), namespaces={"kept": KEPT}) as w:
        session = await w.connected()
        await session.ask(2, subscribe={"channel": "kept:room"})
        with Publisher(SETTINGS, redis=fakeredis.FakeRedis(server=server)) as publisher:
            assert [publisher.publish("kept:room", number).offset for number in range(3)] == [1, 2, 3]
            server.connected = False
            with pytest.raises(BrokerUnavailable, match="not sent"):
                publisher.publish("kept:room", "x")
        await eventually(lambda: [push["data"] for push in session.pushes("pub")] == [0, 1, 2])


# Settings


def test_from_the_environment(
    redis_server: EmbeddedServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """As `Hub` has it: URL and prefix from the environment, namespaces from the file."""
    (tmp_path / "hub.toml").write_text("[namespaces.news]\nhistory_size = 5\nhistory_ttl = 60\n")
    monkeypatch.setenv("HUB_CONFIG", str(tmp_path / "hub.toml"))
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("HUB_REDIS_PREFIX", "mine")
    with Publisher() as publisher:
        assert publisher.publish("news:today", "hi").offset == 1
        assert repr(publisher).startswith("<Publisher unix://")
    assert client.exists("mine:stream:{news:today}")


def test_no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says at once what is missing."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(ConfigError, match="set REDIS_URL"):
        Publisher()
    with pytest.raises(ConfigError, match="cannot be used"):
        Publisher(redis="redis://host:port")
    with pytest.raises(ConfigError, match=r"redis\+sentinel://"):
        Publisher(redis=Sentinel([("127.0.0.1", 1)]).master_for("m"))


def test_a_client_for_coroutines() -> None:
    """Its answers would be coroutines that nobody awaits: every publication would succeed, and none be sent."""
    with pytest.raises(ConfigError, match=r"a URL or a redis\.Redis, not redis\.asyncio\.Redis$"):
        Publisher(SETTINGS, redis=aioredis.Redis())  # type: ignore[arg-type]


def test_the_end_in_the_middle(publisher: Publisher, client: redis.Redis) -> None:
    """What is under way when it is closed is answered, and its connection goes too."""

    def closing(reply: Any) -> Any:
        publisher.close()
        return reply

    publisher._redis.execute("GET", "x")
    line = publisher._redis._idle[0]
    read = line.connection.read_response
    line.connection.read_response = lambda: closing(read())
    assert publisher.publish("kept:room", "x").offset == 1
    assert connections(client) == 0


def test_the_end(publisher: Publisher, client: redis.Redis) -> None:
    """Closed twice is closed; then it says so."""
    publisher.publish("room", "x")
    assert connections(client) == 1
    publisher.close()
    publisher.close()
    with pytest.raises(BrokerUnavailable, match="not sent: the publisher is closed"):
        publisher.publish("room", "x")
    assert publisher.unsent.total == 1


# Threads and processes


def test_threads(publisher: Publisher, client: redis.Redis) -> None:
    """Each gets its own results, and there are no more connections than threads."""
    start = threading.Barrier(8)

    def work(name: int) -> list[tuple[int, str]]:
        start.wait()
        return [(publisher.publish("kept:room", f"{name}-{n}").offset, f"{name}-{n}") for n in range(50)]

    with ThreadPoolExecutor(8) as pool:
        said = sorted(each for part in pool.map(work, range(8)) for each in part)
    assert [offset for offset, _ in said] == list(range(1, 401))
    assert kept(client, "kept:room") == [text for _, text in said]
    assert 1 <= connections(client) <= 8


PREFORK = """
import os
from hub import ChannelOptions, Settings
from hub.sync import Publisher

publisher = Publisher(Settings(namespaces={"kept": ChannelOptions(history_size=1000, history_ttl=60)}))
publisher.publish("kept:room", "before")
child = os.fork()
name = "parent" if child else "child"
for number in range(100):
    position = publisher.publish("kept:room", f"{name}-{number}").offset
    os.write(1, f"{position} {name}-{number}\\n".encode())  # in one piece
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_fork(redis_server: EmbeddedServer, client: redis.Redis) -> None:
    """One that has published before the fork works in parent and child, at the same time."""
    environment = {**os.environ, "REDIS_URL": redis_server.url}
    run = subprocess.run(
        [sys.executable, "-c", PREFORK], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert run.stderr == ""
    assert run.returncode == 0
    said = sorted((int(line.split()[0]), line.split()[1]) for line in run.stdout.splitlines())
    assert [offset for offset, _ in said] == list(range(2, 202))
    assert kept(client, "kept:room")[1:] == [text for _, text in said]


FORK_IN_MID_LINE = """
import logging, os, sys, threading
from hub import BrokerUnavailable
from hub.sync import Publisher

publisher = Publisher()
writing, done = threading.Event(), threading.Event()

class Handler(logging.Handler):
    def emit(self, record):
        writing.set()
        done.wait()

def fail():
    try:
        publisher.publish("room", "hi")
    except BrokerUnavailable:
        print(publisher.unsent.total, flush=True)

logging.getLogger("hub.sync").addHandler(Handler())
threading.Thread(target=fail).start()
writing.wait()
if (child := os.fork()) == 0:
    fail()
    os._exit(0)
os.waitpid(child, 0)
done.set()
"""


def test_fork_while_a_thread_logs() -> None:
    """What the parent holds at that moment the child would wait for, and for ever."""
    environment = {**os.environ, "REDIS_URL": "redis://127.0.0.1:1"}
    command = [sys.executable, "-c", FORK_IN_MID_LINE]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.communicate(timeout=20)[0].split() == [b"2", b"1"]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


# Faults


def test_a_log_that_is_published() -> None:
    """By a handler that has the same publisher: what fails in it is counted, and that is all."""
    publisher = impatient("redis://127.0.0.1:1")

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with pytest.raises(BrokerUnavailable):
                publisher.publish("log", record.getMessage())

    def fail() -> None:
        with pytest.raises(BrokerUnavailable):
            publisher.publish("room", "hi")

    handler = Handler()
    logging.getLogger("hub.sync").addHandler(handler)
    try:
        thread = threading.Thread(target=fail, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        assert publisher.unsent.total == 2
    finally:
        logging.getLogger("hub.sync").removeHandler(handler)


def test_nobody_there(tcp_server: RedisProcess, caplog: pytest.LogCaptureFixture) -> None:
    """The error says that nothing was sent and cites no password; when Redis is back it works again."""
    url = tcp_server.url.replace("//", "//:s3cret@")
    tcp_server.kill()
    with impatient(url) as away, impatient(tcp_server.url) as publisher:
        with pytest.raises(
            BrokerUnavailable, match=r"^not sent: cannot connect to redis://127.0.0.1:\d+/0: "
        ) as raised:
            away.publish("room", "x")
        assert "s3cret" not in str(raised.value) + repr(away) + caplog.text
        with pytest.raises(BrokerUnavailable, match="not sent"):
            publisher.publish("room", "x")
        assert publisher.unsent.total == 1
        assert "1 publications could not be relayed" in caplog.text
        tcp_server.start()
        assert publisher.publish("kept:room", "x").offset == 1


def test_a_wrong_password(tcp_server: RedisProcess) -> None:
    """Where the server asks for none."""
    with impatient(tcp_server.url.replace("//", "//nobody:s3cret@")) as publisher:
        with pytest.raises(BrokerUnavailable, match="not sent") as raised:
            publisher.publish("room", "x")
        assert "s3cret" not in str(raised.value)


def test_a_server_that_comes_back(tcp_server: RedisProcess) -> None:
    """An idle connection that has ended meanwhile is found out before anything is sent."""
    with impatient(tcp_server.url) as publisher:
        publisher.publish("room", "x")
        tcp_server.kill()
        tcp_server.start()
        assert publisher.publish("kept:room", "x").offset == 1
        assert publisher.unsent.total == 0


def test_a_server_that_reads_its_data(redis_binary: str) -> None:
    """It knows only afterwards whether it has to be told its lineage: nothing is sent before."""
    with running_redis(redis_binary, *READS_SLOWLY) as server, Publisher(SETTINGS, redis=server.url) as publisher:
        publisher.publish("room", "x")
        server.restart_with(5_000)
        with pytest.raises(BrokerUnavailable, match=r"^not sent: cannot connect to .* is loading the dataset"):
            publisher.publish("room", "x")


def test_a_server_that_freezes(tcp_server: RedisProcess) -> None:
    """What was not answered may have been sent; it was once, and the late answer is not taken for another."""
    with impatient(tcp_server.url) as publisher:
        publisher.publish("kept:room", "1")
        tcp_server.send_signal(signal.SIGSTOP)
        with pytest.raises(BrokerUnavailable, match=MAY_HAVE_BEEN_SENT):
            publisher.publish("kept:room", "2")
        with pytest.raises(BrokerUnavailable, match="not sent"):
            publisher.publish("kept:room", "never")
        assert publisher._redis._idle == []
        tcp_server.send_signal(signal.SIGCONT)
        assert publisher.publish("kept:room", "3").offset == 3
        with tcp_server.client() as client:
            assert kept(client, "kept:room") == ["1", "2", "3"]


def test_an_idle_connection_to_a_frozen_server(tcp_server: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while it is asked who it is first, so that nothing is sent."""
    monkeypatch.setattr(redis_sync, "TRUST", 0)
    with impatient(tcp_server.url) as publisher:
        publisher.publish("kept:room", "1")
        tcp_server.send_signal(signal.SIGSTOP)
        with pytest.raises(BrokerUnavailable, match="not sent"):
            publisher.publish("kept:room", "never")
        tcp_server.send_signal(signal.SIGCONT)
        assert publisher.publish("kept:room", "2").offset == 2


class _Interrupted(Exception):
    """As Celery's SoftTimeLimitExceeded."""


def test_an_exception_while_it_waits(tcp_server: RedisProcess) -> None:
    """A signal handler may raise between question and answer; the next one gets its own answer."""

    def interrupt(*_: object) -> None:
        raise _Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    main = threading.get_ident()
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGUSR1))
    try:
        with Publisher(SETTINGS, redis=tcp_server.url) as publisher:
            publisher.publish("kept:room", "1")
            tcp_server.send_signal(signal.SIGSTOP)
            timer.start()
            with pytest.raises(_Interrupted):
                publisher.publish("kept:room", "2")
            tcp_server.send_signal(signal.SIGCONT)
            assert publisher.publish("kept:room", "3").offset == 3
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


class _HangsUp(socketserver.StreamRequestHandler):
    """Takes everything, and ends the connection where a publication should be answered."""

    def handle(self) -> None:
        parser = hiredis.Reader()
        while data := self.request.recv(65536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                self.server.asked.append(command)  # type: ignore[attr-defined]
                if command[0] in (b"PUBLISH", b"EVALSHA", b"EVAL"):
                    return
                self.request.sendall(b"+OK\r\n")


@contextmanager
def hanging_up() -> Iterator[tuple[str, list[list[bytes]]]]:
    """(URL, what it was asked)."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _HangsUp) as server:
        server.daemon_threads = True
        server.asked = asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"redis://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("channel", ["plain", "kept:room"])
def test_an_answer_that_is_lost(channel: str) -> None:
    """The publication is not repeated, and the error says what is known."""
    with hanging_up() as (url, asked):
        with Publisher(SETTINGS, redis=url) as publisher:
            with pytest.raises(BrokerUnavailable, match=MAY_HAVE_BEEN_SENT):
                publisher.publish(channel, "x")
        assert sum(command[0] in (b"PUBLISH", b"EVALSHA", b"EVAL") for command in asked) == 1


def test_an_answer_that_means_nothing(publisher: Publisher) -> None:
    """It is cited, and the next publication is not concerned."""
    publisher._history._append = Script("return 'hm'")
    with pytest.raises(BrokerUnavailable, match=r"^Redis answered b'hm', which means nothing"):
        publisher.publish("kept:room", "x")
    assert publisher.publish("plain", "x") == PublishResult()


def test_scripts_that_are_lost(publisher: Publisher, client: redis.Redis) -> None:
    """SCRIPT FLUSH costs a round trip."""
    for number in range(1, 4):
        client.script_flush()
        assert publisher.publish("kept:room", str(number)).offset == number
    assert kept(client, "kept:room") == ["1", "2", "3"]


def test_redis_refuses(publisher: Publisher, client: redis.Redis) -> None:
    """Its reason is in the error, and others are not concerned."""
    client.set("hub:stream:{kept:room}", "x")
    client.hset("hub:meta:{kept:room}", "e", "epoch")
    with pytest.raises(BrokerUnavailable, match=r"^Redis refused: "):
        publisher.publish("kept:room", "x")
    assert publisher.publish("kept:other", "x").offset == 1


def test_a_replica(tcp_server: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published there reaches nobody: neither on a new connection nor on one that led to a master before."""
    with impatient(tcp_server.url) as before, impatient(tcp_server.url) as publisher:
        before.publish("room", "x")
        with tcp_server.client() as client:
            client.replicaof("127.0.0.1", "1")
        for each in (publisher, before):
            monkeypatch.setattr(redis_sync, "TRUST", 0)
            with pytest.raises(BrokerUnavailable, match=r"^not sent: .* it is a replica, and the hub needs the"):
                each.publish("room", "x")


def test_a_server_that_takes_over(redis_binary: str) -> None:
    """It is told its lineage before the first publication, as workers do, who may come later."""
    with replicated(redis_binary) as (_, replica, _), replica.client() as client:
        client.replicaof("NO", "ONE")
        with Publisher(SETTINGS, redis=replica.url) as publisher:
            publisher.publish("kept:room", "1")
        assert client.get("hub:lineage") == client.info("replication")["master_replid"].encode()


def _sentinel(master: Callable[[], int]) -> type[socketserver.StreamRequestHandler]:
    class Answers(socketserver.StreamRequestHandler):
        """Names the master."""

        def handle(self) -> None:
            parser = hiredis.Reader()
            while data := self.request.recv(65536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    self.request.sendall(_state(master()) if command[0] == b"SENTINEL" else b"+OK\r\n")

    return Answers


def _state(port: int) -> bytes:
    words = ["name", "m", "ip", "127.0.0.1", "port", str(port), "config-epoch", "1"]
    return f"*{len(words)}\r\n".encode() + b"".join(f"${len(word)}\r\n{word}\r\n".encode() for word in words)


async def test_sentinel(redis_binary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The master is where the sentinels say; when they name another, it is left. Also inside of a running loop."""
    with running_redis(redis_binary) as one, running_redis(redis_binary) as two:
        master = one.port
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _sentinel(lambda: master)) as sentinel:
            sentinel.daemon_threads = True
            thread = threading.Thread(target=sentinel.serve_forever, args=(0.01,))
            thread.start()
            url = f"redis+sentinel://127.0.0.1:{sentinel.server_address[1]}/m"
            with Publisher(SETTINGS, redis=url) as publisher:
                assert publisher.publish("kept:room", "1").offset == 1
                assert publisher.publish("kept:room", "2").offset == 2
                master = two.port
                assert (await asyncio.to_thread(publisher.publish, "kept:room", "3")).offset == 3
                monkeypatch.setattr(redis_sync, "TRUST", 0)
                assert (await asyncio.to_thread(publisher.publish, "kept:room", "4")).offset == 1
                master = 1
                with pytest.raises(BrokerUnavailable, match="not sent: cannot connect to sentinel://m/0"):
                    publisher.publish("kept:room", "5")
            sentinel.shutdown()
            thread.join()


def test_the_network_swallows_it(tcp_server: RedisProcess) -> None:
    """A connection that says nothing any more is not used again."""
    with proxy_to(tcp_server.port) as proxy, impatient(proxy.url) as publisher:
        publisher.publish("kept:room", "1")
        (link,) = proxy.open("hub-publisher")
        link.blackhole()
        with pytest.raises(BrokerUnavailable, match=MAY_HAVE_BEEN_SENT):
            publisher.publish("kept:room", "swallowed")
        assert publisher.publish("kept:room", "2").offset == 2
