"""The wheel: it is small, has everything, and what it says that it needs is enough to run it."""

from __future__ import annotations

import asyncio
import tomllib
import urllib.request
from pathlib import Path
from zipfile import ZipFile

import pytest
import websockets

from tests.support.server import hub_serve
from tests.support.wheel import ROOT, Environment, build

MOST = 500_000
# Their extras bring what they need.
OPTIONAL = ("hub.testing", "hub.examples")

IMPORT_ALL = f"""
import importlib, pkgutil, hub
assert "site-packages" in hub.__file__, hub.__file__
for _, name, _ in pkgutil.walk_packages(hub.__path__, "hub.", onerror=lambda name: None):
    if not name.startswith({OPTIONAL}) and name != "hub.__main__":
        importlib.import_module(name)
print(hub.__version__)
"""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("empty") / "environment", wheel, "embedded")


def test_it_is_small(wheel: Path) -> None:
    """Under half a megabyte: it is source code, a few pages and eight examples, with nothing built in."""
    assert wheel.stat().st_size < MOST


def test_it_has_everything(names: set[str]) -> None:
    """Every file of the package: pages, scripts, Lua, types; and nothing besides it but metadata and licence."""
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    moved: dict[str, str] = target.get("force-include", {})
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "hub").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    inside = {name for name in names if name.startswith("hub/")}
    assert inside | moved.keys() == wanted
    assert {"hub/py.typed", "hub/static/hub.js", "hub/static/hub.d.ts", "hub/templates/chat.html"} <= inside
    assert any(name.startswith("hub/lua/") and name.endswith(".lua") for name in inside)
    others = names - inside - set(moved.values())
    assert {name.partition("/")[0].partition("-")[0] for name in others} == {"broadcast_hub"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


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
