"""The examples in a real Chromium, over two workers: what one window does, the window at the other worker shows."""

# ruff: noqa: F811 - a fixture that is imported is named again where a test asks for it

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

import hub.examples
from hub.embedded import EmbeddedServer
from hub.examples.gallery import EXAMPLES
from tests.support.browser import one_browser  # noqa: F401
from tests.support.chat_page import Visit, visit  # noqa: F401
from tests.support.examples import PATIENCE, freeze, kill, land, online, worker_of
from tests.support.server import HubProcess, hub_serve

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

FOLDER = Path(hub.examples.__file__).parent
# Milliseconds, as Playwright counts.
SOON = PATIENCE * 1000


@pytest.fixture(scope="module")
def redis_url(redis_binary: str) -> Iterator[str]:
    server = EmbeddedServer(Path(redis_binary))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def gallery(redis_url: str) -> Iterator[HubProcess]:
    """`hub serve --examples` with two workers."""
    arguments = ("--examples", "--workers", "2", "--drain", "0")
    with hub_serve(*arguments, env={"REDIS_URL": redis_url}) as process:
        yield process
        assert "Traceback" not in process.log


async def open_pages(visit: Visit, gallery: HubProcess, *paths: str) -> list[Page]:
    """One window for each path, each with a visitor of its own, all online."""
    pages = [await visit(f"{gallery.url}/examples/{path}") for path in paths]
    for page in pages:
        await online(page)
    return pages


async def until(page: Page, condition: str, argument: Any = None) -> None:
    """Wait for what JavaScript says about the page, which lets no `wait_for_function` evaluate texts."""
    async with asyncio.timeout(PATIENCE):
        while not await page.evaluate(condition, argument):  # noqa: ASYNC110 - the browser has no events for us
            await asyncio.sleep(0.02)


async def test_the_gallery_leads_everywhere(visit: Visit, gallery: HubProcess) -> None:
    """Each card opens an example, each example shows its program as text, and says what to look at in two sentences."""
    page = await visit(f"{gallery.url}/examples")
    links = page.locator(".gallery a")
    assert [await link.get_attribute("href") for link in await links.all()] == [f"{name}/" for name in EXAMPLES]
    for name in EXAMPLES:
        await page.goto(f"{gallery.url}/examples/{name}")
        await online(page)
        source = await page.request.get(f"{page.url}{await page.locator('.lead a').first.get_attribute('href')}")
        assert source.headers["content-type"] == "text/plain; charset=utf-8"
        assert await source.text() == (FOLDER / name / "app.py").read_text(encoding="utf-8")
        lead = (await page.locator(".lead").inner_text()).partition(" Source:")[0]
        assert lead.count(". ") == 1


async def test_chat(visit: Visit, gallery: HubProcess) -> None:
    """Both workers' windows read the same in the same order; markup is text; who comes later reads it too."""
    pages = await open_pages(visit, gallery, "chat/#test", "chat/#test")
    await land(gallery, *pages)
    said = ["is anybody there?", "<b>yes</b>", "good"]
    for number, text in enumerate(said):
        await pages[number % 2].fill("#text", text)
        await pages[number % 2].press("#text", "Enter")
        for page in pages:
            await expect(page.locator("#log li:not(.unsent) p")).to_have_text(said[: number + 1], timeout=SOON)
    [late] = await open_pages(visit, gallery, "chat/#test")
    await expect(late.locator("#log p")).to_have_text(said, timeout=SOON)
    for page in [*pages, late]:
        await expect(page.locator("#people")).to_have_text("you and 2 others", timeout=SOON)
        assert await page.locator("#log b").count() == 0


HEAR = """() => {
  window.heard = {};
  hub.on("publication", ({ data, offset }) => (heard[offset] = JSON.stringify(data)));
}"""


async def test_prices(visit: Visit, gallery: HubProcess) -> None:
    """Both windows show all prices, and the same of each tick."""
    pages = await open_pages(visit, gallery, "prices/", "prices/")
    await land(gallery, *pages)
    for page in pages:
        await page.evaluate(HEAR)
    common: set[str] = set()
    async with asyncio.timeout(PATIENCE):
        while len(common) < 3:
            one, other = [await page.evaluate("heard") for page in pages]
            common = one.keys() & other.keys()
    assert all(one[offset] == other[offset] for offset in common)
    for page in pages:
        await expect(page.locator(".prices .card")).to_have_count(8)


async def test_notifications(visit: Visit, gallery: HubProcess, redis_url: str) -> None:
    """A request to one worker and a script reach the user at the other, and nobody else, who may not listen either."""
    ann, bob = await open_pages(visit, gallery, "notifications/", "notifications/#bob")
    await land(gallery, ann, bob)
    await bob.fill("#text", "<i>ready</i>")
    await bob.click("button.main")
    await expect(ann.locator("#inbox li")).to_have_text(["<i>ready</i>"], timeout=SOON)
    script = [sys.executable, "-m", "hub.examples.notifications.notify", "ann", "from a script"]
    await asyncio.to_thread(subprocess.run, script, env={**os.environ, "REDIS_URL": redis_url}, check=True)
    await expect(ann.locator("#inbox li")).to_have_text(["from a script", "<i>ready</i>"], timeout=SOON)
    await expect(ann.locator("#count")).to_have_text("2")
    await ann.reload()
    await expect(ann.locator("#inbox li")).to_have_text(["from a script", "<i>ready</i>"], timeout=SOON)
    assert await bob.locator("#inbox li").count() == 0
    refused = "new Promise((resolve) => hub.subscribe('inbox:#ann').on('unsubscribed', ({ code }) => resolve(code)))"
    assert await bob.evaluate(refused) == 103


async def test_dashboard(visit: Visit, gallery: HubProcess) -> None:
    """Both windows have the lines of both workers, and a worker can be kept busy."""
    pages = await open_pages(visit, gallery, "dashboard/", "dashboard/")
    await land(gallery, *pages)
    names = [await worker_of(page) for page in pages]
    for page in pages:
        legend = "(names) => names.every((name) => document.querySelector('#legend').textContent.includes(name))"
        await until(page, legend, names)
        await until(page, "document.querySelectorAll('.charts g .line').length >= 6")
    assert await pages[1].evaluate("hub.rpc('dashboard.work').then(() => true)")
    await pages[0].click("#work")
    await expect(pages[0].locator("#work")).to_be_enabled(timeout=SOON)


STAR = "document.querySelector('#arena .star').parentNode.getAttribute('transform')"
PLACE = f"{STAR}.match(/[\\d.]+/g).map(Number)"


async def point_at_star(page: Page) -> None:
    box = await page.locator("#arena").bounding_box()
    assert box is not None
    x, y = await page.evaluate(PLACE)
    x += random.uniform(-20, 20)  # where it is already, a pointer does not move
    await page.mouse.move(box["x"] + x / 1000 * box["width"], box["y"] + y / 600 * box["height"])


async def test_game(visit: Visit, gallery: HubProcess) -> None:
    """Players see each other move; who touches the star has the point on both screens; who leaves is gone."""
    ann, bob = await open_pages(visit, gallery, "game/", "game/")
    await land(gallery, ann, bob)
    for page in (ann, bob):
        await until(page, "document.querySelectorAll('.player').length === 2 && document.querySelector('.mine')")
    user = await ann.get_attribute(".mine", "data-user")
    async with asyncio.timeout(PATIENCE):
        while not (said := await ann.locator("#points").inner_text()):
            await point_at_star(ann)
            await asyncio.sleep(0.5)
    assert re.fullmatch(r"you \d", said)
    await until(bob, "document.querySelector('#points').textContent")
    moved = "([user, where]) => document.querySelector(`[data-user='${user}']`).getAttribute('transform') === where"
    await until(bob, moved, [user, await ann.locator(".mine").get_attribute("transform")])
    await ann.close()
    await until(bob, "document.querySelectorAll('.player').length === 1")


async def test_one_star_for_two_hands(visit: Visit, gallery: HubProcess) -> None:
    """Two workers are asked for the same star at once: as many have it as the star has moved, which is once."""
    ann, bob = await open_pages(visit, gallery, "game/", "game/")
    await land(gallery, ann, bob)
    stars = "hub.subscription('stars:1').position.offset"
    before = [await page.evaluate(stars) for page in (ann, bob)]
    x, y = await ann.evaluate(PLACE)
    grab = "(at) => hub.rpc('game.catch', at)"
    tries = [page.evaluate(grab, {"x": x / 1000, "y": y / 600}) for page in (ann, bob) for _ in range(5)]
    caught = sum(await asyncio.gather(*tries))
    for page, start in zip((ann, bob), before, strict=True):
        await until(page, f"(wanted) => {stars} === wanted", start + caught)
    new_x, new_y = await ann.evaluate(PLACE)
    assert caught == 1 or max(abs(new_x - x) / 1000, abs(new_y - y) / 600) <= 2 * 0.06


PATHS = "[...document.querySelectorAll('#board [data-id]')].map((path) => path.getAttribute('d'))"


async def draw(page: Page, *points: tuple[float, float], lift: bool = True) -> None:
    box = await page.locator("#board").bounding_box()
    assert box is not None
    for number, (x, y) in enumerate(points):
        await page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if number == 0:
            await page.mouse.down()
    if lift:
        await page.mouse.up()


async def test_whiteboard(visit: Visit, gallery: HubProcess) -> None:
    """Strokes are on both boards, also those drawn while a worker dies; a newcomer has all; wiping wipes everywhere."""
    pages = await open_pages(visit, gallery, "whiteboard/#test", "whiteboard/#test")
    pids = await land(gallery, *pages)
    await draw(pages[0], (0.1, 0.1), (0.5, 0.2), (0.6, 0.9), lift=False)
    await expect(pages[1].locator("#board .pen")).to_have_count(1, timeout=SOON)
    await pages[0].mouse.up()
    await until(pages[1], f"{PATHS}.length === 1")
    freeze(pids[0])
    for number in range(4):
        await draw(pages[1], (0.2, 0.2 * number), (0.8, 0.1 + 0.2 * number))
        await draw(pages[0], (0.1 + 0.2 * number, 0.9), (0.1, 0.5))
    await kill(gallery, pids[0])
    await online(pages[0])
    [late] = await open_pages(visit, gallery, "whiteboard/#test")
    for page in (*pages, late):
        await until(page, f"{PATHS}.length === 9")
        await expect(page.locator("#board .pen")).to_have_count(0, timeout=SOON)
    drawn = [await page.evaluate(PATHS) for page in (*pages, late)]
    assert drawn[0] == drawn[1] == drawn[2]
    await late.click("#clear")
    for page in (*pages, late):
        await until(page, f"{PATHS}.length === 0")


async def test_text(visit: Visit, gallery: HubProcess) -> None:
    """Two write at once, at the same place, while a worker dies: all windows end equal, with every letter of both."""
    pages = await open_pages(visit, gallery, "text/#test", "text/#test")
    pids = await land(gallery, *pages)
    for page in pages:
        await expect(page.locator("#text")).to_be_enabled(timeout=SOON)
        await page.focus("#text")
    texts = ["The first writes this, 😀 and goes on. " * 2, "<b>AND SO DOES THE OTHER ONE!</b> " * 2]
    for page, text in zip(pages, texts, strict=True):
        await page.keyboard.type(text[:10])
    freeze(pids[1])
    written = asyncio.gather(*(page.keyboard.type(text[10:]) for page, text in zip(pages, texts, strict=True)))
    await until(pages[1], "text.value.length > 30")
    await kill(gallery, pids[1])
    await written
    [late] = await open_pages(visit, gallery, "text/#test")
    everybody = [*pages, late]
    for page in everybody:
        await online(page)
        await until(page, "(count) => [...document.querySelector('#text').value].length === count", len("".join(texts)))
    ends = [await page.input_value("#text") for page in everybody]
    assert ends[0] == ends[1] == ends[2]
    assert sorted(ends[0]) == sorted("".join(texts))
    await pages[0].press("#text", "Control+a")
    await pages[0].keyboard.type("x")
    for page in everybody:
        await until(page, "document.querySelector('#text').value === 'x'")


async def test_a_text_of_many_edits(visit: Visit, gallery: HubProcess) -> None:
    """The history has no room for all edits: who comes late begins with a copy, and has the same."""
    [page] = await open_pages(visit, gallery, "text/#long")
    await expect(page.locator("#text")).to_be_enabled(timeout=SOON)
    write = """async () => {
      for (let n = 0; n < 420; n++) {
        const place = n % 7 ? text.value.length : 0;
        text.setRangeText(n % 10 ? 'ab'[n % 2] : '\\n', place, place, 'end');
        text.dispatchEvent(new InputEvent('input'));
        if (n % 20 === 0) await hub.presence('text:long');
      }
      await hub.presence('text:long');
    }"""
    await page.evaluate(write)
    [late] = await open_pages(visit, gallery, "text/#long")
    await until(late, "(wanted) => document.querySelector('#text').value === wanted", await page.input_value("#text"))
    assert len(await late.input_value("#text")) == 420
    first = "hub.history('text:long', { limit: 1 }).then(({ publications }) => publications[0].offset)"
    assert await late.evaluate(first) > 1


def answer(question: str) -> str:
    text = (FOLDER / "stream" / "answer.txt").read_text(encoding="utf-8")
    return text.replace("{question}", question).rstrip()


async def words(page: Page, count: int) -> None:
    await until(page, "(count) => document.querySelector('#answer').textContent.split(' ').length >= count", count)


async def test_stream(visit: Visit, gallery: HubProcess) -> None:
    """The connection is cut, the page is loaded anew, and its worker is killed: each word is there once, in order."""
    [reader] = await open_pages(visit, gallery, "stream/")
    pids = await land(gallery, reader)
    await reader.fill("#question", "Why <b>me</b>?")
    await reader.click("#ask .main")
    await words(reader, 10)
    other = await visit(reader.url)
    await reader.click("#cut")
    await words(other, 30)
    await reader.reload()
    await words(reader, 40)
    pids = await land(gallery, reader, other)
    await kill(gallery, pids[0])
    await words(reader, 60)
    await reader.reload()
    for page in (reader, other):
        await expect(page.locator("#answer")).to_have_attribute("data-ended", "true", timeout=2 * SOON)
        assert await page.locator("#answer").text_content() == answer("Why <b>me</b>?")


async def test_the_writer_dies(visit: Visit, gallery: HubProcess) -> None:
    """The worker that writes an answer is killed while the reader is at the other one: that one goes on."""
    asker, reader = await open_pages(visit, gallery, "stream/", "stream/")
    pids = await land(gallery, asker, reader)
    whole = answer("Who goes on?")
    await asker.fill("#question", "Who goes on?")
    await asker.click("#ask .main")
    await words(asker, 5)
    address = asker.url
    await reader.evaluate("(address) => { location.hash = new URL(address).hash; }", address)
    await words(reader, 10)
    await asker.close()
    await kill(gallery, pids[0])
    heard = len((await reader.locator("#answer").inner_text()).split(" "))
    await words(reader, min(heard + 20, len(whole.split(" "))))
    assert whole.startswith(str(await reader.locator("#answer").text_content()))
