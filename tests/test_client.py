"""A protocol client: its commands are answered in order, and it gets no more than its share."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import HTTPConnection

from hub import User
from hub.authority import Asker
from hub.client import BACKLOG, COMMANDS_PER_TURN
from hub.errors import Disconnects
from hub.memory import MemoryBroker
from hub.namespaces import ChannelOptions
from hub.protocol.session import State
from hub.tokens import sign
from tests.support.clock import in_virtual_time, unix_time  # noqa: F401
from tests.support.protocol_clients import SECRET, Gated, about, connect, world


class Silent(MemoryBroker):
    """Never says that a publication was taken."""

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[Any]:
        super().publish(channel, payload)
        return asyncio.get_running_loop().create_future()


# Order


@in_virtual_time
async def test_connect_holds_up_everything_behind_it() -> None:
    """Commands sent with `connect`, or while it is being answered, are answered after it and in order."""
    async with world() as w:
        asked = asyncio.Event()

        @w.hub.authenticate
        async def slowly(connection: HTTPConnection, token: str | None) -> User:
            await asked.wait()
            return User(id="ann")

        session = w.open()
        session.say(connect(), about(2, "subscribe", "a"))
        session.say(about(3, "publish", "a", data=1))
        await asyncio.sleep(1)
        assert session.received == []
        assert session.client.state is State.CONNECTING
        asked.set()
        await asyncio.sleep(1)
        assert session.answered == [1, 2, 3]
        assert [publication["data"] for publication in session.pushes("pub")] == [1]
        assert session.pushes("pub")[0]["info"]["user"] == "ann"


@in_virtual_time
async def test_a_subscription_in_flight_holds_up_its_channel() -> None:
    """Unsubscribe, another subscribe and a publication wait for it; what comes before them does not."""
    broker = Gated()
    async with world(broker) as w:
        session = await w.connected()
        session.say(about(2, "subscribe", "a"), {"id": 3, "rpc": {}}, about(4, "subscribe", "a"))
        session.say(about(5, "unsubscribe", "a"), about(6, "subscribe", "a"), about(7, "publish", "a", data=1))
        await asyncio.sleep(1)
        assert session.answered == [1, 3]
        broker.gate.set()
        await asyncio.sleep(1)
        assert session.answered == [1, 3, 2, 4, 5, 6, 7]
        assert session.replies(4)[0]["error"] == {"code": 105, "message": "already subscribed"}
        assert session.client.is_subscribed("a")
        assert len(session.pushes("pub")) == 1


@in_virtual_time
async def test_subscribe_and_unsubscribe_in_pairs() -> None:
    """Ten pairs in one frame leave nothing; with one more subscribe, exactly one client is there."""
    async with world() as w:
        session = await w.connected()
        pairs = [about(n, "subscribe" if n % 2 else "unsubscribe", "chat:a") for n in range(11, 31)]
        session.say(*pairs, about(31, "presence_stats", "chat:a"))
        session.say(about(32, "subscribe", "chat:a"), about(33, "presence_stats", "chat:a"))
        await asyncio.sleep(1)
        assert session.answered == [1, *range(11, 34)]
        assert session.replies(33)[0]["presence_stats"] == {"num_clients": 1, "num_users": 1}
        assert session.replies(31)[0]["error"]["code"] == 103


@in_virtual_time
async def test_join_comes_before_leave_and_after_the_reply() -> None:
    """A client hears its own join, others its join and leave, in this order."""
    async with world() as w:
        watcher, session = await w.connected(sub="w"), await w.connected(sub="s")
        await watcher.ask(2, subscribe={"channel": "chat:a"})
        session.say(about(2, "subscribe", "chat:a"), about(3, "unsubscribe", "chat:a"))
        await asyncio.sleep(1)
        told = [message["push"] for message in watcher.received if "push" in message]
        kinds = [kind for push in told for kind in push if kind != "channel" and push[kind]["info"]["user"] == "s"]
        assert kinds == ["join", "leave"]
        await session.ask(4, subscribe={"channel": "chat:b"})
        await asyncio.sleep(0.01)
        last = session.received[-2:]
        assert last[0]["id"] == 4
        assert last[1]["push"]["join"]["info"]["user"] == "s"


@in_virtual_time
async def test_publications_keep_their_order_while_the_application_is_asked() -> None:
    """An answer about the first that takes longer does not let the second overtake it."""
    async with world() as w:

        @w.hub.on_publish
        async def ask(client: Asker, channel: str, data: Any) -> bool | None:
            await asyncio.sleep(1 / data)
            return data != 2

        session = await w.connected()
        await session.ask(2, subscribe={"channel": "a"})
        session.say(*(about(10 + n, "publish", "a", data=n) for n in (1, 2, 3)))
        await asyncio.sleep(5)
        assert [publication["data"] for publication in session.pushes("pub")] == [1, 3]
        assert session.answered == [1, 2, 11, 12, 13]
        assert session.replies(12)[0]["error"]["code"] == 103


# Limits


@in_virtual_time
async def test_the_backlog_pauses_reading() -> None:
    """Commands that wait, or whose reply waits for Redis, are limited; reading goes on once there is room."""
    broker = Gated()
    async with world(broker) as w:
        session = await w.connected()
        session.say(about(2, "subscribe", "a"))
        session.say(*(about(n, "unsubscribe", "a") for n in range(3, BACKLOG + 1)))
        assert session.reading
        session.say(about(BACKLOG + 1, "unsubscribe", "a"))
        assert not session.reading
        broker.gate.set()
        await asyncio.sleep(1)
        assert session.reading
        assert session.answered == list(range(1, BACKLOG + 2))
    async with world(Silent(), client_insecure=True) as w:
        session = await w.connected()
        for number in range(BACKLOG + 5):
            session.say(about(2 + number, "publish", "a", data=1))
        assert not session.reading
        assert session.client._waiting == BACKLOG


@in_virtual_time
async def test_a_frame_of_many_commands_is_handled_in_turns() -> None:
    """Others have theirs in between; order and number stay, and what comes meanwhile waits."""
    async with world() as w:
        session = await w.connected()
        session.say(*(about(n, "unsubscribe", "a") for n in range(2, 2 + 3 * COMMANDS_PER_TURN)))
        last = session.answered[-1]
        assert last == 1 + COMMANDS_PER_TURN
        session.say(about(last + 3 * COMMANDS_PER_TURN, "unsubscribe", "a"))
        assert session.answered[-1] == last
        await asyncio.sleep(0)
        assert session.answered[-1] == last + COMMANDS_PER_TURN
        await asyncio.sleep(1)
        assert session.answered == [*range(1, 2 + 3 * COMMANDS_PER_TURN), last + 3 * COMMANDS_PER_TURN]


@in_virtual_time
async def test_a_client_that_says_too_much() -> None:
    """Over the rate it is closed with 3013, and what it had said in that frame is not handled."""
    async with world(message_rate=1, message_burst=3) as w:
        session = await w.connected()
        session.say(*(about(n, "publish", "a", data=1) for n in (2, 3)))
        assert session.closed is None
        session.say(about(4, "publish", "a", data=1))
        assert session.closed is Disconnects.TOO_MANY_REQUESTS
        await w.nothing_is_left()


@in_virtual_time
async def test_the_channel_limit() -> None:
    """Subscriptions in flight count."""
    async with world(client_channel_limit=2) as w:
        session = await w.connected()
        session.say(*(about(n, "subscribe", f"c{n}") for n in (2, 3, 4)))
        await asyncio.sleep(0.1)
        assert [message["id"] for message in session.received if "error" in message] == [4]
        assert session.replies(4)[0]["error"]["code"] == 106
        greedy = w.open()
        greedy.say(connect(sign({"sub": "1", "channels": ["a", "b", "c"]}, SECRET)))
        await asyncio.sleep(0.1)
        assert greedy.closed is Disconnects.CHANNEL_LIMIT


@in_virtual_time
async def test_what_an_operator_sees() -> None:
    """Who it is, and how far it has come."""
    async with world(namespaces={"n": ChannelOptions()}) as w:
        session = await w.connected(sub="ann")
        assert repr(session.client) == f"<Client {session.client.client_id} of 'ann' open 0 subscriptions>"
