"""The console in a real browser, over two workers."""

# ruff: noqa: F811 - a fixture that is imported is named again where a test asks for it

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import jwt
import pytest
import websockets
from fastapi import Depends, FastAPI
from playwright.async_api import expect

from hub import Hub, Settings
from hub.memory import MemoryBroker
from tests.support.browser import one_browser  # noqa: F401
from tests.support.chat_page import contrast
from tests.support.console import PASSWORD, PATIENCE, Open, heard, log_in, open_console, worker_rows  # noqa: F401
from tests.support.processes import children
from tests.support.server import HubProcess, hub_serve
from tests.support.uvicorn_server import serving

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

SECRET = "a secret of at least thirty-two bytes"
MARKUP = "<img src=x onerror=alert(1)>"
CHAT = {
    "presence": True,
    "history_size": 20,
    "history_ttl": "5m",
    "allow_subscribe_for_client": True,
    "allow_publish_for_subscriber": True,
}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    variables = {
        "HUB_CONSOLE_PASSWORD": PASSWORD,
        "HUB_TOKEN_HMAC_SECRET_KEY": SECRET,
        "HUB_NAMESPACES": json.dumps({"chat": CHAT}),
    }
    with hub_serve("--workers", "2", "--drain", "1", env=variables) as process:
        yield process
        log = process.log
    assert "Traceback" not in log
    assert PASSWORD not in log


class User:
    """A protocol client."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self._number = 0

    async def ask(self, **command: Any) -> dict[str, Any]:
        self._number += 1
        await self.socket.send(json.dumps({"id": self._number, **command}))
        while True:
            for line in (await self.socket.recv()).splitlines():
                message = json.loads(line)
                if message.get("id") == self._number:
                    return dict(message)

    async def publish(self, channel: str, data: Any) -> None:
        assert "publish" in await self.ask(publish={"channel": channel, "data": data})


@contextlib.asynccontextmanager
async def connected(hub: HubProcess, user: str, *channels: str) -> AsyncIterator[User]:
    claims = {"sub": user, "exp": int(time.time()) + 600, "info": {"name": MARKUP}}
    async with websockets.connect(f"{hub.ws_url}/connection/websocket") as socket:
        client = User(socket)
        assert "connect" in await client.ask(connect={"token": jwt.encode(claims, SECRET, "HS256")})
        for channel in channels:
            assert "subscribe" in await client.ask(subscribe={"channel": channel})
        yield client


async def inside(hub: HubProcess, open_console: Open, fragment: str = "", **context: Any) -> Any:
    page = await open_console(f"{hub.url}/console{fragment}", **context)
    await log_in(page)
    await expect(page.locator("#state")).to_have_attribute("data-state", "live", timeout=PATIENCE)
    return page


async def test_only_the_password_opens_it(hub: HubProcess, open_console: Open) -> None:
    """A wrong one is refused with a sentence; the session outlives a reload and ends with the log-out."""
    page = await open_console(f"{hub.url}/console")
    await log_in(page, "a wrong one")
    await expect(page.locator("#login-fault")).to_have_text("The password is wrong.", timeout=PATIENCE)
    await expect(page.locator("#overview")).to_be_hidden()
    await log_in(page)
    await heard(page)
    await page.reload()
    await heard(page)
    await page.click("#logout")
    await expect(page.locator("#password")).to_be_focused(timeout=PATIENCE)
    assert await page.context.cookies() == []


async def test_all_workers_are_seen(hub: HubProcess, open_console: Open) -> None:
    """Whichever one serves the page: each is in the table with its figures, and the totals are of all."""
    async with contextlib.AsyncExitStack() as stack:
        for number in range(6):
            await stack.enter_async_context(connected(hub, f"user {number}", "chat:all"))
        page = await inside(hub, open_console)
        await expect(page.locator("#workers tr")).to_have_count(2, timeout=PATIENCE)
        assert set(await worker_rows(page)) == {str(pid) for pid in children(hub.pid, "hub.worker")}
        await expect(page.locator("#workers .badge")).to_have_text(["ready", "ready"])
        tile = page.locator(".tile", has_text="Connections").locator(".value")
        await expect(tile).to_have_text("6", timeout=PATIENCE)
        row = page.locator("#channels tr", has_text="chat:all").locator("td")
        await expect(row.first).to_have_text("6", timeout=PATIENCE)
        line = page.locator(".tile polyline").first
        await expect(line).to_have_attribute("points", re.compile(r"\d+,.* \d+,.* \d+,"), timeout=PATIENCE)
        await page.fill("#filter", "nothing like it")
        await expect(page.locator("#channels-note")).to_have_text("No channel with subscribers has such a name.")
        await page.fill("#filter", "chat:*")
        await expect(page.locator("#channels tr")).to_have_count(1)


async def test_more_channels_than_can_be_told(hub: HubProcess, open_console: Open) -> None:
    """The busiest are in the table; those that a filter names are asked for."""
    async with contextlib.AsyncExitStack() as stack:
        for part in range(3):
            names = [f"chat:many.{part}.{number}" for number in range(100)]
            await stack.enter_async_context(connected(hub, "many", *names))
        page = await inside(hub, open_console)
        await expect(page.locator("#channels-note")).to_contain_text("too many to show each", timeout=PATIENCE)
        await page.fill("#filter", "many.1.5")
        await expect(page.locator("#channels-note")).to_contain_text("Found at", timeout=PATIENCE)
        await expect(page.locator("#channels-count")).to_have_text("11 channels")
        await expect(page.locator("#channels tr")).to_have_count(11)
        await page.fill("#filter", "chat:many.?.7")
        await expect(page.locator("#channels a")).to_have_text(
            [f"chat:many.{part}.7" for part in range(3)], timeout=PATIENCE
        )


async def test_a_channel(hub: HubProcess, open_console: Open) -> None:
    """What is published comes as it happens, what was is read, who is there is listed, and a message goes out."""
    async with connected(hub, "ann", "chat:one") as ann:
        await ann.publish("chat:one", {"text": "before"})
        page = await inside(hub, open_console)
        await page.click("#channels a >> text=chat:one")
        await expect(page.locator("#tail-note")).to_have_text("waiting for the first message", timeout=PATIENCE)
        await expect(page.locator("#presence li")).to_have_count(1, timeout=PATIENCE)
        await ann.publish("chat:one", {"text": "now"})
        await expect(page.locator("#tail pre")).to_have_text(['{"text":"now"}'], timeout=PATIENCE)
        await page.click("#pause")
        await ann.publish("chat:one", {"text": "later"})
        await expect(page.locator("#tail-note")).to_have_text("paused, 1 more", timeout=PATIENCE)
        await page.fill("#message", "{no json")
        await page.click("#publish-form button")
        await expect(page.locator("#publish-fault")).to_contain_text("This is no JSON")
        await page.fill("#message", '{"text": "by hand"}')
        await page.click("#publish-form button")
        await expect(page.locator("#told")).to_have_text("Published at offset 4.", timeout=PATIENCE)
        await page.click("#pause")
        await expect(page.locator("#tail pre").last).to_have_text('{"text":"by hand"}', timeout=PATIENCE)
        await page.click("#read-history")
        texts = ['{"text":"by hand"}', '{"text":"later"}', '{"text":"now"}', '{"text":"before"}']
        await expect(page.locator("#history pre")).to_have_text(texts, timeout=PATIENCE)
        await page.click(".back")
        await expect(page.locator("#overview")).to_be_visible()
        await page.go_back()
        await expect(page.locator("#channel-name")).to_have_text("chat:one")


async def test_a_user_is_disconnected(hub: HubProcess, open_console: Open) -> None:
    """On whichever worker he is, and only when the question was answered with yes."""
    async with connected(hub, "bob", "chat:two") as one, connected(hub, "bob", "chat:two") as two:
        page = await inside(hub, open_console)
        await page.fill("#user", "bob")
        await page.press("#user", "Enter")
        await page.click("#ask button[value=no]")
        await expect(page.locator("#ask")).to_be_hidden()
        await one.publish("chat:two", "still here")
        await page.press("#user", "Enter")
        await page.click("#ask-yes")
        for user in (one, two):
            async with asyncio.timeout(PATIENCE / 1000):
                await user.socket.wait_closed()
            assert user.socket.close_code == 3503
        await expect(page.locator("#told")).to_have_text("The connections of “bob” are closed.")


async def test_markup_is_text_everywhere(hub: HubProcess, open_console: Open) -> None:
    """In names of channels and users, in what is published and known of people: nothing of it becomes an element."""
    channel = f"chat:{MARKUP}"
    async with connected(hub, MARKUP, channel) as eve:
        page = await inside(hub, open_console)
        await page.click("#channels a >> text=onerror")
        await expect(page.locator("#channel-name")).to_have_text(channel)
        await expect(page.locator("#tail-note")).to_have_text("waiting for the first message", timeout=PATIENCE)
        for data in (MARKUP, {MARKUP: [MARKUP]}, None, 5):
            await eve.publish(channel, data)
        shown = [MARKUP, json.dumps({MARKUP: [MARKUP]}, separators=(",", ":")), "null", "5"]
        await expect(page.locator("#tail pre")).to_have_text(shown, timeout=PATIENCE)
        await expect(page.locator("#tail bdi").first).to_have_text(MARKUP)
        await page.click("#read-history")
        await expect(page.locator("#history pre")).to_have_text(shown[::-1], timeout=PATIENCE)
        await expect(page.locator("#presence .who")).to_contain_text(MARKUP)
        await page.get_by_role("button", name="Disconnect <img").click()
        await expect(page.locator("#ask-text")).to_contain_text(MARKUP)
        await page.click("#ask button[value=no]")
        assert await page.title() == f"{channel} · hub console"
        assert await page.locator("main img, dialog img, .told img").count() == 0


async def test_a_phone_and_a_keyboard(hub: HubProcess, open_console: Open) -> None:
    """Nothing scrolls sideways on 360 pixels; the table is read out as one, and every field has a name."""
    phone = {"width": 360, "height": 640}
    wide = (
        "[document.documentElement, ...document.querySelectorAll('body, main, .card, table, .tile')]"
        ".filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.className || e.tagName)"
    )
    async with connected(hub, "c" * 100, f"chat:{'long' * 50}"):
        page = await inside(hub, open_console, viewport=phone, color_scheme="dark")
        await heard(page)
        await expect(page.locator("#channels tr")).to_have_count(1, timeout=PATIENCE)
        assert [name for name in await page.evaluate(wide) if name != "tile"] == []
        await expect(page.get_by_role("row", name="ready")).to_have_count(2, timeout=PATIENCE)
        long_state = "(badge) => (badge.lastChild.data = 'silent for 100 s', badge.scrollWidth - badge.clientWidth)"
        assert await page.locator("#workers .badge").first.evaluate(long_state) <= 0  # not into the next figure
        await page.locator("#channels a").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#channel-name")).to_be_focused()
        await expect(page.locator("#presence li")).to_have_count(1, timeout=PATIENCE)
        assert await page.evaluate(wide) == []
    unnamed = "[...document.querySelectorAll('input, textarea')].filter((e) => !e.labels.length && !e.ariaLabel).length"
    assert await page.evaluate(unnamed) == 1  # the name for password managers, which nobody sees


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_can_be_read(hub: HubProcess, open_console: Open, scheme: str) -> None:
    """In the system's colours, of whichever kind."""
    page = await inside(hub, open_console, color_scheme=scheme)
    await heard(page)
    ground = await page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
    assert (int(re.findall(r"\d+", ground)[0]) > 128) == (scheme == "light")
    for text in (".tile h3", ".tile .value", ".tile .note", ".workers th", ".badge", "#state", ".note", "button.quiet"):
        assert await contrast(page, text, ".tile") >= 4.5, text
    assert await contrast(page, ".main", ".main") >= 4.5


async def test_a_worker_is_replaced(hub: HubProcess, open_console: Open) -> None:
    """Another one serves first; then the old one closes its connections, ends, and is not there any more."""
    page = await inside(hub, open_console)
    await expect(page.locator("#workers tr")).to_have_count(2, timeout=PATIENCE)
    old = (await worker_rows(page))[0]
    await page.get_by_role("button", name=f"Replace worker {old}").click()
    await expect(page.locator("#ask-text")).to_contain_text("Another worker is started first.")
    await page.click("#ask-yes")
    row = page.locator("#workers tr", has=page.locator("small", has_text=f"{old} ·"))
    await expect(row).to_have_count(0, timeout=45_000)
    await expect(page.locator("#workers .badge")).to_have_text(["ready", "ready"], timeout=PATIENCE)
    assert int(old) not in children(hub.pid, "hub.worker")
    assert f"takes the place of {old}" in hub.log
    assert hub.status("/health/ready") == 200


async def test_in_an_application_of_ones_own(open_console: Open) -> None:
    """Under a path, in memory, guarded by a dependency: nothing to log out of, nobody to replace the worker."""
    embedded = Hub(Settings(), broker=MemoryBroker(), console=Depends(lambda: None))
    app = FastAPI()
    app.include_router(embedded.router, prefix="/some/where")
    async with serving(app) as (port, _):
        page = await open_console(f"http://127.0.0.1:{port}/some/where/console")
        await heard(page)
        await expect(page.locator("#workers .badge")).to_have_text("ready")
        await expect(page.locator("#logout")).to_be_hidden()
        await expect(page.locator("#workers button")).to_be_hidden()
        embedded.broker.ready = False  # type: ignore[misc]
        await expect(page.locator("#workers .badge")).to_have_text("not ready", timeout=PATIENCE)
        await page.goto("about:blank")
