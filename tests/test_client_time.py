"""What a protocol client owes in time, and what ends when its time is over."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
from starlette.requests import HTTPConnection

from hub import User
from hub.authority import Asker
from hub.client import BACKLOG
from hub.errors import Disconnect, Disconnects
from hub.tokens import sign
from tests.support.clock import EPOCH, in_virtual_time, unix_time  # noqa: F401
from tests.support.protocol_clients import SECRET, Gated, Json, Session, about, connect, world


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
async def test_a_pong_does_not_wait_for_the_commands_before_it() -> None:
    """It proves that the client is there; how long the application takes for another command does not matter."""
    async with world(ping_interval=20, ping_timeout=5) as w:

        @w.hub.on_publish
        async def slow(client: Asker, channel: str, data: object) -> bool:
            await asyncio.sleep(30)
            return True

        session = await w.connected()
        session.say(about(2, "publish", "a", data=1), about(3, "publish", "a", data=2))
        await answering(session, 65)
        assert session.closed is None
        assert session.answered == [1, 2, 3]
        session.say({})
        assert session.closed is Disconnects.BAD_REQUEST


@in_virtual_time
async def test_a_client_that_is_not_read_from_owes_no_pong() -> None:
    """Its reading is paused, so its pong cannot be heard; when reading goes on its time begins anew."""
    async with world(ping_interval=20, ping_timeout=5) as w:

        @w.hub.rpc("slow")
        async def slow(client: Asker, data: object) -> None:
            await asyncio.sleep(60)

        session = await w.connected()
        for number in range(BACKLOG):
            session.say({"id": number + 2, "rpc": {"method": "slow"}})
        assert not session.reading
        await asyncio.sleep(59)
        assert session.pings == 1
        assert session.closed is None
        await asyncio.sleep(8)
        assert session.reading
        assert session.closed is Disconnects.NO_PONG


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


@in_virtual_time
async def test_a_user_may_stay_for_ever() -> None:
    """`expire_at` is infinity, as it may be in raw rooms: with a token `connect` failed, and clients tried again."""
    async with world() as w:

        @w.hub.authenticate
        async def who(connection: HTTPConnection, token: str | None) -> User:
            return User(id="ann", expire_at=math.inf)

        session = w.open()
        assert (await session.ask(1, connect={"token": "one"}))["connect"]["ttl"] == 2**32 - 1
        await answering(session, 3600)
        assert (await session.ask(2, refresh={"token": "two"}))["refresh"]["ttl"] == 2**32 - 1
        assert session.closed is None


@in_virtual_time
async def test_a_login_without_a_token_is_not_refreshed() -> None:
    """A client that is told that its token expires, and has none, gives up; one that is closed with 3005 comes back."""
    async with world() as w:

        @w.hub.authenticate
        async def who(connection: HTTPConnection, token: str | None) -> User:
            return User(id="ann", expire_at=time.time() + 60)

        session = w.open()
        granted = (await session.ask(1, connect={}))["connect"]
        assert "expires" not in granted
        assert "ttl" not in granted
        await answering(session, 59)
        assert session.closed is None
        await answering(session, 27)
        assert session.closed is Disconnects.EXPIRED
