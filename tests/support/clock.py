"""Virtual time: an event loop in which waiting takes none."""

from __future__ import annotations

import asyncio
import functools
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

# Unix time in the first second of virtual time, with `unix_time`.
EPOCH = 1_800_000_000


class _Selector(selectors.DefaultSelector):
    """Where the loop would sleep, the clock is put forward instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready: list[Any] = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everything waits for nothing")
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """For code whose only waiting is for time and for other tasks, fakeredis included."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return 1000.0 + self._virtual.now


def run_virtually(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Decorator of a test that is a coroutine function."""

    @functools.wraps(test)
    def run(*arguments: Any, **keywords: Any) -> None:
        run_virtually(lambda: test(*arguments, **keywords))

    return run


@pytest.fixture(autouse=True)
def unix_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is imported, Unix time goes with the loop's, and no settings come from outside."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    real = time.time

    def now() -> float:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return real()
        return EPOCH + loop.time() - 1000 if isinstance(loop, VirtualLoop) else real()

    monkeypatch.setattr(time, "time", now)
