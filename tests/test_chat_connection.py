"""The chat page's connection in a real browser: restarts, refusals, and a hub that misbehaves."""

# ruff: noqa: F811 - a fixture that is imported is named again where a test asks for it

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import jwt
import pytest
import websockets
from playwright.async_api import WebSocketRoute, expect

from hub.embedded import EmbeddedServer
from tests.support.browser import one_browser  # noqa: F401
from tests.support.chat_page import Scripted, Visit, delivered, online, say, state, visit  # noqa: F401
from tests.support.server import HubProcess, hub_serve
from tests.support.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

SECRET = "a secret of at least thirty-two bytes"
BROKEN = re.compile("waiting|connecting")


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


# Restarts


async def test_nothing_is_lost_over_a_restart(redis_server: EmbeddedServer, port: str, visit: Visit) -> None:
    """What others said meanwhile comes; what was typed meanwhile says so and is sent, once; all of it in order."""
    with hub_serve("--redis-url", redis_server.url) as other:
        with hub_serve("--port", port, "--drain", "0", "--redis-url", redis_server.url) as first:
            page = await visit(f"{first.url}/?room=x")
            await online(page)
            await say(page, "before")
            await delivered(page, 1)
        await expect(page.locator("#state")).to_have_attribute("data-state", BROKEN)
        await expect(page.locator("#people")).to_be_hidden()
        await say(page, "are you there?")
        await say(page, "never mind")
        await expect(page.locator(".failed .note").first).to_contain_text("Not sent yet: no connection.")
        await expect(page.locator("#why")).to_have_text("The server cannot be reached.")
        await page.locator(".failed", has_text="never mind").get_by_role("button", name="Discard").click()
        async with websockets.connect(f"{other.ws_url}/ws/chat:x?echo=0") as raw:
            for count in range(20):
                await raw.send(f"missed {count}")
            with hub_serve("--port", port, "--drain", "0", "--redis-url", redis_server.url):
                await page.evaluate("window.dispatchEvent(new Event('online'))")
                await delivered(page, 2)
                await raw.send("after")
                await expect(page.locator(".body").last).to_have_text("after")
                missed = [f"missed {count}" for count in range(20)]
                shown = ["before", "are you there?", *missed, "after"]
                assert await page.locator(".body").all_inner_texts() == shown
                await expect(page.locator(".notice")).to_have_count(0)
                await expect(page.locator("#trouble")).to_be_hidden()
                await expect(page.locator("#count")).to_have_text("1 here")


async def test_too_much_was_missed(redis_server: EmbeddedServer, port: str, visit: Visit) -> None:
    """More than the hub keeps: the page shows what there is, and says how many messages are not."""
    with hub_serve("--redis-url", redis_server.url) as other:
        with hub_serve("--port", port, "--drain", "0", "--redis-url", redis_server.url) as first:
            page = await visit(f"{first.url}/?room=x")
            await online(page)
            await say(page, "before")
            await delivered(page, 1)
        async with websockets.connect(f"{other.ws_url}/ws/chat:x") as raw:
            for count in range(107):
                await raw.send(f"missed {count}")
            for _ in range(107):
                await asyncio.wait_for(raw.recv(), 5)
            with hub_serve("--port", port, "--drain", "0", "--redis-url", redis_server.url):
                await page.evaluate("window.dispatchEvent(new Event('online'))")
                notice = page.locator(".notice")
                await expect(notice).to_have_text(
                    "7 more were said meanwhile, too long ago to be kept.", timeout=20_000
                )
                shown = ["before", *(f"missed {count}" for count in range(7, 107))]
                assert await page.locator(".body").all_inner_texts() == shown


async def test_the_history_is_lost(port: str, visit: Visit) -> None:
    """A hub that comes back with an empty Redis: the page goes on, and says that something may be missing."""
    with hub_serve("--port", port, "--drain", "0") as first:
        page = await visit(f"{first.url}/?room=x")
        await online(page)
        await say(page, "before")
        await delivered(page, 1)
    with hub_serve("--port", port, "--drain", "0") as second:
        await page.evaluate("window.dispatchEvent(new Event('online'))")
        await expect(page.locator(".notice")).to_contain_text("may be missing", timeout=20_000)
        await say(page, "after")
        await delivered(page, 2)
        await page.reload()
        await expect(page.locator(".body")).to_have_text("after")
        assert second.port == first.port


async def test_delays_grow_and_a_network_ends_them(hub: HubProcess, visit: Visit) -> None:
    """Tries come after twice the delay each, 20 s at most, also if each gets in.

    When the network is back, or somebody has something to say, at once.
    """
    attempts = 0

    async def restarting(socket: WebSocketRoute) -> None:
        nonlocal attempts
        attempts += 1
        await socket.close(code=1012, reason="service restart")

    page = await visit("about:blank", restarting, init="Math.random = () => 1")
    await page.clock.install(time=0)
    await page.goto(f"{hub.url}/")
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
    await expect(page.locator("#countdown")).to_have_text(re.compile("in"))
    before = attempts
    await say(page, "is anybody there?")
    await eventually(lambda: attempts > before)


async def test_a_full_worker(visit: Visit) -> None:
    """A hub that accepts only to say that it is full never counts as online; the page comes in when there is room."""
    init = "window.states = []; new MutationObserver((all) => all.forEach(({target: t}) => t.id === 'state' && "
    init += "states.push(t.dataset.state))).observe(document, {subtree: true, attributeFilter: ['data-state']})"
    with hub_serve(env={"HUB_MAX_CONNECTIONS": "1"}) as hub:
        async with websockets.connect(f"{hub.ws_url}/ws/other"):
            page = await visit(f"{hub.url}/?room=x", init=init)
            await expect(page.locator("#why")).to_have_text("Worker is full, try again later.", timeout=20_000)
            assert "online" not in await page.evaluate("states")
        await page.evaluate("document.getElementById('retry').click()")  # it may be trying just now
        await online(page)


# Refusals


@pytest.mark.parametrize(
    ("setting", "token"), [("HUB_TOKEN_HMAC_SECRET_KEY", jwt.encode({"sub": "42"}, SECRET)), ("HUB_TOKEN", SECRET)]
)
async def test_a_token(visit: Visit, setting: str, token: str) -> None:
    """Without a good token one is asked for, not tried again; it is kept out of the address and the log."""
    with hub_serve(env={setting: SECRET}) as hub:
        page = await visit(f"{hub.url}/?room=x")
        await state(page, "refused")
        await expect(page.locator("#why")).to_have_text("This hub asks for a token.")
        await page.get_by_label("Token").fill("wrong")
        await page.get_by_role("button", name="Connect").click()
        await expect(page.locator("#why")).to_have_text("This hub asks for a valid token.")
        await page.get_by_label("Token").fill(token)
        await page.get_by_role("button", name="Connect").click()
        await online(page)
        await say(page, "hello")
        await delivered(page, 1)
        await page.reload()
        await online(page)
        shared = await visit(f"{hub.url}/?room=x&token={quote(token)}")
        await online(shared)
        assert shared.url == f"{hub.url}/?room=x"
        assert token not in await shared.get_attribute("#rooms a >> nth=0", "href")  # type: ignore[operator]
        assert token not in hub.log


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("line%0Abreak", "This room name is not allowed."),
        ("x" * 256, "This room name is not allowed."),
        ("dialog%2342", "You may not enter this room."),
    ],
)
async def test_a_bad_room(hub: HubProcess, visit: Visit, name: str, why: str) -> None:
    """A name that is not allowed is said, not tried again and not remembered; the lobby is one press away."""
    page = await visit(
        f"{hub.url}/?room={name}",
        init="let n = 0; window.WebSocket = class extends WebSocket "
        "{ constructor(...a) { super(...a); window.sockets = ++n; } }",
    )
    await state(page, "refused")
    await expect(page.locator("#why")).to_have_text(why)
    await expect(page.locator("#rooms a")).to_have_text(["lobby"])
    await page.evaluate("window.dispatchEvent(new Event('online'))")
    assert await page.evaluate("window.sockets") == 1
    await page.get_by_role("button", name="Go to the lobby").click()
    await online(page)
    await expect(page.locator("#trouble")).to_be_hidden()


async def test_no_chat_rooms(visit: Visit, tmp_path: Any) -> None:
    """A hub whose configuration has no namespace for them says so."""
    (tmp_path / "hub.toml").write_text("[namespaces.news]\npresence = true\n")
    with hub_serve("--config", str(tmp_path / "hub.toml")) as hub:
        page = await visit(f"{hub.url}/")
        await expect(page.locator("#why")).to_contain_text("there is no namespace “chat”")


async def test_a_plain_chat(visit: Visit, tmp_path: Any) -> None:
    """Where a hub keeps no history and tells nobody who is there, the page does without."""
    allowed = "".join(
        f"allow_{what} = true\n"
        for what in ("subscribe_for_client", "subscribe_for_anonymous", "publish_for_client", "publish_for_anonymous")
    )
    (tmp_path / "hub.toml").write_text(f"[namespaces.chat]\n{allowed}")
    with hub_serve("--config", str(tmp_path / "hub.toml")) as hub:
        page = await visit(f"{hub.url}/")
        await online(page)
        await say(page, "hello")
        await delivered(page, 1)
        await expect(page.locator("#count")).to_have_text("")
        await expect(page.locator("#people")).to_be_hidden()
        await page.evaluate("document.querySelector('#room').value = 'other'")
        await page.press("#room", "Enter")
        await online(page)
        await page.go_back()
        await expect(page.locator(".notice")).to_contain_text("may be missing")


# Delivery


async def test_a_message_that_redis_did_not_take(redis_server: EmbeddedServer, visit: Visit) -> None:
    """While Redis is away the message says that it was not delivered, and why; afterwards it can be sent."""
    with hub_serve("--redis-url", redis_server.url) as hub:
        page = await visit(f"{hub.url}/?room=x")
        await online(page)
        assert redis_server.process is not None
        redis_server.process.kill()
        redis_server.process.wait()
        await say(page, "lost?")
        await expect(page.locator(".failed .note")).to_contain_text("Not delivered: ", timeout=20_000)
        redis_server.revive()
        await asyncio.to_thread(hub.wait_ready)
        await online(page)
        await page.get_by_role("button", name="Send now").click()
        await delivered(page, 1)
        assert await page.evaluate("document.activeElement.id") == "text"


def scripted(publish: Callable[[WebSocketRoute, dict[str, Any]], Any], published: list[Any]) -> Scripted:
    """A hub in which one is alone and nothing was said; `publish` sees what is published and answers it, or not."""
    results: dict[str, Any] = {
        "connect": {"client": "c1"},
        "subscribe": {"recoverable": True, "epoch": "e", "recovered": True},
        "presence": {"presence": {}},
    }

    async def hub_side(socket: WebSocketRoute) -> None:
        async def on_message(frame: str | bytes) -> None:
            for command in map(json.loads, str(frame).split("\n")):
                kind = next(name for name in command if name != "id")
                if kind == "rpc":
                    continue  # the question whether the hub is still there
                if kind != "publish":
                    socket.send(json.dumps({"id": command["id"], kind: results.get(kind, {})}))
                elif command[kind]["channel"].startswith("chat:"):
                    published.append(command[kind]["data"])
                    await asyncio.sleep(0)
                    answer = publish(socket, command)
                    if answer is not None:
                        await answer

        socket.on_message(on_message)  # type: ignore[arg-type]

    return hub_side


def confirm(socket: WebSocketRoute, command: dict[str, Any]) -> None:
    """The publication comes back, and the answer after it."""
    channel, data = command["publish"]["channel"], command["publish"]["data"]
    socket.send(json.dumps({"push": {"channel": channel, "pub": {"data": data}}}))
    socket.send(json.dumps({"id": command["id"], "publish": {}}))


@pytest.mark.parametrize(("code", "sent"), [(1012, 2), (1009, 1), (3013, 1)])
async def test_only_what_was_not_refused_is_sent_again(hub: HubProcess, visit: Visit, code: int, sent: int) -> None:
    """A message whose connection broke is sent again by itself; one that was too big waits for the person."""
    published: list[Any] = []

    def closing_once(socket: WebSocketRoute, command: dict[str, Any]) -> Any:
        return socket.close(code=code, reason="") if len(published) == 1 else confirm(socket, command)

    page = await visit(f"{hub.url}/", scripted(closing_once, published))
    await online(page)
    await say(page, "hello")
    if sent == 1:
        await expect(page.locator(".failed .note")).to_contain_text("Not sent: too")
        await online(page)
        assert len(published) == 1
        await page.get_by_role("button", name="Send now").click()
    await delivered(page, 1)
    assert len(published) == 2
    assert published[0] == published[1]


async def test_an_answer_before_the_publication(hub: HubProcess, visit: Visit) -> None:
    """In whichever order they come, the message is there once."""

    def answer_first(socket: WebSocketRoute, command: dict[str, Any]) -> None:
        socket.send(json.dumps({"id": command["id"], "publish": {}}))
        confirm(socket, command)

    page = await visit(f"{hub.url}/", scripted(answer_first, []))
    await online(page)
    await say(page, "one")
    await say(page, "two")
    await delivered(page, 2)
    await expect(page.locator(".body")).to_have_text(["one", "two"])


async def test_a_silent_hub_is_left(hub: HubProcess, visit: Visit) -> None:
    """A message without an answer is not taken for sent, its connection is given up, and it appears once."""
    published: list[Any] = []

    def silent_once(socket: WebSocketRoute, command: dict[str, Any]) -> None:
        for _ in range(2 if len(published) > 1 else 0):
            confirm(socket, command)

    page = await visit("about:blank", scripted(silent_once, published))
    await page.clock.install()
    await page.goto(f"{hub.url}/")
    await online(page)
    await say(page, "anybody?")
    await expect(page.locator(".mine.waiting")).to_have_count(1)
    await eventually(lambda: len(published) == 1)
    await page.clock.fast_forward(11_000)
    await expect(page.locator(".failed .note")).to_contain_text("No answer from the hub.")
    await page.clock.fast_forward(11_000)
    await delivered(page, 1)
    await say(page, "again")
    await delivered(page, 2)
    await expect(page.locator(".message")).to_have_count(2)


async def test_unsent_messages_survive_another_room(hub: HubProcess, visit: Visit) -> None:
    """What was not delivered is still there, and goes out, when one comes back to the room."""
    published: list[Any] = []

    def refuse_once(socket: WebSocketRoute, command: dict[str, Any]) -> Any:
        return socket.close(code=3000, reason="") if len(published) == 1 else confirm(socket, command)

    page = await visit(f"{hub.url}/?room=one", scripted(refuse_once, published), init="Math.random = () => 1e9")
    await online(page)
    await say(page, "keep me")
    await expect(page.locator(".mine.failed")).to_have_count(1)
    await page.click("#rooms >> text=lobby")
    await online(page)
    await expect(page.locator(".message")).to_have_count(0)
    assert len(published) == 1
    await page.click("#rooms >> text=one")
    await delivered(page, 1)
    await expect(page.locator(".mine .body")).to_have_text("keep me")
