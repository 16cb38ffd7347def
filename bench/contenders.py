"""The peers besides the tutorial's manager, each as the program of its own documentation, with one worker.

The Python programs and their environments are those of the comparison under faults. `bench/peers/install.sh` installs
what can be installed without rights; Nchan and the compiler are the system's.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from .client import ROOT
from .dialects import Raw
from .faults.subjects import SUBJECTS, Subject
from .nginx import running_nginx
from .process import free_port, listens, running
from .servers import Contender, Server, give_own_cpu, redis
from .sockets import open_sockets

__all__ = ["PEERS"]

HERE = ROOT / "bench" / "peers"
NODE_MODULES = ROOT / ".cache" / "peers" / "node" / "node_modules"
NCHAN_ROOM = "/room"
# Where distributions put it.
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


# Python


@contextlib.contextmanager
def _python(subject: Subject, path: str) -> Iterator[Server]:
    port = free_port()
    with redis() as broker, tempfile.TemporaryDirectory(prefix="hub-bench-") as folder:
        command = subject.command(port, broker.url, Path(folder))
        environment = {**subject.environment, "REDIS_URL": broker.url}
        with running(*command, environment=environment) as process:
            process.wait_for(lambda: listens(port))
            server = Server(port=port, path=path, pid=process.pid, broker=broker, dialect=subject.dialect)
            yield give_own_cpu(server)


def _subject(name: str, path: str = "") -> Contender:
    subject = SUBJECTS[name]
    return Contender(
        title=subject.title,
        start=functools.partial(_python, subject, path or subject.path),
        missing=lambda: subject.missing.replace("make bench-faults", "make bench-peers"),
        versions=subject.versions,
    )


# Node


@contextlib.contextmanager
def _node(program: str, path: str, dialect: str = "raw", *, shared: bool = False) -> Iterator[Server]:
    """`shared` programs want a Redis."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(redis()) if shared else None
        environment = {"NODE_PATH": str(NODE_MODULES), "PORT": str(port), "REDIS_URL": broker.url if broker else ""}
        process = stack.enter_context(running("node", str(HERE / "node" / program), environment=environment))
        process.wait_for(lambda: listens(port))
        yield give_own_cpu(Server(port=port, path=path, pid=process.pid, broker=broker, dialect=dialect))


def _without_node(package: str) -> str:
    if shutil.which("node") is None:
        return f"{package}: there is no node; install Node with npm"
    if not (NODE_MODULES / package).exists():
        return f"{package}: not installed; run `make bench-peers`, or install.sh"
    return ""


def _node_versions(*packages: str) -> dict[str, str]:
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    manifests = {name: json.loads((NODE_MODULES / name / "package.json").read_text()) for name in packages}
    return {"node": node, **{name: manifest["version"] for name, manifest in manifests.items()}}


# C


@contextlib.contextmanager
def _nchan() -> Iterator[Server]:
    with redis() as broker:
        values = {"redis_port": broker.port, "module": NCHAN}
        with running_nginx(HERE / "nchan.conf", values, _lets_in) as (port, pid):
            yield give_own_cpu(Server(port=port, path=NCHAN_ROOM, pid=pid, broker=broker))


def _lets_in(port: int) -> bool:
    """Until it has found its Redis, it listens but has room for nobody."""
    try:
        (sock,) = open_sockets(port, NCHAN_ROOM, 1, Raw())
    except OSError:
        return False
    sock.close()
    return True


def _without_nchan() -> str:
    if shutil.which("nginx") is None or not NCHAN.exists():
        return "Nchan: not installed; apt install nginx libnginx-mod-nchan"
    return ""


def _nchan_versions() -> dict[str, str]:
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr.strip()
    return {"nginx": nginx.rpartition("/")[2], "nchan": _debian_version("libnginx-mod-nchan")}


def _debian_version(package: str) -> str:
    if shutil.which("dpkg-query") is None:
        return "unknown"
    command = ["dpkg-query", "--show", "--showformat=${Version}", package]
    return subprocess.run(command, capture_output=True, text=True).stdout or "unknown"


@contextlib.contextmanager
def _reference() -> Iterator[Server]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as folder:
        program = str(Path(folder) / "reference")
        subprocess.run(["cc", "-O2", "-o", program, str(HERE / "reference.c")], check=True)
        with running(program, str(port)) as process:
            process.wait_for(lambda: listens(port))
            yield give_own_cpu(Server(port=port, path="/", pid=process.pid))


def _without_compiler() -> str:
    return "" if shutil.which("cc") else "C loop: there is no cc; apt install gcc"


def _compiler_version() -> dict[str, str]:
    return {"cc": subprocess.run(["cc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()}


def _on_node(title: str, start: Callable[[], AbstractContextManager[Server]], *packages: str) -> Contender:
    return Contender(
        title=title,
        start=start,
        missing=functools.partial(_without_node, packages[0]),
        versions=functools.partial(_node_versions, *packages),
    )


SOCKET_IO_PATH = SUBJECTS["socketio"].path

PEERS: dict[str, Contender] = {
    "python-socketio": _subject("socketio"),
    "channels-core": _subject("channels-core"),
    "channels-pubsub": _subject("channels-pubsub"),
    # What the plugin's own route handlers hear they forget; this one publishes it.
    "litestar": _subject("litestar-pubsub", "/publishing"),
    "broadcaster": _subject("broadcaster"),
    "socket.io": _on_node(
        "socket.io (Node), Redis adapter",
        functools.partial(_node, "socketio.cjs", SOCKET_IO_PATH, "socket.io", shared=True),
        "socket.io",
        "@socket.io/redis-adapter",
        "redis",
    ),
    "ws": _on_node("ws (Node), in memory", functools.partial(_node, "ws.cjs", "/"), "ws"),
    "nchan": Contender(
        title="Nchan (C, nginx), Redis",
        start=_nchan,
        missing=_without_nchan,
        versions=_nchan_versions,
    ),
    "c-loop": Contender(
        title="C loop, one write a message, in memory",
        start=_reference,
        missing=_without_compiler,
        versions=_compiler_version,
    ),
}
