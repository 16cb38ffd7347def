"""Typed channels by other ways than the protocol: raw rooms, the HTTP API, event streams; and calls with models."""

import json
import math
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
import websockets
from fastapi import Depends, HTTPException
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from hub import Allow, Asker, ConfigError, Denied, Event, Hub, User
from hub.testing import Cluster
from tests.support.centrifuge import client, connected
from tests.support.typed import DB, Me, Member, Message, club, db, made
from tests.support.uvicorn_server import serving


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    db.reset()


async def test_raw_rooms() -> None:
    """The same functions and the same model; but where publications are judged, raw clients listen."""
    hub, app, seen = club()
    hub.channel("open:{x}", Message, allow_publish_for_client=True, allow_publish_for_anonymous=True)
    async with serving(app) as (port, _):
        url = f"ws://127.0.0.1:{port}/ws/"
        async with websockets.connect(url + "chat:told?token=ann", proxy=None) as raw:
            assert seen == [("subscribe", "told", Member(id="ann", groups=("staff",)), 1, "")]
            await raw.send('{"text": "yes"}')
            assert json.loads(await raw.recv())["hub"]["error"]["code"] == 103
            await hub.typed_channels[0](room="told").publish(Message(text="hi"))
            assert await raw.recv() == '{"text":"hi"}'
        for room in ("chat:denied", "chat:no", "chat:a:b", "open:"):
            async with websockets.connect(url + room, proxy=None) as raw:
                with pytest.raises(websockets.ConnectionClosed) as caught:
                    await raw.recv()
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == 4403
        async with websockets.connect(url + "open:x", proxy=None) as raw:
            for sent, complaint in (
                ('{"txt": 1}', "data: text: Field required"),
                ("hi", "data: Input should be an object"),
                (b"hi", "data must be JSON"),
            ):
                await raw.send(sent)
                told = json.loads(await raw.recv())["hub"]["error"]
                assert (told["code"], told["message"]) == (107, complaint)
            await raw.send('{"text": "hi"}')
            assert await raw.recv() == '{"text": "hi"}'


@pytest.mark.parametrize(("room", "user"), [(10, 0), (0, 10), (10, 60), (60, 10)])
async def test_a_time_limit_of_raw_clients(room: float, user: float) -> None:
    """When that of the room or of the user is over, they have to come again."""
    hub, app = made()

    def until(seconds: float) -> float:
        return time.time() + seconds if seconds else 0

    @hub.authenticate
    async def authenticate(connection: HTTPConnection, token: str | None) -> User:
        return User(id="ann", expire_at=until(user))

    hub.channel("chat:{name}", Message).on_subscribe(lambda name: Allow(expire_at=until(room)))
    async with Cluster(app, workers=1) as cluster:
        raw = await cluster.connect("/ws/chat:x")
        await cluster.advance(9)
        assert not raw.closed
        assert (await raw.wait_closed(3)).code == 3005


async def test_a_login_by_cookie_is_asked_again() -> None:
    """Without a refresh a protocol client is closed after the grace, and comes back with the cookie it has then."""
    hub, app = made()
    cookies: list[str | None] = []

    @hub.authenticate
    async def authenticate(connection: HTTPConnection, token: str | None) -> User | bool:
        cookies.append(connection.cookies.get("session"))
        return cookies[-1] == "new" or User(id="ann", expire_at=time.time() + 60)

    async with Cluster(app, workers=1) as cluster:
        first = await cluster.client(headers={"cookie": "session=old"})
        await cluster.advance(84)
        assert not first.closed
        assert (await first.wait_closed(3)).code == 3005
        second = await cluster.client(headers={"cookie": "session=new"})
        await cluster.advance(100)
        assert not second.closed
    assert cookies == ["old", "new"]


@pytest.mark.parametrize("end", [math.inf, datetime.now(UTC)])
async def test_times_of_raw_clients(end: Any) -> None:
    """Infinity is never; what is no time lets nobody in, and leaves nothing behind."""
    hub, app = made()

    @hub.authenticate
    async def authenticate(connection: HTTPConnection, token: str | None) -> User:
        return User(id="ann", expire_at=end)

    hub.channel("chat:{name}", Message)
    async with Cluster(app, workers=1) as cluster:
        if end == math.inf:
            raw = await cluster.connect("/ws/chat:x")
            await cluster.advance(500)
            assert not raw.closed
        else:
            with pytest.raises(TypeError, match=r"not 'datetime\.datetime'"):
                await cluster.connect("/ws/chat:x")
            assert (hub._admission.connections, hub.registry.subscriptions) == (0, 0)


async def test_an_insecure_hub_has_models() -> None:
    """Everybody may do everything, but what is published is what was declared."""
    _, app, _ = club(client_insecure=True)
    async with serving(app) as (port, _):
        async with websockets.connect(f"ws://127.0.0.1:{port}/ws/chat:denied", proxy=None) as raw:
            await raw.send('{"txt": 1}')
            assert json.loads(await raw.recv())["hub"]["error"]["code"] == 107
            await raw.send('{"text": "no"}')
            assert await raw.recv() == '{"text": "no"}'


def test_the_http_api() -> None:
    """Its callers are told which field is wrong."""
    _, app, _ = club(api_key="key")
    with TestClient(app, headers={"x-api-key": "key"}) as http:
        refused = http.post("/api/publish", json={"channel": "chat:x", "data": {"txt": "hi"}}).json()
        assert refused["error"] == {"code": 107, "message": "data: text: Field required"}
        assert (
            http.post("/api/publish", json={"channel": "chat:x:y", "data": {"text": "x"}}).json()["error"]["code"]
            == 102
        )
        assert (
            http.post("/api/publish", json={"channel": "chat:x", "data": {"text": "x"}}).json()["result"]["offset"] == 1
        )


def test_event_streams() -> None:
    """The same functions decide."""
    _, app, seen = club()
    with TestClient(app) as http:
        assert http.get("/sse/chat:denied").status_code == 403
        assert http.get("/sse/chat:a:b").status_code == 404
    assert seen == [("subscribe", "denied", None, 1, "")]


# Calls


def test_declared_calls() -> None:
    """What a call takes and returns is known; one with client and data is as it was."""
    hub, _ = made()

    class Answer(BaseModel):
        sum: int

    def add(numbers: list[int], event: Annotated[Event, Depends(hub.event)]) -> Answer: ...

    async def old(client: Asker, data: Any) -> Any: ...

    async def bare(client, data): ...  # type: ignore[no-untyped-def]

    async def guarded(client: "NotHere.Client", data: Any) -> Any: ...  # type: ignore[name-defined]  # noqa: F821

    hub.rpc("old")(old)
    hub.rpc("bare")(bare)
    hub.rpc("guarded")(guarded)
    hub.rpc("add")(add)
    hub.rpc("ping")(lambda: "pong")
    methods = hub.rpc_methods
    assert list(methods) == ["old", "bare", "guarded", "add", "ping"]
    assert (methods["add"].body, methods["add"].result, methods["add"].takes) == (list[int], Answer, True)
    assert (methods["ping"].body, methods["ping"].result, methods["ping"].takes) == (None, None, False)
    assert (methods["old"].call, methods["bare"].call, methods["guarded"].call) == (old, bare, guarded)

    def two(numbers: list[int], other: str) -> None: ...

    with pytest.raises(ConfigError, match="which of numbers, other is the data of the call"):
        hub.rpc("two")(two)


def test_a_name_is_given_once() -> None:
    """Another function of that name would replace the first, and nobody would know which clients mean."""
    hub = Hub()
    hub.rpc("ping")(lambda: "pong")
    with pytest.raises(ConfigError, match="there is an rpc 'ping' already"):
        hub.rpc("ping")(lambda: "pang")


class Rename(BaseModel):
    name: str


class Renamed(BaseModel):
    name: str
    by: str | None


async def test_calls() -> None:
    """A model goes in and one comes out; faults are told as those of channels."""
    hub, app, _ = club()

    @hub.rpc("rename")
    async def rename(body: Rename, me: Me, db: DB) -> Renamed:
        if body.name == "taken":
            raise HTTPException(409, "the name is taken")
        return Renamed(name=body.name, by=me and me.id)

    @hub.rpc("sum")
    def add(numbers: list[int]) -> int:
        return sum(numbers)

    @hub.rpc("nothing")
    def nothing() -> None:
        return None

    @hub.rpc("page")
    def page(limit: int = 10) -> int:
        return limit

    @hub.rpc("lie")
    def lie() -> Renamed:
        return "no"  # type: ignore[return-value]

    async with serving(app) as (port, _), connected(f"ws://127.0.0.1:{port}", token="ann") as here:

        async def call(method: str, data: Any = None) -> Any:
            told = await here.ask("rpc", method=method, data=data)
            return told.get("data", told.get("error"))

        assert await call("rename", {"name": "x"}) == {"name": "x", "by": "ann"}
        assert await call("rename", {"name": "taken"}) == {"code": 409, "message": "the name is taken"}
        assert await call("rename", {}) == {"code": 107, "message": "data: name: Field required"}
        assert await call("sum", [1, 2]) == 3
        assert await call("nothing") is None
        assert (await call("page"), await call("page", 3)) == (10, 3)
        assert (await call("lie"))["code"] == 100
    assert (db.opened, db.open) == (2, 0)


async def test_events_have_their_dependencies_alone() -> None:
    """Outside of events they say what they are for."""
    connection = HTTPConnection({"type": "http", "headers": []})
    for dependency in (Hub.user, Hub.event):
        with pytest.raises(RuntimeError, match="are for functions that the hub calls"):
            await dependency(connection)


async def test_connections_are_kept_for_functions_alone() -> None:
    """Without any, a connection's request is forgotten as soon as it is answered."""
    for declare in (False, True):
        hub, app = made()
        chat = hub.channel("chat:{room}", Message)
        if declare:
            chat.on_disconnect(lambda: None)
        async with serving(app) as (port, _), client(f"ws://127.0.0.1:{port}") as here:
            await here.ask("connect")
            (found,) = hub.clients
            assert (found.connection is not None) is declare  # type: ignore[union-attr]


async def test_the_hubs_function_refuses_raw_clients() -> None:
    """As it refuses others: by an exception, too."""
    hub, app = made()

    @hub.on_subscribe
    async def nobody(client: Any, channel: str) -> bool:
        raise Denied("closed today")

    async with serving(app) as (port, _), websockets.connect(f"ws://127.0.0.1:{port}/ws/x", proxy=None) as raw:
        with pytest.raises(websockets.ConnectionClosed) as caught:
            await raw.recv()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4403


async def test_models_of_all_kinds() -> None:
    """A text, a list or a union is a model too, and a parameter of the same type is still the address's."""
    hub, app = made()
    seen: list[Any] = []
    texts = hub.channel("text:{room}", str)
    lists = hub.channel("list:{size}", list[int])
    either = hub.channel("either:{x}", int | Message)  # type: ignore[arg-type]

    @texts.on_publish
    def may_say(room: str, motto: Annotated[str, Depends(lambda: "never")], text: str) -> None:
        seen.append((room, motto, text))

    @lists.on_publish
    def may_list(size: int, numbers: Annotated[list[int], "the numbers"]) -> bool:
        return len(numbers) == size

    @either.on_publish
    def may_either(found: int | Message) -> None:
        seen.append(found)

    async with serving(app) as (port, _), connected(f"ws://127.0.0.1:{port}") as here:

        async def publish(channel: str, data: Any) -> int:
            told = await here.ask("publish", channel=channel, data=data)
            return int(told.get("error", {"code": 0})["code"])

        assert await publish("text:a", "hi") == 0
        assert await publish("text:a", 1) == 107
        assert [await publish("list:2", data) for data in ([1, 2], [1], ["a", "b"])] == [0, 103, 107]
        assert await publish("list:two", [1, 2]) == 102
        assert [await publish("either:x", data) for data in (7, {"text": "hi"}, "no")] == [0, 0, 107]
    assert seen == [("a", "never", "hi"), 7, Message(text="hi")]
