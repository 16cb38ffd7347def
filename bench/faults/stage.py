"""One Redis, the workers of one system, a proxy before one worker's Redis: real processes on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import children
from tests.support.proxy import Proxy, proxy_to
from tests.support.redis import RedisProcess, free_port, running_redis

from .subjects import ROOT, Subject

__all__ = ["Stage", "Worker", "staged"]

START_TIMEOUT = 120.0
STOP_TIMEOUT = 10.0
# Redis keeps what it has acknowledged.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class Worker:
    """One worker process and what it has logged."""

    def __init__(self, subject: Subject, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port = port
        self._subject = subject
        self._process = process
        self._log = log
        # How much had been logged when the fault began.
        self._mark = 0

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Who holds the connections; the hub's supervisor has it as its child."""
        return next(iter(children(self._process.pid, "hub.worker")), self._process.pid)

    def kill(self) -> None:
        """kill -9 of all of it, as when its machine goes."""
        pids = [*children(self._process.pid), self._process.pid]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()

    def mark(self) -> None:
        """What comes from here is about the fault."""
        self._mark = len(self.log)

    def news(self) -> list[str]:
        """First lines of what was logged since; stacks and the like are left out."""
        lines = self.log[self._mark :].splitlines()
        return [line for line in lines if line[:1].strip() and not line.startswith("Traceback")]

    def health(self) -> int | None:
        """The status that a load balancer would see, 0 without an answer; None if there is nobody to ask."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self._subject.health}", timeout=1) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except urllib.error.URLError as error:
            return None if isinstance(error.reason, ConnectionRefusedError) else 0
        except OSError:
            return 0

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._subject.title} does not start:\n{self.log}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        if self._subject.health:
            return self.health() == 200
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Stage:
    """All of it, running. The publisher goes through the first worker; faults of one worker meet the last."""

    def __init__(self, redis: RedisProcess, proxy: Proxy, workers: list[Worker]) -> None:
        self.redis = redis
        self.proxy = proxy
        self.workers = workers


@contextlib.contextmanager
def staged(
    subject: Subject, redis_binary: str, *, durable: bool = False, through_proxy: bool = False
) -> Iterator[Stage]:
    """Everything started and answering; ended on leaving."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(running_redis(redis_binary, *(DURABLE if durable else ())))
        proxy = stack.enter_context(proxy_to(redis.port))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hub-faults-")))
        workers = []
        for number in range(subject.workers):
            is_last = number == subject.workers - 1
            url = proxy.url if through_proxy and is_last else redis.url
            workers.append(stack.enter_context(_worker(subject, url, folder / f"worker-{number}")))
        for worker in workers:
            worker.wait_ready()
        yield Stage(redis, proxy, workers)


@contextlib.contextmanager
def _worker(subject: Subject, redis_url: str, folder: Path) -> Iterator[Worker]:
    folder.mkdir()
    port, log = free_port(), folder / "log"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "UVICORN_")) and k != "REDIS_URL"}
    environment = {**clean, **subject.environment, "REDIS_URL": redis_url, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as sink:
        command = subject.command(port, redis_url, folder)
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=sink, stderr=subprocess.STDOUT)
    worker = Worker(subject, port, process, log)
    try:
        yield worker
    finally:
        worker.stop()
