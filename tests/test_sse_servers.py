"""Event streams on real servers: restarts, a worker that dies, nginx, and a browser."""

# ruff: noqa: F811 - a fixture that is imported is named again where a test asks for it

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route

from hub.embedded import EmbeddedServer
from hub.sync import Publisher
from tests.support import cluster, needs
from tests.support.browser import browser  # noqa: F401
from tests.support.processes import children
from tests.support.server import HubProcess, hub_serve
from tests.support.sse import EventSource, Message, listening, path_of, request
from tests.support.uvicorn_app import uvicorn_app
from tests.support.waiting import eventually

APP = """
from fastapi import FastAPI

from hub import Hub

hub = Hub()
app = FastAPI()
app.include_router(hub.router)
"""
CHANNEL = "chat:x"
SNIPPET = re.search(r"```js\n(.*?)```", (cluster.ROOT / "docs/sse.md").read_text(), re.DOTALL)

# Each starts several programs.
pytestmark = [pytest.mark.timed, pytest.mark.timeout(180)]


@pytest.fixture
async def publisher(redis_server: EmbeddedServer) -> AsyncIterator[Publisher]:
    """Somebody who is not a client of any worker."""
    with Publisher(redis=redis_server.url) as publisher:
        yield publisher


async def said(source: EventSource, count: int) -> list[Message]:
    """So many publications; who comes and goes is not of interest."""
    messages: list[Message] = []
    while len(messages) < count:
        message = await source.next()
        messages += [message] if message.name == "message" else []
    return messages


async def publish(publisher: Publisher, numbers: range) -> None:
    for number in numbers:
        await asyncio.to_thread(publisher.publish, CHANNEL, str(number))


async def follow(port: int, count: int) -> list[EventSource]:
    """So many streams."""
    sources = [await request(port, path_of(CHANNEL)) for _ in range(count)]
    for source in sources:
        await source.greeting()
    return sources


async def assert_ended(source: EventSource) -> None:
    """By the server, which said so."""
    _, why = await source.end()
    assert why == {"code": 3001, "reason": "shutdown", "reconnect": True}
    assert source.complete
    await source.close()


async def assert_missed(port: int, last: str, numbers: range) -> None:
    """Who comes back gets these, and nothing else before what is new."""
    async with listening(port, CHANNEL, {"Last-Event-ID": last}) as source:
        assert (await source.greeting())["recovered"] is True
        assert [int(message.data) for message in await said(source, len(numbers))] == list(numbers)


# Restarts


async def test_a_uvicorn_ends_with_its_streams(
    redis_server: EmbeddedServer, publisher: Publisher, tmp_path: Path
) -> None:
    """SIGTERM with 20 of them: none is killed, none holds it up, and elsewhere they get what they missed."""
    (tmp_path / "sse_app.py").write_text(APP)
    env = {"REDIS_URL": redis_server.url, "HUB_DRAIN": "0.5"}
    with (
        uvicorn_app("sse_app:app", env=env, folder=tmp_path) as first,
        uvicorn_app("sse_app:app", "--http", "hub.http:HubHttpProtocol", env=env, folder=tmp_path) as second,
    ):
        sources = await follow(first.port, 20)
        await publish(publisher, range(5))
        for source in sources:
            assert [int(message.data) for message in await said(source, 5)] == list(range(5))
        first.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*map(assert_ended, sources))
        await publish(publisher, range(5, 10))
        await asyncio.to_thread(first.process.wait, 20)
        assert "Application shutdown complete." in first.log
        assert "Cancel" not in first.log
        assert "Traceback" not in first.log
        for source in sources:
            await assert_missed(second.port, source.last_id, range(5, 10))


async def test_workers_of_hub_serve_end_with_their_streams(redis_server: EmbeddedServer, publisher: Publisher) -> None:
    """At a restart of the workers, and at the end of all: status 0, and nobody is killed."""
    with hub_serve("--workers", "1", "--drain", "0.5", env={"REDIS_URL": redis_server.url}) as hub:
        sources = await follow(hub.port, 20)
        await publish(publisher, range(5))
        for source in sources:
            await said(source, 5)
        os.kill(hub.pid, signal.SIGHUP)
        await asyncio.gather(*map(assert_ended, sources))
        await publish(publisher, range(5, 10))
        for source in sources:
            await assert_missed(hub.port, source.last_id, range(5, 10))
        sources = await follow(hub.port, 5)
        stopping = asyncio.create_task(asyncio.to_thread(hub.stop, 30))
        await asyncio.gather(*map(assert_ended, sources))
        assert await stopping == 0
        assert "killing it" not in hub.log
        assert "Traceback" not in hub.log


# Proxies


async def test_behind_nginx(
    redis_server: EmbeddedServer, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events come at once, also where nginx is told to gather answers, and a client that comes back has its place."""
    configuration = cluster.nginx_configuration

    def buffering(*arguments: Any) -> str:
        text = configuration(*arguments)
        assert "proxy_buffering off" in text
        return text.replace("proxy_buffering off", "proxy_buffering on")

    monkeypatch.setattr(cluster, "nginx_configuration", buffering)
    nginx = needs.nginx()
    with hub_serve("--drain", "0", env={"REDIS_URL": redis_server.url}) as hub:
        upstreams = {f"hub{number}": hub.port for number in (1, 2, 3)}
        with cluster.running_nginx(nginx, upstreams) as proxy:
            async with listening(proxy.port, CHANNEL) as source:
                await source.greeting()
                for number in range(3):
                    await publish(publisher, range(number, number + 1))
                    assert (await said(source, 1))[0].data == str(number)
            await assert_missed(proxy.port, f"{source.last_id.rpartition(':')[0]}:1", range(1, 3))


# A browser


@pytest.fixture
async def page(browser: Browser) -> Page:
    return await browser.new_page()


async def heard(page: Page, count: int) -> Any:
    """What each listener has heard, once all of them have heard so many."""
    condition = "count => window.heard.every(each => each.length >= count)"
    await page.wait_for_function(condition, arg=count, timeout=40_000)
    return await page.evaluate("window.heard")


@pytest.mark.browser
async def test_a_worker_dies_under_a_browser(redis_server: EmbeddedServer, publisher: Publisher, page: Page) -> None:
    """Its EventSources come back to the other one by themselves: nothing is lost, nothing comes twice."""
    with hub_serve("--workers", "2", "--drain", "0", env={"REDIS_URL": redis_server.url}) as hub:
        await page.goto(f"{hub.url}/static/icon.svg")
        await page.evaluate(
            """channel => {
              window.heard = [[], [], [], []];
              window.hellos = 0;
              window.heard.forEach((mine) => {
                const source = new EventSource(`/sse/${channel}`);
                source.onmessage = (event) => mine.push(event.data);
                source.addEventListener("hub", (event) => {
                  if (JSON.parse(event.data).subscribed?.recovered === false) mine.push("lost");
                  window.hellos += 1;
                });
              });
            }""",
            CHANNEL,
        )
        await page.wait_for_function("window.hellos === 4", timeout=20_000)
        await publish(publisher, range(20))
        await heard(page, 20)
        os.kill(busiest_worker(hub), signal.SIGKILL)
        await publish(publisher, range(20, 60))
        assert await heard(page, 60) == [[str(number) for number in range(60)]] * 4
        assert await page.evaluate("window.hellos") > 4


def busiest_worker(hub: HubProcess) -> int:
    """The one with the most sockets, so with some of the streams, by its process id."""

    def sockets(pid: int) -> int:
        return sum(os.readlink(link).startswith("socket:") for link in Path(f"/proc/{pid}/fd").iterdir())

    return max(children(hub.pid, "hub.worker"), key=sockets)


@pytest.mark.browser
async def test_the_page_of_the_documentation(page: Page) -> None:
    """It outlives a refusal, after which a browser would not come back, with its place in the channel."""
    assert SNIPPET is not None
    refused: list[str] = []

    async def refuse(route: Route) -> None:
        refused.append(route.request.url)
        await route.fulfill(status=503)

    with hub_serve("--workers", "1", "--drain", "0", env={"HUB_API_KEY": "key"}) as hub:
        await page.goto(f"{hub.url}/static/icon.svg")
        await page.evaluate(
            f"""() => {{
              {SNIPPET[1]}
              window.heard = [[]];
              Math.random = () => 0;
              window.reloads = window.hellos = 0;
              const listener = EventSource.prototype.addEventListener;
              EventSource.prototype.addEventListener = function (name, handle) {{
                listener.call(this, name, (event) => {{ handle(event); window.hellos += 1; }});
              }};
              const message = (data) => window.heard[0].push(data);
              listen({json.dumps(CHANNEL)}, {{ message, reload: () => window.reloads++ }});
            }}"""
        )
        await page.wait_for_function("window.hellos > 0")
        for number in range(3):
            assert await asyncio.to_thread(hub.publish_status, CHANNEL, number, "key") == 200
        assert await heard(page, 3) == [["0", "1", "2"]]
        await page.route("**/sse/**", refuse)
        (worker,) = children(hub.pid, "hub.worker")
        os.kill(worker, signal.SIGKILL)
        await eventually(lambda: refused, timeout=40)
        await eventually(lambda: hub.status("/health/ready") == 200)
        assert await asyncio.to_thread(hub.publish_status, CHANNEL, 3, "key") == 200
        await page.unroute("**/sse/**")
        assert await heard(page, 4) == [["0", "1", "2", "3"]]
        assert await page.evaluate("window.reloads") == 0
