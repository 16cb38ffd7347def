"""The raw page's connection in a real browser: restarts, refusals, and a hub that misbehaves."""

# ruff: noqa: F811 - a fixture that is imported is named again where a test asks for it

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator

import pytest
import websockets
from playwright.async_api import WebSocketRoute, expect

from hub.embedded import EmbeddedServer
from tests.support.browser import one_browser  # noqa: F401
from tests.support.chat_page import Visit, delivered, online, say, state, visit  # noqa: F401
from tests.support.server import HubProcess, hub_serve
from tests.support.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

HELLO = '{"hub": {"hello": {"node": "abcdef12", "worker": 7, "room": "x"}}}'


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with hub_serve() as process:
        yield process


@pytest.fixture
def port() -> str:
    """A port that a second server can take after the first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


# Connection


async def test_it_reconnects_and_sends_what_waited(port: str, visit: Visit) -> None:
    """A restart of the server is survived; what was typed meanwhile says so, and is sent afterwards, once."""
    with hub_serve("--port", port, "--drain", "0") as first:
        page = await visit(f"{first.url}/raw?room=x")
        await online(page)
        await say(page, "before")
        await delivered(page, 1)
    await expect(page.locator("#state")).to_have_attribute("data-state", re.compile("waiting|connecting"))
    await say(page, "are you there?")
    await say(page, "never mind")
    await expect(page.locator(".failed .note").first).to_contain_text("Not sent yet: no connection.")
    await expect(page.locator("#why")).to_have_text("The server cannot be reached.")
    await page.locator(".failed", has_text="never mind").get_by_role("button", name="Discard").click()
    with hub_serve("--port", port, "--drain", "0") as second:
        await page.evaluate("window.dispatchEvent(new Event('online'))")
        await delivered(page, 2)
        assert await page.locator(".mine .body").all_inner_texts() == ["before", "are you there?"]
        await expect(page.locator(".notice")).to_contain_text("Not connected")
        await expect(page.locator("#trouble")).to_be_hidden()
        assert second.port == first.port


async def test_delays_grow_and_a_network_ends_them(hub: HubProcess, visit: Visit) -> None:
    """Tries come after twice the delay each, 20 s at most, also if each gets in; when the network is back, at once."""
    attempts = 0

    async def restarting(socket: WebSocketRoute) -> None:
        nonlocal attempts
        attempts += 1
        socket.send(HELLO)
        await socket.close(code=1012, reason="service restart")

    page = await visit("about:blank", restarting, init="Math.random = () => 1")
    await page.clock.install(time=0)
    await page.goto(f"{hub.url}/raw")
    await page.clock.pause_at(3600_000)  # whatever it waited for is due
    seen = []
    for _ in range(10):
        await expect(page.locator("#countdown")).to_have_text(re.compile("in"))
        seen.append(int(re.findall(r"\d+", await page.inner_text("#countdown"))[0]))
        before = attempts
        await page.clock.run_for(seen[-1] * 1000)
        await eventually(lambda before=before: attempts > before)  # type: ignore[misc]
    assert seen[-3:] == [20, 20, 20]
    assert [8, 16, 20] == [delay for delay in seen if delay >= 8][:3]
    await expect(page.locator("#why")).to_have_text("The server restarts.")
    await expect(page.locator("#countdown")).to_have_text("in 20 s")
    before = attempts
    await page.evaluate("window.dispatchEvent(new Event('online'))")
    await eventually(lambda: attempts > before)


async def test_a_full_worker(visit: Visit) -> None:
    """A hub that accepts only to say that it is full never counts as online; the page comes in when there is room."""
    init = "window.states = []; new MutationObserver((all) => all.forEach(({target: t}) => t.id === 'state' && "
    init += "states.push(t.dataset.state))).observe(document, {subtree: true, attributeFilter: ['data-state']})"
    with hub_serve(env={"HUB_MAX_CONNECTIONS": "1"}) as hub:
        async with websockets.connect(f"{hub.ws_url}/ws/other"):
            page = await visit(f"{hub.url}/raw?room=x", init=init)
            await expect(page.locator("#why")).to_have_text("Worker is full, try again later.", timeout=20_000)
            assert "online" not in await page.evaluate("states")
        await page.evaluate("document.getElementById('retry').click()")  # it may be trying just now
        await online(page)


async def test_a_token(visit: Visit) -> None:
    """Without the token it is asked for, not tried again; the right one is kept out of the address and the log."""
    with hub_serve(env={"HUB_TOKEN": "s3cret"}) as hub:
        page = await visit(f"{hub.url}/raw?room=x&token=wrong")
        await state(page, "refused")
        await expect(page.locator("#why")).to_have_text("This hub asks for a token.")
        await page.get_by_label("Token").fill("s3cret")
        await page.get_by_role("button", name="Connect").click()
        await online(page)
        await page.reload()
        await online(page)
        shared = await visit(f"{hub.url}/raw?room=x&token=s3cret")
        await online(shared)
        assert shared.url == f"{hub.url}/raw?room=x"
        assert "s3cret" not in await shared.get_attribute("#rooms a >> nth=0", "href")  # type: ignore[operator]
        assert "s3cret" not in hub.log


@pytest.mark.parametrize("name", ["line%0Abreak", "x" * 256, ".", ".."])
async def test_a_bad_room(hub: HubProcess, visit: Visit, name: str) -> None:
    """A name that is not allowed is said, not tried again and not remembered; the lobby is one press away."""
    page = await visit(
        f"{hub.url}/raw?room={name}",
        init="let n = 0; window.WebSocket = class extends WebSocket "
        "{ constructor(...a) { super(...a); window.sockets = ++n; } }",
    )
    await state(page, "refused")
    await expect(page.locator("#why")).to_have_text("This room name is not allowed.")
    await expect(page.locator("#rooms a")).to_have_text(["lobby"])
    sockets = await page.evaluate("window.sockets")
    await page.evaluate("window.dispatchEvent(new Event('online'))")
    assert await page.evaluate("window.sockets") == sockets
    await page.get_by_role("button", name="Go to the lobby").click()
    await online(page)
    await expect(page.locator("#trouble")).to_be_hidden()


# Delivery


async def test_a_user_who_is_thrown_out(hub: HubProcess, visit: Visit) -> None:
    """He stays out, until he himself tries again: the token would have let the page in."""
    attempts = 0

    async def throwing_out(socket: WebSocketRoute) -> None:
        nonlocal attempts
        attempts += 1
        socket.send(HELLO)
        await socket.close(code=3503, reason="force disconnect")

    page = await visit(f"{hub.url}/raw?room=x", throwing_out)
    await expect(page.locator("#state")).to_have_attribute("data-state", "refused")
    await expect(page.locator("#why")).to_have_text("Force disconnect.")
    await page.evaluate("window.dispatchEvent(new Event('online'))")
    assert attempts == 1


async def test_a_message_that_redis_did_not_take(redis_server: EmbeddedServer, visit: Visit) -> None:
    """While Redis is away the message says that it was not delivered, and why; afterwards it can be sent."""
    with hub_serve("--redis-url", redis_server.url) as hub:
        page = await visit(f"{hub.url}/raw?room=x")
        await online(page)
        assert redis_server.process is not None
        redis_server.process.kill()
        redis_server.process.wait()
        await say(page, "lost?")
        await expect(page.locator(".failed .note")).to_contain_text("Not delivered: ", timeout=20_000)
        await state(page, "online")
        redis_server.revive()
        await asyncio.to_thread(hub.wait_ready)
        await page.get_by_role("button", name="Send now").click()
        await delivered(page, 1)


@pytest.mark.parametrize(("code", "sent"), [(1012, 2), (1009, 1)])
async def test_only_what_was_not_refused_is_sent_again(hub: HubProcess, visit: Visit, code: int, sent: int) -> None:
    """A message whose connection broke is sent again by itself; one that was too big waits for the person."""
    frames: list[str | bytes] = []

    async def closing_once(socket: WebSocketRoute) -> None:
        async def on_message(frame: str | bytes) -> None:
            frames.append(frame)
            if len(frames) == 1:
                await socket.close(code=code, reason="")
            else:
                socket.send(frame)

        socket.on_message(on_message)  # type: ignore[arg-type]
        socket.send(HELLO)

    page = await visit(f"{hub.url}/raw", closing_once)
    await online(page)
    await say(page, "hello")
    await expect(page.locator(".notice")).to_contain_text("Not connected")
    if sent == 1:
        await expect(page.locator(".failed .note")).to_contain_text("Not sent: too big for this hub.")
        assert len(frames) == 1
        await page.get_by_role("button", name="Send now").click()
    await delivered(page, 1)
    assert len(frames) == 2
    assert frames[0] == frames[1]


async def test_a_silent_hub_is_left(hub: HubProcess, visit: Visit) -> None:
    """A message that does not come back is not taken for sent, its connection is given up, and it appears once."""
    frames: list[str | bytes] = []

    async def silent_once(socket: WebSocketRoute) -> None:
        def on_message(frame: str | bytes) -> None:
            frames.append(frame)
            for _ in range(2 if len(frames) > 1 else 0):
                socket.send(frame)

        socket.on_message(on_message)
        socket.send(HELLO)

    page = await visit("about:blank", silent_once)
    await page.clock.install()
    await page.goto(f"{hub.url}/raw")
    await online(page)
    await say(page, "anybody?")
    await expect(page.locator(".mine.waiting")).to_have_count(1)
    await eventually(lambda: len(frames) == 1)
    await page.clock.fast_forward(11_000)
    await delivered(page, 1)
    await say(page, "again")
    await delivered(page, 2)
    await expect(page.locator(".message")).to_have_count(2)


async def test_unsent_messages_survive_another_room(hub: HubProcess, visit: Visit) -> None:
    """What was not delivered is still there, and goes out, when one comes back to the room."""
    mute = True

    async def mute_at_first(socket: WebSocketRoute) -> None:
        socket.on_message(lambda frame: None if mute else socket.send(frame))
        socket.send(HELLO)

    page = await visit(f"{hub.url}/raw?room=one", mute_at_first)
    await online(page)
    await say(page, "keep me")
    await expect(page.locator(".mine.waiting")).to_have_count(1)
    await page.click("#rooms >> text=lobby")
    await online(page)
    await expect(page.locator(".message")).to_have_count(0)
    mute = False
    await page.click("#rooms >> text=one")
    await delivered(page, 1)
    await expect(page.locator(".mine .body")).to_have_text("keep me")
