"""A real Chromium, driven by Playwright."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright

from .needs import chromium

# Root needs --no-sandbox; the rest keeps Chromium from looking for its maker's hosts.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Headless; a fresh one for each test, because a loop of its own drives it."""
    async with async_playwright() as playwright:
        driven = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield driven
        await driven.close()
