"""Variables that are no settings: they are told of, with the one that may be meant, and never with their values."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

from hub import Hub, Settings
from hub.config import warn_of_unknown_variables
from hub.environment import unknown_variables
from tests.support.cluster import ROOT
from tests.support.command_line import command_line
from tests.support.server import hub_serve

MISSPELT = {
    "HUB_TOKEN_HMAC_SECRET": "HUB_TOKEN_HMAC_SECRET_KEY",
    "HUB_TOKENS": "HUB_TOKEN",
    "HUB_METRIC": "HUB_METRICS",
    "HUB_NAMESPACE": "HUB_NAMESPACES",
    "HUB_ORIGIN": "HUB_ORIGINS",
    "HUB_PROT": "HUB_PORT",
}
# What Kubernetes has of Services named `hub` and `hub-redis`.
LINKS = {
    "HUB_SERVICE_HOST": "10.96.12.7",
    "HUB_SERVICE_PORT": "8000",
    "HUB_SERVICE_PORT_HTTP": "8000",
    "HUB_PORT": "tcp://10.96.12.7:8000",
    "HUB_PORT_8000_TCP": "tcp://10.96.12.7:8000",
    "HUB_PORT_8000_TCP_PROTO": "tcp",
    "HUB_PORT_8000_TCP_PORT": "8000",
    "HUB_PORT_8000_TCP_ADDR": "10.96.12.7",
    "HUB_REDIS_SERVICE_HOST": "10.96.12.8",
    "HUB_REDIS_PORT": "tcp://10.96.12.8:6379",
    "HUB_REDIS_PORT_6379_TCP": "tcp://10.96.12.8:6379",
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set, and nothing was told yet."""
    for name in os.environ:
        if name.upper().startswith("HUB_") or name == "REDIS_URL":
            monkeypatch.delenv(name)
    warn_of_unknown_variables.cache_clear()


def found() -> list[str]:
    return list(unknown_variables(Settings.model_fields))


@pytest.mark.parametrize(("name", "meant"), MISSPELT.items())
def test_a_misspelt_variable(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    """HUB_TOKENS left the hub open to everybody, and nothing told of it."""
    monkeypatch.setenv(name, "s3cret")
    (sentence,) = found()
    assert sentence == f"{name} is no setting and is ignored: is {meant} meant?"


def test_a_variable_like_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is proposed."""
    monkeypatch.setenv("HUB_XYZZY", "")
    assert found() == ["HUB_XYZZY is no setting and is ignored"]


def test_settings_and_service_links_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither every setting's variable, nor what Kubernetes sets by itself, is told of."""
    for name in Settings.model_fields:
        monkeypatch.setenv(f"HUB_{name.upper()}", "x")
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)
    assert found() == []


def test_what_this_project_reads_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the command line, of the tests, and all that the documents and configurations speak of."""
    names = set(re.findall(r"\bHUB_[A-Z_]*[A-Z]\b", "".join(path.read_text() for path in documents())))
    names |= {name for path in programs() for name in re.findall(r'environ[.\w]*[(\[]"(HUB_\w+)"', path.read_text())}
    assert {"HUB_URL", "HUB_TEST_STRICT", "HUB_FAULTS"} <= names
    for name in names:
        monkeypatch.setenv(name, "1")
    assert found() == []


def documents() -> list[Path]:
    deployed = [path for path in (ROOT / "deploy").rglob("*") if path.is_file()]
    return [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*.yml"), ROOT / "Makefile", *deployed]


def programs() -> list[Path]:
    return [path for folder in ("hub", "tests", "bench") for path in (ROOT / folder).rglob("*.py")]


def test_an_embedded_hub_tells_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Through the log, and not if it does not read the environment."""
    monkeypatch.setenv("HUB_TOKENS", "s3cret")
    Hub(Settings())
    assert caplog.record_tuples == []
    Hub()
    Hub()
    text = "HUB_TOKENS is no setting and is ignored: is HUB_TOKEN meant?"
    assert caplog.record_tuples == [("hub.config", logging.WARNING, text)]


def test_config_check_tells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As a warning: the status stays 0."""
    run = command_line(monkeypatch, capsys)
    monkeypatch.setenv("HUB_METRIC", "s3cret")
    (tmp_path / "hub.toml").touch()
    status, _, err = run("config", "check", str(tmp_path / "hub.toml"))
    assert (status, err) == (0, "warning: HUB_METRIC is no setting and is ignored: is HUB_METRICS meant?\n")


def test_hub_serve_tells_once() -> None:
    """In the log of the supervisor; its workers, which have the same environment, say nothing."""
    with hub_serve("--workers", "2", "--drain", "0", env={"HUB_TOKENS": "s3cret"}) as hub:
        assert hub.log.count("hub.config: HUB_TOKENS is no setting and is ignored: is HUB_TOKEN meant?") == 1
        assert "s3cret" not in hub.log
