"""A real Redis on a TCP port that a test can kill, freeze and start again."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

# With them a server reads each key for 2 ms, and answers meanwhile that it does.
READS_SLOWLY = ("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisProcess:
    """The server keeps its port over restarts and nothing else."""

    def __init__(self, binary: str, folder: Path, options: Sequence[str] = ()) -> None:
        self._binary, self._folder, self._options = binary, folder, options
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self.process = subprocess.Popen([self._binary, *options, *self._options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self._accepts():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError("Redis does not start")
            time.sleep(0.01)

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def restart_with(self, keys: int) -> None:
        """As after a crash, with its data and so many more `keys` to read."""
        with self.client() as client:
            client.mset({f"ballast:{number}": random.randbytes(1100) for number in range(keys)})
            client.save()
        self.kill()
        self.start()

    def client(self, **options: Any) -> redis.Redis:
        """A plain client of the test's own; close it."""
        return redis.Redis(port=self.port, client_name="test", **options)


@contextmanager
def running_redis(binary: str, *options: str) -> Iterator[RedisProcess]:
    """A server started with `options`, ended on leaving."""
    with TemporaryDirectory(prefix="hub-test-redis-") as folder:
        server = RedisProcess(binary, Path(folder), options)
        server.start()
        try:
            yield server
        finally:
            server.send_signal(signal.SIGCONT)
            server.kill()
