"""What the application orders for a user while something else is being done in the channel: the last order counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hub.errors import BrokerUnavailable, Disconnects
from hub.namespaces import BUILT_IN
from tests.support.clock import in_virtual_time
from tests.support.protocol_clients import Gated, Session, World, about, world

KEPT = {"namespaces": {"kept": BUILT_IN["chat"]}}


def told(session: Session) -> list[str]:
    """Kinds of pushes, replies by their number, and errors as a minus, in order."""
    found = []
    for message in session.received:
        if "push" in message:
            found += [kind for kind in message["push"] if kind in ("subscribe", "unsubscribe", "pub")]
        elif "error" in message:
            found.append(f"-{message['id']}")
        elif message:
            found.append(str(message["id"]))
    return found[1:]  # behind `connect`


async def turn() -> None:
    """All that is ready has been done."""
    await asyncio.sleep(0.01)


@in_virtual_time
async def test_the_last_of_quick_orders_counts() -> None:
    """A user was subscribed, unsubscribed and subscribed while the first was being made, and ended unsubscribed."""
    broker = Gated()
    async with world(broker) as w:
        session = await w.connected(sub="ann")
        for _ in range(2):
            await w.hub.subscribe_user("ann", "a")
            await w.hub.unsubscribe_user("ann", "a")
        await w.hub.subscribe_user("ann", "a")
        await turn()
        broker.gate.set()
        await turn()
        assert told(session) == ["subscribe", "unsubscribe", "subscribe"]
        assert session.client.is_subscribed("a")
        assert w.hub.registry.channels["a"].interest == 1
        session.client.on_close(1000, "")
        await w.nothing_is_left()


@in_virtual_time
async def test_an_order_is_taken_back() -> None:
    """By name, or by unsubscribing from all: what waited is not made any more."""
    broker = Gated()
    async with world(broker) as w:
        session = await w.connected(sub="ann")
        for channel in ("a", ""):
            broker.gate.clear()
            session.received[1:] = []
            for order in (w.hub.subscribe_user, w.hub.unsubscribe_user, w.hub.subscribe_user):
                await order("ann", "a")
            await w.hub.unsubscribe_user("ann", channel)
            await turn()
            broker.gate.set()
            await turn()
            assert told(session) == ["subscribe", "unsubscribe"]
            assert w.hub.registry.channels == {}
        session.client.on_close(1000, "")
        await w.nothing_is_left()


@in_virtual_time
async def test_an_attempt_of_its_own_is_refused() -> None:
    """`on_subscribe` took its time to refuse the client, and what was ordered meanwhile was gone."""
    async with world() as w:
        judged = asyncio.Event()

        async def refuse(client: Any, channel: str) -> bool:
            await judged.wait()
            return False

        w.hub.on_subscribe(refuse)
        session = await w.connected(sub="ann")
        session.say(about(2, "subscribe", "a"))
        await w.hub.subscribe_user("ann", "a", data=b'"yes"')
        await turn()
        judged.set()
        await turn()
        assert told(session) == ["-2", "subscribe"]
        assert session.pushes("subscribe") == [{"data": "yes"}]
        session.client.on_close(1000, "")
        await w.nothing_is_left()


@in_virtual_time
async def test_an_attempt_before_fails() -> None:
    """Redis was away for the first order, and is back for the second."""

    class Failing(Gated):
        faults = 1

        async def _confirm(self) -> None:
            await super()._confirm()
            if self.faults:
                self.faults -= 1
                raise BrokerUnavailable("away")

    broker = Failing()
    async with world(broker) as w:
        session = await w.connected(sub="ann")
        await w.hub.subscribe_user("ann", "a")
        await w.hub.subscribe_user("ann", "a")
        await turn()
        broker.gate.set()
        await turn()
        assert told(session) == ["subscribe"]


@asynccontextmanager
async def leaving(w: World, session: Session) -> AsyncIterator[asyncio.Future[None]]:
    """A client that has said `unsubscribe` (3); the presence store has not confirmed it yet."""
    await session.ask(2, subscribe={"channel": "kept:a"})
    confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    remove: Callable[..., Any] = w.hub.broker.presence.remove

    def slowly(channel: str, client: str) -> asyncio.Future[None]:
        remove(channel, client)
        return confirmed

    w.hub.broker.presence.remove = slowly  # type: ignore[method-assign]
    session.say(about(3, "unsubscribe", "kept:a"))
    try:
        yield confirmed
    finally:
        w.hub.broker.presence.remove = remove  # type: ignore[method-assign]


@in_virtual_time
async def test_a_client_that_leaves_is_told_so_first() -> None:
    """The reply to `unsubscribe` came behind the new subscription: the client thought that it had none."""
    async with world(**KEPT) as w:
        session = await w.connected(sub="ann")
        async with leaving(w, session) as confirmed:
            await w.hub.subscribe_user("ann", "kept:a")
            await w.hub.publish("kept:a", "between")
            await turn()
            assert told(session) == ["2"]
            confirmed.set_result(None)
            await turn()
        await w.hub.publish("kept:a", "behind")
        await turn()
        assert told(session) == ["2", "3", "subscribe", "pub"]
        session.client.on_close(1000, "")
        await w.nothing_is_left()


@in_virtual_time
async def test_what_a_client_said_next_comes_behind_the_order() -> None:
    """It was carried out first, so there is one subscription: the server's."""
    async with world(**KEPT) as w:
        session = await w.connected(sub="ann")
        async with leaving(w, session) as confirmed:
            session.say(about(4, "subscribe", "kept:a"), about(5, "unsubscribe", "kept:a"))
            await w.hub.subscribe_user("ann", "kept:a")
            await w.hub.unsubscribe_user("ann")
            await w.hub.subscribe_user("ann", "kept:a")
            await turn()
            confirmed.set_result(None)
            await turn()
        assert told(session) == ["2", "3", "subscribe", "-4", "5"]
        assert session.client.subs == {}
        assert repr(w.context.orders) == "<Orders 0 waiting>"


@in_virtual_time
async def test_a_client_goes_while_an_order_waits() -> None:
    """It is void, with those of its other channels."""
    async with world(**KEPT) as w:
        session = await w.connected(sub="ann")
        async with leaving(w, session):
            await w.hub.subscribe_user("ann", "kept:a")
            await turn()
            assert repr(w.context.orders) == "<Orders 1 waiting>"
            assert session.client.channels == ["kept:a"]
            session.client.on_close(1006, "")
        await w.nothing_is_left()


@in_virtual_time
async def test_an_order_that_waited_is_one_too_many(caplog: pytest.LogCaptureFixture) -> None:
    """The client has reached its limit by itself meanwhile: it ends, and what waits behind is void."""
    async with world(client_channel_limit=2, **KEPT) as w:
        session = await w.connected(sub="ann")
        await session.ask(9, subscribe={"channel": "kept:b"})
        async with leaving(w, session) as confirmed:
            session.say(about(4, "unsubscribe", "kept:b"))
            for channel in ("kept:a", "kept:b"):
                await w.hub.subscribe_user("ann", channel)
            for number in (5, 6):
                await session.ask(number, subscribe={"channel": f"own{number}"})
            confirmed.set_result(None)
            await turn()
        assert session.closed is Disconnects.CHANNEL_LIMIT
        assert caplog.text.count("could not be subscribed to 'kept:a': channel limit") == 1
        assert "kept:b" not in caplog.text
        await w.nothing_is_left()
