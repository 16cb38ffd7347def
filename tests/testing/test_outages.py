"""What becomes of a cluster: Redis goes and comes back, workers are killed, stopped and started, time passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI, WebSocket

from hub import BrokerUnavailable, ChannelOptions, Hub, Settings
from hub.testing import Cluster, ReplyError
from hub.tokens import sign
from tests.testing.application import make_app

SECRET = "a secret of at least thirty-two bytes"


# Redis


async def test_redis_goes_and_comes_back() -> None:
    """Connections break, new ones are refused, and what was kept meanwhile is healed; nothing is heard in between."""
    hub = Hub(Settings())
    async with Cluster(make_app(hub), workers=2) as c:
        client = await c.client(worker=1)
        await client.subscribe("chat:x")
        await c.redis.drop(seconds=5)
        assert repr(c.redis) == "<FakeRedisServer away, 0 connections>"
        assert not hub.ready
        await c.advance(1)
        with pytest.raises(BrokerUnavailable):
            await hub.publish("chat:x", "lost")
        with pytest.raises(Exception, match="away"):
            await c.redis.client.ping()
        await c.advance(5)
        assert hub.ready
        assert await c.redis.client.ping()
        await hub.publish("chat:x", "found")
        assert (await client.next_publication()).data == "found"
        assert [push.data for push in client.pushes if push.kind == "pub"] == ["found"]


async def test_one_worker_is_cut_off() -> None:
    """The others go on; what it has missed of a channel with history it reads afterwards."""
    hub = Hub(Settings())
    async with Cluster(make_app(hub), workers=3) as c:
        cut, other = await c.client(worker=1), await c.client(worker=2)
        await cut.subscribe("chat:x")
        await other.subscribe("chat:x")
        await c.redis.drop(worker=1)
        await hub.publish("chat:x", "one")
        assert (await other.next_publication()).data == "one"
        await c.advance(20)
        assert [push for push in cut.pushes if push.kind == "pub"] == []
        assert "away for 1 workers" in repr(c.redis)
        assert hub.broker.gaps == 0  # type: ignore[attr-defined]
        c.redis.restore(worker=1)
        assert (await cut.next_publication()).data == "one"
        assert "there" in repr(c.redis)


async def test_dropping_again_replaces_the_end() -> None:
    """A second outage is not ended by the end of the first; `restore` ends all."""
    hub = Hub(Settings())
    async with Cluster(make_app(hub), workers=1) as c:
        await c.redis.drop(seconds=5)
        await c.redis.drop()
        await c.advance(50)
        assert not hub.ready
        c.redis.restore()
        await c.advance(2)
        assert hub.ready
        with pytest.raises(ValueError, match=r"seconds must not be negative, and are -1"):
            await c.redis.drop(seconds=-1)


async def test_time_in_redis_is_virtual() -> None:
    """A history runs out after its time; a plain client sees what there is."""
    short = ChannelOptions(history_size=10, history_ttl=60.0, history_meta_ttl=60.0)
    hub = Hub(Settings(namespaces={"short": short}))
    async with Cluster(make_app(hub), workers=1) as c:
        await hub.publish("short:x", 1)
        assert len((await hub.history("short:x", limit=10)).publications) == 1
        assert await c.redis.client.keys("*short:x*")
        await c.advance(61)
        assert await c.redis.client.keys("*short:x*") == []


# Workers


async def test_a_killed_worker() -> None:
    """Its clients see an end that nobody told of; its presence is there until its lease has run out, then told once."""
    hub = Hub(Settings())
    async with Cluster(make_app(hub), workers=2) as c:
        watcher, victim = await c.client(worker=0), await c.client(worker=1)
        await watcher.subscribe("chat:x")
        await victim.subscribe("chat:x")
        assert (await watcher.next_push("chat:x", "join")).body["info"]["client"] == watcher.id
        assert (await watcher.next_push("chat:x", "join")).body["info"]["client"] == victim.id
        raw = await c.connect("/rt/ws/chat:x", worker=1)
        before = c.time
        await c.kill(1)
        assert c.time == before
        assert [victim.close_seen, raw.close_seen] == [(1006, ""), (1006, "")]
        assert [node.uid for node in await hub.info()] == [hub.node]
        assert c.time == before  # Redis has told nobody who does not answer
        assert await hub.presence_stats("chat:x") == (2, 1)
        assert [push for push in watcher.pushes if push.kind == "leave"] == []
        await c.advance(15)
        assert await hub.presence_stats("chat:x") == (1, 1)
        assert [p.body["info"]["client"] for p in watcher.pushes if p.kind == "leave"] == [victim.id]
        with pytest.raises(ConnectionRefusedError, match=r"worker 1 is not running: await cluster.start\(1\)"):
            await c.connect("/rt/ws", worker=1)


async def test_a_killed_worker_says_nothing_more() -> None:
    """Its tasks are cancelled, its timers forgotten, and what their ends publish reaches nobody."""
    hub, ends = Hub(Settings()), []
    app = make_app(hub)

    @app.websocket("/mine")
    async def mine(websocket: WebSocket) -> None:
        await websocket.accept()
        asyncio.get_running_loop().call_later(1, ends.append, "a timer")
        try:
            while True:
                await hub.publish("x", await websocket.receive_text())
        finally:
            ends.append("the end")
            await hub.publish("x", "never heard")

    async with Cluster(app, workers=2) as c:
        listener = await c.connect("/rt/ws/x", worker=0)
        mine_ = await c.connect("/mine", worker=1)
        await mine_.send_text("before")
        await c.kill(1)
        assert await listener.receive_text() == "before"
        await listener.receive_nothing(seconds=30)
        assert ends == ["the end"]
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("worker 1")] == []


async def test_a_worker_stops_and_another_one_starts() -> None:
    """Its clients are told 1012, its lifespan ends; the next one in its place is new, and is heard."""
    hub, ends = Hub(Settings()), []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        node = hub.node
        yield
        ends.append(node)

    async with Cluster(make_app(hub, lifespan=lifespan), workers=2) as c:
        with c.on(1):
            old = hub.node
        client = await c.client(worker=1)
        await client.subscribe("chat:x")
        await c.stop(1)
        assert ends == [old]
        assert client.close_seen == (1012, "Service Restart")
        assert await hub.presence("chat:x") == {}
        with pytest.raises(RuntimeError, match="worker 0 is running already"):
            await c.start(0)
        await c.start(1)
        client = await c.client(worker=1)
        await client.subscribe("chat:x")
        await hub.publish("chat:x", "hi")
        assert (await client.next_publication()).data == "hi"
        with c.on(1):
            assert hub.node != old
    assert len(ends) == 3


async def test_a_worker_starts_while_redis_is_away() -> None:
    """It serves, is not ready, and is as soon as Redis is back."""
    hub = Hub(Settings())
    async with Cluster(make_app(hub), workers=1) as c:
        assert hub.ready
        await c.kill(0)
        await c.redis.drop(seconds=30)
        await c.start(0)
        assert (await c.http().get("/rt/health/live")).status_code == 200
        assert (await c.http().get("/rt/health/ready")).status_code == 503
        await c.advance(32)
        assert (await c.http().get("/rt/health/ready")).status_code == 200


async def test_clients_come_back_and_miss_nothing() -> None:
    """After a kill, elsewhere: recovery from the position that the client had."""
    hub = Hub(Settings())
    async with Cluster(make_app(hub), workers=2) as c:
        client = await c.client(worker=1)
        epoch = (await client.subscribe("chat:x"))["epoch"]
        await hub.publish("chat:x", 1)
        offset = (await client.next_publication()).body["offset"]
        await c.kill(1)
        await hub.publish("chat:x", 2)
        again = await c.client(worker=0)
        found = await again.subscribe("chat:x", recover=True, offset=offset, epoch=epoch)
        assert (found["recovered"], [each["data"] for each in found["publications"]]) == (True, [2])


# Time


async def test_tokens_expire_in_virtual_time() -> None:
    """And what `time.time()` says to who signs them is the same time."""
    app = make_app(Hub(Settings(token_hmac_secret_key=SECRET)))
    async with Cluster(app, workers=1) as c:
        await c.advance(500)
        token = sign({"sub": "ann", "exp": int(time.time()) + 60}, SECRET)
        client = await c.client(token=token)
        await c.advance(30)
        assert not client.closed
        await c.advance(100)
        assert client.closed
        with pytest.raises(ReplyError, match="109 token expired"):
            await c.client(token=token)


async def test_rates_are_of_virtual_time() -> None:
    """A bucket that is empty fills while time passes."""
    app = make_app(Hub(Settings(message_rate=2, message_burst=2)))
    async with Cluster(app, workers=1) as c:
        client = await c.connect("/rt/echo")
        for _ in range(10):
            await client.send_text("x")
            assert await client.receive_text() == "x"
            await c.advance(1)
        for _ in range(4):
            await client.send_text("x")
        assert await client.wait_closed() == (4429, "too many messages, slow down")
