"""docs/asyncapi.md: its program has what it says, its commands are right, its client compiles and talks with it."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from fastapi.testclient import TestClient

from hub.cli import cli
from tests.codegen.test_client import run
from tests.support import typescript
from tests.support.command_line import command_line
from tests.support.uvicorn_server import serving

PAGE = (Path(__file__).parents[2] / "docs" / "asyncapi.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The page's program, as the module `app` in a folder of its own."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "app", raising=False)
    (program,) = blocks("python")
    (tmp_path / "app.py").write_text(program)
    (tmp_path / "web").mkdir()
    import app  # type: ignore[import-not-found]

    yield app.app
    sys.modules.pop("app")


def test_the_document(app: Any) -> None:
    """It is where the page says, with what it says."""
    with TestClient(app) as client:
        document = client.get("/rt/asyncapi.json").json()
        assert client.get("/rt/asyncapi").status_code == 200
    assert document["servers"]["hub"]["pathname"] == "/rt/connection/websocket"
    assert document["operations"].keys() >= {"chat.subscribe", "chat.publish", "rpc.rename"}
    assert document["operations"]["rpc.rename"]["x-method"] == "rename"


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
def test_the_commands(line: str) -> None:
    """They exist, and take these arguments."""
    _, group, name, *arguments = shlex.split(line)
    found = cli.commands[group]
    assert isinstance(found, click.Group)
    command = found.get_command(click.Context(found), name)
    assert command is not None
    assert isinstance(command.make_context(name, arguments), click.Context)


@pytest.mark.timeout(300)
async def test_the_client(
    app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written by the page's first command, it compiles with the page's program, and that does what it says."""
    typescript.packages()
    command, *_ = blocks("sh")[0].splitlines()
    assert command_line(monkeypatch, capsys)(*shlex.split(command)[1:]) == (0, "", "")
    (program,) = blocks("ts")
    typescript.program(tmp_path / "web", main=program)
    assert await asyncio.to_thread(typescript.compiled, tmp_path / "web") == []
    async with serving(app) as (port, _):
        said = await run(tmp_path / "web" / "main.js", f"ws://127.0.0.1:{port}/rt/connection/websocket")
    assert said == "Bob: hello (1)"
