"""The npm package `centrifuge` in Node.js against a hub of two workers: the tests in `tests/sdk/node/`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.needs import missing, need, node, npm
from tests.support.server import HubProcess, hub_serve

HERE = Path(__file__).parent
SUITE = HERE / "node"
# It kills the workers under everybody else.
ALONE = "killed_workers.test.js"
TOGETHER = sorted(path.name for path in SUITE.glob("*.test.js") if path.name != ALONE)

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(300)]


def installed() -> dict[str, str]:
    """The versions that are in node_modules."""
    found = {}
    for path in SUITE.glob("node_modules/*/package.json"):
        package = json.loads(path.read_text())
        found[package["name"]] = package["version"]
    return found


@pytest.fixture(scope="module")
def packages() -> None:
    """The packages of package.json, installed once; skipped where there is no package registry."""
    wanted = json.loads((SUITE / "package.json").read_text())["dependencies"]
    if wanted.items() <= installed().items():
        return
    shutil.rmtree(SUITE / "node_modules", ignore_errors=True)
    done = subprocess.run([npm(), "install"], cwd=SUITE, capture_output=True, text=True, timeout=180)
    if done.returncode:
        missing(f"npm cannot install the packages of {SUITE}: {done.stderr[-500:]}")


def run(hub: HubProcess, *files: str) -> None:
    """Run these files with Node's test runner: all pass, none is skipped."""
    environment = {**os.environ, "HUB_URL": hub.url, "HUB_PID": str(hub.pid), "NODE_NO_WARNINGS": "1"}
    command = [node(), "--test", "--test-reporter=tap", *files]
    done = subprocess.run(command, cwd=SUITE, env=environment, capture_output=True, text=True, timeout=200)
    counts = {name: int(count) for name, count in re.findall(r"^# (\w+) (\d+)$", done.stdout, re.MULTILINE)}
    failed = re.findall(r"^ *not ok .*$\n(?:.*\n){0,40}", done.stdout, re.MULTILINE)
    assert done.returncode == 0, "\n".join([*failed, done.stdout[-1000:], done.stderr[-1000:], hub.log[-3000:]])
    assert counts["pass"] == counts["tests"] > len(files)


@pytest.mark.usefixtures("packages")
def test_the_javascript_sdk_works_against_the_hub() -> None:
    """Every test of the suite passes."""
    with hub_serve("--workers", "2", "--config", str(HERE / "hub.toml")) as hub:
        run(hub, *TOGETHER)
        assert "Traceback" not in hub.log


@pytest.mark.usefixtures("packages")
def test_the_javascript_sdk_recovers_over_killed_workers() -> None:
    """kill -9 of each worker: no publication is lost, doubled or out of order."""
    need("ps", hint="apt install procps")
    with hub_serve("--workers", "2", "--config", str(HERE / "hub.toml")) as hub:
        run(hub, ALONE)
