"""A real `hub serve` as a child process of the test."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ADDRESS = re.compile(r"http://[\d.]+:(\d+)")


class HubProcess:
    """A running `hub serve`; `log` is everything it printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output
        self.port = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._output.read_text(errors="replace")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def status(self, path: str) -> int:
        """The HTTP status of a GET, 0 while nothing answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=2) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def publish_status(self, channel: str, data: object, key: str) -> int:
        """The HTTP status of a publication through the API, which tells its errors so."""
        body = json.dumps({"channel": channel, "data": data}).encode()
        headers = {"X-API-Key": key, "X-Centrifugo-Error-Mode": "transport"}
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.url}/api/publish", body, headers)) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def wait_ready(self, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"hub serve ended with {self.process.returncode}:\n{self.log}")
            if not self.port and (match := ADDRESS.search(self.log)):
                self.port = int(match.group(1))
            if self.port and self.status("/health/ready") == 200:
                return
            time.sleep(0.05)
        raise TimeoutError(f"hub serve was not ready after {timeout} s:\n{self.log}")

    def stop(self, timeout: float = 20) -> int:
        """SIGTERM and wait; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextlib.contextmanager
def hub_serve(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    ready: bool = True,
    wrapper: Sequence[str] = (),
    program: Sequence[str] = (sys.executable, "-m", "hub"),
    cwd: Path | None = None,
) -> Iterator[HubProcess]:
    """Run `hub serve --port 0 ARGUMENTS` and wait until it is ready; ended on leaving.

    `wrapper` is a command that becomes the one that follows it, under limits of its own for instance; `program` is
    another `hub` than this tree's.
    """
    with tempfile.TemporaryDirectory(prefix="hub-test-") as folder:
        output = Path(folder) / "log"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HUB_") and k != "REDIS_URL"}
        with output.open("wb") as sink:
            process = subprocess.Popen(
                [*wrapper, *program, "serve", "--port", "0", *arguments],
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**clean, "PYTHONUNBUFFERED": "1", **(env or {})},
                cwd=cwd,
            )
        hub = HubProcess(process, output)
        try:
            if ready:
                hub.wait_ready()
            yield hub
        finally:
            try:
                hub.stop()
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
