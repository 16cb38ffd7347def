"""What the server does to a protocol client while the client does something itself."""

from __future__ import annotations

import asyncio

from hub.errors import Disconnects
from hub.tokens import sign
from tests.support.clock import in_virtual_time, unix_time  # noqa: F401
from tests.support.protocol_clients import SECRET, Gated, about, connect, world


@in_virtual_time
async def test_server_and_client_subscribe_at_once() -> None:
    """One subscription is made: the client's own then is error 105, and ending it leaves nothing."""
    broker = Gated()
    async with world(broker) as w:
        session = await w.connected(sub="1")
        await w.hub.subscribe_user("1", "a")
        await w.hub.subscribe_user("1", "a")
        await asyncio.sleep(0.1)
        session.say(about(2, "subscribe", "a"))
        broker.gate.set()
        await asyncio.sleep(0.1)
        assert session.pushes("subscribe") == [{}]
        assert session.replies(2)[0]["error"]["code"] == 105
        assert w.hub.registry.channels["a"].interest == 1
        await session.ask(3, unsubscribe={"channel": "a"})
        assert w.hub.registry.channels == {}
        broker.gate.clear()
        session.say(about(4, "subscribe", "a"))
        await w.hub.subscribe_user("1", "a")
        await asyncio.sleep(0.1)
        broker.gate.set()
        await asyncio.sleep(0.1)
        assert "subscribe" in session.replies(4)[0]
        assert w.hub.registry.channels["a"].interest == 1
        session.client.on_close(1000, "")
        await w.nothing_is_left()


@in_virtual_time
async def test_the_server_unsubscribes_what_is_just_being_made() -> None:
    """Whoever is thrown out of a channel is not in it a moment later, whether by name or of all."""
    broker = Gated()
    async with world(broker) as w:
        session = await w.connected(sub="1")
        for number, channel in ((2, "a"), (3, "")):
            session.say(about(number, "subscribe", "a"))
            await w.hub.unsubscribe_user("1", channel)
            await asyncio.sleep(0.1)
            broker.gate.set()
            await asyncio.sleep(0.1)
            broker.gate.clear()
            assert "subscribe" in session.replies(number)[0]
            assert session.received[-1]["push"]["unsubscribe"] == {"code": 2000, "reason": "server unsubscribe"}
            assert not session.client.is_subscribed("a")
        await w.hub.subscribe_user("1", "b")
        await w.hub.unsubscribe_user("1", "b")
        broker.gate.set()
        await asyncio.sleep(0.1)
        assert w.hub.registry.channels == {}


@in_virtual_time
async def test_the_server_subscribes_a_client_that_connects() -> None:
    """Twice the same channel is one subscription; the client hears of it after the reply to `connect`."""
    broker = Gated()
    async with world(broker) as w:
        session = w.open()
        session.say(connect(sign({"sub": "1", "channels": ["b", "a"]}, SECRET)))
        await asyncio.sleep(0.1)
        await w.hub.subscribe_user("1", "a")
        await asyncio.sleep(0.1)
        broker.gate.set()
        await asyncio.sleep(0.1)
        assert session.received[0]["connect"]["subs"] in ({"b": {}}, {"b": {}, "a": {}})
        assert {"a", "b"} == set(session.client.subs)
        assert all(channel.interest == 1 for channel in w.hub.registry.channels.values())
        session.client.on_close(1000, "")
        await w.nothing_is_left()


@in_virtual_time
async def test_the_server_unsubscribes_a_client_that_connects() -> None:
    """Of a token's channels only the one that was just being made took the order; the others were heard on."""
    broker = Gated()
    token = sign({"sub": "1", "channels": ["a", "b", "c"]}, SECRET)
    async with world(broker) as w:
        for named, left in ((["b"], ["a", "c"]), (["a", "c"], ["b"]), ([""], [])):
            broker.gate.clear()
            session = w.open()
            session.say(connect(token))
            await asyncio.sleep(0.01)
            for channel in named:
                await w.hub.unsubscribe_user("1", channel)
            await asyncio.sleep(0.01)
            broker.gate.set()
            await asyncio.sleep(0.01)
            assert list(session.client.subs) == left
            subs = set(session.replies(1)[0]["connect"].get("subs", {}))
            thrown_out = [message["push"]["channel"] for message in session.received if "push" in message]
            assert subs - set(thrown_out) == set(left)
            assert set(thrown_out) <= {"a"}  # the others were not begun
            session.client.on_close(1000, "")
        await w.nothing_is_left()


@in_virtual_time
async def test_the_server_decides_twice_about_a_client_that_connects() -> None:
    """The last order counts there, too; what it makes is told behind the reply to `connect`."""
    broker = Gated()
    async with world(broker) as w:
        session = w.open()
        session.say(connect(sign({"sub": "1", "channels": ["a", "b"]}, SECRET)))
        await asyncio.sleep(0.01)
        for channel in ("a", "b"):
            await w.hub.unsubscribe_user("1", channel)
            await w.hub.subscribe_user("1", channel, data=b'"again"')
        await asyncio.sleep(0.01)
        broker.gate.set()
        await asyncio.sleep(0.01)
        assert list(session.received[0]["connect"]["subs"]) == ["a"]
        assert session.pushes("unsubscribe") == [{"code": 2000, "reason": "server unsubscribe"}]
        assert session.pushes("subscribe") == 2 * [{"data": "again"}]
        assert set(session.client.subs) == {"a", "b"}
        session.client.on_close(1000, "")
        await w.nothing_is_left()


@in_virtual_time
async def test_a_connection_that_cannot_be_made_leaves_no_channels() -> None:
    """What it says behind the error is the end, also about a channel of its token that was not begun."""
    async with world(Gated(), subscribe_timeout=1) as w:
        session = w.open()
        session.say(connect(sign({"sub": "1", "channels": ["a", "b"]}, SECRET)))
        await asyncio.sleep(1.1)
        assert session.replies(1)[0]["error"]["code"] == 100
        assert session.client.channels == []
        session.say(about(2, "subscribe", "b"))
        assert session.closed is Disconnects.BAD_REQUEST
        await w.nothing_is_left()


@in_virtual_time
async def test_the_server_subscribes_to_more_than_the_limit() -> None:
    """Those that are being made count, and those that wait when it is their turn; the client ends with 3505."""
    broker = Gated()
    async with world(broker, client_channel_limit=2) as w:
        for ready in (True, False):
            session = await w.connected(sub="1")
            (broker.gate.set if ready else broker.gate.clear)()
            for channel in ("a", "b", "a"):
                await w.hub.subscribe_user("1", channel)
                await asyncio.sleep(0.01)
            assert session.closed is None
            await w.hub.subscribe_user("1", "c")
            await asyncio.sleep(0.01)
            assert session.closed is Disconnects.CHANNEL_LIMIT
            await w.nothing_is_left()


@in_virtual_time
async def test_publications_that_are_lost() -> None:
    """The client's own subscription ends with 2500; the server's means another connection."""
    async with world() as w:
        session = await w.connected(sub="1")
        await session.ask(2, subscribe={"channel": "chat:a"})
        session.client.on_insufficient("chat:a")
        session.client.on_insufficient("chat:a")
        assert session.pushes("unsubscribe") == [{"code": 2500, "reason": "insufficient state"}]
        await w.hub.subscribe_user("1", "chat:a")
        await asyncio.sleep(0.1)
        session.client.on_insufficient("chat:a")
        assert session.closed is Disconnects.INSUFFICIENT_STATE
        await w.nothing_is_left()
