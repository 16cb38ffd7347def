"""The hub in other circumstances, for the scenarios that are about these."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from .client import ROOT
from .nginx import running_nginx
from .process import running
from .publishing import READY
from .servers import Contender, Server, give_own_cpu, hub, redis, worker

__all__ = ["VARIANTS"]

CONFIG = "hub.toml"
CENTRIFUGE = "/connection/websocket"


@contextlib.contextmanager
def pair(path: str = CENTRIFUGE, dialect: str = "centrifuge") -> Iterator[Server]:
    """Two workers on one Redis; the one that is measured is not the one through which is published."""
    with redis() as broker, worker(broker, CONFIG) as (publish_port, _), worker(broker, CONFIG) as (port, pid):
        server = Server(port=port, path=path, pid=pid, broker=broker, dialect=dialect, publish_port=publish_port)
        yield give_own_cpu(server)


@contextlib.contextmanager
def behind_tls() -> Iterator[Server]:
    """nginx in front, on the CPU of the load."""
    with redis() as broker, worker(broker) as (upstream, pid), tempfile.TemporaryDirectory(prefix="hub-bench-") as made:
        _make_certificate(made)
        with running_nginx(ROOT / "bench" / "tls.conf", {"upstream": upstream, "certificates": made}) as (port, proxy):
            server = Server(port=port, path="/ws/bench", pid=pid, broker=broker, proxy_pid=proxy, tls=True)
            yield give_own_cpu(server)


def _make_certificate(folder: str) -> None:
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=bench"]
    files = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/certificate.pem"]
    subprocess.run(["openssl", "req", "-x509", *kind, *files], check=True, capture_output=True)


def _without_tls() -> str:
    for program in ("nginx", "openssl"):
        if shutil.which(program) is None:
            return f"TLS in front: there is no {program}; apt install {program}"
    return ""


@contextlib.contextmanager
def publishing(way: str) -> Iterator[Server]:
    """One process without any WebSocket that publishes and hears; see `bench.publishing`."""
    with redis() as broker, running(sys.executable, "-m", "bench.publishing", way, broker.url) as process:
        process.wait_for(lambda: READY in process.log)
        yield give_own_cpu(Server(port=0, path="", pid=process.pid, broker=broker))


VARIANTS: dict[str, Contender] = {
    "hub-pair": Contender(title="hub, raw room, two workers", start=functools.partial(pair, "/ws/bench", "raw")),
    "channels-pair": Contender(title="hub, channel endpoint, two workers", start=pair),
    "channels-presence": Contender(
        title="hub, channel endpoint, presence on", start=functools.partial(hub, CENTRIFUGE, "presence", CONFIG)
    ),
    "hub-tls": Contender(title="hub, raw room, TLS by nginx", start=behind_tls, missing=_without_tls),
    "publish-hub": Contender(title="hub, 100 tasks", start=functools.partial(publishing, "hub")),
    "publish-redis-py": Contender(title="redis-py, one at a time", start=functools.partial(publishing, "redis-py")),
}
