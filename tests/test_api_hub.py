"""The server API on real hubs: what it tells one worker is done by all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from fastapi import FastAPI
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from hub import Hub, Settings
from hub.namespaces import ChannelOptions
from hub.tokens import sign

OPEN = {
    "allow_subscribe_for_client": True,
    "allow_subscribe_for_anonymous": True,
    "allow_publish_for_client": True,
    "allow_publish_for_anonymous": True,
}
KEPT = ChannelOptions(presence=True, history_size=10, history_ttl=60, force_recovery=True, **OPEN)
SETTINGS = {"api_key": "key", "namespaces": {"kept": KEPT}, "token_hmac_secret_key": "secret"}
SECRET = "secret"

Call = Callable[..., Any]


class Pair:
    """Two applications, each with a hub of its own, or the same one."""

    def __init__(self, one: TestClient, two: TestClient) -> None:
        self.one = one
        self.two = two

    def call(self, method: str, **fields: Any) -> Any:
        """The result, from the first hub; refusals as (code, message)."""
        answer = self.one.post(f"/api/{method}", json=fields, headers={"X-API-Key": "key"})
        assert answer.status_code == 200
        body = answer.json()
        return (body["error"]["code"], body["error"]["message"]) if "error" in body else body.get("result", body)


def application(hub: Hub) -> FastAPI:
    app = FastAPI()
    app.include_router(hub.router)
    return app


@pytest.fixture(params=["memory", "redis"])
def hubs(request: pytest.FixtureRequest) -> Iterator[Pair]:
    settings = Settings(**SETTINGS)
    if request.param == "memory":
        with TestClient(application(Hub(settings))) as client:
            yield Pair(client, client)
    else:
        server = FakeServer()
        one, two = (application(Hub(settings, redis=FakeAsyncRedis(server=server))) for _ in range(2))
        with TestClient(one) as first, TestClient(two) as second:
            yield Pair(first, second)


class Session:
    """A protocol client on a socket; `told` are all replies and pushes so far."""

    def __init__(self, socket: WebSocketTestSession, user: str) -> None:
        self._socket = socket
        self.user = user
        self._lines: list[dict[str, Any]] = []
        token = sign({"sub": user, "info": {"n": user}}, SECRET)
        self.client: str = self.ask(1, connect={"token": token})["connect"]["client"]

    def ask(self, number: int, **command: Any) -> dict[str, Any]:
        self._socket.send_text(json.dumps({"id": number, **command}))
        return self.until(lambda line: line.get("id") == number)

    def until(self, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The next line that is `wanted`; pytest's timeout ends the waiting."""
        while True:
            while self._lines:
                if wanted(line := self._lines.pop(0)):
                    return line
            self._lines += [json.loads(line) for line in self._socket.receive_text().split("\n") if line]

    def pushed(self, kind: str) -> dict[str, Any]:
        return self.until(lambda line: kind in line.get("push", {}))["push"]

    def close_code(self) -> tuple[int, str]:
        with pytest.raises(WebSocketDisconnect) as closed:
            self.until(lambda line: False)
        return closed.value.code, closed.value.reason


def test_publish_and_history(hubs: Pair) -> None:
    """A publication is heard elsewhere, has its position, is kept, and is published once for its key."""
    with hubs.two.websocket_connect("/connection/websocket") as socket:
        session = Session(socket, "42")
        session.ask(2, subscribe={"channel": "kept:x"})
        first = hubs.call("publish", channel="kept:x", data={"n": 1.5}, idempotency_key="k", tags={"t": "1"})
        assert first["offset"] == 1
        assert hubs.call("publish", channel="kept:x", data="again", idempotency_key="k") == first
        second = hubs.call("publish", channel="kept:x", data="two")
        assert second == {"offset": 2, "epoch": first["epoch"]}
        assert session.pushed("pub")["pub"]["data"] == {"n": 1.5}
        assert session.pushed("pub")["pub"]["data"] == "two"
    history = hubs.call("history", channel="kept:x", limit=-1)
    assert history["publications"] == [
        {"data": {"n": 1.5}, "offset": 1, "tags": {"t": "1"}},
        {"data": "two", "offset": 2},
    ]
    assert (history["offset"], history["epoch"]) == (2, first["epoch"])
    assert hubs.call("history", channel="kept:x") == {"publications": [], "offset": 2, "epoch": first["epoch"]}
    assert hubs.call("history_remove", channel="kept:x") == {}
    assert hubs.call("history", channel="kept:x", limit=-1)["publications"] == []
    assert hubs.call("publish", channel="kept:x", data=3) == {"offset": 3, "epoch": first["epoch"]}


def test_skipped_and_outdated_publications(hubs: Pair) -> None:
    """`skip_history` keeps nothing; an old version is not published, and a new version epoch begins anew."""
    assert hubs.call("publish", channel="kept:x", data=1, skip_history=True) == {}
    assert hubs.call("publish", channel="kept:x", data=1, version=5)["offset"] == 1
    assert hubs.call("publish", channel="kept:x", data=2, version=5)["offset"] == 1
    assert hubs.call("publish", channel="kept:x", data=3, version=6)["offset"] == 2
    assert hubs.call("publish", channel="kept:x", data=4, version=1, version_epoch="new")["offset"] == 3


def test_broadcast(hubs: Pair) -> None:
    """A channel with history, one without, and one that cannot be."""
    answers = hubs.call("broadcast", channels=["kept:x", "room", "a\nb"], data=1)["responses"]
    assert answers[0]["result"]["offset"] == 1
    assert answers[1] == {"result": {}}
    assert answers[2]["error"]["code"] == 107


def test_presence_and_channels(hubs: Pair) -> None:
    """Who is on the other worker, and what worker there is."""
    assert hubs.call("presence", channel="kept:x") == {"presence": {}}
    with hubs.two.websocket_connect("/connection/websocket") as socket:
        session = Session(socket, "42")
        session.ask(2, subscribe={"channel": "kept:x"})
        info = {"user": "42", "client": session.client, "conn_info": {"n": "42"}}
        assert hubs.call("presence", channel="kept:x") == {"presence": {session.client: info}}
        assert hubs.call("presence_stats", channel="kept:x") == {"num_clients": 1, "num_users": 1}
        assert hubs.call("channels", pattern="kept:*") == {"channels": {"kept:x": {"num_clients": 1}}}
        assert hubs.call("channels", pattern="other*") == {"channels": {}}
        nodes = hubs.call("info")["nodes"]
        assert len(nodes) == (1 if hubs.one is hubs.two else 2)
        assert sum(node["num_clients"] for node in nodes) == 1


def test_users(hubs: Pair) -> None:
    """Subscribed, unsubscribed and disconnected on the other worker; others are not meant."""
    with (
        hubs.two.websocket_connect("/connection/websocket") as his,
        hubs.two.websocket_connect("/connection/websocket") as hers,
    ):
        bob, ann = Session(his, "bob"), Session(hers, "ann")
        assert hubs.call("subscribe", user="bob", channel="kept:x", data={"why": "api"}) == {}
        subscribed = bob.pushed("subscribe")
        assert subscribed["channel"] == "kept:x"
        assert subscribed["subscribe"]["data"] == {"why": "api"}
        hubs.call("publish", channel="kept:x", data=1)
        assert bob.pushed("pub")["pub"]["data"] == 1
        assert hubs.call("unsubscribe", user="bob", channel="kept:x") == {}
        gone = {"channel": "kept:x", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}
        assert bob.pushed("unsubscribe") == gone
        assert hubs.call("disconnect", user="nobody") == {}
        assert hubs.call("disconnect", user="bob", disconnect={"code": 4500, "reason": "bye"}) == {}
        assert bob.close_code() == (4500, "bye")
        assert hubs.call("refresh", user="ann", expired=True) == {}
        assert ann.close_code() == (3005, "connection expired")


@pytest.mark.parametrize(
    ("method", "channel", "code"),
    [
        ("presence", "room", 108),
        ("presence_stats", "room", 108),
        ("history", "room", 108),
        ("history_remove", "room", 108),
        ("presence", "nowhere:x", 102),
        ("history", "nowhere:x", 102),
        ("publish", "nowhere:x", 102),
        ("publish", "a\nb", 107),
    ],
)
def test_refusals(hubs: Pair, method: str, channel: str, code: int) -> None:
    """What a channel's namespace does not have, and channels that cannot be."""
    assert hubs.call(method, channel=channel, data=1)[0] == code


def test_a_foreign_position(hubs: Pair) -> None:
    """Error 112."""
    hubs.call("publish", channel="kept:x", data=1)
    since = {"offset": 0, "epoch": "foreign"}
    assert hubs.call("history", channel="kept:x", limit=1, since=since)[0] == 112


def test_bytes(hubs: Pair) -> None:
    """Arrive at raw clients as they are."""
    with hubs.two.websocket_connect(f"/ws/room?token={sign({'sub': 'raw'}, SECRET)}") as raw:
        hubs.call("publish", channel="room", b64data="AP8=")
        assert raw.receive_bytes() == b"\x00\xff"
        hubs.call("publish", channel="room", data="text")
        assert raw.receive_text() == "text"
        hubs.call("publish", channel="room", data={"a": [1.5, None]})
        assert raw.receive_text() == '{"a":[1.5,null]}'
