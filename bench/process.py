"""Child processes of the runner, and how one waits for them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .client import ROOT

__all__ = ["Process", "answers", "free_port", "listens", "running"]

START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0


class Process:
    """A child process and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._output = output

    @property
    def log(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._process.args!r} does not start:\n{self.log}")
            time.sleep(0.02)

    def wait_for_port(self) -> int:
        """The port of the first address in its log."""
        address = re.compile(r"http://127\.0\.0\.1:(\d+)")
        self.wait_for(lambda: address.search(self.log))
        match = address.search(self.log)
        assert match is not None
        return int(match.group(1))

    def children(self) -> dict[str, int]:
        """Its child processes: command name → pid."""
        children: dict[str, int] = {}
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                children[Path(f"/proc/{child}/comm").read_text().strip()] = int(child)
        return children


@contextlib.contextmanager
def running(*command: str, environment: Mapping[str, str] | None = None) -> Iterator[Process]:
    """`command` without settings from the environment, away from the CPU of the measured process; ended on leaving."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "UVICORN_")) and k != "REDIS_URL"}
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as folder:
        output = Path(folder) / "log"
        with output.open("wb") as sink:
            process = subprocess.Popen(
                command, cwd=ROOT, env={**clean, **(environment or {})}, stdout=sink, stderr=subprocess.STDOUT
            )
        try:
            yield Process(process, output)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(url: str) -> bool:
    """Whether a GET has an answer that is not a 5xx."""
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
