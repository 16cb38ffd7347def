"""`Cluster`: several workers of one application on one Redis, in one process, one event loop and virtual time."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from starlette.applications import Starlette
from starlette.routing import NoMatchFound

from .. import embed
from ..embed import Hub
from .clock import LIMIT, VirtualClock
from .connection import Connection, Socket
from .fake_redis import FakeRedisServer
from .http import client_of
from .protocol_client import ProtocolClient
from .scope import Switch, current
from .worker import App, TaskBook, Worker, inside, parts

if TYPE_CHECKING:
    import httpx2

__all__ = ["Cluster"]

log: logging.Logger = logging.getLogger("hub.testing")

_Connection = TypeVar("_Connection", bound=Connection)


class Cluster:
    """So many workers of `app`, from the beginning of `async with` to its end.

    ::

        async with Cluster(app, workers=3) as c:
            a, b = await c.connect("/ws/x", worker=0), await c.connect("/ws/x", worker=2)
            await a.send_text("hi")
            assert await b.receive_text(timeout=1) == "hi"

    Each worker runs the application's lifespan and has hubs of its own, on one Redis in memory: `redis`. The
    application's hub objects are those of the worker whose code runs, and those of the first one that is alive in the
    body of the test. Whatever else the modules of the application have at their top is one for all workers.

    Time is virtual: it passes when nothing else can happen, at no cost. `time.time()` follows.
    """

    def __init__(self, app: Starlette | Callable[[], Starlette], workers: int = 3, *, patience: float = 0.0) -> None:
        """`app` is the application, or a function without arguments that makes one; then each worker has its own.

        `patience`: real seconds that the clock waits before each of its steps, for what comes from outside of the
        event loop and is not a thread of FastAPI's or of `asyncio.to_thread`: a database driver, for example.
        """
        if workers < 1:
            raise ValueError(f"a cluster needs at least one worker, not {workers}")
        self._make = _factory(app)
        self._count = workers
        self._clock = VirtualClock(patience)
        self.redis: FakeRedisServer
        self.workers: list[Worker] = []
        self._stack = AsyncExitStack()
        # Why the test was ended from here.
        self._verdict = ""

    def __repr__(self) -> str:
        return f"<Cluster {len(self.workers)} workers, {self.time:g} s>"

    # From the beginning to the end

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._clock.install()
            stack.callback(self._clock.uninstall)
            self._watch_over(asyncio.current_task())
            stack.callback(TaskBook().close)
            self.redis = FakeRedisServer(self._clock)
            apps = [self._make() for _ in range(self._count)]
            self.workers = [self._worker(number, app) for number, app in enumerate(apps)]
            self._switch_hubs(stack)
            for app in {id(app): app for app in apps}.values():
                stack.callback(Switch(app.state, partial(self._state, app.state)).undo)
            stack.push_async_callback(self._stop_all)
            for worker in self.workers:
                await worker.start()
            await self.settle()  # so their hubs relay
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        if self._verdict and task is not None:
            task.uncancel()
        try:
            await self._stack.aclose()
        finally:
            if self._verdict:
                raise AssertionError(self._verdict) from None

    def _worker(self, number: int, app: App) -> Worker:
        return Worker(number, app, self.redis, self._clock)

    def _switch_hubs(self, stack: AsyncExitStack) -> None:
        for hub in _idle_hubs():
            stack.callback(self._switch_hub(hub).undo)
            for name, part in parts(hub):  # the routes may hold on to any of them
                stack.callback(Switch(part, partial(getattr, hub, name)).undo)

    def _switch_hub(self, hub: Hub) -> Switch:
        kind = type(hub)
        return Switch(hub, lambda: self._here.hub(hub, kind))

    def _state(self, state: Any) -> Any:
        return self._here.app_state(state)

    @property
    def _here(self) -> Worker:
        """The worker whose code runs."""
        return current.get() or next((worker for worker in self.workers if worker.running), self.workers[0])

    def _watch_over(self, beginner: asyncio.Task[Any] | None) -> None:
        """A test that waits for ever is ended, and told why."""

        def end() -> None:
            self._verdict = (
                f"the test has waited for {LIMIT:g} s of virtual time, for something that does not happen; to let that "
                "much pass on purpose: await cluster.advance(seconds)"
            )
            log.error("%s", self._verdict)  # some runners show nothing else of it
            for task in self._waiting(beginner):
                task.cancel()

        self._clock.on_stuck = end

    def _waiting(self, beginner: asyncio.Task[Any] | None) -> Iterator[asyncio.Task[Any]]:
        """The test: the task that has begun the cluster. If that was a fixture's and is over, all of no worker."""
        if beginner is not None and not beginner.done():
            yield beginner
            return
        of_workers = {task for worker in self.workers for task in worker.tasks}
        yield from asyncio.all_tasks() - of_workers

    async def _stop_all(self) -> None:
        self.redis.restore()
        for worker in self.workers:
            if worker.running:
                await worker.stop()

    # Clients

    async def connect(
        self, path: str, *, worker: int = 0, headers: Mapping[str, str] | None = None, subprotocols: Sequence[str] = ()
    ) -> Socket:
        """A WebSocket to any path of the application, its query included.

        Raises Refused for an HTTP answer, ConnectionRefusedError if the worker is not running, and what the
        application raises before it has accepted.
        """
        return await self._open(Socket, path, worker, headers, subprotocols)

    async def client(
        self,
        *,
        worker: int = 0,
        path: str | None = None,
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> ProtocolClient:
        """A client of the hub's protocol that has connected; `fields` are those of its command: `token`, `data`, …

        `path` is found among the routes if it is not given. Raises as `connect` does; ReplyError, Closed; LookupError
        if it is not found.
        """
        path = path or self._protocol_path(worker)
        client = await self._open(ProtocolClient, path, worker, headers, ())
        await client.connect(**fields)
        return client

    def http(self, worker: int = 0, **options: Any) -> httpx2.AsyncClient:
        """An HTTP client of one worker; `options` are those of `httpx2.AsyncClient`. It need not be closed.

        Its calls raise what the application raises, and return when background tasks are done. Answers that go on,
        such as server-sent events, are for its `stream`.
        """
        return client_of(self._running(worker), options)

    async def _open(
        self,
        kind: type[_Connection],
        path: str,
        worker: int,
        headers: Mapping[str, str] | None,
        subprotocols: Sequence[str],
    ) -> _Connection:
        connection = kind(self._running(worker), self._clock, path)
        await connection.open(headers or {}, subprotocols)
        return connection

    def _running(self, number: int) -> Worker:
        worker = self._numbered(number)
        if not worker.running:
            raise ConnectionRefusedError(f"worker {number} is not running: await cluster.start({number})")
        return worker

    def _numbered(self, number: int) -> Worker:
        if not 0 <= number < len(self.workers):
            raise IndexError(f"there is no worker {number}: they are numbered from 0 to {len(self.workers) - 1}")
        return self.workers[number]

    def _protocol_path(self, number: int) -> str:
        app: Any = self._numbered(number).app
        try:
            return str(app.url_path_for("hub_channels"))
        except NoMatchFound:  # also behind a mount that has a name
            raise LookupError(
                "the application has no route named 'hub_channels': include a hub's router, or say where it is: "
                "await cluster.client(path='/mounted/connection/websocket')"
            ) from None

    # Time

    @property
    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._clock.elapsed

    async def advance(self, seconds: float) -> None:
        """Let so much time pass: each timer goes off at its time, and between two of them all happens that can."""
        if seconds < 0:
            raise ValueError(f"time does not go back: seconds is {seconds}")
        await self._clock.advance(seconds)

    async def settle(self) -> None:
        """Let everything happen that can without time passing."""
        await self._clock.idle()

    # Workers

    @contextmanager
    def on(self, worker: int) -> Iterator[Worker]:
        """In the block, the application's hubs are those of this worker: `with c.on(1): await hub.publish(...)`."""
        with inside(self._numbered(worker)) as entered:
            yield entered

    async def kill(self, worker: int) -> None:
        """As SIGKILL: its clients see 1006, its tasks are cancelled, and nothing of it reaches Redis any more.

        What was sent before has its effect. Other than with a real SIGKILL the cancelled tasks run their `finally`.
        """
        await self.settle()
        await self._running(worker).kill()
        await self.settle()

    async def stop(self, worker: int) -> None:
        """As SIGTERM: its clients are told 1012, its lifespan ends. Raises what that raises."""
        await self.settle()
        await self._running(worker).stop()
        await self.settle()

    async def start(self, worker: int) -> None:
        """A new worker in the place of one that was killed or stopped. Raises what its lifespan raises."""
        old = self._numbered(worker)
        if old.running:
            raise RuntimeError(f"worker {worker} is running already")
        self.workers[worker] = self._worker(worker, old.app)
        await self.workers[worker].start()
        await self.settle()


def _factory(app: Any) -> Callable[[], Any]:
    if isinstance(app, Starlette):
        return lambda: app
    if callable(app) and not inspect.signature(app).parameters:
        return app  # type: ignore[no-any-return]
    raise TypeError(
        f"Cluster takes a FastAPI application, or a function without arguments that makes one, not {app!r:.100}; an "
        "application in a wrapper goes without it: add_middleware does the same"
    )


def _idle_hubs() -> list[Hub]:
    """All of the process that do not run; those of a loop that was closed do not either."""
    return [hub for hub in list(embed.hubs) if hub._loop is None or hub._loop.is_closed()]
