"""How the pages are served: relative addresses, under any path, and never stale."""

# ruff: noqa: F811 - a fixture that is imported is named again where a test asks for it

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from httpx2 import ASGITransport, AsyncClient
from playwright.async_api import expect

from hub.app import create_app
from hub.config import Settings
from tests.support.browser import one_browser  # noqa: F401
from tests.support.chat_page import Visit, delivered, online, say, visit  # noqa: F401
from tests.support.uvicorn_server import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def http() -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(create_app(Settings())), base_url="http://hub") as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/raw"])
async def test_pages_name_nothing_absolute(http: AsyncClient, path: str) -> None:
    """Each address on a page is relative, so that the page does not need to know where it is; browsers may not
    run what is not the hub's."""
    page = await http.get(path)
    addresses = re.findall(r'(?:src|href|data-\w+)="([^"]+)"', page.text)
    assert {"static/chat.css", "connection/websocket", "ws"} <= set(addresses)
    assert not [address for address in addresses if re.match(r"/|\w+:", address)]
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    assert page.headers["cache-control"] == "no-cache"


async def test_scripts_are_never_stale(http: AsyncClient) -> None:
    """Browsers ask each time, and are told if nothing has changed."""
    first = await http.get("/static/hub.js")
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["content-type"].startswith("text/javascript")
    again = await http.get("/static/hub.js", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.headers["cache-control"] == "no-cache"


def under(prefix: str, app: Any) -> Any:
    """A proxy that serves `app` under a path, which it takes away."""

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            assert scope["path"].startswith(prefix), scope["path"]
            path = scope["path"].removeprefix(prefix)
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await app(scope, receive, send)

    return proxy


@pytest.mark.browser
@pytest.mark.parametrize("page_path", ["", "raw"])
async def test_under_a_path(visit: Visit, page_path: str) -> None:
    """Both pages work behind a proxy that gives the hub a path of its own."""
    async with serving(under("/some/where", create_app(Settings()))) as (port, _):
        page = await visit(f"http://127.0.0.1:{port}/some/where/{page_path}")
        await online(page)
        await say(page, "hello")
        await delivered(page, 1)
        await page.locator("#other").click()
        await online(page)
        await expect(page.locator("#title")).to_have_text("lobby" if page_path else "chat:lobby")
        await page.goto("about:blank")
