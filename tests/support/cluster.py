"""What docker-compose.yml describes, as plain processes on loopback: Redis, the replicas, nginx.

Commands, variables and the nginx configuration are those of the repository; only addresses and paths are replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from websockets.sync.client import connect

from .redis import RedisProcess, running_redis

ROOT = Path(__file__).parent.parent.parent
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def compose() -> dict[str, Any]:
    """docker-compose.yml with `${NAME:-default}` replaced by the default."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "docker-compose.yml").read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def replicas_of(services: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The services that are replicas of the hub."""
    return {name: service for name, service in services.items() if name.startswith("hub")}


def fixed_port() -> int:
    """A free port for a server that must get it back after a restart.

    Below those that Linux and macOS give to outgoing connections, one of which could take it meanwhile.
    """
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_for_http(url: str, process: subprocess.Popen[bytes], timeout: float = 30) -> None:
    """Until a GET answers 200."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.05)
    raise TimeoutError(f"{url} does not answer; {process.args!r} has status {process.poll()}")


class Replica:
    """One `hub serve` of the Compose file, with one worker."""

    def __init__(self, service: dict[str, Any], redis_port: int, log: Path) -> None:
        self.port = fixed_port()
        self._log = log
        # `hub serve --host 0.0.0.0 --port 8000 ...`, here on loopback and a port of its own.
        given = {"0.0.0.0": "127.0.0.1", "8000": str(self.port)}
        self._command = [sys.executable, "-m", *(given.get(word, word) for word in service["command"])]
        values = {name: "" if value is None else str(value) for name, value in service["environment"].items()}
        values["REDIS_URL"] = values["REDIS_URL"].replace("redis:6379", f"127.0.0.1:{redis_port}")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
        self._environment = {**clean, **values, "PYTHONUNBUFFERED": "1"}
        self.process: subprocess.Popen[bytes]
        # The process id of the worker; changes with each start.
        self.worker = 0

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        with self._log.open("ab") as sink:
            self.process = subprocess.Popen(self._command, stdout=sink, stderr=sink, env=self._environment)

    def wait_ready(self) -> None:
        wait_for_http(f"http://127.0.0.1:{self.port}/health/ready", self.process)
        with connect(f"ws://127.0.0.1:{self.port}/ws?hello=1") as socket:
            self.worker = json.loads(socket.recv(10))["hub"]["hello"]["worker"]

    def kill(self) -> None:
        """As `docker kill` does: every process, none of which learns of the other's death."""
        for pid in filter(None, (self.worker, self.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """As `docker stop` does; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def nginx_configuration(folder: Path, port: int, upstreams: Mapping[str, int]) -> str:
    """deploy/nginx.conf with addresses of this machine, and folders that an ordinary user may write."""
    text = (ROOT / "deploy/nginx.conf").read_text()
    for name, upstream in upstreams.items():
        text = text.replace(f"server {name}:8000", f"server 127.0.0.1:{upstream}")
    text = text.replace("listen 8080;", f"listen 127.0.0.1:{port};")
    text = text.replace("/var/run/nginx.pid", str(folder / "nginx.pid"))
    text = text.replace("/dev/stdout", str(folder / "access.log")).replace("/dev/stderr", str(folder / "error.log"))
    paths = "".join(f"    {name}_temp_path {folder / name};\n" for name in TEMPORARY)
    return text.replace("http {\n", f"http {{\n{paths}", 1)


class Proxy:
    """A running nginx with deploy/nginx.conf."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self._folder = folder
        self.port = port
        self.process = process

    @property
    def access_log(self) -> str:
        return (self._folder / "access.log").read_text()

    @property
    def error_log(self) -> str:
        return (self._folder / "error.log").read_text()


@contextlib.contextmanager
def running_nginx(nginx: str, upstreams: Mapping[str, int], send_timeout: str = "10s") -> Iterator[Proxy]:
    """nginx in front of these ports, listening; ended on leaving. A test can shorten the one timeout it waits for."""
    with tempfile.TemporaryDirectory(prefix="hub-nginx-") as name:
        folder, port = Path(name), fixed_port()
        text = nginx_configuration(folder, port, upstreams).replace("send_timeout 10s", f"send_timeout {send_timeout}")
        (folder / "nginx.conf").write_text(text)
        command = [nginx, "-p", name, "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
        with (folder / "nginx.log").open("wb") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=sink)
        try:
            _wait_listening(port, process)
            yield Proxy(folder, port, process)
        finally:
            process.terminate()
            process.wait(10)


def _wait_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise TimeoutError(f"nginx does not listen on {port}; its status is {process.poll()}")


class Cluster:
    """A running deployment."""

    def __init__(self, redis: RedisProcess, replicas: dict[str, Replica], proxy: Proxy) -> None:
        self.redis = redis
        self.replicas = replicas
        self.proxy = proxy

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.proxy.port}"

    def replica_of(self, worker: int) -> Replica:
        """The replica whose worker has this process id."""
        return next(replica for replica in self.replicas.values() if replica.worker == worker)

    @property
    def logs(self) -> str:
        """Everything that everybody wrote."""
        replicas = "".join(replica.log for replica in self.replicas.values())
        return self.proxy.access_log + self.proxy.error_log + replicas


@contextlib.contextmanager
def running_cluster(redis_binary: str, nginx: str) -> Iterator[Cluster]:
    """Everything of docker-compose.yml, ready."""
    services = compose()["services"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hub-cluster-")))
        redis = stack.enter_context(running_redis(redis_binary, *services["redis"]["command"][1:]))
        hubs = replicas_of(services)
        replicas = {name: Replica(service, redis.port, folder / f"{name}.log") for name, service in hubs.items()}
        for replica in replicas.values():
            replica.start()
            stack.callback(replica.kill)
        for replica in replicas.values():
            replica.wait_ready()
        upstreams = {name: replica.port for name, replica in replicas.items()}
        yield Cluster(redis, replicas, stack.enter_context(running_nginx(nginx, upstreams)))
