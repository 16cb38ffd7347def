"""The page of an application's channels, in a real browser."""

# ruff: noqa: F811 - a fixture that is imported is named again where a test asks for it

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import jwt
import pytest
from fastapi import FastAPI
from playwright.async_api import Browser, Locator, Page, expect

from hub import Settings
from tests.support import typed_app
from tests.support.browser import one_browser  # noqa: F401
from tests.support.uvicorn_server import serving

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

SECRET = "a secret of at least thirty-two bytes"

# Milliseconds.
PATIENCE = 20_000


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """`expect` waits as long; after the test as long as before."""
    expect.set_options(timeout=PATIENCE)
    yield
    expect.set_options(timeout=5_000)


@asynccontextmanager
async def shown(browser: Browser, app: FastAPI) -> AsyncIterator[Page]:
    page = await browser.new_page()
    page.set_default_timeout(PATIENCE)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: message.type == "error" and faults.append(message.text))
    async with serving(app) as (port, _):
        await page.goto(f"http://127.0.0.1:{port}/rt/asyncapi")
        yield page
        await page.close()
    assert not faults


def card(page: Page, title: str) -> Locator:
    return page.locator("details.card", has=page.get_by_role("heading", name=title, exact=True))


async def opened(page: Page, title: str) -> Locator:
    found = card(page, title)
    await found.locator("summary").click()
    return found


async def test_channels_are_listed(one_browser: Browser) -> None:
    """With their models as tables; those without a model stand apart."""
    async with shown(one_browser, typed_app.make()[0]) as page:
        await expect(page.locator("#title")).to_have_text("Rooms 1.2.3")
        await expect(page.locator("#state")).to_have_text("connected")
        await expect(page.locator("#channels h3")).to_have_text(
            ["chat:{room}", "chat:{room}:tree", "articles:{section}:{number}", "prices:{id}", "news:all"]
        )
        await expect(page.locator("#calls h3")).to_have_text(["rename", "server/time", "pages", "forget", "anything"])
        await expect(page.locator("#others h3")).to_have_text(["{name}"])
        chat = await opened(page, "chat:{room}")
        await expect(chat.locator("table caption")).to_have_text(["MessageWhat is said in a room.", "Author"])
        row = chat.locator("tr", has_text="text").first
        await expect(row).to_contain_text("at least 1 character, at most 200 characters")
        await expect(row.locator(".required")).to_be_visible()
        articles = await opened(page, "articles:{section}:{number}")
        await expect(articles.locator("select option")).to_have_text(["news", "sport"])
        await expect(articles).to_contain_text("Clients do not publish here.")
        await expect(articles.get_by_role("button", name="Publish")).to_have_count(0)


async def test_a_message_by_hand(one_browser: Browser) -> None:
    """The example is one that the model takes; what it does not take is answered with the field's name."""
    async with shown(one_browser, typed_app.make()[0]) as page:
        chat = await opened(page, "chat:{room}")
        await chat.get_by_role("button", name="Subscribe").click()  # a room is wanted
        await expect(chat.get_by_role("button", name="Unsubscribe")).to_have_count(0)
        await chat.get_by_label("room").fill("kitchen")
        await chat.get_by_role("button", name="Subscribe").click()
        await expect(chat.get_by_text("subscribed", exact=True)).to_be_visible()
        await chat.get_by_role("button", name="Publish").click()
        log = chat.get_by_role("log")
        await expect(log).to_contain_text('"text": "hello"')
        await expect(log).to_contain_text("#1 from client")
        await expect(chat.get_by_text("published", exact=True)).to_be_visible()

        await chat.get_by_label("Message").fill('{"text": ""}')
        await chat.get_by_role("button", name="Publish").click()
        await expect(chat).to_contain_text("author: Field required (107)")
        await chat.get_by_label("Message").fill("{")
        await chat.get_by_role("button", name="Publish").click()
        await expect(chat).to_contain_text("This is no JSON")

        await chat.get_by_label("room").fill("closed")  # another channel: the subscription has ended
        await expect(chat.get_by_role("button", name="Subscribe")).to_be_visible()
        await chat.get_by_label("Message").fill('{"text": "a", "author": {"name": "Ann"}}')
        await chat.get_by_role("button", name="Publish").click()
        await expect(chat).to_contain_text("permission denied (103)")


async def test_publications_are_shown_as_they_come(one_browser: Browser) -> None:
    """Those of the application too, as text."""
    app, hub = typed_app.make()
    async with shown(one_browser, app) as page:
        news = await opened(page, "news:all")
        await news.get_by_role("button", name="Subscribe").click()
        await expect(news.get_by_text("subscribed", exact=True)).to_be_visible()
        await hub.publish("news:all", {"<b>bold</b>": 1})
        await expect(news.get_by_role("log")).to_contain_text('"<b>bold</b>": 1')
        await expect(news.get_by_role("log")).to_contain_text("from the application")
        await news.get_by_role("button", name="Unsubscribe").click()
        await expect(news.get_by_role("button", name="Subscribe", exact=True)).to_be_visible()
        prices = await opened(page, "prices:{id}")
        await prices.get_by_label("id").fill("seven")
        await prices.get_by_role("button", name="Subscribe").click()
        await expect(prices).to_contain_text("Not subscribed: unknown channel (102)")


async def test_calls(one_browser: Browser) -> None:
    """With the data of the example, without data, and refused."""
    async with shown(one_browser, typed_app.make()[0]) as page:
        rename = await opened(page, "rename")
        await expect(rename).to_contain_text("Give yourself another name.")
        await rename.get_by_role("button", name="Call").click()
        await expect(rename.get_by_role("log")).to_contain_text('"after": "Bob"')
        await rename.get_by_label("Data").fill("{}")
        await rename.get_by_role("button", name="Call").click()
        await expect(rename).to_contain_text("data: name: Field required (107)")
        time = await opened(page, "server/time")
        await time.get_by_role("button", name="Call").click()
        await expect(time.get_by_role("log")).to_contain_text("2026-01-31")


async def test_a_hub_that_wants_a_token(one_browser: Browser) -> None:
    """The page asks for one, and connects with it."""
    app, _ = typed_app.make(Settings(token_hmac_secret_key=SECRET))
    async with shown(one_browser, app) as page:
        await expect(page.locator("#trouble")).to_contain_text("It may want a token.")
        await expect(page.locator("#about")).to_contain_text("Clients show a token.")
        await page.locator("#token").fill(jwt.encode({"sub": "7", "exp": time.time() + 600}, SECRET))
        await page.get_by_role("button", name="Connect anew").click()
        await expect(page.locator("#state")).to_have_text("connected")
        await expect(page.locator("#trouble")).to_be_hidden()
