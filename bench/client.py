"""The runner's end of the load process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "LoadClient", "load_client"]

ROOT = Path(__file__).parent.parent


class LoadClient:
    """Commands of `bench.load`; each returns when it has been carried out. Raise RuntimeError with what it said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(self, command: str, **arguments: Any) -> Any:
        """The result of a method of `bench.load.Load`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([command, arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load process ended; its traceback stands above")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"under load: {reply['error']}")
        return reply["result"]


@contextlib.contextmanager
def load_client() -> Iterator[LoadClient]:
    """A load process, on the CPUs of the caller; killed on leaving."""
    command = [sys.executable, "-m", "bench.load"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            yield LoadClient(process)
        finally:
            process.kill()
