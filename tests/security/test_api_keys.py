"""How an API key is compared: in constant time, with every key that there is, wherever it is sent."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from hub import Hub, Settings
from hub import admission as admission_module
from hub import api as api_module
from hub import authority as authority_module
from hub.memory import MemoryBroker

KEYS = ("first-key-of-three", "second-key-of-three", "third-key-of-three")


class Comparisons:
    """Stands in for the module `hmac`, and notes what is compared."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, bytes]] = []

    def compare_digest(self, left: bytes, right: bytes) -> bool:
        self.seen.append((left, right))
        return hmac.compare_digest(left, right)


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> Comparisons:
    spy = Comparisons()
    for module in (api_module, admission_module, authority_module):
        monkeypatch.setattr(module, "hmac", spy)
    return spy


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = FastAPI()
    settings: Any = {"api_key": KEYS, "token": "a-static-token-for-all"}
    app.include_router(Hub(Settings(**settings), broker=MemoryBroker()).router)
    with TestClient(app) as opened:
        yield opened


def sent(way: str, key: str) -> dict[str, Any]:
    """What a request needs to show `key`."""
    return {
        "X-API-Key": {"headers": {"X-API-Key": key}},
        "Authorization": {"headers": {"Authorization": f"apikey {key}"}},
        "query": {"params": {"api_key": key}},
    }[way]


@pytest.mark.parametrize("way", ["X-API-Key", "Authorization", "query"])
@pytest.mark.parametrize("key", [*KEYS, KEYS[0][:-1], KEYS[0] + "x", "x", "k" * 5000])
def test_every_key_is_compared(client: TestClient, comparisons: Comparisons, way: str, key: str) -> None:
    """A key that is right does not end the search, and one that is wrong from its first letter is no sooner refused."""
    response = client.post("/api/info", **sent(way, key))
    assert (response.status_code == 200) == (key in KEYS)
    assert comparisons.seen == [(key.encode(), known.encode()) for known in KEYS]


def test_no_key_is_no_key(client: TestClient) -> None:
    """Nothing, an empty one and several in one header are refused like any other."""
    for headers in ({}, {"X-API-Key": ""}, {"Authorization": "apikey"}, {"X-API-Key": ",".join(KEYS)}):
        assert client.post("/api/info", headers=headers).status_code == 401
    assert client.post("/api/info", headers={"Authorization": f"Bearer {KEYS[0]}"}).status_code == 401
    assert client.post("/api/info", headers={"Cookie": f"X-API-Key={KEYS[0]}"}).status_code == 401


def test_bytes_that_are_no_text(client: TestClient) -> None:
    """Whatever bytes a header has, the answer is 401 and no fault."""
    for raw in (b"\xff\xfe", b"\xc3\x28", "schlüssel".encode()):
        assert client.post("/api/info", headers={b"X-API-Key": raw}).status_code == 401


def test_metrics_ask_for_the_same_keys(client: TestClient, comparisons: Comparisons) -> None:
    """The second door has the same lock."""
    assert client.get("/metrics", headers={"X-API-Key": "wrong", "Via": "proxy"}).status_code == 401
    assert client.get("/metrics", headers={"X-API-Key": KEYS[2], "Via": "proxy"}).status_code == 200
    assert len(comparisons.seen) == 2 * len(KEYS)


def test_the_static_token_too(client: TestClient, comparisons: Comparisons) -> None:
    """Clients' static token is compared so by both endpoints."""
    with client.websocket_connect("/ws/room?token=a-static-token-for-all"):
        pass
    with client.websocket_connect("/connection/websocket") as socket:
        socket.send_text('{"id":1,"connect":{"token":"a-static-token-for-alx"}}')
        assert socket.receive()["type"] == "websocket.close"
    known = b"a-static-token-for-all"
    assert comparisons.seen == [(known, known), (known[:-1] + b"x", known)]


def test_an_empty_key_opens_nothing() -> None:
    """`HUB_API_KEY=` and a comma too many are no keys, least of all empty ones."""
    for value in ("", ",", " , "):
        assert Settings(api_key=value).api_keys == ()
    assert Settings(token="").token is None
