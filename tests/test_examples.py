"""The examples without a browser: their server sides, and how the gallery puts them on one hub."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import websockets
from httpx2 import ASGITransport, AsyncClient

import hub.examples
from hub import ChannelOptions, ConfigError, Hub, Refused, Settings
from hub.app import create_app
from hub.examples import gallery
from hub.examples.gallery import EXAMPLES, with_examples
from tests.support.command_line import command_line
from tests.support.needs import node
from tests.support.uvicorn_server import serving

FOLDER = Path(hub.examples.__file__).parent
SECRET = "a secret of more than thirty-two bytes"


class Player:
    """The client that calls a function of an example."""

    def __init__(self, user: str = "") -> None:
        self.user = user


@pytest.fixture
async def shared(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    """One hub for all programs, in memory."""
    async with Hub(with_examples(Settings())) as running:
        for name in EXAMPLES:
            monkeypatch.setattr(program(name), "hub", running)
        yield running


def program(name: str) -> ModuleType:
    return importlib.import_module(f"hub.examples.{name}.app")


# The gallery


@pytest.mark.parametrize(
    "rule",
    [
        {"token": "secret"},
        {"token_hmac_secret_key": SECRET},
        {"token_hmac_previous_secret_key": SECRET},
        {"token_rsa_public_key": "PEM"},
        {"token_ecdsa_public_key": "PEM"},
        {"token_jwks_public_endpoint": "https://login.example/keys"},
        {"allow_anonymous_connect_without_token": False},
    ],
    ids=lambda rule: next(iter(rule)),
)
def test_not_beside_rules(rule: dict[str, Any]) -> None:
    """Where not everybody may connect the examples are refused, and the setting is named."""
    with pytest.raises(ConfigError, match=f"examples: .* {next(iter(rule))}"):
        with_examples(Settings(**rule))


def test_namespaces_of_the_same_name() -> None:
    """The hub's own namespaces stay; one that an example needs otherwise is refused."""
    settings = Settings(namespaces={"news": ChannelOptions(presence=True)})
    merged = with_examples(settings).namespaces
    assert merged["news"] == settings.namespaces["news"]
    theirs = {"chat", "prices", "inbox", "vitals", "arena", "stars", "board", "pen", "text", "stream"}
    assert set(merged) == {"news"} | theirs
    with pytest.raises(ConfigError, match="prices has a namespace 'prices' of its own"):
        with_examples(Settings(namespaces={"prices": ChannelOptions()}))


def test_the_command_says_it_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`hub serve --examples` does not start where they are refused."""
    run = command_line(monkeypatch, capsys)
    monkeypatch.setenv("HUB_TOKEN", "secret")
    status, _, complaint = run("serve", "--examples")
    assert status == 2
    assert complaint.startswith("hub: examples: everybody may use them")
    assert complaint.count("\n") == 1


def test_off_unless_asked_for() -> None:
    """Without the setting there is nothing at /examples, nor any of their namespaces."""
    app = create_app(Settings())
    assert not [route for route in app.routes if getattr(route, "path", "").startswith("/examples")]
    assert set(app.state.hub.settings.namespaces) == {"chat"}


def test_what_the_gallery_does_not_take_over() -> None:
    """No example has hooks that would be lost on the common hub, and no two functions for clients have one name."""
    names: list[str] = []
    for name in EXAMPLES:
        program(name)
        hooks = gallery._own.setdefault(name, program(name).hub).authority.hooks
        assert (hooks.subscribe, hooks.publish, hooks.disconnect) == (None, None, None)
        names += hooks.rpc
    assert len(names) == len(set(names)) >= 4


async def test_one_hub_for_all() -> None:
    """What is under the path of an example is the common hub: raw rooms meet, and its own hub never starts."""
    app = create_app(Settings(examples=True))
    async with serving(app) as (port, _):
        async with (
            websockets.connect(f"ws://127.0.0.1:{port}/ws/room") as one,
            websockets.connect(f"ws://127.0.0.1:{port}/examples/chat/rt/ws/room") as other,
        ):
            await one.send("hello")
            assert await other.recv() == "hello"
        for path in ("chat//rt/ws/room", "chat/rt//ws/room", "chat/RT/ws/room", "rt/ws/room"):
            with pytest.raises(websockets.InvalidStatus):
                await websockets.connect(f"ws://127.0.0.1:{port}/examples/{path}")
        assert all(program(name).hub is app.state.hub for name in EXAMPLES)
        assert all("stopped" in repr(own) for own in gallery._own.values())


@pytest.mark.parametrize("name", EXAMPLES)
async def test_each_by_itself(name: str) -> None:
    """A program alone serves its page and all that the page names, from its own folder, and nothing compiled."""
    async with AsyncClient(transport=ASGITransport(program(name).app), base_url="http://test") as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        for path in ("page.js", "app.py", "hub.js", "frame.js", "example.css", "icon.svg"):
            assert (await client.get(f"/{path}")).status_code == 200
        for path in ("__pycache__/app.cpython-311.pyc", "../gallery.py", "answer.txt"):
            assert (await client.get(f"/{path}")).status_code == 404


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/app.py")), ids=lambda path: path.parent.name)
def test_each_is_short(path: Path) -> None:
    """The program has 60 lines at most, its page 150 with its script, and none makes HTML out of texts."""
    assert len(path.read_text().splitlines()) <= 60
    pages = [path.with_name(name).read_text() for name in ("index.html", "page.js")]
    assert sum(len(text.splitlines()) for text in pages) <= 150
    assert not [text for text in pages if "innerHTML" in text or "insertAdjacentHTML" in text or "style=" in text]


# Their server sides


async def test_each_tick_once(shared: Hub) -> None:
    """Two workers that tick at the same time publish one tick, and the next goes on from its prices."""
    prices = program("prices")
    await asyncio.gather(prices.tick(7), prices.tick(7))
    [first] = (await shared.history("prices:all", limit=-1)).publications
    assert first.offset == 1
    await prices.tick(6)
    await prices.tick(8)
    [second] = (await shared.history("prices:all", limit=-1)).publications
    assert second.offset == 2
    for name, price in json.loads(first.data).items():
        assert json.loads(second.data)[name] == pytest.approx(price, rel=0.05)


async def test_a_star_is_caught_once(shared: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those who touch it at the same time one has it; nobody has it from afar; nonsense gets an answer."""
    game = program("game")
    there = {"x": 0.5, "y": 0.3}
    assert await game.catch(Player("far"), {"x": 0.9, "y": 0.3}) is False
    together, presence = asyncio.Barrier(5), shared.presence

    async def when_all_ask(channel: str) -> Any:
        await together.wait()
        return await presence(channel)

    monkeypatch.setattr(shared, "presence", when_all_ask)
    caught = await asyncio.gather(*(game.catch(Player(f"user {number}"), there) for number in range(5)))
    assert caught.count(True) == 1
    [state] = (await shared.history("stars:1", limit=-1)).publications
    assert json.loads(state.data)["number"] == 1
    assert json.loads(state.data)["points"] == {f"user {caught.index(True)}": 1}
    for nonsense in (None, [], {}, {"x": "a", "y": 1}):
        with pytest.raises(Refused, match="where you are"):
            await game.catch(Player(), nonsense)


async def test_two_writers_of_one_answer(shared: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes at the same time, each word is published once, and in order."""
    stream = program("stream")
    monkeypatch.setattr(stream, "ANSWER", "You asked: {question}\n\nThat is\tall. ")
    channel = await stream.ask(Player(), "Why?")
    await asyncio.wait_for(asyncio.gather(*(stream.write(channel) for _ in range(3))), 40)
    published = [json.loads(each.data) for each in (await shared.history(channel, limit=-1)).publications]
    assert published[0] == {"question": "Why?"}
    assert published[-1] == {"end": True}
    assert "".join(each["word"] for each in published[1:-1]) == "You asked: Why?\n\nThat is\tall."
    await stream.write(channel)
    assert (await shared.history(channel)).position.offset == len(published)


async def test_nobody_makes_a_worker_write_what_was_not_asked(shared: Hub) -> None:
    """What is not there is not begun, other channels are not written to, and there are not too many at once."""
    stream = program("stream")
    for channel in ("stream:unknown", "chat:lobby", None, {}, 7):
        await stream.go_on(Player(), channel)
    await asyncio.gather(*stream.writing.values())
    for channel in ("stream:unknown", "chat:lobby"):
        assert (await shared.history(channel)).position.offset == 0
    stream.writing.update({f"stream:{number}": None for number in range(50)})
    try:
        with pytest.raises(Refused, match="too many"):
            await stream.go_on(Player(), "stream:one more")
    finally:
        stream.writing.clear()


def test_the_command_on_the_page_of_notifications() -> None:
    """It is the one that the script itself names, with the REDIS_URL without which it ends in a traceback."""
    script, page = ((FOLDER / "notifications" / name).read_text() for name in ("notify.py", "index.html"))
    [command] = re.findall(r"<pre>(.*?)</pre>", page)
    assert command.startswith("REDIS_URL=")
    assert f"`{command}`" in script


async def test_a_notice_is_checked(shared: Hub) -> None:
    """Nobody but the three can be notified, of nothing empty or long; names that are not theirs do not connect."""
    notifications = program("notifications")
    async with AsyncClient(transport=ASGITransport(notifications.app), base_url="http://test") as client:
        assert (await client.post("/notify/ann", json={"text": "hello"})).status_code == 202
        for path, notice in (
            ("mallory", {"text": "x"}),
            ("ann", {"text": ""}),
            ("ann", {"text": "x" * 201}),
            ("ann", {}),
        ):
            assert (await client.post(f"/notify/{path}", json=notice)).status_code == 422
    [kept] = (await shared.history("inbox:#ann", limit=-1)).publications
    assert json.loads(kept.data) == {"text": "hello", "kind": "news"}
    assert await notifications.who(None, "mallory") is False
    assert await notifications.who(None, None) is False


async def test_only_one_is_kept_busy(shared: Hub) -> None:
    """The button of the dashboard works once at a time in a worker."""
    dashboard = program("dashboard")
    await dashboard.at_work.acquire()
    try:
        await asyncio.wait_for(dashboard.work(Player(), None), 20)
    finally:
        dashboard.at_work.release()
    await dashboard.report(5)
    [report] = (await shared.history("vitals:all", limit=-1)).publications
    assert json.loads(report.data).keys() == {"worker", "at", "cpu", "lag", "clients"}


KEYS = """
import { between } from "./keys.mjs";
const fail = (...what) => { throw new Error(what.join(" ")); };
for (let round = 0; round < 60; round++) {
  const keys = [];
  let at = 0;
  for (let step = 0; step < 300; step++) {
    if (Math.random() < 0.2) at = Math.floor(Math.random() * (keys.length + 1));
    const [left, right] = [keys[at - 1] ?? "", keys[at] ?? ""];
    const key = between(left, right);
    if (!(left < key && (right === "" || key < right))) fail(left, key, right);
    keys.splice(at++, 0, key);
    if (Math.random() < 0.2) keys.splice((at = Math.floor(Math.random() * keys.length)), 1);
  }
}
// A run stays together, whatever another puts at the same place.
let mine = between("", ""), others = [];
for (let step = 0; step < 2000; step++) {
  const next = between(mine, "");
  if (next.slice(0, -4) !== mine.slice(0, -4)) fail("the run is broken", mine, next);
  mine = next;
}
console.log("ok");
"""


def test_keys_of_letters(tmp_path: Path) -> None:
    """A key lies between its neighbours wherever it is made, and what one types stays together."""
    (tmp_path / "keys.mjs").write_text((FOLDER / "text" / "keys.js").read_text())
    (tmp_path / "test.mjs").write_text(KEYS)
    done = subprocess.run([node(), "test.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=50)
    assert done.stdout == "ok\n", done.stderr
