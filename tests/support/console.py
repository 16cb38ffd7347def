"""The console as somebody with a pager uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, expect

__all__ = ["PASSWORD", "PATIENCE", "Open", "heard", "log_in", "open_console", "worker_rows"]

PASSWORD = "correct horse battery"
# Milliseconds for what must happen.
PATIENCE = 20_000

Open = Callable[..., Awaitable[Page]]
# That nobody is logged in yet is said by the browser itself; so is a server that is away.
_USUAL = ("401", "429", "WebSocket connection to", "net::ERR_")


@pytest_asyncio.fixture(loop_scope="module")
async def open_console(one_browser: Browser) -> AsyncIterator[Open]:
    """Opens pages, each in a browser of its own; an error of the page, or a dialog of its own, fails the test."""
    errors: list[str] = []
    contexts: list[BrowserContext] = []

    def logged(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(text in message.text for text in _USUAL):
            errors.append(message.text)

    async def dismissed(dialog: Any) -> None:
        errors.append(f"a dialog says {dialog.message}")
        await dialog.dismiss()

    async def open_page(url: str, **context: Any) -> Page:
        contexts.append(await one_browser.new_context(**context))
        page = await contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", logged)
        page.on("dialog", dismissed)
        await page.goto(url)
        return page

    yield open_page
    for context in contexts:
        await context.close()
    assert errors == [], errors


async def log_in(page: Page, password: str = PASSWORD) -> None:
    """Until that is answered; again where the tests before have tried too often."""
    field, alert = page.locator("#password"), page.get_by_role("alert")
    await field.fill(password)
    await field.press("Enter")
    while await field.is_visible():
        said = await alert.inner_text() if await alert.is_visible() else ""
        if "too often" in said:
            await page.wait_for_timeout(5000)
            await field.press("Enter")
        elif said:
            return
        await page.wait_for_timeout(50)


async def heard(page: Page) -> None:
    """It is connected and shows what workers tell."""
    await expect(page.locator("#state")).to_have_attribute("data-state", "live", timeout=PATIENCE)
    await expect(page.locator("#workers tr").first).to_be_attached(timeout=PATIENCE)


async def worker_rows(page: Page) -> list[str]:
    """The process ids in the table of workers."""
    return [name.split(" · ")[0] for name in await page.locator("#workers small").all_inner_texts()]
