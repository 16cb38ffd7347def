"""hub.js in a real browser, with a server that is told what to say: subscriptions, positions and tokens."""

# ruff: noqa: F811 - a fixture that is imported is named again where a test asks for it

from __future__ import annotations

import asyncio

import pytest

from tests.support.browser import one_browser  # noqa: F401
from tests.support.fake_hub import FakeHub, Json, answer
from tests.support.hub_js import BUSY, EXPIRED, REFUSED, STREAM, Online, Script, fake, js, moved, online  # noqa: F401

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

# Subscriptions


async def test_what_a_subscription_asks_for(js: Script, fake: FakeHub) -> None:
    """Its options in the protocol's words, and no others."""
    options = "{token: 's', data: 1, positioned: true, recoverable: true, joinLeave: true, "
    options += "since: {offset: 0, epoch: ''}, filter: {key: 'a', cmp: 'eq', val: 'b'}}"
    await js.start("{}", f"hub.subscribe('x', {options})")
    _, command = await (await fake.accept()).commands(2)
    assert command["subscribe"] == {
        "channel": "x",
        "token": "s",
        "data": 1,
        "positioned": True,
        "recoverable": True,
        "join_leave": True,
        "recover": True,
        "offset": 0,
        "epoch": "",
        "tf": {"key": "a", "cmp": "eq", "val": "b"},
    }


async def test_publications_joins_and_leaves(js: Script, online: Online) -> None:
    """They are heard at the subscription and at the hub, until the handler is taken away."""
    connection = await online(result={})
    await js("window.heard = [], window.off = sub.on('publication', (each) => heard.push(each))")
    info = {"user": "u", "client": "c2", "conn_info": {"n": 1}}
    await connection.push("room", join={"info": info})
    await connection.push("room", pub={"data": {"a": None}, "info": info, "tags": {"t": "1"}})
    await connection.push("elsewhere", pub={"data": 1})
    await connection.send({"push": {"something": "new"}})
    await connection.push("room", leave={"info": info})
    await js.event("leave")
    who = {"user": "u", "client": "c2", "connInfo": {"n": 1}}
    assert (await js.events())[-3:] == [
        {"event": "join", "channel": "room", "info": who},
        {"event": "publication", "channel": "room", "data": {"a": None}, "info": who, "tags": {"t": "1"}},
        {"event": "leave", "channel": "room", "info": who},
    ]
    await js("off()")
    await connection.push("room", pub={"data": 2})
    await js.event("publication", 2)
    assert await js("heard.map(({data}) => data)") == [{"a": None}]


async def test_one_subscription_a_channel(js: Script, online: Online) -> None:
    """Asking again gives the same; a second one of its own is a mistake."""
    await online()
    assert await js("hub.subscribe('room') === sub && hub.subscription('room') === sub && sub.subscribe() === sub")
    await js("void (sub.unsubscribe(), window.other = hub.subscribe('room'))")
    assert await js("other !== sub && (() => { try { sub.subscribe() } catch { return true } })()")


@pytest.mark.parametrize("error", [BUSY, EXPIRED])
async def test_a_subscription_is_tried_again(js: Script, fake: FakeHub, error: Json) -> None:
    """After a delay, if that may help; with another token if this one has expired."""
    await js("window.asked = 0")
    await js.start("{}", "hub.subscribe('x', {token: 't0', getToken: (channel) => channel + ++asked})")
    connection = await fake.accept()
    await connection.greet(error)
    assert (await js.event("error"))["error"]["code"] == error["error"]["code"]
    await js.pass_time(0.4)
    assert len(connection.frames) == 2
    await js.pass_time(0.1)
    command = await connection.command()
    assert command["subscribe"]["token"] == ("x1" if error is EXPIRED else "t0")
    await connection.send(answer(command, {}))
    await js.event("subscribed")


@pytest.mark.parametrize("error", [REFUSED, EXPIRED])
async def test_a_subscription_is_refused(js: Script, fake: FakeHub, error: Json) -> None:
    """Where nothing helps, it ends; who waits for it is told, and the connection stays."""
    await js.start("{}", "window.sub = hub.subscribe('x', {token: 't'}); window.said = outcome(sub.publish(1))")
    connection = await fake.accept()
    await connection.greet(error)
    code = error["error"]["code"]
    assert (await js.event("unsubscribed"))["code"] == code
    assert (await js("said"))["code"] == code
    assert (await js("outcome(sub.publish(1))"))["code"] == 4
    assert await js("[hub.state, sub.state, hub.subscription('x') ?? null]") == ["connected", "unsubscribed", None]
    await js("void sub.subscribe()")
    assert [*await connection.command()] == ["id", "subscribe"]


async def test_a_subscription_token_is_refused(js: Script, fake: FakeHub) -> None:
    """A `getToken` that fails is asked again; an empty answer means that one may not subscribe."""
    await js("window.answers = [() => { throw Error('no net') }, () => '']")
    await js.start("{}", "hub.subscribe('x', {getToken: () => answers.shift()()})")
    await (await fake.accept()).greet()
    assert (await js.event("error"))["channel"] == "x"
    await js.pass_time(0.5)
    assert (await js.event("unsubscribed"))["reason"] == "unauthorized"


async def test_unsubscribe_and_subscribe_at_once(js: Script, online: Online) -> None:
    """Both go out; what was on its way for the first subscription is not taken for the second's."""
    connection = await online()
    await js("void (sub.unsubscribe(), sub.subscribe())")
    first, second = await connection.commands(2)
    assert [[*first][1], [*second][1]] == ["unsubscribe", "subscribe"]
    await connection.push("room", pub={"data": "late", "offset": 5})
    await connection.push("room", unsubscribe={"code": 2000, "reason": "late"})
    await connection.send(
        answer(first, {}), answer(second, {**STREAM, "publications": [{"data": "late", "offset": 5}]})
    )
    await js.event("subscribed", 2)
    assert [event["data"] for event in await js.events("publication")] == ["late"]
    assert await js("[sub.state, sub.position.offset]") == ["subscribed", 5]
    await js("void (sub.unsubscribe())")
    await connection.push("room", pub={"data": "later", "offset": 6})
    await connection.send(answer(await connection.command(), {}))
    await js.page.wait_for_function("hub._calls.pending.size === 0")
    assert len(await js.events("publication")) == 1


async def test_an_answer_to_an_earlier_subscribe(js: Script, fake: FakeHub) -> None:
    """A subscription that was given up before its answer is not revived by it."""
    await js.start("{}", "window.sub = hub.subscribe('x')")
    connection = await fake.accept()
    connect, first = await connection.commands(2)
    await js("void (sub.unsubscribe(), sub.subscribe())")
    unsubscribe, second = await connection.commands(2)
    await connection.send(answer(connect, {"client": "c"}), answer(first, {"data": 1}), answer(unsubscribe, {}))
    await js.event("connected")
    assert await js("sub.state") == "subscribing"
    await connection.send(answer(second, {"data": 2}))
    assert (await js.event("subscribed"))["data"] == 2


@pytest.mark.parametrize(("code", "again"), [(2000, False), (2499, False), (2500, True), (2502, True)])
async def test_the_hub_ends_a_subscription(js: Script, online: Online, code: int, again: bool) -> None:
    """For good below 2500; from there it is made again, from its position unless that is worth nothing (2502)."""
    connection = await online(sub="{token: 's'}")
    await connection.push("room", unsubscribe={"code": code, "reason": "because"})
    event = await js.event("subscribing", 2) if again else await js.event("unsubscribed")
    assert (event["code"], event["reason"]) == (code, "because")
    await js.pass_time(0.5)
    if not again:
        assert len(connection.frames) == 2
        return
    command = await connection.command()
    known = {"token": "s", "recover": True, "offset": 4, "epoch": "abcd"} if code == 2500 else {}
    assert command["subscribe"] == {"channel": "room", **known}


# Positions


async def test_it_goes_on_where_it_was(js: Script, fake: FakeHub, online: Online) -> None:
    """After an interruption what was missed comes first, once, and moves the position on."""
    connection = await online()
    await connection.push("room", pub={"data": "a", "offset": 5})
    await js.event("publication")
    await connection.close(3001, "shutdown")
    second = await moved(js, 0.5, fake)
    missed = [{"data": "b", "offset": 6}, {"data": "c", "offset": 7}]
    recovered = {**STREAM, "offset": 5, "recovered": True, "was_recovering": True, "publications": missed}
    commands = await second.greet(recovered)
    assert commands[1]["subscribe"] == {"channel": "room", "recover": True, "offset": 5, "epoch": "abcd"}
    event = await js.event("subscribed", 2)
    assert event["recovered"]
    assert event["wasRecovering"]
    assert event["publications"] == missed
    assert [each["event"] for each in (await js.events())[-3:]] == ["subscribed", "publication", "publication"]
    await second.push("room", pub={"data": "d", "offset": 8})
    await js.event("publication", 4)
    assert [each["data"] for each in await js.events("publication")] == ["a", "b", "c", "d"]
    assert await js("sub.position") == {"offset": 8, "epoch": "abcd"}


async def test_it_could_not_go_on(js: Script, fake: FakeHub, online: Online) -> None:
    """Told by `recovered: false`; the position is that of now."""
    connection = await online()
    await connection.close(3001, "shutdown")
    await (await moved(js, 0.5, fake)).greet({**STREAM, "offset": 90, "epoch": "new", "was_recovering": True})
    event = await js.event("subscribed", 2)
    assert (event["recovered"], event["wasRecovering"], event["publications"]) == (False, True, [])
    assert await js("sub.position") == {"offset": 90, "epoch": "new"}


async def test_the_epoch_of_a_first_publication(js: Script, fake: FakeHub, online: Online) -> None:
    """A channel that had no epoch yet tells it with its first publication."""
    connection = await online(result={"recoverable": True, "positioned": True})
    assert await js("sub.position") == {"offset": 0, "epoch": ""}
    await connection.push("room", pub={"data": "a", "offset": 1, "epoch": "new"})
    await js.event("publication")
    await connection.push("room", pub={"data": "b", "offset": 2})
    await js.event("publication", 2)
    assert await js("sub.position") == {"offset": 2, "epoch": "new"}


async def test_a_channel_without_a_history(js: Script, fake: FakeHub, online: Online) -> None:
    """Has no position, so nothing is to be recovered."""
    connection = await online(result={})
    await connection.push("room", pub={"data": "a"})
    await js.event("publication")
    assert await js("sub.position") is None
    await connection.close()
    await js.event("subscribing", 2)
    commands = await (await moved(js, 0.5, fake)).greet({})
    assert commands[1]["subscribe"] == {"channel": "room"}


async def test_the_position_survives_unsubscribe(js: Script, online: Online) -> None:
    """Whoever comes back to a channel gets what was said meanwhile."""
    connection = await online()
    await js("void (sub.unsubscribe())")
    await connection.send(answer(await connection.command(), {}))
    await js("void (sub.subscribe())")
    command = await connection.command()
    assert command["subscribe"] == {"channel": "room", "recover": True, "offset": 4, "epoch": "abcd"}


async def test_a_handler_that_leaves_in_the_middle(js: Script, fake: FakeHub) -> None:
    """What it did not hear of is not lost: the position is that of the last publication it heard."""
    await js.start("{}", "window.sub = hub.subscribe('x'); sub.on('publication', () => sub.unsubscribe())")
    connection = await fake.accept()
    await connection.greet({**STREAM, "publications": [{"data": n, "offset": n} for n in (5, 6, 7)]})
    await js.event("unsubscribed")
    assert [each["data"] for each in await js.events("publication")] == [5]
    assert await js("sub.position.offset") == 5


async def test_a_handler_that_fails(js: Script, online: Online) -> None:
    """Its fault is reported as uncaught; other handlers and later events are not harmed."""
    connection = await online()
    await js("void (sub.on('publication', () => { throw new Error('expected') }))")
    failed = asyncio.ensure_future(js.page.wait_for_event("pageerror"))
    await connection.send(*({"push": {"channel": "room", "pub": {"data": n, "offset": n}}} for n in (5, 6)))
    assert "expected" in str(await failed)
    await js.event("publication", 2)
    assert await js("sub.position.offset") == 6


async def test_a_handler_that_disconnects(js: Script, fake: FakeHub, online: Online) -> None:
    """Nothing of the same frame comes after it."""
    connection = await online()
    await js("void (hub.on('publication', () => hub.disconnect()))")
    await connection.send(*({"push": {"channel": "room", "pub": {"data": n, "offset": n}}} for n in (5, 6)))
    await js.event("disconnected")
    assert [each["data"] for each in await js.events("publication")] == [5]
    await asyncio.wait_for(connection.left.wait(), 5)


# Subscriptions by the server


async def test_server_side_subscriptions(js: Script, fake: FakeHub) -> None:
    """They come with `connect` or by a push, are recovered like others, and end when the server says so."""
    await js.start()
    connection = await fake.accept()
    await connection.greet(subs={"#42": {**STREAM, "publications": [{"data": "old", "offset": 5}]}, "news": {}})
    await js.event("publication")
    await connection.push("late", subscribe={"recoverable": True, "epoch": "e", "offset": 1})
    await connection.push("late", pub={"data": "new", "offset": 2})
    await js.event("publication", 2)
    assert [each["channel"] for each in await js.events("subscribed")] == ["#42", "news", "late"]
    await connection.push("news", unsubscribe={"code": 2000, "reason": "server unsubscribe"})
    assert (await js.event("unsubscribed"))["channel"] == "news"
    await connection.close()
    await js.event("connecting", 2)
    second = await moved(js, 0.5, fake)
    (connect,) = await second.greet(subs={"#42": {**STREAM, "offset": 5, "recovered": True, "was_recovering": True}})
    assert connect["connect"]["subs"] == {
        "#42": {"recover": True, "offset": 5, "epoch": "abcd"},
        "late": {"recover": True, "offset": 2, "epoch": "e"},
    }
    assert (await js.event("unsubscribed", 2))["channel"] == "late"
    assert (await js.event("subscribed", 4))["recovered"]
    await js("void (hub.subscription('#42').unsubscribe())")
    assert [*await second.command()] == ["id", "unsubscribe"]


async def test_the_server_is_faster(js: Script, fake: FakeHub) -> None:
    """It makes a subscription of the page's own that waits for its token, and does not the next time: the page does."""
    await js.start(
        "{}", "window.sub = hub.subscribe('x', {getToken: () => new Promise((done) => (window.give = done))})"
    )
    connection = await fake.accept()
    await connection.greet()
    await connection.push("x", subscribe=STREAM)
    await js.event("subscribed")
    await js("give('too late')")
    await connection.close(3001, "shutdown")
    second = await moved(js, 0.5, fake)
    await js("delete window.give")
    (connect,) = await second.greet()
    place = {"recover": True, "offset": 4, "epoch": "abcd"}
    assert connect["connect"]["subs"] == {"x": place}
    await js.page.wait_for_function("window.give !== undefined")
    await js("give('in time')")
    command = await second.command()
    assert command["subscribe"] == {"channel": "x", "token": "in time", **place}
    await second.send(answer(command, STREAM))
    await js.event("subscribed", 2)
    assert "unsubscribed" not in await js.names()


# Tokens that end


async def test_the_connection_token_is_refreshed(js: Script, fake: FakeHub) -> None:
    """When the hub said it would end; failures are tried again, and a refusal ends the connection."""
    await js("window.asked = 0")
    await js.start("{getToken: () => { if (++asked === 2) throw Error('no net'); return `t${asked}` }}")
    connection = await fake.accept()
    await connection.greet(expires=True, ttl=60)
    await js.event("connected")
    await js.pass_time(59)
    assert len(connection.frames) == 1
    await js.pass_time(1)
    assert (await js.event("error"))["error"]["message"] == "no token: no net"
    await js.pass_time(10)
    command = await connection.command()
    assert command["refresh"] == {"token": "t3"}
    await connection.send(answer(command, {"expires": True, "ttl": 30}))
    await js.page.wait_for_function("hub._calls.pending.size === 0")
    await js.pass_time(30)
    command = await connection.command()
    assert command["refresh"] == {"token": "t4"}
    await connection.send(answer(command, BUSY))
    await js.event("error", 2)
    await js.pass_time(10)
    command = await connection.command()
    await connection.send(answer(command, REFUSED))
    assert (await js.event("disconnected"))["code"] == 103


async def test_a_subscription_token_is_refreshed(js: Script, fake: FakeHub) -> None:
    """By its own `getToken`; when there is no other, the subscription ends and the hub is told."""
    await js("window.asked = 0")
    await js.start("{}", "hub.subscribe('x', {getToken: (channel) => ++asked < 3 ? channel + asked : null})")
    connection = await fake.accept()
    await connection.greet()
    command = await connection.command()
    assert command["subscribe"]["token"] == "x1"
    await connection.send(answer(command, {"expires": True, "ttl": 5}))
    await js.event("subscribed")
    await js.pass_time(5)
    command = await connection.command()
    assert command["sub_refresh"] == {"channel": "x", "token": "x2"}
    await connection.send(answer(command, {"expires": True, "ttl": 7}))
    await js.page.wait_for_function("hub._calls.pending.size === 0")
    await js.pass_time(7)
    assert (await js.event("unsubscribed"))["reason"] == "unauthorized"
    assert [*await connection.command()] == ["id", "unsubscribe"]


@pytest.mark.parametrize("kind", ["refresh", "sub_refresh"])
async def test_a_refresh_with_an_old_token(js: Script, fake: FakeHub, kind: str) -> None:
    """A server that keeps tokens may give one that has just ended: it is asked for another."""
    await js("window.asked = 0, window.options = {getToken: () => `t${++asked}`}")
    await js.start("options" if kind == "refresh" else "{}", "hub.subscribe('x', options)" if kind != "refresh" else "")
    connection, ends = await fake.accept(), {"expires": True, "ttl": 5}
    await connection.greet(**(ends if kind == "refresh" else {}))
    if kind == "sub_refresh":
        await connection.send(answer(await connection.command(), ends))
    await js.event("connected" if kind == "refresh" else "subscribed")
    await js.pass_time(5)
    command = await connection.command()
    assert command[kind]["token"] == "t2"
    await connection.send(answer(command, EXPIRED))
    assert (await js.event("error"))["error"]["code"] == 109
    await js.pass_time(10)
    command = await connection.command()
    assert command[kind]["token"] == "t3"
    await connection.send(answer(command, ends))
    await js.page.wait_for_function("hub._calls.pending.size === 0")
    assert not await js.events("disconnected", "unsubscribed")


async def test_a_token_that_nobody_can_renew(js: Script, online: Online) -> None:
    """Without `getToken` nothing is refreshed: the hub ends what has expired."""
    connection = await online("{token: 't'}", "{token: 's'}", {"expires": True, "ttl": 1}, expires=True, ttl=1)
    await js.pass_time(60)
    assert len(connection.frames) == 2
