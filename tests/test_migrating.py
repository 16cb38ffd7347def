"""docs/migrating.md: its programs do what it says, what it names exists, and its numbers are those of the code."""

from __future__ import annotations

import asyncio
import re
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import websockets
from fastapi import FastAPI
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from hub import Hub, Settings, broadcast, compat
from hub.embedded import EmbeddedServer
from tests.support.chatroom import greetings, join
from tests.support.uvicorn_server import serving

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "migrating.md").read_text()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


def chapter(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def block(title: str, language: str = "python") -> str:
    """The only one of its chapter."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", chapter(title), re.MULTILINE | re.DOTALL)
    return str(found)


def program(source: str) -> dict[str, Any]:
    """What it defines. FastAPI looks into the module's globals for annotations."""
    names: dict[str, Any] = {"__name__": "migrated"}
    exec(source, names)
    return names


def test_the_tutorial() -> None:
    """Its endpoint, with the import in place of the class: everybody hears everybody."""
    with TestClient(program(block("The FastAPI tutorial's ConnectionManager"))["app"]) as client:
        with client.websocket_connect("/ws/1") as ann, client.websocket_connect("/ws/2") as bob:
            ann.send_text("hi")
            assert ann.receive_text() == "You wrote: hi"
            assert ann.receive_text() == bob.receive_text() == "Client #1 says: hi"
            ann.close()
            assert bob.receive_text() == "Client #1 left the chat"


async def test_broadcaster(redis_server: EmbeddedServer) -> None:
    """Its chat, on the test's Redis, as two workers."""
    source = block("broadcaster").replace("redis://localhost:6379", redis_server.url)
    apps = [program(source)["app"] for _ in range(2)]
    async with serving(apps[0]) as (one, _), serving(apps[1]) as (two, _):
        clients = [await join(f"ws://127.0.0.1:{port}/") for port in (one, two)]
        for number, client in enumerate(clients):
            await client.send(f"hello {number}")
            assert [await greetings(other, 1) for other in clients] == [[f"hello {number}"]] * 2
        await asyncio.gather(*(client.close() for client in clients))


def test_the_urls() -> None:
    """The table has every scheme that there is, and the numbers are those of the code."""
    table = chapter("broadcaster").partition("| URL | |")[2].partition("\n\n")[0]
    known = {"memory", *broadcast.REDIS, broadcast.STREAM, "postgres", "kafka"}
    assert set(re.findall(r"`([\w+-]+)://`", table)) == known
    assert set(broadcast.ELSEWHERE) == {"postgres", "postgresql", "kafka"}
    assert f"the last {broadcast.STREAM_SIZE} messages of a channel are kept for 5 minutes" in table
    settings = Settings()
    assert (broadcast.STREAM_TTL, settings.slow_budget, settings.max_message_size) == (300, 1 << 20, 64 << 10)
    named = re.findall(r"`(\w+)`", chapter("broadcaster").partition("| URL | |")[0].rpartition("```")[2])
    offered = {"Broadcast", *compat.__all__, *dir(compat.Broadcast), *dir(compat.Subscriber)}
    assert {"connect", "disconnect", "publish", "subscribe", "Event", "get", "Unsubscribed"} <= set(named)
    assert set(named) <= offered | {"backend", "lifespan"}


def push(session: WebSocketTestSession, key: str) -> Any:
    """The next push of a publication whose data have `key`."""
    while True:
        for line in session.receive_text().splitlines():
            found = re.search(rf'"pub":{{"data":{{"{key}":"(.*?)"}}', line)
            if found:
                return found.group(1)


def test_python_socketio() -> None:
    """The authenticator, the call and the news of a departure."""
    with TestClient(program(block("python-socketio"))["app"]) as client:
        path = "/connection/websocket"
        with client.websocket_connect(path) as ann, client.websocket_connect(path) as bob:
            for session in (ann, bob):
                session.send_text('{"id":1,"connect":{"token":"secret"}}')
                answer = session.receive_json()
                assert answer["connect"]["subs"].keys() == {"chat:kitchen"}
            ann.send_text('{"id":2,"rpc":{"method":"add","data":[1,2,3]}}')
            while '"id":2' not in (line := ann.receive_text()):
                pass
            assert '"data":6' in line
            ann.close()
            assert push(bob, "left") == "42"
        with client.websocket_connect(path) as stranger:
            stranger.send_text('{"id":1,"connect":{"token":"guess"}}')
            with pytest.raises(WebSocketDisconnect):
                stranger.receive_text()


async def test_django_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function publishes from a thread without an event loop, and raises if it may not."""
    app = FastAPI()
    app.include_router(Hub(Settings(api_key="key")).router)
    group_send = program(block("Django Channels"))["group_send"]
    async with serving(app) as (port, _), websockets.connect(f"ws://127.0.0.1:{port}/ws/chat:kitchen") as client:
        monkeypatch.setenv("HUB_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("HUB_API_KEY", "key")
        await asyncio.to_thread(group_send, "chat:kitchen", {"text": "tea"})
        async with asyncio.timeout(5):
            assert await client.recv() == '{"text":"tea"}'
        monkeypatch.setenv("HUB_API_KEY", "wrong")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            await asyncio.to_thread(group_send, "chat:kitchen", {})


def test_centrifugo(tmp_path: Path) -> None:
    """The file is one that the hub takes, as it says."""
    path = tmp_path / "hub.toml"
    path.write_text(block("Centrifugo", "toml"))
    settings = Settings.load(config=path)
    chat = settings.channels.find("chat:x")
    assert chat is not None
    assert chat.history is not None
    assert (chat.history.size, chat.history.ttl, chat.force_recovery) == (100, 300, True)
    assert settings.api_keys == ("change-me-too",)
    assert settings.origins == ("https://example.com",)


def test_what_it_names() -> None:
    """Methods of the hub, settings and links are there."""
    methods = set(re.findall(r"`(?:await )?@?hub\.(\w+)(?:\(|`)", PAGE)) - {"js"}
    assert [method for method in methods if not hasattr(Hub, method)] == []
    for setting in re.findall(r"`HUB_(\w+?)(?:=\w+)?`", PAGE):
        assert setting.lower() in Settings.model_fields, setting
    for target, _, anchor in re.findall(r"\]\(([\w.]*)(#([\w-]+))?\)", PAGE):
        text = (DOCS / target).read_text() if target else PAGE
        titles = {
            re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall("^#+ (.+)$", text, re.M)
        }
        assert not anchor or anchor in titles, f"{target}#{anchor}"
