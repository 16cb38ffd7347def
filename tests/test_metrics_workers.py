"""The workers of one `hub serve` answer for each other: metrics and readiness are true, whichever is asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import connect

from hub import Hub, Settings, exposition, health
from hub.health import readiness
from hub.siblings import Siblings
from tests.support.processes import children, wait_gone
from tests.support.server import HubProcess, hub_serve
from tests.support.waiting import eventually

pytestmark = pytest.mark.timed

# A process with this folder in PYTHONPATH does as a blocking handler does when it gets the signal.
BLOCKS_ON_SIGNAL = """
import os, signal, time
def a_blocking_handler(*_):
    os.write(2, b"blocked\\n")
    time.sleep(5)
signal.signal(signal.SIGUSR2, a_blocking_handler)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# How they ask each other


def answering(folder: Path, name: str, places: int, say: Callable[[str], bytes]) -> Any:
    """A sibling that is there while the block runs, and answers the question `say`."""

    async def answer(rest: str) -> bytes:
        return say(rest)

    @contextlib.asynccontextmanager
    async def run() -> AsyncIterator[Siblings]:
        siblings = Siblings(folder / name, places)
        await siblings.start({"say": answer})
        try:
            yield siblings
        finally:
            await siblings.stop()

    return run()


@pytest.mark.both_loops
async def test_they_answer_each_other(tmp_path: Path) -> None:
    """Each by its name: its place, and one whose place another has taken with its number; who is missing is missed."""

    def say(rest: str) -> bytes:
        return b"I am " + rest.encode()

    async with (
        answering(tmp_path, "0.1", 3, say) as first,
        answering(tmp_path, "1.2", 3, say),
        answering(tmp_path, "1.10", 3, say),
    ):
        assert await first.ask("say", 1) == {"0": b"I am 0", "1.2": b"I am 1.2", "1": b"I am 1", "2": None}
        assert repr(first) == "<Siblings of 0.1, 3 places>"
    assert names(tmp_path) == []
    assert await first.ask("say", 1) == {"0": None, "1": None, "2": None}
    os.rmdir(tmp_path)
    assert await first.ask("say", 1) == {"0": None, "1": None, "2": None}


async def test_long_answers(tmp_path: Path) -> None:
    """Come as a whole."""
    async with answering(tmp_path, "0.1", 1, say=lambda _: b"x" * 3_000_000) as only:
        assert await only.ask("say", 5) == {"0": b"x" * 3_000_000}


async def test_one_that_was_killed(tmp_path: Path) -> None:
    """It left its socket behind, on which nobody listens."""
    async with answering(tmp_path, "0.1", 2, say=lambda _: b"here") as first:
        second = await asyncio.start_unix_server(lambda *_: None, tmp_path / "1.2")
        os.link(tmp_path / "1.2", tmp_path / "kept")
        second.close()
        (tmp_path / "1.2").unlink(missing_ok=True)
        (tmp_path / "kept").rename(tmp_path / "1.2")
        assert await first.ask("say", 1) == {"0": b"here", "1": None}


async def test_a_question_is_asked_once_at_a_time(tmp_path: Path) -> None:
    """Who asks the same meanwhile shares the answers: many probes are not many times as many questions."""
    asked = []
    async with answering(tmp_path, "0.1", 1, say=lambda rest: asked.append(rest) or b"yes") as only:
        first, second = await asyncio.gather(only.ask("say", 1), only.ask("say", 1))
        assert first == second == {"0": b"yes"}
        assert len(asked) == 1
        await only.ask("say", 1)
        assert len(asked) == 2


async def test_who_asks_may_lose_patience(tmp_path: Path) -> None:
    """The others who ask the same still get their answers."""
    async with answering(tmp_path, "0.1", 1, say=lambda _: b"yes") as only:
        impatient, patient = asyncio.ensure_future(only.ask("say", 1)), asyncio.ensure_future(only.ask("say", 1))
        await asyncio.sleep(0)
        impatient.cancel()
        assert await patient == {"0": b"yes"}


async def test_a_fault_is_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is in the log of the worker that has it."""
    async with answering(tmp_path, "0.1", 1, say=lambda _: b"%d" % (1 // 0)) as only:
        assert await only.ask("say", 1) == {"0": None}
    assert "unexpected fault in the answer to another worker" in caplog.text


async def test_a_loop_that_is_blocked_does_not_answer(tmp_path: Path) -> None:
    """Its socket takes the question, and that is all."""
    blocked, release = threading.Event(), threading.Event()

    async def block() -> None:
        async with answering(tmp_path, "1.2", 2, say=lambda _: b"there"):
            await asyncio.sleep(0.1)
            blocked.set()
            release.wait(10)
            await asyncio.sleep(0.5)

    other = threading.Thread(target=lambda: asyncio.run(block()))
    other.start()
    try:
        async with answering(tmp_path, "0.1", 2, say=lambda _: b"here") as first:
            await eventually(blocked.is_set)
            started = time.monotonic()
            assert await first.ask("say", 0.3) == {"0": b"here", "1": None}
            assert 0.3 <= time.monotonic() - started < 2
            release.set()
            assert await first.ask("say", 5) == {"0": b"here", "1": b"there"}
    finally:
        release.set()
        other.join()


# What is answered for all


@contextlib.asynccontextmanager
async def worker(folder: Path, name: str, places: int) -> AsyncIterator[Hub]:
    """As `hub.worker` makes one, in this process."""
    async with Hub(Settings(metrics="public")) as hub:
        hub.siblings = Siblings(folder / name, places)
        await hub.siblings.start({"metrics": hub.metrics, "ready": lambda _: readiness(hub)})
        try:
            yield hub
        finally:
            await hub.siblings.stop()


async def get(app: FastAPI, path: str) -> tuple[int, bytes]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://hub") as client:
        response = await client.get(path)
        return response.status_code, response.content


async def ready(app: FastAPI) -> tuple[int, str, dict[str, str]]:
    status, body = await get(app, "/health/ready")
    answer = json.loads(body)
    return status, answer["status"], answer["workers"]


async def test_one_answers_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readiness is that of every place; a worker that leaves its place to another does not count."""
    monkeypatch.setattr(health, "PATIENCE", 10)
    monkeypatch.setattr(exposition, "PATIENCE", 10)
    app = FastAPI()
    async with worker(tmp_path, "0.1", 2) as first:
        app.include_router(first.router)
        assert await ready(app) == (503, "not ready", {"0": "ready", "1": "no answer"})
        async with worker(tmp_path, "1.2", 2) as second:
            assert await ready(app) == (200, "ready", {"0": "ready", "1": "ready"})
            second.leaving = True
            assert await ready(app) == (503, "not ready", {"0": "ready", "1": "not ready"})
            async with worker(tmp_path, "1.3", 2):
                assert await ready(app) == (200, "ready", {"0": "ready", "1.2": "not ready", "1": "ready"})
                await second.publish("a", 1)
                status, text = await get(app, "/metrics")
                assert status == 200
                assert re.findall(rb'^hub_up{worker="(.*?)"} 1$', text, re.M) == [b"0", b"1", b"1.2"]
                assert b'hub_publications_in_total{worker="1.2"} 1.0' in text
        assert (await get(app, "/health/live"))[0] == 200


async def test_an_application_of_ones_own() -> None:
    """Knows no others: it is ready when it is."""
    app = FastAPI()
    async with Hub(Settings()) as hub:
        app.include_router(hub.router)
        assert await ready(app) == (200, "ready", {})
        hub.leaving = True
        assert await ready(app) == (503, "not ready", {})


# `hub serve`


@contextlib.contextmanager
def serving(*arguments: str, **variables: str) -> Iterator[HubProcess]:
    with hub_serve("--workers", "2", *arguments, env=variables) as hub:
        yield hub
        log = hub.log
    assert "Traceback" not in log


def workers(hub: HubProcess) -> list[int]:
    return children(hub.pid, "hub.worker")


def samples(hub: HubProcess, name: str) -> dict[str, float]:
    """A metric without other labels, by worker. Asks once."""
    with urllib.request.urlopen(f"{hub.url}/metrics", timeout=5) as response:
        text = response.read().decode()
    return {worker: float(value) for worker, value in re.findall(rf'^{name}{{worker="(.*?)"}} (\S+)$', text, re.M)}


def readiness_of(hub: HubProcess) -> tuple[int, Mapping[str, str]]:
    """The status of /health/ready, and what it says of each worker."""
    try:
        with urllib.request.urlopen(f"{hub.url}/health/ready", timeout=5) as response:
            return response.status, json.load(response)["workers"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["workers"]


async def eventually_ready(hub: HubProcess, status: int, timeout: float = 10) -> Mapping[str, str]:
    """What it says of each worker once it has this status."""
    async with asyncio.timeout(timeout):
        while (answer := await asyncio.to_thread(readiness_of, hub))[0] != status:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return answer[1]


async def test_the_sum_is_right(tmp_path: Path) -> None:
    """Connections and deliveries of both workers, in every answer; and nothing is left of their folder."""
    with serving(TMPDIR=str(tmp_path)) as hub:
        async with contextlib.AsyncExitStack() as stack:
            members = [await stack.enter_async_context(connect(f"{hub.ws_url}/ws/a")) for _ in range(20)]
            await members[0].send("hello")
            for member in members:
                assert await member.recv() == "hello"
            for _ in range(6):
                assert await asyncio.to_thread(samples, hub, "hub_up") == {"0": 1, "1": 1}
                assert sum((await asyncio.to_thread(samples, hub, "hub_subscriptions")).values()) == 20
                assert sum((await asyncio.to_thread(samples, hub, "hub_deliveries_total")).values()) == 20
                assert sum((await asyncio.to_thread(samples, hub, "hub_publications_in_total")).values()) == 1
        assert readiness_of(hub) == (200, {"0": "ready", "1": "ready"})
        [folder] = [name for name in names(tmp_path) if name.startswith("hub-workers-")]
        assert os.stat(tmp_path / folder).st_mode & 0o777 == 0o700
        hub.stop()
        assert names(tmp_path) == []


async def test_a_supervisor_that_was_killed() -> None:
    """The workers remove their folder as they end."""
    with tempfile.TemporaryDirectory() as short, serving(TMPDIR=short) as hub:
        family = workers(hub)
        assert any(name.startswith("hub-workers-") for name in names(Path(short)))
        hub.process.kill()
        await asyncio.to_thread(wait_gone, family, 10)
        assert not any(name.startswith("hub-workers-") for name in names(Path(short)))


async def test_a_worker_that_is_blocked(tmp_path: Path) -> None:
    """Row R22: within 2 s the log has the stack, and readiness is red while it lasts, and names the worker."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKS_ON_SIGNAL)
    with serving(PYTHONPATH=str(tmp_path)) as hub:
        before = time.monotonic()
        os.kill(workers(hub)[0], signal.SIGUSR2)
        await eventually(lambda: "blocked" in hub.log)  # who is asked before answers for itself, afterwards
        states = await eventually_ready(hub, 503)
        assert sorted(states.values()) == ["no answer", "ready"]
        await eventually(lambda: "the event loop has stood still for" in hub.log)
        [told, *_] = re.findall(r"has stood still for (\S+) s", hub.log)
        assert 1 <= float(told) < 2
        assert "a_blocking_handler\n    time.sleep(5)" in hub.log
        [victim] = [worker for worker, state in states.items() if state == "no answer"]
        assert (await asyncio.to_thread(samples, hub, "hub_up"))[victim] == 0
        status = 503
        while time.monotonic() - before < 4.8:  # an answer that comes later says nothing about the time before
            assert status == 503
            status = (await asyncio.to_thread(readiness_of, hub))[0]
        await eventually_ready(hub, 200)
        assert time.monotonic() - before < 7
        await eventually(lambda: "the event loop goes on" in hub.log)
        assert (await asyncio.to_thread(samples, hub, "hub_event_loop_blocks_total"))[victim] == 1


async def test_a_worker_that_is_stopped_or_killed() -> None:
    """Red while it is; then another is in its place, with its name."""
    with serving() as hub:
        victim = workers(hub)[0]
        os.kill(victim, signal.SIGSTOP)
        states = await eventually_ready(hub, 503)
        assert sorted(states.values()) == ["no answer", "ready"]
        assert sorted((await asyncio.to_thread(samples, hub, "hub_up")).values()) == [0, 1]
        assert len(await asyncio.to_thread(samples, hub, "hub_ready")) == 1
        os.kill(victim, signal.SIGKILL)
        assert await eventually_ready(hub, 200) == {"0": "ready", "1": "ready"}
        assert await asyncio.to_thread(samples, hub, "hub_up") == {"0": 1, "1": 1}
        assert victim not in workers(hub)


async def test_readiness_through_an_exchange_of_workers() -> None:
    """SIGHUP: it stays green, old and new are told apart, and at last the places are as before."""
    with serving(HUB_DRAIN="1") as hub:
        old = workers(hub)
        hub.process.send_signal(signal.SIGHUP)
        seen: set[str] = set()
        async with asyncio.timeout(20):
            while set(workers(hub)) & set(old) or len(workers(hub)) < 2:
                with contextlib.suppress(ConnectionError):  # of one that has just ended
                    status, states = await asyncio.to_thread(readiness_of, hub)
                    assert status == 200, states
                    seen |= set(states)
                await asyncio.sleep(0.02)
        assert seen > {"0", "1"}
        await eventually_ready(hub, 200)
        assert await asyncio.to_thread(samples, hub, "hub_up") == {"0": 1, "1": 1}
