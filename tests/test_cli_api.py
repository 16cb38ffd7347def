"""The commands that speak to a running hub: what they ask of it, and how they show its answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI, Response

from hub.api import api_router
from hub.cli_remote import address_of
from hub.config import Settings
from hub.control import HubNode
from hub.errors import Disconnect, Disconnects, Errors, Refused
from hub.types import ClientInfo, DataKind, Publication, StreamPosition
from tests.support.api_core import Page, RecordingCore
from tests.support.command_line import Run, command_line
from tests.support.uvicorn_server import serving

Ask = Callable[..., Awaitable[tuple[int, str, str]]]

NODE = {
    "uid": "a1",
    "name": "host",
    "version": "1",
    "num_clients": 1,
    "num_users": 2,
    "num_subs": 3,
    "num_channels": 4,
    "uptime": 5,
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return command_line(monkeypatch, capsys)


@pytest.fixture
def core() -> RecordingCore:
    return RecordingCore()


@pytest.fixture
async def ask(core: RecordingCore, run: Run, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ask]:
    """`hub ARGUMENTS` against a server with `core` that has the same key."""
    app = FastAPI()
    app.include_router(api_router(cast(HubNode, core), Settings(api_key="key")), prefix="/rt")
    async with listening(app) as url:
        monkeypatch.setenv("HUB_URL", f"{url}/rt/")
        monkeypatch.setenv("HUB_API_KEY", "key")
        yield lambda *arguments: asyncio.to_thread(run, *arguments)


@contextlib.asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    async with serving(app) as (port, _):
        yield f"http://127.0.0.1:{port}"


# hub publish


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        (["grüße"], '"grüße"'),
        (['{"a": 1}'], '"{\\"a\\": 1}"'),
        (["--json", '{"a": [1.50, null]}'], '{"a":[1.50,null]}'),
        (["--json", "7"], "7"),
    ],
)
async def test_publish(ask: Ask, core: RecordingCore, arguments: list[str], taken: str) -> None:
    """Text is a string, JSON with `--json` what it is; nothing is said."""
    assert await ask("publish", "räum", *arguments) == (0, "", "")
    name, (channel, data), options = core.last
    assert (name, channel, data.decode()) == ("publish", "räum", taken)
    assert (options["tags"], options["idempotency_key"]) == (None, "")


async def test_publish_with_options(ask: Ask, core: RecordingCore) -> None:
    """Tags and the key arrive."""
    options = ("--tag", "a=1", "--tag", "b=x=y", "--idempotency-key", "k")
    assert await ask("publish", "room", "hi", *options) == (0, "", "")
    assert core.last[2]["tags"] == {"a": "1", "b": "x=y"}
    assert core.last[2]["idempotency_key"] == "k"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["publish", "room", "--json", "{"], "Invalid value for DATA: this is not JSON"),
        (["publish", "room", "\udcff"], "Invalid value for DATA: this is not UTF-8"),
        (["publish", "room", "hi", "--tag", "a"], "Invalid value for --tag: 'a' is not NAME=VALUE"),
        (["publish", "room"], "Missing argument 'DATA'"),
        (["history", "room", "--since", "x"], "Invalid value for --since: 'x' is not OFFSET or OFFSET:EPOCH"),
        (["history", "room", "--limit", "-2"], "Invalid value for '-n' / '--limit'"),
        (["disconnect"], "Missing option '--user'"),
        (["disconnect", "--user", "42", "--code", "1000"], "Invalid value for '--code'"),
        (["disconnect", "--user", "42", "--reason", "bye"], "--reason needs --code"),
        (["info", "--api-key", "schlüssel"], "an API key has ASCII characters only"),
    ],
)
async def test_bad_arguments(ask: Ask, core: RecordingCore, arguments: list[str], said: str) -> None:
    """One line, status 2, and nothing is asked."""
    status, out, err = await ask(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"hub: {said}")
    assert not core.calls


# Questions


async def test_channels(ask: Ask, core: RecordingCore) -> None:
    """All, or those of a pattern; lines with tabs where there is no terminal; JSON on demand."""
    core.answers["channels"] = {"b": 1, "a\x9b31m": 2}
    assert await ask("channels") == (0, "channel\tclients\na\\x9b31m\t2\nb\t1\n", "")
    assert core.last == ("channels", ("",), {})
    status, out, _ = await ask("channels", "chat:*", "--json")
    assert (status, json.loads(out)) == (0, {"channels": {"a\x9b31m": {"num_clients": 2}, "b": {"num_clients": 1}}})
    assert core.last == ("channels", ("chat:*",), {})


async def test_presence(ask: Ask, core: RecordingCore) -> None:
    """By user and client; what they call themselves cannot steer the terminal."""
    core.answers["presence"] = {
        "c2": ClientInfo(user="42", client="c2"),
        "c1": ClientInfo(user="42", client="c1", conn_info=b'{"n":"\\u009b"}', chan_info=b"1"),
    }
    status, out, _ = await ask("presence", "room")
    assert status == 0
    assert out.splitlines()[1:] == ['42\tc1\t{"n":"\\x9b"}\t1', "42\tc2\t\t"]
    status, out, _ = await ask("presence", "room", "--json")
    assert json.loads(out)["presence"]["c2"] == {"user": "42", "client": "c2"}


async def test_history(ask: Ask, core: RecordingCore) -> None:
    """The newest first, or from a position on; the end is told."""
    publications = [
        Publication(b'{"a":1}', DataKind.JSON, offset=8, info=b'{"user":"42","client":"c"}', tags={"t": "1", "u": "2"}),
        Publication(b"hi", DataKind.TEXT, offset=7),
    ]
    core.answers["history"] = Page(publications, StreamPosition(8, "kzqw"))
    status, out, _ = await ask("history", "room")
    lines = ["offset\tuser\ttags\tdata", '8\t42\tt=1, u=2\t{"a":1}', '7\t\t\t"hi"', "The end is at 8:kzqw"]
    assert (status, out.splitlines()) == (0, lines)
    assert core.last == ("history", ("room",), {"limit": 10, "since": None, "reverse": True})
    status, out, _ = await ask("history", "room", "-n", "-1", "--since", "6:kzqw", "--json")
    assert json.loads(out)["offset"] == 8
    assert core.last[2] == {"limit": -1, "since": StreamPosition(6, "kzqw"), "reverse": False}


async def test_info(ask: Ask, core: RecordingCore) -> None:
    """One line a worker."""
    core.answers["info"] = [SimpleNamespace(**NODE)]
    status, out, _ = await ask("info")
    assert (status, out.splitlines()[1]) == (0, "host\t1\t1\t2\t3\t4\t5")
    assert json.loads((await ask("info", "--json"))[1]) == {"nodes": [NODE]}


async def test_on_a_terminal(ask: Ask, core: RecordingCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with a frame; names that look like markup are names."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    core.answers["channels"] = {"[red]x": 1}
    _, out, _ = await ask("channels")
    assert "╭" in out
    assert "[red]x" in out


# hub disconnect


async def test_disconnect(ask: Ask, core: RecordingCore) -> None:
    """With the hub's own code, or another."""
    assert await ask("disconnect", "--user", "42") == (0, "", "")
    given = {"client": "", "session": "", "whitelist": (), "disconnect": Disconnects.FORCE_DISCONNECT}
    assert core.last == ("disconnect_user", ("42",), given)
    options = ("--client", "c", "--except", "d", "--except", "e", "--code", "4500", "--reason", "bye")
    assert await ask("disconnect", "--user", "42", *options, "--json") == (0, "{}\n", "")
    bye = Disconnect(code=4500, reason="bye", reconnect=False)
    assert core.last[2] == {"client": "c", "session": "", "whitelist": ("d", "e"), "disconnect": bye}


# Faults


async def test_a_refusal(ask: Ask, core: RecordingCore) -> None:
    """In the hub's words, with its code; status 1."""
    core.answers["presence"] = Refused(Errors.NOT_AVAILABLE)
    status, out, err = await ask("presence", "room")
    assert (status, out) == (1, "")
    assert err.endswith("/rt refused: not available (error 108)\n")


async def test_a_wrong_key(ask: Ask) -> None:
    """The option wins over the environment."""
    status, _, err = await ask("info", "--api-key", "wrong")
    assert (status, err.count("\n")) == (1, 1)
    assert "answered 401: The API key is missing or wrong" in err


async def test_the_key_comes_from_a_file(
    ask: Ask, core: RecordingCore, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """The first one of the hub's own configuration."""
    monkeypatch.delenv("HUB_API_KEY")
    file = tmp_path / "hub.toml"
    file.write_text('api_key = ["key", "other"]\n')
    assert (await ask("info"))[0] == 1
    assert (await ask("info", "--config", str(file)))[0] == 0


def strange_server() -> FastAPI:
    """What is not a hub."""
    app = FastAPI()
    answers = {
        "page": Response("<html>", media_type="text/html"),
        "list": Response("[]", media_type="application/json"),
        "bare": Response('{"result": 1}', media_type="application/json"),
        "moved": Response(status_code=301, headers={"Location": "https://hub.example/api/info"}),
        "broken": Response("<h1>it is\nbroken</h1>", 502),
        "silent": Response("", 500),
    }

    @app.post("/{name}/api/info")
    async def info(name: str) -> Response:
        return answers[name]

    return app


async def test_what_is_not_a_hub(run: Run) -> None:
    """One line that says what came; nothing is sent to where it points."""
    async with listening(strange_server()) as url:
        for name, said in (
            ("page", "does not answer like a hub"),
            ("list", "does not answer like a hub"),
            ("bare", "does not answer like a hub"),
            ("moved", "answered 301: it is at https://hub.example/api/info"),
            ("broken", "answered 502: <h1>it is broken</h1>"),
            ("silent", "answered 500: Internal Server Error"),
        ):
            status, out, err = await asyncio.to_thread(run, "info", "--url", f"{url}/{name}")
            assert (status, out, err) == (1, "", f"hub: {url}/{name} {said}\n")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://[::1", "ftp:"])
def test_nobody_there(run: Run, url: str) -> None:
    """One line, status 1."""
    status, _, err = run("info", "--url", url)
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith(f"hub: cannot reach a hub at {url}: ")


async def test_through_a_unix_socket(
    core: RecordingCore, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hub with HUB_UDS listens nowhere else: it is asked there, whatever proxy there is, unless --url says where."""
    monkeypatch.delenv("HUB_URL", raising=False)
    monkeypatch.setenv("HUB_UDS", str(tmp_path / "hub.sock"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    core.answers["info"] = [SimpleNamespace(**NODE)]
    app = FastAPI()
    app.include_router(api_router(cast(HubNode, core), Settings(api_key="key")))
    ask = partial(asyncio.to_thread, run, "info", "--api-key", "key")
    status, _, err = await ask()
    assert (status, err) == (
        1,
        f"hub: cannot reach a hub at {tmp_path}/hub.sock: [Errno 2] No such file or directory\n",
    )
    async with serving(app, uds=str(tmp_path / "hub.sock")):
        status, out, err = await ask()
        assert (status, err, "host" in out) == (0, "", True)
        status, _, err = await ask("--url", "http://[::1]:1")
        assert (status, err.startswith("hub: cannot reach a hub at http://[::1]:1: ")) == (1, True)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("hub.example", "http://hub.example:8000"),
    ],
)
def test_the_default_address(host: str, address: str) -> None:
    """Where a hub with these settings is found."""
    assert address_of(Settings(host=host)) == address
