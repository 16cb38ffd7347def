"""The server API: what each method asks of the hub and answers, who may call, and how a refusal looks."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from hub import api_models
from hub.api import api_router
from hub.config import Settings
from hub.control import HubNode
from hub.errors import (
    BrokerUnavailable,
    Disconnect,
    Disconnects,
    Error,
    Errors,
    InvalidChannel,
    MessageTooBig,
    Refused,
)
from hub.tokens import Override
from hub.types import ClientInfo, DataKind, PresenceStats, Publication, PublishResult, StreamPosition
from tests.support.api_core import Page, RecordingCore

KEY = {"X-API-Key": "key"}
TRANSPORT = KEY | {"X-Centrifugo-Error-Mode": "transport"}
METHODS = [
    "publish",
    "broadcast",
    "subscribe",
    "unsubscribe",
    "disconnect",
    "refresh",
    "presence",
    "presence_stats",
    "history",
    "history_remove",
    "channels",
    "info",
    "batch",
]
PUBLISHED: dict[str, Any] = {
    "idempotency_key": "",
    "version": 0,
    "version_epoch": "",
    "tags": None,
    "skip_history": False,
    "delta": False,
    "known": True,
}


def application(core: RecordingCore, **settings: Any) -> FastAPI:
    app = FastAPI()
    app.include_router(api_router(cast(HubNode, core), Settings(**{"api_key": ("key", "other"), **settings})))
    return app


@pytest.fixture
def core() -> RecordingCore:
    return RecordingCore()


@pytest.fixture
def client(core: RecordingCore) -> Iterator[TestClient]:
    with TestClient(application(core)) as client:
        yield client


def call(client: TestClient, method: str, headers: dict[str, str] | None = None, /, **fields: Any) -> Any:
    """The answer's body; its status must be 200."""
    answer = client.post(f"/api/{method}", json=fields, headers=headers or KEY)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    return answer.json()


# Methods


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        (b'"text"', b'"text"'),
        (b'""', b'""'),
        (b"null", b"null"),
        (b"{}", b"{}"),
        (b'{ "n" : [ 1.50,\n 123456789012345678901234567890, "\\u00e9  x" ] }', None),
    ],
)
def test_publish_hands_the_data_on(client: TestClient, core: RecordingCore, data: bytes, taken: bytes | None) -> None:
    """As the bytes that they are: no digit changes, and only the white space between is gone."""
    body = b'{"channel": "room", "data": ' + data + b"}"
    assert client.post("/api/publish", content=body, headers=KEY).json() == {"result": {}}
    expected = taken or b'{"n":[1.50,123456789012345678901234567890,"\\u00e9  x"]}'
    assert core.last == ("publish", ("room", expected), PUBLISHED)


def test_half_an_emoji(client: TestClient, core: RecordingCore) -> None:
    """Python's `json.dumps("nice \\ud83d")` is JSON too; what is published is whole, so that every reader takes it."""
    body = json.dumps({"channel": "room\udc00", "data": {"t": "nice \ud83d", "😀": "\\ud83d"}}).encode()
    assert client.post("/api/publish", content=body, headers=KEY).json() == {"result": {}}
    data = rb'{"t":"nice \ufffd","\ud83d\ude00":"\\ud83d"}'
    assert core.last == ("publish", ("room\ufffd", data), PUBLISHED)


def test_half_an_emoji_in_base64(client: TestClient, core: RecordingCore) -> None:
    """JSON of a subscription in its other form; bytes of a publication stay the bytes that they are."""
    encoded = base64.b64encode(rb'"nice \ud83d"').decode()
    call(client, "subscribe", user="42", channel="room", b64info=encoded, b64data=encoded)
    assert (core.last[2]["info"], core.last[2]["data"]) == (rb'"nice \ufffd"',) * 2
    call(client, "publish", channel="room", b64data=encoded)
    assert core.last[1] == ("room", rb'"nice \ud83d"')


def test_publish_with_all_options(client: TestClient, core: RecordingCore) -> None:
    """Each arrives; bytes come in base64 and win over data; the answer has the position."""
    core.answers["publish"] = PublishResult(7, "kzqw")
    options = {
        "idempotency_key": "k",
        "version": 2**64 - 1,
        "version_epoch": "e",
        "tags": {"a": "1"},
        "skip_history": True,
        "delta": True,
    }
    answer = call(client, "publish", channel="room", b64data="AP8=", data=1, **options)
    assert answer == {"result": {"offset": 7, "epoch": "kzqw"}}
    assert core.last == ("publish", ("room", b"\x00\xff"), options | {"known": True})


def test_null_is_no_field(client: TestClient, core: RecordingCore) -> None:
    """Some callers send every field that they know; and fields that we do not know."""
    nulls = dict.fromkeys(("b64data", *PUBLISHED))
    assert call(client, "publish", channel="room", data=None, new_field={"x": 1}, **nulls) == {"result": {}}
    assert core.last == ("publish", ("room", b"null"), PUBLISHED)
    assert call(client, "publish", channel=None, data=1)["error"]["code"] == 107


def test_broadcast_answers_for_each_channel(client: TestClient, core: RecordingCore) -> None:
    """In their order, with the refusals of some."""

    def publish(channel: str, data: object, **options: Any) -> PublishResult:
        if channel == "x:bad":
            raise Refused(Errors.UNKNOWN_CHANNEL)
        return PublishResult(3, "e") if channel == "kept" else PublishResult()

    core.answers["publish"] = publish
    answer = call(client, "broadcast", channels=["kept", "x:bad", "plain"], data={"a": 1}, idempotency_key="k")
    assert answer["result"]["responses"] == [
        {"result": {"offset": 3, "epoch": "e"}},
        {"error": {"code": 102, "message": "unknown channel"}},
        {"result": {}},
    ]
    assert core.calls[0] == ("publish", ("kept", b'{"a":1}'), PUBLISHED | {"idempotency_key": "k"})


def test_broadcast_to_very_many(client: TestClient, core: RecordingCore) -> None:
    """More channels than are served at once, in a body larger than one publication's."""
    channels = [f"channel with a long name {'x' * 200} {number}" for number in range(2000)]
    answer = call(client, "broadcast", channels=channels, data="hi")
    assert len(answer["result"]["responses"]) == 2000
    assert [arguments[0] for _, arguments, _ in core.calls] == channels


def test_subscribe(client: TestClient, core: RecordingCore) -> None:
    """With every option; what is JSON arrives as such, in base64 or not."""
    assert call(client, "subscribe", user="42", channel="room") == {"result": {}}
    empty = {
        "client": "",
        "session": "",
        "info": b"",
        "data": b"",
        "recover_since": None,
        "expire_at": 0,
        "override": None,
    }
    assert core.last == ("subscribe_user", ("42", "room"), empty)
    call(
        client,
        "subscribe",
        user="42",
        channel="room",
        client="c",
        session="s",
        info={"a": 1},
        b64data="eyAiYiI6IDIgfQ==",
        recover_since={"offset": 5, "epoch": "e"},
        expire_at=1900000000,
        override={"presence": {"value": True}, "join_leave": {"value": False}, "force_recovery": None},
    )
    assert core.last[2] == {
        "client": "c",
        "session": "s",
        "info": b'{"a":1}',
        "data": b'{"b":2}',
        "recover_since": StreamPosition(5, "e"),
        "expire_at": 1900000000,
        "override": Override(presence=True, join_leave=False),
    }


def test_unsubscribe(client: TestClient, core: RecordingCore) -> None:
    """From one channel, or from all."""
    assert call(client, "unsubscribe", user="42") == {"result": {}}
    assert core.last == ("unsubscribe_user", ("42", ""), {"client": "", "session": ""})
    call(client, "unsubscribe", user="42", channel="room", client="c", session="s")
    assert core.last == ("unsubscribe_user", ("42", "room"), {"client": "c", "session": "s"})


def test_disconnect(client: TestClient, core: RecordingCore) -> None:
    """With 3503, or a code of the caller's; a reason is never empty, since clients would reconnect for ever."""
    assert call(client, "disconnect", user="42") == {"result": {}}
    given = {"client": "", "session": "", "whitelist": (), "disconnect": Disconnects.FORCE_DISCONNECT}
    assert core.last == ("disconnect_user", ("42",), given)
    close = {"code": 4500, "reason": "bye"}
    call(client, "disconnect", user="42", client="c", session="s", whitelist=["w"], disconnect=close)
    bye = Disconnect(code=4500, reason="bye", reconnect=False)
    assert core.last[2] == {"client": "c", "session": "s", "whitelist": ("w",), "disconnect": bye}
    for code, reconnect in ((3000, True), (3499, True), (3500, False), (4000, True), (4499, True), (4999, False)):
        call(client, "disconnect", user="42", disconnect={"code": code})
        assert core.last[2]["disconnect"] == Disconnect(code=code, reason="disconnect", reconnect=reconnect)


def test_refresh(client: TestClient, core: RecordingCore) -> None:
    """With every option."""
    assert call(client, "refresh", user="42") == {"result": {}}
    empty = {"client": "", "session": "", "expired": False, "expire_at": 0, "info": b""}
    assert core.last == ("refresh_user", ("42",), empty)
    call(client, "refresh", user="42", client="c", session="s", expired=True, expire_at=9, info=[1])
    given = {"client": "c", "session": "s", "expired": True, "expire_at": 9, "info": b"[1]"}
    assert core.last == ("refresh_user", ("42",), given)


def test_presence(client: TestClient, core: RecordingCore) -> None:
    """By client; what is not known of one is left out, and nobody is an empty object."""
    assert call(client, "presence", channel="room") == {"result": {"presence": {}}}
    core.answers["presence"] = {
        "c1": ClientInfo(user="42", client="c1", conn_info=b'{"n":1.50}', chan_info=b'"x"'),
        "c2": ClientInfo(user="", client="c2"),
    }
    answer = client.post("/api/presence", json={"channel": "room"}, headers=KEY)
    assert '"conn_info":{"n":1.50}' in answer.text
    assert answer.json()["result"]["presence"] == {
        "c1": {"user": "42", "client": "c1", "conn_info": {"n": 1.5}, "chan_info": "x"},
        "c2": {"user": "", "client": "c2"},
    }
    assert core.last == ("presence", ("room",), {})


def test_presence_stats(client: TestClient, core: RecordingCore) -> None:
    """Zeros too."""
    assert call(client, "presence_stats", channel="room") == {"result": {"num_clients": 0, "num_users": 0}}
    core.answers["presence_stats"] = PresenceStats(3, 2)
    assert call(client, "presence_stats", channel="room") == {"result": {"num_clients": 3, "num_users": 2}}


def test_history(client: TestClient, core: RecordingCore) -> None:
    """Publications of every kind, as protocol clients would see them."""
    info = b'{"user":"42","client":"c1","conn_info":{"n":1}}'
    publications = [
        Publication(b'{"a":1.50}', DataKind.JSON, offset=1, epoch="e", info=info, tags={"t": "1"}),
        Publication(b"plain", DataKind.TEXT, offset=2, epoch="e"),
        Publication(b"\x00", DataKind.BINARY, offset=3, epoch="e"),
        Publication(b"null", DataKind.JSON, offset=4, epoch="e"),
    ]
    core.answers["history"] = Page(publications, StreamPosition(4, "e"))
    since = {"offset": 0, "epoch": "e"}
    answer = call(client, "history", channel="room", limit=-1, since=since, reverse=True)
    assert answer["result"] == {
        "publications": [
            {
                "data": {"a": 1.5},
                "info": {"user": "42", "client": "c1", "conn_info": {"n": 1}},
                "offset": 1,
                "tags": {"t": "1"},
            },
            {"data": "plain", "offset": 2},
            {"data": {"b64data": "AA=="}, "offset": 3},
            {"data": None, "offset": 4},
        ],
        "epoch": "e",
        "offset": 4,
    }
    assert core.last == ("history", ("room",), {"limit": -1, "since": StreamPosition(0, "e"), "reverse": True})


def test_an_empty_history(client: TestClient, core: RecordingCore) -> None:
    """All three fields are there."""
    answer = call(client, "history", channel="room")
    assert answer == {"result": {"publications": [], "epoch": "", "offset": 0}}
    assert core.last == ("history", ("room",), {"limit": 0, "since": None, "reverse": False})


def test_history_remove(client: TestClient, core: RecordingCore) -> None:
    """Asked of the hub."""
    assert call(client, "history_remove", channel="room") == {"result": {}}
    assert core.last == ("remove_history", ("room",), {})


def test_channels(client: TestClient, core: RecordingCore) -> None:
    """All, or those of a pattern; no body at all is no pattern."""
    core.answers["channels"] = {"b": 2, "a": 1}
    expected = {"result": {"channels": {"a": {"num_clients": 1}, "b": {"num_clients": 2}}}}
    assert client.post("/api/channels", headers=KEY).json() == expected
    assert core.last == ("channels", ("",), {})
    call(client, "channels", pattern="chat:*")
    assert core.last == ("channels", ("chat:*",), {})


def test_info(client: TestClient, core: RecordingCore) -> None:
    """The workers."""
    node = {
        "uid": "a1",
        "name": "host",
        "version": "1",
        "num_clients": 1,
        "num_users": 2,
        "num_subs": 3,
        "num_channels": 4,
        "uptime": 5,
    }
    core.answers["info"] = [SimpleNamespace(**node)]
    assert call(client, "info") == {"result": {"nodes": [node]}}


# Who may call


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        (KEY, ""),
        ({"X-API-Key": "other"}, ""),
        ({"Authorization": "apikey key"}, ""),
        ({"Authorization": "ApiKey other"}, ""),
        ({}, "?api_key=key"),
    ],
)
def test_ways_to_send_a_key(client: TestClient, headers: dict[str, str], query: str) -> None:
    """Any of the keys, in any of three places."""
    assert client.post(f"/api/info{query}", json={}, headers=headers).status_code == 200


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({}, ""),
        ({"X-API-Key": ""}, ""),
        ({"X-API-Key": "wrong"}, ""),
        ({"X-API-Key": "k\xe9y"}, ""),
        ({"Authorization": "Bearer key"}, ""),
        ({"Authorization": "apikey"}, ""),
        ({}, "?api_key=key,other"),
    ],
)
def test_a_wrong_key(client: TestClient, core: RecordingCore, method: str, headers: Any, query: str) -> None:
    """401, whatever the body is; nothing is done."""
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = client.post(f"/api/{method}{query}", content=b"no JSON", headers=raw)
    assert answer.status_code == 401
    assert "API key is missing or wrong" in answer.json()["detail"]
    assert answer.headers["WWW-Authenticate"] == "apikey"
    assert not core.calls


@pytest.mark.parametrize("key", ["", ()])
def test_without_a_key_the_api_is_off(core: RecordingCore, key: Any) -> None:
    """Also for who sends an empty one; the answer says how to turn it on."""
    with TestClient(application(core, api_key=key)) as client:
        for headers in ({}, {"X-API-Key": ""}, {"X-API-Key": "x"}):
            answer = client.post("/api/info", json={}, headers=headers)
            assert answer.status_code == 401
            assert "set HUB_API_KEY" in answer.json()["detail"]


def test_the_applications_own_dependencies_are_kept(core: RecordingCore) -> None:
    """Who includes the router behind a check of its own must be able to rely on it."""

    def closed() -> None:
        raise HTTPException(418)

    app = FastAPI()
    router = api_router(cast(HubNode, core), Settings(api_key="key"))
    app.include_router(router, prefix="/rt", dependencies=[Depends(closed)])
    with TestClient(app) as client:
        assert client.post("/rt/api/info", json={}, headers=KEY).status_code == 418


# Bad requests


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE"])
def test_only_post(client: TestClient, method: str, verb: str) -> None:
    """405, and what is allowed."""
    answer = client.request(verb, f"/api/{method}", headers=KEY)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_an_unknown_method(client: TestClient) -> None:
    """404."""
    assert client.post("/api/nonsense", json={}, headers=KEY).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"{",
        b"[]",
        b'"channel"',
        b"null",
        b'{"channel":"\xff","data":1}',
        b'{"channel":"room","data":"\xff"}',
        b'{"channel":"room","data":"\\ud80"}',
        b'{"channel":"room","data":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"channel":"room","data":NaN}',
    ],
    ids=lambda body: repr(body[:35]),
)
def test_a_body_that_cannot_be_read(client: TestClient, core: RecordingCore, body: bytes) -> None:
    """400, in both error modes."""
    for headers in (KEY, TRANSPORT):
        answer = client.post("/api/publish", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("The body is not a JSON object: ")
    assert not core.calls


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "nonsense"])
def test_the_content_type_does_not_matter(client: TestClient, kind: str) -> None:
    """curl calls everything a form."""
    headers = KEY | ({"Content-Type": kind} if kind else {})
    answer = client.post("/api/publish", content=b'{"channel": "room", "data": 1}', headers=headers)
    assert answer.json() == {"result": {}}


@pytest.mark.parametrize(
    ("method", "fields", "said"),
    [
        ("publish", {}, "channel: Field required"),
        ("publish", {"data": 1}, "channel: Field required"),
        ("publish", {"channel": "room"}, "data is missing"),
        ("publish", {"channel": "room", "b64data": ""}, "data is missing"),
        ("publish", {"channel": "", "data": 1}, "channel: String should have at least 1 character"),
        ("publish", {"channel": 1, "data": 1}, "channel: Input should be a valid string"),
        ("publish", {"channel": "room", "b64data": "?"}, "b64data: this is not base64"),
        ("publish", {"channel": "room", "data": 1, "tags": {"a": 1}}, "tags.a: Input should be a valid string"),
        ("publish", {"channel": "room", "data": 1, "version": -1}, "version: "),
        ("publish", {"channel": "room", "data": 1, "version": "1"}, "version: Input should be a valid integer"),
        ("publish", {"channel": "room", "data": 1, "version": 2**64}, "version: "),
        ("publish", {"channel": "room", "data": 1, "skip_history": 1}, "skip_history: Input should be a valid boolean"),
        ("broadcast", {"channels": [], "data": 1}, "channels: "),
        ("broadcast", {"channels": "room", "data": 1}, "channels: Input should be a valid list"),
        ("broadcast", {"channels": ["a", ""], "data": 1}, "channels.1: "),
        ("broadcast", {"channels": ["a"]}, "data is missing"),
        ("subscribe", {"user": "42"}, "channel: Field required"),
        ("subscribe", {"user": 42, "channel": "room"}, "user: Input should be a valid string"),
        ("subscribe", {"user": "42", "channel": "room", "recover_since": {"offset": -1}}, "recover_since.offset: "),
        ("subscribe", {"user": "42", "channel": "room", "b64info": "eA=="}, "b64info and b64data"),
        ("subscribe", {"user": "42", "channel": "room", "b64data": "Iv8i"}, "b64info and b64data"),
        ("disconnect", {"user": "42", "disconnect": {}}, "disconnect.code: Field required"),
        ("disconnect", {"user": "42", "disconnect": {"code": 1000}}, "disconnect.code: "),
        ("disconnect", {"user": "42", "disconnect": {"code": 5000}}, "disconnect.code: "),
        ("disconnect", {"user": "42", "disconnect": {"code": 4000, "reason": "é" * 62}}, "disconnect.reason: "),
        ("disconnect", {"user": "42", "disconnect": {"code": 4000, "reason": '{"a":1}'}}, "disconnect.reason: "),
        ("disconnect", {"user": "42", "whitelist": "c"}, "whitelist: "),
        ("refresh", {"user": "42", "expire_at": 1900000000000}, "expire_at: "),
        ("presence", {}, "channel: Field required"),
        ("presence_stats", {}, "channel: Field required"),
        ("history", {}, "channel: Field required"),
        ("history", {"channel": "room", "limit": "10"}, "limit: "),
        ("history_remove", {}, "channel: Field required"),
        ("channels", {"pattern": 1}, "pattern: "),
        ("batch", {}, "commands: Field required"),
        ("batch", {"commands": {"publish": {}}}, "commands: Input should be a valid list"),
        ("batch", {"commands": [1]}, "commands.0: "),
        ("batch", {"commands": [], "parallel": "yes"}, "parallel: "),
    ],
)
def test_missing_and_wrong_fields(
    client: TestClient, core: RecordingCore, method: str, fields: dict[str, Any], said: str
) -> None:
    """Error 107, with the field's name."""
    error = call(client, method, None, **fields)["error"]
    assert error["code"] == 107
    assert error["message"].startswith("bad request: ")
    assert said in error["message"]
    assert not core.calls
    assert client.post(f"/api/{method}", json=fields, headers=TRANSPORT).status_code == 400


def test_a_large_body(core: RecordingCore) -> None:
    """413: what no publication could need is not read."""
    with TestClient(application(core, max_message_size=100)) as client:
        body = {"channel": "room", "data": "x" * 10_000}
        assert client.post("/api/publish", json=body, headers=KEY).status_code == 413
        body = {"channels": ["room"], "data": "x" * 2_000_000}
        assert client.post("/api/broadcast", json=body, headers=KEY).status_code == 413
        body = {"channel": "room", "data": "\x01" * 600}  # six bytes each
        assert client.post("/api/publish", json=body, headers=KEY).status_code == 200


# Refusals of the hub


REFUSALS = [
    (Refused(Errors.UNKNOWN_CHANNEL), 404, 102, "unknown channel"),
    (Refused(Errors.METHOD_NOT_FOUND), 404, 104, "method not found"),
    (Refused(Errors.BAD_REQUEST, "no"), 400, 107, "bad request: no"),
    (Refused(Errors.NOT_AVAILABLE), 400, 108, "not available"),
    (Refused(Errors.UNRECOVERABLE_POSITION), 416, 112, "unrecoverable position"),
    (Refused(Errors.CONCURRENT_PAGINATION), 409, 113, "concurrent pagination"),
    (Refused(Errors.PERMISSION_DENIED), 500, 103, "permission denied"),
    (Refused(Error(code=1000, message="custom")), 500, 1000, "custom"),
    (InvalidChannel("channel name has control characters"), 400, 107, "bad request: channel name has control"),
    (MessageTooBig("the message has 9 bytes"), 400, 107, "bad request: the message has 9 bytes"),
    (BrokerUnavailable("not sent: Redis cannot be reached"), 503, 100, "not sent: Redis cannot be reached"),
]


@pytest.mark.parametrize(("fault", "status", "code", "said"), REFUSALS, ids=lambda value: str(value)[:30])
def test_refusals(client: TestClient, core: RecordingCore, fault: Exception, status: int, code: int, said: str) -> None:
    """200 with `error`; in transport mode the HTTP status, and the error itself."""
    core.answers["presence"] = fault
    error = call(client, "presence", channel="room")["error"]
    assert error["code"] == code
    assert error["message"].startswith(said)
    assert error.keys() == {"code", "message"}
    answer = client.post("/api/presence", json={"channel": "room"}, headers=TRANSPORT)
    assert (answer.status_code, answer.json()) == (status, error)
    assert answer.headers.get("Retry-After") == ("1" if status == 503 else None)


def test_an_unexpected_fault(client: TestClient, core: RecordingCore, caplog: pytest.LogCaptureFixture) -> None:
    """The caller learns no details, the log has them."""
    core.answers["presence"] = RuntimeError("secret detail")
    assert call(client, "presence", channel="room") == {"error": {"code": 100, "message": "internal server error"}}
    assert "secret detail" in caplog.text
    with caplog.at_level(logging.CRITICAL):
        answer = client.post("/api/presence", json={"channel": "room"}, headers=TRANSPORT)
    assert (answer.status_code, answer.json()) == (500, {"code": 100, "message": "internal server error"})


# The reference at /docs


def test_every_method_is_described(client: TestClient) -> None:
    """With summary, description, request, result and the ways to send a key."""
    schema = client.get("/openapi.json").json()
    assert [path for path in schema["paths"] if path.startswith("/api/")] == [f"/api/{name}" for name in METHODS]
    for name in METHODS:
        operation = schema["paths"][f"/api/{name}"]["post"]
        assert operation["description"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert schema["components"]["schemas"][body]["description"]
        assert operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert {"400", "401", "413"} <= operation["responses"].keys()
        assert [*map(set, operation["security"])] == [{"X-API-Key"}, {"Authorization"}, {"api_key"}]
    assert client.get("/docs").status_code == 200


def test_the_examples_are_good() -> None:
    """What /docs offers to try is what the models take."""
    for name in api_models.__all__:
        model = getattr(api_models, name)
        if name != "Answer":
            for example in model.model_json_schema().get("examples", []):
                model.model_validate(json.loads(json.dumps(example), object_hook=opaque))


def opaque(fields: dict[str, Any]) -> dict[str, Any]:
    """With JSON of the caller's as the API reads it."""
    names = fields.keys() & {"data", "conn_info"}
    return fields | {name: msgspec.Raw(json.dumps(fields[name]).encode()) for name in names}


@pytest.mark.parametrize("value", [5, "x", b"x", {"a": 1}, [], True])
@pytest.mark.parametrize(("model", "field"), [("PublishRequest", "data"), ("SubscribeRequest", "info")])
def test_json_is_raw_or_nothing(model: str, field: str, value: Any) -> None:
    """Values of Python in its place are a fault of ours, not of the caller: they never get to the hub."""
    with pytest.raises(TypeError, match=f"not as {type(value).__name__}$"):
        getattr(api_models, model)(channel="room", **{field: value})
