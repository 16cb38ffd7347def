"""`hub.compat.ConnectionManager`: the tutorial's program on many workers, and what the tutorial's class gets wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import redis.asyncio as aioredis
import websockets
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from starlette.testclient import TestClient

from hub import BrokerUnavailable, ConfigError, Hub, InvalidChannel, MessageTooBig, Settings
from hub.compat import ConnectionManager, _hub_of_this_loop
from hub.embedded import EmbeddedServer
from hub.memory import MemoryBroker
from hub.plain import PlainWire
from hub.testing import Cluster
from hub.wire import HubProtocol
from tests.support.uvicorn_app import HUB_PROTOCOL, ROOT, clean_environment
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually

on_each_server = pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto", HUB_PROTOCOL])


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


def tutorial(manager: ConnectionManager) -> FastAPI:
    """The endpoint of the FastAPI tutorial, word for word."""
    app = FastAPI()

    @app.websocket("/ws/{client_id}")
    async def websocket_endpoint(websocket: WebSocket, client_id: int):
        await manager.connect(websocket)
        try:
            while True:
                data = await websocket.receive_text()
                await manager.send_personal_message(f"You wrote: {data}", websocket)
                await manager.broadcast(f"Client #{client_id} says: {data}")
        except WebSocketDisconnect:
            manager.disconnect(websocket)
            await manager.broadcast(f"Client #{client_id} left the chat")

    return app


class Line:
    """What a server would be: takes what is sent, until it is cut."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.cut = False

    async def receive(self) -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(self, event: Any) -> None:
        if self.cut:
            raise OSError("gone")
        self.sent.append(event)


class Client:
    """A connection without a server."""

    def __init__(self) -> None:
        self.line = Line()
        self.websocket = WebSocket({"type": "websocket", "headers": []}, self.line.receive, self.line.send)

    def messages(self) -> list[str | bytes]:
        return [event.get("text", event.get("bytes")) for event in self.line.sent if event["type"] == "websocket.send"]


@contextlib.asynccontextmanager
async def served(app: FastAPI, ws: str = "auto", **options: Any) -> AsyncIterator[str]:
    """The address of `app` on a stock uvicorn with the WebSocket class `ws`."""
    async with serving(app, ws=ws, http="auto", **options) as (port, _):
        yield f"127.0.0.1:{port}"


async def collect(client: websockets.ClientConnection, count: int) -> list[str | bytes]:
    async with asyncio.timeout(10):
        return [await client.recv() for _ in range(count)]


# The tutorial's program


async def test_two_workers_are_one_chat() -> None:
    """A broadcast from any worker reaches the clients of both."""
    hub = Hub(Settings())
    app = tutorial(ConnectionManager(hub=hub, channel="chat"))
    app.include_router(hub.router)
    async with Cluster(app, workers=2) as c:
        ann, bob = await c.connect("/ws/1", worker=0), await c.connect("/ws/2", worker=1)
        await ann.send_text("hi")
        assert await ann.receive() == "You wrote: hi"
        assert await ann.receive() == await bob.receive() == "Client #1 says: hi"
        await bob.send_text("ho")
        assert await ann.receive() == "Client #2 says: ho"
        await ann.close()
        assert [await bob.receive() for _ in range(3)] == [
            "You wrote: ho",
            "Client #2 says: ho",
            "Client #1 left the chat",
        ]


@pytest.mark.parametrize("entered", [True, False])
def test_nothing_to_set_up(entered: bool) -> None:
    """No Redis and no lifespan: a program's tests run as they did, also where each connection has its own loop."""
    client = TestClient(tutorial(ConnectionManager()))
    with client if entered else contextlib.nullcontext():
        with client.websocket_connect("/ws/1") as ann, client.websocket_connect("/ws/2") as bob:
            ann.send_text("hi")
            assert ann.receive_text() == "You wrote: hi"
            assert ann.receive_text() == bob.receive_text() == "Client #1 says: hi"


@on_each_server
async def test_everybody_hears_each_other_once(ws: str) -> None:
    """On every server: one's own copy comes after the personal answer, messages of one client keep their order."""
    async with served(tutorial(ConnectionManager()), ws) as address:
        clients = [await websockets.connect(f"ws://{address}/ws/{number}") for number in range(10)]
        for turn in range(3):
            for client in clients:
                await client.send(str(turn))
        for own, client in enumerate(clients):
            heard = await collect(client, 33)
            assert [text for text in heard if text[0] == "Y"] == [f"You wrote: {turn}" for turn in range(3)]
            for other in range(10):
                begin = f"Client #{other} says"
                assert [t for t in heard if t.startswith(begin)] == [f"{begin}: {turn}" for turn in range(3)]
            assert heard.index("You wrote: 2") < heard.index(f"Client #{own} says: 2")
        await asyncio.gather(*(client.close() for client in clients))


@on_each_server
async def test_clients_that_vanish_in_mid_sentence(ws: str, caplog: pytest.LogCaptureFixture) -> None:
    """Clients that cut the line with messages on their way: endpoints end as if they had closed, nothing is logged."""
    manager = ConnectionManager()
    async with served(tutorial(manager), ws) as address:
        stays = await websockets.connect(f"ws://{address}/ws/0")
        for number in range(1, 11):
            client = await websockets.connect(f"ws://{address}/ws/{number}")
            for _ in range(20):
                await client.send("x")
            client.transport.abort()
        left: set[str | bytes] = set()
        while len(left) < 10:
            left |= {text for text in await collect(stays, 1) if "left" in str(text)}
        assert len(manager.active_connections) == 1
        await stays.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# Who hears whom


async def test_after_disconnect_nothing_is_delivered() -> None:
    """`disconnect` is at once, may be called twice and for strangers, and leaves the others alone."""
    manager, stays, leaves = ConnectionManager(), Client(), Client()
    for client in (stays, leaves):
        await manager.connect(client.websocket)
    assert manager.active_connections == [stays.websocket, leaves.websocket]
    await manager.broadcast("one")
    await eventually(lambda: len(leaves.messages()) == 1)
    manager.disconnect(leaves.websocket)
    manager.disconnect(leaves.websocket)
    manager.disconnect(Client().websocket)
    await manager.broadcast("two")
    await eventually(lambda: len(stays.messages()) == 2)
    assert leaves.messages() == ["one"]
    assert [task.get_name() for task in asyncio.all_tasks()].count("hub connection writer") == 1
    assert manager.active_connections == [stays.websocket]
    assert repr(manager).endswith(", 1 connections here>")


async def test_the_forms_of_a_message() -> None:
    """Both ways of sending take text, bytes, and values as JSON."""
    manager, client = ConnectionManager(), Client()
    await manager.connect(client.websocket)
    for value in ("text", b"\x00\xff", {"n": [1, None]}):
        await manager.send_personal_message(value, client.websocket)
    assert client.messages() == ["text", b"\x00\xff", '{"n":[1,null]}']
    for value in ("text", b"\x00\xff", {"n": [1, None]}):
        await manager.broadcast(value)
    await eventually(lambda: len(client.messages()) == 6)
    assert client.messages()[3:] == client.messages()[:3]
    for bad, error in ((object(), TypeError), ("x" * 65537, MessageTooBig)):
        with pytest.raises(error):
            await manager.broadcast(bad)


async def test_managers_do_not_hear_each_other() -> None:
    """Each manager is a world of its own; with the same channel they are one; a connection may be in several."""
    one, two, three = ConnectionManager(), ConnectionManager(), ConnectionManager(channel="room")
    again = ConnectionManager(channel="room")
    assert one.channel != two.channel
    client, other = Client(), Client()
    for manager in (one, two, three):
        await manager.connect(client.websocket)
        await manager.connect(client.websocket)
    await two.connect(other.websocket)
    for manager, text in ((one, "1"), (two, "2"), (again, "3")):
        await manager.broadcast(text)
    await eventually(lambda: len(client.messages()) == 3)
    assert sorted(map(str, client.messages())) == ["1", "2", "3"]
    assert other.messages() == ["2"]
    assert [event["type"] for event in client.line.sent].count("websocket.accept") == 1


async def test_a_channel_of_the_hub_is_a_room() -> None:
    """With the hub and the channel of a room, its raw clients and the manager's hear each other."""
    hub = Hub(Settings())
    app = tutorial(ConnectionManager(hub=hub, channel="lobby"))
    app.include_router(hub.router, prefix="/rt")
    async with served(app) as address:
        ann = await websockets.connect(f"ws://{address}/ws/1")
        bob = await websockets.connect(f"ws://{address}/rt/ws/lobby")
        await bob.send("from bob")
        assert await collect(ann, 1) == ["from bob"]
        await ann.send("from ann")
        assert await collect(bob, 2) == ["from bob", "Client #1 says: from ann"]
        await ann.close()
        await bob.close()


# The channel that a manager has by itself

IN_A_MODULE = """
from hub.compat import ConnectionManager
class Mine(ConnectionManager):
    def __init__(self):
        super().__init__()
one, two = ConnectionManager(), Mine()
print([manager.channel for manager in (one, two)])
"""


def test_the_channel_is_the_same_in_all_workers() -> None:
    """Two processes that run the same module give its managers the same channels, and other modules others."""
    command = [sys.executable, "-c", IN_A_MODULE]
    runs = [subprocess.run(command, capture_output=True, cwd=ROOT, env=clean_environment()) for _ in range(2)]
    channels = [json.loads(run.stdout.decode().replace("'", '"').replace("\\x1f", "")) for run in runs]
    assert channels[0] == channels[1] == ["manager:__main__:1", "manager:__main__:2"]


def test_raw_clients_cannot_join_it() -> None:
    """Its name is none that `/ws/{room}` or the HTTP API would take."""
    hub = Hub(Settings(api_key="key"))
    manager = ConnectionManager(hub=hub)
    app = FastAPI()
    app.include_router(hub.router)
    with TestClient(app) as client:
        with (
            client.websocket_connect(f"/ws/{quote(manager.channel)}") as raw,
            pytest.raises(WebSocketDisconnect) as closed,
        ):
            raw.receive_text()
        assert closed.value.code == 4400
        body = {"channel": manager.channel, "data": "x"}
        answer = client.post("/api/publish", json=body, headers={"X-API-Key": "key"})
        assert answer.json().keys() == {"error"}


def test_bad_channels() -> None:
    """A channel that one gives must be one that the hub takes."""
    for name in ("", "a\nb", "x" * 256):
        with pytest.raises(InvalidChannel):
            ConnectionManager(channel=name)


async def test_a_manager_for_each_room_needs_channels() -> None:
    """Rooms that are made on demand are made in another order by each worker, so counting would mix them up."""

    async def endpoint() -> ConnectionManager:
        return ConnectionManager()

    await asyncio.create_task(endpoint())
    with pytest.raises(ConfigError, match=r"endpoint makes managers .* channel"):
        await asyncio.create_task(endpoint())


async def test_making_several_at_start_is_fine() -> None:
    """Loops at the start of a program, in or outside a task, make managers in the same order everywhere."""
    in_a_task = [ConnectionManager() for _ in range(3)]
    without = await asyncio.to_thread(lambda: [ConnectionManager() for _ in range(3)])
    assert len({manager.channel for manager in in_a_task + without}) == 6


# Clients that have gone


@on_each_server
async def test_without_disconnect_nothing_leaks(ws: str, request: pytest.FixtureRequest) -> None:
    """An endpoint that dies of an exception, or just returns, leaves no subscription and no task behind."""
    # A log record that somebody keeps, as pytest does, keeps its traceback and with it the connection.
    logging.disable(logging.CRITICAL)
    request.addfinalizer(lambda: logging.disable(logging.NOTSET))
    hub = Hub(Settings())
    manager = ConnectionManager(hub=hub)
    app = FastAPI()

    @app.websocket("/{how}")
    async def endpoint(websocket: WebSocket, how: str):
        await manager.connect(websocket)
        if how == "raise":
            await websocket.receive_json()
            raise ZeroDivisionError
        await websocket.receive_text()

    async with served(app, ws) as address:
        for how in ("raise", "return") * 3:
            client = await websockets.connect(f"ws://{address}/{how}")
            assert hub.registry.subscribers == 1
            await client.send("1")
            await client.wait_closed()
            # At once or with the next collection: what else refers to the connection is not the manager's to say.
            await eventually(lambda: hub.registry.subscribers == 0 or gc.collect() is None)
        assert manager.active_connections == []
        await eventually(lambda: not [t for t in asyncio.all_tasks() if t.get_name() == "hub connection writer"])
    await hub.stop()


async def test_forgotten_in_another_thread() -> None:
    """Python may collect a connection in any thread; the tables change in the event loop's."""
    hub = Hub(Settings())
    manager, clients = ConnectionManager(hub=hub), [Client()]
    await manager.connect(clients[0].websocket)
    changed_in: list[int] = []
    remove = hub.remove
    hub.remove = lambda member: (changed_in.append(threading.get_ident()), remove(member))[1]  # type: ignore[method-assign]
    await asyncio.to_thread(lambda: (clients.clear(), gc.collect()))
    await eventually(lambda: hub.registry.subscribers == 0)
    assert set(changed_in) == {threading.get_ident()}
    await hub.stop()


async def test_a_client_that_has_gone_disturbs_nobody() -> None:
    """Neither a broadcast nor a personal message to it raises, and its endpoint can still read the disconnect."""
    manager, stays, gone = ConnectionManager(), Client(), Client()
    for client in (gone, stays):
        await manager.connect(client.websocket)
    gone.line.cut = True
    await manager.send_personal_message("x", gone.websocket)
    await manager.broadcast("one")
    await eventually(lambda: stays.messages() == ["one"])
    assert gone.websocket.application_state is gone.websocket.client_state
    hub = _hub_of_this_loop()
    await eventually(lambda: hub.registry.subscribers == 1)
    await stays.websocket.close()
    await manager.send_personal_message("x", stays.websocket)


async def test_a_personal_message_before_connect() -> None:
    """A mistake in the program is not hidden."""
    with pytest.raises(RuntimeError, match="connect"):
        await ConnectionManager().send_personal_message("x", Client().websocket)


def asleep(address: str, path: str) -> socket.socket:
    """A client that sends its handshake and reads nothing."""
    host, port = address.split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    client.settimeout(5)
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n".encode())
    return client


def read_to_the_close(client: socket.socket) -> bool:
    """Whether the last thing it reads is a close frame with 3008 and `slow`."""
    last = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            last = (last + chunk)[-8:]
            if last == b"\x88\x06\x0b\xc0slow":
                return True
    return False


def given_up(wire: HubProtocol | PlainWire) -> bool:
    """Whether the hub writes nothing to the client any more."""
    return wire._closing if isinstance(wire, HubProtocol) else wire.ending


@on_each_server
@pytest.mark.parametrize("how", ["broadcast", "personal"])
async def test_a_client_that_does_not_read_holds_up_nobody(ws: str, how: str) -> None:
    """The tutorial's loop waits for it for ever; here the others get everything, and it is told when it wakes up."""
    hub = Hub(Settings(slow_timeout=0.3))
    manager = ConnectionManager(hub=hub)
    app = tutorial(manager)
    app.include_router(hub.router)
    async with served(app, ws, ws_ping_interval=None) as address:
        reader = await websockets.connect(f"ws://{address}/ws/1", compression=None)
        with asleep(address, "/ws/2") as sleeper:
            await eventually(lambda: len(manager.active_connections) == 2)
            wire = manager._members[manager.active_connections[1]].wire
            async with asyncio.timeout(10):
                while not given_up(wire):
                    if how == "personal":
                        await manager.send_personal_message(b"x" * 60_000, manager.active_connections[-1])
                        await asyncio.sleep(0)
                    else:
                        await manager.broadcast(b"x" * 60_000)
                        assert len(await reader.recv()) == 60_000
            if ws != HUB_PROTOCOL:
                async with asyncio.timeout(0.2):
                    await manager.send_personal_message("not waited for again", manager.active_connections[1])
                if how == "broadcast":
                    await eventually(lambda: wire._stalled)
            # Our own server may have cut the line; the others cannot.
            assert await asyncio.to_thread(read_to_the_close, sleeper) or ws == HUB_PROTOCOL
        await eventually(lambda: hub.registry.subscribers == 1)
        async with asyncio.timeout(5):
            assert await reader.recv() == "Client #2 left the chat"
        await reader.close()
    await hub.stop()


class Silent(MemoryBroker):
    """Takes nothing and confirms nothing, as when Redis is away."""

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(BrokerUnavailable("away"))
        return future

    def subscribe(self, channel: str) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()


@on_each_server
async def test_joining_while_redis_is_away(ws: str, caplog: pytest.LogCaptureFixture) -> None:
    """The client is told to try again later, and nothing is left of it."""
    hub = Hub(Settings(subscribe_timeout=0.05), broker=Silent())
    async with served(tutorial(ConnectionManager(hub=hub)), ws) as address:
        async with websockets.connect(f"ws://{address}/ws/1") as client:
            await client.wait_closed()
            assert (client.close_code, client.close_reason) == (1013, "Redis does not answer, try again later")
    assert hub.registry.subscribers == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    await hub.stop()


class Late(MemoryBroker):
    """Confirms subscriptions when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.confirm = asyncio.Event()

    async def subscribe(self, channel: str) -> None:
        await self.confirm.wait()
        await super().subscribe(channel)


@on_each_server
async def test_open_means_in(ws: str) -> None:
    """The handshake is not answered before Redis has confirmed: whose connection is open misses nothing."""
    broker = Late()
    hub = Hub(Settings(), broker=broker)
    manager = ConnectionManager(hub=hub)
    async with served(tutorial(manager), ws) as address:
        joining = asyncio.create_task(websockets.connect(f"ws://{address}/ws/1").__aenter__())
        await eventually(lambda: hub.registry.subscribers == 1)
        await asyncio.sleep(0.05)  # time in which it would be answered, if it were
        assert not joining.done()
        broker.confirm.set()
        async with await joining as client:
            await manager.broadcast("hi")
            assert await collect(client, 1) == ["hi"]
    await hub.stop()


@on_each_server
async def test_gone_before_it_was_in(ws: str) -> None:
    """A client that leaves while it waits for Redis leaves nothing behind."""
    broker = Late()
    hub = Hub(Settings(), broker=broker)
    async with served(tutorial(ConnectionManager(hub=hub)), ws) as address:
        client = asleep(address, "/ws/1")
        await eventually(lambda: hub.registry.subscribers == 1)
        client.close()
        await asyncio.sleep(0.05)  # whether the server has noticed or not, the outcome is the same
        broker.confirm.set()
        await eventually(lambda: hub.registry.subscribers == 0)
    await hub.stop()


async def test_cut_off_while_it_is_accepted() -> None:
    """The server says that the client has gone; the endpoint hears that, and nothing is left behind."""
    hub = Hub(Settings())
    manager, client = ConnectionManager(hub=hub), Client()
    client.line.cut = True
    with pytest.raises(OSError, match="gone"):
        await manager.connect(client.websocket)
    assert hub.registry.subscribers == len(manager.active_connections) == 0
    await hub.stop()


async def test_a_broadcast_while_redis_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """It is lost and logged: an exception would end the connection of whoever spoke."""
    hub = Hub(Settings(), broker=Silent())
    await ConnectionManager(hub=hub).broadcast("x")
    assert hub.unsent.total == 1
    assert "could not be relayed" in caplog.text
    await hub.stop()


# The hub that managers share


async def connections(url: str) -> int:
    """Connections to Redis, without ours."""
    async with aioredis.from_url(url) as client:
        return len(await client.client_list()) - 1


def test_managers_share_two_connections_and_end_with_the_loop(
    redis_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All managers of a worker use one hub, set up by REDIS_URL; without a lifespan it stops with the event loop."""
    monkeypatch.setenv("REDIS_URL", redis_server.url)

    async def worker() -> None:
        clients = [Client() for _ in range(5)]
        for client in clients:
            await ConnectionManager(channel=f"{id(client)}").connect(client.websocket)
        assert await connections(redis_server.url) == 2

    async def after() -> None:
        async with asyncio.timeout(5):
            while True:
                if not await connections(redis_server.url):
                    return
                await asyncio.sleep(0.01)

    asyncio.run(worker())
    asyncio.run(after())
