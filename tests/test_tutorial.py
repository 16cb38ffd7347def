"""The tutorial programs, each with four workers and a real Redis, talked to by real clients and a real Chromium."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import redis
import websockets
from playwright.async_api import Browser, Page, expect

from hub.embedded import EmbeddedServer
from tests.support.browser import browser  # noqa: F401
from tests.support.uvicorn_app import HUB_PROTOCOL, ROOT, UvicornProcess, uvicorn_app

Client = websockets.ClientConnection
Program = Callable[..., AbstractContextManager[UvicornProcess]]
T = TypeVar("T")

TUTORIAL = ROOT / "examples" / "tutorial"
WORKERS = 4
on_both_servers = pytest.mark.parametrize("ws", ["auto", HUB_PROTOCOL], ids=["stock", "HubProtocol"])


@pytest.fixture
def program(redis_server: EmbeddedServer) -> Program:
    """Run one of the programs as its docstring says."""

    @contextmanager
    def run(name: str, ws: str = "auto") -> Iterator[UvicornProcess]:
        app = f"examples.tutorial.{name}:app"
        with uvicorn_app(app, "--ws", ws, workers=WORKERS, env={"REDIS_URL": redis_server.url}) as server:
            yield server
        assert "Traceback" not in server.log

    return run


@pytest.fixture
def listeners(redis_server: EmbeddedServer) -> Iterator[Callable[[str], int]]:
    """How many workers have clients in the channels that match."""
    client = redis.Redis.from_url(redis_server.url)

    def count(pattern: str) -> int:
        channels = client.pubsub_channels(f"hub:channel:{pattern}")
        return max((number for _, number in client.pubsub_numsub(*channels)), default=0) if channels else 0

    yield count
    client.close()


async def spread(join: Callable[[], Awaitable[T]], workers: Callable[[], int]) -> list[T]:
    """Let clients join until they are on two workers; which worker accepts one is the kernel's choice."""
    clients: list[T] = []
    while workers() < 2:
        assert len(clients) < 60, f"60 clients on {workers()} workers"
        clients.append(await join())
    return clients


async def collect(client: Client, count: int) -> list[str | bytes]:
    async with asyncio.timeout(10):
        return [await client.recv() for _ in range(count)]


async def until(client: Client, last: str) -> list[str | bytes]:
    """All that comes before `last`, and `last`."""
    messages = await collect(client, 1)
    while messages[-1] != last:
        messages += await collect(client, 1)
    return messages


async def close(clients: list[Client]) -> None:
    await asyncio.gather(*(client.close() for client in clients))


@on_both_servers
async def test_echo(program: Program, listeners: Callable[[str], int], ws: str) -> None:
    """(a) Everyone gets back what he said himself, on any worker."""
    with program("echo", ws) as server:
        clients = await spread(lambda: websockets.connect(f"{server.ws_url}/echo"), lambda: listeners("*"))
        for number, client in enumerate(clients):
            await client.send(f"hello {number}")
        for number, client in enumerate(clients):
            assert await collect(client, 1) == [f"you said: hello {number}"]
        await close(clients)


@on_both_servers
async def test_the_three_forms(program: Program, ws: str) -> None:
    """(b) Text comes back as text, JSON as JSON and bytes as a binary message."""
    value = {"name": "Ann", "tags": ["a", "ü"], "n": 1.5, "none": None}
    with program("forms", ws) as server:
        for _ in range(2 * WORKERS):
            async with websockets.connect(f"{server.ws_url}/text") as client:
                await client.send("grüße 🎉")
                assert await collect(client, 1) == ["grüße 🎉"]
            async with websockets.connect(f"{server.ws_url}/json") as client:
                await client.send(json.dumps(value))
                assert [json.loads(text) for text in await collect(client, 1)] == [value]
            async with websockets.connect(f"{server.ws_url}/bytes") as client:
                await client.send(bytes(range(256)))
                assert await collect(client, 1) == [bytes(range(256))]


@on_both_servers
async def test_everybody_hears_everybody(program: Program, listeners: Callable[[str], int], ws: str) -> None:
    """(c) The manager's broadcasts reach the clients of other workers, and so does the news that one has left."""
    with program("chat", ws) as server:
        numbers = iter(range(60))
        clients = await spread(
            lambda: websockets.connect(f"{server.ws_url}/ws/{next(numbers)}"), lambda: listeners("*")
        )
        for client in clients:
            await client.send("hi")
        everything = [f"Client #{number} says: hi" for number in range(len(clients))]
        for client in clients:
            assert sorted(await collect(client, len(clients) + 1)) == [*sorted(everything), "You wrote: hi"]
        await clients[0].close()
        for client in clients[1:]:
            assert await collect(client, 1) == ["Client #0 left the chat"]
        await close(clients)


@on_both_servers
async def test_rooms_with_tokens(program: Program, listeners: Callable[[str], int], ws: str) -> None:
    """(d) A room's clients hear each other on all workers, other rooms hear nothing, and a token opens the door."""
    with program("rooms", ws) as server:
        url = f"{server.ws_url}/chat"
        for bad in ("kitchen", "kitchen?token=", "kitchen?token=wrong", "kit%20chen?token=abc"):
            with pytest.raises(websockets.InvalidStatus, match="403"):
                await websockets.connect(f"{url}/{bad}")
        async with websockets.connect(f"{url}/garden?token=xyz") as garden:
            assert await collect(garden, 1) == ["Bob joined garden"]
            kitchen = await spread(
                lambda: websockets.connect(f"{url}/kitchen?token=abc"), lambda: listeners("chat:kitchen")
            )
            await kitchen[0].send("tea?")
            for client in kitchen:
                assert set(await until(client, "Ann: tea?")) <= {"Ann joined kitchen", "Ann: tea?"}
            await kitchen[-1].close()
            assert set(await until(kitchen[0], "Ann left kitchen")) <= {"Ann joined kitchen", "Ann left kitchen"}
            await garden.send("sun")
            assert await collect(garden, 1) == ["Bob: sun"]
        await close(kitchen)


async def open_page(browser: Browser, url: str) -> Page:  # noqa: F811
    """A window whose WebSocket is open."""
    page = await browser.new_page()
    await page.goto(url)
    await page.wait_for_function("ws.readyState === WebSocket.OPEN")
    return page


async def say(page: Page, text: str) -> None:
    await page.get_by_role("textbox").fill(text)
    await page.get_by_role("button", name="Send").click()


@pytest.mark.browser
async def test_the_chat_in_windows(program: Program, listeners: Callable[[str], int], browser: Browser) -> None:  # noqa: F811
    """(c) Its page in windows on different workers: what one says, all read; its own sender reads it twice."""
    with program("chat") as server:
        pages = await spread(lambda: open_page(browser, server.url), lambda: listeners("*"))
        ids = [await page.inner_text("#ws-id") for page in pages]
        await say(pages[0], "hello <b>all</b>")
        said = f"Client #{ids[0]} says: hello <b>all</b>"
        await expect(pages[0].locator("li")).to_have_text(["You wrote: hello <b>all</b>", said])
        for page in pages[1:]:
            await expect(page.locator("li")).to_have_text([said])
        await pages[0].close()
        for page in pages[1:]:
            await expect(page.locator("li").last).to_have_text(f"Client #{ids[0]} left the chat")


@pytest.mark.browser
@on_both_servers
async def test_the_inlined_page(
    program: Program,
    listeners: Callable[[str], int],
    browser: Browser,  # noqa: F811
    ws: str,
) -> None:
    """(e) Text box and button in windows on different workers: all read the same, in the same order."""
    with program("page", ws) as server:
        pages = await spread(lambda: open_page(browser, server.url), lambda: listeners("lobby"))
        for number, page in enumerate(pages):
            await say(page, f"message {number}")
            for other in pages:
                await expect(other.locator("li")).to_have_text([f"message {n}" for n in range(number + 1)])
            await expect(page.get_by_role("textbox")).to_have_value("")


def announce(url: str, text: str) -> int:
    request = urllib.request.Request(url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as response:
        return int(response.status)


@pytest.mark.browser
async def test_the_template_page(program: Program, listeners: Callable[[str], int], browser: Browser) -> None:  # noqa: F811
    """(f) Template and static script: a room's windows on different workers read each other and the handler."""
    room = "tea & <cake>"
    with program("template") as server:
        url = f"{server.url}/rooms/{urllib.request.quote(room)}"
        pages = await spread(lambda: open_page(browser, url), lambda: listeners("tea*"))
        elsewhere = await open_page(browser, f"{server.url}/rooms/cellar")
        await expect(pages[0].locator("h1")).to_have_text(room)
        await expect(pages[0].get_by_role("status")).to_have_text("connected")
        await say(pages[0], "hello")
        assert await asyncio.to_thread(announce, f"{url}/announcements", "closing soon") == 202
        for page in pages:
            await expect(page.locator("li")).to_have_text(["hello", "📢 closing soon"])
        await say(elsewhere, "alone")
        await expect(elsewhere.locator("li")).to_have_text(["alone"])


@pytest.mark.browser
async def test_the_template_page_returns(
    redis_server: EmbeddedServer,
    browser: Browser,  # noqa: F811
) -> None:
    """(f) ws.js says that the connection is lost, and is back when the server is."""
    app, env = "examples.tutorial.template:app", {"REDIS_URL": redis_server.url}
    with uvicorn_app(app, env=env) as server:
        page = await open_page(browser, f"{server.url}/rooms/kitchen")
    await expect(page.get_by_role("status")).to_contain_text("lost")
    with uvicorn_app(app, "--port", str(server.port), env=env):
        await expect(page.get_by_role("status")).to_have_text("connected")
        await say(page, "back")
        await expect(page.locator("li")).to_have_text(["back"])


@pytest.mark.parametrize("path", sorted(TUTORIAL.glob("*.py")), ids=lambda path: path.stem)
def test_each_begins_with_what_it_shows_and_its_command(path: Path) -> None:
    """The docstring's first line is a sentence, and there is one command, the one that is tested here."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    assert re.match(r"[A-Z].+\.\n\n", docstring)
    commands = re.findall(r"^    (.+)$", docstring, re.MULTILINE)
    assert len(commands) == 1
    assert commands[0].endswith(f"uvicorn examples.tutorial.{path.stem}:app --workers {WORKERS}")
