"""centrifuge-python's own tests of its client, from its source distribution, against a hub of two workers."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from tests.support.needs import missing, need
from tests.support.server import hub_serve

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".cache" / "sdk"
NAME = "centrifuge_python-0.7.0"

# The SDK would ask a proxy of the environment for loopback addresses too.
DIRECT = {**os.environ, "NO_PROXY": "*"}


def pip() -> list[str]:
    """A pip, which environments made by uv do not have."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if shutil.which("uv"):
        return ["uv", "tool", "run", "pip"]
    return [need("pip3", "pip", hint="apt install python3-pip")]


def download(folder: str) -> Path:
    """The source distribution, with the pinned hash; skipped where there is no package index."""
    command = [*pip(), "download", "--quiet", "--no-deps", "--no-binary", "centrifuge-python", "--require-hashes"]
    command += ["--requirement", str(HERE / "centrifuge-python.txt"), "--dest", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        missing(f"the source distribution of centrifuge-python cannot be downloaded: {done.stderr[-500:]}")
    return Path(folder) / f"{NAME}.tar.gz"


@pytest.fixture(scope="module")
def sources() -> Path:
    """The unpacked source distribution, downloaded once."""
    if not (CACHE / NAME).exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            with tarfile.open(download(folder)) as archive:
                archive.extractall(folder, filter="data")
            (Path(folder) / NAME).rename(CACHE / NAME)
    return CACHE / NAME


@pytest.mark.sdk
@pytest.mark.timeout(300)
def test_all_tests_of_the_sdk_pass_over_json(sources: Path, tmp_path: Path) -> None:
    """Every test of `tests.test_client` passes; only the Protobuf halves of its subtests are skipped."""
    report, log = tmp_path / "report", tmp_path / "log"
    with hub_serve("--workers", "2", "--config", str(HERE / "hub.toml")) as hub, log.open("wb") as sink:
        command = [sys.executable, str(HERE / "python_suite.py"), str(hub.port), str(report)]
        try:
            subprocess.run(command, cwd=sources, env=DIRECT, stdout=sink, stderr=sink, timeout=150, check=True)
        except subprocess.SubprocessError as error:
            pytest.fail(f"the suite did not end: {error}\n{log.read_text()[-5000:]}\n{hub.log[-5000:]}")
        served = hub.log
    result = json.loads(report.read_text())
    assert not result["faults"], "\n\n".join([*result["faults"], served[-5000:]])
    assert {reason for _, reason in result["skipped"]} == {"the hub does not speak Protobuf"}
    halves = {test.replace("use_protobuf=True", "use_protobuf=False") for test, _ in result["skipped"]}
    assert len(halves) == len(result["skipped"])
    assert halves <= set(result["passed"])
