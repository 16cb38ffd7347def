"""hub.js in a real browser, with a server that is told what to say: the connection and its commands."""

# ruff: noqa: F811 - a fixture that is imported is named again where a test asks for it

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.browser import one_browser  # noqa: F401
from tests.support.fake_hub import FakeHub, Json, answer
from tests.support.hub_js import BUSY, EXPIRED, REFUSED, STREAM, Online, Script, fake, in_state, js, moved, online  # noqa: F401

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

# Connecting


async def test_all_that_waits_follows_connect(js: Script, fake: FakeHub) -> None:
    """Subscriptions and commands made before there was a connection, in this order, before its reply."""
    then = "hub.subscribe('x'); window.done = hub.publish('y', [1]); hub.subscribe('z')"
    await js.start("{token: 't', data: {a: 1}, name: 'test'}", then)
    connection = await fake.accept()
    commands = await connection.commands(4)
    assert fake.paths == ["/connection/websocket"]
    bodies = [{key: value for key, value in command.items() if key != "id"} for command in commands]
    assert bodies == [
        {"connect": {"token": "t", "data": {"a": 1}, "name": "test"}},
        {"subscribe": {"channel": "x"}},
        {"subscribe": {"channel": "z"}},
        {"publish": {"channel": "y", "data": [1]}},
    ]
    assert len({command["id"] for command in commands}) == 4
    await connection.send({"id": commands[0]["id"], "connect": {"client": "c1", "data": "hi"}}, answer(commands[3], {}))
    assert await js("done") == {}
    assert await js.events("connected") == [{"event": "connected", "client": "c1", "data": "hi"}]
    assert await js("[hub.state, hub.client]") == ["connected", "c1"]


async def test_ready(js: Script, fake: FakeHub) -> None:
    """`connect()` and `ready()` resolve when connected, and reject when that will not be."""
    await js("void (start(), window.first = hub.connect(), window.second = outcome(hub.ready()))")
    await (await fake.accept()).greet()
    await js("first")
    assert await js("second") == {}
    await js("void (hub.disconnect(), window.third = outcome(hub.connect()))")
    connection = await fake.accept()
    await connection.command()
    await connection.close(3500, "invalid token")
    assert (await js("third"))["code"] == 3


async def test_ready_before_connect(js: Script, fake: FakeHub) -> None:
    """Whoever waits before there is a connection gets it; what is asked for then fails at once."""
    await js("void (start(), window.sub = hub.subscribe('x'), window.both = [hub.ready(), sub.ready()])")
    assert [(await js(f"outcome({call})"))["code"] for call in ("hub.rpc('x')", "sub.publish(1)")] == [3, 3]
    await js("void hub.connect()")
    await (await fake.accept()).greet({})
    await js("Promise.all(both)")


async def test_a_handler_that_disconnects_at_once(js: Script) -> None:
    """`connect()` is told of that too."""
    await js("void (start(), hub.on('connecting', () => hub.disconnect()))")
    assert (await js("outcome(hub.connect())"))["code"] == 3


async def test_a_token_on_demand(js: Script, fake: FakeHub) -> None:
    """`getToken` is asked before connecting, again after a failure of its own, and again when the token has expired."""
    await js(
        "window.answers = [() => { throw Error('no net') }, async () => 'old', async () => 'new'], window.asked = 0"
    )
    await js.start("{getToken: () => answers[asked++]()}")
    assert (await js.event("error"))["error"]["code"] == 5
    first = await moved(js, 0.5, fake)
    command = await first.command()
    assert command["connect"]["token"] == "old"
    await first.send({"id": command["id"], **EXPIRED})
    second = await moved(js, 1, fake)
    commands = await second.greet()
    assert commands[0]["connect"]["token"] == "new"
    await js.event("connected")
    await second.close()
    third = await moved(js, 2, fake)
    commands = await third.greet()
    assert commands[0]["connect"]["token"] == "new", "a token that may be good is used again"


async def test_a_token_that_does_not_come(js: Script, fake: FakeHub) -> None:
    """A `getToken` that hangs is asked again after 10 s, for the connection as for a subscription."""
    await js("window.asked = {}, window.give = (what) => (asked[what] = (asked[what] ?? 0) + 1) > 1 && `t-${what}`")
    await js("window.getToken = async (channel = 'hub') => give(channel) || new Promise(() => {})")
    await js.start("{getToken}", "hub.subscribe('x', {getToken})")
    await js.pass_time(9.9)
    assert await js.events("error") == []
    await js.pass_time(0.1)
    assert (await js.event("error"))["error"]["message"] == "no token: timeout"
    connection = await moved(js, 0.5, fake)
    (command,) = await connection.greet()
    assert command["connect"]["token"] == "t-hub"
    await js.page.wait_for_function("asked.x === 1")
    await js.pass_time(10)
    assert (await js.event("error", 2))["channel"] == "x"
    await js.pass_time(0.5)
    assert (await connection.command())["subscribe"]["token"] == "t-x"


@pytest.mark.parametrize("given", ["getToken: () => null", "getToken: async () => ''"])
async def test_no_token_no_connection(js: Script, fake: FakeHub, given: str) -> None:
    """An empty token means that one may not connect."""
    await js.start(f"{{{given}}}")
    assert (await js.event("disconnected"))["reason"] == "unauthorized"
    await js.pass_time(60)
    assert fake.waiting == 0


@pytest.mark.parametrize(("error", "again"), [(REFUSED, False), (EXPIRED, False), (BUSY, True)])
async def test_a_refused_connect(js: Script, fake: FakeHub, error: Json, again: bool) -> None:
    """The same is tried again only if it may succeed; what was behind `connect` was not handled and goes with it."""
    await js.start("{token: 't'}", "window.sent = outcome(hub.publish('x', 1)); hub.subscribe('y')")
    connection = await fake.accept()
    commands = await connection.commands(3)
    await connection.send(answer(commands[0], error))
    if not again:
        assert (await js.event("disconnected"))["code"] == error["error"]["code"]
        assert (await js("sent"))["code"] == 3
        await js.pass_time(60)
        assert fake.waiting == 0
        return
    commands = await (await moved(js, 0.5, fake)).greet({}, {})
    assert [*commands[1], *commands[2]] == ["id", "subscribe", "id", "publish"]
    assert await js("sent") == {"value": {}}


# The end of a connection


@pytest.mark.parametrize("code", [3500, 3999, 4500, 4999])
async def test_a_terminal_close(js: Script, fake: FakeHub, online: Online, code: int) -> None:
    """These say that the same attempt would fare the same: nothing more happens until `connect()`."""
    connection = await online()
    await connection.close(code, "go away")
    assert await js.event("disconnected") == {"event": "disconnected", "code": code, "reason": "go away"}
    assert await js("[hub.state, hub.client, sub.state]") == ["disconnected", None, "subscribing"]
    await js("window.dispatchEvent(new Event('online'))")
    await js.pass_time(60)
    assert fake.waiting == 0
    assert (await js("outcome(hub.publish('x', 1))"))["code"] == 3
    await js("void hub.connect()")
    await (await fake.accept()).greet(STREAM)
    await js.event("subscribed", 2)


async def test_the_end_is_told_to_all_who_wait(js: Script, fake: FakeHub, online: Online) -> None:
    """For the connection or a subscription, and to all who ask for something then: at once, with the cause."""
    connection = await online()
    await connection.close(3001, "shutdown")
    await js.event("subscribing", 2)
    await js("void (window.all = () => Promise.all([hub, sub].map((each) => outcome(each.ready()))))")
    await js("void (window.waiting = all(), window.said = outcome(sub.publish(1)))")
    second = await moved(js, 0.5, fake)
    await second.close(3500, "go away")
    ended = {"code": 3, "message": "disconnected", "temporary": True, "cause": {"code": 3500, "reason": "go away"}}
    assert await js("waiting") == [ended, ended]
    assert await js("said") == ended
    assert await js("all()") == [ended, ended]
    for call in ("hub.publish('x', 1)", "sub.publish(1)", "sub.history()", "sub.presence()", "sub.presenceStats()"):
        assert await js(f"outcome({call})") == ended
    await js("void (hub.connect(), window.waiting = all())")
    await (await fake.accept()).greet(STREAM)
    assert await js("waiting") == [{}, {}]


@pytest.mark.parametrize("code", [1000, 1001, 1012, 3000, 3499, 4000, 4499])
async def test_other_closes_are_followed_by_a_new_attempt(js: Script, fake: FakeHub, online: Online, code: int) -> None:
    """With its subscriptions, after a delay that the event tells."""
    connection = await online()
    await connection.close(code, "")
    told = await js.event("connecting", 2)
    assert told == {"event": "connecting", "code": code, "reason": "connection lost", "attempt": 1, "delay": 500}
    assert (await js.events("subscribing"))[-1]["code"] == code
    second = await moved(js, 0.5, fake)
    await second.greet(STREAM)
    await js.event("subscribed", 2)


async def test_delays_double_and_a_stable_connection_resets_them(js: Script, fake: FakeHub) -> None:
    """At random up to 0.5 s, then twice that each time, at most 20 s; also if each attempt gets in."""
    await js.start()
    connection = await fake.accept()
    for delay in [0.5, 1, 2, 4, 8, 16, 20, 20]:
        await connection.greet()
        await in_state(js, "connected")
        await connection.close()
        await in_state(js, "connecting")
        connection = await moved(js, delay, fake)
    await connection.greet()
    await in_state(js, "connected")
    await js.pass_time(5)
    await connection.close()
    await in_state(js, "connecting")
    await moved(js, 0.5, fake)
    delays = [event["delay"] for event in await js.events("connecting") if event["delay"]]
    assert delays == [500, 1000, 2000, 4000, 8000, 16000, 20000, 20000, 500]


async def test_a_network_that_comes_back_ends_the_delay(js: Script, fake: FakeHub, online: Online) -> None:
    """So does `connect()`."""
    connection = await online()
    for trigger in ["dispatchEvent(new Event('online'))", "void hub.connect()"]:
        await connection.close()
        await in_state(js, "connecting")
        await js(trigger)
        connection = await fake.accept()
        await connection.greet(STREAM)
        await in_state(js, "connected")
        await js(trigger)
    assert fake.waiting == 0


async def test_disconnect(js: Script, fake: FakeHub, online: Online) -> None:
    """It closes the socket, tells what waits, and stays so."""
    connection = await online()
    await js("window.lost = outcome(hub.rpc('x')), hub.disconnect()")
    await asyncio.wait_for(connection.left.wait(), 5)
    assert (await js("lost"))["code"] in (2, 3)
    assert await js.events("disconnected") == [{"event": "disconnected", "code": 0, "reason": "disconnect called"}]
    await js.pass_time(60)
    assert fake.waiting == 0


async def test_state_invalidated(js: Script, fake: FakeHub) -> None:
    """3014 says that tokens and positions are worth nothing any more."""
    await js("window.asked = 0")
    get_token = "{getToken: (channel = 'hub') => channel + ++asked}"
    await js.start(get_token, f"hub.subscribe('x', {get_token})")
    connection = await fake.accept()
    await connection.greet()
    await connection.send(answer(await connection.command(), STREAM))
    await js.event("subscribed")
    await connection.close(3014, "state invalidated")
    await js.event("connecting", 2)
    second = await moved(js, 0.5, fake)
    (connect,) = await second.greet()
    assert connect["connect"]["token"] == "hub3"
    assert (await second.command())["subscribe"] == {"channel": "x", "token": "x4"}


# Pings


@pytest.mark.parametrize("pong", [True, False])
async def test_pings(js: Script, online: Online, pong: bool) -> None:
    """They are answered if the hub wants it."""
    connection = await online(ping=25, **({"pong": True} if pong else {}))
    await connection.send({})
    await connection.push("room", pub={"data": 1})
    await js.event("publication")
    await js("void hub.rpc('after')")
    command = await connection.command()
    if pong:
        assert command == {}
        command = await connection.command()
    assert [*command] == ["id", "rpc"]


async def test_a_silent_server_is_left(js: Script, fake: FakeHub, online: Online) -> None:
    """10 s after a ping was due; whatever comes counts as life."""
    connection = await online(ping=25, pong=True)
    await js.pass_time(30)
    await connection.push("room", pub={"data": 1})
    await js.event("publication")
    await js.pass_time(34.9)
    assert await js("hub.state") == "connected"
    await js.pass_time(0.2)
    assert (await js.events("connecting"))[-1]["reason"] == "no answer"
    await js.pass_time(0.5)
    await (await fake.accept()).greet(STREAM)
    await js.event("subscribed", 2)
    await js.pass_time(300)
    assert await js("hub.state") == "connected", "a hub that promised no pings sends none"


async def test_a_server_that_does_not_answer_connect_is_left(js: Script, fake: FakeHub) -> None:
    """After 10 s."""
    await js.start()
    await (await fake.accept()).command()
    await js.pass_time(10)
    await moved(js, 0.5, fake)


# Commands


async def test_commands(js: Script, online: Online) -> None:
    """Each as the protocol has it, and its result in this client's words."""
    connection = await online()
    stats = {"num_clients": 2, "num_users": 1}
    present = {"c1": {"user": "u", "client": "c1", "conn_info": {"n": 1}, "chan_info": 2}}
    table: list[tuple[str, Json, Json, Any]] = [
        ("sub.publish(null)", {"publish": {"channel": "room", "data": None}}, {}, {}),
        ("hub.publish('x', 0)", {"publish": {"channel": "x", "data": 0}}, {"offset": 3, "epoch": "e"}, None),
        ("sub.presenceStats()", {"presence_stats": {"channel": "room"}}, stats, {"clients": 2, "users": 1}),
        (
            "sub.presence()",
            {"presence": {"channel": "room"}},
            {"presence": present},
            {"c1": {"user": "u", "client": "c1", "connInfo": {"n": 1}, "chanInfo": 2}},
        ),
        (
            "sub.history()",
            {"history": {"channel": "room", "limit": -1}},
            {"publications": [{"data": 1, "offset": 1, "tags": {"a": "b"}}], "offset": 1, "epoch": "e"},
            {"publications": [{"data": 1, "offset": 1, "tags": {"a": "b"}}], "offset": 1, "epoch": "e"},
        ),
        (
            "hub.history('x', {limit: 2, reverse: true, since: {offset: 9, epoch: 'e'}})",
            {"history": {"channel": "x", "limit": 2, "reverse": True, "since": {"offset": 9, "epoch": "e"}}},
            {},
            {"publications": [], "offset": 0, "epoch": ""},
        ),
        ("hub.rpc('sum', [1, 2])", {"rpc": {"method": "sum", "data": [1, 2]}}, {"data": 3}, 3),
    ]
    for call, sent, result, value in table:
        await js(f"void (window.answer = {call})")
        command = await connection.command()
        assert {key: body for key, body in command.items() if key != "id"} == sent
        await connection.send(answer(command, result))
        assert await js("answer") == (result if value is None else value)


async def test_half_a_character(js: Script, online: Online) -> None:
    """What `slice` left of an emoji is no Unicode, and a hub ends the connection of who sends it: it is replaced."""
    connection = await online()
    cut = "'\\u{1f600}'.slice(0, 1)"
    await js(f"void hub.publish('x', {{a: [{cut} + '!', '\\u{{1f600}}', 1, null], b: {{c: {cut}}}}})")
    sent = (await connection.command())["publish"]["data"]
    assert sent == {"a": ["\ufffd!", "\U0001f600", 1, None], "b": {"c": "\ufffd"}}
    await js("void (delete String.prototype.toWellFormed, hub.publish('x', {a: [1, 'b']}))")
    assert (await connection.command())["publish"]["data"] == {"a": [1, "b"]}


async def test_a_message_to_this_connection_alone(js: Script, online: Online) -> None:
    """What the application sends outside of all channels is an event of the hub."""
    connection = await online()
    await connection.push("", message={"data": {"n": 1}})
    assert (await js.event("message"))["data"] == {"n": 1}


async def test_what_is_said_in_one_go(js: Script, online: Online) -> None:
    """Commands made one after the other without waiting leave in their order, each in a frame of its own."""
    connection = await online()
    await js("void (hub.publish('x', 1), hub.publish('x', 2), hub.rpc('y'))")
    assert [[*command][1] for command in await connection.commands(3)] == ["publish", "publish", "rpc"]


async def test_errors(js: Script, online: Online) -> None:
    """An error is a HubError with the hub's code, its text, and whether it may pass."""
    connection = await online()
    for error in (REFUSED, BUSY):
        await js("void (window.answer = outcome(hub.rpc('x')))")
        await connection.send(answer(await connection.command(), error))
        assert await js("answer") == {"temporary": False, **error["error"]}


async def test_a_command_that_is_lost(js: Script, fake: FakeHub, online: Online) -> None:
    """Nobody knows whether it was carried out, so it is not repeated; the cause is told. Later ones wait."""
    connection = await online()
    await js("void (window.lost = outcome(hub.publish('x', 1)))")
    await connection.command()
    await connection.close(1009, "message too big")
    assert await js("lost") == {
        "code": 2,
        "message": "connection lost",
        "temporary": True,
        "cause": {"code": 1009, "reason": "message too big"},
    }
    await js("void (window.later = outcome(hub.publish('x', 2)))")
    await js.pass_time(0.5)
    commands = await (await fake.accept()).greet(STREAM, {})
    assert commands[2]["publish"]["data"] == 2
    assert await js("later") == {"value": {}}


async def test_a_command_of_a_handler_that_hears_of_the_loss(js: Script, fake: FakeHub, online: Online) -> None:
    """It was not sent with the connection that is lost, so it waits for the next."""
    connection = await online()
    await js("void hub.on('subscribing', () => { window.said = outcome(hub.publish('x', 1)) })")
    await connection.close(3001, "shutdown")
    await js.event("subscribing", 2)
    await (await moved(js, 0.5, fake)).greet(STREAM, {})
    assert await js("said") == {"value": {}}


async def test_a_slow_command(js: Script, online: Online) -> None:
    """It alone fails after its time: the hub is asked what any hub answers at once, and the connection goes on."""
    connection = await online("{timeout: 5000}")
    await js("void (window.late = Promise.all([1, 2].map((n) => outcome(hub.rpc('slow', n)))))")
    await connection.commands(2)
    await js.pass_time(2)
    await js("void (window.other = hub.rpc('other'))")
    other = await connection.command()
    await js.pass_time(3)
    assert [each["code"] for each in await js("late")] == [1, 1]
    asked = await connection.command()
    assert asked["rpc"] == {"method": ""}
    await js.pass_time(1)
    await connection.send(answer(asked, REFUSED), answer(other, {"data": "in time"}))
    assert await js("other") == "in time"
    await js.pass_time(60)
    assert await js("hub.state") == "connected"
    assert len(connection.frames) == 6, "connect, subscribe, three calls, and one question for both"


async def test_a_dead_connection(js: Script, online: Online) -> None:
    """If the hub does not answer that question either, the connection counts as lost; each time it is asked anew."""
    connection = await online("{timeout: 5000}")
    for answered in (True, False):
        await js("void (window.late = outcome(hub.rpc('x')))")
        await connection.command()
        await js.pass_time(5)
        assert (await js("late"))["code"] == 1
        asked = await connection.command()
        if answered:
            await connection.send(answer(asked, REFUSED))
            await js.page.wait_for_function("hub._calls.pending.size === 0")
        await js.pass_time(4.9)
        assert await js("hub.state") == "connected"
    await js.pass_time(0.1)
    assert (await js.events("connecting"))[-1]["reason"] == "no answer"


async def test_commands_do_not_wait_for_ever(js: Script) -> None:
    """Neither for a connection; without any, they fail at once."""
    await js("start({timeout: 3000})")
    assert (await js("outcome(hub.publish('x', 1))"))["code"] == 3
    await js("void (hub.connect(), window.late = outcome(hub.publish('x', 1)))")
    await js("void (window.later = outcome(hub.subscribe('x').publish(1)), window.never = outcome(hub.ready(3000)))")
    await js.pass_time(3)
    assert [(await js(each))["code"] for each in ("late", "later", "never")] == [1, 1, 1]
    assert await js("hub._waiting.size + hub.subscription('x')._waiting.size") == 1, "connect() waits"
