"""encode/broadcaster's own example, unchanged but for its import, with four workers and a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import websockets

from hub.embedded import EmbeddedServer
from tests.support.chatroom import greetings, join
from tests.support.uvicorn_app import HUB_PROTOCOL, ROOT, UvicornProcess, uvicorn_app

ORIGINAL = (Path(__file__).parent / "data" / "broadcaster" / "app.py.txt").read_text()
WORKERS = 4

# What the example was written for. Starlette 1.0 took away `on_startup` and this order of arguments, which it uses with
# broadcaster as it does here; FastAPI still has the first.
STARLETTE = '''"""Starlette as it was before 1.0."""
import fastapi, starlette.applications, starlette.templating

class Jinja2Templates(starlette.templating.Jinja2Templates):
    def TemplateResponse(self, name, context):
        return super().TemplateResponse(context["request"], name, context)

starlette.applications.Starlette = fastapi.FastAPI
starlette.templating.Jinja2Templates = Jinja2Templates
'''


@pytest.fixture(params=["auto", HUB_PROTOCOL], ids=["stock", "HubProtocol"])
def example(request: pytest.FixtureRequest, redis_server: EmbeddedServer, tmp_path: Path) -> Iterator[UvicornProcess]:
    """It runs as its README says: `uvicorn example.app:app`."""
    folder = tmp_path / "example"
    (folder / "templates").mkdir(parents=True)
    (folder / "templates" / "index.html").write_text("<!doctype html><title>Chat</title>{{ url_for('chatroom_ws') }}")
    (folder / "__init__.py").write_text(STARLETTE)
    changed = ORIGINAL.replace("from broadcaster import Broadcast", "from hub.compat import Broadcast")
    assert changed != ORIGINAL
    (folder / "app.py").write_text(changed)
    env = {"BROADCAST_URL": redis_server.url, "PYTHONPATH": str(ROOT)}
    with uvicorn_app("example.app:app", "--ws", request.param, workers=WORKERS, env=env, folder=tmp_path) as server:
        yield server
    assert "Traceback" not in server.log


def workers_with_listeners(url: str) -> int:
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        return int(client.pubsub_numsub("hub:channel:chatroom")[0][1])


def page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:
        return str(response.read().decode())


async def test_its_chat_on_four_workers(example: UvicornProcess, redis_server: EmbeddedServer) -> None:
    """What one client says reaches those of other workers, once, in the same order for all; and the page is served."""
    clients: list[websockets.ClientConnection] = []
    while workers_with_listeners(redis_server.url) < 2:
        assert len(clients) < 60, "60 clients on one worker"
        clients.append(await join(f"{example.ws_url}/"))
    for number, client in enumerate(clients):
        await client.send(f"hello from {number}")
    heard = [await greetings(client, len(clients)) for client in clients]
    assert sorted(heard[0]) == sorted(f"hello from {number}" for number in range(len(clients)))
    assert all(other == heard[0] for other in heard)
    assert f"{example.ws_url}/" in await asyncio.to_thread(page, f"{example.url}/")
    await asyncio.gather(*(client.close() for client in clients))
    async with asyncio.timeout(10):
        while workers_with_listeners(redis_server.url):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)
