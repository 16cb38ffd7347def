"""Raw rooms of a hub that has a key for tokens: the same tokens, by the same rules."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import jwt
import pytest
import websockets
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from hub import Hub, Settings, User
from hub.tokens import sign
from tests.support.redis import free_port
from tests.support.uvicorn_server import serving

SECRET = "a secret of at least thirty-two bytes"
MEMBERS = {"allow_subscribe_for_client": True, "allow_publish_for_subscriber": True}
Me = Annotated[User | None, Depends(Hub.user)]


def token(secret: str = SECRET, **claims: Any) -> str:
    return sign({"sub": "7", "exp": int(time.time()) + 86400, **claims}, secret)


def keyed(**settings: Any) -> Hub:
    return Hub(Settings.load(**{"drain": 0, "token_hmac_secret_key": SECRET, **settings}))


@asynccontextmanager
async def joined(hub: Hub, query: str, room: str = "room") -> AsyncIterator[websockets.ClientConnection]:
    app = FastAPI()
    app.include_router(hub.router)
    async with serving(app) as (port, _), websockets.connect(f"ws://127.0.0.1:{port}/ws/{room}?{query}") as client:
        yield client


async def outcome(hub: Hub, query: str, room: str = "room") -> int | str | bytes:
    """The close code of a client, or what it hears of itself."""
    async with joined(hub, query, room) as client:
        try:
            await client.send("hi")
            return await client.recv()
        except websockets.ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 1006


@pytest.mark.parametrize(
    ("query", "got"),
    [
        ("", 4401),
        ("token=", 4401),
        ("token=nonsense", 4401),
        (f"token={token('another secret of at least 32 bytes')}", 4401),
        (f"token={token(exp=1)}", 4401),
        (f"token={token()}", "hi"),
        (f"token={token(sub='')}", "hi"),
    ],
)
async def test_who_comes_in(query: str, got: int | str) -> None:
    """Who shows a good token."""
    assert await outcome(keyed(), query) == got


@pytest.mark.parametrize(("query", "got"), [("token=password", "hi"), (f"token={token()}", "hi"), ("token=x", 4401)])
async def test_beside_the_static_token(query: str, got: int | str) -> None:
    """One of the two will do."""
    assert await outcome(keyed(token="password"), query) == got


@pytest.mark.parametrize(
    ("query", "room", "got"),
    [
        ("", "room", "hi"),
        ("token=nonsense", "room", 4401),
        ("", "members:a", 4403),
        (f"token={token(sub='')}", "members:a", 4403),
        (f"token={token()}", "members:a", "hi"),
    ],
)
async def test_where_anonymous_clients_may_connect(query: str, room: str, got: int | str) -> None:
    """They are let in, but only a user is one; a token that is sent is verified all the same."""
    hub = keyed(allow_anonymous_connect_without_token=True, namespaces={"members": MEMBERS})
    assert await outcome(hub, query, room) == got


@pytest.mark.parametrize("open_to", ["allow_anonymous_connect_without_token", "client_insecure"])
async def test_who_has_closed_rooms_keeps_them_closed(open_to: str) -> None:
    """A key beside the static token lets nobody in who shows nothing."""
    assert await outcome(keyed(token="password", **{open_to: True}), "") == 4401


async def test_while_the_keys_cannot_be_had() -> None:
    """It is the key set's fault and not the token's, so the client may try again."""
    hub = Hub(Settings.load(drain=0, token_jwks_public_endpoint=f"http://127.0.0.1:{free_port()}/jwks"))
    other = jwt.encode({"sub": "7"}, rsa.generate_private_key(65537, 2048), "RS256", headers={"kid": "1"})
    assert await outcome(hub, f"token={other}") == 1013


async def test_without_a_key_nothing_is_verified() -> None:
    """There is nothing to verify it with, and nobody asked for it."""
    assert await outcome(Hub(Settings.load(drain=0)), "token=nonsense") == "hi"


async def test_the_application_comes_first() -> None:
    """Its function judges in place of the key."""
    hub = keyed()

    @hub.authenticate
    async def authenticate(connection: HTTPConnection, shown: str | None) -> bool:
        return shown == "mine"

    assert await outcome(hub, "token=mine") == "hi"
    assert await outcome(hub, f"token={token()}") == 4401


@pytest.mark.timed
@pytest.mark.parametrize("user", ["7", ""])
async def test_it_ends_with_the_token(user: str) -> None:
    """No longer than its user is who he is, or the token of an anonymous one good."""
    async with joined(keyed(), f"token={token(sub=user, exp=time.time() + 2.5)}") as client:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 3005


async def test_a_typed_channel_knows_the_user() -> None:
    """With the `info` of the token."""
    hub = keyed()
    chat = hub.channel("chat:{room}", str)
    seen: list[User | None] = []

    @chat.on_subscribe
    async def may_join(room: str, me: Me) -> bool:
        seen.append(me)
        return me is not None and me.id == room

    async with joined(hub, f"token={token(info={'name': 'Ann'})}", "chat:7"):
        assert await outcome(hub, f"token={token()}", "chat:8") == 4403
    assert [(me.id, me.info) for me in seen if me] == [("7", {"name": "Ann"}), ("7", None)]
