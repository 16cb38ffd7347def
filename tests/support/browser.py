"""A real Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from .needs import chromium

# Root needs --no-sandbox; the rest keeps Chromium from looking for its maker's hosts.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@contextlib.asynccontextmanager
async def _launched() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        driven = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield driven
        await driven.close()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Headless; a fresh one for each test, because a loop of its own drives it."""
    async with _launched() as driven:
        yield driven


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_browser() -> AsyncIterator[Browser]:
    """One for all tests of a module that run on one loop (`pytest.mark.asyncio(loop_scope="module")`)."""
    async with _launched() as driven:
        yield driven
