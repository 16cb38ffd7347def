"""What docker-compose.yml describes, as plain processes on loopback: Redis, the replicas, nginx.

Commands, variables and the nginx configuration are those of the repository; only addresses and paths are replaced.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .redis import free_port

ROOT = Path(__file__).parent.parent.parent
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def compose() -> dict[str, Any]:
    """docker-compose.yml with `${NAME:-default}` replaced by the default."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "docker-compose.yml").read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def children(pid: int) -> list[int]:
    """The child processes of `pid`."""
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listing.read_text().split()] if listing.exists() else []


class Replica:
    """One `hub serve` of the Compose file."""

    def __init__(self, service: dict[str, Any], redis_port: int, log: Path) -> None:
        self.port = free_port()
        self._log = log
        # `hub serve --host 0.0.0.0 --port 8000 ...`, here on loopback and a port of its own.
        given = {"0.0.0.0": "127.0.0.1", "8000": str(self.port)}
        self._command = [sys.executable, "-m", *(given.get(word, word) for word in service["command"])]
        values = {name: "" if value is None else str(value) for name, value in service["environment"].items()}
        values["REDIS_URL"] = values["REDIS_URL"].replace("redis:6379", f"127.0.0.1:{redis_port}")
        self._environment = {**os.environ, **values, "PYTHONUNBUFFERED": "1"}
        self.process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        with self._log.open("ab") as sink:
            self.process = subprocess.Popen(self._command, stdout=sink, stderr=sink, env=self._environment)

    def wait_ready(self) -> None:
        wait_for_http(f"http://127.0.0.1:{self.port}/health/ready", self.process)

    def kill(self) -> None:
        """As `docker kill` does: every process of it, at once."""
        workers = children(self.process.pid)
        for pid in (self.process.pid, *workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """As `docker stop` does; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def wait_for_http(url: str, process: subprocess.Popen[bytes], timeout: float = 30) -> None:
    """Until a GET answers 200."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.05)
    raise TimeoutError(f"{url} does not answer; {process.args!r} has status {process.poll()}")


def nginx_configuration(folder: Path, port: int, upstreams: dict[str, int]) -> str:
    """deploy/nginx.conf with addresses of this machine, and folders that an ordinary user may write."""
    text = (ROOT / "deploy/nginx.conf").read_text()
    for name, upstream in upstreams.items():
        text = text.replace(f"server {name}:8000", f"server 127.0.0.1:{upstream}")
    text = text.replace("listen 8080;", f"listen 127.0.0.1:{port};")
    text = text.replace("/var/run/nginx.pid", str(folder / "nginx.pid"))
    text = text.replace("/dev/stdout", str(folder / "access.log")).replace("/dev/stderr", str(folder / "error.log"))
    paths = "".join(f"    {name}_temp_path {folder / name};\n" for name in TEMPORARY)
    return text.replace("http {\n", f"http {{\n{paths}", 1)


class Cluster:
    """A running deployment; `url` is nginx."""

    def __init__(self, folder: Path, replicas: dict[str, Replica]) -> None:
        self._folder = folder
        self.replicas = replicas
        self.port = free_port()

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def access_log(self) -> str:
        return (self._folder / "access.log").read_text()

    def replica_of(self, node_pid: int) -> Replica:
        """The replica whose worker has this pid."""
        return next(r for r in self.replicas.values() if node_pid in children(r.process.pid))


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended on leaving."""
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def running_cluster(redis_binary: str, nginx: str) -> Iterator[Cluster]:
    """Everything of docker-compose.yml, ready."""
    services = compose()["services"]
    with tempfile.TemporaryDirectory(prefix="hub-cluster-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        redis_port = free_port()
        redis_command = [redis_binary, *services["redis"]["command"][1:], "--bind", "127.0.0.1"]
        stack.enter_context(running([*redis_command, "--port", str(redis_port), "--dir", name], folder / "redis.log"))
        hubs = {key: service for key, service in services.items() if key.startswith("hub")}
        replicas = {key: Replica(service, redis_port, folder / f"{key}.log") for key, service in hubs.items()}
        for replica in replicas.values():
            replica.start()
            stack.callback(replica.kill)
        for replica in replicas.values():
            replica.wait_ready()
        cluster = Cluster(folder, replicas)
        upstreams = {key: replica.port for key, replica in replicas.items()}
        (folder / "nginx.conf").write_text(nginx_configuration(folder, cluster.port, upstreams))
        command = [nginx, "-p", name, "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
        proxy = stack.enter_context(running(command, folder / "nginx.log"))
        wait_for_http(f"{cluster.url}/health/live", proxy)
        yield cluster
