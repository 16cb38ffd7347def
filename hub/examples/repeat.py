"""What an example does by itself, again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from hub import BrokerUnavailable

__all__ = ["repeat"]


def repeat(every: float, act: Callable[[int], Awaitable[None]]) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan in which `act` is called every so many seconds, in every worker at the same time.

    It gets the number of the call, counted from 1970: so workers agree about it, and so they do after a restart.
    """

    async def run() -> None:
        while True:
            await asyncio.sleep(every - time.time() % every)
            try:
                await act(round(time.time() / every))
            except BrokerUnavailable:
                pass  # the hub has counted and logged it; the next call comes soon

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        task = asyncio.create_task(run(), name=f"repeat {act.__name__}")
        yield
        task.cancel()

    return lifespan
