"""Functions of typed channels in an application: who may, with which dependencies, and what clients are told."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from fastapi import Depends, Header, HTTPException, Path
from starlette.requests import HTTPConnection

from hub import Allow, Denied, Hub, User
from hub.testing import Cluster, ReplyError
from hub.tokens import sign
from tests.support.centrifuge import Client, connected
from tests.support.typed import Database, Me, Member, Message, authenticate, club, db, made
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually

SECRET = "a secret of at least thirty-two bytes"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    db.reset()


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Of the club."""
    async with serving(club()[1]) as (port, _):
        yield f"ws://127.0.0.1:{port}"


# Subscribing


@pytest.mark.parametrize(
    ("room", "error"),
    [
        ("denied", {"code": 103, "message": "not a member"}),
        ("no", {"code": 103, "message": "permission denied"}),
        ("absent", {"code": 404, "message": "no such room"}),
        ("busy", {"code": 503, "message": "Service Unavailable", "temporary": True}),
        ("policy", {"code": 103, "message": "read the rules first"}),
        ("a:b", {"code": 102, "message": "unknown channel"}),
    ],
)
async def test_refusals(url: str, room: str, error: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The client is told the sentence that the function raised, and the session is rolled back."""
    async with connected(url) as here:
        assert await here.ask("subscribe", channel=f"chat:{room}") == {"error": error}
    assert (db.open, db.rolled_back) == (0, int(room not in ("no", "a:b")))
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    ("room", "logged"), [("broken", "ZeroDivisionError"), ("odd", "it may return hub.Allow, a bool")]
)
async def test_faults(url: str, room: str, logged: str, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody thought of is in the log, and the client learns no more than that."""
    async with connected(url) as here:
        told = await here.ask("subscribe", channel=f"chat:{room}")
    assert told == {"error": {"code": 100, "message": "internal server error", "temporary": True}}
    assert logged in caplog.text
    assert db.open == 0


async def caught() -> AsyncIterator[None]:
    """A session that is closed in the wrong way."""
    try:
        yield
    except Exception:
        pass


@pytest.mark.parametrize("fault", [Denied("not a member"), ZeroDivisionError()])
async def test_an_exception_that_a_dependency_keeps(fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """It is no consent, wherever it was asked for."""
    hub, app = made()
    chat = hub.channel("chat:{room}", Message)

    async def refuse(room: str, session: Annotated[None, Depends(caught)]) -> None:
        raise fault

    chat.on_subscribe(refuse)
    chat.on_publish(refuse)
    async with Cluster(app, workers=1) as cluster:
        here = await cluster.client()
        for asked in (here.subscribe("chat:x"), here.publish("chat:x", {"text": "hi"})):
            with pytest.raises(ReplyError, match="100 internal server error"):
                await asked
        with pytest.raises(RuntimeError, match=r"a dependency of .* has caught an exception after its yield"):
            await cluster.connect("/ws/chat:x")
    assert "it must raise it again" in caplog.text


async def test_something_else_was_cancelled() -> None:
    """A function that waits for a task that somebody has cancelled has failed; the client does not wait for ever."""
    hub, app = made()
    hub.channel("chat:{room}", Message).on_subscribe(wait_for_nothing)
    async with Cluster(app, workers=1) as cluster:
        with pytest.raises(ReplyError, match="100 internal server error"):
            await (await cluster.client()).subscribe("chat:x")


async def wait_for_nothing(room: str) -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


async def test_a_client_goes_while_a_thread_is_at_work() -> None:
    """The session of a function in a thread stays open until that has done its work."""
    hub, app = made()
    goes_on, seen = threading.Event(), []

    def session() -> Iterator[str]:
        seen.append("open")
        try:
            yield "session"
        finally:
            seen.append("closed")

    def may_join(room: str, session: Annotated[str, Depends(session)]) -> bool:
        seen.append("begun")
        goes_on.wait(20)
        seen.append("done")
        return True

    hub.channel("chat:{room}", Message).on_subscribe(may_join)
    try:
        async with serving(app) as (port, _):
            async with connected(f"ws://127.0.0.1:{port}") as here:
                await here.send({"id": 2, "subscribe": {"channel": "chat:x"}})
                await eventually(lambda: seen == ["open", "begun"])
            await eventually(lambda: hub._admission.connections == 0)
            for _ in range(10):  # for what would close it now
                await asyncio.sleep(0.01)
            assert seen == ["open", "begun"]
            goes_on.set()
            await eventually(lambda: seen == ["open", "begun", "done", "closed"])
    finally:
        goes_on.set()


async def test_a_time_that_is_none() -> None:
    """A subscription that could not end is none."""
    hub, app = made()
    until = datetime.now(UTC)
    hub.channel("chat:{room}", Message).on_subscribe(lambda room: Allow(expire_at=until))  # type: ignore[arg-type]
    async with Cluster(app, workers=1) as cluster:
        here = await cluster.client()
        with pytest.raises(ReplyError, match="100 internal server error"):
            await here.subscribe("chat:x")
        assert hub.registry.subscriptions == 0


async def test_subscribers() -> None:
    """Functions get parameters, headers of the handshake, the user, a session; `Allow` tells the client something."""
    hub, app, seen = club()
    async with serving(app) as (port, _):
        url = f"ws://127.0.0.1:{port}"
        async with connected(url, token="ann", additional_headers={"x-who": "me"}) as ann, connected(url) as anonymous:
            assert (await ann.ask("subscribe", channel="chat:told"))["data"] == {"title": "told"}
            assert "error" not in await anonymous.ask("subscribe", channel="chat:yes")
            found = await hub.typed_channels[0](room="told").presence()
            assert [(info.user, info.chan_info) for info in found.values()] == [("ann", b'{"role":"guest"}')]
            assert (await hub.typed_channels[0](room="told").presence_stats()).num_users == 1
    member = Member(id="ann", groups=("staff",))
    assert seen[:2] == [("subscribe", "told", member, 1, "me"), ("subscribe", "yes", None, 1, "")]


async def test_none_leaves_it_to_the_options() -> None:
    """A function without objections does not let in whom the options keep out."""
    hub, app = made()
    hub.authenticate(authenticate)
    hub.channel("chat:{room}", Message, allow_subscribe_for_anonymous=False).on_subscribe(lambda room: None)
    async with serving(app) as (port, _):
        async with connected(f"ws://127.0.0.1:{port}") as here, connected(f"ws://127.0.0.1:{port}", token="ann") as ann:
            assert (await here.ask("subscribe", channel="chat:x"))["error"]["code"] == 103
            assert await ann.ask("subscribe", channel="chat:x") == {}


async def test_a_time_limit() -> None:
    """The server ends the subscription, and the client may ask again; it is not told to renew a token."""
    hub, app = made(client_expired_grace=0)
    hub.channel("chat:{room}", Message).on_subscribe(lambda room: Allow(expire_at=time.time() + 0.2))
    async with serving(app) as (port, _), connected(f"ws://127.0.0.1:{port}") as here:
        assert await here.ask("subscribe", channel="chat:x") == {}
        assert await here.push("chat:x", "unsubscribe") == {"code": 2501, "reason": "subscription expired"}
        assert await here.ask("subscribe", channel="chat:x") == {}


async def test_tokens_and_users_of_a_name() -> None:
    """A token is enough by itself; `#` keeps others out, and the function is asked for those whom it names."""
    hub, app, seen = club(token_hmac_secret_key=SECRET)
    hub.authority.hooks.authenticate = None
    ann = sign({"sub": "ann", "info": {"name": "Ann"}}, SECRET)
    async with serving(app) as (port, _), connected(f"ws://127.0.0.1:{port}", token=ann) as here:
        token = sign({"sub": "ann", "channel": "$chat:denied"}, SECRET)
        assert "error" not in await here.ask("subscribe", channel="$chat:denied", token=token)
        assert not seen
        assert (await here.ask("subscribe", channel="$chat:x"))["error"]["code"] == 103
        assert (await here.ask("subscribe", channel="chat:x#bob"))["error"]["code"] == 103
        assert not seen
        assert "error" not in await here.ask("subscribe", channel="chat:x#ann")
        assert seen == [("subscribe", "x#ann", User(id="ann", info={"name": "Ann"}), 1, "")]
        assert (await here.ask("publish", channel="$chat:denied", data={"text": "yes"})) == {}


async def test_dependency_overrides() -> None:
    """Those of the application, as for its routes."""
    _, app, seen = club()
    other = Database()
    app.dependency_overrides[db.session] = lambda: other
    app.dependency_overrides[Hub.user] = lambda: Member(id="eve")
    async with serving(app) as (port, _), connected(f"ws://127.0.0.1:{port}") as here:
        assert "error" not in await here.ask("subscribe", channel="chat:yes")
    assert seen[0] == ("subscribe", "yes", Member(id="eve"), 0, "")
    assert db.opened == 0


async def test_idle_connections_hold_no_session() -> None:
    """Two hundred subscribers have asked for a session each, and all are given back."""
    hub, app, _ = club()
    async with serving(app) as (port, _):
        opened = await asyncio.gather(*(Client.open(f"ws://127.0.0.1:{port}") for _ in range(200)))
        for here in opened:
            await here.command("connect")
            await here.command("subscribe", channel="chat:yes")
        await eventually(lambda: hub.registry.subscriptions == 200)
        assert (db.opened, db.open) == (200, 0)
        for here in opened:
            await here.leave()


# Publishing


async def test_publications() -> None:
    """By the model first, then by the function, which gets the message."""
    _, app, seen = club()
    async with serving(app) as (port, _), connected(f"ws://127.0.0.1:{port}", token="ann") as here:
        await here.ask("subscribe", channel="chat:x")
        seen.clear()
        for data, error in (
            ({"txt": "hi"}, {"code": 107, "message": "data: text: Field required"}),
            ([], {"code": 107, "message": "data: Input should be an object"}),
            ({"text": "no"}, {"code": 103, "message": "permission denied"}),
        ):
            assert await here.ask("publish", channel="chat:x", data=data) == {"error": error}
        assert seen == [("publish", "x", Message(text="no"), "ann", 1)]
        for text in ("yes", "other"):
            assert await here.ask("publish", channel="chat:x", data={"text": text}) == {}
        assert (await here.push("chat:x", "pub", 2))["data"] == {"text": "other"}
        assert "error" in await here.ask("publish", channel="chat:x:y", data={"text": "yes"})
    assert db.open == 0


async def test_publications_keep_their_order() -> None:
    """A function that takes longer for the first holds up the second."""
    _, app, _ = club()
    async with serving(app) as (port, _), connected(f"ws://127.0.0.1:{port}") as here:
        await here.ask("subscribe", channel="chat:x")
        for text in ("slow", "fast", "slow", "yes"):
            await here.command("publish", channel="chat:x", data={"text": text})
        await here.push("chat:x", "pub", 4)
        assert [each["data"]["text"] for each in here.pushes("chat:x", "pub")] == ["slow", "fast", "slow", "yes"]


async def test_without_a_function_nobody_publishes() -> None:
    """Unless the options allow it."""
    hub, app = made()
    hub.channel("news:{topic}", Message)
    hub.channel("talk:{topic}", Message, allow_publish_for_subscriber=True, allow_publish_for_anonymous=True)
    async with serving(app) as (port, _), connected(f"ws://127.0.0.1:{port}") as here:
        for channel in ("news:x", "talk:x"):
            assert "error" not in await here.ask("subscribe", channel=channel)
        assert (await here.ask("publish", channel="news:x", data={"text": "hi"}))["error"]["code"] == 103
        assert await here.ask("publish", channel="talk:x", data={"text": "hi"}) == {}
        told = await here.ask("publish", channel="talk:x", data={"text": 1})
        assert told == {"error": {"code": 107, "message": "data: text: Input should be a valid string"}}


async def test_the_hubs_functions_are_for_the_others() -> None:
    """A channel's own function is asked in place of the hub's; where it has none, the hub's is."""
    hub, app = made()
    asked: list[str] = []

    @hub.on_subscribe
    async def any_channel(client: Any, channel: str) -> bool:
        asked.append(channel)
        return False

    @hub.on_publish
    async def any_publication(client: Any, channel: str, data: Any) -> bool:
        asked.append(f"{channel} {data}")
        return False

    own = hub.channel("own:{x}", Message)
    own.on_subscribe(lambda: True)
    own.on_publish(lambda: True)
    hub.channel("bare:{x}", Message)
    async with serving(app) as (port, _), connected(f"ws://127.0.0.1:{port}") as here:
        for channel, refused in (("own:1", False), ("bare:1", True), ("other", True)):
            assert ("error" in await here.ask("subscribe", channel=channel)) is refused
            assert ("error" in await here.ask("publish", channel=channel, data={"text": "x"})) is refused
    assert asked == ["bare:1", "bare:1 {'text': 'x'}", "other", "other {'text': 'x'}"]


# The end


async def test_the_ends() -> None:
    """Who unsubscribes is told as such, and comes back only when that is done; who goes, as gone."""
    hub, app, seen = club()
    async with serving(app) as (port, _):
        async with connected(f"ws://127.0.0.1:{port}", token="ann") as here:
            await here.ask("subscribe", channel="chat:a")
            await here.ask("subscribe", channel="chat:b")
            seen.clear()
            await here.command("unsubscribe", channel="chat:a")
            await here.ask("subscribe", channel="chat:a")
            assert [each[:2] for each in seen] == [("left", "a"), ("subscribe", "a")]
            await hub.unsubscribe_user("ann", "chat:b")
            await here.push("chat:b", "unsubscribe")
            await eventually(lambda: seen[-1] == ("left", "b", 0))
            await here.ask("unsubscribe", channel="chat:other")
            here.abort()
            await here.closed()
        await eventually(lambda: seen[-1][0] == "gone")
    assert seen[-1] == ("gone", "a", "chat:a", 1006, "ann")
    assert [each[0] for each in seen] == ["left", "subscribe", "left", "gone"]


async def test_faults_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Are logged, and hold up nobody."""
    hub, app = made()
    chat = hub.channel("chat:{room}", Message)

    @chat.on_unsubscribe
    async def left(room: str) -> None:
        raise ZeroDivisionError

    async with serving(app) as (port, _), connected(f"ws://127.0.0.1:{port}") as here:
        await here.ask("subscribe", channel="chat:x")
        await here.command("unsubscribe", channel="chat:x")
        assert await here.ask("subscribe", channel="chat:x") == {}
    assert "unexpected fault in the application's on_unsubscribe" in caplog.text


async def test_another_token() -> None:
    """A refresh renews what is known of the user; one with another user's token changes nothing and ends it."""
    hub, app = made()
    groups = ["old"]
    seen: list[Any] = []

    @hub.authenticate
    async def who(connection: HTTPConnection, token: str | None) -> User:
        return Member(id=token or "", groups=tuple(groups), expire_at=time.time() + 100)

    chat = hub.channel("chat:{room}", Message)

    @chat.on_subscribe
    def may_join(me: Me) -> None:
        seen.append((me and me.id, me and me.groups))

    @chat.on_disconnect
    def gone(me: Me) -> None:
        seen.append(("gone", me and me.id))

    async with serving(app) as (port, _), connected(f"ws://127.0.0.1:{port}", token="ann") as here:
        await here.ask("subscribe", channel="chat:1")
        groups[0] = "new"
        await here.ask("subscribe", channel="chat:2")
        assert (await here.ask("refresh", token="ann"))["expires"]
        await here.ask("subscribe", channel="chat:3")
        assert seen == [("ann", ("old",)), ("ann", ("old",)), ("ann", ("new",))]
        await here.command("refresh", token="bob")
        assert (await here.closed())[0] == 3500
        await eventually(lambda: len(seen) == 6)
    assert seen[3:] == [("gone", "ann")] * 3


async def test_what_fastapi_cannot_validate() -> None:
    """A part of the name is an unknown channel, a header is a bad request; any status is a code."""
    hub, app = made()
    chat = hub.channel("chat:{room}", Message)

    def of_room(room: Annotated[str, Path(min_length=2)]) -> str:
        return room

    @chat.on_subscribe
    def may_join(found: Annotated[str, Depends(of_room)], x_who: Annotated[str, Header()]) -> None:
        raise HTTPException(499, {"no": "text"})  # type: ignore[arg-type]

    async with serving(app) as (port, _):
        url = f"ws://127.0.0.1:{port}"
        async with connected(url) as here:
            told = await here.ask("subscribe", channel="chat:a")
            assert told == {"error": {"code": 102, "message": "unknown channel"}}
            told = await here.ask("subscribe", channel="chat:ab")
            assert told == {"error": {"code": 107, "message": "header: x-who: Field required"}}
        async with connected(url, additional_headers={"x-who": "me"}) as here:
            assert await here.ask("subscribe", channel="chat:ab") == {"error": {"code": 499, "message": "refused"}}


async def test_other_channels_end_as_ever() -> None:
    """Nobody is told of their ends, or of those of typed channels without a function."""
    hub, app, seen = club()
    hub.channel("bare:{x}", Message)
    async with serving(app) as (port, _), connected(f"ws://127.0.0.1:{port}") as here:
        for channel in ("other", "bare:1"):
            await here.ask("subscribe", channel=channel)
            assert await here.ask("unsubscribe", channel=channel) == {}
            assert await here.ask("subscribe", channel=channel) == {}
    assert seen == []


async def test_a_client_without_a_request() -> None:
    """Whoever asks in the name of one that the hub does not know is told what is missing."""
    hub, _, _ = club()
    asker = object()
    rules = hub.typed_channels[0].rules
    assert rules.subscribe is not None
    with pytest.raises(RuntimeError, match=r"the request of <object .* is not known any more, and .*may_join is to be"):
        await rules.subscribe(asker, "chat:x")
