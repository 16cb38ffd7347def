"""`publish_on_commit`: what is committed is published, in order; what is rolled back is not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlmodel
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import ASGITransport, AsyncClient
from pydantic import BaseModel, Field
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from hub import ConfigError, History, Hub, HubError, InvalidChannel, MessageTooBig, Refused, Settings
from hub.embedded import EmbeddedServer
from hub.memory import MemoryBroker
from hub.protocol import envelope
from hub.sync import Publisher
from hub.types import PublishResult
from tests.support.redis import free_port, running_redis
from tests.support.waiting import eventually

CHANNEL = "chat:orders"
# Registers a text to be published.
Say = Callable[[str], None]
Scenario = Callable[[Any, Say], None]


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/orders.db")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
async def async_engine(engine: Engine) -> AsyncIterator[AsyncEngine]:
    """The same database."""
    engine = create_async_engine(str(engine.url).replace("sqlite", "sqlite+aiosqlite"))
    yield engine
    await engine.dispose()


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub(Settings(), broker=MemoryBroker()) as hub:
        yield hub


@pytest.fixture
def publisher(redis_server: EmbeddedServer) -> Iterator[Publisher]:
    with Publisher(Settings(), redis=redis_server.url) as publisher:
        yield publisher


async def heard(hub: Hub, channel: str = CHANNEL) -> list[str]:
    """What was published, once nothing is under way any more."""
    await asyncio.sleep(0)  # what a session has handed over begins
    await eventually(lambda: not hub._committed)
    return [publication.data.decode() for publication in (await hub.history(channel, limit=-1)).publications]


def kept(url: str, channel: str = CHANNEL) -> list[str]:
    """The same, from the Redis of a publisher."""
    with redis.Redis.from_url(url) as client:
        entries: Any = client.xrange(f"hub:stream:{{{channel}}}")
    return [envelope.decode(fields[b"d"]).data.decode() for _, fields in entries]


# Transactions


def commit(session: Session, say: Say) -> None:
    session.add(Order(id=1))
    say("a")
    say("b")
    session.commit()


def commit_of_nothing(session: Session, say: Say) -> None:
    say("a")
    session.commit()


def before_the_first_statement(session: Session, say: Say) -> None:
    say("a")
    session.add(Order(id=1))
    session.commit()


def rollback(session: Session, say: Say) -> None:
    session.add(Order(id=1))
    say("a")
    session.rollback()
    session.commit()


def no_end(session: Session, say: Say) -> None:
    session.add(Order(id=1))
    say("a")
    session.close()
    session.commit()


def one_after_the_other(session: Session, say: Say) -> None:
    for number in range(1, 4):
        session.add(Order(id=number))
        say(str(number))
        if number == 2:
            session.rollback()
        else:
            session.commit()


def a_block(session: Session, say: Say) -> None:
    with session.begin():
        say("a")
    with contextlib.suppress(ZeroDivisionError), session.begin():
        say("b")
        raise ZeroDivisionError


def savepoint(session: Session, say: Say) -> None:
    say("a")
    with session.begin_nested():
        session.add(Order(id=1))
        say("b")
    say("c")
    session.commit()


def savepoint_rolled_back(session: Session, say: Say) -> None:
    say("a")
    nested = session.begin_nested()
    session.add(Order(id=1))
    say("b")
    nested.rollback()
    say("c")
    session.commit()


def savepoint_and_all_rolled_back(session: Session, say: Say) -> None:
    with session.begin_nested():
        say("a")
    session.rollback()
    session.commit()


def inner_savepoint_rolled_back(session: Session, say: Say) -> None:
    with session.begin_nested():
        say("a")
        inner = session.begin_nested()
        say("b")
        inner.rollback()
        say("c")
    session.commit()


def outer_savepoint_rolled_back(session: Session, say: Say) -> None:
    say("a")
    outer = session.begin_nested()
    with session.begin_nested():
        say("b")
    with session.begin_nested():
        say("c")
    outer.rollback()
    say("d")
    session.commit()


def commit_inside_of_savepoints(session: Session, say: Say) -> None:
    session.begin_nested()
    say("a")
    session.begin_nested()
    say("b")
    session.commit()
    session.rollback()


def during_a_flush(session: Session, say: Say) -> None:
    event.listen(session, "after_flush", lambda *_: say("flushed"), once=True)
    with session.begin_nested():
        session.add(Order(id=1))
    session.commit()


def a_savepoint_during_a_flush(session: Session, say: Say) -> None:
    def in_a_savepoint(*_: object) -> None:
        with session.begin_nested():
            say("flushed")

    event.listen(session, "after_flush", in_a_savepoint, once=True)
    session.add(Order(id=1))
    session.flush()
    session.commit()


def a_flush_that_fails(session: Session, say: Say) -> None:
    session.add(Order(id=1))
    say("a")
    session.commit()
    session.expunge_all()
    event.listen(session, "before_flush", lambda *_: say("too early"), once=True)
    session.add(Order(id=1))
    say("b")
    with pytest.raises(IntegrityError):
        session.commit()
    session.rollback()
    say("c")
    session.commit()


SCENARIOS: dict[Scenario, list[str]] = {
    commit: ["a", "b"],
    commit_of_nothing: ["a"],
    before_the_first_statement: ["a"],
    rollback: [],
    no_end: [],
    one_after_the_other: ["1", "3"],
    a_block: ["a"],
    savepoint: ["a", "b", "c"],
    savepoint_rolled_back: ["a", "c"],
    savepoint_and_all_rolled_back: [],
    inner_savepoint_rolled_back: ["a", "c"],
    outer_savepoint_rolled_back: ["a", "d"],
    commit_inside_of_savepoints: ["a", "b"],
    during_a_flush: ["flushed"],
    a_savepoint_during_a_flush: ["flushed"],
    a_flush_that_fails: ["a", "c"],
}
scenarios = pytest.mark.parametrize(
    ("scenario", "expected"), SCENARIOS.items(), ids=lambda value: getattr(value, "__name__", "")
)


@scenarios
async def test_hub(hub: Hub, engine: Engine, scenario: Scenario, expected: list[str]) -> None:
    """In the hub's own thread."""
    with Session(engine) as session:
        scenario(session, lambda text: hub.publish_on_commit(session, CHANNEL, text))
    assert await heard(hub) == expected
    assert hub.unsent.total == 0


@scenarios
async def test_hub_with_async_session(
    hub: Hub, async_engine: AsyncEngine, scenario: Scenario, expected: list[str]
) -> None:
    """An AsyncSession has another session inside, in which it all happens."""
    async with AsyncSession(async_engine) as session:
        await session.run_sync(scenario, lambda text: hub.publish_on_commit(session, CHANNEL, text))
    assert await heard(hub) == expected


@scenarios
async def test_hub_from_a_thread(hub: Hub, engine: Engine, scenario: Scenario, expected: list[str]) -> None:
    """As `def` endpoints have it; SQLModel's session."""

    def work() -> None:
        with sqlmodel.Session(engine) as session:
            scenario(session, lambda text: hub.publish_on_commit(session, CHANNEL, text))

    await asyncio.to_thread(work)
    assert await heard(hub) == expected


def test_publisher(publisher: Publisher, redis_server: EmbeddedServer, engine: Engine) -> None:
    """All of them without an event loop; what is committed is there when `commit` returns."""
    for scenario, expected in SCENARIOS.items():
        channel = f"chat:{scenario.__name__}"
        Base.metadata.drop_all(engine)
        Base.metadata.create_all(engine)
        with scoped_session(sessionmaker(engine))() as session:
            scenario(session, lambda text, channel=channel: publisher.publish_on_commit(session, channel, text))
        assert kept(redis_server.url, channel) == expected, channel


def test_not_before_the_commit(publisher: Publisher, redis_server: EmbeddedServer, engine: Engine) -> None:
    """Neither at the call nor at a flush nor at the end of a SAVEPOINT; once the connection is given back."""
    session = Session(engine)
    session.add(Order(id=1))
    publisher.publish_on_commit(session, CHANNEL, "a")
    session.flush()
    session.begin_nested().commit()
    assert kept(redis_server.url) == []
    session.commit()
    assert kept(redis_server.url) == ["a"]


def test_sessions_with_a_registry(publisher: Publisher, redis_server: EmbeddedServer, engine: Engine) -> None:
    """`scoped_session` itself may be given."""
    session = scoped_session(sessionmaker(engine))
    publisher.publish_on_commit(session, CHANNEL, "a")
    session.commit()
    session.remove()
    assert kept(redis_server.url) == ["a"]


async def test_async_sessions_with_a_registry(hub: Hub, async_engine: AsyncEngine) -> None:
    """So may `async_scoped_session`."""
    session = async_scoped_session(async_sessionmaker(async_engine), asyncio.current_task)
    hub.publish_on_commit(session, CHANNEL, "a")
    await session.commit()
    await session.remove()
    assert await heard(hub) == ["a"]


# What is published


async def test_as_it_was(hub: Hub, engine: Engine) -> None:
    """Data and tags are those of the call, whatever becomes of the objects."""
    data, tags = {"id": 1}, {"kind": "order"}
    with Session(engine) as session:
        hub.publish_on_commit(session, CHANNEL, data, tags=tags, idempotency_key="key")
        hub.publish_on_commit(session, CHANNEL, data, idempotency_key="key")
        data["id"], tags["kind"] = 2, "other"
        session.commit()
    assert await heard(hub) == ['{"id":1}']
    (publication,) = (await hub.history(CHANNEL, limit=-1)).publications
    assert publication.tags == {"kind": "order"}


async def test_refusals(hub: Hub, publisher: Publisher, engine: Engine) -> None:
    """What can be known before the commit is raised where it can be dealt with, and nothing is registered."""
    with Session(engine) as session:
        for each in (hub, publisher):
            for error, channel, data, options in (
                (InvalidChannel, "", "x", {}),
                (MessageTooBig, CHANNEL, "x" * 65537, {}),
                (TypeError, CHANNEL, object(), {}),
                (Refused, "unknown:x", "x", {"known": True}),
            ):
                with pytest.raises(error):
                    each.publish_on_commit(session, channel, data, **options)
            with pytest.raises(TypeError, match="not Engine"):
                each.publish_on_commit(engine, CHANNEL, "x")  # type: ignore[arg-type]
        session.commit()
    assert await heard(hub) == []


async def test_two_at_once(hub: Hub, publisher: Publisher, redis_server: EmbeddedServer, engine: Engine) -> None:
    """A hub and a publisher on one session do not mind each other."""
    with Session(engine) as session:
        for number in range(4):
            (hub if number % 2 else publisher).publish_on_commit(session, CHANNEL, number)
        session.commit()
    assert (await heard(hub), kept(redis_server.url)) == (["1", "3"], ["0", "2"])


async def test_one_commit_after_the_other(hub: Hub, engine: Engine) -> None:
    """Their publications stay in order, though nobody waits in between."""
    with Session(engine) as session:
        for number in range(1, 101):
            hub.publish_on_commit(session, CHANNEL, number)
            if number % 3:
                session.commit()
        session.commit()
    assert await heard(hub) == [str(number) for number in range(1, 101)]


# Channels with a model


class Message(BaseModel):
    text: str
    to: str = Field(default="all", alias="for")


async def test_typed_channels(engine: Engine) -> None:
    """A message of the model as it is now, in order with all else of the session, and never after a rollback."""
    hub = Hub(Settings(), broker=MemoryBroker())
    room = hub.channel("chat:{room}", Message, history=History(size=10, ttl=60))(room="orders")
    async with hub:
        with Session(engine) as session:
            room.publish_on_commit(session, message := Message(text="a"), tags={"kind": "order"}, idempotency_key="key")
            message.text = "b"
            hub.publish_on_commit(session, CHANNEL, {"text": "c"})
            room.publish_on_commit(session, message)
            room.publish_on_commit(session, message, idempotency_key="key")
            session.commit()
            room.publish_on_commit(session, message)
            session.rollback()
        assert await heard(hub) == ['{"text":"a","for":"all"}', '{"text":"c"}', '{"text":"b","for":"all"}']
        first = (await room.history()).publications[0]
        assert (first.data, first.tags) == (Message(text="a"), {"kind": "order"})


async def test_refusals_of_typed_channels(engine: Engine) -> None:
    """Those of `publish` of the same channel, at once; and nothing is registered."""
    hub = Hub(Settings(), broker=MemoryBroker())
    room = hub.channel("chat:{room}", Message, history=History(size=10, ttl=60))(room="orders")
    wrong: tuple[tuple[Any, dict[str, Any]], ...] = (
        ({"txt": "a"}, {}),
        (Message(text="x" * 70000), {}),
        (Message(text="x"), {"tags": {"a": 1}}),
        (Message(text="x"), {"exclude": "client"}),
        (Message(text="x"), {"known": True}),
    )
    async with hub:
        with Session(engine) as session:
            for message, options in wrong:
                with pytest.raises((HubError, TypeError, ValueError)) as theirs:
                    await room.publish(message, **options)
                with pytest.raises(theirs.type) as ours:
                    room.publish_on_commit(session, message, **options)
                if "known" not in options:
                    assert str(ours.value) == str(theirs.value)
            with pytest.raises(TypeError, match="not Engine"):
                room.publish_on_commit(engine, Message(text="x"))  # type: ignore[arg-type]
            session.commit()
        assert await heard(hub) == []


def test_a_typed_channel_in_a_script(engine: Engine) -> None:
    """As the hub's own."""
    room = Hub(Settings(), broker=MemoryBroker()).channel("chat:{room}", Message)(room="orders")
    with Session(engine) as session, pytest.raises(RuntimeError, match=r"use hub\.sync\.Publisher"):
        room.publish_on_commit(session, Message(text="x"))


# Where it is called


def test_endpoints(engine: Engine) -> None:
    """`def` and `async def`, of an application that has included the hub; a client hears both."""
    hub = Hub(Settings(), broker=MemoryBroker())
    app = FastAPI()
    app.include_router(hub.router)

    def order(number: int) -> None:
        with Session(engine) as session:
            session.add(Order(id=number))
            hub.publish_on_commit(session, "orders", {"id": number})
            session.commit()

    @app.post("/in-a-thread")
    def in_a_thread() -> None:
        assert threading.current_thread().name != "MainThread"
        order(1)

    @app.post("/in-the-loop")
    async def in_the_loop() -> None:
        order(2)

    with TestClient(app) as client, client.websocket_connect("/ws/orders") as socket:
        client.post("/in-a-thread").raise_for_status()
        assert socket.receive_json() == {"id": 1}
        client.post("/in-the-loop").raise_for_status()
        assert socket.receive_json() == {"id": 2}


@pytest.mark.parametrize("path", ["/rt/in-a-thread", "/rt/in-the-loop"])
async def test_endpoints_of_a_mounted_application(engine: Engine, path: str) -> None:
    """Nobody runs its lifespan, so the hub starts with the publication, in `def` as in `async def`.

    In `def` it was a RuntimeError, which named the publisher for scripts.
    """
    hub, app, mounted = Hub(Settings(), broker=MemoryBroker()), FastAPI(), FastAPI()
    mounted.include_router(hub.router)
    app.mount("/rt", mounted)

    def order() -> None:
        with Session(engine) as session:
            hub.publish_on_commit(session, CHANNEL, "a")
            session.commit()

    @mounted.post("/in-the-loop")
    async def in_the_loop() -> None:
        order()

    mounted.post("/in-a-thread")(order)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        (await client.post(path)).raise_for_status()
    assert await heard(hub) == ["a"]
    await hub.stop()


def test_a_hub_of_a_loop_that_was_closed(engine: Engine) -> None:
    """As `publish` does, it starts in the loop that runs now; tests have a loop each, and often no lifespan.

    The publication went to the closed one, and was counted as not sent.
    """
    hub = Hub(Settings(), broker=MemoryBroker())

    async def publish() -> list[str]:
        with Session(engine) as session:
            hub.publish_on_commit(session, CHANNEL, "a")
            session.commit()
        return await heard(hub)

    assert asyncio.run(publish()) == ["a"]
    assert asyncio.run(publish()) == ["a", "a"]
    assert hub.unsent.total == 0


async def test_a_hub_that_has_not_begun(engine: Engine) -> None:
    """It does, as with `publish`."""
    hub = Hub(Settings(), broker=MemoryBroker())
    with Session(engine) as session:
        hub.publish_on_commit(session, CHANNEL, "a")
        session.commit()
    assert await heard(hub) == ["a"]
    await hub.stop()


async def test_a_hub_that_ends(redis_server: EmbeddedServer, engine: Engine) -> None:
    """What was committed before is sent before."""
    async with Hub(Settings(), redis=redis_server.url) as hub:
        await eventually(lambda: hub.ready)
        with Session(engine) as session:
            hub.publish_on_commit(session, CHANNEL, "a")
            session.commit()
    assert hub.unsent.total == 0
    assert kept(redis_server.url) == ["a"]


class Slow(MemoryBroker):
    """Takes a moment to take a publication."""

    def append(self, *_: Any, **__: Any) -> asyncio.Future[PublishResult]:
        loop = asyncio.get_running_loop()
        taken = loop.create_future()
        loop.call_later(0.05, taken.set_result, PublishResult(1, "epoch"))
        return taken


async def test_a_hub_that_ends_waits(engine: Engine) -> None:
    """It ends when the answers are there."""
    async with Hub(Settings(), broker=Slow()) as hub:
        with Session(engine) as session:
            hub.publish_on_commit(session, CHANNEL, "a")
            session.commit()
    assert not hub._committed


async def test_too_late(engine: Engine) -> None:
    """What a thread commits while the hub stops is counted, and does not start it again."""
    hub = Hub(Settings(), broker=MemoryBroker())
    await hub.start()
    with Session(engine) as session:
        hub.publish_on_commit(session, CHANNEL, "a")
        await hub.stop()
        hub._loop = asyncio.get_running_loop()  # as the thread has seen it
        session.commit()
        hub._loop = None
    await asyncio.sleep(0)
    assert (hub.unsent.total, hub.ready) == (1, False)


def test_a_script(engine: Engine) -> None:
    """Without hub and event loop it is told at once what to use."""
    hub = Hub(Settings(), broker=MemoryBroker())
    with Session(engine) as session, pytest.raises(RuntimeError, match=r"use hub\.sync\.Publisher"):
        hub.publish_on_commit(session, CHANNEL, "a")


def test_a_loop_that_has_ended(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """A hub that stops between call and commit has counted and said what it could not send."""
    hub = Hub(Settings(), broker=MemoryBroker())
    session = Session(engine)

    async def register() -> None:
        async with hub:
            hub.publish_on_commit(session, CHANNEL, "a")

    asyncio.run(register())
    session.commit()
    assert hub.unsent.total == 1
    assert "the hub is not running" in caplog.text


# Faults


async def test_redis_is_away(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The commit is none the worse for it; what was not sent is counted and logged."""
    url = f"redis://127.0.0.1:{free_port()}"
    publisher = Publisher(Settings(), redis=url)
    async with Hub(Settings(publish_timeout=0.2), redis=url) as hub:
        with Session(engine) as session:
            session.add(Order(id=1))
            for each in (hub, publisher, publisher, hub):
                each.publish_on_commit(session, CHANNEL, "a")
            session.commit()
            assert session.get(Order, 1)
        await eventually(lambda: hub.unsent.total == 2)
    assert publisher.unsent.total == 2
    assert {record.name for record in caplog.records if "could not be relayed" in record.message} == {"hub", "hub.sync"}


def test_redis_does_not_answer(redis_binary: str, engine: Engine) -> None:
    """Whoever commits waits for one answer, not for one of each publication."""
    with running_redis(redis_binary) as server:
        with Publisher(Settings(publish_timeout=0.3), redis=server.url) as publisher, Session(engine) as session:
            publisher.publish(CHANNEL, "before")
            server.send_signal(signal.SIGSTOP)
            for number in range(100):
                publisher.publish_on_commit(session, CHANNEL, number)
            start = time.monotonic()
            session.commit()
            assert time.monotonic() - start < 10
            assert publisher.unsent.total == 100


def test_one_is_refused(publisher: Publisher, redis_server: EmbeddedServer, engine: Engine) -> None:
    """The others are sent."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.hset("hub:meta:{chat:broken}", "e", "epoch")
        client.set("hub:stream:{chat:broken}", "x")
    with Session(engine) as session:
        for channel in (CHANNEL, "chat:broken", CHANNEL):
            publisher.publish_on_commit(session, channel, channel)
        session.commit()
    assert kept(redis_server.url) == [CHANNEL, CHANNEL]
    assert publisher.unsent.total == 1


async def test_what_nobody_thought_of(
    hub: Hub,
    publisher: Publisher,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A fault of the hub's own is logged with its traceback, and does not reach the committer either."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(publisher._history, "append", fail)
    monkeypatch.setattr(hub.broker, "append", fail)
    with Session(engine) as session:
        publisher.publish_on_commit(session, CHANNEL, "a")
        hub.publish_on_commit(session, CHANNEL, "b")
        session.commit()
    await heard(hub, "chat:other")
    faults = [record for record in caplog.records if record.levelno == logging.ERROR and record.exc_info]
    assert {record.name for record in faults} == {"hub", "hub.on_commit"}
    assert hub.unsent.total == 1


def test_without_sqlalchemy(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "sqlalchemy.orm", None)
    with pytest.raises(ConfigError, match=r"pip install 'broadcast-hub\[sql\]'"):
        publisher.publish_on_commit(object(), CHANNEL, "a")  # type: ignore[arg-type]


def test_nothing_is_left(publisher: Publisher, engine: Engine) -> None:
    """A session that has gone leaves nothing behind, and other sessions have never heard of it."""
    session = Session(engine)
    publisher.publish_on_commit(session, CHANNEL, "a")
    session.commit()
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None
    assert not Session(engine).info
