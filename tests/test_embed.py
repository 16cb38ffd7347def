"""`Hub` in a FastAPI application: how it starts and stops, publishes, is called over HTTP, and on which servers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import hypercorn.asyncio
import hypercorn.config
import pytest
import redis
import websockets
from fakeredis import FakeAsyncRedis, FakeServer
from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket
from starlette.testclient import TestClient

from hub import BrokerUnavailable, ConfigError, Hub, Settings
from hub.compat import ConnectionManager
from hub.embedded import EmbeddedServer
from hub.memory import MemoryBroker
from tests.support.uvicorn_app import HUB_PROTOCOL, UvicornProcess, running, uvicorn_app
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually

APP = """
from fastapi import FastAPI, WebSocket

from hub import Hub
from hub.compat import ConnectionManager

hub = Hub()
app = FastAPI()
app.include_router(hub.router, prefix="/rt")
manager = ConnectionManager(hub=hub)


@app.post("/prices/{price}")
async def publish(price: int):
    await hub.publish("prices", {"BTC": price})


@app.websocket("/mine")
async def mine(websocket: WebSocket):
    await manager.connect(websocket)
    async for text in websocket.iter_text():
        await manager.broadcast(text)
"""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's project with a `main.py`."""
    (tmp_path / "main.py").write_text(APP)
    return tmp_path


def application(hub: Hub, prefix: str = "/rt") -> FastAPI:
    """An application with the hub's routes and a handler that publishes."""
    app = FastAPI()
    app.include_router(hub.router, prefix=prefix)

    @app.post("/prices/{price}")
    async def publish(price: int) -> None:
        await hub.publish("prices", {"BTC": price})

    return app


async def collect(client: websockets.ClientConnection, count: int) -> list[str | bytes]:
    async with asyncio.timeout(10):
        return [await client.recv() for _ in range(count)]


# Start and stop


def test_including_the_router_is_all() -> None:
    """`include_router` starts and stops the hub with the application, whose own lifespan runs too."""
    steps: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        steps.append("start")
        yield
        steps.append("stop")

    hub = Hub(Settings())
    app = FastAPI(lifespan=lifespan)
    app.include_router(hub.router, prefix="/rt")
    assert not hub.ready
    for _ in range(2):
        with TestClient(app) as client:
            assert hub.ready
            assert client.get("/rt/health/ready").json()["status"] == "ready"
            with client.websocket_connect("/rt/ws/room") as one:
                one.send_text("hi")
                assert one.receive_text() == "hi"
        assert not hub.ready
    assert steps == ["start", "stop"] * 2


def test_health_counts_connections() -> None:
    """Also those without a channel, as of `/echo` and of a protocol client that has not subscribed to anything."""
    app = FastAPI()
    app.include_router(Hub(Settings()).router)
    with TestClient(app) as client:
        with client.websocket_connect("/echo"), client.websocket_connect("/connection/websocket") as other:
            other.send_json({"id": 1, "connect": {}})
            assert other.receive_json()["id"] == 1
            assert client.get("/health/live").json()["connections"] == 2
        assert client.get("/health/live").json()["connections"] == 0


def test_in_a_mounted_application() -> None:
    """Its lifespan is not run, so there the hub starts with its first connection, or its first publication."""
    hub = Hub(Settings())
    app = FastAPI()
    app.mount("/sub", application(hub))
    with TestClient(app) as client:
        assert not hub.ready
        with client.websocket_connect("/sub/rt/ws/prices") as one:
            assert hub.ready
            assert client.post("/sub/prices/1").status_code == 200
            assert one.receive_json() == {"BTC": 1}
    other = Hub(Settings())
    app.mount("/other", application(other))
    with TestClient(app) as client:
        assert client.post("/other/prices/1").status_code == 200
        assert other.ready


async def test_a_mounted_hub_on_redis(redis_server: EmbeddedServer) -> None:
    """It has the same two connections as any, and they end when it is stopped."""
    hub = Hub(Settings(), redis=redis_server.url)
    app = FastAPI()
    app.mount("/sub", application(hub))
    with redis.Redis.from_url(redis_server.url) as observer:
        async with serving(app) as (port, _), websockets.connect(f"ws://127.0.0.1:{port}/sub/rt/ws") as client:
            await client.send("hi")
            assert await collect(client, 1) == ["hi"]
            names = {entry["name"].rpartition("-")[2] for entry in observer.client_list()}
            assert len(observer.client_list()) == 3
            assert {"commands", "feed"} <= names
        await hub.stop()
        await eventually(lambda: len(observer.client_list()) == 1)


def nobody() -> None:
    raise HTTPException(401)


@pytest.mark.parametrize("where", ["include", "application", "router"])
def test_dependencies_are_not_asked_of_clients(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """What would shut the application's own WebSockets does not shut the hub's; that is said at the start."""
    hub, outer = Hub(Settings()), APIRouter(dependencies=[Depends(nobody)] if where == "router" else [])
    app = FastAPI(dependencies=[Depends(nobody)] if where == "application" else [])
    outer.include_router(hub.router, dependencies=[Depends(nobody)] if where == "include" else [])
    app.include_router(outer)
    with TestClient(app) as client:
        assert client.get("/health/live").status_code == 401
        with client.websocket_connect("/ws/room"):
            pass
    assert caplog.text.count("say who may connect with @hub.authenticate") == 1


@pytest.mark.parametrize("known", [True, False])
def test_no_word_of_dependencies(known: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Where there are none, or where the hub asks by itself."""
    app, hub = FastAPI(dependencies=[Depends(nobody)] if known else []), Hub(Settings())
    app.include_router(APIRouter())
    app.include_router(hub.router)
    if known:
        hub.authenticate(nobody)
    with TestClient(app):
        pass
    assert "say who may connect" not in caplog.text


def test_two_applications_share_a_process() -> None:
    """Two hubs on one Redis are two workers: a handler of one publishes to the sockets of the other."""
    server = FakeServer()
    one, two = (application(Hub(Settings(), redis=FakeAsyncRedis(server=server))) for _ in range(2))
    with TestClient(one) as first, TestClient(two) as second:
        with first.websocket_connect("/rt/ws/prices") as here, second.websocket_connect("/rt/ws/prices") as there:
            assert first.post("/prices/1").status_code == 200
            assert here.receive_json() == there.receive_json() == {"BTC": 1}
            there.send_bytes(b"\x00\xff")
            assert here.receive_bytes() == there.receive_bytes() == b"\x00\xff"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """REDIS_URL and HUB_*; arguments win; a wrong one is named."""
    monkeypatch.setenv("HUB_MAX_MESSAGE_SIZE", "10")
    monkeypatch.setenv("REDIS_URL", "redis://user:s3cret@redis.example:1234/5")
    hub = Hub()
    assert hub.settings.max_message_size == 10
    assert hub.broker.name == "redis://redis.example:1234/5"
    assert "s3cret" not in repr(hub) + repr(hub.settings)
    assert Hub(redis="redis://other.example").broker.name == "redis://other.example:6379/0"
    monkeypatch.setenv("HUB_MAX_MESSAGE_SIZE", "many")
    with pytest.raises(ConfigError, match="max_message_size"):
        Hub()


# The HTTP API


class Away(MemoryBroker):
    """Takes nothing."""

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(BrokerUnavailable("not sent: Redis cannot be reached"))
        return future


@pytest.mark.parametrize(
    ("data", "arrives"),
    [
        ("text", "text"),
        ("", ""),
        ({"n": [1, None, "é"]}, '{"n":[1,null,"é"]}'),
        ([], "[]"),
        (None, "null"),
        (1.5, "1.5"),
    ],
)
def test_publish_over_http(data: object, arrives: str) -> None:
    """A string arrives as the text that it is, all else as JSON text."""
    with TestClient(application(Hub(Settings(api_key="key")))) as client:
        with client.websocket_connect("/rt/ws/room") as one:
            body = {"channel": "room", "data": data}
            answer = client.post("/rt/api/publish", json=body, headers={"X-API-Key": "key"})
            assert (answer.status_code, answer.json()) == (200, {"result": {}})
            assert one.receive_text() == arrives


@pytest.mark.parametrize(
    ("channel", "data", "said"),
    [
        ("a\nb", 1, "channel name has control characters"),
        ("x" * 256, 1, "channel name has 256 characters"),
        ("room", "x" * 101, "allowed are 100"),
        ("room", "é" * 51, "allowed are 100"),
    ],
)
def test_what_the_api_refuses(channel: str, data: str, said: str) -> None:
    """A channel that cannot be, and what would be too big for a socket."""
    with TestClient(application(Hub(Settings(api_key="key", max_message_size=100)))) as client:
        body = {"channel": channel, "data": data}
        error = client.post("/rt/api/publish", json=body, headers={"X-API-Key": "key"}).json()["error"]
        assert error["code"] == 107
        assert said in error["message"]


def test_a_huge_body_is_refused_before_it_is_parsed() -> None:
    """Its size has an end, whoever sends it."""
    with TestClient(application(Hub(Settings(api_key="key", max_message_size=100)))) as client:
        answer = client.post("/rt/api/publish", content=b"[" + b"1," * 100_000, headers={"X-API-Key": "wrong"})
    assert answer.status_code == 413


def test_without_a_key_the_api_is_off() -> None:
    """No HUB_API_KEY, or an empty one: nobody can publish, not even with an empty key."""
    for hub in (Hub(Settings()), Hub(Settings(api_key=""))):
        with TestClient(application(hub)) as client:
            for headers in ({}, {"X-API-Key": ""}, {"X-API-Key": "x"}):
                answer = client.post("/rt/api/publish", json={"channel": "room", "data": 1}, headers=headers)
                assert answer.status_code == 401


def test_publishing_while_redis_is_away() -> None:
    """Error 100 with the reason; who wants an HTTP status gets 503, and when to try again."""
    hub = Hub(Settings(api_key="key"), broker=Away())
    with TestClient(application(hub)) as client:
        body, headers = {"channel": "room", "data": 1}, {"X-API-Key": "key"}
        error = {"code": 100, "message": "not sent: Redis cannot be reached"}
        answer = client.post("/rt/api/publish", json=body, headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"error": error})
        headers["X-Centrifugo-Error-Mode"] = "transport"
        answer = client.post("/rt/api/publish", json=body, headers=headers)
        assert (answer.status_code, answer.json()) == (503, error)
        assert answer.headers["Retry-After"] == "1"


async def test_the_caller_learns_that_redis_is_away() -> None:
    """In Python it is an exception."""
    async with Hub(Settings(), broker=Away()) as hub:
        with pytest.raises(BrokerUnavailable, match="cannot be reached"):
            await hub.publish("room", "x")


# Servers


async def chat_across(address: str, workers: Callable[[], int], at_least: int) -> None:
    """Sockets on different workers hear a handler, each other, and a manager's broadcast."""
    clients, mine = [], []
    try:
        while workers() < at_least:
            assert len(clients) < 60
            clients.append(await websockets.connect(f"ws://{address}/rt/ws/prices"))
            mine.append(await websockets.connect(f"ws://{address}/mine"))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", f"import urllib.request as u; u.urlopen(u.Request('http://{address}/prices/7', b''))"
        )
        assert await process.wait() == 0
        await collect_all(clients, ['{"BTC":7}'])
        await clients[0].send("hi")
        await collect_all(clients, ["hi"])
        await mine[-1].send("ho")
        await collect_all(mine, ["ho"])
    finally:
        await asyncio.gather(*(client.close() for client in clients + mine))


async def collect_all(clients: list[websockets.ClientConnection], messages: list[str]) -> None:
    for client in clients:
        assert await collect(client, len(messages)) == messages


@pytest.fixture
def workers(redis_server: EmbeddedServer) -> Iterator[Callable[[], int]]:
    """How many workers have clients in the channel `prices`."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield lambda: client.pubsub_numsub("hub:channel:prices")[0][1]


@pytest.mark.parametrize("ws", ["auto", "websockets", "wsproto", HUB_PROTOCOL])
async def test_uvicorn_with_four_workers(
    ws: str, folder: Path, redis_server: EmbeddedServer, workers: Callable[[], int]
) -> None:
    """`uvicorn main:app --workers 4` with each WebSocket class; it ends without a traceback."""
    env = {"REDIS_URL": redis_server.url}
    with uvicorn_app("main:app", "--ws", ws, workers=4, env=env, folder=folder) as server:
        await chat_across(server.url.removeprefix("http://"), workers, at_least=2)
    assert server.process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log
    assert "REDIS_URL" not in server.log


PYTHON_MAIN = (sys.executable, "-c", "import uvicorn; uvicorn.run('main:app', port=0, workers=2)")
FASTAPI_RUN = (
    sys.executable,
    "-m",
    "fastapi",
    "run",
    "main.py",
    "--host",
    "127.0.0.1",
    "--port",
    "0",
    "--workers",
    "2",
)
# The `fastapi` command is a package of its own, which starts uvicorn just so; it is tried where it is installed.
COMMANDS = [PYTHON_MAIN, FASTAPI_RUN] if find_spec("fastapi_cli") else [PYTHON_MAIN]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[1:4]))
async def test_other_ways_to_start_uvicorn(
    command: tuple[str, ...], folder: Path, redis_server: EmbeddedServer, workers: Callable[[], int]
) -> None:
    """`uvicorn.run` with workers, and `fastapi run`."""
    with running(command, 2, {"REDIS_URL": redis_server.url}, folder) as server:
        await chat_across(server.url.removeprefix("http://"), workers, at_least=2)
    assert "Traceback" not in server.log


async def test_workers_without_redis_are_warned(folder: Path) -> None:
    """Several workers that cannot hear each other are the user's most likely mistake: each says so."""
    with uvicorn_app("main:app", workers=2, folder=folder) as server:
        pass
    assert server.log.count("REDIS_URL is not set") == 2


def test_one_worker_without_redis_is_fine(caplog: pytest.LogCaptureFixture) -> None:
    """There is nobody else to hear."""
    with TestClient(application(Hub(Settings()))):
        pass
    assert "REDIS_URL" not in caplog.text


@pytest.mark.parametrize("ws", ["auto", "websockets", "wsproto", HUB_PROTOCOL])
async def test_tokens_in_no_log(ws: str, folder: Path) -> None:
    """uvicorn logs the query string of every WebSocket: with the hub, without the token, whoever asks for what."""
    env = {"HUB_TOKEN": "s3cret"}
    with uvicorn_app("main:app", "--ws", ws, "--log-level", "info", env=env, folder=folder) as server:
        async with websockets.connect(f"{server.ws_url}/rt/ws/room?hello=1&token=s3cret&x=1"):
            pass
        async with websockets.connect(f"{server.ws_url}/rt/ws/room?token=wr0ng") as refused:
            await refused.wait_closed()
        async with websockets.connect(f"{server.ws_url}/mine?token=s3cret"):
            pass
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(f"{server.ws_url}/elsewhere?token=s3cret")
        assert await asyncio.to_thread(http_get, server, "/rt/health/live?token=s3cret") == 200
    assert "/rt/health/live?token=" in server.log
    assert "s3cret" not in server.log
    assert "wr0ng" not in server.log


def http_get(server: UvicornProcess, path: str) -> int:
    import urllib.request

    with urllib.request.urlopen(server.url + path, timeout=5) as response:
        return int(response.status)


async def test_hypercorn(redis_server: EmbeddedServer) -> None:
    """Another ASGI server, whose WebSockets are plain ASGI: rooms, a handler, refusals, and limits."""
    hubs = [Hub(Settings(max_message_size=100), redis=redis_server.url) for _ in range(2)]
    async with hypercorn_serving(application(hubs[0])) as one, hypercorn_serving(application(hubs[1])) as two:
        first = await websockets.connect(f"ws://{one}/rt/ws/prices?echo=0")
        second = await websockets.connect(f"ws://{two}/rt/ws/prices")
        await first.send("hi")
        await first.send(b"\x00")
        assert await collect(second, 2) == ["hi", b"\x00"]
        await hubs[1].publish("prices", {"BTC": 1})
        assert await collect(first, 1) == ['{"BTC":1}']
        await first.send("x" * 101)
        await first.wait_closed()
        assert first.close_code == 1009
        with pytest.raises(websockets.InvalidStatus, match="403"):
            await websockets.connect(f"ws://{one}/rt/ws", additional_headers={"Origin": "https://evil.example"})
        second.transport.abort()
        await eventually(lambda: not hubs[1].registry.subscribers and not hubs[1]._admission.connections)


async def test_the_manager_on_hypercorn() -> None:
    """The tutorial's manager writes past its endpoint there too."""
    manager = ConnectionManager(hub=(hub := Hub(Settings())))
    app = application(hub)

    @app.websocket("/mine")
    async def mine(websocket: WebSocket) -> None:
        await manager.connect(websocket)
        async for text in websocket.iter_text():
            await manager.broadcast(text)

    async with hypercorn_serving(app) as address:
        clients = [await websockets.connect(f"ws://{address}/mine") for _ in range(3)]
        await clients[0].send("hi")
        await collect_all(clients, ["hi"])
        clients[0].transport.abort()
        await eventually(lambda: hub.registry.subscribers == 2)
        await clients[1].send("ho")
        await collect_all(clients[1:], ["ho"])
        for client in clients[1:]:
            await client.close()


@contextlib.asynccontextmanager
async def hypercorn_serving(app: FastAPI) -> AsyncIterator[str]:
    """The address of a hypercorn in this event loop."""
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = 1
    stop = asyncio.Event()
    task = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
    try:
        yield f"{host}:{port}"
    finally:
        stop.set()
        await task
