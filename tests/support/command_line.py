"""The command line, run in the test's own process."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from hub.cli import main

# Takes the arguments; gives exit status, standard output, standard error.
Run = Callable[..., tuple[int, str, str]]


def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`hub ARGUMENTS`, without the settings of this machine."""
    for name in os.environ:
        if name.startswith("HUB_") or name == "REDIS_URL":
            monkeypatch.delenv(name)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["hub", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run
