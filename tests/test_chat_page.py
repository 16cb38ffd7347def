"""The chat page in a real browser: what it shows, and for whom."""

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


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with hub_serve("--workers", "2") as process:
        yield process


# Chat


async def test_windows_chat_across_workers(hub: HubProcess, visit: Visit) -> None:
    """Windows on whichever worker hear each other; who said it is shown, and one's own is marked once it is taken."""
    pages = [await visit(f"{hub.url}/?room=kitchen") for _ in range(4)]
    for number, page in enumerate(pages):
        await online(page)
        await page.fill("#name", f"Visitor {number}")
        await page.press("#name", "Enter")
    for number, page in enumerate(pages):
        await say(page, f"hello from {number}")
        for other in pages:
            await expect(other.locator(".message .body")).to_have_count(number + 1)
    for number, page in enumerate(pages):
        said = [f"hello from {count}" for count in range(4)]
        assert await page.locator(".message .body").all_inner_texts() == said
        await delivered(page, 1)
        await expect(page.locator(".mine .body")).to_have_text(f"hello from {number}")
    await expect(pages[0].locator(".message .who bdi").last).to_have_text("Visitor 3")
    title = re.compile(r"Confirmed by the hub after \d+ ms")
    await expect(pages[0].locator(".mine .body")).to_have_attribute("title", title)


async def test_what_was_said_before(hub: HubProcess, visit: Visit) -> None:
    """Who comes later reads it, in order and once; after a reload one's own messages are still one's own."""
    ann = await visit(f"{hub.url}/?room=before")
    await online(ann)
    for text in ("one", "two"):
        await say(ann, text)
    await delivered(ann, 2)
    async with websockets.connect(f"{hub.ws_url}/ws/chat:before?echo=0") as raw:
        await raw.send("three")
        await expect(ann.locator(".body")).to_have_text(["one", "two", "three"])
    bob = await visit(f"{hub.url}/?room=before")
    await expect(bob.locator(".body")).to_have_text(["one", "two", "three"])
    await expect(bob.locator(".mine")).to_have_count(0)
    await expect(bob.locator("#empty")).to_be_hidden()
    await ann.reload()
    await expect(ann.locator(".body")).to_have_text(["one", "two", "three"])
    await delivered(ann, 2)
    await say(bob, "four")
    for page in (ann, bob):
        await expect(page.locator(".body")).to_have_text(["one", "two", "three", "four"])


async def test_messages_of_one_person_are_grouped(hub: HubProcess, visit: Visit) -> None:
    """The name stands once over what one person says in a row, with the time that the message carries."""
    page = await visit(f"{hub.url}/?room=groups", timezone_id="UTC", locale="en-GB")
    await online(page)
    at = await page.evaluate("Date.now() - 3600_000")
    async with websockets.connect(f"{hub.ws_url}/ws/chat:groups") as other:
        for count, user in enumerate(["eve", "eve", "bob"]):
            await other.send(json.dumps({"id": str(count), "user": user, "text": user, "at": at}))
        await expect(page.locator(".message")).to_have_count(3)
    assert await page.locator(".who:visible bdi").all_inner_texts() == ["eve", "bob"]
    hour = await page.evaluate(f"new Date({at}).toISOString().slice(11, 16)")
    assert await page.locator(".who:visible time").first.inner_text() == hour


async def test_everything_from_the_network_is_text(hub: HubProcess, visit: Visit) -> None:
    """Markup is shown as it was typed; text, foreign JSON and binary of other clients too."""
    page = await visit(f"{hub.url}/?room=raw")
    await online(page)
    markup = "<img src=x onerror=document.title='owned'> javascript:alert(1)"
    odd = ["just text", '{"price":1}', "null", "[]", '{"hub":5}', '{"user":{},"text":"x"}', '{"b64data":"%"}', "3"]
    async with websockets.connect(f"{hub.ws_url}/ws/chat:raw") as other:
        await other.send(json.dumps({"id": "1", "user": "<i>eve</i>", "text": markup, "at": 1e300}))
        for frame in [*odd, b"\x00\xff"]:
            await other.send(frame)
        await expect(page.locator(".body")).to_have_text([markup, *odd, "00 ff (2 bytes)"])
    await expect(page.locator(".who bdi").first).to_have_text("<i>eve</i>")
    await expect(page.locator(".raw")).to_have_count(len(odd) + 1)
    await expect(page.locator("#scroll :is(img, i, a)")).to_have_count(0)
    assert await page.title() == "#raw · hub chat"


async def test_addresses_are_links(hub: HubProcess, visit: Visit) -> None:
    """A web address in a message can be followed, without the full stop after it and without telling where from."""
    page = await visit(f"{hub.url}/?room=links")
    await online(page)
    await say(page, "see https://example.com/a?b=1, or <http://example.org>.")
    links = page.locator(".body a")
    await expect(links).to_have_text(["https://example.com/a?b=1", "http://example.org"])
    await expect(links.first).to_have_attribute("rel", "noopener noreferrer")
    await expect(page.locator(".body")).to_have_text("see https://example.com/a?b=1, or <http://example.org>.")


async def test_reading_older_messages_is_not_disturbed(hub: HubProcess, visit: Visit) -> None:
    """Who scrolled up stays there and is told of news; a press brings the newest, and then the log follows."""
    page = await visit(f"{hub.url}/?room=scroll")
    await online(page)
    async with websockets.connect(f"{hub.ws_url}/ws/chat:scroll?echo=0") as other:
        for count in range(60):
            await other.send(f"line {count}")
        await expect(page.locator(".body")).to_have_count(60)
        await expect(page.locator(".body").last).to_be_in_viewport()
        await page.hover("#scroll")
        await page.mouse.wheel(0, -100_000)
        await expect(page.locator(".body").first).to_be_in_viewport()
        await other.send("news")
        await expect(page.locator("#newer")).to_be_visible()
        await expect(page.locator(".body").first).to_be_in_viewport()
        await page.click("#newer")
        await expect(page.locator(".body").last).to_be_in_viewport()
        await expect(page.locator("#newer")).to_be_hidden()


LOOKED_AT = """(visible) => {
  Object.defineProperty(document, 'hidden', { value: !visible, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""


async def test_what_is_new(hub: HubProcess, visit: Visit) -> None:
    """What others say while nobody looks is counted in the title and stands under a line, until one answers."""
    page = await visit(f"{hub.url}/?room=new")
    await online(page)

    async def shown(*texts: str) -> None:
        await expect(page.locator(".log > .unread, .log .body")).to_have_text(texts)

    async def to(room: str) -> None:
        await page.click(f"#rooms >> text={room}")
        await online(page)

    async with websockets.connect(f"{hub.ws_url}/ws/chat:new") as other:

        async def others_say(*texts: str) -> None:
            for text in texts:
                await other.send(text)
                while await asyncio.wait_for(other.recv(), 10) != text:
                    pass

        await others_say("one")
        await shown("one")
        await page.evaluate(LOOKED_AT, False)
        await others_say("two", "three")
        await expect(page).to_have_title("(2) #new · hub chat")
        await page.evaluate(LOOKED_AT, True)
        await expect(page).to_have_title("#new · hub chat")
        await others_say("four")
        await shown("one", "New", "two", "three", "four")
        await expect(page.locator(".unread + .message .who")).to_be_visible()
        await say(page, "five")
        await shown("one", "two", "three", "four", "five")
        await delivered(page, 1)
        await to("lobby")
        await others_say("six")
        await to("new")
        await shown("one", "two", "three", "four", "five", "New", "six")
        await to("lobby")
        await to("new")
        await others_say("seven")
        await shown("one", "two", "three", "four", "five", "New", "six", "seven")


async def test_a_flood(hub: HubProcess, visit: Visit) -> None:
    """Of very many messages the page keeps the latest, and shows the end of them."""
    page = await visit(f"{hub.url}/?room=flood")
    await online(page)
    async with websockets.connect(f"{hub.ws_url}/ws/chat:flood?echo=0") as other:
        for count in range(600):
            # Tall ones first: when they go, the log becomes shorter.
            await other.send(f"line {count}" + "\n" * (9 if count < 400 else 0))
        await expect(page.locator(".body").last).to_have_text("line 599", timeout=20_000)
    await expect(page.locator(".log > li")).to_have_count(500)
    await expect(page.locator(".body").first).to_have_text("line 100")
    await expect(page.locator(".body").last).to_be_in_viewport()


# People


async def named(visit: Visit, url: str, name: str) -> Page:
    """A visitor with a name, in the room."""
    keep = f"localStorage.getItem('hub.name') ?? localStorage.setItem('hub.name', JSON.stringify('{name}'))"
    page = await visit(url, init=keep)
    await online(page)
    return page


async def test_who_is_there(hub: HubProcess, visit: Visit) -> None:
    """By name, oneself first; who comes, goes or takes another name is seen by all."""
    url = f"{hub.url}/?room=people"
    ann, bob = [await named(visit, url, name) for name in ("Ann", "Bob")]
    await expect(ann.locator("#people li")).to_have_text(["Ann (you)", "Bob"])
    await expect(bob.locator("#people li")).to_have_text(["Bob (you)", "Ann"])
    cy = await named(visit, url, "<b>Cy</b>")
    await expect(cy.locator("#people li")).to_have_text(["<b>Cy</b> (you)", "Ann", "Bob"])
    await expect(ann.locator("#people li")).to_have_text(["Ann (you)", "<b>Cy</b>", "Bob"])
    await expect(ann.locator("#count")).to_have_text("3 here")
    await bob.fill("#name", "Ann")
    await bob.press("#name", "Enter")
    await expect(cy.locator("#people li")).to_have_text(["<b>Cy</b> (you)", "Ann (2)"])
    await ann.context.close()
    await expect(cy.locator("#people li")).to_have_text(["<b>Cy</b> (you)", "Ann"])
    await bob.click("#rooms >> text=lobby")
    await expect(cy.locator("#count")).to_have_text("1 here")
    await bob.click("#rooms >> text=people")
    await expect(cy.locator("#people li")).to_have_text(["<b>Cy</b> (you)", "Ann"])


async def test_who_is_typing(hub: HubProcess, visit: Visit) -> None:
    """Others see it while somebody types, until the message is there, the box is empty, or nothing comes for long."""
    url = f"{hub.url}/?room=typing%3A1%25"
    ann, bob = [await named(visit, url, name) for name in ("Ann", "Bob")]
    await expect(ann.locator("#count")).to_have_text("2 here")
    await expect(bob.locator("#people li")).to_have_text(["Bob (you)", "Ann"])
    await ann.locator("#text").press_sequentially("Hi")
    await expect(bob.locator("#typing")).to_have_text("Ann is typing…")
    await expect(ann.locator("#typing")).to_have_text("")
    await ann.press("#text", "Enter")
    await expect(bob.locator(".body")).to_have_text("Hi")
    await expect(bob.locator("#typing")).to_have_text("")
    await ann.locator("#text").press_sequentially("H")
    await expect(bob.locator("#typing")).to_have_text("Ann is typing…")
    await ann.press("#text", "Backspace")
    await expect(bob.locator("#typing")).to_have_text("")
    await bob.clock.install()
    await ann.locator("#text").press_sequentially("H")
    await expect(bob.locator("#typing")).to_have_text("Ann is typing…")
    await bob.clock.run_for(6000)
    await expect(bob.locator("#typing")).to_have_text("")
    late = await visit(url)
    await expect(late.locator(".body")).to_have_text(["Hi"])


# Rooms and names


async def test_rooms(hub: HubProcess, visit: Visit) -> None:
    """Rooms are addresses: going to one changes the address, going back returns, and each has its own messages.

    What was said in a room while one was in another is there when one comes back.
    """
    page = await visit(f"{hub.url}/")
    await online(page)
    await expect(page.locator("#title")).to_have_text("lobby")
    await page.fill("#room", "räum & co/1")
    await page.press("#room", "Enter")
    await expect(page.locator("#title")).to_have_text("räum & co/1")
    await online(page)
    async with websockets.connect(f"{hub.ws_url}/ws/chat%3Ar%C3%A4um%20%26%20co%2F1?echo=0") as other:
        await say(page, "only here")
        assert json.loads(await asyncio.wait_for(other.recv(), 5))["text"] == "only here"
        await delivered(page, 1)
        await page.go_back()
        await expect(page.locator("#title")).to_have_text("lobby")
        await online(page)
        await expect(page.locator(".message")).to_have_count(0)
        await expect(page.locator("#rooms a")).to_have_count(2)
        await other.send("while you were away")
        await page.click("text=räum")
        await expect(page.locator(".body")).to_have_text(["only here", "while you were away"])
        await other.send("welcome back")
        await expect(page.locator(".body").last).to_have_text("welcome back")
    await expect(page.locator(".notice")).to_have_count(0)


async def test_the_same_room_raw(hub: HubProcess, visit: Visit) -> None:
    """Each page links to the other, to the same room, and they hear each other."""
    page = await visit(f"{hub.url}/?room=both")
    await online(page)
    async with page.context.expect_page() as opened:
        await page.get_by_role("link", name="as a raw room").click(modifiers=["Control"])
    raw = await opened.value
    await online(raw)
    await say(raw, "from raw")
    await expect(page.locator(".body")).to_have_text("from raw")
    await say(page, "from the chat")
    await expect(raw.locator(".body").last).to_have_text("from the chat")
    await raw.get_by_role("link", name="the chat").click()
    await expect(raw.locator(".body")).to_have_text(["from raw", "from the chat"])
    await expect(raw.locator("#title")).to_have_text("both")


async def test_the_name_is_kept(hub: HubProcess, visit: Visit) -> None:
    """A visitor has a name from the start; the one that is chosen is there after a reload, an empty one is not."""
    page = await visit(f"{hub.url}/")
    assert re.fullmatch(r"\w+ \w+", await page.input_value("#name"))
    await page.fill("#name", " Zoë ")
    await page.press("#name", "Tab")
    await page.reload()
    assert await page.input_value("#name") == "Zoë"
    await page.fill("#name", " ")
    await page.press("#name", "Tab")
    assert (await page.input_value("#name")).strip() != ""


# Everybody


async def test_phone(hub: HubProcess, visit: Visit) -> None:
    """On a phone nothing scrolls sideways, whatever is said in whatever room; rooms and name are behind a button."""
    page = await visit(f"{hub.url}/?room={'long' * 40}", viewport={"width": 360, "height": 640}, has_touch=True)
    await online(page)
    await page.get_by_role("button", name="Rooms and name").tap()
    await page.fill("#name", "N" * 40)
    await page.press("#name", "Escape")
    await expect(page.locator("#side")).to_be_hidden()
    await say(page, "x" * 300)
    await delivered(page, 1)
    assert (
        await page.evaluate(
            "[document.documentElement, ...document.querySelectorAll('body, main, .scroll, .bar')]"
            ".filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.className)"
        )
        == []
    )
    await expect(page.locator("#send")).to_be_in_viewport(ratio=1)
    await page.get_by_role("button", name="Rooms and name").tap()
    await page.locator("#rooms a", has_text="lobby").tap()
    await expect(page.locator("#side")).to_be_hidden()
    await expect(page.locator("#title")).to_have_text("lobby")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_light_and_dark(hub: HubProcess, visit: Visit, scheme: str) -> None:
    """The page follows the system's colours, and what it says can be read in both."""
    page = await visit(f"{hub.url}/?room={scheme}", color_scheme=scheme)
    await online(page)
    await say(page, "hello")
    await delivered(page, 1)
    ground = await page.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor")
    assert (int(re.findall(r"\d+", ground)[0]) > 128) == (scheme == "light")
    for text in [".who bdi", "time", "#state", "#count", "#copy"]:
        assert await contrast(page, text, "main") >= 4.5, text
    assert await contrast(page, ".label", ".side") >= 4.5
    assert await contrast(page, "#people li", ".side") >= 4.5
    assert await contrast(page, "#typing", "main") >= 4.5
    assert await contrast(page, ".mine .body", ".mine .body") >= 4.5
    assert await contrast(page, "#send", "#send") >= 4.5


async def test_keyboard(hub: HubProcess, visit: Visit) -> None:
    """Enter sends, Shift+Enter makes a line, Escape comes back to the message and loses none of it."""
    page = await visit(f"{hub.url}/?room=keys")
    await online(page)
    assert await page.evaluate("document.activeElement.id") == "text"
    await page.keyboard.type("one")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("two")
    await page.keyboard.press("Enter")
    await expect(page.locator(".mine .body")).to_have_text("one\ntwo", use_inner_text=True)
    await page.keyboard.type("draft")
    await page.focus("#room")
    await page.keyboard.press("Escape")
    assert await page.evaluate("document.activeElement.id") == "text"
    await page.keyboard.press("Escape")
    assert await page.input_value("#text") == "draft"
    await page.keyboard.press("Control+A")
    await page.keyboard.type("   ")
    await page.keyboard.press("Enter")
    await delivered(page, 1)


async def test_the_focus_is_never_lost(hub: HubProcess, visit: Visit) -> None:
    """When what had it goes away, one can type on."""
    page = await visit(f"{hub.url}/?room=focus")
    await online(page)
    async with websockets.connect(f"{hub.ws_url}/ws/chat:focus?echo=0") as other:
        for count in range(40):
            await other.send(f"line {count}")
        await expect(page.locator(".body")).to_have_count(40)
        await expect(page.locator(".body").last).to_be_in_viewport()
        await page.hover("#scroll")
        await page.mouse.wheel(0, -100_000)
        await expect(page.locator(".body").first).to_be_in_viewport()
        await other.send("news")
        await expect(page.locator("#newer")).to_be_visible()
        await page.focus("#newer")
        await page.keyboard.press("Enter")
    await expect(page.locator("#newer")).to_be_hidden()
    assert await page.evaluate("document.activeElement.id") == "text"


async def test_from_right_to_left(hub: HubProcess, visit: Visit) -> None:
    """What is written in Hebrew or Arabic runs as it should, and nothing around it turns."""
    page = await named(visit, f"{hub.url}/?room=%D7%A9%D7%99%D7%97%D7%94", "עדה")
    await say(page, "שלום!")
    await say(page, "and this is English.")
    await delivered(page, 2)
    await page.fill("#text", "עוד")
    directions = "(selector) => [...document.querySelectorAll(selector)].map((e) => getComputedStyle(e).direction)"
    assert await page.evaluate(directions, ".body") == ["rtl", "ltr"]
    assert await page.evaluate(directions, "#title, #text, #name, .rooms a[aria-current]") == ["rtl"] * 4
    assert await page.evaluate(directions, ".who, .bar, #people li, main") == ["ltr"] * 5


async def test_a_screen_reader_is_told(hub: HubProcess, visit: Visit) -> None:
    """The log, the state and every control have a role and a name.

    The countdown is not read out each second, nor the history when one comes into a room.
    """
    page = await visit(f"{hub.url}/?room=a11y")
    await online(page)
    await say(page, "hello")
    log = page.get_by_role("log", name="Messages")
    assert await page.evaluate(
        "fetch('.').then((page) => page.text()).then((text) => text.includes('aria-live=\"off\"'))"
    )
    await expect(log).to_have_attribute("aria-live", "polite")
    await expect(log.get_by_role("list").get_by_role("listitem")).to_have_count(1)
    await expect(page.get_by_role("status").first).to_contain_text("online")
    await expect(page.get_by_role("link", name="a11y")).to_have_attribute("aria-current", "page")
    for name in ["Message", "Go to another room", "Your name"]:
        await expect(page.get_by_role("textbox", name=name, exact=True)).to_be_visible()
    unnamed = "[...document.querySelectorAll('input, textarea')].filter((e) => !e.labels.length && !e.ariaLabel).length"
    assert await page.evaluate(unnamed) == 0
    await expect(page.locator("#state #countdown")).to_have_attribute("aria-hidden", "true")
    to_another = (
        "(document.querySelector('#rooms a:not([aria-current])').click(), document.querySelector('#scroll').ariaLive)"
    )
    assert await page.evaluate(to_another) == "off"
    await expect(log).to_have_attribute("aria-live", "polite")


async def test_less_motion(hub: HubProcess, visit: Visit) -> None:
    """Nothing moves for somebody who asked the system for less motion."""
    page = await visit(f"{hub.url}/?room=calm", reduced_motion="reduce")
    await online(page)
    await say(page, "hello")
    await delivered(page, 1)
    assert await page.evaluate("document.getAnimations().length") == 0
    assert await page.evaluate("getComputedStyle(document.querySelector('.message')).animationName") == "none"


async def test_nothing_is_loaded_from_elsewhere(hub: HubProcess, visit: Visit) -> None:
    """The page, its script and its style come from the hub, and the page has no inline code."""
    page = await visit(f"{hub.url}/")
    await online(page)
    loaded = await page.evaluate("performance.getEntriesByType('resource').map(({name}) => new URL(name).origin)")
    assert set(loaded) == {hub.url}
    assert await page.locator("script:not([src]), style, [style]:not(textarea), [onclick]").count() == 0
