"""The runner of the Autobahn test suite, without the suite: what passes, what does not, and what is said without it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import compliance
from compliance import __main__ as runner
from compliance import suite
from compliance.report import ALL_CASES, Report
from hub import Settings

FOLDER = Path(compliance.__file__).parent


def result(behavior: str, close: str = "OK") -> dict[str, object]:
    return {"behavior": behavior, "behaviorClose": close, "remoteCloseCode": 1000, "duration": 1}


GOOD = {"1.1.1": result("OK"), "7.1.6": result("INFORMATIONAL"), "7.13.1": result("INFORMATIONAL", "INFORMATIONAL")}


def test_a_good_report() -> None:
    """Cases without a verdict on anybody are no fault."""
    report = Report(GOOD)
    assert report.faults() == []
    assert str(report) == "3 cases: 2 INFORMATIONAL, 1 OK"


@pytest.mark.parametrize(
    "bad",
    [
        result("FAILED"),
        result("NON-STRICT"),
        result("UNIMPLEMENTED"),
        result("INFORMATIONAL"),
        result("OK", "UNCLEAN"),
        result("OK", "WRONG CODE"),
        result("OK", "FAILED BY CLIENT"),
    ],
)
def test_faults(bad: dict[str, object]) -> None:
    """All else is, in the order of the suite."""
    faults = Report({"10.1.1": bad, "9.1.1": bad, **GOOD}).faults()
    assert [fault.split(":")[0] for fault in faults] == ["9.1.1", "10.1.1"]
    assert str(bad["behavior"]) in faults[0]
    assert str(bad["behaviorClose"]) in faults[0]


def test_reading_a_report(tmp_path: Path) -> None:
    """The suite writes one for all servers; ours has one server."""
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"hub": GOOD}))
    assert len(Report.read(path)) == 3
    path.write_text(json.dumps({"hub": GOOD, "other": GOOD}))
    with pytest.raises(ValueError, match="one server"):
        Report.read(path)


def test_the_settings() -> None:
    """The suite's largest messages fit, and nothing slows it down."""
    settings = Settings.load(config=FOLDER / "hub.toml")
    assert settings.compression
    assert settings.max_message_size == 16 * 2**20
    assert settings.message_rate == settings.max_connections == settings.connect_rate == 0


def test_without_python_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is skipped, and says how to get it."""
    monkeypatch.setattr(suite, "HOME", tmp_path)
    monkeypatch.setattr(suite, "_candidates", lambda: iter(["/nonexistent/python2.7", "true"]))
    assert runner.main([]) == 0
    said = capsys.readouterr().out
    assert "SKIPPED" in said
    assert "PYTHON27=" in said


class FakeSuite:
    """Stands in for the suite: writes a report, or none."""

    def __init__(self, results: dict[str, dict[str, object]] | None) -> None:
        self._results = results

    def __call__(self, program: Path, url: str, cases: list[str], folder: Path, *, timeout: float) -> Path:
        assert url.endswith("/echo")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "index.json"
        if self._results is not None:
            path.write_text(json.dumps({"hub": self._results}))
        return path


@contextlib.contextmanager
def fake_hub(*arguments: str) -> Iterator[SimpleNamespace]:
    yield SimpleNamespace(ws_url="ws://h", log="all is well")


ALL_OK = {f"1.1.{number}": result("OK") for number in range(ALL_CASES)}


@pytest.mark.parametrize(
    ("results", "arguments", "status", "words"),
    [
        (ALL_OK, [], 0, f"{ALL_CASES} OK"),
        (GOOD, ["1.*,7.*"], 0, "3 cases"),
        (GOOD, [], 1, f"{ALL_CASES} cases were expected"),
        ({**ALL_OK, "1.1.5": result("NON-STRICT")}, [], 1, "1.1.5: NON-STRICT"),
        (None, [], 1, "without a report"),
    ],
)
def test_the_verdict(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    results: dict[str, dict[str, object]] | None,
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    """Every case must be there and be good."""
    monkeypatch.setattr(suite, "wstest", lambda: Path("wstest"))
    monkeypatch.setattr(suite, "run", FakeSuite(results))
    monkeypatch.setattr(runner, "REPORTS", tmp_path)
    monkeypatch.setattr(runner, "hub_serve", fake_hub)
    assert runner.main(arguments) == status
    assert words in capsys.readouterr().out
