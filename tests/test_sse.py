"""`GET /sse/{channel}`: who gets a stream and who an HTTP status, on a real uvicorn."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection

from hub import Hub, Refused, Settings, User
from hub.errors import Disconnects, Error
from hub.http import HubHttpProtocol
from hub.log import RedactQuery
from hub.memory import MemoryBroker
from hub.namespaces import ChannelOptions
from hub.protocol.sse import SseForm
from hub.tokens import sign
from tests.support.protocol_clients import SECRET, Gated
from tests.support.sse import EventSource, Target, ask, listening, path_of, request, serving_hub
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually

OPEN = {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {sign(claims, SECRET)}"}


def sub_token(channel: str, user: str = "", **claims: Any) -> str:
    return sign({"sub": user, "channel": channel, **claims}, SECRET)


async def refused(port: Target, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, Any, EventSource]:
    """Status, error, and the answer."""
    source = await request(port, path, headers)
    assert source.headers["content-type"] == "application/json", source.status
    error = json.loads(await source.body())["error"]
    await source.close()
    return source.status, error, source


# Streams


async def test_a_stream() -> None:
    """What the answer is like, what the hub says first, and then what is published."""
    async with serving_hub() as (hub, port), listening(port, "kitchen") as source:
        assert source.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert source.headers["cache-control"] == "no-store"
        assert source.headers["x-accel-buffering"] == "no"
        greeting = await source.greeting()
        assert greeting == {"channel": "kitchen", "client": greeting["client"], "recoverable": False}
        assert source.parser.retry is not None
        assert 1000 <= source.parser.retry <= 4000
        await hub.publish("kitchen", "text\nin two lines")
        await hub.publish("kitchen", {"json": [1, 2]})
        assert await source.take(2) == ["text\nin two lines", '{"json":[1,2]}']
        await hub.publish("kitchen", b"\x00\x01")
        binary = await source.next()
        assert (binary.name, binary.data, binary.last_id) == ("binary", "AAE=", "")


@pytest.mark.parametrize("name", ["news/today", "ümläut and space", "a?b=c&d", "100%"])
async def test_any_channel_has_a_stream(name: str) -> None:
    """As it stands in the path, percent-encoded; slashes as they are, too."""
    async with serving_hub() as (hub, port), listening(port, name) as source:
        assert (await source.greeting())["channel"] == name
        await hub.publish(name, "x")
        assert await source.take(1) == ["x"]


async def test_behind_a_prefix_and_middleware() -> None:
    """Those that read along, that compress and that add headers leave a stream as it is; it ends as without them."""
    hub, app = Hub(Settings(drain=0), broker=MemoryBroker()), FastAPI()

    @app.middleware("http")
    async def passes(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["X-Passed"] = "yes"
        return response

    app.add_middleware(GZipMiddleware, minimum_size=1)
    app.include_router(hub.router, prefix="/rt")
    async with serving(app, http="httptools") as (port, _):
        gzip = {"Accept-Encoding": "gzip"}
        async with listening(port, "chat:x", gzip, prefix="/rt") as source:
            assert source.headers["x-passed"] == "yes"
            assert "content-encoding" not in source.headers
            await source.greeting()
            await hub.publish("chat:x", "hello")
            while (message := await source.next()).name != "message":
                pass
            assert message.data == "hello"
        await eventually(lambda: not hub._admission.connections)
        async with listening(port, "chat:x", gzip, prefix="/rt") as source:
            await source.greeting()
            (client,) = hub.clients
            client.end(Disconnects.FORCE_RECONNECT)
            assert (await source.end())[1] == {"code": 3011, "reason": "force reconnect", "reconnect": True}
            assert source.complete


async def test_streams_share_their_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event is made once for all streams of a channel."""
    made: list[str] = []
    publication = SseForm.publication
    monkeypatch.setattr(SseForm, "publication", lambda *args: made.append("x") or publication(*args))
    async with (
        serving_hub() as (hub, port),
        listening(port, "chat:x") as one,
        listening(port, "chat:x") as two,
        listening(port, "chat:x") as three,
    ):
        for source in (one, two, three):
            await source.greeting()
        await hub.publish("chat:x", "hello")
        for source in (one, two, three):
            while (message := await source.next()).name != "message":
                assert message.name == "join"
            assert message.data == "hello"
    assert made == ["x"]


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE"])
async def test_other_methods(method: str) -> None:
    """405, with the one that there is."""
    async with serving_hub() as (_, port):
        source = await request(port, path_of("x"), method=method)
        assert (source.status, source.headers["allow"]) == (405, "GET")
        await source.close()


# Who it is


async def test_without_a_token_where_one_is_wanted() -> None:
    """401, with a sentence that says how to send one; counted as a refusal."""
    async with serving_hub(token_hmac_secret_key=SECRET) as (hub, port):
        status, error, source = await refused(port, path_of("x"))
        assert (status, source.headers["www-authenticate"]) == (401, "Bearer")
        assert "Authorization: Bearer" in error["message"]
        assert sum(events.total for events in hub._admission.refused.values()) == 1
        assert hub._admission.connections == 0


@pytest.mark.parametrize("how", ["header", "query"])
async def test_a_connection_token(how: str) -> None:
    """Its user is that of the stream; what it says about itself is shown to others."""
    claims = {"sub": "42", "info": {"name": "Ann"}}
    async with serving_hub(token_hmac_secret_key=SECRET) as (hub, port):
        headers = bearer(**claims) if how == "header" else {}
        query = {} if how == "header" else {"token": sign(claims, SECRET)}
        async with listening(port, "chat:x", headers, **query) as source:
            client = (await source.greeting())["client"]
            await eventually(lambda: hub.broker.presence.entries)
            present = await hub.presence("chat:x")
            assert {key: (info.user, info.conn_info) for key, info in present.items()} == {
                client: ("42", b'{"name":"Ann"}')
            }


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("nonsense", 3500),
        (sign({"sub": "1"}, "another secret of thirty-two bytes"), 3500),
        (sign({"sub": "1", "exp": 1}, SECRET), 109),
    ],
)
async def test_a_token_that_is_not_valid(token: str, code: int) -> None:
    """401 with the hub's own code: an expired one is renewed, another one is not."""
    async with serving_hub(token_hmac_secret_key=SECRET) as (_, port):
        status, error, _ = await refused(port, path_of("x"), {"Authorization": f"Bearer {token}"})
        assert (status, error["code"]) == (401, code)


async def test_the_static_token() -> None:
    """`HUB_TOKEN` lets in here too."""
    async with serving_hub(token="s3cret") as (_, port):
        assert (await refused(port, path_of("x", token="guess")))[0] == 401
        async with listening(port, "x", token="s3cret") as source:
            await source.greeting()


async def test_the_authenticator() -> None:
    """It sees the request and the token, and says who it is, with what channels, and until when."""
    seen: list[str | None] = []

    async def who(connection: HTTPConnection, token: str | None) -> bool | User:
        seen.append(token)
        assert connection.url.path == "/sse/$mine"
        return token == "right" and User(id="7", channels=("$mine",))

    async with serving_hub() as (hub, port):
        hub.authenticate(who)
        async with listening(port, "$mine", token="right") as source:
            await source.greeting()
            assert [client.user for client in hub.clients] == ["7"]
        assert (await refused(port, path_of("$mine", token="wrong")))[0] == 401
        assert (await refused(port, path_of("$mine")))[0] == 401
    assert seen == ["right", "wrong", None]


async def test_the_channels_of_a_token_need_no_other() -> None:
    """What a connection token subscribes to is open for its stream; its personal channel too."""
    settings = {"token_hmac_secret_key": SECRET, "subscribe_to_user_personal_channel": True}
    async with serving_hub(**settings) as (_, port):
        for channel in ("$given", "#42"):
            async with listening(port, channel, bearer(sub="42", channels=["$given"])) as source:
                await source.greeting()
        assert (await refused(port, path_of("$other"), bearer(sub="42", channels=["$given"])))[0] == 403


# What it may


async def test_a_subscription_token() -> None:
    """It opens a private channel for its user, and brings data along; one of another user or channel does not."""
    async with serving_hub(token_hmac_secret_key=SECRET) as (_, port):
        token = sub_token("$doc", "42", b64data="eyJwYWdlIjozfQ==")
        async with listening(port, "$doc", bearer(sub="42"), sub_token=token) as source:
            assert (await source.greeting())["data"] == {"page": 3}
        assert (await refused(port, path_of("$doc", sub_token=token), bearer(sub="43")))[0] == 401
        assert (await refused(port, path_of("$else", sub_token=token), bearer(sub="42")))[0] == 401
        status, error, _ = await refused(port, path_of("$doc", sub_token=sub_token("$doc", exp=1)), bearer(sub=""))
        assert (status, error["code"]) == (401, 109)
        assert (await refused(port, path_of("$doc"), bearer(sub="42")))[0] == 403


@pytest.mark.parametrize(
    ("channel", "status", "code"),
    [
        ("unknown:x", 404, 102),
        ("$private", 403, 103),
        ("dialog#7,8", 403, 103),
        ("closed:x", 403, 103),
        ("a\nb", 400, 107),
        ("x" * 256, 400, 107),
        ("", 400, 107),
    ],
)
async def test_channels_that_are_not_for_everybody(channel: str, status: int, code: int) -> None:
    """As for protocol clients; the error is counted with theirs."""
    async with serving_hub(namespaces={"closed": ChannelOptions()}) as (hub, port):
        got, error, _ = await refused(port, path_of(channel))
        assert (got, error["code"]) == (status, code)
        assert " " in error["message"]
        assert hub._context.refusals == {code: 1}
        assert (hub.registry.channels, len(hub.clients), hub._admission.connections) == ({}, 0, 0)


async def test_a_channel_of_some_users() -> None:
    """`dialog#7,8` is for 7 and 8."""
    async with serving_hub(token_hmac_secret_key=SECRET) as (_, port):
        async with listening(port, "dialog#7,8", bearer(sub="8")) as source:
            await source.greeting()
        assert (await refused(port, path_of("dialog#7,8"), bearer(sub="9")))[0] == 403


async def test_the_application_decides(caplog: pytest.LogCaptureFixture) -> None:
    """`on_subscribe` is asked, with the stream as the client; its own errors are told in its words."""
    asked: list[tuple[bool, str]] = []

    async def may(client: Any, channel: str) -> bool | None:
        asked.append((bool(client.client_id), channel))
        if channel == "words":
            raise Refused(Error(code=1042, message="the cellar is flooded"))
        if channel == "fault":
            raise ZeroDivisionError
        return {"yes": True, "no": False}.get(channel)

    async with serving_hub() as (hub, port):
        hub.on_subscribe(may)
        for channel in ("yes", "whatever"):
            async with listening(port, channel) as source:
                await source.greeting()
        assert (await refused(port, path_of("no")))[0] == 403
        status, error, _ = await refused(port, path_of("words"))
        assert (status, error) == (403, {"code": 1042, "message": "the cellar is flooded"})
        with caplog.at_level(logging.ERROR, "hub"):
            status, error, _ = await refused(port, path_of("fault"))
        assert (status, error["message"]) == (500, "internal server error")
        assert "ZeroDivisionError" in caplog.text
        assert hub._admission.connections == 0
    assert asked == [(True, channel) for channel in ("yes", "whatever", "no", "words", "fault")]


# Origins


async def test_origins() -> None:
    """Pages of a foreign origin get nothing; those of HUB_ORIGINS may read, with their cookies."""
    async with serving_hub(origins="https://shop.example") as (hub, port):
        status, error, source = await refused(port, path_of("x"), {"Origin": "https://evil.example"})
        assert (status, error["code"]) == (403, 4403)
        assert "HUB_ORIGINS" in error["message"]
        assert "access-control-allow-origin" not in source.headers
        async with listening(port, "x", {"Origin": "https://shop.example"}) as source:
            assert source.headers["access-control-allow-origin"] == "https://shop.example"
            assert source.headers["access-control-allow-credentials"] == "true"
            assert source.headers["vary"] == "Origin"
        async with listening(port, "x", {"Origin": "http://hub.example"}) as source:
            assert "access-control-allow-origin" not in source.headers
        _, _, source = await refused(port, path_of("unknown:x"), {"Origin": "https://shop.example"})
        assert source.headers["access-control-allow-origin"] == "https://shop.example"  # else nobody could read why
        assert sum(events.total for events in hub._admission.refused.values()) == 1


async def test_every_origin() -> None:
    """`*` lets all pages read, but gives none of them the cookies."""
    async with serving_hub(origins="*") as (_, port):
        async with listening(port, "x", {"Origin": "https://any.example"}) as source:
            assert source.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in source.headers


async def test_a_preflight() -> None:
    """Asked before a request with `Authorization` from another origin: answered for those that may."""
    async with serving_hub(origins="https://shop.example") as (_, port):
        for origin, allowed in (("https://shop.example", True), ("https://evil.example", False)):
            asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
            source = await request(port, path_of("x"), asked, method="OPTIONS")
            assert source.status == 204
            assert "authorization" in source.headers["access-control-allow-headers"]
            assert ("access-control-allow-origin" in source.headers) is allowed
            await source.close()


# Limits


@pytest.mark.parametrize("http", [None, HubHttpProtocol, "h11"])
async def test_a_full_worker(http: Any) -> None:
    """503 with a time to come back, until somebody leaves."""
    async with serving_hub(max_connections=1, http=http) as (hub, port):
        async with listening(port, "x") as source:
            await source.greeting()
            status, error, answer = await refused(port, path_of("x"))
            assert (status, error["code"]) == (503, 1013)
            assert int(answer.headers["retry-after"]) > 0
        await eventually(lambda: hub._admission.connections == 0)
        async with listening(port, "x") as source:
            await source.greeting()
        assert hub._admission.refused[_refusal(hub)].total == 1


def _refusal(hub: Hub) -> Any:
    return next(disconnect for disconnect, events in hub._admission.refused.items() if events.total)


@pytest.mark.parametrize("http", [None, HubHttpProtocol])
async def test_too_many_at_once(http: Any) -> None:
    """`HUB_CONNECT_RATE`; on our own server one rate for streams and WebSockets together."""
    async with serving_hub(connect_rate=0.001, http=http) as (_, port):
        statuses = []
        for _ in range(12):
            source = await request(port, path_of("x"))
            statuses.append(source.status)
            await source.close()
        assert statuses == [200] * 10 + [503] * 2


async def test_the_room_is_asked_for_again_behind_the_authenticator() -> None:
    """Others may have come while it thought."""
    async with serving_hub(max_connections=1) as (hub, port):

        async def who(_: HTTPConnection, token: str | None) -> bool:
            if token == "first":
                async with listening(port, "x") as second:
                    await second.greeting()
                    sources.append(second)
                    hub._admission.enter("raw")
            return True

        sources: list[EventSource] = []
        hub.authenticate(who)
        status, _, _ = await refused(port, path_of("x", token="first"))
        assert status == 503
        hub._admission.leave("raw", 1000)


async def test_while_redis_is_away() -> None:
    """503, with the cause; nothing is left behind."""
    async with serving_hub(Gated(), subscribe_timeout=0.05) as (hub, port):
        status, error, source = await refused(port, path_of("x"))
        assert (status, source.headers["retry-after"]) == (503, "2")
        assert "Redis" in error["message"]
        assert (hub.registry.channels, len(hub.clients), hub._admission.connections) == ({}, 0, 0)


async def test_a_client_that_leaves_while_it_is_asked_about() -> None:
    """It is no client afterwards."""
    broker = Gated()
    async with serving_hub(broker) as (hub, port):
        source = await ask(port, path_of("x"))
        await eventually(lambda: hub._admission.connections)
        source.writer.close()
        broker.gate.set()
        await eventually(lambda: not hub._admission.connections)
        assert (hub.registry.channels, len(hub.clients)) == ({}, 0)


def test_tokens_do_not_get_into_logs() -> None:
    """uvicorn's access log has the whole address."""
    record = logging.LogRecord("", 0, "", 0, '"GET %s"', (path_of("x", token="s3cret", sub_token="s4cret"),), None)
    assert RedactQuery().filter(record)
    assert record.getMessage() == '"GET /sse/x?token=…&sub_token=…"'
