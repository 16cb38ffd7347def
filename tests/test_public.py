"""The public surface, and the tables that the documentation is made from."""

from __future__ import annotations

import ast
import importlib
import logging
import pkgutil
from pathlib import Path

import pytest

import hub
from hub.errors import Disconnect, Disconnects, Error, Errors, table
from hub.log import Throttled, configure, redact_tokens

MODULES = [name for _, name, _ in pkgutil.walk_packages(hub.__path__, "hub.") if not name.endswith("__main__")]


@pytest.mark.parametrize("name", MODULES)
def test_all_is_true(name: str) -> None:
    """Each name in `__all__` exists."""
    module = importlib.import_module(name)
    assert all(hasattr(module, public) for public in getattr(module, "__all__", ()))


def test_the_package_is_a_table_of_contents() -> None:
    """`hub` offers what its documentation names, and no more."""
    assert hub.__all__ == sorted(hub.__all__)
    assert {"Hub", "HubError", "Settings"} <= set(hub.__all__)


def test_what_is_imported_when_it_is_asked_for() -> None:
    """Each public name is the one that type checkers see, and nothing else is there."""
    tree = ast.parse(Path(hub.__file__).read_text())
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert sorted(seen) == hub.__all__
    assert {name: home for home, names in hub._HOMES.items() for name in names.split()} == seen
    assert set(hub.__all__) <= set(dir(hub))
    with pytest.raises(AttributeError, match="module 'hub' has no attribute 'Nothing'"):
        _ = hub.Nothing


def test_each_close_has_a_code_and_a_reason() -> None:
    """Codes are legal, reasons fit a close frame and are not empty."""
    for name, value in table(Disconnects):
        assert isinstance(value, Disconnect), name
        assert 1 <= len(value.reason.encode()) <= 123, name
        assert value.code in range(1000, 1015) or value.code in range(3000, 5000), name
    assert all(isinstance(value, Error) for _, value in table(Errors))


def test_tokens_are_taken_out_of_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn logs the whole query string; the hub's filter takes the values out."""
    redact_tokens()
    redact_tokens()
    with caplog.at_level(logging.INFO, "uvicorn.error"):
        log = logging.getLogger("uvicorn.error")
        log.info('%s - "WebSocket %s" [accepted]', "127.0.0.1", "/ws/x?echo=0&token=s3cret&hello=1")
        log.info("GET /?token=s3cret HTTP/1.1")
    assert "s3cret" not in caplog.text
    assert "/ws/x?echo=0&token=…&hello=1" in caplog.text


def test_a_repeating_event_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """The first at once; the others are counted."""
    throttled = Throttled(logging.getLogger("hub.test"), logging.WARNING, "%d things happened")
    for number in range(5):
        throttled.add(last=f"thing {number}")
    assert caplog.messages == ["1 things happened (the last: thing 0)"]
    assert throttled.total == 5


@pytest.mark.parametrize("style", ["text", "json"])
def test_log_lines(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line an event, in the chosen shape, secrets taken out."""
    root, server = logging.getLogger(), logging.getLogger("uvicorn.error")
    before = root.handlers[:], root.level
    server_level = server.level
    try:
        configure(style, "info")  # type: ignore[arg-type]
        logging.getLogger("hub.test").info("hello /ws?token=%s", "x" * 3)
        logging.getLogger("hub.test").info("hello %s", "/ws?token=s3cret")
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
        server.setLevel(server_level)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "s3cret" not in lines[1]
    assert ('"logger": "hub.test"' in lines[1]) is (style == "json")
