"""The hub's lead has not got lost: ratios and memory of a small run, with margins for a machine that is busy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.alone, pytest.mark.timed, pytest.mark.timeout(300)]

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, uses epoll")
def test_no_ratio_is_below_its_guard(redis_binary: str, tmp_path: Path) -> None:
    """Fan-out against the tutorial, the channel endpoint against the raw room, memory, CPU to accept."""
    command = [sys.executable, "-m", "bench", "--guard", "--output", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
