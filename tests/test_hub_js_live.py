"""hub.js in a real browser against a real `hub serve`."""

# ruff: noqa: F811 - a fixture that is imported is named again where a test asks for it

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any

import jwt
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.support.browser import one_browser  # noqa: F401
from tests.support.server import HubProcess, hub_serve

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

SECRET = "a secret of at least thirty-two bytes"
KEY = "the key of the API"
NAMES = ["connected", "disconnected", "error", "subscribed", "unsubscribed", "publication", "join", "leave"]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    env = {
        "HUB_TOKEN_HMAC_SECRET_KEY": SECRET,
        "HUB_API_KEY": KEY,
        "HUB_ALLOW_ANONYMOUS_CONNECT_WITHOUT_TOKEN": "1",
        "HUB_SUBSCRIBE_TO_USER_PERSONAL_CHANNEL": "1",
        "HUB_PING_INTERVAL": "1",
        "HUB_PING_TIMEOUT": "0.5",
    }
    with hub_serve(env=env) as process:
        yield process


@pytest_asyncio.fixture(loop_scope="module")
async def page(hub: HubProcess, one_browser: Browser) -> AsyncIterator[Page]:
    """With the client as `Hub`, and `note(hub)` to note its events in `events`."""
    page = await one_browser.new_page()
    await page.goto(f"{hub.url}/static/icon.svg")
    await page.evaluate(f"""async () => {{
      window.Hub = (await import('/static/hub.js')).Hub;
      window.events = [];
      window.note = (hub) => {json.dumps(NAMES)}.forEach((name) => hub.on(name, (c) => events.push([name, c])));
    }}""")
    yield page
    await page.close()


def token(lasting: float, **claims: Any) -> str:
    return jwt.encode({"exp": time.time() + lasting, **claims}, SECRET)


def api(hub: HubProcess, method: str, **body: Any) -> None:
    request = urllib.request.Request(f"{hub.url}/api/{method}", json.dumps(body).encode(), {"X-API-Key": KEY})
    with urllib.request.urlopen(request) as response:
        assert "result" in json.load(response)


async def happened(page: Page, name: str, number: int = 1) -> Any:
    """What the `number`-th event of this name told."""
    wanted = "([name, number]) => events.filter(([each]) => each === name)[number - 1]?.[1]"
    return await (await page.wait_for_function(wanted, arg=[name, number])).json_value()


async def test_a_channel(page: Page) -> None:
    """Publications, history and presence, over two connections."""
    said = await page.evaluate("""async () => {
      const [a, b] = [new Hub('/connection/websocket'), new Hub('/connection/websocket')];
      note(a);
      const [mine, other] = [a.subscribe('chat:x'), b.subscribe('chat:x')];
      await Promise.all([a.connect(), b.connect(), mine.ready(), other.ready()]);
      for (const n of [1, 2, 3]) await mine.publish({n});
      const history = await other.history({limit: 2, reverse: true});
      return {
        last: history.publications.map(({data, offset}) => [data.n, offset]),
        present: Object.keys(await b.presence('chat:x')).sort().join() === [a.client, b.client].sort().join(),
        stats: await other.presenceStats(),
        error: await b.rpc('x').catch(({code}) => code),
        at: mine.position.offset,
      };
    }""")
    assert said == {
        "last": [[3, 3], [2, 2]],
        "present": True,
        "stats": {"clients": 2, "users": 1},
        "error": 108,
        "at": 3,
    }
    heard = await page.evaluate("events.filter(([name]) => name === 'publication').map(([, {data}]) => data.n)")
    assert heard == [1, 2, 3]


async def test_what_was_missed(page: Page) -> None:
    """A connection that breaks comes back with what was said meanwhile, and nothing twice."""
    heard = await page.evaluate("""async () => {
      const [a, b] = [new Hub('/connection/websocket', {minDelay: 50}), new Hub('/connection/websocket')];
      const heard = [], sub = a.subscribe('chat:missed');
      sub.on('publication', ({data}) => heard.push(data));
      sub.on('subscribed', ({recovered, wasRecovering}) => heard.push([wasRecovering, recovered]));
      const other = b.subscribe('chat:missed');
      a.connect(), b.connect();
      await Promise.all([sub.ready(), other.publish(0)]);
      for (let n = 1; n <= 40; n++) {
        if (n % 10 === 5) await sub.ready().then(() => a._socket.close());
        await other.publish(n);
      }
      await sub.ready();
      const ended = new Promise((resolve) => sub.on('publication', ({data}) => data === 'end' && resolve()));
      await sub.publish('end');
      await ended;  // the reply may come first
      return heard;
    }""")
    assert [each for each in heard if isinstance(each, list)] == [[False, False], *([[True, True]] * 4)]
    assert [each for each in heard if not isinstance(each, list)] == [*range(41), "end"]


async def test_much_at_once(page: Page) -> None:
    """More than a frame may hold: publications in one go, and after an interruption subscriptions with long tokens."""
    tokens = {f"$plan-{n}": token(60, sub="7", channel=f"$plan-{n}", info="x" * 700) for n in range(100)}
    heard = await page.evaluate(
        """async ([token, tokens]) => {
          const hub = new Hub('/connection/websocket', {token, minDelay: 50});
          note(hub);
          await hub.connect();
          const subs = [];
          for (const [channel, token] of Object.entries(tokens)) {
            subs.push(hub.subscribe(channel, {token}));
            await subs.at(-1).ready();
          }
          const heard = [], text = 'x'.repeat(4000);
          const all = new Promise((resolve) => subs[0].on('publication', ({data}) => {
            if (heard.push(data.n) === 20) resolve();
          }));
          await Promise.all(Array.from({length: 20}, (_, n) => subs[0].publish({n, text})));
          await all;
          hub._socket.close();
          await Promise.all(subs.map((sub) => new Promise((resolve) => sub.on('subscribed', resolve))));
          return heard;
        }""",
        [token(60, sub="7"), tokens],
    )
    assert heard == [*range(20)]


async def test_tokens_are_renewed(page: Page) -> None:
    """The connection's and the subscription's, before the hub ends them; the hub's pings are answered meanwhile."""
    asked: list[str] = []

    async def get_token(channel: str | None) -> str:
        asked.append(channel or "")
        return token(1, sub="7", **({"channel": channel} if channel else {}))

    await page.expose_function("getToken", get_token)
    client = await page.evaluate("""async () => {
      const hub = window.hub = new Hub('/connection/websocket', {getToken: () => getToken(null)});
      note(hub);
      window.sub = hub.subscribe('$secret', {getToken});
      await hub.connect();
      await sub.ready();
      return hub.client;
    }""")
    await page.wait_for_function("hub.client !== null && performance.now() > 4000", timeout=20_000)
    assert asked.count("") >= 3
    assert asked.count("$secret") >= 3
    assert await page.evaluate("[hub.client, sub.state]") == [client, "subscribed"]
    names = await page.evaluate("events.map(([name]) => name)")
    assert names.count("connected") == 1
    assert "error" not in names


async def test_what_the_server_does(page: Page, hub: HubProcess) -> None:
    """It subscribes, unsubscribes and disconnects a user's clients through the API."""
    await page.evaluate(
        """async (token) => {
          const hub = window.hub = new Hub('/connection/websocket', {token});
          note(hub);
          hub.subscribe('chat:y');
          await hub.connect();
          await hub.subscription('chat:y').ready();
        }""",
        token(60, sub="42"),
    )
    assert (await happened(page, "subscribed"))["channel"] == "#42"
    api(hub, "subscribe", user="42", channel="chat:z")
    assert (await happened(page, "subscribed", 3))["channel"] == "chat:z"
    api(hub, "publish", channel="chat:z", data={"from": "the server"})
    assert (await happened(page, "publication"))["data"] == {"from": "the server"}
    for channel in ("chat:y", "chat:z"):
        api(hub, "unsubscribe", user="42", channel=channel)
    assert (await happened(page, "unsubscribed", 2))["code"] == 2000
    api(hub, "disconnect", user="42")
    assert await happened(page, "disconnected") == {"code": 3503, "reason": "force disconnect"}
