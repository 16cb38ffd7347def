"""The servers under measurement, each as a real process on loopback."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SERVERS", "Server"]

START_TIMEOUT = 30.0


@dataclass(frozen=True)
class Server:
    """A running server. `pid` does the fan-out and is the one that is measured."""

    name: str
    port: int
    pid: int
    # Redis, or None.
    broker_pid: int | None = None


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _process(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as folder:
        log = Path(folder) / "log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HUB_") and k != "REDIS_URL"}
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, stdout=sink, stderr=subprocess.STDOUT, env=environment, preexec_fn=_raise_file_limit
            )
        try:
            yield process, log
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], log: Path, pattern: str) -> int:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        if match := re.search(pattern, log.read_text(errors="replace")):
            port = int(match.group(1))
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return port
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not start:\n{log.read_text(errors='replace')}")


def children(pid: int) -> dict[str, int]:
    """The child processes of `pid`: command name → pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            name, rest = (entry / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
            if int(rest.split()[1]) == pid:
                found[name] = int(entry.name)
    return found


@contextlib.contextmanager
def hub() -> Iterator[Server]:
    """`hub serve --workers 1` with its embedded Valkey."""
    # The drain is for users; here nobody waits for it.
    arguments = ("serve", "--workers", "1", "--port", "0", "--drain", "0")
    with _process(sys.executable, "-m", "hub", *arguments) as (process, log):
        port = _wait_for_port(process, log, r"listening on http://127\.0\.0\.1:(\d+)")
        deadline = time.monotonic() + START_TIMEOUT
        while "works" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        family = children(process.pid)
        broker = next((pid for name, pid in family.items() if "valkey" in name or "redis" in name), None)
        worker = next(pid for name, pid in family.items() if pid != broker)
        yield Server("hub", port, worker, broker)


@contextlib.contextmanager
def tutorial() -> Iterator[Server]:
    """The tutorial's manager on stock uvicorn, one worker."""
    arguments = ("bench.peers.tutorial:app", "--port", "0", "--no-access-log")
    with _process(sys.executable, "-m", "uvicorn", *arguments) as (process, log):
        port = _wait_for_port(process, log, r"running on http://127\.0\.0\.1:(\d+)")
        yield Server("tutorial", port, process.pid)


SERVERS = {"hub": hub, "tutorial": tutorial}
