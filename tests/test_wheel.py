"""The wheels: the hub's is small, together they have everything, and what it says that it needs is enough to run it."""

from __future__ import annotations

import asyncio
import tomllib
import urllib.request
from pathlib import Path
from zipfile import ZipFile

import pytest
import websockets

from tests.support.server import hub_serve
from tests.support.wheel import PROJECTS, ROOT, Environment, build

MOST = 400_000

IMPORT_ALL = """
import importlib, pkgutil, hub
assert "site-packages" in hub.__file__, hub.__file__
for _, name, _ in pkgutil.walk_packages(hub.__path__, "hub.", onerror=lambda name: None):
    if name != "hub.__main__":
        importlib.import_module(name)
print(hub.__version__)
"""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"), "broadcast-hub-dev")


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("empty") / "environment", wheel, "embedded")


def test_it_is_small(wheel: Path) -> None:
    """Under 400 kB: it is source code and a few pages, with nothing built in, and no part that only developers need."""
    assert wheel.stat().st_size < MOST


def names(wheel: Path) -> set[str]:
    """Of the files in it, none of which is there twice, or damaged."""
    with ZipFile(wheel) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == len(set(archive.namelist()))
        return set(archive.namelist())


def test_they_have_everything(wheel: Path, dev: Path) -> None:
    """Every file of the package, in one of the two; and nothing besides but pytest's plugin, metadata and licence."""
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "hub").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    both = [names(wheel), names(dev)]
    inside, developers = ({name for name in each if name.startswith("hub/")} for each in both)
    assert inside | developers == wanted
    assert not inside & developers
    assert {"hub/py.typed", "hub/static/hub.js", "hub/static/hub.d.ts", "hub/templates/chat.html"} <= inside
    assert any(name.startswith("hub/lua/") and name.endswith(".lua") for name in inside)
    others = both[0].union(both[1]) - wanted
    assert {name.partition("-")[0] for name in others} == {"broadcast_hub", "broadcast_hub_dev", "pytest_hub.py"}
    assert all(any(name.endswith("licenses/LICENSE") for name in each) for each in both)


def test_they_are_of_one_version() -> None:
    """Modules of one package fit together only so."""
    hub, dev = (tomllib.loads((project / "pyproject.toml").read_text())["project"] for project in PROJECTS.values())
    pinned = f"=={hub['version']}"
    assert dev["version"] == hub["version"]
    assert hub["optional-dependencies"]["dev"] == [dev["name"] + pinned]
    assert hub["name"] + pinned in dev["dependencies"]


def test_what_it_needs_is_declared(environment: Environment, tmp_path: Path) -> None:
    """Every module can be imported where nothing is but what the wheel requires."""
    done = environment.run("python", "-W", "error", "-c", IMPORT_ALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f'version = "{done.stdout.strip()}"' in (ROOT / "pyproject.toml").read_text()


def test_each_optional_package_says_what_is_missing(environment: Environment, tmp_path: Path) -> None:
    """Without its extra, SQLAlchemy's part fails with the command that installs it."""
    program = """
from hub import ConfigError, Hub
try:
    Hub().publish_on_commit(object(), "x", 1)
except RuntimeError:
    pass
import asyncio
async def main():
    Hub().publish_on_commit(object(), "x", 1)
try:
    asyncio.run(main())
except ConfigError as error:
    print(error)
"""
    done = environment.run("python", "-c", program, cwd=tmp_path)
    assert "pip install 'broadcast-hub[sql]'" in done.stdout, done.stderr


@pytest.mark.parametrize("command", ["hub codegen ts app:app", "hub serve --examples"], ids=str)
def test_what_developers_have_says_how_they_get_it(environment: Environment, tmp_path: Path, command: str) -> None:
    """Where only the hub is installed, as on a server."""
    done = environment.run(*command.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("broadcast-hub-dev: pip install 'broadcast-hub[dev]'") == 1
    assert "Traceback" not in done.stderr


async def test_it_runs(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hub serve` of the environment: its own Valkey, two workers, the page with its scripts, a message."""
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    program = (str(environment.bin / "hub"),)
    with hub_serve("--workers", "2", program=program, env=environment.variables) as hub:
        assert str(environment.site) in await asyncio.to_thread(_location, environment)
        pages = {path: await asyncio.to_thread(_get, hub.url + path) for path in ("/", "/static/hub.js")}
        assert b"<html" in pages["/"]
        assert b"export class Hub" in pages["/static/hub.js"]
        async with websockets.connect(f"{hub.ws_url}/ws/kitchen") as client, asyncio.timeout(20):
            await client.send("dinner")
            assert await client.recv() == "dinner"


def _location(environment: Environment) -> str:
    return environment.run("python", "-c", "import hub; print(hub.__file__)", cwd=environment.bin).stdout


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as response:
        return bytes(response.read())
