"""The console behind nginx, over two replicas with two workers each: nothing of it has to stay with one of them."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.support import needs
from tests.support.cluster import running_nginx
from tests.support.console import PASSWORD
from tests.support.redis import running_redis
from tests.support.server import hub_serve

pytestmark = [pytest.mark.cluster, pytest.mark.timed]

PATIENCE = 40


@pytest.fixture(scope="module")
def port(redis_binary: str) -> Iterator[int]:
    """nginx's; the third replica of its configuration is not there."""
    env = {"HUB_CONSOLE_PASSWORD": PASSWORD}
    with running_redis(redis_binary) as redis:
        options = ("--workers", "2", "--redis-url", redis.url)
        with hub_serve(*options, env=env) as one, hub_serve(*options, env=env) as two:
            with running_nginx(needs.nginx(), {"hub1": one.port, "hub2": two.port, "hub3": 9}) as proxy:
                yield proxy.port


def post(port: int, path: str, body: Any = None, **headers: str) -> tuple[int, Any, str]:
    """(status, JSON, cookie)."""
    data = json.dumps(body).encode() if body is not None else b""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/console/{path}", data, {"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            text = answer.read()
            cookie = (answer.headers["Set-Cookie"] or "").partition(";")[0]
            return answer.status, json.loads(text) if text else None, cookie
    except urllib.error.HTTPError as error:
        return error.code, None, ""


def ask(socket: ClientConnection, **command: Any) -> dict[str, Any]:
    socket.send(json.dumps({"id": 1, **command}))
    return dict(json.loads(socket.recv(PATIENCE)))


def test_any_worker_answers_any_request(port: int) -> None:
    """A session begun on one is good on all, and so is each ticket."""
    status, _, cookie = post(port, "login", {"password": PASSWORD})
    assert status == 204
    for _ in range(8):
        status, given, _ = post(port, "ticket", Cookie=cookie)
        assert status == 200
        with connect(f"ws://127.0.0.1:{port}/console/websocket") as socket:
            assert "connect" in ask(socket, connect={"token": given["ticket"]})


def test_all_workers_of_all_replicas_are_heard(port: int) -> None:
    """Wherever the page's socket has ended."""
    _, _, cookie = post(port, "login", {"password": PASSWORD})
    _, given, _ = post(port, "ticket", Cookie=cookie)
    pids: set[int] = set()
    with connect(f"ws://127.0.0.1:{port}/console/websocket") as socket:
        assert "connect" in ask(socket, connect={"token": given["ticket"]})
        assert "subscribe" in ask(socket, subscribe={"channel": "\x1fconsole"})
        deadline = time.monotonic() + PATIENCE
        while len(pids) < 4 and time.monotonic() < deadline:
            for line in str(socket.recv(PATIENCE)).splitlines():
                told = json.loads(line).get("push", {}).get("pub", {}).get("data", {})
                pids |= {told["worker"]["pid"]} if "worker" in told else set()
    assert len(pids) == 4
