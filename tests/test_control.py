"""What workers tell each other: a user's connections are found on every worker, and every worker is asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI

from hub import Hub, Settings
from hub.errors import BrokerUnavailable, Disconnect, Disconnects, Refused
from hub.memory import MemoryBroker
from hub.namespaces import BUILT_IN
from hub.testing import Cluster
from hub.tokens import Override
from hub.types import StreamPosition
from tests.support.protocol_clients import SECRET, Session, World, about, world
from tests.support.waiting import eventually

SETTINGS = {
    "namespaces": {"kept": BUILT_IN["chat"]},
    "token_hmac_secret_key": SECRET,
    "allow_anonymous_connect_without_token": True,
}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


@contextlib.asynccontextmanager
async def workers(count: int = 2) -> AsyncIterator[list[World]]:
    """Workers that hear each other; what they wait for costs no time."""
    app = FastAPI()
    app.include_router(Hub(Settings(**SETTINGS)).router)
    async with Cluster(app, workers=count) as cluster:
        yield [World(worker.hubs()[0]) for worker in cluster.workers]


# Users


async def test_subscribing_a_user() -> None:
    """All connections of the user, on all workers, and nobody else; each is told by a push and listed."""
    async with workers() as (here, there):
        one, two = await here.connected(sub="ann"), await there.connected(sub="ann")
        other = await there.connected(sub="bob")
        await here.hub.subscribe_user("ann", "kept:a", info=b'{"i":1}', data=b'{"d":1}')
        await eventually(lambda: one.pushes("subscribe") and two.pushes("subscribe"))
        told = two.pushes("subscribe")[0]
        assert (told["data"], told["positioned"], told["recoverable"]) == ({"d": 1}, True, True)
        assert one.client.is_subscribed("kept:a")
        assert not other.client.is_subscribed("kept:a")
        assert await here.hub.presence_stats("kept:a") == (2, 1)
        present = await there.hub.presence("kept:a")
        assert {info.chan_info for info in present.values()} == {b'{"i":1}'}
        await there.hub.publish("kept:a", {"n": 1})
        await eventually(lambda: one.pushes("pub") and two.pushes("pub"))


async def test_subscribing_with_options() -> None:
    """One connection of several, its own options, and what it missed since a position."""
    async with workers() as (here, there):
        one, two = await there.connected(sub="ann"), await there.connected(sub="ann")
        first = await here.hub.publish("kept:a", 1)
        await here.hub.publish("kept:a", 2)
        since, unseen = StreamPosition(1, first.epoch), Override(presence=False, join_leave=False)
        await here.hub.subscribe_user(
            "ann",
            "kept:a",
            client=one.client.client_id,
            recover_since=since,
            override=unseen,
        )
        await eventually(lambda: one.pushes("pub"))
        assert [publication["data"] for publication in one.pushes("pub")] == [2]
        assert not two.client.is_subscribed("kept:a")
        assert await here.hub.presence_stats("kept:a") == (0, 0)
        await here.hub.subscribe_user("ann", "b", session=two.client.client_id)
        await eventually(lambda: two.pushes("subscribe"))
        assert not one.client.is_subscribed("b")


async def test_subscribing_to_what_is_not_there() -> None:
    """A namespace that nobody knows is the caller's error; a user who is not connected is none."""
    async with workers() as (here, there):
        with pytest.raises(Refused):
            await here.hub.subscribe_user("ann", "no:a")
        await here.hub.subscribe_user("nobody", "a")
        await here.hub.unsubscribe_user("nobody")
        await here.hub.disconnect_user("nobody")
        await here.hub.refresh_user("nobody")
        assert there.hub.registry.channels == {}


async def test_unsubscribing_a_user() -> None:
    """From one channel, then from all; each is told by a push, and nothing is left."""
    async with workers() as (here, there):
        session = await there.connected(sub="ann")
        for number, channel in enumerate(("kept:a", "kept:b", "c"), 2):
            await session.ask(number, subscribe={"channel": channel})
        await here.hub.unsubscribe_user("ann", "kept:a")
        await eventually(lambda: len(session.pushes("unsubscribe")) == 1)
        assert set(session.client.subs) == {"kept:b", "c"}
        await here.hub.unsubscribe_user("ann")
        await eventually(lambda: len(session.pushes("unsubscribe")) == 3)
        assert session.pushes("unsubscribe")[0] == {"code": 2000, "reason": "server unsubscribe"}
        assert there.hub.registry.channels == {}
        assert await here.hub.broker.presence.stats("kept:a") == (0, 0)
        assert session.closed is None


async def test_disconnecting_a_user() -> None:
    """With the code that was asked for; who is on the whitelist stays."""
    async with workers() as (here, there):
        kept, gone = await here.connected(sub="ann"), await there.connected(sub="ann")
        ends = Disconnect(code=4000, reason="bye")
        await here.hub.disconnect_user("ann", whitelist=(kept.client.client_id,), disconnect=ends)
        await eventually(lambda: gone.closed)
        assert gone.closed == ends
        assert kept.closed is None
        await there.hub.disconnect_user("ann", client=kept.client.client_id)
        await eventually(lambda: kept.closed)
        assert (kept.closed.code, kept.closed.reason) == (3503, "force disconnect")  # type: ignore[union-attr]
        await there.nothing_is_left()


async def test_what_was_published_before_goes_before_the_end() -> None:
    """Though the turn is not over, or the worker rests: what a user is unsubscribed or disconnected after is heard."""
    async with world() as w:
        session = await w.connected(sub="ann")
        for number, channel in enumerate(("a", "b"), 2):
            await session.ask(number, subscribe={"channel": channel})
        await w.hub.publish("a", "last in a")
        await w.hub.unsubscribe_user("ann", "a")
        await w.hub.publish("b", "last in b")
        await w.hub.disconnect_user("ann")
        await eventually(lambda: session.closed)
        assert [publication["data"] for publication in session.pushes("pub")] == ["last in a", "last in b"]


async def test_what_no_worker_could_do_is_refused() -> None:
    """By the call, rather than accepted and then taken for somebody else's words by each worker."""
    async with world() as w:
        session = await w.connected(sub="ann")
        for code in (999, 1005, 1006, 5000):
            with pytest.raises(ValueError, match=f"a close frame cannot have the code {code}"):
                await w.hub.disconnect_user("ann", disconnect=Disconnect(code=code, reason="x"))
        with pytest.raises(ValueError, match="no worker could do this"):
            await w.hub.refresh_user("ann", expire_at=math.inf)
        with pytest.raises(ValueError, match="no worker could do this"):
            await w.hub.subscribe_user("ann", "a", expire_at=math.nan)
        await asyncio.sleep(0.01)
        assert w.hub.malformed.total == 0
        assert session.closed is None


async def test_refreshing_a_user() -> None:
    """The connection's time is put off or ends now; its info is another in presence."""
    async with workers() as (here, there):
        session = await there.connected(sub="ann", exp=int(time.time()) + 60)
        await here.hub.refresh_user("ann", expire_at=time.time() + 600, info=b'{"new":1}')
        await eventually(lambda: session.pushes("refresh"))
        assert session.pushes("refresh")[0]["expires"] is True
        assert 590 < session.pushes("refresh")[0]["ttl"] <= 600
        await session.ask(2, subscribe={"channel": "kept:a"})
        assert [info.conn_info for info in (await here.hub.presence("kept:a")).values()] == [b'{"new":1}']
        await here.hub.refresh_user("ann")
        await eventually(lambda: len(session.pushes("refresh")) == 2)
        assert session.pushes("refresh")[1] == {}
        assert session.client.expire_at == 0
        await here.hub.refresh_user("ann", expired=True)
        await eventually(lambda: session.closed)
        assert session.closed is Disconnects.EXPIRED


# Histories


async def test_a_history_is_removed_everywhere() -> None:
    """Also from the workers' own memory: who comes back later does not get what is gone."""
    async with workers(3) as (here, there, third):
        listening = await there.connected()
        await listening.ask(2, subscribe={"channel": "kept:a"})
        position = StreamPosition(*(await here.hub.publish("kept:a", 1))[:2])
        await eventually(lambda: listening.pushes("pub"))
        await third.hub.remove_history("kept:a")
        channel = there.hub.registry.channels["kept:a"]
        assert channel.stream is not None
        await eventually(lambda: not channel.stream.ring)  # type: ignore[union-attr]
        history = await here.hub.history("kept:a", limit=-1)
        assert history == ([], position)
        back = await there.connected()
        wish = {"channel": "kept:a", "recover": True, "offset": 0, "epoch": position.epoch}
        reply = (await back.ask(2, subscribe=wish))["subscribe"]
        assert (reply["was_recovering"], reply.get("recovered", False)) == (True, False)
        with pytest.raises(Refused):
            await here.hub.remove_history("without")


# Surveys


async def test_all_workers_are_asked() -> None:
    """Channels with the subscribers of all, by pattern; and every worker with what it has to do."""
    async with workers(3) as (here, there, third):
        for number, (w, channels) in enumerate(((here, ["a"]), (there, ["a", "ab"]), (third, ["c"]))):
            session = await w.connected(**{"sub": f"u{number}"} if number else {})
            for at, channel in enumerate(channels, 2):
                await session.ask(at, subscribe={"channel": channel})
        assert await third.hub.channels() == {"a": 2, "ab": 1, "c": 1}
        assert await third.hub.channels("a*") == {"a": 2, "ab": 1}
        assert await here.hub.channels("none") == {}
        nodes = {node.uid: node for node in await here.hub.info()}
        assert set(nodes) == {w.hub.node for w in (here, there, third)}
        second = nodes[there.hub.node]
        assert (second.num_clients, second.num_users, second.num_subs, second.num_channels) == (1, 1, 2, 2)
        assert second.uptime >= 0
        assert second.name.endswith(second.uid)
        assert here.hub._surveys == {}


async def test_a_worker_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The others' answers are what there is after a while; that one is missing is said."""
    async with workers(3) as (here, there, third):
        await (await there.connected()).ask(2, subscribe={"channel": "a"})
        monkeypatch.setattr(third.hub, "on_control", lambda payload: None)
        assert await here.hub.channels() == {"a": 1}
        assert {node.uid for node in await here.hub.info()} == {here.hub.node, there.hub.node}
        assert "1 of 3 workers did not answer a survey in time" in caplog.text
        assert here.hub._surveys == {}


# Faults


@pytest.mark.parametrize(
    "junk",
    [
        b"junk",
        b"\xff",
        b"[]",
        b'{"do":"explode"}',
        b'{"do":"subscribe","user":"ann"}',
        b'{"do":"subscribe","user":"ann","channel":"a","override":{"presence":"no"}}',
        b'{"do":"disconnect","user":1}',
        b'{"do":"answer","number":"1","body":' + b"[" * 100_000,
    ],
)
async def test_junk_is_counted(junk: bytes) -> None:
    """Whatever somebody writes to the workers' channel: it is skipped, and what follows is heard."""
    async with workers() as (here, there):
        session = await there.connected(sub="ann")
        await here.hub.broker.broadcast(junk)
        await here.hub.broker.broadcast(b'{"do":"answer","number":"unknown","body":1}')
        await here.hub.subscribe_user("ann", "a")
        await eventually(lambda: session.pushes("subscribe"))
        assert there.hub.malformed.total == 1


async def test_what_another_version_may_say() -> None:
    """Fields that are not known are skipped, an answer that is none is left out, a bad channel is logged."""
    async with workers() as (here, there):
        session = await there.connected(sub="ann")
        await here.hub.broker.broadcast(b'{"do":"subscribe","user":"ann","channel":"no:x"}')
        await here.hub.broker.broadcast(b'{"do":"subscribe","user":"ann","channel":"a","override":{"x":true},"x":1}')
        await eventually(lambda: session.pushes("subscribe"))
        real = there.hub.on_control

        def newer(payload: bytes) -> None:
            order = json.loads(payload)
            if order["do"] == "survey":
                answer = {"do": "answer", "number": order["number"], "body": {"a": "many"}}
                there.hub.broker.tell(order["node"], json.dumps(answer).encode())
            else:
                real(payload)

        there.hub.on_control = newer  # type: ignore[method-assign]
        assert await here.hub.channels() == {}
        assert [node.uid for node in await here.hub.info()] == [here.hub.node]


async def test_one_broken_connection_does_not_spare_the_others() -> None:
    """What is done to a user is done to all connections, though one of them fails."""
    async with world() as w:
        sessions = [await w.connected(sub="ann") for _ in range(3)]

        def broken(disconnect: Disconnect) -> None:
            raise ZeroDivisionError

        sessions[0].close = broken  # type: ignore[method-assign]
        await w.hub.disconnect_user("ann")
        await asyncio.sleep(0.01)
        assert [session.closed is not None for session in sessions] == [False, True, True]


async def test_workers_that_cannot_be_told() -> None:
    """The caller learns it."""

    class Alone(MemoryBroker):
        def broadcast(self, payload: bytes) -> asyncio.Future[int]:
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            future.set_exception(BrokerUnavailable("away"))
            return future

    async with world(Alone()) as w:
        for work in (w.hub.disconnect_user("ann"), w.hub.channels(), w.hub.info()):
            with pytest.raises(BrokerUnavailable):
                await work
        assert w.hub._surveys == {}


async def test_a_faulty_subscription_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Redis away in the middle of it, or a fault of ours: the connection stays, and may be subscribed later."""

    class Failing(MemoryBroker):
        fault: Exception | None = None

        def subscribe(self, channel: str) -> Any:
            if self.fault is not None:
                raise self.fault
            return super().subscribe(channel)

    broker = Failing()
    async with world(broker) as w:
        session: Session = await w.connected(sub="ann")
        for broker.fault in (BrokerUnavailable("away"), ZeroDivisionError("ours")):
            await w.hub.subscribe_user("ann", "a")
            await eventually(lambda: str(broker.fault) in caplog.text)
        assert "Traceback" in caplog.text
        broker.fault = None
        await w.hub.subscribe_user("ann", "a")
        await eventually(lambda: session.pushes("subscribe"))
        session.say(about(2, "subscribe", "a"))
        assert session.replies(2)[0]["error"]["code"] == 105
