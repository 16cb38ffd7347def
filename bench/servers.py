"""The servers under measurement, each as a real process on loopback.

A peer is one more function here that starts it, and an entry in `SERVERS`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from websockets.sync.client import connect

from .client import ROOT
from .measure import CPUS, pin

__all__ = ["SERVERS", "Server"]

START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server. `pid` does the fan-out and is the one that is measured."""

    port: int
    path: str
    pid: int
    # Redis, or None.
    broker_pid: int | None = None
    # See `bench.dialects`.
    dialect: str = "raw"

    @property
    def pids(self) -> dict[str, int]:
        """Whose CPU time is taken."""
        return {"server": self.pid} | ({"broker": self.broker_pid} if self.broker_pid else {})


class _Process:
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


@contextlib.contextmanager
def _running(*command: str) -> Iterator[_Process]:
    """`command` without settings from the environment, away from the CPU of the measured process; ended on leaving."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "UVICORN_")) and k != "REDIS_URL"}
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as folder:
        output = Path(folder) / "log"
        with output.open("wb") as sink:
            process = subprocess.Popen(command, cwd=ROOT, env=clean, stdout=sink, stderr=subprocess.STDOUT)
        try:
            yield _Process(process, output)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _give_own_cpu(server: Server) -> Server:
    """The runner's children are on the other CPU; the measured one has this for itself."""
    if CPUS is not None:
        pin(server.pid, CPUS[0])
    return server


def _answers(url: str) -> bool:
    """Whether a GET has an answer that is not a 5xx."""
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True


def _children(pid: int) -> dict[str, int]:
    """The child processes of `pid`: command name → pid."""
    children: dict[str, int] = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            children[Path(f"/proc/{child}/comm").read_text().strip()] = int(child)
    return children


@contextlib.contextmanager
def hub(path: str = "/ws/bench", dialect: str = "raw") -> Iterator[Server]:
    """`hub serve --workers 1` with the Redis that it chooses (the embedded Valkey)."""
    # The drain is for users; here nobody waits for it.
    arguments = ("serve", "--workers", "1", "--port", "0", "--drain", "0")
    with _running(sys.executable, "-m", "hub", *arguments) as process:
        port = process.wait_for_port()
        process.wait_for(lambda: _answers(f"http://127.0.0.1:{port}/health/ready"))
        broker = next(
            (pid for name, pid in _children(process.pid).items() if name.startswith(("valkey", "redis"))), None
        )
        if broker is None:
            raise RuntimeError(f"the hub has no Redis of its own:\n{process.log}")
        yield _give_own_cpu(Server(port=port, path=path, pid=_worker_pid(port), broker_pid=broker, dialect=dialect))


def _worker_pid(port: int) -> int:
    with connect(f"ws://127.0.0.1:{port}/ws/hello?hello=1") as client:
        return int(json.loads(client.recv(START_TIMEOUT))["hub"]["hello"]["worker"])


@contextlib.contextmanager
def tutorial() -> Iterator[Server]:
    """The tutorial's manager on stock uvicorn, one worker."""
    port = _free_port()
    # Its two log lines a connection would cost it a tenth more CPU to accept one; the hub is as quiet by default.
    arguments = ("bench.peers.tutorial:app", "--port", str(port), "--log-level", "warning")
    with _running(sys.executable, "-m", "uvicorn", *arguments) as process:
        process.wait_for(lambda: _answers(f"http://127.0.0.1:{port}/"))
        yield _give_own_cpu(Server(port=port, path="/ws/1", pid=process.pid))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def channels() -> AbstractContextManager[Server]:
    """The hub's channel endpoint."""
    return hub("/connection/websocket", "centrifuge")


SERVERS: dict[str, Callable[[], AbstractContextManager[Server]]] = {
    "hub": hub,
    "channels": channels,
    "tutorial": tutorial,
}
