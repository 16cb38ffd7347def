"""The fixture `hub_cluster`, in a project that has configured nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import hub

ROOT = Path(hub.__file__).parents[1]
PLUGIN = ROOT / "hub/testing/pytest_plugin.py"

TESTS = """
import asyncio
import sys

import pytest
from fastapi import FastAPI


def application():
    from hub import Hub

    app = FastAPI()
    app.include_router(Hub().router)
    return app


def test_without_it():
    assert not [name for name in sys.modules if name.partition(".")[0] in ("hub", "fakeredis", "redis")]


@pytest.mark.anyio
async def test_with_it(hub_cluster):
    async with hub_cluster(application, workers=2) as c:
        a, b = await c.connect("/ws/x", worker=0), await c.connect("/ws/x", worker=1)
        await a.send_text("hi")
        assert await b.receive_text(timeout=1) == "hi"


def test_with_nothing_but_asyncio(hub_cluster):
    async def main():
        async with hub_cluster(application(), workers=1) as c:
            await c.connect("/ws/x")

    asyncio.run(main())
"""

CONTRACT = """
from hub.testing.contract import BrokerContract
from hub.memory import MemoryBroker
import pytest


class Lossy(MemoryBroker):
    name = ""


class TestLossy(BrokerContract):
    @pytest.fixture
    def make(self):
        return Lossy


class TestNothing(BrokerContract):
    pass
"""


def run(folder: Path, tests: str, *options: str) -> str:
    """What pytest prints, with the plugin as the wheel has it, and no settings of ours."""
    (folder / "pytest_hub.py").symlink_to(PLUGIN)
    (folder / "test_it.py").write_text(tests)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "HUB_", "COV"))}
    command = [sys.executable, "-m", "pytest", "-p", "pytest_hub", "-p", "no:cacheprovider", *options, "test_it.py"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**kept, "PYTHONPATH": f"{folder}:{ROOT}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def test_nothing_to_configure(tmp_path: Path) -> None:
    """It is there, it works with what runs coroutines, and until somebody wants it the hub is not even imported."""
    printed = run(tmp_path, TESTS, "-q", "-p", "anyio")
    assert "3 passed" in printed, printed


def test_a_broker_of_somebody_else(tmp_path: Path) -> None:
    """The contract says what is wrong, with values; a class without `make` is told so. No plugin is needed."""
    printed = run(tmp_path, CONTRACT, "-q", "-k", "name_tells or ready")
    assert "TestNothing needs a fixture `make`" in printed, printed
    assert "AssertionError: assert ''" in printed
    assert "TestLossy::test_the_name_tells_brokers_apart" in printed
    assert re.search("1 failed, 1 passed, .* 2 errors", printed)


def test_the_wheel_brings_it() -> None:
    """pytest finds it by its entry point, outside of the package."""
    project = tomllib.loads((ROOT / "dev" / "pyproject.toml").read_text())
    module = project["project"]["entry-points"]["pytest11"]["hub"]
    forced = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert forced[f"../{PLUGIN.relative_to(ROOT)}"] == f"{module}.py"
