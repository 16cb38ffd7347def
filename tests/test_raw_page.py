"""The page of raw rooms in a real browser: what it shows that the chat page does not."""

# ruff: noqa: F811 - a fixture that is imported is named again where a test asks for it

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import pytest
import websockets
from playwright.async_api import Page, expect

from tests.support.browser import one_browser  # noqa: F401
from tests.support.chat_page import Visit, contrast, delivered, online, say, visit  # noqa: F401
from tests.support.server import HubProcess, hub_serve

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

HELLO = '{"hub": {"hello": {"node": "abcdef12", "worker": 7, "room": "x"}}}'
# Greetings of other clients that would be a message of one's own, or one at no time.
MINE = '{"hub": {"hello": {"kind": "message", "mine": true, "user": "me", "text": "I owe eve 1000", "at": 1}}}'
NEVER = '{"hub": {"hello": {"kind": "message", "user": "x", "text": 5, "at": "x"}}}'


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with hub_serve("--workers", "2") as process:
        yield process


# Chat


async def test_two_windows_chat_across_workers(hub: HubProcess, visit: Visit) -> None:
    """Windows on different workers hear each other; who said it is shown, and one's own counts once relayed."""
    pages: dict[str, Page] = {}
    for _ in range(20):  # the kernel spreads connections as it likes
        page = await visit(f"{hub.url}/raw?room=kitchen")
        await online(page)
        await expect(page.locator("#worker")).to_have_text(re.compile(r"^worker \d+ · node [0-9a-f]{6}$"))
        pages.setdefault(await page.inner_text("#worker"), page)
        if len(pages) == 2:
            break
    ann, bob = pages.values()
    await ann.fill("#name", "Ann")
    await ann.press("#name", "Enter")
    await say(ann, "hello bob")
    await expect(bob.locator(".message .body").last).to_have_text("hello bob")
    await expect(bob.locator(".message .who bdi").last).to_have_text("Ann")
    await say(bob, "hello ann")
    await expect(ann.locator(".message:not(.mine) .body")).to_have_text("hello ann")
    await delivered(ann, 1)
    title = re.compile(r"Confirmed by the hub after \d+ ms")
    await expect(ann.locator(".mine .body")).to_have_attribute("title", title)


async def test_everything_from_the_network_is_text(hub: HubProcess, visit: Visit) -> None:
    """Markup is shown as it was typed; text, foreign JSON and binary of other clients, and false greetings too."""
    page = await visit(f"{hub.url}/raw?room=raw")
    await online(page)
    worker = await page.inner_text("#worker")
    markup = "<img src=x onerror=document.title='owned'> javascript:alert(1)"
    odd = ["just text", '{"price": 1}', "null", "[]", '{"hub": 5}', '{"user": {}, "text": "x"}', HELLO, MINE, NEVER]
    async with websockets.connect(f"{hub.ws_url}/ws/raw") as other:
        await other.send(json.dumps({"id": "1", "user": "<i>eve</i>", "text": markup, "at": 1e300}))
        for frame in [*odd, b"\x00\xff"]:
            await other.send(frame)
        await expect(page.locator(".body")).to_have_text([markup, *odd, "00 ff (2 bytes)"])
    await expect(page.locator(".who bdi").first).to_have_text("<i>eve</i>")
    await expect(page.locator(".raw")).to_have_count(len(odd) + 1)
    await expect(page.locator("#scroll :is(img, i, a)")).to_have_count(0)
    assert await page.title() == "#raw · hub raw rooms"
    assert await page.inner_text("#worker") == worker


# Rooms and names


async def test_rooms(hub: HubProcess, visit: Visit) -> None:
    """Rooms are addresses: going to one changes the address, going back returns, and each has its own messages."""
    page = await visit(f"{hub.url}/raw")
    await online(page)
    await expect(page.locator("#title")).to_have_text("lobby")
    await page.fill("#room", "räum & co/1")
    await page.press("#room", "Enter")
    await expect(page.locator("#title")).to_have_text("räum & co/1")
    await online(page)
    async with websockets.connect(f"{hub.ws_url}/ws/r%C3%A4um%20%26%20co%2F1") as other:
        await say(page, "only here")
        assert json.loads(await asyncio.wait_for(other.recv(), 5))["text"] == "only here"
    await delivered(page, 1)
    await page.go_back()
    await expect(page.locator("#title")).to_have_text("lobby")
    await expect(page.locator(".message")).to_have_count(0)
    await expect(page.locator("#rooms a")).to_have_count(2)
    await page.click("text=räum")
    await expect(page.locator(".mine .body")).to_have_text("only here")
    await expect(page.locator(".notice")).to_contain_text("what others said meanwhile is not shown")
    async with websockets.connect(f"{hub.ws_url}/ws/r%C3%A4um%20%26%20co%2F1") as other:
        await online(page)
        await other.send("welcome back")
        await expect(page.locator(".raw .body")).to_have_text("welcome back")


async def test_nothing_is_loaded_from_elsewhere(hub: HubProcess, visit: Visit) -> None:
    """The page, its script and its style come from the hub, and the page has no inline code."""
    page = await visit(f"{hub.url}/raw")
    await online(page)
    loaded = await page.evaluate("performance.getEntriesByType('resource').map(({name}) => new URL(name).origin)")
    assert set(loaded) == {hub.url}
    assert await page.locator("script:not([src]), style, [style]:not(textarea), [onclick]").count() == 0
