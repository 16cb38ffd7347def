"""A client whose info changes while it is there: presence and its publications show it, and nobody joins for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from hub import ClientInfo, Hub, Settings
from hub.testing import Cluster, ProtocolClient
from hub.tokens import sign

SECRET = "a secret of at least thirty-two bytes"
ROOM = {
    "presence": True,
    "join_leave": True,
    "force_push_join_leave": True,
    "allow_subscribe_for_client": True,
    "allow_publish_for_subscriber": True,
    "allow_presence_for_subscriber": True,
}


def token(**claims: Any) -> str:
    return sign({"sub": "ann", "exp": int(time.time()) + 86400, **claims}, SECRET)


@asynccontextmanager
async def two_workers() -> AsyncIterator[tuple[Cluster, Hub]]:
    hub, app = Hub(Settings.load(namespaces={"room": ROOM}, token_hmac_secret_key=SECRET)), FastAPI()
    app.include_router(hub.router)
    async with Cluster(app, workers=2) as c:
        yield c, hub


async def ann_and_bob(c: Cluster, **subscribe: Any) -> tuple[ProtocolClient, ProtocolClient]:
    """On two workers, in the same room; Bob has heard that Ann has come."""
    bob = await c.client(worker=1, token=token(sub="bob"))
    await bob.subscribe("room:a")
    ann = await c.client(worker=0, token=token(info={"name": "old"}))
    await ann.subscribe("room:a", **subscribe)
    while (await bob.next_push()).body.get("info", {}).get("user") != "ann":
        pass
    return ann, bob


async def shown(ann: ProtocolClient, bob: ProtocolClient, hub: Hub) -> tuple[ClientInfo, Any]:
    """Ann as presence has her, and as Bob sees her in her next publication; that is the next that he hears at all."""
    present = await bob.command("presence", channel="room:a")
    [entry] = [info for info in present["presence"].values() if info["user"] == "ann"]
    await ann.publish("room:a", "hello")
    push = await bob.next_push()
    assert push.kind == "pub"
    return entry, push.body["info"]


async def test_a_refresh_by_the_application() -> None:
    async with two_workers() as (c, hub):
        ann, bob = await ann_and_bob(c)
        await c.http().post(  # through the other worker
            "/api/refresh", json={"user": "ann", "info": {"name": "new"}}, headers={"X-API-Key": "key"}
        )
        await c.advance(1)
        present, published = await shown(ann, bob, hub)
        assert present == published
        assert published["conn_info"] == {"name": "new"}


async def test_a_new_token() -> None:
    async with two_workers() as (c, hub):
        ann, bob = await ann_and_bob(c)
        await ann.command("refresh", token=token(info={"name": "new"}))
        await c.advance(1)
        present, published = await shown(ann, bob, hub)
        assert present == published
        assert published["conn_info"] == {"name": "new"}
        await ann.command("refresh", token=token())
        assert (await shown(ann, bob, hub))[1] == published, "a token that says nothing of it changes nothing"


async def test_a_new_token_of_a_subscription() -> None:
    """Changes what the client is in that channel, and not what it is."""

    def of(rank: str) -> str:
        return token(channel="room:a", info={"rank": rank})

    async with two_workers() as (c, hub):
        ann, bob = await ann_and_bob(c, token=of("guest"))
        assert (await shown(ann, bob, hub))[1]["chan_info"] == {"rank": "guest"}
        await ann.command("sub_refresh", channel="room:a", token=of("host"))
        await c.advance(1)
        present, published = await shown(ann, bob, hub)
        assert present == published
        assert (published["chan_info"], published["conn_info"]) == ({"rank": "host"}, {"name": "old"})


@pytest.fixture(autouse=True)
def api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_API_KEY", "key")
