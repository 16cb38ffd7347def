"""HAProxy, Caddy and Traefik as deploy/ configures them, on ports of this machine. (nginx is in `cluster`.)"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from . import needs
from .cluster import ROOT, fixed_port

__all__ = ["CADDY", "HAPROXY", "KINDS", "TRAEFIK", "Kind", "Running", "proxying", "running"]

NAMES = ("hub1", "hub2", "hub3")
NOTHING: Mapping[str, str] = MappingProxyType({})


class Kind(ABC):
    """One program, and what is replaced in its files: addresses, paths, and what `changes` of a test says."""

    # The files in deploy/.
    files: tuple[str, ...]

    def __repr__(self) -> str:
        return type(self).__name__.lower()

    @abstractmethod
    def program(self) -> str:
        """Its path; without one the test is skipped, or fails."""

    @abstractmethod
    def command(self, folder: Path) -> list[str]:
        """What runs it in the foreground."""

    def check(self, folder: Path) -> list[str] | None:
        """What lets it judge its files; None if it cannot."""
        return None

    def write(self, folder: Path, port: int, replicas: Sequence[int], changes: Mapping[str, str] = NOTHING) -> None:
        """Its files, in `folder`."""
        for name in self.files:
            text = (ROOT / "deploy" / name).read_text()
            for server, address in zip(NAMES, replicas, strict=True):
                text = text.replace(f"{server}:8000", f"127.0.0.1:{address}")
            for old, new in {**self.replaced(folder, port), **changes}.items():
                text = text.replace(old, new)
            (folder / Path(name).name).write_text(text)

    @abstractmethod
    def replaced(self, folder: Path, port: int) -> dict[str, str]:
        """What is different on this machine."""


class HAProxy(Kind):
    files = ("haproxy.cfg",)

    def program(self) -> str:
        return needs.need("haproxy", hint="apt install haproxy")

    def command(self, folder: Path) -> list[str]:
        return [self.program(), "-db", "-f", str(folder / "haproxy.cfg")]

    def check(self, folder: Path) -> list[str]:
        return [self.program(), "-c", "-f", str(folder / "haproxy.cfg")]

    def replaced(self, folder: Path, port: int) -> dict[str, str]:
        # Files for as many clients are not what every machine has.
        return {"bind :8080": f"bind 127.0.0.1:{port}", "maxconn 30000": "maxconn 400"}


class Caddy(Kind):
    files = ("Caddyfile",)

    def program(self) -> str:
        return needs.need("caddy", hint="apt install caddy")

    def command(self, folder: Path) -> list[str]:
        return self._with("run", folder)

    def check(self, folder: Path) -> list[str]:
        return self._with("validate", folder)

    def _with(self, verb: str, folder: Path) -> list[str]:
        return [self.program(), verb, "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]

    def replaced(self, folder: Path, port: int) -> dict[str, str]:
        return {"\n:8080 {": f"\nhttp://:{port} {{\n\tbind 127.0.0.1", "\n{\n": "\n{\n\tadmin off\n"}


class Traefik(Kind):
    files = ("traefik/traefik.yml", "traefik/hub.yml")

    def program(self) -> str:
        return needs.need("traefik", hint="it is in no distribution; put it on PATH")

    def command(self, folder: Path) -> list[str]:
        return [self.program(), f"--configFile={folder / 'traefik.yml'}"]

    def replaced(self, folder: Path, port: int) -> dict[str, str]:
        return {'":8080"': f'"127.0.0.1:{port}"', "/etc/traefik": str(folder)}


HAPROXY, CADDY, TRAEFIK = HAProxy(), Caddy(), Traefik()
# No distribution has Traefik, so it is tested where somebody has put it.
KINDS: list[Kind] = [HAPROXY, CADDY, *([TRAEFIK] if shutil.which("traefik") else [])]


class Running:
    """A proxy that runs; `log` is all that it has written."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], output: Path) -> None:
        self.port = port
        self.process = process
        self._output = output

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_serving(self, timeout: float = 30) -> None:
        """Until it has read its files: what answers then is a replica, or that there is none."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._status() not in (0, 404):
                return
            time.sleep(0.02)
        raise TimeoutError(f"{self.process.args!r} does not serve:\n{self.log}")

    def _status(self) -> int:
        try:
            with urllib.request.urlopen(f"{self.url}/health/live", timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


@contextlib.contextmanager
def running(kind: Kind, replicas: Sequence[int], changes: Mapping[str, str] = NOTHING) -> Iterator[Running]:
    """The proxy in front of these three ports; `changes` (old text, new text) shorten what a test waits for."""
    with tempfile.TemporaryDirectory(prefix="hub-proxy-") as name:
        folder, port = Path(name), fixed_port()
        kind.write(folder, port, replicas, changes)
        output = folder / "log"
        # Caddy keeps what it may need again in the home of its user.
        with output.open("wb") as sink:
            environment = {**os.environ, "HOME": name, "XDG_DATA_HOME": name, "XDG_CONFIG_HOME": name}
            process = subprocess.Popen(kind.command(folder), stdout=sink, stderr=sink, env=environment)
        try:
            proxy = Running(port, process, output)
            proxy.wait_serving()
            yield proxy
        finally:
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def proxying(kind: Kind, replicas: Sequence[int], changes: Mapping[str, str] = NOTHING) -> AsyncIterator[Running]:
    """`running`, in front of servers in this event loop, which answer meanwhile."""
    with contextlib.ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, running(kind, replicas, changes))
