"""Replicas of the hub behind nginx, each on a port that it keeps, which a test stops and starts one by one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .cluster import Proxy, compose, fixed_port, replicas_of, running_nginx
from .deployment import CONFIG, kill
from .processes import children
from .redis import RedisProcess, running_redis

__all__ = ["Fleet", "Intake", "Replica", "running_fleet", "running_replicas"]

_OPENED = re.compile(r"^hub_connections_opened_total\{.*\} ([\d.]+)", re.MULTILINE)


class Replica:
    """One `hub serve`."""

    def __init__(self, folder: Path, name: str, redis_url: str, workers: int, variables: dict[str, str]) -> None:
        self.name = name
        self.port = fixed_port()
        self._log = folder / f"{name}.log"
        self._log.touch()
        options = {"--host": "127.0.0.1", "--port": str(self.port), "--workers": str(workers)}
        options |= {"--redis-url": redis_url, "--config": str(folder / "hub.toml")}
        self._command = [sys.executable, "-m", "hub", "serve", *(word for pair in options.items() for word in pair)]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HUB_") and key != "REDIS_URL"}
        self._environment = {**clean, "PYTHONUNBUFFERED": "1", **variables}
        self.process: subprocess.Popen[bytes]

    def __repr__(self) -> str:
        return f"<Replica {self.name} on port {self.port}, {len(self.workers)} workers>"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def workers(self) -> list[int]:
        """Process ids."""
        return children(self.process.pid, "hub.worker")

    def start(self) -> None:
        with self._log.open("ab") as sink:
            self.process = subprocess.Popen(self._command, stdout=sink, stderr=sink, env=self._environment)

    def status(self, path: str) -> int:
        """The HTTP status of a GET, 0 if nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def wait_ready(self, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while self.status("/health/ready") != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self!r} is not ready:\n{self.log[-2000:]}")
            time.sleep(0.02)

    def opened(self) -> float | None:
        """WebSockets that it has opened since its start; None if it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=2) as response:
                return sum(map(float, _OPENED.findall(response.read().decode())))
        except OSError:
            return None

    def stop(self, patience: float) -> float:
        """As `docker stop` does; the seconds until it has ended, with status 0."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(patience)
        if status != 0:
            raise RuntimeError(f"{self!r} ended with status {status}:\n{self.log[-2000:]}")
        return time.monotonic() - start

    def kill(self) -> None:
        """All its processes at once, as when its machine stops."""
        for pid in (self.process.pid, *children(self.process.pid)):
            kill(pid)
        self.process.wait()


class Fleet:
    """All of it."""

    def __init__(self, redis: RedisProcess, replicas: list[Replica], proxy: Proxy) -> None:
        self.redis = redis
        self.replicas = replicas
        self.proxy = proxy

    @property
    def port(self) -> int:
        return self.proxy.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return "".join(replica.log for replica in self.replicas)


class Intake:
    """How many WebSockets each replica opens, as its own counters say, looked at until the block is left."""

    def __init__(self, fleet: Fleet, every: float = 0.1) -> None:
        self._fleet = fleet
        self._every = every
        # By replica: when it was asked, and the counts, since its last start.
        self._samples: dict[str, list[tuple[float, float]]] = {replica.name: [] for replica in fleet.replicas}
        # The most new connections of one replica in any stretch of a second or a little more, as a rate.
        self.highest = 0.0

    async def __aenter__(self) -> Intake:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            for replica in self._fleet.replicas:
                asked = time.monotonic()
                count = await asyncio.to_thread(replica.opened)
                self._note(self._samples[replica.name], asked, count)
            await asyncio.sleep(self._every)

    def _note(self, samples: list[tuple[float, float]], asked: float, count: float | None) -> None:
        now = time.monotonic()
        if count is None or (samples and count < samples[-1][1]):
            samples.clear()
        if count is None:
            return
        samples.append((asked, count))
        while len(samples) > 1 and now - samples[1][0] >= 1:
            samples.pop(0)
        then, old = samples[0]
        if now - then >= 1:
            self.highest = max(self.highest, (count - old) / (now - then))


@contextlib.contextmanager
def running_replicas(
    redis_binary: str,
    *,
    replicas: int = 3,
    workers: int = 1,
    each: Sequence[dict[str, str]] = (),
    **variables: str,
) -> Iterator[tuple[RedisProcess, list[Replica]]]:
    """Everything ready; `variables` are the environment of all replicas, `each` that of one after the other."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hub-fleet-")))
        (folder / "hub.toml").write_text(CONFIG)
        redis = stack.enter_context(running_redis(redis_binary))
        group = [
            Replica(folder, f"hub{number}", redis.url, workers, {**variables, **own})
            for number, own in enumerate(each or [{}] * replicas, 1)
        ]
        for replica in group:
            replica.start()
            stack.callback(replica.kill)
        for replica in group:
            replica.wait_ready()
        yield redis, group


@contextlib.contextmanager
def running_fleet(redis_binary: str, nginx: str, **options: Any) -> Iterator[Fleet]:
    """`running_replicas` behind nginx."""
    with running_replicas(redis_binary, **options) as (redis, group):
        # The configuration names as many servers as Compose has replicas.
        names = replicas_of(compose()["services"])
        upstreams = {name: replica.port for name, replica in zip(names, itertools.cycle(group), strict=False)}
        with running_nginx(nginx, upstreams) as proxy:
            yield Fleet(redis, group, proxy)
