"""That a server ends, for event streams on a uvicorn with an HTTP class other than ours.

uvicorn waits for its answers before it ends the application, and has no word for those that would go on for ever: with
an open event stream it would not end at all, or kill the stream at `--timeout-graceful-shutdown`. What it has are
attributes: the server that handles SIGTERM is asked from time to time. (Our own class, `hub.http`, is told.)
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import uvicorn

__all__ = ["Departures", "uvicorn_is_ending", "uvicorn_of_this_process"]

# Seconds between two looks, while there is a stream.
EVERY = 0.25


def uvicorn_of_this_process() -> uvicorn.Server | None:
    """The one that SIGTERM ends; None under another server, or where a program has a handler of its own."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if isinstance(server, uvicorn.Server) else None


def uvicorn_is_ending(server: uvicorn.Server) -> bool:
    """By a signal, or because it has answered as many requests as it may."""
    listening = getattr(server, "servers", ())
    return server.should_exit or (server.started and not any(each.is_serving() for each in listening))


class Departures:
    """Of one worker: calls everybody who watches, once, when the server ends."""

    def __init__(self) -> None:
        self._watchers: dict[Callable[[], object], None] = {}
        # None while nobody watches.
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, leave: Callable[[], object]) -> None:
        self._watchers[leave] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY, self._look)

    def forget(self, leave: Callable[[], object]) -> None:
        self._watchers.pop(leave, None)
        if not self._watchers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        server = uvicorn_of_this_process()
        if server is not None and uvicorn_is_ending(server):
            watchers, self._watchers, self._timer = self._watchers, {}, None
            for leave in watchers:
                leave()
        else:
            self._timer = asyncio.get_running_loop().call_later(EVERY, self._look)
