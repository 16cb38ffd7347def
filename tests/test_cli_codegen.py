"""`hub codegen ts`: where the document comes from, where the client goes, what is said about mistakes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from hub.asyncapi import Place, describe
from hub.codegen import typescript
from hub.pages import STATIC
from tests.support import typed_app
from tests.support.command_line import Run, command_line
from tests.support.uvicorn_server import serving

APP = "tests.support.typed_app:app"

PROGRAM = """
from fastapi import FastAPI
from hub import Hub, Settings

hub = Hub(Settings())
other = Hub(Settings())
hub.channel("chat:{room}", dict[str, str])
app = FastAPI()
app.include_router(hub.router)
outer = FastAPI()
outer.mount("/inner", app)
named = FastAPI()
named.mount("/inner", app, name="inner")
both = FastAPI()
both.include_router(hub.router, prefix="/one")
both.include_router(other.router, prefix="/two")
none = FastAPI()
number = 7
"""


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    return command_line(monkeypatch, capsys)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with programs, which the command is run in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cli_codegen_program.py").write_text(PROGRAM)
    (tmp_path / "cli_codegen_broken.py").write_text("import no_such_package")
    monkeypatch.delitem(sys.modules, "cli_codegen_program", raising=False)
    return tmp_path


@pytest_asyncio.fixture
async def url() -> AsyncIterator[str]:
    async with serving(typed_app.make()[0]) as (port, _):
        yield f"http://127.0.0.1:{port}/rt/asyncapi.json"


def expected(imports: str = "./hub.js") -> str:
    place = Place(host="localhost", path="/", secure=False, title="Rooms", version="1.2.3")
    return typescript(describe(typed_app.hub, place), imports=imports)


# Sources


def test_of_a_program(cli: Run) -> None:
    """`module:application`, to standard output."""
    assert cli("codegen", "ts", APP) == (0, expected(), "")


def test_of_a_hub(cli: Run) -> None:
    """`module:hub` is the same, but for the title."""
    status, output, _ = cli("codegen", "ts", "tests.support.typed_app:hub", "--import", "@/hub")
    assert status == 0
    assert output.replace("of broadcast-hub", "of Rooms") == expected("@/hub")


@pytest.mark.parametrize("name", ["hub", "app"])
def test_of_a_program_in_this_folder(cli: Run, here: Path, name: str) -> None:
    """As uvicorn finds it."""
    status, output, _ = cli("codegen", "ts", f"cli_codegen_program:{name}")
    assert status == 0
    assert "readonly chat: (parameters: { room: string }) => ChatChannel;" in output


def test_of_an_application_with_a_mounted_one(cli: Run, here: Path) -> None:
    """The hub is found where it is."""
    assert "readonly chat:" in cli("codegen", "ts", "cli_codegen_program:outer")[1]
    assert "readonly chat:" in cli("codegen", "ts", "cli_codegen_program:named")[1]


def test_of_a_file(cli: Run, tmp_path: Path) -> None:
    """One that /asyncapi.json was saved to."""
    place = Place(host="h", path="/", secure=False, title="Rooms")
    (tmp_path / "document.json").write_text(json.dumps(describe(typed_app.hub, place)))
    assert cli("codegen", "ts", str(tmp_path / "document.json")) == (0, expected(), "")


async def test_of_a_running_application(cli: Run, url: str) -> None:
    """By the address of its document."""
    assert await asyncio.to_thread(cli, "codegen", "ts", url) == (0, expected(), "")


async def test_of_an_address_without_a_document(cli: Run, url: str) -> None:
    """The status, and where it would be."""
    status, _, error = await asyncio.to_thread(cli, "codegen", "ts", url + "x")
    assert (status, "answered 404; the document is at asyncapi.json" in error) == (1, True)
    page = url.removesuffix(".json")
    status, _, error = await asyncio.to_thread(cli, "codegen", "ts", page)
    assert (status, "is no JSON object" in error) == (2, True)


@pytest.mark.parametrize(
    ("source", "status", "text"),
    [
        ("missing.json", 2, "cannot read 'missing.json': No such file"),
        ("list.json", 2, "list.json is no JSON object"),
        ("text.json", 2, "text.json is no JSON object"),
        ("openapi.json", 2, "no AsyncAPI document of version 3"),
        ("main", 2, "'main' is no URL, no file and no program"),
        ("no_such_module:app", 2, "there is no module 'no_such_module' here"),
        ("no_such_module.main:app", 2, "there is no module 'no_such_module.main' here"),
        ("cli_codegen_program:missing", 2, "has no 'missing'"),
        ("cli_codegen_program:none", 2, "does not include the router of a hub"),
        ("cli_codegen_program:number", 2, "does not include the router of a hub"),
        ("cli_codegen_program:both", 2, "includes several hubs: name one of them"),
        ("http://127.0.0.1:1/asyncapi.json", 1, "cannot read http://127.0.0.1:1/asyncapi.json: "),
        ("http://[", 1, "cannot read http://[: "),
    ],
)
def test_mistakes(cli: Run, here: Path, source: str, status: int, text: str) -> None:
    """One line that says what is wrong."""
    (here / "list.json").write_text("[]")
    (here / "text.json").write_text("hello")
    (here / "openapi.json").write_text('{"openapi": "3.1.0"}')
    found, output, error = cli("codegen", "ts", source)
    assert (found, output) == (status, "")
    assert error.startswith("hub: ")
    assert text in error
    assert error.count("\n") == 1


def test_a_fault_in_the_program_is_shown_as_it_is(here: Path, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its author wants to see where it is."""
    monkeypatch.setattr("sys.argv", ["hub", "codegen", "ts", "cli_codegen_broken:app"])
    from hub.cli import main

    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        main()


# Files


def test_it_is_written_with_what_it_needs(cli: Run, tmp_path: Path) -> None:
    """hub.js and its types are beside it."""
    assert cli("codegen", "ts", APP, "-o", str(tmp_path / "client.ts")) == (0, "", "")
    assert (tmp_path / "client.ts").read_text() == expected()
    for name in ("hub.js", "hub.d.ts"):
        assert (tmp_path / name).read_text() == (STATIC / name).read_text()


def test_hub_js_from_elsewhere(cli: Run, tmp_path: Path) -> None:
    """With --import, nothing else is written."""
    assert cli("codegen", "ts", APP, "-o", str(tmp_path / "client.ts"), "--import", "../hub.js")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["client.ts"]
    assert (tmp_path / "client.ts").read_text() == expected("../hub.js")


def test_what_is_up_to_date_is_not_written(cli: Run, tmp_path: Path) -> None:
    """Programs that watch the file have nothing to do."""
    path = tmp_path / "client.ts"
    cli("codegen", "ts", APP, "-o", str(path))
    path.chmod(0o444)
    before = path.stat().st_mtime_ns
    assert cli("codegen", "ts", APP, "-o", str(path)) == (0, "", "")
    assert path.stat().st_mtime_ns == before


def test_check(cli: Run, tmp_path: Path) -> None:
    """For a continuous integration: nothing is written, and the status tells."""
    path = tmp_path / "client.ts"
    arguments = ("codegen", "ts", APP, "-o", str(path), "--check")
    status, _, error = cli(*arguments)
    assert (status, error.count("is not up to date")) == (1, 3)
    assert list(tmp_path.iterdir()) == []
    cli(*arguments[:-1])
    assert cli(*arguments) == (0, "", "")
    path.write_text(path.read_text() + "// mine\n")
    status, _, error = cli(*arguments)
    assert (status, error) == (1, f"hub: {path} is not up to date; run this without --check\n")


def test_check_needs_a_file(cli: Run) -> None:
    """There is nothing to compare with."""
    status, _, error = cli("codegen", "ts", APP, "--check")
    assert (status, "name it with --output" in error) == (2, True)


def test_a_place_that_cannot_be_written(cli: Run, tmp_path: Path) -> None:
    """One line, and the status of a mistake."""
    status, _, error = cli("codegen", "ts", APP, "-o", str(tmp_path / "missing" / "client.ts"))
    assert (status, "cannot write" in error, error.count("\n")) == (2, True, 1)
    status, _, error = cli("codegen", "ts", APP, "-o", str(tmp_path))
    assert (status, "cannot read" in error, error.count("\n")) == (2, True, 1)


def test_nothing_is_started(cli: Run) -> None:
    """A hub that is only looked at has no event loop, and no connection to Redis."""
    cli("codegen", "ts", APP)
    assert typed_app.hub._loop is None
