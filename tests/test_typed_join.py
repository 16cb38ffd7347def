"""`chat(room=...).join(websocket)`: endpoints of the application's own, on our server and on another one."""

import json
from typing import Any

import pytest
import websockets
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.websockets import WebSocketDisconnect

from hub import BrokerUnavailable, Hub, Settings
from hub.memory import MemoryBroker
from hub.wire import HubProtocol
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually


class Message(BaseModel):
    text: str


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


class Away(MemoryBroker):
    """Takes no subscriptions."""

    def subscribe(self, channel: str) -> Any:
        raise BrokerUnavailable("away")


class Desk:
    """An application with endpoints that end in different ways; `ended` says how."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.hub = Hub(Settings(drain=0), broker=broker)
        self.app = FastAPI()
        self.app.include_router(self.hub.router)
        self.ended: list[str] = []
        self.chat = self.hub.channel("chat:{room}", Message)
        self.app.websocket("/text/{room}")(self.text)
        self.app.websocket("/models/{room}")(self.models)
        self.app.websocket("/accepted/{room}")(self.accepted)
        self.app.websocket("/brief/{room}")(self.brief)

    async def text(self, websocket: WebSocket, room: str) -> None:
        async with self.chat(room=room).join(websocket) as connection:
            async for text in connection.iter_text():
                if text == "fail":
                    raise ZeroDivisionError
                if text.startswith("mumble"):
                    await self.hub.publish(f"chat:{room}", Message(text=text), exclude=connection.id)
                    continue
                await connection.publish(Message(text=text), exclude_self=text.startswith("whisper"))
        self.ended.append("left")

    async def models(self, websocket: WebSocket, room: str) -> None:
        async with self.chat(room=room).join(websocket) as connection:
            async for message in connection:
                await connection.publish(message)

    async def accepted(self, websocket: WebSocket, room: str) -> None:
        await websocket.accept()
        async with self.chat(room=room).join(websocket):
            await websocket.receive_text()
            await websocket.receive_text()
        self.ended.append("left")

    async def brief(self, websocket: WebSocket, room: str) -> None:
        async with self.chat(room=room).join(websocket) as connection:
            await connection.publish(Message(text="in"))
            await websocket.receive_text()
        await self.chat(room=room).publish(Message(text="out"))
        await websocket.send_text("bye")
        await websocket.receive_text()


SERVERS = pytest.mark.parametrize("ws", [HubProtocol, "websockets-sansio"], ids=["own", "websockets"])


@SERVERS
async def test_a_conversation(ws: Any) -> None:
    """What one publishes comes to all in the room, to itself too unless it says no; not to other rooms."""
    desk = Desk()
    async with serving(desk.app, ws=ws) as (port, _):
        url = f"ws://127.0.0.1:{port}/text/"
        async with (
            websockets.connect(url + "a", proxy=None) as ann,
            websockets.connect(url + "a", proxy=None) as bob,
            websockets.connect(url + "b", proxy=None) as eve,
        ):
            for text in ("hi", "whispered", "mumbled", "bye"):
                await ann.send(text)
            assert [json.loads(await bob.recv())["text"] for _ in range(4)] == ["hi", "whispered", "mumbled", "bye"]
            assert [json.loads(await ann.recv())["text"] for _ in range(2)] == ["hi", "bye"]
            await eve.send("alone")
            assert json.loads(await eve.recv()) == {"text": "alone"}
            assert desk.hub.registry.subscriptions == 3
        await eventually(lambda: desk.ended == ["left"] * 3)
        assert desk.hub.registry.channels == {}


@SERVERS
async def test_models(ws: Any) -> None:
    """What does not fit is answered with what is wrong, and the next message is read."""
    async with serving(Desk().app, ws=ws) as (port, _):
        async with websockets.connect(f"ws://127.0.0.1:{port}/models/a", proxy=None) as ann:
            await ann.send("{")
            assert json.loads(await ann.recv())["hub"]["error"]["code"] == 107
            await ann.send('{"txt": "hi"}')
            error = {"code": 107, "message": "data: text: Field required", "temporary": False}
            assert json.loads(await ann.recv()) == {"hub": {"error": error}}
            await ann.send(b"hi")
            assert json.loads(await ann.recv())["hub"]["error"] == {**error, "message": "data must be text"}
            await ann.send('{"text": "hi"}')
            assert json.loads(await ann.recv()) == {"text": "hi"}


@SERVERS
async def test_the_block(ws: Any) -> None:
    """Its end is that of the channel for this connection, and not of the connection."""
    async with serving(Desk().app, ws=ws) as (port, _):
        async with websockets.connect(f"ws://127.0.0.1:{port}/brief/a", proxy=None) as ann:
            assert json.loads(await ann.recv()) == {"text": "in"}
            await ann.send("out")
            assert await ann.recv() == "bye"


@SERVERS
async def test_a_client_that_goes(ws: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever the block is, that is its end and no error; a connection may be accepted before."""
    desk = Desk()
    async with serving(desk.app, ws=ws) as (port, _):
        async with websockets.connect(f"ws://127.0.0.1:{port}/accepted/a", proxy=None) as ann:
            await eventually(lambda: desk.hub.registry.subscriptions == 1)
            await desk.chat(room="a").publish(Message(text="hi"))
            assert json.loads(await ann.recv()) == {"text": "hi"}
            await ann.send("one")
        await eventually(lambda: desk.ended == ["left"])
        assert desk.hub.registry.channels == {}
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_an_exception() -> None:
    """Goes on to the endpoint, and the connection has left."""
    desk = Desk()

    def fail(http: TestClient) -> None:
        with http.websocket_connect("/text/a") as ann:
            ann.send_text("fail")
            ann.receive_text()

    with TestClient(desk.app) as http, pytest.raises(ZeroDivisionError):
        fail(http)
    assert desk.hub.registry.channels == {}


def test_redis_is_away() -> None:
    """The client is told to come back, before the endpoint's block begins."""
    desk = Desk(Away())
    with TestClient(desk.app) as http, http.websocket_connect("/text/a") as ann:
        with pytest.raises(WebSocketDisconnect) as caught:
            ann.receive_text()
    assert caught.value.code == 1013
    assert desk.hub.registry.channels == {}


async def test_a_client_that_goes_before_it_is_in() -> None:
    """Nothing of it is left behind."""
    desk = Desk()

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        raise OSError

    websocket = WebSocket({"type": "websocket", "headers": [], "path": "/"}, receive, send)
    async with desk.hub:
        with pytest.raises(OSError):  # noqa: PT011
            await desk.chat(room="a").join(websocket).__aenter__()
        assert desk.hub.registry.channels == {}
