"""The chat page and the raw page as a visitor uses them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, WebSocketRoute, expect

Visit = Callable[..., Awaitable[Page]]
Scripted = Callable[[WebSocketRoute], Awaitable[None]]


@pytest_asyncio.fixture(loop_scope="module")
async def visit(one_browser: Browser) -> AsyncIterator[Visit]:
    """Opens pages, each of its own visitor; an error, or what the console complains of, fails the test.

    `scripted` stands in for the hub's side of the sockets, `init` runs before the page's own script.
    """
    errors: list[str] = []
    visitors: list[BrowserContext] = []

    def logged(message: ConsoleMessage) -> None:
        # That a server is away is said by the browser itself.
        if message.type in ("error", "warning") and not message.text.startswith("WebSocket connection to"):
            errors.append(message.text)

    async def open_page(url: str, scripted: Scripted | None = None, init: str = "", **context: object) -> Page:
        visitors.append(await one_browser.new_context(**context))  # type: ignore[arg-type]
        page = await visitors[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", logged)
        if scripted is not None:
            await page.route_web_socket(re.compile("/ws/|/connection/"), scripted)
        await page.add_init_script(init)
        await page.goto(url)
        return page

    yield open_page
    for visitor in visitors:
        await visitor.close()
    assert errors == []


async def state(page: Page, expected: str) -> None:
    await expect(page.locator("#state")).to_have_attribute("data-state", expected, timeout=20_000)


async def online(page: Page) -> None:
    await state(page, "online")


async def say(page: Page, text: str) -> None:
    await page.fill("#text", text)
    await page.press("#text", "Enter")


async def delivered(page: Page, count: int) -> None:
    """`count` own messages came back through the hub, and none is under way or failed."""
    await expect(page.locator(".mine.delivered")).to_have_count(count, timeout=20_000)
    await expect(page.locator(".waiting, .failed")).to_have_count(0)


async def contrast(page: Page, text: str, ground: str) -> float:
    """The contrast ratio of WCAG between the colour of one element and the ground of another."""
    return float(await page.evaluate(_CONTRAST, [text, ground]))


_CONTRAST = """([a, b]) => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const of = (selector, property) => {
    context.fillStyle = getComputedStyle(document.querySelector(selector))[property];
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const [low, high] = [of(a, 'color'), of(b, 'backgroundColor')]
    .map((c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2])).sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}"""
