"""Log lines: one an event, with the connection that it is about."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
from fastapi import FastAPI
from websockets.asyncio.client import connect

from hub import Hub, Settings
from hub.log import Throttled, configure
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually


@pytest.fixture
def lines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a `hub serve` process logs, line by line; the parameter is (style, level)."""
    style: Literal["text", "json"]
    style, level = request.param
    root, server = logging.getLogger(), logging.getLogger("uvicorn.error")
    before = root.handlers[:], root.level, server.level
    sink = io.StringIO()
    monkeypatch.setattr(sys, "stderr", sink)
    configure(style, level)

    class Lines(list[str]):
        """Read anew each time."""

        def __iter__(self) -> Iterator[str]:
            return iter(sink.getvalue().splitlines())

    yield Lines()
    root.handlers[:], root.level = before[0], before[1]
    server.setLevel(before[2])


@pytest.mark.parametrize("lines", [("json", "info")], indirect=True)
def test_json(lines: list[str]) -> None:
    """One object a line, its time in UTC, a traceback inside, and what is known of the connection."""
    log = logging.getLogger("hub.test")
    log.info("hello %s", "you", extra={"connection": "c1", "user": "", "other": "x"})
    try:
        raise ValueError("line 1\nline 2")
    except ValueError:
        log.exception("it\nfailed")
    first, second = map(json.loads, lines)
    written = datetime.fromisoformat(first.pop("time"))
    assert written.utcoffset() == UTC.utcoffset(None)
    assert abs((datetime.now(UTC) - written).total_seconds()) < 60
    assert first.pop("pid") > 0
    assert first == {"level": "info", "logger": "hub.test", "message": "hello you", "connection": "c1"}
    assert second["message"] == "it\nfailed"
    assert second["exception"].endswith("ValueError: line 1\nline 2")


@pytest.mark.parametrize("lines", [("text", "info")], indirect=True)
def test_text(lines: list[str]) -> None:
    """The fields follow the message; without any it ends there."""
    logging.getLogger("hub.test").info("hello", extra={"connection": "c1", "user": "a b"})
    logging.getLogger("hub.test").info("hello")
    first, second = lines
    assert first.endswith(" hub.test: hello connection='c1' user='a b'")
    assert second.endswith(" hub.test: hello")


@pytest.mark.parametrize("lines", [("json", "info"), ("text", "info")], indirect=True)
def test_no_token_in_a_traceback(lines: list[str]) -> None:
    """What an HTTP client raises in a function of the application's has the whole URL in its text."""
    try:
        raise ValueError("GET https://example.com/who?token=s3cret failed")
    except ValueError:
        logging.getLogger("hub.test").exception("it failed")
    told = "\n".join(lines)
    assert "s3cret" not in told
    assert "ValueError: GET https://example.com/who?token=… failed" in told


def test_in_an_application_of_ones_own() -> None:
    """The page's example, in a process of its own: lines of the hub's, from INFO on, as JSON and without secrets."""
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    (example,) = [code for code in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S) if "dictConfig" in code]
    said = """
logging.getLogger("hub.redis").debug("too much")
logging.getLogger("hub.redis").info("GET /ws?token=s3cret", extra={"connection": "c1"})
logging.getLogger("other").info("the application's")
"""
    done = subprocess.run([sys.executable, "-c", example + said], capture_output=True, text=True, check=True)
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["logger"], line["message"], line["connection"]) == ("hub.redis", "GET /ws?token=…", "c1")


async def test_the_rest_of_a_burst(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Its sum comes after the pause, with the last one, though nothing happens any more; then nothing is told."""
    monkeypatch.setattr("hub.log.PAUSE", 0.05)
    throttled = Throttled(logging.getLogger("hub.test"), logging.WARNING, "%d things happened")
    for number in range(5):
        throttled.add(last=f"thing {number}")
    await eventually(lambda: len(caplog.messages) >= 2)
    await asyncio.sleep(0.12)
    assert caplog.messages == ["1 things happened (the last: thing 0)", "4 things happened (the last: thing 4)"]


async def visit() -> None:
    """A raw client and one of the protocol, who come and go."""
    app = FastAPI()
    app.include_router((hub := Hub(Settings(client_insecure=True))).router)
    async with serving(app) as (port, _):
        async with connect(f"ws://127.0.0.1:{port}/ws/room") as raw:
            await raw.send("a message")
            await raw.recv()
        async with connect(f"ws://127.0.0.1:{port}/connection/websocket") as client:
            await client.send(json.dumps({"id": 1, "connect": {}}))
            await client.recv()
            await client.close(3000, "bye")
        await eventually(lambda: not hub._admission.connections)


@pytest.mark.parametrize("lines", [("json", "debug")], indirect=True)
async def test_who_comes_and_goes(lines: list[str]) -> None:
    """For debugging: a line each, with the same id, and with the close code; messages are not told."""
    await visit()
    told = [line for line in map(json.loads, lines) if line["logger"] in ("hub.ws", "hub.client")]
    assert [line["message"].strip() for line in told] == [
        "connection opened in 'room'",
        "connection closed: 1000",
        "client connected",
        "client gone: 3000 bye",
    ]
    raw_opened, raw_closed, connected, gone = (line["connection"] for line in told)
    assert raw_opened == raw_closed != connected == gone
    assert not [line for line in lines if '"logger": "hub' in line and "a message" in line]


@pytest.mark.parametrize("lines", [("json", "info")], indirect=True)
async def test_nothing_to_tell(lines: list[str]) -> None:
    """What ten thousand clients do at once is no news."""
    await visit()
    assert [line for line in lines if '"hub.ws"' in line or '"hub.client"' in line] == []


@pytest.mark.parametrize("lines", [("json", "info")], indirect=True)
async def test_a_fault_names_its_connection(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the client's side of the story can be found."""
    app = FastAPI()
    app.include_router((hub := Hub(Settings(client_insecure=True))).router)

    @hub.rpc("break")
    async def fail(client: object, data: object) -> None:
        raise ValueError("broken")

    async with serving(app) as (port, _), connect(f"ws://127.0.0.1:{port}/connection/websocket") as client:
        await client.send(json.dumps({"id": 1, "connect": {}}))
        number = json.loads(await client.recv())["connect"]["client"]
        await client.send(json.dumps({"id": 2, "rpc": {"method": "break"}}))
        await client.recv()
        [found] = hub.clients
        monkeypatch.setattr(type(found), "on_due", None)
        hub.deadlines.set(found, 0)
        await eventually(lambda: len(list(lines)) == 2)
    for line in map(json.loads, lines):
        assert line["connection"] == number
    assert json.loads(next(iter(lines)))["exception"].endswith("ValueError: broken")
