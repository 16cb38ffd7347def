"""A real `uvicorn module:app --workers N` as a child process of the test."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
HUB_PROTOCOL = "hub.wire:HubProtocol"

ADDRESS = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
STARTED = "Application startup complete."


class UvicornProcess:
    """A running uvicorn with its workers; `log` is everything that it printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output
        # What it printed, once it has ended.
        self._printed: str | None = None
        self.port = 0

    @property
    def log(self) -> str:
        return self._output.read_text(errors="replace") if self._printed is None else self._printed

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def wait_started(self, workers: int, timeout: float = 30) -> None:
        """Until every worker serves: whoever connects earlier has them all on the first one."""
        deadline = time.monotonic() + timeout
        while self.log.count(STARTED) < workers or not (address := ADDRESS.search(self.log)):
            if self.process.poll() is not None:
                raise RuntimeError(f"uvicorn ended with {self.process.returncode}:\n{self.log}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"uvicorn has not started after {timeout} s:\n{self.log}")
            time.sleep(0.02)
        self.port = int(address.group(1))

    def stop(self, timeout: float = 15) -> None:
        """SIGTERM, which uvicorn hands on to its workers; what is left after `timeout` is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise RuntimeError(f"uvicorn did not end in {timeout} s:\n{self.log}") from None
        finally:
            self._printed = self.log


def clean_environment() -> dict[str, str]:
    """Ours without the hub's settings."""
    return {k: v for k, v in os.environ.items() if not k.startswith("HUB_") and k != "REDIS_URL"}


@contextlib.contextmanager
def running(command: Sequence[str], workers: int, env: Mapping[str, str], folder: Path) -> Iterator[UvicornProcess]:
    """Run what starts a uvicorn, and wait until its workers serve; all ended on leaving."""
    with tempfile.TemporaryDirectory(prefix="hub-test-") as scratch:
        output = Path(scratch) / "log"
        with output.open("wb") as sink:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**clean_environment(), "PYTHONUNBUFFERED": "1", **env},
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = UvicornProcess(process, output)
        try:
            server.wait_started(workers)
            yield server
        finally:
            server.stop()


def uvicorn_app(
    app: str, *arguments: str, workers: int = 1, env: Mapping[str, str] | None = None, folder: Path = ROOT
) -> contextlib.AbstractContextManager[UvicornProcess]:
    """Run `uvicorn APP --workers N --port 0 ARGUMENTS` in `folder`."""
    command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", "0", "--workers", str(workers)]
    return running([*command, *arguments], workers, env or {}, folder)
