"""docs/api.md: its calls are answered as it says, its commands and tables are complete."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from hub import Hub, Settings
from hub.api_methods import METHODS, ApiMethods
from hub.cli import cli

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
# Shell blocks, each with the answer that follows it.
EXAMPLES = re.findall(r"^```sh\n(curl .*?)```\n```json\n(.*?)```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("hub ")]


@pytest.fixture
def client() -> Iterator[TestClient]:
    hub = Hub(Settings(api_key="key"))
    app = FastAPI()
    app.include_router(hub.router)
    with TestClient(app) as client:
        yield client


def send(client: TestClient, line: str) -> Any:
    """What curl would send, and what it would print; the epoch is another one each time."""
    _, *words = shlex.split(line.replace("$HUB_API_KEY", "key"))
    *options, url = words
    flags = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", 1) for flag, value in flags if flag == "-H")
    body = next(value for flag, value in flags if flag == "-d")
    path = url.removeprefix("http://127.0.0.1:8000")
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    return client.post(path, content=body, headers=headers | kind).json()


def same_epoch(value: Any) -> Any:
    return json.loads(re.sub(r'"epoch": "[^"]+"', '"epoch": "kzqw"', json.dumps(value)))


def test_the_calls(client: TestClient) -> None:
    """From top to bottom on one hub, as it comes out of the box."""
    assert len(EXAMPLES) > 10
    for lines, expected in EXAMPLES:
        for line in lines.splitlines():
            assert same_epoch(send(client, line)) == json.loads(expected), line


def test_every_call_has_its_answer() -> None:
    """No curl in a block is left out by the pattern above."""
    assert sum(lines.count("curl ") for lines, _ in EXAMPLES) == len(re.findall(r"^curl ", PAGE, re.MULTILINE))


def test_the_table_of_methods() -> None:
    """Every method with all of its fields, and a star where one is required."""
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\|(.*?)\|$", PAGE, re.MULTILINE)
    assert tuple(name for name, *_ in rows) == METHODS
    table = ApiMethods(Hub(Settings())).table
    for name, request, _ in rows:
        fields = table[name].request.model_fields
        if name == "broadcast":
            request += table_row(rows, "publish")
        named = set(re.findall(r"`(\w+)`", request))
        assert fields.keys() - named == set(), name
        required = {field for field, info in fields.items() if info.is_required()}
        assert required <= set(re.findall(r"`(\w+)`\\\*", request)), name


def table_row(rows: list[tuple[str, str, str]], wanted: str) -> str:
    return next(request for name, request, _ in rows if name == wanted)


def test_the_settings() -> None:
    """The block of TOML is what the hub takes."""
    (block,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(Settings(**tomllib.loads(block)).api_keys) == 2


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands(line: str) -> None:
    """They exist, and take these arguments."""
    _, name, *arguments = shlex.split(line)
    command = cli.commands[name]
    assert isinstance(command.make_context(name, arguments), click.Context)
