"""From the FastAPI tutorial's chat to one that is right on many workers: two lines, counted, and both programs run."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import websockets
from fastapi.testclient import TestClient

from hub.embedded import EmbeddedServer
from tests.support.uvicorn_app import ROOT, UvicornProcess, uvicorn_app

ORIGINAL = (ROOT / "tests" / "data" / "tutorial_chat.py").read_text()
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
WORKERS = 2
MANY = 60

pytestmark = pytest.mark.timeout(300)


def changed() -> str:
    """The program with the change that the tutorial shows as a diff."""
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    text = ORIGINAL
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines()
        before = "\n".join(line[1:] for line in lines if line[:1] in " -" or not line)
        after = "\n".join(line[1:] for line in lines if line[:1] in " +" or not line)
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def test_it_is_two_lines() -> None:
    """A line that is replaced counts once; one that is added or taken away, too."""
    matcher = difflib.SequenceMatcher(None, ORIGINAL.splitlines(), changed().splitlines(), autojunk=False)
    parts = [part for part in matcher.get_opcodes() if part[0] != "equal"]
    assert 1 <= sum(max(b - a, d - c) for _, a, b, c, d in parts) <= 2


def test_the_page_gets_what_it_imports() -> None:
    """From the program of the last two steps: `/static/hub.js` is there without a word on `hub serve` only."""
    program: dict[str, Any] = {}
    for part in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(part, program)
    [module] = re.findall(r'^import .* from "(.*)";$', PAGE, re.MULTILINE)
    with TestClient(program["app"]) as client:
        assert client.get(module).status_code == 200


class Chat:
    """The clients of a program that runs."""

    def __init__(self, server: UvicornProcess) -> None:
        self._server = server
        self.clients: list[websockets.ClientConnection] = []

    async def join(self) -> int:
        """One more; it has said hello, and heard that itself: so has everybody on its worker."""
        number = len(self.clients)
        self.clients.append(await websockets.connect(f"{self._server.ws_url}/ws/{number}"))
        await self.clients[-1].send("hello")
        await self.heard(number, until=f"Client #{number} says: hello")
        return number

    async def heard(self, number: int, until: str) -> list[str]:
        texts: list[str] = []
        async with asyncio.timeout(20):
            while until not in texts:
                texts.append(str(await self.clients[number].recv()))
        return texts

    async def heard_by_the_first(self) -> list[int]:
        """Who said hello in the hearing of the first client: all that comes before what it says itself now.

        That is said later than every hello, and where everybody hears everybody, it is in one order.
        """
        await self.clients[0].send("enough")
        texts = await self.heard(0, until="Client #0 says: enough")
        return [int(found[1]) for text in texts if (found := re.fullmatch(r"Client #(\d+) says: hello", text))]


@asynccontextmanager
async def chat(program: str, server: EmbeddedServer, folder: Path) -> AsyncIterator[Chat]:
    (folder / "chat.py").write_text(program)
    env = {"REDIS_URL": server.url, "PYTHONPATH": str(ROOT)}
    with uvicorn_app("chat:app", workers=WORKERS, env=env, folder=folder) as process:
        chat = Chat(process)
        yield chat
        await asyncio.gather(*(client.close() for client in chat.clients))


async def test_the_tutorials_chat_is_deaf(redis_server: EmbeddedServer, tmp_path: Path) -> None:
    """With two workers, somebody says hello and the first client does not hear it."""
    async with chat(ORIGINAL, redis_server, tmp_path) as running:
        await running.join()
        for _ in range(MANY):
            number = await running.join()
            if number not in await running.heard_by_the_first():
                return
        raise AssertionError(f"{MANY} clients came to the same worker")


async def test_two_lines_later_everybody_hears(redis_server: EmbeddedServer, tmp_path: Path) -> None:
    """On two workers, as Redis knows, the first client hears each of the others, once."""
    async with chat(changed(), redis_server, tmp_path) as running:
        await running.join()
        with redis.Redis.from_url(redis_server.url) as client:
            while not _on_two_workers(client):
                assert len(running.clients) < MANY
                number = await running.join()
                assert await running.heard_by_the_first() == [number]


def _on_two_workers(client: redis.Redis) -> bool:
    channels = client.pubsub_channels("hub:channel:*manager:*")
    return any(number == WORKERS for _, number in client.pubsub_numsub(*channels))
