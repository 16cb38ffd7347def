"""Where `hub serve` listens: ports and Unix sockets, and those that cannot be had; folders for sockets of its own."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub.config import Settings
from hub.errors import ConfigError, StartError
from hub.sockets import bind, private_folder


def settings(**given: Any) -> Settings:
    return Settings.load(**{"port": 0, **given})


# Where to listen


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_port(host: str) -> None:
    """Names, IPv4 and IPv6; it listens when the call returns, so no connection is refused while workers start."""
    try:
        sock = bind(settings(host=host))
    except StartError as error:
        if host == "::1" and os.strerror(errno.EADDRNOTAVAIL) in str(error):
            pytest.skip("this machine has no IPv6")
        raise
    with sock, socket.create_connection(sock.getsockname()[:2]):
        assert sock.getsockname()[1] > 0


def test_a_port_that_is_taken() -> None:
    """One sentence with the address and the reason."""
    with bind(settings()) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"^cannot listen on 127.0.0.1:{port}: Address already in use$"):
            bind(settings(port=port))


@pytest.mark.parametrize(
    ("host", "reason"),
    [("203.0.113.1", "Cannot assign requested address|Can't assign"), ("no.such.host.invalid", ".+")],
)
def test_an_address_that_is_not_ours(host: str, reason: str) -> None:
    """Nor resolvable."""
    with pytest.raises(StartError, match=rf"^cannot listen on {host}:0: ({reason})"):
        bind(settings(host=host))


def test_a_unix_socket(tmp_path: Path) -> None:
    """It is for everybody who may enter its folder, as a proxy runs as another user."""
    path = tmp_path / "hub.sock"
    with bind(settings(uds=path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert path.stat().st_mode & 0o777 == 0o666


def test_a_unix_socket_that_was_left_behind(tmp_path: Path) -> None:
    """By a process that was killed: it is replaced."""
    path = tmp_path / "hub.sock"
    bind(settings(uds=path)).close()
    assert path.is_socket()
    with bind(settings(uds=path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_unix_socket_that_is_taken(tmp_path: Path) -> None:
    """Somebody listens there, even if he is too busy to accept: it is his."""
    path = tmp_path / "hub.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(StartError, match=rf"^cannot listen on {path}: Address already in use$"):
            bind(settings(uds=path))
    assert path.exists()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_a_path_that_is_no_socket(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """It is not ours to remove."""
    path = tmp_path / "precious"
    make(path)
    with pytest.raises(StartError, match="Address already in use"):
        bind(settings(uds=path))
    assert path.exists()


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    """The reason is told though the system has no name for it. It stays too long: the setting is at fault."""
    with pytest.raises(ConfigError, match="AF_UNIX path too long"):
        bind(settings(uds=tmp_path / ("x" * 200)))


# Folders


def test_a_folder_for_temporary_files_with_a_long_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paths of sockets have to be short, so theirs is elsewhere then."""
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "x" * 100)
    with private_folder("hub-workers-") as folder:
        assert Path(folder).parent == Path("/tmp")
