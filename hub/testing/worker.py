"""One worker of a cluster: the application's lifespan, the worker's own hubs, and everything that runs in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping
from contextvars import Context, copy_context
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from starlette.datastructures import State

from ..embed import Hub, hubs
from .clock import VirtualClock
from .scope import current, own

if TYPE_CHECKING:
    from .connection import Connection
    from .fake_redis import FakeRedisServer

__all__ = ["App", "TaskBook", "Worker", "inside", "parts", "sibling"]

App = Callable[[MutableMapping[str, Any], Callable[..., Any], Callable[..., Any]], Awaitable[None]]

# Virtual seconds that connections have to end when the worker stops; the server's own patience is about that.
LAST_WORDS = 10.0
# A task may catch a cancellation and wait for something else; so often it is told.
ATTEMPTS = 3


# Of a hub, the same for all workers: what was configured, what decorators have registered, what was declared. The
# first two are held by others from the beginning on, so they stay what they are and get the attributes.
ALIKE = ("authority", "namespaces")
SAME = ("_console", "_methods", "_typed")


def parts(hub: Hub) -> Iterator[tuple[str, object]]:
    """What each worker has its own of, by the name of the attribute."""
    for name, value in own(hub).items():
        if type(value).__module__.startswith("hub.") and name not in (*ALIKE, *SAME, "settings", "broker"):
            yield name, value


def sibling(hub: Hub, kind: type[Hub], server: FakeRedisServer) -> Hub:
    """A hub with the settings of `hub` and all that its decorators have registered: the same one in another worker."""
    given, new = own(hub), kind.__new__(kind)
    # No watchdog: its thread would take virtual seconds for a process that stood still.
    settings = given["settings"].model_copy(update={"watchdog": 0.0})
    Hub.__init__(new, settings, redis=server.new_client(), tracer_provider=given["_tracer_provider"])
    hubs.discard(new)  # it is of no application
    for name in ALIKE:
        getattr(new, name).__dict__ = own(given[name])
    new._admission.authenticator = own(given["_admission"])["authenticator"]
    for name, value in given.items():  # and what subclasses have
        if name in SAME or not (name in vars(new) or isinstance(getattr(kind, name, None), cached_property)):
            setattr(new, name, value)
    return new


class Worker:
    """From `start` to `stop` or `kill`. `number` is its place in the cluster."""

    def __init__(self, number: int, app: App, server: FakeRedisServer, clock: VirtualClock) -> None:
        self.number = number
        self.app = app
        self._clock = clock
        self._server = server
        # Whether nothing of it may reach Redis any more.
        self.dead: bool = False
        # Every task that has been started in it.
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        # Its open connections; they leave by themselves.
        self.connections: set[Connection] = set()
        # What the lifespan has yielded.
        self.state: dict[str, Any] = {}
        # Its hubs and its `app.state`, by the application's own object.
        self._hubs: dict[int, Hub] = {}
        self._states: dict[int, State] = {}
        self._to_lifespan: asyncio.Queue[str] = asyncio.Queue()
        # The lifespan and what it has said last; None while the worker is stopped.
        self._lifespan: asyncio.Task[None] | None = None
        self._said: asyncio.Future[None]

    def __repr__(self) -> str:
        state = "dead" if self.dead else "running" if self.running else "stopped"
        return f"<Worker {self.number} {state}, {len(self.connections)} connections>"

    @property
    def running(self) -> bool:
        return self._lifespan is not None

    # What runs in it

    def context(self) -> Context:
        """The caller's, in this worker."""
        context = copy_context()
        context.run(current.set, self)
        return context

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task of this worker."""
        return asyncio.get_running_loop().create_task(work, name=f"worker {self.number} {name}", context=self.context())

    def hub(self, hub: Hub, kind: type[Hub]) -> Hub:
        """This worker's hub in place of the application's, which is of class `kind`."""
        found = self._hubs.get(id(hub))
        if found is None:
            found = self._hubs[id(hub)] = sibling(hub, kind, self._server)
        return found

    def app_state(self, state: State) -> State:
        """This worker's `app.state` in place of the application's."""
        found = self._states.get(id(state))
        if found is None:
            found = self._states[id(state)] = State(dict(own(state)["_state"]))
        return found

    def hubs(self) -> list[Hub]:
        """Those that have been used."""
        return list(self._hubs.values())

    # Its life

    async def start(self) -> None:
        """Raises what the application's lifespan raises."""
        self._lifespan = self.spawn(self._live(), "lifespan")
        await self._told("startup")

    async def _told(self, event: str) -> None:
        """Tell the lifespan; wait for its answer, or its end."""
        assert self._lifespan is not None
        self._said = asyncio.get_running_loop().create_future()
        self._to_lifespan.put_nowait(event)
        await asyncio.wait((self._lifespan, self._said), return_when=asyncio.FIRST_COMPLETED)
        if self._lifespan.done() and not self._said.done():
            self._lifespan.result()
        elif self._said.done() and (error := self._said.exception()) is not None:
            await asyncio.wait((self._lifespan,))
            raise self._lifespan.exception() or error

    async def _live(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        await self.app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, str]:
        return {"type": f"lifespan.{await self._to_lifespan.get()}"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if self._said.done():
            return  # of a worker that was killed
        if message["type"].endswith(".failed"):
            self._said.set_exception(RuntimeError(message.get("message") or "the lifespan failed"))
        else:
            self._said.set_result(None)

    async def stop(self) -> None:
        """As a server does at SIGTERM: every client is told 1012, then the lifespan ends, then the process."""
        for connection in list(self.connections):
            connection.end_by_server(1012, "Service Restart")
        served = [connection.task for connection in self.connections]
        if served:
            await asyncio.wait(served, timeout=LAST_WORDS)
        try:
            await self._told("shutdown")
        finally:
            self._lifespan = None
            await self._end_tasks()

    async def kill(self) -> None:
        """As SIGKILL does: nobody is told. Redis and the clients find out by themselves."""
        self.dead, self._lifespan = True, None
        self._server.cut(self.number)
        for connection in list(self.connections):
            connection.vanish()
        await self._end_tasks()

    async def _end_tasks(self) -> None:
        """What cleans up has no network any more, and no time."""
        for _ in range(ATTEMPTS):
            self._forget_timers()
            for task in [task for task in self.tasks if not task.done()]:
                task.cancel()
            await self._clock.idle()
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.exception()  # what the end has caused is of no interest to anybody

    def _forget_timers(self) -> None:
        loop: Any = asyncio.get_running_loop()
        for timer in list(loop._scheduled):
            if timer._context.get(current) is self:
                timer.cancel()


class TaskBook:
    """Writes down which worker each new task belongs to: Python 3.11 cannot ask a task for its context."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop, self._before = loop, loop.get_task_factory()
        loop.set_task_factory(self._make)

    def close(self) -> None:
        self._loop.set_task_factory(self._before)

    def _make(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Future[Any]:
        make: Callable[..., Any] = self._before or (lambda loop, work, **given: asyncio.Task(work, loop=loop, **given))
        task: asyncio.Task[Any] = make(loop, work, **options)
        context = options.get("context")
        worker = current.get() if context is None else context.get(current)
        if worker is not None:
            worker.tasks.add(task)
        return task


@contextlib.contextmanager
def inside(worker: Worker) -> Iterator[Worker]:
    """The block is code of this worker."""
    token = current.set(worker)
    try:
        yield worker
    finally:
        current.reset(token)
