"""A page with hub.js, and the server that its connection has at the other end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from .fake_hub import FakeConnection, FakeHub, Json, fake_hub

__all__ = ["BUSY", "EXPIRED", "REFUSED", "STREAM", "Online", "Script", "fake", "in_state", "js", "moved", "online"]

REFUSED = {"error": {"code": 103, "message": "permission denied"}}
BUSY = {"error": {"code": 100, "message": "internal server error", "temporary": True}}
EXPIRED = {"error": {"code": 109, "message": "token expired"}}
STREAM = {"recoverable": True, "positioned": True, "epoch": "abcd", "offset": 4}


_AS_JSON = "async (script) => JSON.stringify(await (0, eval)(script)) ?? 'null'"


class Script:
    """The page's side: JavaScript, and the events of `hub` so far."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def __call__(self, script: str) -> Any:
        """What an expression is, or what it resolves to, as JSON knows it."""
        return json.loads(await self.page.evaluate(_AS_JSON, script))

    async def start(self, options: str = "{}", then: str = "") -> None:
        await self(f"start({options}); void hub.connect(); {then}; 0")

    async def events(self, *names: str) -> list[Json]:
        """All, or those with these names."""
        events = await self("events")
        return [event for event in events if not names or event["event"] in names]

    async def event(self, name: str, number: int = 1) -> Json:
        """The `number`-th event of this name, once it has happened."""
        await self.page.wait_for_function(
            "([name, number]) => events.filter((each) => each.event === name).length >= number", arg=[name, number]
        )
        return (await self.events(name))[number - 1]

    async def names(self) -> list[str]:
        return [event["event"] for event in await self.events()]

    async def pass_time(self, seconds: float) -> None:
        """The page's clock, which stands still otherwise."""
        await self.page.clock.run_for(int(seconds * 1000))


@pytest_asyncio.fixture(loop_scope="module")
async def fake() -> AsyncIterator[FakeHub]:
    async with fake_hub() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def js(one_browser: Browser, fake: FakeHub) -> AsyncIterator[Script]:
    """A page with hub.js whose time stands still; an uncaught error there fails the test, unless it says `expected`."""
    errors: list[str] = []
    page = await one_browser.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    await page.clock.install(time=0)
    await page.goto(fake.url)
    await page.wait_for_function("window.start !== undefined")
    await page.clock.pause_at(3600_000)
    await page.evaluate("Math.random = () => 1")
    yield Script(page)
    await page.close()
    assert [error for error in errors if "expected" not in error] == []


Online = Callable[..., Awaitable[FakeConnection]]


@pytest.fixture
def online(js: Script, fake: FakeHub) -> Online:
    """Starts a hub with a subscription `sub` to `room`, answered with `result`; returns the server's side."""

    async def start(options: str = "{}", sub: str = "{}", result: Json | None = None, **connect: Any) -> FakeConnection:
        await js.start(options, f"window.sub = hub.subscribe('room', {sub})")
        connection = await fake.accept()
        await connection.greet(STREAM if result is None else result, **connect)
        await js.event("subscribed")
        return connection

    return start


async def moved(js: Script, seconds: float, fake: FakeHub) -> FakeConnection:
    """The connection that comes after the delay of so much time, and not long before."""
    await js.page.wait_for_function("events.findLast(({event}) => event === 'connecting').delay > 0")
    await js.pass_time(seconds - 0.1)
    assert fake.waiting == 0
    await js.pass_time(0.1)
    return await fake.accept()


async def in_state(js: Script, state: str) -> None:
    await js.page.wait_for_function("(state) => hub.state === state", arg=state)
