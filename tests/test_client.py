"""A protocol client: its commands in order, its deadlines, and that nothing is left of it, whenever it goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from hub import User
from hub.authority import Asker
from hub.client import BACKLOG, LINGER
from hub.errors import BrokerUnavailable, Disconnect, Disconnects
from hub.memory import MemoryBroker
from hub.namespaces import ChannelOptions
from hub.protocol.session import State
from hub.tokens import sign
from tests.support.clock import VirtualLoop, in_virtual_time
from tests.support.protocol_clients import SECRET, Json, Session, about, connect, world

# Of the first second in virtual time.
EPOCH = 1_800_000_000


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unix time goes with the loop's; no settings from outside."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    real = time.time

    def now() -> float:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return real()
        return EPOCH + loop.time() - 1000 if isinstance(loop, VirtualLoop) else real()

    monkeypatch.setattr(time, "time", now)


class Gated(MemoryBroker):
    """Confirms subscriptions while its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def _confirm(self) -> None:
        await self.gate.wait()

    def subscribe(self, channel: str) -> Any:
        super().subscribe(channel)
        return self._confirm()


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
        assert len(session.client._running) == BACKLOG


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


# Faults


@in_virtual_time
async def test_nothing_is_handled_after_the_end() -> None:
    """Also where the connection tells of its end later: a frame whose first command is bad does nothing."""
    async with world(client_insecure=True) as w:
        session = w.open(at_once=False)
        session.say(connect())
        await asyncio.sleep(0.1)
        watcher = await w.connected()
        await watcher.ask(2, subscribe={"channel": "a"})
        session.say({"id": 2, "ping": {}}, about(3, "publish", "a", data=1))
        await asyncio.sleep(0.1)
        assert session.closed is Disconnects.BAD_REQUEST
        assert watcher.pushes("pub") == []
        assert session.client.state is State.OPEN
        for one in (session, watcher):
            one.client.on_close(1000, "")
        await w.nothing_is_left()


@in_virtual_time
async def test_a_refused_connect_leaves_the_client_to_read_why() -> None:
    """Error 109, nothing of what was sent with it is answered or done, and the end comes after a while."""
    async with world() as w:
        session = w.open()
        session.say(connect(sign({"sub": "1", "exp": 1}, SECRET)), about(2, "subscribe", "a"))
        await asyncio.sleep(0.1)
        assert session.received == [{"id": 1, "error": {"code": 109, "message": "token expired"}}]
        assert session.closed is None
        await asyncio.sleep(LINGER + 0.5)
        assert session.closed is Disconnects.CONNECTION_CLOSED
        again = w.open()
        again.say(connect(sign({"sub": "1", "exp": 1}, SECRET)))
        await asyncio.sleep(0.1)
        again.say(about(2, "subscribe", "a"))
        assert again.closed is Disconnects.BAD_REQUEST
        await w.nothing_is_left()


@in_virtual_time
async def test_a_refused_connect_is_in_no_channel() -> None:
    """If one server-side subscription cannot be made, the others end at once, not when the connection does."""
    async with world() as w:
        session = w.open()
        session.say(connect(sign({"sub": "1", "channels": ["chat:a", "unknown:b"]}, SECRET)))
        await asyncio.sleep(0.1)
        assert session.received == [{"id": 1, "error": {"code": 102, "message": "unknown channel"}}]
        assert session.client.state is State.REFUSED
        assert w.hub.registry.channels == {}
        assert len(w.hub.clients) == 0
        assert await w.hub.broker.presence.stats("chat:a") == (0, 0)
        session.client.on_close(1006, "")
        await w.nothing_is_left()


@in_virtual_time
async def test_a_fault_of_the_hub_answers_its_command_only(caplog: pytest.LogCaptureFixture) -> None:
    """Redis away, and whatever an application raises, is error 100; the connection stays."""

    class Away(MemoryBroker):
        def subscribe(self, channel: str) -> Any:
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            failed.set_exception(BrokerUnavailable("away"))
            return failed

        def publish(self, channel: str, payload: bytes) -> asyncio.Future[Any]:
            failed: asyncio.Future[None] = self.subscribe(channel)
            return failed

    async with world(Away(), client_insecure=True) as w:

        @w.hub.rpc("broken")
        async def broken(client: Asker, data: Any) -> None:
            raise ZeroDivisionError

        session = await w.connected()
        session.say(
            about(2, "subscribe", "a"), about(3, "publish", "a", data=1), {"id": 4, "rpc": {"method": "broken"}}
        )
        await asyncio.sleep(1)
        internal = {"code": 100, "message": "internal server error", "temporary": True}
        assert sorted(session.answered) == [1, 2, 3, 4]
        assert [session.replies(number)[0]["error"] for number in (2, 3, 4)] == [internal] * 3
        assert "ZeroDivisionError" in caplog.text
        assert session.closed is None
        assert w.hub.registry.channels == {}


@pytest.mark.parametrize("frame", [b"", b"x", b"[]", b'{"id":1}', b'{"id":2,"subscribe":{}}', b"\xff"])
@in_virtual_time
async def test_frames_that_are_no_commands(frame: bytes) -> None:
    """3501, also for those who have connected."""
    async with world() as w:
        session = await w.connected()
        session.client.on_message(frame, False)
        await asyncio.sleep(0.1)
        assert session.closed is Disconnects.BAD_REQUEST
        await w.nothing_is_left()


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"type": 1}, 108),
        ({"tf": {"op": "", "key": "a", "cmp": "eq", "val": "1"}}, 107),
        ({"channel": "filtered:a", "tf": {"op": "junk"}}, 107),
        ({"delta": "other"}, 3501),
    ],
)
@in_virtual_time
async def test_wishes_that_cannot_be_granted(wish: Json, code: int) -> None:
    """What the hub does not have, or the namespace does not allow."""
    filtered = ChannelOptions(allow_tags_filter=True, allow_subscribe_for_client=True)
    async with world(namespaces={"filtered": filtered}) as w:
        session = await w.connected(sub="1")
        session.say({"id": 2, "subscribe": {"channel": "a", **wish}})
        await asyncio.sleep(0.1)
        refused = [message["error"]["code"] for message in session.replies(2)]
        assert refused == ([code] if code < 1000 else [])
        assert (session.closed.code if session.closed else 0) == (0 if code < 1000 else code)
        assert w.hub.registry.channels == {}


@pytest.mark.parametrize("command", [{"refresh": {}}, {"refresh": {"token": "junk"}}, {"send": {"data": 1}}])
@in_virtual_time
async def test_commands_that_end_the_connection(command: Json) -> None:
    """A refresh with nothing or junk, and a message that nobody is there to take."""
    async with world() as w:
        session = await w.connected(sub="1")
        session.say({"id": 2, **command})
        await asyncio.sleep(0.1)
        assert session.closed is not None
        assert session.closed.code in (3500, 3501, 3508)
        await w.nothing_is_left()


@in_virtual_time
async def test_answers_that_come_after_the_end() -> None:
    """Redis takes a publication, or does not, when its client has gone: nobody is told, nothing is logged."""
    answers: list[asyncio.Future[Any]] = []

    class Late(MemoryBroker):
        def publish(self, channel: str, payload: bytes) -> asyncio.Future[Any]:
            answers.append(asyncio.get_running_loop().create_future())
            return answers[-1]

    async with world(Late(), client_insecure=True) as w:
        session = await w.connected()
        session.say(*(about(number, "publish", "a", data=1) for number in (2, 3, 4)))
        answers[0].set_result(None)
        await asyncio.sleep(0.1)
        session.close(Disconnects.SLOW)
        answers[1].set_result(None)
        answers[2].set_exception(BrokerUnavailable("away"))
        await asyncio.sleep(0.1)
        assert session.answered == [1, 2]
        assert w.hub.unsent.total == 0
        await w.nothing_is_left()


# Time


@in_virtual_time
async def test_a_client_that_does_not_connect_is_stale() -> None:
    """3502 after `client_stale_timeout`, though `connect` may be under way."""
    async with world(client_stale_timeout=7) as w:

        @w.hub.authenticate
        async def never(connection: HTTPConnection, token: str | None) -> bool:
            await asyncio.sleep(1000)
            return True

        silent, slow = w.open(), w.open()
        slow.say(connect())
        await asyncio.sleep(6.5)
        assert silent.closed is slow.closed is None
        await asyncio.sleep(1)
        assert silent.closed is slow.closed is Disconnects.STALE
        await w.nothing_is_left()


@in_virtual_time
async def test_the_first_ping_comes_at_a_random_point() -> None:
    """In the second half of the interval, not at the same time for all, so that a thousand do not answer at once."""
    async with world(ping_interval=20, ping_timeout=5) as w:
        sessions = [w.open() for _ in range(200)]
        for session in sessions:
            session.say(connect())
        await asyncio.sleep(9.5)
        assert sum(session.pings for session in sessions) == 0
        await asyncio.sleep(5)
        early = sum(session.pings for session in sessions)
        assert 50 < early < 150
        for session in sessions:
            if session.pings:
                session.say({})
        await asyncio.sleep(6)
        assert all(session.pings == 1 for session in sessions)


async def until_ping(session: Session, number: int) -> float:
    while session.pings < number:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_pings_that_are_answered_go_on() -> None:
    """One an interval; other traffic is no answer, and an answer to no ping is a bad request."""
    async with world(ping_interval=20, ping_timeout=5) as w:
        session = await w.connected()
        before = await until_ping(session, 1)
        session.say({})
        for number in range(2, 5):
            at = await until_ping(session, number)
            assert at - before == pytest.approx(20, abs=0.3)
            before = at
            await asyncio.sleep(4)
            session.say({})
        session.say({})
        assert session.closed is Disconnects.BAD_REQUEST
        await w.nothing_is_left()


@in_virtual_time
async def test_no_pong() -> None:
    """3012 after `ping_timeout`, though commands keep flowing."""
    async with world(ping_interval=20, ping_timeout=5) as w:
        session = await w.connected()
        at = await until_ping(session, 1)
        while session.closed is None:
            await session.ask(int(asyncio.get_running_loop().time() * 1000), unsubscribe={"channel": "a"})
            await asyncio.sleep(0.1)
        assert session.closed is Disconnects.NO_PONG
        assert asyncio.get_running_loop().time() - at == pytest.approx(5, abs=0.4)
        await w.nothing_is_left()


async def answering(session: Session, seconds: float) -> None:
    """Time passes for a client that answers its pings."""
    end = asyncio.get_running_loop().time() + seconds
    answered = session.pings
    while asyncio.get_running_loop().time() < end and session.closed is None:
        if session.pings > answered:
            answered = session.pings
            session.say({})
        await asyncio.sleep(0.1)


@in_virtual_time
async def test_a_connection_expires_unless_it_is_refreshed() -> None:
    """The reply to `connect` says when; 25 s after that it ends with 3005, and a refresh puts that off."""
    async with world() as w:
        one, two = [await w.connected(sub="1", exp=EPOCH + 60) for _ in range(2)]
        assert one.replies(1)[0]["connect"]["expires"] is True
        assert one.replies(1)[0]["connect"]["ttl"] == 60
        await asyncio.gather(answering(one, 80), answering(two, 80))
        assert one.closed is None
        reply = await two.ask(2, refresh={"token": sign({"sub": "1", "exp": EPOCH + 600}, SECRET)})
        assert reply["refresh"] == {"expires": True, "ttl": 520}
        await asyncio.gather(answering(one, 6), answering(two, 6))
        assert one.closed is Disconnects.EXPIRED
        assert two.closed is None
        reply = await two.ask(3, refresh={"token": sign({"sub": "1"}, SECRET)})
        assert reply["refresh"] == {}
        await answering(two, 1000)
        assert two.closed is None


@pytest.mark.parametrize(
    ("connected", "claims", "closed"),
    [
        ({"sub": "1", "exp": EPOCH + 60}, {"sub": "2", "exp": EPOCH + 60}, Disconnects.INVALID_TOKEN),
        ({"sub": "1", "exp": EPOCH + 60}, {"sub": "1", "exp": EPOCH - 1}, Disconnects.EXPIRED),
        ({"sub": "1", "exp": EPOCH + 60}, {"sub": "1", "channels": ["a"]}, Disconnects.INSUFFICIENT_STATE),
        ({"sub": "1"}, {"sub": "1", "exp": EPOCH + 60}, Disconnects.BAD_REQUEST),
    ],
)
@in_virtual_time
async def test_refreshes_that_end_the_connection(connected: Json, claims: Json, closed: Disconnect) -> None:
    """Of another user, with an old token, with other channels, and unasked."""
    async with world() as w:
        session = await w.connected(**connected)
        session.say({"id": 2, "refresh": {"token": sign(claims, SECRET)}})
        await asyncio.sleep(0.1)
        assert session.closed is closed
        await w.nothing_is_left()


@in_virtual_time
async def test_a_subscription_expires_unless_it_is_refreshed() -> None:
    """25 s after its token the client is unsubscribed with 2501 and stays connected."""
    async with world() as w:
        session = await w.connected(sub="1")
        for number, channel in ((2, "$a"), (3, "$b")):
            token = sign({"sub": "1", "channel": channel, "exp": EPOCH + 60}, SECRET)
            reply = await session.ask(number, subscribe={"channel": channel, "token": token})
            assert (reply["subscribe"]["expires"], reply["subscribe"]["ttl"]) == (True, 60)
        await answering(session, 80)
        token = sign({"sub": "1", "channel": "$b", "exp": EPOCH + 600}, SECRET)
        reply = await session.ask(4, sub_refresh={"channel": "$b", "token": token})
        assert (reply["sub_refresh"]["expires"], reply["sub_refresh"]["ttl"]) == (True, 520)
        assert session.client.is_subscribed("$a")
        await answering(session, 6)
        assert session.pushes("unsubscribe") == [{"code": 2501, "reason": "subscription expired"}]
        assert (session.client.is_subscribed("$a"), session.client.is_subscribed("$b")) == (False, True)
        assert set(w.hub.registry.channels) == {"$b"}
        refused = await session.ask(5, sub_refresh={"channel": "$a", "token": token})
        assert refused["error"]["code"] == 103
        old = sign({"sub": "1", "channel": "$a", "exp": EPOCH + 500, "expire_at": EPOCH}, SECRET)
        refused = await session.ask(6, subscribe={"channel": "$a", "token": old})
        assert refused["error"]["code"] == 110


@in_virtual_time
async def test_a_server_side_subscription_expires_with_its_connection() -> None:
    """3006: the client cannot make another one by itself."""
    async with world() as w:
        session = await w.connected(sub="1")
        await w.hub.subscribe_user("1", "a", expire_at=EPOCH + 60)
        await answering(session, 84)
        assert session.closed is None
        await answering(session, 2)
        assert session.closed is Disconnects.SUBSCRIPTION_EXPIRED
        await w.nothing_is_left()


@in_virtual_time
async def test_a_refresh_by_the_server_does_not_disturb_a_connect() -> None:
    """The application may refresh a user whose connection is just being made."""
    broker = Gated()
    async with world(broker) as w:
        session = w.open()
        session.say(connect(sign({"sub": "1", "channels": ["a"]}, SECRET)))
        await asyncio.sleep(1)
        await w.hub.refresh_user("1", expire_at=EPOCH + 100)
        await asyncio.sleep(1)
        assert session.closed is None
        broker.gate.set()
        await asyncio.sleep(1)
        assert session.answered == [1]
        assert session.pushes("refresh") == [{"expires": True, "ttl": 99}]
        await answering(session, 130)
        assert session.closed is Disconnects.EXPIRED


@in_virtual_time
async def test_the_applications_own_tokens_are_refreshed_by_it() -> None:
    """The authenticator is asked again, with the request of the handshake."""
    async with world() as w:
        seen: list[str | None] = []

        @w.hub.authenticate
        async def who(connection: HTTPConnection, token: str | None) -> User | None:
            assert connection.url.path == "/"
            seen.append(token)
            return User(id="ann", expire_at=time.time() + 60) if token in ("one", "two") else None

        session = w.open()
        await session.ask(1, connect={"token": "one"})
        await answering(session, 70)
        assert (await session.ask(2, refresh={"token": "two"}))["refresh"]["ttl"] == 60
        await answering(session, 70)
        session.say({"id": 3, "refresh": {"token": "three"}})
        await asyncio.sleep(0.1)
        assert session.closed is Disconnects.INVALID_TOKEN
        assert seen == ["one", "two", "three"]


# Server and client at the same time


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


# The end


def hang_up(session: Session) -> None:
    session.client.on_close(1006, "")


SCRIPT = [
    connect(sign({"sub": "1", "channels": ["chat:s", "t"], "exp": EPOCH + 60}, SECRET)),
    about(2, "subscribe", "chat:a"),
    about(3, "subscribe", "b"),
    about(4, "publish", "chat:a", data=1),
    about(5, "presence", "chat:a"),
    about(6, "unsubscribe", "chat:a"),
    about(7, "subscribe", "chat:a"),
    about(8, "history", "chat:a", limit=-1),
    {"id": 9, "rpc": {"method": "slow"}},
    about(10, "unsubscribe", "b"),
]


class Slow(MemoryBroker):
    """Everything that has an answer takes a moment."""

    def subscribe(self, channel: str) -> Any:
        super().subscribe(channel)
        return asyncio.sleep(0.05)

    def read_history(self, *arguments: Any, **options: Any) -> Any:
        page = super().read_history(*arguments, **options)

        async def later() -> Any:
            await asyncio.sleep(0.03)
            return await page

        return asyncio.ensure_future(later())


@pytest.mark.parametrize("end", [hang_up, lambda session: session.close(Disconnects.SLOW)])
@pytest.mark.parametrize("step", range(0, 40))
@in_virtual_time
async def test_the_end_at_any_moment_leaves_nothing(step: int, end: Callable[[Session], None]) -> None:
    """Whatever is under way when the connection ends: no entry, no subscription, no deadline, no task stays."""
    async with world(Slow()) as w:
        ended: list[int] = []

        @w.hub.rpc("slow")
        async def slow(client: Asker, data: Any) -> None:
            await asyncio.sleep(0.05)

        @w.hub.on_disconnect
        async def disconnected(client: Asker, code: int, reason: str) -> None:
            ended.append(code)

        session = w.open()
        session.say(*SCRIPT)
        await asyncio.sleep(0.011 * step)
        was_open = session.client.state is State.OPEN
        await w.hub.subscribe_user("1", "chat:z")
        await asyncio.sleep(0)
        end(session)
        said = len(session.received)
        hang_up(session)
        await asyncio.sleep(0.5)
        await w.nothing_is_left()
        assert len(session.received) == said
        assert len(ended) == was_open


@in_virtual_time
async def test_the_end_before_anything_could_begin() -> None:
    """A close right behind the commands, in the same turn: what was never begun is not missed."""
    async with world() as w:
        session = w.open()
        session.say(connect())
        hang_up(session)
        await w.nothing_is_left()
        session = await w.connected()
        session.say(about(2, "subscribe", "chat:a"), about(3, "subscribe", "b"))
        hang_up(session)
        await w.nothing_is_left()


@in_virtual_time
async def test_a_broken_on_disconnect(caplog: pytest.LogCaptureFixture) -> None:
    """Its fault is logged, also one of its signature, and everything is released."""
    async with world() as w:
        for function in (lambda client, code, reason: None, lambda: None):
            w.hub.on_disconnect(function)  # type: ignore[type-var]
            hang_up(await w.connected())
            await w.nothing_is_left()
        assert caplog.text.count("unexpected fault in the application's on_disconnect") == 2


@in_virtual_time
async def test_what_an_operator_sees() -> None:
    """Who it is, and how far it has come."""
    async with world(namespaces={"n": ChannelOptions()}) as w:
        session = await w.connected(sub="ann")
        assert repr(session.client) == f"<Client {session.client.client_id} of 'ann' open 0 subscriptions>"
