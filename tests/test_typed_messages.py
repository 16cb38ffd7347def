"""`on_message`: what is published in typed channels comes to functions of the application, on one worker or on each."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from pydantic import BaseModel

from hub import BrokerUnavailable, ChannelOptions, ConfigError, Event, History, Hub, Settings
from hub.broker import Overhearing
from hub.embedded import EmbeddedServer
from hub.memory import MemoryBroker
from hub.publishing import Order, prepare
from hub.sync import Publisher
from hub.testing import Cluster
from hub.typed import messages
from tests.support.backends import BACKENDS, backend
from tests.support.waiting import eventually


class Message(BaseModel):
    number: int


KEPT = History(size=100, ttl=300)
NAMESPACE = ChannelOptions(history_size=100, history_ttl=300)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


async def test_once_and_everywhere(redis_server: EmbeddedServer) -> None:
    """Three workers: each message comes to one of them, and to all of them; nobody has subscribed."""
    once: Counter[int] = Counter()
    each: Counter[int] = Counter()

    def worker() -> Hub:
        hub = Hub(Settings(redis_prefix="h[u]b*"), redis=redis_server.url)
        chat = hub.channel("chat:{room}", Message, history=KEPT)

        @chat.on_message(once=True)
        def handle(room: str, message: Message) -> None:
            assert room == str(message.number % 3)
            once[message.number] += 1

        @chat.on_message()
        async def hear(message: Message) -> None:
            each[message.number] += 1

        return hub

    async with AsyncExitStack() as stack:
        hubs = [await stack.enter_async_context(worker()) for _ in range(3)]
        await heard(hubs)
        for number in range(20):
            await hubs[number % 3].typed_channels[0](room=number % 3).publish(Message(number=number))
        with Publisher(
            Settings(redis_prefix="h[u]b*", namespaces={"chat": NAMESPACE}), redis=redis_server.url
        ) as other:
            await asyncio.to_thread(other.publish, "chat:2", {"number": 20})
            await asyncio.to_thread(other.publish, "chatter:2", {"number": 21})
            await asyncio.to_thread(other.publish, "chat:2:2", {"number": 22})
            await asyncio.to_thread(other.publish, "$chat:2", {"number": 23})
        await eventually(lambda: each[23] == 3 and sum(once.values()) == 22)
        assert each == dict.fromkeys([*range(21), 23], 3)
        assert once == dict.fromkeys([*range(21), 23], 1)
        assert not any(hub.unhandled.total or hub.malformed.total for hub in hubs)


@pytest.mark.parametrize("workers", [1, 2])
async def test_once_though_a_function_runs_for_long(
    redis_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Longer than claims last: what waited behind it was handled by others, and if there are none by its own worker."""
    monkeypatch.setattr(messages, "CLAIM", 1.0)
    gate = asyncio.Event()
    begun: Counter[int] = Counter()

    def worker() -> Hub:
        hub = Hub(Settings(), redis=redis_server.url)

        @hub.channel("chat:{room}", Message, history=KEPT).on_message(once=True)
        async def handle(message: Message) -> None:
            begun[message.number] += 1
            if not message.number:
                await gate.wait()

        return hub

    async with AsyncExitStack() as stack:
        hubs = [await stack.enter_async_context(worker()) for _ in range(workers)]
        await heard(hubs)
        for number in range(4):
            await hubs[0].typed_channels[0](room="x").publish(Message(number=number))
        await eventually(lambda: len(begun) == (1 if workers == 1 else 4))
        await asyncio.sleep(2)
        gate.set()
        await hubs[0].typed_channels[0](room="x").publish(Message(number=4))
        await eventually(lambda: len(begun) == 5)
        await asyncio.sleep(0.2)
        assert begun == dict.fromkeys(range(5), 1)
        assert not any(hub.unhandled.total for hub in hubs)


async def test_what_was_claimed_and_not_begun_is_counted(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else handles it when this worker stops."""
    monkeypatch.setattr(messages, "CLAIM", 0.03)
    gate = asyncio.Event()

    @hub.channel("chat:{room}", Message, history=KEPT).on_message(once=True)
    async def handle(message: Message) -> None:
        await gate.wait()

    async with hub:
        for number in range(3):
            await hub.typed_channels[0](room="x").publish(Message(number=number))
        await asyncio.sleep(0.3)
        asyncio.get_running_loop().call_later(0.05, gate.set)
    assert hub.unhandled.total == 2


async def heard(hubs: list[Hub]) -> None:
    """Their patterns stand: a connection's commands are answered in their order, and heartbeats come behind."""
    await eventually(lambda: all(hub.ready for hub in hubs))


async def test_over_a_reconnect(redis_server: EmbeddedServer) -> None:
    """What is published after a lost connection is heard again."""
    seen: list[int] = []
    hub = Hub(Settings(), redis=redis_server.url)
    chat = hub.channel("chat:{room}", Message, history=KEPT)

    @chat.on_message(once=True)
    def handle(message: Message) -> None:
        seen.append(message.number)

    async with hub:
        await heard([hub])
        before = hub.broker.gaps  # type: ignore[attr-defined]
        await hub.broker.execute(b"CLIENT", b"KILL", b"TYPE", b"pubsub")  # type: ignore[attr-defined]
        await eventually(lambda: hub.broker.gaps > before and hub.ready)  # type: ignore[attr-defined]
        await chat(room="x").publish(Message(number=1))
        await eventually(lambda: seen == [1])


@pytest.fixture(params=BACKENDS)
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """One that runs and is ready."""
    made = backend(request.param, request).make()
    await made.start(lambda channel, payload: None)
    await eventually(lambda: made.ready)
    yield made
    await made.stop()


async def test_the_contract(broker: Any) -> None:
    """`listen` hears all names with the prefix and no others, whether somebody subscribes or not."""
    assert isinstance(broker, Overhearing)
    found: list[tuple[str, bytes]] = []
    broker.listen("a*[b]:", lambda channel, payload: found.append((channel, payload)))
    broker.listen("end", lambda channel, payload: found.append((channel, payload)))
    await broker.subscribe("a*[b]:1")  # confirmed behind the patterns
    for channel in ("axb:1", "a*[b]:1", "a*[b]", "a*[b]:2:3", "end"):
        await broker.publish(channel, b"tx")
    await eventually(lambda: found[-1:] == [("end", b"tx")])
    assert found == [("a*[b]:1", b"tx"), ("a*[b]:2:3", b"tx"), ("end", b"tx")]


@pytest.mark.parametrize("name", ["fakeredis", "valkey"])
async def test_claims(name: str, request: pytest.FixtureRequest) -> None:
    """One of all workers gets a key, until its time is over."""
    made = backend(name, request)
    one, other = made.make(), made.make()
    assert isinstance(one, Overhearing)
    assert isinstance(other, Overhearing)
    for each in (one, other):
        await each.start(lambda channel, payload: None)  # type: ignore[attr-defined]
    assert await one.claim("x", 100)
    assert not await other.claim("x", 100)
    assert not await one.claim("x", 100)
    assert await other.claim("y", 0.05)
    await eventually(lambda: made.client.get("hub:claim:y") is None)
    assert await one.claim("y", 100)
    for each in (one, other):
        await each.stop()  # type: ignore[attr-defined]


# Faults


@pytest.fixture
def hub() -> Hub:
    return Hub(Settings())


async def test_faults_are_counted_and_it_goes_on(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """An exception, what does not fit the model, what has no place in the history: the next one is handled."""
    seen: list[int] = []
    chat = hub.channel("chat:{room}", Message, history=KEPT)

    @chat.on_message(once=True)
    async def handle(message: Message) -> None:
        if message.number == 0:
            raise ZeroDivisionError
        seen.append(message.number)

    stranger = Hub(Settings(namespaces={"chat": NAMESPACE}), broker=hub.broker)
    async with hub:
        await chat(room="x").publish(Message(number=0))
        await chat(room="x").publish(Message(number=1), skip_history=True)
        await stranger.issue(order(stranger))
        hub.broker.publish("chat:x", b"?")
        await chat(room="x").publish(Message(number=2))
        await eventually(lambda: seen == [2])
    assert hub.unhandled.total == 3
    assert hub.malformed.total == 1
    assert b'hub_unhandled_messages_total{worker="1"} 3' in await hub.metrics("1")
    assert "unexpected fault in test_faults_are_counted" in caplog.text


def order(hub: Hub) -> Order:
    """A publication that does not fit."""
    return prepare(hub.namespaces, "chat:x", {"n": 1})


async def test_too_many_wait(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are dropped and counted, and the function gets the oldest in their order."""
    monkeypatch.setattr(messages, "BACKLOG", 2)
    gate = asyncio.Event()
    seen: list[int] = []
    chat = hub.channel("chat:{room}", Message)

    @chat.on_message()
    async def handle(message: Message) -> None:
        seen.append(message.number)
        await gate.wait()

    async with hub:
        await chat(room="x").publish(Message(number=0))
        await eventually(lambda: seen == [0])
        for number in range(1, 5):
            await chat(room="x").publish(Message(number=number))
        await eventually(lambda: hub.unhandled.total == 2)
        gate.set()
        await eventually(lambda: seen == [0, 1, 2])


async def test_the_end(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being handled comes to its end, what waits is not begun; after a time it is cut off."""
    gate, seen, ended = asyncio.Event(), [], []
    chat = hub.channel("chat:{room}", Message)

    @chat.on_message()
    async def handle(message: Message) -> None:
        seen.append(message.number)
        await gate.wait()
        ended.append(message.number)

    for cut_off in (False, True):
        seen.clear()
        ended.clear()
        gate.clear()
        monkeypatch.setattr(messages, "LAST_WORDS", 0.01 if cut_off else 20)
        await hub.start()
        for number in range(2):
            await chat(room="x").publish(Message(number=number))
        await eventually(lambda: seen == [0])
        if not cut_off:
            asyncio.get_running_loop().call_later(0.05, gate.set)
        await hub.stop()
        assert (seen, ended) == ([0], [] if cut_off else [0])
        assert hub.unhandled.total == int(cut_off)


async def test_something_else_was_cancelled(hub: Hub) -> None:
    """A function that waits for a task that somebody has cancelled fails with one message, and gets the next."""
    seen = []
    chat = hub.channel("chat:{room}", Message)

    @chat.on_message()
    async def handle(message: Message) -> None:
        seen.append(message.number)
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    async with hub:
        for number in range(2):
            await chat(room="x").publish(Message(number=number))
        await eventually(lambda: seen == [0, 1] and hub.unhandled.total == 2)


async def test_the_end_does_not_wait_for_a_thread(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that blocks its thread holds up nobody for ever."""
    monkeypatch.setattr(messages, "LAST_WORDS", 0.01)
    monkeypatch.setattr(messages, "CLEANUP", 0.01)
    begun, goes_on, ended = threading.Event(), threading.Event(), []
    chat = hub.channel("chat:{room}", Message)

    @chat.on_message()
    def handle(message: Message) -> None:
        begun.set()
        ended.append(goes_on.wait(20))

    try:
        await hub.start()
        await chat(room="x").publish(Message(number=1))
        await eventually(begun.is_set)
        await hub.stop()
        assert ended == []
    finally:
        goes_on.set()
    await eventually(lambda: ended == [True])


async def test_dependencies(hub: Hub) -> None:
    """Those that need no client, with the application's overrides; closed before the next message."""
    sessions, seen = [0], []

    def session() -> Any:
        sessions[0] += 1
        yield "session"
        sessions[0] -= 1

    def prefix() -> str:
        return "real"

    chat = hub.channel("chat:{room}", Message)

    @chat.on_message()
    def handle(
        room: str,
        message: Message,
        session: Annotated[str, Depends(session)],
        prefix: Annotated[str, Depends(prefix)],
        event: Annotated[Event, Depends(hub.event)],
    ) -> None:
        assert threading.current_thread() is not threading.main_thread()
        seen.append((room, session, sessions[0], prefix, event.channel, event.client))

    app = FastAPI()
    app.include_router(hub.router)
    app.dependency_overrides[prefix] = lambda: "test"
    async with app.router.lifespan_context(app):
        for _ in range(2):
            await chat(room="x").publish(Message(number=1))
        await eventually(lambda: len(seen) == 2)
    assert seen == [("x", "session", 1, "test", "chat:x", None)] * 2
    assert sessions == [0]


def test_in_another_event_loop(hub: Hub) -> None:
    """As TestClient has one for each connection without `with`."""
    seen: list[int] = []
    chat = hub.channel("chat:{room}", Message)
    function: Callable[[Any], Any] = lambda message: seen.append(message.number)  # noqa: E731
    function.__annotations__ = {"message": Message}
    chat.on_message()(function)

    async def publish(number: int) -> None:
        await hub.start()
        await chat(room="x").publish(Message(number=number))
        await eventually(lambda: seen[-1:] == [number])

    asyncio.run(publish(1))
    asyncio.run(publish(2))


def test_a_broker_that_cannot() -> None:
    """One of somebody else's hears single channels only, and says so when it is asked to."""

    class Other(MemoryBroker):
        listen = None  # type: ignore[assignment]

        def __getattribute__(self, name: str) -> Any:
            if name == "listen":
                raise AttributeError(name)
            return super().__getattribute__(name)

    hub = Hub(Settings(), broker=Other())
    with pytest.raises(ConfigError, match="on_message needs a broker with `listen` and `claim`; memory has none"):
        hub.channel("chat:{room}", Message).on_message()


async def test_in_a_cluster(hub: Hub) -> None:
    """Of one application in three workers, one worker handles each message; also while another one dies."""
    seen: Counter[int] = Counter()
    chat = hub.channel("chat:{room}", Message, history=KEPT)

    @chat.on_message(once=True)
    async def handle(room: str, message: Message) -> None:
        seen[message.number] += 1

    app = FastAPI()
    app.include_router(hub.router)
    async with Cluster(app, workers=3) as cluster:
        for number in range(6):
            await chat(room="x").publish(Message(number=number))
        await cluster.settle()
        await cluster.kill(2)
        for number in range(6, 9):
            await chat(room="x").publish(Message(number=number))
        await cluster.settle()
    assert seen == dict.fromkeys(range(9), 1)


async def test_a_call_that_takes_longer_than_a_claim(hub: Hub) -> None:
    """What the others have handled meanwhile is not handled again, though Redis has forgotten that they did.

    A worker whose function hung for more than 5 minutes took all that had waited for it as its own.
    """
    seen: Counter[int] = Counter()
    chat = hub.channel("chat:{room}", Message, history=KEPT)

    @chat.on_message(once=True)
    async def handle(message: Message) -> None:
        seen[message.number] += 1
        if message.number == 0:
            await asyncio.sleep(messages.CLAIM + 60)

    app = FastAPI()
    app.include_router(hub.router)
    async with Cluster(app, workers=2) as cluster:
        for number in range(5):
            await chat(room="x").publish(Message(number=number))
        await cluster.advance(messages.CLAIM)
        await chat(room="x").publish(Message(number=5))
        await cluster.advance(messages.CLAIM)
        missed = 0
        for worker in range(2):
            with cluster.on(worker):
                missed += hub.unhandled.total
    assert seen == dict.fromkeys(range(6), 1)
    assert not missed


async def test_redis_is_away(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whose a message is, so it is counted as missed."""
    chat = hub.channel("chat:{room}", Message, history=KEPT)
    chat.on_message(once=True)(needs_nothing)

    async def claim(key: str, seconds: float) -> bool:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(hub.broker, "claim", claim)
    async with hub:
        await chat(room="x").publish(Message(number=1))
        await eventually(lambda: hub.unhandled.total == 1)


def needs_nothing() -> None: ...


async def test_joins_are_no_messages(hub: Hub) -> None:
    """They travel in the same channel."""
    seen: list[int] = []
    chat = hub.channel("chat:{room}", Message, presence=True, join_leave=True)

    @chat.on_message()
    def handle(message: Message) -> None:
        seen.append(message.number)

    async with hub:
        hub.broker.presence.add("chat:x", "c", "u", b'{"user":"u","client":"c"}', announce=True)
        await chat(room="x").publish(Message(number=1))
        await eventually(lambda: seen == [1])
    assert hub.unhandled.total == 0


def test_an_event_loop_that_has_ended(hub: Hub) -> None:
    """Its functions have ended with it."""
    chat = hub.channel("chat:{room}", Message)
    chat.on_message()(needs_nothing)
    asyncio.run(hub.start())
    assert hub._crew is not None
    asyncio.run(hub._crew.stop())
