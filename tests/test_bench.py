"""The benchmark runs to its end and reports what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(120)
def test_a_quick_run(redis_binary: str) -> None:
    """A small run measures both servers; no figure is judged, because it means nothing at this size."""
    done = subprocess.run([sys.executable, "-m", "bench", "--quick"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((ROOT / "bench/results/latest.json").read_text())
    assert len(report["targets"]) == 4
    for name in ("hub", "tutorial"):
        figures = report["results"][name]
        assert figures["window 1: deliveries_per_second"] > 0
        assert figures["window 32: p99_ms"] >= figures["window 32: p50_ms"] > 0
