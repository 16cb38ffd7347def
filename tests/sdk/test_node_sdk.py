"""The npm package `centrifuge` in Node.js against a hub of two workers: the tests in `tests/sdk/node/`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.needs import need, node
from tests.support.npm import install
from tests.support.server import HubProcess, hub_serve

HERE = Path(__file__).parent
SUITE = HERE / "node"
# It kills the workers under everybody else.
ALONE = "killed_workers.test.js"
TOGETHER = sorted(path.name for path in SUITE.glob("*.test.js") if path.name != ALONE)

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def packages() -> None:
    """The packages of package.json."""
    install(SUITE)


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
