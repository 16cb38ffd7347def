"""The console's routes: who gets in, what he may do there, and that it is off unless somebody turned it on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from fastapi import Depends, FastAPI, Header, HTTPException
from httpx2 import ASGITransport, AsyncClient
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from hub import ConfigError, Hub, Settings
from hub.app import create_app
from hub.console import COOKIE
from hub.console_figures import FIGURES
from hub.console_session import AT_ONCE, Told
from hub.memory import MemoryBroker
from tests.support.waiting import eventually

WORD = "correct horse"
LOGIN, TICKET = "/console/login", "/console/ticket"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


def settings(**given: Any) -> Settings:
    return Settings(**{"console_password": WORD, **given})


@pytest.fixture
async def http() -> AsyncIterator[AsyncClient]:
    async with browser(create_app(settings())) as client:
        yield client


def browser(app: FastAPI, scheme: str = "http") -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app), base_url=f"{scheme}://hub.example")


async def login(client: AsyncClient, password: str = WORD, **headers: str) -> Any:
    return await client.post(LOGIN, json={"password": password}, headers=headers)


# Off and on


async def test_it_is_off_unless_there_is_a_password() -> None:
    """Nothing of it is there then; an empty variable is no password, and a short one is refused."""
    async with browser(create_app(Settings(console_password=""))) as client:
        for path in ("/console", "/console/console.js"):
            assert (await client.get(path)).status_code == 404
        for path in (LOGIN, TICKET):
            assert (await client.post(path)).status_code in (404, 405)
    with pytest.raises(ConfigError, match="console_password: a password has at least 8 characters"):
        Settings.load(console_password="short")


async def test_the_page(http: AsyncClient) -> None:
    """It names nothing absolute, runs nothing inline, and has the headers of the other pages; its files are there."""
    page, chat = await http.get("/console"), await http.get("/")
    for header in ("content-security-policy", "cache-control", "referrer-policy", "x-content-type-options"):
        assert page.headers[header] == chat.headers[header]
    assert page.headers["content-type"].startswith("text/html")
    assert 'src="console/console.js"' in page.text
    assert 'style="' not in page.text
    for name in ("console.js", "console-chart.js", "console.css", "hub.js", "icon.svg"):
        answer = await http.get(f"/console/{name}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-cache"
    for name in ("chat.js", "worker.py", "console.py", "console-none.js", "console%2F..%2F..%2Fapp.py"):
        assert (await http.get(f"/console/{name}")).status_code == 404, name


# Logging in


async def test_the_right_password_begins_a_session(http: AsyncClient) -> None:
    """A cookie that no script can read and no other site can send; with it one gets tickets, until one logs out."""
    assert (await http.post(TICKET)).status_code == 401
    answer = await login(http)
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Max-Age=43200"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert "Path" not in cookie
    ticket = (await http.post(TICKET)).json()
    assert ticket["session"]
    assert ticket["ticket"]
    assert (await http.post("/console/logout")).status_code == 204
    assert (await http.post(TICKET)).status_code == 401


async def test_a_cookie_of_https_stays_there() -> None:
    """It is never sent in the clear."""
    async with browser(create_app(settings()), "https") as client:
        assert "Secure" in (await login(client)).headers["set-cookie"].split("; ")


async def test_a_wrong_password_is_refused(http: AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    """With a sentence, counted and logged without what was typed; after a few nobody is believed for a while."""
    for _ in range(AT_ONCE):
        answer = await login(http, "a wrong one")
        assert answer.status_code == 401
        assert answer.json() == {"detail": "The password is wrong."}
        assert "set-cookie" not in answer.headers
    answer = await login(http)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "10"
    assert "logins to the console were refused (the last: wrong password from 127.0.0.1)" in caplog.text
    assert "a wrong one" not in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"password":5678}',
        b'{"password":NaN}',
        b'{"password":{"a":"\\ud800"}}',
        b'{"5678\\ud800":1}',
        b"[" * 4000,
        b'{"password":"' + b"x" * 9000 + b'"}',
        b"\xff",
    ],
)
async def test_what_is_no_login(http: AsyncClient, body: bytes) -> None:
    """It is refused as what it is, and says nothing back of what was sent."""
    answer = await http.post(LOGIN, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (413, 422)
    assert "5678" not in answer.text


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://hub.example.evil", "https://listed.example"]
)
async def test_pages_of_other_sites_get_nothing(origin: str) -> None:
    """Neither a session nor a ticket nor a socket, even if the hub's own clients may come from there."""
    async with browser(create_app(settings(origins="https://listed.example"))) as client:
        assert (await login(client, Origin=origin)).status_code == 403
        assert (await login(client, Origin="http://hub.example")).status_code == 204
        for path in (TICKET, "/console/logout"):
            assert (await client.post(path, headers={"Origin": origin})).status_code == 403
        assert (await client.post(TICKET, headers={"Origin": "http://hub.example"})).status_code == 200
    with (
        TestClient(create_app(settings(origins="https://listed.example"))) as other,
        pytest.raises(WebSocketDisconnect),
    ):
        other.websocket_connect("/console/websocket", headers={"Origin": origin}).__enter__()


async def test_a_forged_cookie_opens_nothing(http: AsyncClient) -> None:
    """Nor does a ticket in its place."""
    await login(http)
    ticket = (await http.post(TICKET)).json()["ticket"]
    good = http.cookies[COOKIE]
    http.cookies.clear()
    for forged in (ticket, good[:-1], f"9{good}", "", "x.y.z"):
        assert (await http.post(TICKET, headers={"Cookie": f"{COOKIE}={forged}"})).status_code == 401
    assert (await http.post(TICKET, headers={"Cookie": f"{COOKIE}={good}"})).status_code == 200


# The application's own guard


def require_admin(x_user: str = Header("")) -> None:
    if x_user != "admin":
        raise HTTPException(403, "admins only")


def guarded(hub: Hub) -> FastAPI:
    app = FastAPI()
    app.include_router(hub.router, prefix="/rt")
    return app


async def test_a_dependency_guards_everything() -> None:
    """The page, its files and the tickets; there is no password to be asked for."""
    hub = Hub(Settings(), broker=MemoryBroker(), console=Depends(require_admin))
    async with browser(guarded(hub)) as client:
        for path in ("/rt/console", "/rt/console/console.js"):
            assert (await client.get(path)).status_code == 403
            assert (await client.get(path, headers={"X-User": "admin"})).status_code == 200
        assert (await client.post(f"/rt{TICKET}")).status_code == 403
        assert (await client.post(f"/rt{LOGIN}", headers={"X-User": "admin"})).status_code in (404, 405)
        answer = (await client.post(f"/rt{TICKET}", headers={"X-User": "admin"})).json()
        assert not answer["session"]
        assert hub._console is not None
        assert hub._console._knows(answer["ticket"])
    await hub.stop()


async def test_with_a_password_too_both_are_asked_for() -> None:
    """A variable in the environment does not open what the application guards; what others tell is no proof then."""
    hub = Hub(settings(), broker=MemoryBroker(), console=Depends(require_admin))
    assert hub._console is not None
    hub.on_admit(Told.digest("ticket"), 30.0)
    assert not hub._console._knows("ticket")
    async with browser(guarded(hub)) as client:
        assert (await client.post(f"/rt{LOGIN}", json={"password": WORD})).status_code == 403
        client.headers["X-User"] = "admin"
        assert (await client.post(f"/rt{TICKET}")).status_code == 401
        assert (await client.post(f"/rt{LOGIN}", json={"password": WORD})).status_code == 204
        assert (await client.post(f"/rt{TICKET}")).status_code == 200


def test_what_is_no_dependency() -> None:
    """A function alone would be a guard that nobody asks."""
    with pytest.raises(TypeError, match=r"console is a dependency, Depends\(your_function\), not"):
        Hub(Settings(), broker=MemoryBroker(), console=require_admin)  # type: ignore[arg-type]


async def test_a_ticket_is_good_on_every_worker() -> None:
    """Which one a browser's next connection comes to is not known: the others are told, and no ticket is."""
    server = FakeServer()
    async with contextlib.AsyncExitStack() as stack:
        guard = Depends(require_admin)
        here, there = [Hub(Settings(), redis=FakeAsyncRedis(server=server), console=guard) for _ in range(2)]
        for hub in (here, there):
            await stack.enter_async_context(hub)
        await eventually(lambda: here.ready and there.ready, 20)
        async with browser(guarded(here)) as client:
            ticket = (await client.post(f"/rt{TICKET}", headers={"X-User": "admin"})).json()["ticket"]
        assert there._console is not None
        await eventually(lambda: there._console._knows(ticket), 20)  # type: ignore[union-attr]
        assert ticket not in repr(vars(there._console._told))
        assert not there._console._knows("another")


# The socket


class Socket:
    """The page's connection."""

    def __init__(self, session: WebSocketTestSession) -> None:
        self._session = session
        self._number = 0
        self.pushes: list[dict[str, Any]] = []

    def ask(self, **command: Any) -> dict[str, Any]:
        """The reply to a command."""
        self._number += 1
        self._session.send_text(json.dumps({"id": self._number, **command}))
        while True:
            for line in self._session.receive_text().splitlines():
                message = json.loads(line)
                if message.get("id") == self._number:
                    return dict(message)
                self.pushes.append(message.get("push", {}))

    def call(self, method: str, **data: Any) -> dict[str, Any]:
        return self.ask(rpc={"method": method, "data": data})


@contextlib.contextmanager
def console(client: TestClient) -> Iterator[Socket]:
    assert client.post(LOGIN, json={"password": WORD}).status_code == 204
    ticket = client.post(TICKET).json()["ticket"]
    with client.websocket_connect("/console/websocket") as session:
        socket = Socket(session)
        assert socket.ask(connect={"token": ticket})["connect"]["expires"]
        yield socket


@pytest.fixture
def client() -> Iterator[TestClient]:
    """Of a hub that is as closed as it can be: the console has rights of its own."""
    closed = {"token": "t0ken", "max_connections": 1, "client_channel_limit": 1, "without_namespace": {}}
    with TestClient(create_app(settings(**closed))) as client:
        yield client


def test_a_ticket_opens_the_socket(client: TestClient) -> None:
    """Nothing else does; who has none is to fetch one. A new one keeps it open."""
    for token in ("", "t0ken", "x.y.z"):
        with client.websocket_connect("/console/websocket") as session:
            assert Socket(session).ask(connect={"token": token})["error"]["code"] == 109
    with console(client) as socket:
        ticket = client.post(TICKET).json()["ticket"]
        assert socket.ask(refresh={"token": ticket})["refresh"]["ttl"] > 200
        assert socket.ask(refresh={"token": "x.y.z"})["error"]["code"] == 100


def test_clients_have_no_place_in_the_figures(client: TestClient) -> None:
    """The channel is the console's alone, and the console's ticket is no token of clients."""
    with console(client) as socket:
        assert "subscribe" in socket.ask(subscribe={"channel": FIGURES})
    client.post(LOGIN, json={"password": WORD})
    with client.websocket_connect("/connection/websocket") as session:
        other = Socket(session)
        other.ask(connect={"token": "t0ken"})
        assert other.ask(subscribe={"channel": FIGURES})["error"]["code"] == 107
        assert other.ask(publish={"channel": FIGURES, "data": {}})["error"]["code"] == 107


def test_any_channel_is_heard_and_nobody_sees_it(client: TestClient) -> None:
    """Private ones, those of users, with a presence or without a namespace; what is published by hand comes, once."""
    with console(client) as socket:
        for channel in ("$private", "dialog#7", "chat:x", "no:such:namespace"):
            assert "subscribe" in socket.ask(subscribe={"channel": channel}), channel
            answer = socket.call("publish", channel=channel, data='{"n": 1.50}', json=True)
            assert ("offset" in answer["rpc"]["data"]) == (channel == "chat:x")
            socket.call("channels", pattern="-")  # what was published is here when this is answered
            assert [push["pub"]["data"] for push in socket.pushes if push.get("channel") == channel] == [{"n": 1.5}]
        assert socket.ask(presence={"channel": "chat:x"})["presence"]["presence"] == {}
        assert socket.ask(history={"channel": "chat:x", "limit": 10})["history"]["publications"][0]["data"] == {
            "n": 1.5
        }
        assert socket.ask(subscribe={"channel": "a\nb"})["error"]["code"] == 107
        assert socket.ask(publish={"channel": "chat:x", "data": {}})["error"]["code"] == 103


def test_what_is_published_is_an_action_in_typed_channels_too() -> None:
    """Their function is not asked whether the console may: what is published by hand is in the log."""
    hub = Hub(settings())

    @hub.channel("game:{id}", dict[str, int]).on_publish
    async def anybody(id: str) -> bool:
        return True

    app = FastAPI()
    app.include_router(hub.router)
    with TestClient(app) as client, console(client) as socket:
        assert socket.ask(publish={"channel": "game:1", "data": {"x": 1}})["error"]["code"] == 103
        assert "rpc" in socket.call("publish", channel="game:1", data='{"x": 1}', json=True)


def test_what_cannot_be_done_is_said_in_a_sentence(client: TestClient) -> None:
    """Whatever the page, or somebody in its place, sends."""
    with console(client) as socket:
        for method, data, code, text in (
            ("publish", {"channel": "x", "data": "{", "json": True}, 107, "bad request"),
            ("publish", {"channel": "", "data": "x", "json": False}, 107, "1 to 255"),
            ("publish", {"channel": "x"}, 107, "missing required field"),
            ("disconnect", {"user": ""}, 107, "name a user"),
            ("replace", {"node": "nobody"}, 404, "no such worker"),
            ("channels", {"pattern": 5}, 107, "Expected `str`"),
            ("restart", {}, 104, "method not found"),
        ):
            error = socket.call(method, **data)["error"]
            assert (error["code"], text in error["message"]) == (code, True), error


def test_a_text_stays_a_text(client: TestClient) -> None:
    """As raw clients would send it."""
    with console(client) as socket:
        socket.ask(subscribe={"channel": "room"})
        socket.call("publish", channel="room", data="{not json", json=False)
        assert socket.call("channels")["rpc"]["data"]["channels"] == [["room", 1]]
        assert [push["pub"]["data"] for push in socket.pushes] == ["{not json"]


def test_a_user_is_disconnected(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """All his connections, or one; the log says who did what."""
    with client.websocket_connect("/connection/websocket?token=t0ken") as session:
        user = Socket(session)
        name = user.ask(connect={})["connect"]["client"]
        with console(client) as socket:
            assert socket.call("disconnect", user="", client=name)["rpc"]["data"] == {}
            with pytest.raises(WebSocketDisconnect) as end:
                user.ask(rpc={"method": "x"})
            assert end.value.code == 3503
            assert socket.call("disconnect", user="somebody")["rpc"]["data"] == {}
    assert "the connections of the user 'somebody' were ended" in caplog.text
