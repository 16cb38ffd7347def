"""Virtual time: while the event loop has nothing to do, the clock goes to its next timer.

It is laid over the loop that runs already, so it works under every test runner. Only asyncio's own loop can do that:
its `time` and the `select` in which it waits are replaced, and put back at the end.

What happens outside of the loop takes real time, of which the clock knows nothing. Functions in threads (`def` routes,
`asyncio.to_thread`, executors) are waited for; for all else, say a database driver with threads of its own, there is
`patience`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

from anyio import to_thread

__all__ = ["LIMIT", "VirtualClock"]

# Virtual seconds for which a test may wait for something else than this package; then it is stuck.
LIMIT = 600.0
# Real seconds between two looks at threads that are at work; what they finish wakes the loop at once.
LOOK = 0.05

# As something whose functions may be replaced.
_threads: Any = to_thread

_monotonic, _time, _time_ns = time.monotonic, time.time, time.time_ns


class VirtualClock:
    """The time of one running loop, of `time.time()` everywhere, and of the hub's `time.monotonic()`."""

    def __init__(self, patience: float) -> None:
        """Before each step the clock waits `patience` real seconds for what comes from outside of the loop."""
        self._patience = patience
        self._loop: Any = None
        self._select: Callable[[float | None], list[Any]]
        # The loop's time at the start, and the seconds that have passed since.
        self.elapsed: float = 0.0
        self._begin = 0.0
        # Unix time at the start.
        self._epoch = 0.0
        # Who waits until the loop has nothing to do.
        self._idle: list[asyncio.Future[None]] = []
        # Calls of `run_in_executor` and of anyio's `run_sync` that have not returned.
        self._calls = 0
        # Until when the test may wait, in `elapsed`; what happens then.
        self._patient_until = LIMIT
        self.on_stuck: Callable[[], object] = lambda: None

    # From the beginning to the end

    def install(self) -> None:
        """Take the running loop over. Raises RuntimeError for one that is not asyncio's own."""
        loop = _own_loop()
        # The limiter is for who has imported anyio's `run_sync` by its name.
        self._loop, self._limiter = loop, to_thread.current_default_thread_limiter()
        self._begin, self._epoch = loop.time(), _time()
        self._select, loop._selector.select = loop._selector.select, self._wait
        self._execute, loop.run_in_executor = loop.run_in_executor, self._run_in_executor
        self._run_sync, _threads.run_sync = _threads.run_sync, self._run_in_thread
        loop.time = self._now
        time.time, time.time_ns = self.unix, lambda: int(self.unix() * 1e9)
        self._hub_time = _HubTime(self._now)
        _replace(time, self._hub_time)

    def uninstall(self) -> None:
        """The loop's time goes on from where it is, so that its timers stay in order."""
        loop, ahead = self._loop, self._now() - _monotonic()
        del loop._selector.select, loop.run_in_executor
        _threads.run_sync = self._run_sync
        loop.time = lambda: _monotonic() + ahead
        _replace(self._hub_time, time)
        time.time, time.time_ns = _time, _time_ns

    # Being asked

    def _now(self) -> float:
        return self._begin + self.elapsed

    def unix(self) -> float:
        """Unix time: real at the start, virtual since."""
        return self._epoch + self.elapsed

    # Passing

    async def idle(self) -> None:
        """Wait, without time passing, until nothing in the loop can go on."""
        self.allow(0.0)
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._idle.append(waiter)
        await waiter

    async def advance(self, seconds: float) -> None:
        """Let so much time pass: each timer at its time, and between two of them all that can go on."""
        await self.idle()
        self.allow(seconds)
        await asyncio.sleep(seconds)
        await self.idle()

    def allow(self, seconds: float) -> None:
        """The test is about to wait so long, or has just done something."""
        self._patient_until = self.elapsed + seconds + LIMIT

    def _wait(self, timeout: float | None = None) -> list[Any]:
        """In place of the loop's `select`."""
        ready = self._select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self._calls or self._limiter.borrowed_tokens:
            return self._select(LOOK)
        if self._patience and (ready := self._select(self._patience)):
            return ready
        if self._idle:
            self._tell_idle()
        elif timeout is None:
            return self._select(None)
        else:
            self._step(timeout)
        return []

    def _tell_idle(self) -> None:
        waiters, self._idle = self._idle, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _step(self, seconds: float) -> None:
        self.elapsed += seconds
        if self.elapsed > self._patient_until:
            self.allow(0.0)
            self.on_stuck()

    def _run_in_executor(self, *arguments: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._execute(*arguments)
        self._calls += 1
        future.add_done_callback(self._returned)
        return future

    async def _run_in_thread(self, *arguments: Any, **options: Any) -> Any:
        """FastAPI closes dependencies in threads that its limiter does not count."""
        if asyncio.get_running_loop() is not self._loop:
            return await self._run_sync(*arguments, **options)
        self._calls += 1
        try:
            return await self._run_sync(*arguments, **options)
        finally:
            self._calls -= 1

    def _returned(self, future: asyncio.Future[Any]) -> None:
        self._calls -= 1


def _own_loop() -> Any:
    loop: Any = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop) or not hasattr(loop, "_selector"):
        kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
        raise RuntimeError(
            f"the virtual clock needs asyncio's own event loop, and this one is {kind}: run the test in an "
            "asyncio.SelectorEventLoop, which is what asyncio.run and pytest-asyncio take if nothing else is set up"
        )
    if "select" in vars(loop._selector):
        raise RuntimeError("another Cluster is running in this event loop: one at a time")
    return loop


class _HubTime:
    """The module `time` as the hub sees it: other code and other loops need a `monotonic` that is real."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def _replace(old: object, new: object) -> None:
    """In every module of the hub, this package excepted."""
    for name, module in list(sys.modules.items()):
        if name.startswith("hub.") and not name.startswith("hub.testing.") and vars(module).get("time") is old:
            module.time = new  # type: ignore[attr-defined]
