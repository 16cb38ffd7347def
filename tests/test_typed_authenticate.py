"""`@hub.authenticate` by a session cookie and dependencies; and what those hear who are not let in, by every way in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import Cookie, Depends, FastAPI, HTTPException
from starlette.requests import HTTPConnection

from hub import ConfigError, Denied, Hub, Settings, User
from hub.testing import Closed, Cluster, ReplyError

MEMBERS = {"members": {"allow_subscribe_for_client": True, "allow_publish_for_subscriber": True}}
SESSIONS = {"of-ann": "ann"}
opened: list[str] = []


async def database() -> AsyncIterator[dict[str, str]]:
    opened.append("open")
    yield SESSIONS
    opened.append("closed")


def of_session(
    database: Annotated[dict[str, str], Depends(database)], session: Annotated[str | None, Cookie()] = None
) -> str | None:
    return database.get(session or "")


def application(function: Callable[..., Any]) -> FastAPI:
    hub, app = Hub(Settings.load(namespaces=MEMBERS)), FastAPI()
    hub.authenticate(function)
    app.include_router(hub.router)
    return app


def by_cookie(user: Annotated[str | None, Depends(of_session)]) -> User | bool:
    return User(id=user) if user else True


ANN = {"cookie": "session=of-ann"}


async def ways(c: Cluster, headers: dict[str, str] | None = None, query: str = "") -> list[str]:
    """What a protocol client, a raw client and an event stream get that want to join `members:x`."""
    return [await protocol(c, headers, query), await raw(c, headers, query), await sse(c, headers, query)]


async def protocol(c: Cluster, headers: dict[str, str] | None, query: str) -> str:
    try:
        client = await c.client(headers=headers, token=query)
        await client.subscribe("members:x")
    except ReplyError as error:
        return f"{error.code} {error.message}"
    except Closed as closed:
        return str(closed.close.code)
    return "in"


async def raw(c: Cluster, headers: dict[str, str] | None, query: str) -> str:
    socket = await c.connect(f"/ws/members:x?token={query}", headers=headers)
    try:
        await socket.send_text("hi")
        return "in" if await socket.receive_text() == "hi" else ""
    except Closed as closed:
        return str(closed.close.code)


async def sse(c: Cluster, headers: dict[str, str] | None, query: str) -> str:
    async with c.http().stream("GET", f"/sse/members:x?token={query}", headers=headers) as answer:
        if answer.status_code == 200:
            return "in"
        await answer.aread()
        return f"{answer.status_code} {answer.json()['error']['message']}"


async def test_a_login_by_dependencies() -> None:
    """The user of the cookie is in by every way; they are closed before the connection goes on; overrides hold."""
    app = application(by_cookie)
    async with Cluster(app, workers=1) as c:
        opened.clear()
        assert await ways(c, ANN) == ["in", "in", "in"]
        assert opened == ["open", "closed"] * 3
        app.dependency_overrides[of_session] = lambda: None
        assert await raw(c, ANN, "") == "4403"


async def test_true_is_an_anonymous_client() -> None:
    """Not a user: what the namespace has for users alone is closed to it, in raw rooms too."""
    async with Cluster(application(by_cookie), workers=1) as c:
        assert await ways(c) == ["103 permission denied", "4403", "403 you may not subscribe to this channel"]


async def test_the_token_is_among_the_dependencies() -> None:
    def who(token: str | None, user: Annotated[str | None, Depends(of_session)]) -> User | bool:
        return User(id=token) if token == "bob" and user is None else False

    async with Cluster(application(who), workers=1) as c:
        assert await ways(c, query="bob") == ["in", "in", "in"]
        assert await ways(c, query="eve") == [
            "3500",
            "4401",
            "401 the token is not valid, or not for this user or channel",
        ]


def refusing(fault: Exception, *, solved: bool) -> Callable[..., Any]:
    async def plain(connection: HTTPConnection, token: str | None) -> bool:
        raise fault

    def with_dependencies(connection: HTTPConnection, user: Annotated[str | None, Depends(of_session)]) -> bool:
        raise fault

    return with_dependencies if solved else plain


@pytest.mark.parametrize("solved", [False, True])
@pytest.mark.parametrize(
    ("fault", "heard"),
    [
        (Denied("log in first"), ["103 log in first", "4401", "403 log in first"]),
        (HTTPException(401, "log in first"), ["401 log in first", "4401", "401 log in first"]),
        (HTTPException(404), ["404 Not Found", "4401", "404 Not Found"]),
        (HTTPException(503, "the database is away"), ["503 the database is away", "1013", "503 the database is away"]),
    ],
)
async def test_a_refusal_is_told_by_every_way(
    fault: Exception, heard: list[str], solved: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In the application's words where the client can hear words; it is no fault of the hub's."""
    async with Cluster(application(refusing(fault, solved=solved)), workers=1) as c:
        assert await ways(c) == heard
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("name", ["conn", "tok"])
def test_a_parameter_that_nobody_could_fill(name: str) -> None:
    """Is told when the function is declared, not when the first client comes."""
    namespace: dict[str, Any] = {}
    exec(f"def who({name}, token=None, user=None): ...", namespace)
    with pytest.raises(ConfigError, match=f"nothing says what '{name}' is; there are `token`, the connection"):
        application(namespace["who"])
