"""docs/browser.md: its pages and programs do what it says, in a real browser on the application that it shows."""

# ruff: noqa: F811 - a fixture that is imported is named again where a test asks for it

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_asyncio
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from playwright.async_api import Browser, Page, expect

from tests.support.browser import one_browser  # noqa: F401
from tests.support.fake_hub import STATIC, FakeHub, answer
from tests.support.hub_js import BUSY, STREAM, Script, fake, js  # noqa: F401
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually

GUIDE = (Path(__file__).parents[1] / "docs" / "browser.md").read_text()
SECRET = "a secret of at least thirty-two bytes"

# What comes before a program: what it shows, its sockets, which are slow to ask for a history and to tell of it, and a
# stop behind each block.
FRAME = """
window.shown = [], window.sockets = [], window.at = 0;
window.show = (text) => shown.push(text);
window.step = (number) => new Promise((resolve) => { window.next = resolve; window.at = number; });
const later = (slow, action) => (slow ? setTimeout(action, 150) : action());
window.WebSocket = class extends WebSocket {
  constructor(...a) { super(...a); sockets.push(this); }
  send(frame) { later(frame.includes('"history"'), () => super.send(frame)); }
  set onmessage(handler) {
    super.onmessage = handler && ((event) => later(event.data.includes('"history"'), () => handler(event)));
  }
};
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


class Site:
    """The application of the guide, being served, and its hub."""

    def __init__(self, program: dict[str, Any], port: int) -> None:
        self.hub = program["hub"]
        self.url = f"http://127.0.0.1:{port}"

    async def say(self, channel: str, text: str) -> None:
        await self.hub.publish(channel, {"text": text})


@pytest_asyncio.fixture(loop_scope="module")
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("HUB_TOKEN_HMAC_SECRET_KEY", SECRET)
    monkeypatch.setenv("HUB_ALLOW_ANONYMOUS_CONNECT_WITHOUT_TOKEN", "1")
    monkeypatch.delenv("REDIS_URL", raising=False)
    program: dict[str, Any] = {}
    (code,) = blocks("python")
    exec(code, program)
    add_pages(program["app"])
    async with serving(program["app"]) as (port, _):
        yield Site(program, port)


def add_pages(app: FastAPI) -> None:
    """What the guide leaves to the application: its pages, and where tokens come from."""

    @app.get("/first")
    def first() -> HTMLResponse:
        (html,) = blocks("html")
        return HTMLResponse(html)

    @app.get("/guide")
    def guide() -> HTMLResponse:
        return HTMLResponse("<!doctype html>")

    @app.post("/hub/token")
    def token(channel: str | None = None) -> dict[str, str]:
        claims = {"sub": "7", "exp": time.time() + 600, **({"channel": channel} if channel else {})}
        return {"token": jwt.encode(claims, SECRET)}


class Guide:
    """A page that runs all programs of the guide as one, and stops behind each."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._step = 0

    async def start(self) -> None:
        program = "".join(f"{block}\nawait step({number});\n" for number, block in enumerate(blocks("js"), 1))
        await self.page.add_script_tag(content=FRAME)
        await self.page.add_script_tag(type="module", content=program)
        await self._stopped()

    async def next(self) -> None:
        await self.page.evaluate("next()")
        await self._stopped()

    async def _stopped(self) -> None:
        self._step += 1
        await self.page.wait_for_function("(step) => at === step", arg=self._step)

    async def shown(self, *texts: str) -> None:
        """These were shown last, in this order."""
        wanted = "(texts) => JSON.stringify(shown.slice(-texts.length)) === JSON.stringify(texts)"
        await self.page.wait_for_function(wanted, arg=[*texts])


@pytest_asyncio.fixture(loop_scope="module")
async def guide(one_browser: Browser, site: Site) -> AsyncIterator[Guide]:
    """Before its start; an uncaught error of a program fails the test."""
    errors: list[str] = []

    page = await one_browser.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    await page.goto(f"{site.url}/guide")
    yield Guide(page)
    await page.close()
    assert errors == []


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_the_first_page(one_browser: Browser, site: Site) -> None:
    """Two visitors hear each other; what they say is text."""
    pages = [await one_browser.new_page() for _ in range(2)]
    for page in pages:
        await page.goto(f"{site.url}/first")
    for number, page in enumerate(pages):
        await page.get_by_label("Message").fill(f"<b>{number}</b>")
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("Message")).to_have_value("")
        await expect(pages[0].locator("#log li").last).to_have_text(f"<b>{number}</b>")
    await expect(pages[1].locator("#log li").last).to_have_text("<b>1</b>")
    for page in pages:
        await page.close()


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_the_programs(guide: Guide, site: Site) -> None:
    """From top to bottom, with a server that publishes, a connection that breaks, and a second visitor."""
    await guide.start()
    shown = await guide.page.evaluate("shown")
    assert shown[0] == "connecting"
    assert re.fullmatch(r"online as [0-9a-z-]+", shown[1])

    await guide.next()  # Subscriptions
    await site.say("chat:board", "from the server")
    await guide.shown("somebody: from the server")

    await guide.next()  # Publishing
    await guide.shown("somebody: hello", "not published: unknown channel (102)")

    await what_was_said(guide, site)
    await who_is_there(guide)

    await guide.next()  # Tokens
    await guide.shown("secret: we meet at noon")

    await guide.next()  # Asking the server
    await guide.shown("1 + 2 = 3")

    await guide.next()  # The end
    await guide.shown("no board: unsubscribe called (0)", "offline: disconnect called (0)")


async def what_was_said(guide: Guide, site: Site) -> None:
    """All of it, in a channel where something is said all the time, while the page comes and is interrupted twice."""
    drawn = "shown.filter((text) => /^\\d+: \\d+$/.test(text))"
    said = 0

    async def talk() -> None:
        nonlocal said
        for said in range(1, 91):
            await site.say("chat:news", str(said))
            await asyncio.sleep(0.02)

    talking = asyncio.create_task(talk())
    await eventually(lambda: said > 5)
    await guide.next()
    await guide.page.evaluate("sockets.at(-1).close()")
    await guide.page.wait_for_function(f"{drawn}.length > 0")
    await guide.page.evaluate("sockets.at(-1).close()")
    await talking
    await guide.page.wait_for_function(f"{drawn}.at(-1) === '90: 90'")
    assert await guide.page.evaluate(drawn) == [f"{number}: {number}" for number in range(1, 91)]


async def who_is_there(guide: Guide) -> None:
    await guide.next()
    await guide.shown("1 here")
    await guide.page.evaluate("""async () => {
      const { Hub } = await import('/static/hub.js');
      window.other = new Hub('/connection/websocket');
      other.subscribe('chat:board');
      await other.connect();
    }""")
    await guide.shown("2 here")
    await guide.page.evaluate("other.disconnect()")
    await guide.shown("1 here")


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_a_history_that_cannot_be_read(js: Script, fake: FakeHub) -> None:
    """What comes is shown all the same, and that something is missing."""
    (program,) = [block for block in blocks("js") if "history()" in block]
    await js.start("{}", "window.shown = [], window.show = (text) => shown.push(text)")
    await js.page.add_script_tag(content=program)
    connection = await fake.accept()
    await connection.greet(STREAM)
    asked = await connection.command()
    await connection.push("chat:news", pub={"data": {"text": "meanwhile"}, "offset": 5})
    await connection.send(answer(asked, BUSY))
    await connection.push("chat:news", pub={"data": {"text": "later"}, "offset": 6})
    await js.event("publication", 2)
    assert await js("shown") == ["what was said before cannot be read", "5: meanwhile", "6: later"]


def test_the_table_of_events() -> None:
    """It names all events of a subscription, and no other."""
    types = (STATIC / "hub.d.ts").read_text()
    (body,) = re.findall(r"^export interface SubscriptionEvents.*?\{\n(.*?)^\}", types, re.MULTILINE | re.DOTALL)
    table = GUIDE.partition("| event | when |")[2].partition("\n\n")[0]
    names = [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])]
    assert sorted(names) == sorted(re.findall(r"^  (\w+):", body, re.MULTILINE))
