"""Sockets and where they lie: the one that `hub serve` listens on, and private folders for Unix sockets."""

from __future__ import annotations

import errno
import socket
import tempfile
from pathlib import Path

from .config import Settings
from .errors import ConfigError, StartError

__all__ = ["bind", "private_folder"]

# The path of a Unix socket has 103 bytes on some systems, of which names of ours need 30.
LONGEST_FOLDER = 70


def bind(settings: Settings) -> socket.socket:
    """The listening socket. Raises ConfigError for a path that is too long, else StartError."""
    try:
        if settings.uds is not None:
            return _bind_unix(settings.uds)
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return _listen(family, (settings.host, settings.port))
    except OSError as error:
        where = settings.uds or f"{settings.host}:{settings.port}"
        # Python itself refuses a path that is too long, without a number.
        kind = ConfigError if error.errno is None else StartError
        raise kind(f"cannot listen on {where}: {error.strerror or error}") from None


def private_folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """For Unix sockets, whose paths have to be short."""
    folder = None if len(tempfile.gettempdir()) <= LONGEST_FOLDER else "/tmp"
    return tempfile.TemporaryDirectory(prefix=prefix, dir=folder, ignore_cleanup_errors=True)


def _listen(family: socket.AddressFamily, address: tuple[str, int] | str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(path: Path) -> socket.socket:
    if path.is_socket() and _is_stale(path):
        path.unlink()
    sock = _listen(socket.AF_UNIX, str(path))
    path.chmod(0o666)  # a proxy runs as another user; the folder's permissions are the guard
    return sock


def _is_stale(path: Path) -> bool:
    """Whether a process that was killed left it behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED
