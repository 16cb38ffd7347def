"""The chat page in a real browser, over two workers."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator

import pytest
import websockets
from playwright.async_api import Browser, Page, expect

from tests.support.browser import browser  # noqa: F401
from tests.support.server import HubProcess, hub_serve

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with hub_serve("--workers", "2") as process:
        yield process


async def open_page(browser: Browser, url: str, **context: object) -> Page:  # noqa: F811
    """A page of its own visitor, online; any error on it fails the test."""
    page = await (await browser.new_context(**context)).new_page()  # type: ignore[arg-type]
    page.on("pageerror", lambda error: pytest.fail(f"error on the page: {error}"))
    await page.goto(url)
    return page


async def online(page: Page) -> None:
    await expect(page.locator("#state")).to_have_attribute("data-state", "online", timeout=20_000)


async def say(page: Page, text: str) -> None:
    await page.fill("#text", text)
    await page.press("#text", "Enter")


async def test_two_windows_chat_across_workers(hub: HubProcess, browser: Browser) -> None:  # noqa: F811
    """Windows on different workers hear each other; who said it is shown, and one's own counts once relayed."""
    pages: dict[str, Page] = {}
    for _ in range(20):  # the kernel spreads connections as it likes
        page = await open_page(browser, f"{hub.url}/?room=kitchen")
        await online(page)
        await expect(page.locator("#worker")).to_contain_text("worker")
        pages.setdefault(await page.inner_text("#worker"), page)
        if len(pages) == 2:
            break
    ann, bob = pages.values()
    await ann.fill("#name", "Ann")
    await ann.press("#name", "Enter")
    await say(ann, "hello bob")
    await expect(bob.locator(".message .body").last).to_have_text("hello bob")
    await expect(bob.locator(".message .who b").last).to_have_text("Ann")
    await say(bob, "hello ann")
    await expect(ann.locator(".message:not(.mine) .body")).to_have_text("hello ann")
    await expect(ann.locator(".mine .body")).to_have_text("hello bob")
    await expect(ann.locator(".waiting, .failed")).to_have_count(0)


async def test_everything_from_the_network_is_text(hub: HubProcess, browser: Browser) -> None:  # noqa: F811
    """Markup is shown as it was typed; plain text, foreign JSON and binary of other clients are shown too."""
    page = await open_page(browser, f"{hub.url}/?room=raw")
    await online(page)
    async with websockets.connect(f"{hub.ws_url}/ws/raw") as other:
        markup = "<img src=x onerror=document.title='owned'>"
        await other.send(json.dumps({"id": "1", "user": "<i>eve</i>", "text": markup, "at": 1e300}))
        await other.send("just text")
        await other.send('{"price": 1}')
        await other.send(b"\x00\x01")
        await expect(page.locator(".body")).to_have_text([markup, "just text", '{"price": 1}', "2 bytes"])
        await expect(page.locator(".who b").first).to_have_text("<i>eve</i>")
    assert await page.title() == "#raw · hub chat"


async def test_rooms(hub: HubProcess, browser: Browser) -> None:  # noqa: F811
    """Rooms are addresses: switching changes the address, going back returns, and each has its own messages."""
    page = await open_page(browser, f"{hub.url}/")
    await online(page)
    await expect(page.locator("#title")).to_have_text("lobby")
    await page.fill("#room", "räum & co/1")
    await page.press("#room", "Enter")
    await online(page)
    await expect(page.locator("#title")).to_have_text("räum & co/1")
    await say(page, "only here")
    await expect(page.locator(".waiting")).to_have_count(0)
    async with websockets.connect(f"{hub.ws_url}/ws/r%C3%A4um%20%26%20co%2F1") as other:
        await say(page, "and there")
        assert json.loads(await asyncio.wait_for(other.recv(), 5))["text"] == "and there"
    await page.go_back()
    await expect(page.locator("#title")).to_have_text("lobby")
    await expect(page.locator(".message")).to_have_count(0)
    await expect(page.locator("#rooms a")).to_have_count(2)


async def test_it_reconnects_and_sends_what_waited(browser: Browser) -> None:  # noqa: F811
    """A restart of the server is survived; what was typed meanwhile says so, and is sent afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with hub_serve("--port", port, "--drain", "0") as first:
        page = await open_page(browser, f"{first.url}/?room=x")
        await online(page)
    await expect(page.locator("#state")).to_have_attribute("data-state", re.compile("waiting|connecting"))
    await say(page, "are you there?")
    await expect(page.locator(".failed .note")).to_contain_text("Not sent: no connection.")
    with hub_serve("--port", port, "--drain", "0"):
        await online(page)
        await expect(page.locator(".failed, .waiting")).to_have_count(0)
        await expect(page.locator(".mine .body")).to_have_text("are you there?")


async def test_refusals_are_explained(browser: Browser) -> None:  # noqa: F811
    """A wrong token is not tried again but said; a right one leaves the address bar."""
    with hub_serve(env={"HUB_TOKEN": "s3cret"}) as hub:
        page = await open_page(browser, f"{hub.url}/")
        await expect(page.locator("#state-text")).to_have_text("The token is missing or not valid")
        await page.goto(f"{hub.url}/?room=x&token=s3cret")
        await online(page)
        assert page.url == f"{hub.url}/?room=x"
        assert "s3cret" not in hub.log


async def test_phone_and_dark(hub: HubProcess, browser: Browser) -> None:  # noqa: F811
    """On a phone nothing scrolls sideways, also with a long word; dark is dark."""
    phone = {"width": 360, "height": 640}
    page = await open_page(browser, f"{hub.url}/?room=phone", viewport=phone, color_scheme="dark")
    await online(page)
    await say(page, "x" * 300)
    await expect(page.locator(".mine .body")).to_have_count(1)
    assert await page.evaluate("document.documentElement.scrollWidth") == 360
    red = await page.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor")
    assert int(re.findall(r"\d+", red)[0]) < 64


async def test_keyboard(hub: HubProcess, browser: Browser) -> None:  # noqa: F811
    """Enter sends, Shift+Enter makes a line, Escape clears, and the focus stays in the message."""
    page = await open_page(browser, f"{hub.url}/?room=keys")
    await online(page)
    assert await page.evaluate("document.activeElement.id") == "text"
    await page.keyboard.type("one")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("two")
    await page.keyboard.press("Enter")
    await expect(page.locator(".mine .body")).to_have_text("one\ntwo", use_inner_text=True)
    await page.keyboard.type("draft")
    await page.keyboard.press("Escape")
    assert await page.input_value("#text") == ""
    assert await page.evaluate("[...document.querySelectorAll('input,textarea')].every(i => i.labels.length)")
