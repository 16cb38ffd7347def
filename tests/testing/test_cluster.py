"""`hub.testing.Cluster`: several workers of one application, their Redis, and what becomes of both."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel
from starlette.datastructures import State
from starlette.requests import HTTPConnection

from hub import History, Hub, Settings, User, embed
from hub.compat import ConnectionManager
from hub.memory import MemoryBroker
from hub.namespaces import BUILT_IN
from hub.testing import Cluster, NothingReceived, ReplyError, scope
from hub.testing.scope import own
from hub.testing.worker import ALIKE, SAME, parts, sibling
from tests.testing.application import make_app


async def test_cross_worker() -> None:
    """What one worker's client says another worker's client hears; Redis may be away meanwhile."""
    async with Cluster(make_app(), workers=3) as c:
        a, b = await c.connect("/rt/ws/chat:x", worker=0), await c.connect("/rt/ws/chat:x", worker=2)
        await a.send_text("hi")
        assert await b.receive_text(timeout=1) == "hi"
        await c.redis.drop(seconds=5)
        await c.advance(6)
        await a.send_text("hi again")
        assert await b.receive_text(timeout=1) == "hi again"


async def test_all_workers_hear_all_in_one_order(hub_cluster: type[Cluster]) -> None:
    """Three workers, their clients and their hubs; by the fixture."""
    async with hub_cluster(make_app(), workers=3) as c:
        clients = [await c.connect("/rt/ws/x", worker=number) for number in range(3)]
        for turn in range(10):
            for number, client in enumerate(clients):
                await client.send_text(f"{turn}-{number}")
        heard = [[await client.receive_text() for _ in range(30)] for client in clients]
        assert heard[0] == heard[1] == heard[2]
        assert len(set(heard[0])) == 30


# One object, several hubs


async def test_the_hub_is_the_workers_own() -> None:
    """Each handler has that of its worker, a test's body that of the first one or of the one that it says."""
    hub = Hub(Settings())
    app = make_app(hub)

    @app.get("/node")
    async def node() -> str:
        return hub.node

    @app.get("/node-in-a-thread")
    def node_in_a_thread() -> str:
        return hub.node

    async with Cluster(app, workers=3) as c:
        nodes = [(await c.http(worker=number).get("/node")).json() for number in range(3)]
        assert len(set(nodes)) == 3
        assert [(await c.http(worker=number).get("/node-in-a-thread")).json() for number in range(3)] == nodes
        assert hub.node == nodes[0]
        with c.on(2) as worker:
            assert hub.node == nodes[2]
            assert worker.number == 2
            assert isinstance(hub, Hub)
        await c.kill(0)
        assert hub.node == nodes[1]
    assert hub.node not in nodes
    assert type(hub) is Hub
    assert not hub.ready


async def test_a_hub_is_used_anywhere() -> None:
    """Publishing from a route, a task of the lifespan, a thread's portal, and the body of the test."""
    hub, started = Hub(Settings()), []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        async def greet() -> None:
            await hub.publish("x", f"greetings of {hub.node}")

        started.append(hub.node)
        app.state.ticker = asyncio.get_running_loop().call_later(5, lambda: tasks.append(asyncio.create_task(greet())))
        yield {"node": hub.node}

    tasks: list[asyncio.Task[None]] = []
    app = make_app(hub, lifespan=lifespan)

    @app.get("/state")
    async def state(request: Request) -> list[str]:
        return [request.state.node, str(request.app.state.ticker.when() > 0)]

    async with Cluster(app, workers=2) as c:
        client = await c.connect("/rt/ws/x", worker=1)
        await hub.publish("x", {"n": 1})
        assert await client.receive_json() == {"n": 1}
        assert [(await c.http(number).get("/state")).json()[0] for number in range(2)] == started
        await c.advance(6)
        heard = [await client.receive_text() for _ in range(2)]
        assert sorted(heard) == sorted(f"greetings of {node}" for node in started)


async def test_the_state_of_the_application_is_the_workers_own() -> None:
    """What a lifespan has put into `app.state` is there, and what was there before; and gone afterwards."""
    hub = Hub(Settings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.node = hub.node
        yield
        del app.state.node

    app = make_app(hub, lifespan=lifespan)

    @app.get("/mine")
    async def mine(request: Request) -> bool:
        return bool(request.app.state.node == hub.node) and request.app.state.hub is hub

    async with Cluster(app, workers=3) as c:
        assert [(await c.http(number).get("/mine")).json() for number in range(3)] == [True, True, True]
    assert not hasattr(app.state, "node")
    assert type(app.state) is State


async def test_decorators_count_on_every_worker() -> None:
    """Who may do what was registered once, before or while they run."""
    hub = Hub(Settings())
    app = make_app(hub)

    @hub.authenticate
    async def who(connection: HTTPConnection, token: str | None) -> User | None:
        return User(id=token) if token else None

    @hub.rpc("where")
    async def where(client: Any, data: Any) -> dict[str, Any]:
        return {"node": hub.node, "data": data, "user": client.user}

    async with Cluster(app, workers=2) as c:
        for number in range(2):
            client = await c.client(worker=number, token="ann")
            with c.on(number):
                assert await client.rpc("where", 1) == {"node": hub.node, "data": 1, "user": "ann"}
            refused = await c.connect("/rt/ws/x", worker=number)
            assert (await refused.wait_closed()).code == 4401
            await c.connect("/rt/ws/x?token=ann", worker=number)


async def test_limits_and_numbers_are_of_one_worker() -> None:
    """The connections of one do not count at another one."""
    app = make_app(Hub(Settings(max_connections=1, metrics="public")))
    async with Cluster(app, workers=2) as c:
        first = await c.connect("/rt/ws/x", worker=0)
        full = await c.connect("/rt/ws/x", worker=0)
        assert (await full.wait_closed()).code == 1013
        other = await c.client(worker=1)
        await other.subscribe("chat:x")
        with pytest.raises(Exception, match="refused"):
            await other.publish("nowhere:x", 1)
        for number, (raw, channels, refused) in enumerate([(1, 0, 0), (0, 1, 1)]):
            read = metrics((await c.http(number).get("/rt/metrics")).text)
            assert (read["hub_connections", "raw"], read["hub_connections", "channels"]) == (raw, channels)
            assert read["hub_command_errors_total", ""] == refused
        assert not first.closed


def metrics(text: str) -> Counter[tuple[str, str]]:
    """Sums, by name and endpoint."""
    found: Counter[tuple[str, str]] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, sample.labels.get("endpoint", "")] += sample.value  # type: ignore[assignment]
    return found


def test_a_sibling_has_everything_that_the_hub_has() -> None:
    """An attribute that `Hub` gets some day is here, or each worker's own: of the same kind, but not the same."""

    class Server:
        def new_client(self) -> str:
            return "redis://nowhere"

    class Custom(Hub):
        def __init__(self, name: str) -> None:
            super().__init__(Settings(console_password="a long password"))
            self.name = name

    hub = Custom("mine")
    assert hub.router
    other = sibling(hub, Custom, Server())  # type: ignore[arg-type]
    assert isinstance(other, Custom)
    assert other.name == "mine"
    assert {*vars(hub)} - {*vars(other)} <= {"router", "collector", "_context"}
    for name in SAME:
        assert vars(other)[name] is vars(hub)[name]
    for name in ALIKE:
        assert own(getattr(other, name)) is own(getattr(hub, name))
    for name, part in parts(hub):
        assert type(getattr(other, name)) is type(part)
        assert getattr(other, name) is not part
    assert {"_admission", "_context", "clients", "registry"} <= {name for name, _ in parts(hub)}


async def test_a_broker_of_its_own_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the settings say, a test reaches no server."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    for hub in (Hub(), Hub(Settings(), broker=MemoryBroker()), Hub(Settings(), redis="redis://127.0.0.1:1")):
        async with Cluster(make_app(hub), workers=2) as c:
            client = await c.connect("/rt/ws/x", worker=1)
            await hub.publish("x", "hi")
            assert await client.receive_text() == "hi"


async def test_a_function_makes_an_application_for_each_worker() -> None:
    """Then nothing of it is shared."""
    made: list[FastAPI] = []

    def create() -> FastAPI:
        made.append(make_app())
        return made[-1]

    async with Cluster(create, workers=2) as c:
        assert len(made) == 2
        client = await c.connect("/rt/ws/x", worker=0)
        with c.on(1):
            await made[1].state.hub.publish("x", "hi")
        assert await client.receive_text() == "hi"


async def test_the_managers_of_the_tutorial() -> None:
    """An endpoint of the application's own, through `ConnectionManager`."""
    hub = Hub(Settings())
    app, manager = make_app(hub), ConnectionManager(hub=hub, channel="chat")

    @app.websocket("/mine/{name}")
    async def mine(websocket: WebSocket, name: str) -> None:
        await manager.connect(websocket)
        try:
            while True:
                await manager.broadcast(f"{name}: {await websocket.receive_text()}")
        except WebSocketDisconnect:
            manager.disconnect(websocket)
            await manager.broadcast(f"{name} has left")

    async with Cluster(app, workers=2) as c:
        ann, bob = await c.connect("/mine/ann", worker=0), await c.connect("/mine/bob", worker=1)
        await ann.send_text("hi")
        assert await ann.receive_text() == await bob.receive_text() == "ann: hi"
        await ann.close()
        assert await bob.receive_text() == "ann has left"


# What is wrong


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Cluster(make_app(), workers=0), ValueError, "a cluster needs at least one worker, not 0"),
        (lambda: Cluster("main:app"), TypeError, "takes a FastAPI application, or a function without arguments"),  # type: ignore[arg-type]
        (lambda: Cluster(lambda scope, receive, send: None), TypeError, "add_middleware does the same"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_cluster(make: Callable[[], object], error: type[Exception], text: str) -> None:
    """Said at once."""
    with pytest.raises(error, match=text):
        make()


async def test_workers_are_numbered() -> None:
    """From 0."""
    async with Cluster(make_app(), workers=2) as c:
        assert repr(c) == "<Cluster 2 workers, 0 s>"
        assert repr(c.workers[0]) == "<Worker 0 running, 0 connections>"
        assert "hub watchdog" not in {thread.name for thread in threading.enumerate()}
        with pytest.raises(IndexError, match=r"there is no worker 2: they are numbered from 0 to 1"):
            await c.connect("/rt/ws", worker=2)
        await c.kill(1)
        assert "dead" in repr(c.workers[1])


async def test_a_hub_in_a_mounted_application() -> None:
    """Behind a name routes cannot be found by theirs; the test says where it is, and is told so if it does not."""
    outer = FastAPI()
    outer.mount("/inner", make_app(), name="inner")
    async with Cluster(outer, workers=1) as c:
        with pytest.raises(LookupError, match="say where it is: await cluster"):
            await c.client()
        client = await c.client(path="/inner/rt/connection/websocket")
        await client.subscribe("chat:x")


async def test_a_lifespan_that_fails() -> None:
    """Its exception is that of the cluster, and everything is put back."""
    hub = Hub(Settings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise LookupError("no database")
        yield

    before = time.time
    with pytest.raises(LookupError, match="no database"):
        async with Cluster(make_app(hub, lifespan=lifespan)):
            raise AssertionError("it has started")
    assert time.time is before
    assert type(hub) is Hub


async def test_an_end_that_fails() -> None:
    """What a lifespan raises at its end is not lost."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        raise LookupError("cannot flush")

    with pytest.raises(LookupError, match="cannot flush"):
        async with Cluster(make_app(lifespan=lifespan), workers=1):
            pass


async def test_nothing_is_left() -> None:
    """Neither tasks nor the classes of hubs nor the loop's factory."""
    loop, before, hub = asyncio.get_running_loop(), asyncio.all_tasks(), Hub(Settings(namespaces=BUILT_IN))
    gc.collect()
    hubs = len(embed.hubs)
    with pytest.raises(NothingReceived):
        async with Cluster(make_app(hub)) as c:
            await (await c.connect("/rt/ws/x")).receive()
    assert asyncio.all_tasks() == before
    assert loop.get_task_factory() is None
    assert len(embed.hubs) <= hubs  # those of the workers are not taken for an application's
    assert scope._finders == {}
    assert type(hub) is Hub
    assert type(hub.registry).__module__ == "hub.registry"


# What else a hub can do


class Message(BaseModel):
    text: str


async def test_typed_channels_and_events() -> None:
    """Declared once: rules are asked in each worker, one worker handles a message, and event streams go on."""
    hub, asked, handled = Hub(Settings()), set(), []
    talk = hub.channel("talk:{room}", Message, history=History(size=10, ttl=60))

    @talk.on_subscribe
    async def may_join(room: str) -> bool:
        asked.add(hub.node)
        return room != "secret"

    @talk.on_message(once=True)
    async def moderate(room: str, message: Message) -> None:
        handled.append((room, message.text))

    async with Cluster(make_app(hub), workers=3) as c:
        clients = [await c.client(worker=number) for number in range(3)]
        for client in clients:
            await client.subscribe("talk:a")
            with pytest.raises(ReplyError):
                await client.subscribe("talk:secret")
        assert len(asked) == 3
        async with c.http(worker=1).stream("GET", "/rt/sse/talk:a") as events:
            with c.on(2):
                await talk(room="a").publish(Message(text="hi"))
            lines = events.aiter_lines()
            async with asyncio.timeout(60):
                while (line := await anext(lines)) != 'data: {"text":"hi"}':
                    assert "hi" not in line
        assert [(await client.next_publication()).data for client in clients] == [{"text": "hi"}] * 3
        await c.settle()
        assert handled == [("a", "hi")]
