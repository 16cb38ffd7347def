"""`hub.compat.Broadcast`: what broadcaster's own tests ask for, and what its users have asked for since."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from typing import Any

import pytest
import websockets
from fakeredis import FakeAsyncRedis, FakeServer
from fastapi import FastAPI

from hub import BrokerUnavailable, ConfigError, Hub, InvalidChannel, MessageTooBig, Settings
from hub.compat import Broadcast, Event, Unsubscribed
from tests.support.broadcasts import left_behind, soon
from tests.support.protocol_clients import Gated
from tests.support.redis import RedisProcess, running_redis
from tests.support.uvicorn_app import ROOT, clean_environment
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


@pytest.fixture
def server(redis_binary: str) -> Iterator[RedisProcess]:
    with running_redis(redis_binary) as process:
        yield process


@pytest.fixture(params=["memory", "redis", "redis-stream"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    server: RedisProcess = request.getfixturevalue("server")
    return server.url.replace("redis", request.param, 1)


# What broadcaster's own tests ask for


async def test_a_message(url: str) -> None:
    """On each kind of URL what is published arrives as an event with its channel, in the order of publication."""
    async with Broadcast(url) as broadcast, broadcast.subscribe(channel="chatroom") as subscriber:
        await broadcast.publish(channel="chatroom", message="hello")
        event = await subscriber.get()
        assert (event.channel, event.message) == ("chatroom", "hello")
        assert event == Event("chatroom", "hello")
        assert repr(event) == "Event(channel='chatroom', message='hello')"
        for word in ("one", "two", "three"):
            await broadcast.publish("chatroom", word)
        assert [await soon(subscriber) for _ in range(3)] == ["one", "two", "three"]


async def test_at_the_same_time(url: str) -> None:
    """Subscriptions and publications that begin together: everybody gets everything, also with a busy name."""
    channel = "chat room-ü/1"
    async with Broadcast(url) as broadcast, contextlib.AsyncExitStack() as stack:
        joining = [stack.enter_async_context(broadcast.subscribe(channel)) for _ in range(5)]
        subscribers = await asyncio.gather(*joining)
        await asyncio.gather(*(broadcast.publish(channel, f"{number}") for number in range(5)))
        for subscriber in subscribers:
            assert [await soon(subscriber) for _ in range(5)] == ["0", "1", "2", "3", "4"]


async def test_with_a_password(redis_binary: str) -> None:
    """The URL's password opens Redis."""
    with running_redis(redis_binary, "--requirepass", "secret") as server:
        async with Broadcast(f"redis://:secret@127.0.0.1:{server.port}") as broadcast:
            async with broadcast.subscribe("chatroom") as subscriber:
                await broadcast.publish("chatroom", "hello")
                assert await soon(subscriber) == "hello"
            assert "secret" not in repr(broadcast)


@pytest.mark.parametrize("how", ["return", "raise"])
async def test_leaving_the_block_unsubscribes(how: str, url: str) -> None:
    """However the block ends, nothing of the subscription is left, and the others go on."""
    async with Broadcast(url) as broadcast:
        with contextlib.suppress(ZeroDivisionError):
            async with broadcast.subscribe("chatroom"), broadcast.subscribe("other"):
                assert left_behind(broadcast)
                if how == "raise":
                    raise ZeroDivisionError
        assert not left_behind(broadcast)
        async with broadcast.subscribe("chatroom") as stays:
            async with broadcast.subscribe("chatroom"):
                pass
            await broadcast.publish("chatroom", "still here")
            assert await soon(stays) == "still here"


# Iterating


async def test_iterating() -> None:
    """`async for` gives what has come; after the block it ends, and `get` says so as often as it is asked."""
    heard = []
    async with Broadcast("memory://") as broadcast:
        async with broadcast.subscribe("chatroom") as subscriber, broadcast.subscribe("chatroom") as other:
            for number in range(3):
                await broadcast.publish("chatroom", f"{number}")
            assert [await soon(other) for _ in range(3)] == ["0", "1", "2"]
            async for event in subscriber:
                heard.append(event.message)
                if event.message == "1":
                    break
        heard += [event.message async for event in subscriber]
        assert heard == ["0", "1", "2"]
        for _ in range(2):
            with pytest.raises(Unsubscribed, match="'chatroom'"):
                await subscriber.get()


async def test_disconnect_ends_the_iterations() -> None:
    """With broadcaster they would wait for ever; here tasks that iterate come to their end."""
    broadcast = Broadcast("memory://")
    await broadcast.connect()
    inside = asyncio.Event()

    async def iterate() -> list[Event]:
        async with broadcast.subscribe("chatroom") as subscriber:
            inside.set()
            return [event async for event in subscriber]

    task = asyncio.create_task(iterate())
    await inside.wait()
    async with broadcast.subscribe("chatroom") as other:
        await broadcast.publish("chatroom", "last")
        assert await soon(other) == "last"
    await broadcast.disconnect()
    assert await asyncio.wait_for(task, 5) == [Event("chatroom", "last")]
    assert not left_behind(broadcast)


async def test_cancelled_iterations() -> None:
    """Who is cancelled while waiting, for an event or for the subscription, leaves nothing behind."""
    hub = Hub(Settings(), broker=Gated())
    assert isinstance(hub.broker, Gated)
    async with hub, Broadcast(hub=hub) as broadcast:

        async def iterate() -> None:
            async with broadcast.subscribe("chatroom") as subscriber:
                async for _ in subscriber:
                    pass

        for confirmed in (False, True):
            if confirmed:
                hub.broker.gate.set()
            task = asyncio.create_task(iterate())
            await eventually(lambda: hub.registry.subscribers == 1)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not left_behind(broadcast)
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_several_take_from_one_subscriber() -> None:
    """Each event goes to one of those who wait, as with a queue."""
    async with Broadcast("memory://") as broadcast, broadcast.subscribe("jobs") as subscriber:
        waiting = [asyncio.create_task(soon(subscriber)) for _ in range(3)]
        for number in range(3):
            await broadcast.publish("jobs", f"{number}")
        assert sorted(await asyncio.gather(*waiting)) == ["0", "1", "2"]


# Values


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        ("", ""),
        ("grüße 🎉\n", "grüße 🎉\n"),
        ('{"a": 1}', '{"a": 1}'),
        (b"bytes", "bytes"),
        (memoryview(b"view"), "view"),
        (5, "5"),
        (1.5, "1.5"),
        (True, True),
        (None, None),
        ({"a": [1, "ü"]}, {"a": [1, "ü"]}),
        (("a", 1), ["a", 1]),
    ],
)
async def test_what_arrives(sent: Any, heard: Any) -> None:
    """Text and bytes as text, numbers as redis-py writes them, all else as the value that JSON has of it."""
    async with Broadcast("memory://") as broadcast, broadcast.subscribe("x") as subscriber:
        await broadcast.publish("x", sent)
        message = await soon(subscriber)
        assert message == heard
        assert type(message) is type(heard)


async def test_what_cannot_be_published() -> None:
    """The publisher is told, nothing arrives, and the subscription goes on."""
    async with Broadcast("memory://") as broadcast, broadcast.subscribe("x") as subscriber:
        for bad, error in ((b"\xff", ValueError), (object(), TypeError), ("x" * 65537, MessageTooBig)):
            with pytest.raises(error):
                await broadcast.publish("x", bad)
        for channel in ("", "a\nb", "x" * 256):
            with pytest.raises(InvalidChannel):
                await broadcast.publish(channel, "x")
            with pytest.raises(InvalidChannel):
                async with broadcast.subscribe(channel):
                    pass
        await broadcast.publish("x", "good")
        assert await soon(subscriber) == "good"
    assert not left_behind(broadcast)


async def test_one_world_with_the_hub() -> None:
    """With the application's hub, its raw clients and the iterators hear each other, and `Hub.publish` both."""
    hub = Hub(Settings())
    broadcast = Broadcast(hub=hub)
    app = FastAPI()
    app.include_router(hub.router)
    async with serving(app) as (port, _):
        await broadcast.connect()
        async with broadcast.subscribe("room") as subscriber:
            async with websockets.connect(f"ws://127.0.0.1:{port}/ws/room") as client:
                for message in ("from a client", b"\x00"):
                    await client.send(message)
                    assert await soon(subscriber) == message
                await broadcast.publish("room", "from the program")
                await hub.publish("room", {"from": "the hub"})
                assert [await soon(subscriber) for _ in range(2)] == ["from the program", {"from": "the hub"}]
                async with asyncio.timeout(5):
                    heard = [await client.recv() for _ in range(4)]
                assert heard == ["from a client", b"\x00", "from the program", '{"from":"the hub"}']
        await broadcast.disconnect()
        assert hub.ready


# Several processes


async def test_two_workers_hear_each_other() -> None:
    """Hubs of two workers on one Redis: both hear both, in the same order."""
    redis = FakeServer()
    hubs = [Hub(Settings(), redis=FakeAsyncRedis(server=redis)) for _ in range(2)]
    async with Broadcast(hub=hubs[0]) as one, Broadcast(hub=hubs[1]) as two:
        async with one.subscribe("chatroom") as first, two.subscribe("chatroom") as second:
            for number in range(10):
                await (one, two)[number % 2].publish("chatroom", f"{number}")
            heard = [[await soon(subscriber) for _ in range(10)] for subscriber in (first, second)]
    assert sorted(heard[0]) == [f"{number}" for number in range(10)]
    assert heard[0] == heard[1]
    for hub in hubs:
        await hub.stop()


ANOTHER_PROCESS = """
import asyncio, sys
from hub.compat import Broadcast
async def main():
    async with Broadcast(sys.argv[1]) as broadcast, broadcast.subscribe("questions") as questions:
        print("ready", flush=True)
        async for event in questions:
            await broadcast.publish("answers", event.message + "!")
            break
asyncio.run(main())
"""


async def test_two_processes(server: RedisProcess) -> None:
    """A program of its own, started by the test, hears and is heard."""
    command = (sys.executable, "-c", ANOTHER_PROCESS, server.url)
    other = await asyncio.create_subprocess_exec(*command, stdout=PIPE, cwd=ROOT, env=clean_environment())
    try:
        assert other.stdout is not None
        assert await asyncio.wait_for(other.stdout.readline(), 20) == b"ready\n"
        async with Broadcast(server.url) as broadcast, broadcast.subscribe("answers") as answers:
            await broadcast.publish("questions", "there")
            assert await soon(answers) == "there!"
        assert await asyncio.wait_for(other.wait(), 10) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            other.kill()
        await other.wait()


def test_one_object_in_several_event_loops() -> None:
    """As tests use a module's `broadcast`: connected and disconnected in one loop after the other."""
    broadcast = Broadcast("memory://")

    async def run() -> Any:
        async with broadcast, broadcast.subscribe("x") as subscriber:
            await broadcast.publish("x", "hello")
            return await soon(subscriber)

    assert [asyncio.run(run()) for _ in range(2)] == ["hello", "hello"]


# Redis goes and comes


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"REDIS_TIMEOUT": "1", "PUBLISH_TIMEOUT": "0.3", "SUBSCRIBE_TIMEOUT": "0.3"}.items():
        monkeypatch.setenv(f"HUB_{name}", value)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("scheme", ["redis", "redis-stream"])
async def test_redis_dies_and_returns(server: RedisProcess, scheme: str) -> None:
    """While it is away publishers and newcomers are told; the iterator that was there goes on when it is back."""
    url = server.url.replace("redis", scheme, 1)
    async with Broadcast(url) as broadcast, broadcast.subscribe("chatroom") as subscriber:
        await broadcast.publish("chatroom", "before")
        assert await soon(subscriber) == "before"
        server.kill()
        with pytest.raises(BrokerUnavailable, match="sent"):
            await broadcast.publish("chatroom", "meanwhile")
        with pytest.raises(BrokerUnavailable):
            async with broadcast.subscribe("new"):
                pass
        assert broadcast._hub.registry.subscribers == 1
        server.start()
        heard: list[Any] = []
        async with asyncio.timeout(20):
            while "after" not in heard:
                with contextlib.suppress(BrokerUnavailable):
                    await broadcast.publish("chatroom", "after")
                with contextlib.suppress(TimeoutError):
                    heard.append(await soon(subscriber, 0.2))
        assert set(heard) == {"after"}


async def test_starting_before_redis(server: RedisProcess) -> None:
    """`connect` does not wait for Redis: the program serves, and `subscribe` gets through once it is there."""
    server.kill()
    async with Broadcast(server.url) as broadcast:
        block = broadcast.subscribe("chatroom")
        subscribing = asyncio.create_task(block.__aenter__())
        await asyncio.sleep(0)
        server.start()
        subscriber = await asyncio.wait_for(subscribing, 10)
        await broadcast.publish("chatroom", "hello")
        assert await soon(subscriber) == "hello"
        await block.__aexit__(None, None, None)


async def test_a_stream_loses_nothing(server: RedisProcess) -> None:
    """redis-stream://: what is published while the subscription's connection is cut is in the iterator all the same."""
    url = server.url.replace("redis", "redis-stream", 1)
    async with Broadcast(url) as broadcast, Broadcast(url) as other, broadcast.subscribe("news") as subscriber:
        await other.publish("news", "0")
        assert await soon(subscriber) == "0"
        with contextlib.closing(server.client()) as control:
            assert control.client_kill_filter(_type="pubsub") >= 1
        for number in range(1, 21):
            await other.publish("news", f"{number}")
        assert [await soon(subscriber, 10) for _ in range(20)] == [f"{number}" for number in range(1, 21)]
        assert broadcast._hub.broker.gaps == 1  # type: ignore[attr-defined]


def test_a_history_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where plain channels have a history already, redis-stream:// leaves it as it is configured."""
    for size, expected in ((0, 300), (5, 5)):
        monkeypatch.setenv("HUB_WITHOUT_NAMESPACE", f'{{"history_size": {size}, "history_ttl": {size}}}')
        history = Broadcast("redis-stream://localhost")._hub.namespaces.of_room("news").history
        assert history is not None
        assert history.size == expected


# Mistakes


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("kafka://localhost:9092", r"Kafka.*redis://"),
        ("postgres://u:s3cret@localhost/db", r"Postgres.*redis://"),
        ("postgresql://localhost/db", r"Postgres.*redis://"),
        ("mqtt://localhost", r"mqtt: .*memory://.*redis://"),
        ("localhost:6379", "redis://"),
        ("", "redis://"),
    ],
)
def test_urls_that_are_none(url: str, sentence: str) -> None:
    """The error says what to use instead, and repeats no password."""
    with pytest.raises(ConfigError, match=sentence) as error:
        Broadcast(url)
    assert "s3cret" not in str(error.value)


def test_one_of_three() -> None:
    """A URL, a backend or a hub; and a backend must be one."""
    for arguments in ({}, {"url": "memory://", "hub": Hub(Settings())}):
        with pytest.raises(ConfigError, match="one of url, backend and hub"):
            Broadcast(**arguments)
    with pytest.raises(ConfigError, match="str is not a backend"):
        Broadcast(backend="redis://")  # type: ignore[arg-type]


async def test_not_connected() -> None:
    """Before `connect` and after `disconnect` the caller is told what is missing; twice is once."""
    broadcast = Broadcast("memory://")
    for _ in range(2):
        assert repr(broadcast) == "<Broadcast memory, 0 subscribers here, not connected>"
        with pytest.raises(RuntimeError, match="connect"):
            await broadcast.publish("x", "y")
        with pytest.raises(RuntimeError, match="connect"):
            async with broadcast.subscribe("x"):
                pass
        await broadcast.connect()
        await broadcast.connect()
        async with broadcast.subscribe("x"):
            assert repr(broadcast) == "<Broadcast memory, 1 subscribers here, connected>"
        await broadcast.disconnect()
        await broadcast.disconnect()
