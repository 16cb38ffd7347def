"""What is written to the answer of one HTTP request that does not end by itself, on any ASGI server.

An idle stream has no task but the application's own, which waits for the client to go. `write` starts one that sends,
and that ends when nothing waits any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from .log import Throttled
from .protocol.backlog import Backlog
from .registry import KeepsAll

__all__ = ["SseWire", "open_sse_wires"]

log: logging.Logger = logging.getLogger("hub.sse")

_slow = Throttled(log, logging.WARNING, "%d event streams ended because their clients read too slowly")
# Bytes that a server gets at once: what a client has taken of a large chunk shows in `sent` only then.
PIECE = 65536
# From `serve` to its end.
_open: set[SseWire] = set()

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


def open_sse_wires() -> list[SseWire]:
    """All of this process."""
    return list(_open)


def _discard(chunk: bytes) -> None:
    """`write` at the end."""


class SseWire(KeepsAll):
    """One answer: `begin` and `write`, then `serve`, which runs until the end; `finish` or `cut` bring that about.

    What is written while the client takes everything at once has no limit, what has to wait for it has the budget of a
    WebSocket (`slow_budget`): beyond that `on_slow` is called, in a turn of its own, and nothing is written any more.
    """

    __slots__ = (
        "_backlog",
        "_budget",
        "_cut",
        "_finishing",
        "_first",
        "_on_slow",
        "_send",
        "_sender",
        "sent",
        "slow",
        "write",
    )

    def __init__(self, send: Send, budget: int, on_slow: Callable[[], object]) -> None:
        self._send = send
        self._budget = budget
        # What waits; None while nothing does, as always for most.
        self._backlog: Backlog | None = None
        self._on_slow = on_slow
        # What comes before all that waits: until the task that sends it has its turn it has no budget.
        self._first = b""
        # While something is sent; before `serve` everything waits.
        self._sender: asyncio.Task[None] | None = None
        self.write: Callable[[bytes], object] = self._keep
        # The answer ends behind what waits.
        self._finishing = False
        # Ends `serve` at once; None before and after it.
        self._cut: asyncio.Timeout | None = None
        # Pieces that the server has taken.
        self.sent: int = 0
        # The client has read too slowly.
        self.slow: bool = False

    # Writing

    def begin(self, chunk: bytes) -> None:
        """What the answer begins with, however long it is."""
        self._first += chunk

    def _keep(self, chunk: bytes) -> None:
        if self._backlog is None:
            self._backlog = Backlog(self._budget)
        if not self._backlog.push(chunk):
            self.write = _discard  # in the middle of a fan-out: what follows changes the tables, so not now
            asyncio.get_running_loop().call_soon(self.give_up)

    def _write(self, chunk: bytes) -> None:
        if self._sender is None:
            self._first = chunk
            self._start()
        elif self._first:  # it has not had its turn
            self._first += chunk
        else:
            self._keep(chunk)

    def _start(self) -> None:
        self._sender = asyncio.create_task(self._send_all(), name="hub event stream writer")

    async def _send_all(self) -> None:
        """All that waits, and the end if that is due. Nothing is awaited between the last look and `_sender`'s end."""
        try:
            while chunk := self._take():
                for start in range(0, len(chunk), PIECE):
                    await self._send(
                        {"type": "http.response.body", "body": chunk[start : start + PIECE], "more_body": True}
                    )
                    self.sent += 1
            if self._finishing:
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                self.cut()
        except (OSError, RuntimeError):  # the client has gone, in the two ways in which servers say so
            self._fail()
        except Exception:
            log.exception("unexpected fault in an event stream")
            self._fail()
        finally:
            self._sender = None

    def _take(self) -> bytes:
        """What has waited longest; empty if nothing does."""
        chunk, self._first = self._first, b""
        if not chunk and self._backlog:
            chunk = self._backlog.pop()
        if not self._backlog:
            self._backlog = None
        return chunk

    def _fail(self) -> None:
        self.write = _discard
        self.cut()

    @property
    def serving(self) -> bool:
        """Whether `serve` runs."""
        return self._cut is not None

    @property
    def busy(self) -> bool:
        """The client has not taken everything yet."""
        return self._sender is not None

    @property
    def queued(self) -> int:
        """Bytes that wait for a client that reads more slowly than it is written to."""
        return self._backlog.size if self._backlog is not None else 0

    # The end

    def finish(self, chunk: bytes) -> None:
        """End the answer with `chunk`, behind what waits."""
        if self._finishing or self.write is _discard:
            return
        self.write(chunk)
        self.write = _discard
        self._finishing = True

    def give_up(self) -> None:
        """The client has read too slowly: what waits is not for it any more."""
        if not self.slow:
            self.slow = True
            _slow.add()
            self.write = _discard
            self._on_slow()

    def cut(self) -> None:
        """End `serve` at once."""
        if self._cut is not None and not self._cut.expired():
            self._cut.reschedule(asyncio.get_running_loop().time())

    # Serving

    async def serve(self, receive: Receive, headers: Headers) -> None:
        """Answer with 200, and return when the client has gone or the answer has ended."""
        _open.add(self)
        try:
            async with asyncio.timeout(None) as self._cut:
                await self._send({"type": "http.response.start", "status": 200, "headers": list(headers)})
                self._open_up()
                while (await receive())["type"] != "http.disconnect":
                    pass
        except OSError:  # TimeoutError too, which is the cut
            pass
        finally:
            _open.discard(self)
            self._cut, self.write = None, _discard
            if self._sender is not None:
                self._sender.cancel()

    def _open_up(self) -> None:
        while self._backlog:
            self._first += self._backlog.pop()
        if self.write == self._keep:
            self.write = self._write
        self._start()
