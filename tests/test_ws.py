"""The raw endpoints' rules, on our own WebSocket class and on uvicorn's."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
import websockets
from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from hub import BrokerUnavailable, Hub, Settings
from hub.authority import Asker
from hub.memory import MemoryBroker
from hub.namespaces import OPEN
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually

Serve = Callable[..., AbstractAsyncContextManager[str]]


@pytest.fixture(params=["hub.wire:HubProtocol", "websockets-sansio"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Serve a hub; the beginning of its WebSocket addresses."""

    @asynccontextmanager
    async def run(hub: Hub) -> AsyncIterator[str]:
        app = FastAPI()
        app.include_router(hub.router)
        async with serving(app, ws=request.param, http="auto") as (port, _):
            yield f"ws://127.0.0.1:{port}"
        assert hub._admission.connections == hub.registry.subscribers == 0

    return run


async def collect(client: websockets.ClientConnection, count: int) -> list[str | bytes]:
    async with asyncio.timeout(5):
        return [await client.recv() for _ in range(count)]


async def end_of(url: str, *messages: str | bytes, **options: Any) -> tuple[int | None, str | None]:
    """Connect, send, and wait for the server to close: its code and reason."""
    async with asyncio.timeout(5), websockets.connect(url, max_size=None, **options) as client:
        for message in messages:
            await client.send(message)
        await client.wait_closed()
        return client.close_code, client.close_reason


# Who may connect

OTHER, LISTED = "https://evil.example", "https://app.example"
SAME = (None, "http://{host}", "https://{host}")
NEVER_SAME = (
    OTHER,
    "null",
    "",
    "http://{host}0",
    "http://{host}.evil.example",
    "http://evil.example/{host}",
    "http://{host}@evil.example",
)


@pytest.mark.parametrize(
    ("listed", "allowed", "refused"),
    [
        ("", SAME, NEVER_SAME),
        (f"https://x.example, {LISTED}/", (*SAME, LISTED), (*NEVER_SAME, "http://app.example", LISTED + "0")),
        ("*", (*SAME, *NEVER_SAME), ()),
    ],
)
async def test_origins(serve: Serve, listed: str, allowed: tuple[str | None, ...], refused: tuple[str, ...]) -> None:
    """A page of another host may connect only if it is listed: browsers would let any page in, cookies and all."""
    async with serve(Hub(Settings(origins=listed))) as url:

        def connect(path: str, origin: str | None) -> websockets.connect:
            headers = {} if origin is None else {"Origin": origin.format(host=url.removeprefix("ws://"))}
            return websockets.connect(url + path, additional_headers=headers)

        for path in ("/ws/room", "/echo"):
            for origin in allowed:
                async with connect(path, origin) as client:
                    await client.send("x")
                    assert await collect(client, 1) == ["x"]
            for origin in refused:
                with pytest.raises(websockets.InvalidStatus, match="403"):
                    await connect(path, origin)


async def test_without_the_token(serve: Serve) -> None:
    """HUB_TOKEN: who does not have it is told so, and let in nowhere."""
    async with serve(Hub(Settings(token="secret"))) as url:
        for path in ("/ws", "/ws/room", "/echo"):
            for query in ("", "?token=", "?token=wrong", "?token=secret2", "?Token=secret", "?token=%FF"):
                assert await end_of(url + path + query) == (4401, "token missing or not valid")


async def test_with_the_token(serve: Serve) -> None:
    """HUB_TOKEN: who has it is in, whatever characters it has."""
    token = "gehei&m ключ"
    async with serve(Hub(Settings(token=token))) as url:
        for path in ("/ws", "/ws/room", "/echo"):
            async with websockets.connect(f"{url}{path}?token={quote(token)}") as client:
                await client.send("x")
                assert await collect(client, 1) == ["x"]


async def test_the_authenticate_hook(serve: Serve) -> None:
    """The hook sees the connection and the token, decides alone, and if it fails nobody is in."""
    hub = Hub(Settings(token="unused"))
    seen: list[tuple[str, str | None, str]] = []

    @hub.authenticate
    async def may_connect(connection: HTTPConnection, token: str | None) -> bool:
        seen.append((connection.url.path, token, connection.headers.get("x-user", "")))
        if token == "break":
            raise ZeroDivisionError
        return token == "good"

    async with serve(hub) as url:
        async with websockets.connect(f"{url}/ws/a?token=good", additional_headers={"X-User": "ann"}) as client:
            await client.send("x")
            assert await collect(client, 1) == ["x"]
        assert await end_of(f"{url}/ws/b?token=bad") == (4401, "token missing or not valid")
        assert await end_of(f"{url}/echo") == (4401, "token missing or not valid")
        with pytest.raises(websockets.InvalidStatus, match="500"):
            await websockets.connect(f"{url}/ws/c?token=break")
    assert seen == [("/ws/a", "good", "ann"), ("/ws/b", "bad", ""), ("/echo", None, ""), ("/ws/c", "break", "")]


async def test_a_full_worker(serve: Serve) -> None:
    """max_connections counts what is open, in all rooms and /echo; whoever leaves makes room."""
    hub = Hub(Settings(max_connections=2))
    async with serve(hub) as url:
        async with websockets.connect(f"{url}/ws/a"):
            async with websockets.connect(f"{url}/echo"):
                for path in ("/ws/a", "/ws/b", "/echo"):
                    assert await end_of(url + path) == (1013, "worker is full, try again later")
            await eventually(lambda: hub._admission.connections == 1)
            async with websockets.connect(f"{url}/echo") as client:
                await client.send("x")
                assert await collect(client, 1) == ["x"]


@pytest.mark.parametrize("slow", ["redis", "authenticator", "on_subscribe"])
async def test_many_at_the_door_of_a_full_worker(serve: Serve, slow: str) -> None:
    """Joiners that wait at the same time, for Redis or for the application, are counted: no more get in than fit."""
    door = asyncio.Event()
    broker = Late()
    broker.confirm = door if slow == "redis" else asyncio.Event()
    hub = Hub(Settings(max_connections=2), broker=broker)
    asked: list[str | None] = []
    if slow != "redis":
        broker.confirm.set()

        async def may(connection: HTTPConnection | Asker, what: str | None) -> bool:
            asked.append(what)
            return await door.wait()

        (hub.authenticate if slow == "authenticator" else hub.on_subscribe)(may)

    async with serve(hub) as url:
        attempts = [asyncio.create_task(websockets.connect(f"{url}/ws/{n}").__aenter__()) for n in range(6)]
        await eventually(lambda: len(asked) == 6 or sum(task.done() for task in attempts) == 4)
        door.set()
        clients = await asyncio.gather(*attempts)
        await eventually(lambda: sum(client.close_code == 1013 for client in clients) == 4)
        assert hub._admission.connections == 2
        await asyncio.gather(*(client.close() for client in clients))


# Rooms


async def test_bad_room_names(serve: Serve) -> None:
    """1 to 255 characters, no control characters."""
    async with serve(Hub(Settings())) as url:
        for room in ("", "x" * 256, "a\nb", "a\n", "\x00", "\x7f", "\x85"):
            code, reason = await end_of(f"{url}/ws/{quote(room)}")
            assert code == 4400
            assert str(reason).startswith("room name must")


async def test_good_room_names(serve: Serve) -> None:
    """All else is a name; it arrives as it was meant, whatever the URL did to it."""
    async with serve(Hub(Settings())) as url:
        for room in ("x" * 255, "ü" * 255, "a/b/c", "tea & cake", "日本?", "..", "%2F"):
            async with websockets.connect(f"{url}/ws/{quote(room)}?hello=1") as client:
                assert json.loads(await client.recv())["hub"]["hello"]["room"] == room


async def test_hello(serve: Serve) -> None:
    """hello=1: the first frame names the worker, also when the room is already talking; without it there is none."""
    hub = Hub(Settings())
    async with serve(hub) as url, websockets.connect(f"{url}/ws") as talker:
        await talker.send("x")
        assert await collect(talker, 1) == ["x"]
        async with websockets.connect(f"{url}/ws?hello=1") as client:
            await talker.send("y")
            hello = {"node": hub.node, "worker": os.getpid(), "room": "lobby"}
            first, second = await collect(client, 2)
            assert json.loads(first) == {"hub": {"hello": hello}}
            assert second == "y"


async def test_echo_0(serve: Serve) -> None:
    """echo=0 leaves out one's own messages; any other value does not."""
    async with serve(Hub(Settings())) as url:
        async with websockets.connect(f"{url}/ws/r?echo=0") as quiet, websockets.connect(f"{url}/ws/r?echo=1") as loud:
            await quiet.send("from quiet")
            assert await collect(loud, 1) == ["from quiet"]
            await loud.send("from loud")
            assert await collect(quiet, 1) == ["from loud"]
            assert await collect(loud, 1) == ["from loud"]


async def test_forms(serve: Serve) -> None:
    """Text stays text and binary stays binary, byte for byte, in rooms and from /echo."""
    samples: list[str | bytes] = ["", b"", "grüße 🎉\x00\n", bytes(range(256)), "x" * 65536, b"\xff" * 65536]
    async with serve(Hub(Settings())) as url:
        for path in ("/ws/forms", "/echo"):
            async with websockets.connect(url + path) as client:
                for sample in samples:
                    await client.send(sample)
                assert await collect(client, len(samples)) == samples


# Limits


async def test_too_big(serve: Serve) -> None:
    """HUB_MAX_MESSAGE_SIZE is in bytes of UTF-8; at the limit is fine, over it closes 1009."""
    async with serve(Hub(Settings(max_message_size=10))) as url:
        for path in ("/ws/room", "/echo"):
            async with websockets.connect(url + path) as client:
                for message in ("x" * 10, b"x" * 10, "é" * 5):
                    await client.send(message)
                    assert await collect(client, 1) == [message]
            for message in ("x" * 11, b"x" * 11, "é" * 6, "x" * 100_000):
                code, _ = await end_of(url + path, message)
                assert code == 1009


async def test_too_many(serve: Serve) -> None:
    """HUB_MESSAGE_RATE with its burst: what fits is delivered, what does not ends this connection and no other."""
    async with serve(Hub(Settings(message_rate=1, message_burst=5))) as url:
        for path in ("/ws/room", "/echo"):
            async with websockets.connect(url + path) as other, websockets.connect(url + path) as client:
                for number in range(6):
                    await client.send(str(number))
                with pytest.raises(websockets.ConnectionClosed, match="4429"):
                    await collect(client, 6)
                await other.send("end")
                heard = await collect(other, 1)
                while heard[-1] != "end":
                    heard += await collect(other, 1)
                assert heard == ([*"01234", "end"] if path == "/ws/room" else ["end"])


# Redis


class Late(MemoryBroker):
    """Confirms subscriptions and publications when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.confirm = asyncio.Event()
        self.error: BrokerUnavailable | None = None
        self.waiting: list[asyncio.Future[None]] = []

    async def subscribe(self, channel: str) -> None:
        await self.confirm.wait()
        await super().subscribe(channel)

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[None]:
        if self.error is None:
            super().publish(channel, payload)
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]

    def answer(self) -> None:
        for future in self.waiting:
            if self.error is None:
                future.set_result(None)
            else:
                future.set_exception(self.error)
        self.waiting.clear()


async def test_joining_while_redis_is_away(serve: Serve) -> None:
    """The joiner is told to try again; a client that leaves while it waits leaves nothing behind."""
    hub = Hub(Settings(subscribe_timeout=0.1), broker=Late())
    async with serve(hub) as url:
        assert await end_of(f"{url}/ws/room") == (1013, "Redis does not answer, try again later")


async def test_leaving_while_it_waits_for_redis(serve: Serve) -> None:
    """Nothing is left of a client that cut the line before it was in."""
    hub = Hub(Settings(), broker=Late())
    async with serve(hub) as url:
        joining = asyncio.create_task(websockets.connect(f"{url}/ws/room").__aenter__())
        await eventually(lambda: hub.registry.subscribers == 1)
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        hub.broker.confirm.set()
        await eventually(lambda: hub._admission.connections == hub.registry.subscribers == 0)


async def test_a_message_that_is_not_relayed(serve: Serve) -> None:
    """Its sender gets an error frame, stays connected, and the next message is relayed again."""
    broker = Late()
    broker.confirm.set()
    async with serve(Hub(Settings(), broker=broker)) as url, websockets.connect(f"{url}/ws/room") as client:
        broker.error = BrokerUnavailable("not sent: Redis cannot be reached")
        await client.send("lost")
        await eventually(lambda: broker.waiting)
        broker.answer()
        error = {"code": 100, "message": "not sent: Redis cannot be reached", "temporary": True}
        assert [json.loads(frame) for frame in await collect(client, 1)] == [{"hub": {"error": error}}]
        broker.error = None
        await client.send("relayed")
        assert await collect(client, 1) == ["relayed"]


async def test_a_client_that_is_faster_than_redis(serve: Serve) -> None:
    """Its messages are read only as fast as Redis takes them, and none is lost."""
    broker = Late()
    broker.confirm.set()
    async with serve(Hub(Settings(), broker=broker)) as url, websockets.connect(f"{url}/ws/room") as client:
        for number in range(2000):
            await client.send(str(number))
        await eventually(lambda: len(broker.waiting) >= 256)
        await asyncio.sleep(0.1)  # time in which it would read on, if it did
        waiting = len(broker.waiting)
        assert waiting < 256 + 128
        heard: list[str | bytes] = []
        while len(heard) < 2000:
            broker.answer()
            heard += await collect(client, 1)
        assert heard == [str(number) for number in range(2000)]


# What the log must not have


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
async def test_tokens_are_not_logged(serve: Serve, caplog: pytest.LogCaptureFixture, level: int) -> None:
    """Neither of those who are in nor of those who are not, at any level."""
    caplog.set_level(level)
    logging.getLogger("websockets.client").setLevel(logging.WARNING)
    async with serve(Hub(Settings(token="s3cret", origins="https://app.example"))) as url:
        async with websockets.connect(f"{url}/ws/room?token=s3cret&hello=1"):
            pass
        await end_of(f"{url}/ws/room?token=wr0ng")
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(f"{url}/ws?token=s3cret", additional_headers={"Origin": OTHER})
    assert "s3cret" not in caplog.text
    assert "wr0ng" not in caplog.text


# TestClient, which has no transport at all


def test_under_testclient() -> None:
    """What a user's own tests need: rooms, refusals and publications work without a server."""
    hub = Hub(Settings(api_key="key", token="secret"))
    app = FastAPI()
    app.include_router(hub.router)
    with TestClient(app) as client:
        with client.websocket_connect("/ws/room?token=secret") as ann:
            with client.websocket_connect("/ws/room?token=secret&echo=0") as bob:
                bob.send_bytes(b"\x00")
                ann.send_text("hi")
                assert bob.receive_text() == "hi"
                assert ann.receive_bytes() == b"\x00"
                assert ann.receive_text() == "hi"
            body = {"channel": "room", "data": {"n": 1}}
            assert client.post("/api/publish", json=body, headers={"X-API-Key": "key"}).json() == {"result": {}}
            assert ann.receive_json() == {"n": 1}
        with client.websocket_connect("/ws/room") as refused, pytest.raises(WebSocketDisconnect) as closed:
            refused.receive_text()
        assert (closed.value.code, closed.value.reason) == (4401, "token missing or not valid")
        headers = {"Origin": OTHER}
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws?token=secret", headers=headers):
            pass


async def test_what_a_namespace_does_not_take(serve: Serve) -> None:
    """Where publications must have a format, others are refused with the reason, and the connection goes on."""
    options = OPEN.model_copy(update={"publication_data_format": "json_object"})
    async with serve(Hub(Settings(namespaces={"orders": options}))) as url:
        async with websockets.connect(f"{url}/ws/orders:1") as client:
            for message, complaint in (
                ("", "data is missing"),
                ("hello", "data must be a JSON object"),
                ("{not json}", "data must be a JSON object"),
                (b"{}", "data must be JSON"),
            ):
                await client.send(message)
                error = json.loads(await client.recv())["hub"]["error"]
                assert error == {"code": 107, "message": complaint, "temporary": False}
            await client.send('{"id": 1}')
            assert await client.recv() == '{"id": 1}'
