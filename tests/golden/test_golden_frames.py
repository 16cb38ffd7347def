"""What a real Centrifuge server answers to a frame, row by row: what ends a connection, and what is replied.

Replies are compared whole: a field too many is a difference.
"""

from __future__ import annotations

import json
import time
import uuid
from unittest.mock import ANY

import pytest
import websockets

from tests.sdk.session import token
from tests.support.centrifuge import PATH, Client, Json, client, connected
from tests.support.server import HubProcess

from .words import CONNECT, DISCONNECTS, error, future, past

# What ends a connection


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param('{"id":1,"subscribe":{"channel":"c"}}', id="subscribe first"),
        pytest.param('{"id":1,"rpc":{}}', id="rpc first"),
        pytest.param('{"send":{"data":1}}', id="send first"),
        pytest.param("{}", id="pong first"),
        pytest.param('{"connect":{}}', id="connect without id"),
        pytest.param('{"id":0,"connect":{}}', id="connect with id 0"),
        pytest.param("", id="empty frame"),
        pytest.param("x", id="not JSON"),
        pytest.param("[]", id="an array"),
        pytest.param(f"[{CONNECT}]", id="an array of commands"),
        pytest.param(f"\n{CONNECT}", id="blank line before"),
        pytest.param(f"{CONNECT}\n\n", id="blank line after"),
        pytest.param(b"\xff", id="binary that is not UTF-8"),
        pytest.param('{"id":1,"connect":[]}', id="connect with an array"),
        pytest.param('{"id":1,"connect":{"token":7}}', id="a token that is a number"),
        pytest.param('{"id":"1","connect":{}}', id="an id that is a text"),
    ],
)
async def test_a_first_frame_that_ends_it(hub: HubProcess, frame: str | bytes) -> None:
    """Anything but `connect`, and anything that is not JSON lines, closes with 3501 and no reply."""
    async with client(hub.ws_url) as opened:
        await opened.send(frame)
        assert await opened.closed() == (3501, DISCONNECTS[3501])
        assert opened.received == []


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param('{"id":2,"connect":{}}', 3501, id="second connect"),
        pytest.param("{}", 3501, id="unasked pong"),
        pytest.param("", 3501, id="empty frame"),
        pytest.param("\n", 3501, id="nothing but a newline"),
        pytest.param("x", 3501, id="not JSON"),
        pytest.param("[]", 3501, id="an array"),
        pytest.param("null", 3501, id="null"),
        pytest.param('{"id":2}', 3501, id="no body"),
        pytest.param('{"id":2,"foo":{}}', 3501, id="unknown body"),
        pytest.param('{"id":2,"rpc":{}}\n\n{"id":3,"rpc":{}}', 3501, id="blank line between"),
        pytest.param('{"id":-1,"rpc":{}}', 3501, id="id -1"),
        pytest.param('{"id":4294967296,"rpc":{}}', 3501, id="id of 33 bits"),
        pytest.param('{"id":2,"ping":{}}', 3501, id="ping command"),
        pytest.param('{"rpc":{}}', 3501, id="rpc without id"),
        pytest.param('{"subscribe":{"channel":"c"}}', 3501, id="subscribe without id"),
        pytest.param('{"id":2,"subscribe":{}}', 3501, id="subscribe without channel"),
        pytest.param('{"id":2,"subscribe":{"channel":""}}', 3501, id="subscribe with empty channel"),
        pytest.param('{"id":2,"unsubscribe":{}}', 3501, id="unsubscribe without channel"),
        pytest.param('{"id":2,"publish":{"data":1}}', 3501, id="publish without channel"),
        pytest.param('{"id":2,"presence":{}}', 3501, id="presence without channel"),
        pytest.param('{"id":2,"presence_stats":{}}', 3501, id="presence_stats without channel"),
        pytest.param('{"id":2,"history":{}}', 3501, id="history without channel"),
        pytest.param('{"id":2,"sub_refresh":{"token":"t"}}', 3501, id="sub_refresh without channel"),
        pytest.param('{"id":2,"subscribe":{"channel":"c","delta":"foo"}}', 3501, id="unknown delta"),
        pytest.param('{"id":2,"refresh":{"token":""}}', 3501, id="refresh with empty token"),
        pytest.param('{"send":{"data":{"a":1}}}', 3508, id="send without handler"),
        pytest.param('{"id":2,"send":{"data":1}}', 3508, id="send with an id"),
    ],
)
async def test_a_later_frame_that_ends_it(ann: Client, frame: str, code: int) -> None:
    """The close code of each, with its reason, and no reply besides that to `connect`."""
    await ann.send(frame)
    assert await ann.closed() == (code, DISCONNECTS[code])
    assert [message["id"] for message in ann.received] in ([1], [1, 2])
    assert len(ann.received) == 1 or "\n" in frame


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param("garbage", id="no token"),
        pytest.param("a.b.c", id="three parts"),
        pytest.param(token(sub="42")[:-3] + "abc", id="wrong signature"),
        pytest.param("eyJhbGciOiJub25lIn0.eyJzdWIiOiI0MiJ9.", id="algorithm none"),
        pytest.param(token(sub="42", channel="c"), id="a subscription's token"),
        pytest.param(token(sub=42), id="a user that is a number"),
    ],
)
async def test_connecting_with_a_bad_token(hub: HubProcess, bad: str) -> None:
    """3500 invalid token."""
    async with client(hub.ws_url) as opened:
        await opened.command("connect", token=bad)
        assert await opened.closed() == (3500, DISCONNECTS[3500])


@pytest.mark.parametrize("claims", [{"sub": "42", "channel": "other"}, {"sub": "43"}, {"sub": ""}])
async def test_a_subscription_token_of_somebody_else(hub: HubProcess, channel: str, claims: Json) -> None:
    """For another channel or another user: 3500."""
    async with connected(hub.ws_url, token=token(sub="42")) as bob:
        await bob.command("subscribe", channel=channel, token=token(**{"channel": channel, **claims}))
        assert await bob.closed() == (3500, DISCONNECTS[3500])


async def test_refreshing_with_a_bad_token(hub: HubProcess) -> None:
    """3500; so does the token of another user."""
    for bad in ("garbage", token(sub="43", exp=future())):
        async with connected(hub.ws_url, token=token(sub="42", exp=future())) as bob:
            await bob.command("refresh", token=bad)
            assert await bob.closed() == (3500, DISCONNECTS[3500])


async def test_refreshing_unasked(hub: HubProcess) -> None:
    """A client that was not told to refresh may not, not even with a good token."""
    async with connected(hub.ws_url, token=token(sub="42")) as bob:
        await bob.command("refresh", token=token(sub="42", exp=future()))
        assert await bob.closed() == (3501, DISCONNECTS[3501])


@pytest.mark.timed
async def test_connecting_with_an_expired_token(hub: HubProcess) -> None:
    """Error 109, then a close within 5 s after which SDKs come back; a further command ends it at once."""
    expired = token(sub="42", exp=past())
    async with client(hub.ws_url) as opened, client(hub.ws_url) as hasty:
        assert await opened.ask("connect", token=expired) == error(109)
        start = time.monotonic()
        code, reason = await opened.closed(6)
        assert time.monotonic() - start < 5.5
        assert 3000 <= code < 3500
        assert reason
        await hasty.ask("connect", token=expired)
        await hasty.command("rpc")
        assert await hasty.closed() == (3501, DISCONNECTS[3501])


# Commands and their replies


@pytest.mark.parametrize(
    ("command", "fields", "expected"),
    [
        pytest.param("rpc", {"method": "m", "data": {}}, error(108), id="rpc without handler"),
        pytest.param("subscribe", {"channel": "unknown:x"}, error(102), id="subscribe to an unknown namespace"),
        pytest.param("subscribe", {"channel": "x" * 256}, error(107), id="a channel of 256 bytes"),
        pytest.param("subscribe", {"channel": "x", "token": "bad"}, error(103), id="bad subscription token"),
        pytest.param("unsubscribe", {"channel": "never"}, {}, id="unsubscribe without subscription"),
        pytest.param("sub_refresh", {"channel": "x", "token": "t"}, error(103), id="sub_refresh without subscription"),
        pytest.param("publish", {"channel": "unknown:x", "data": 1}, error(102), id="publish to an unknown namespace"),
        pytest.param("publish", {"channel": "x"}, error(107), id="publish nothing"),
        pytest.param("publish", {"channel": "x" * 256, "data": 1}, error(107), id="publish to a long channel"),
        pytest.param("presence", {"channel": "nobody"}, {"presence": {}}, id="presence of nobody"),
        pytest.param("presence_stats", {"channel": "nobody"}, {"num_clients": 0, "num_users": 0}, id="stats of nobody"),
        pytest.param("presence", {"channel": "recovery:x"}, error(108), id="presence that is off"),
        pytest.param("presence_stats", {"channel": "recovery:x"}, error(108), id="presence_stats that is off"),
        pytest.param("presence", {"channel": "unknown:x"}, error(102), id="presence of an unknown namespace"),
        pytest.param("history", {"channel": "unknown:x"}, error(102), id="history of an unknown namespace"),
        pytest.param("history", {"channel": "x", "reverse": True, "since": {"offset": 0, "epoch": ""}}, error(107),
                     id="history backwards from 0"),
        pytest.param("history", {"channel": "x", "since": {"offset": 0, "epoch": "foreign"}}, error(112),
                     id="history of a foreign epoch"),
        pytest.param("history", {"channel": "empty"}, {"publications": [], "epoch": ANY, "offset": 0},
                     id="history that is empty"),
        *(pytest.param("subscribe", {"channel": "x", "type": kind}, error(108), id=f"subscription type {kind}")
          for kind in (1, 2, 3, 4)),
    ],
)  # fmt: skip
async def test_a_reply(ann: Client, command: str, fields: Json, expected: Json) -> None:
    """The whole reply, and the connection stays."""
    number = await ann.command(command, **fields)
    body = expected if "error" in expected else {command: expected}
    assert await ann.reply(number) == {"id": number, **body}
    assert await ann.ask("unsubscribe", channel="any") == {}


async def test_an_expired_subscription_token(hub: HubProcess, channel: str) -> None:
    """Error 109, upon which SDKs fetch another; the connection stays."""
    async with connected(hub.ws_url, token=token(sub="42")) as bob:
        expired = token(sub="42", channel=channel, exp=past())
        assert await bob.ask("subscribe", channel=channel, token=expired) == error(109)
        fresh = token(sub="42", channel=channel, exp=future())
        result = await bob.ask("subscribe", channel=channel, token=fresh)
        assert (result["expires"], result["ttl"]) == (True, pytest.approx(60, abs=2))


async def test_the_reply_to_connect(hub: HubProcess) -> None:
    """Exactly these fields; with a token that expires, two more."""
    async with client(hub.ws_url) as opened:
        await opened.send(CONNECT)
        reply = await opened.reply(1)
        assert reply == {"id": 1, "connect": {"client": ANY, "version": ANY, "ping": 25, "pong": True}}
        assert str(uuid.UUID(reply["connect"]["client"])) == reply["connect"]["client"]
        assert reply["connect"]["version"]
    async with client(hub.ws_url) as opened:
        result = await opened.ask("connect", token=token(sub="", exp=future()))
        assert result.pop("ttl") in (59, 60)
        assert result == {"client": ANY, "version": ANY, "ping": 25, "pong": True, "expires": True}


async def test_connect_and_subscribe_in_one_frame(hub: HubProcess, channel: str) -> None:
    """Two replies in order, then the client's own join."""
    subscribe = f'{{"id":2,"subscribe":{{"channel":"{channel}"}}}}'
    async with client(hub.ws_url) as opened:
        await opened.send(f"{CONNECT}\n{subscribe}")
        connect = await opened.receive()
        assert connect == {"id": 1, "connect": {"client": ANY, "version": ANY, "ping": 25, "pong": True}}
        reply = await opened.receive()
        assert reply == {"id": 2, "subscribe": {"recoverable": True, "epoch": ANY, "positioned": True}}
        assert reply["subscribe"]["epoch"]
        info = {"user": "", "client": connect["connect"]["client"]}
        assert await opened.receive() == {"push": {"channel": channel, "join": {"info": info}}}


async def test_a_frame_of_many_commands(ann: Client, channel: str) -> None:
    """Each is answered, in order, though some of them wait for Redis and others do not."""
    commands: list[Json] = [
        {"id": 10, "subscribe": {"channel": channel}},
        {"id": 11, "publish": {"channel": channel, "data": 1}},
        {"id": 12, "history": {"channel": channel, "limit": -1}},
        {"id": 13, "rpc": {}},
        {"id": 14, "unsubscribe": {"channel": channel}},
        {"id": 15, "presence": {"channel": channel}},
    ]
    await ann.send("\n".join(map(json.dumps, commands)))
    replies = [await ann.reply(command["id"]) for command in commands]
    assert [list(reply)[-1] for reply in replies] == [
        "subscribe", "publish", "history", "error", "unsubscribe", "presence"
    ]  # fmt: skip
    assert [publication["offset"] for publication in replies[2]["history"]["publications"]] == [1]
    assert replies[5]["presence"] == {"presence": {}}


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(f"{CONNECT}\n", id="trailing newline"),
        pytest.param(CONNECT.encode(), id="binary frame"),
        pytest.param(f"{CONNECT}\n".encode(), id="both"),
        pytest.param('{"id":1,"connect":{"foo":[],"name":"js","headers":{"a":"b"}},"bar":2}', id="unknown fields"),
        pytest.param(' {"id" : 1 , "connect" : { } } ', id="spaces"),
    ],
)
async def test_a_frame_that_is_accepted(hub: HubProcess, frame: str | bytes) -> None:
    """JSON is JSON."""
    async with client(hub.ws_url) as opened:
        await opened.send(frame)
        assert (await opened.reply(1))["connect"]["client"]


async def test_subprotocols(hub: HubProcess) -> None:
    """`centrifuge-json` is chosen; where only an unknown one is offered, none is, and JSON spoken."""
    for offered, chosen in ((["foo", "centrifuge-json"], "centrifuge-json"), (["foo"], None)):
        async with websockets.connect(hub.ws_url + PATH, subprotocols=offered, proxy=None) as socket:
            assert socket.subprotocol == chosen
            await socket.send(CONNECT)
            assert json.loads(await socket.recv())["connect"]["client"]


def test_a_request_without_upgrade(hub: HubProcess) -> None:
    """Some HTTP status, not a reset connection: the Python SDK's tests look whether a server is there."""
    assert 400 <= hub.status(PATH) < 500
