"""A `Wire` on plain ASGI, for every server but our own: hypercorn, granian, daphne, stock uvicorn, TestClient.

Behind `write` stands one task a connection that sends, and while it is busy sending a queue with the same budget and
policies. Everything works here, only slower.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from .config import WireOptions
from .errors import Disconnect, Disconnects
from .log import Throttled, extra_of
from .protocol.backlog import Backlog, Lossy
from .protocol.frames import Opcode, split
from .wire_contract import Handler

__all__ = ["PlainWire", "dropped_messages", "open_wires"]

log: logging.Logger = logging.getLogger("hub.wire")

_slow = Throttled(log, logging.WARNING, "%d clients disconnected because they read too slowly")
_dropped = Throttled(log, logging.WARNING, "%d messages dropped for clients that read too slowly")
# From `serve` or `serve_writes` to their ends.
_open: set[PlainWire] = set()

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def open_wires() -> list[PlainWire]:
    """All of this process."""
    return list(_open)


def dropped_messages() -> int:
    """Of all connections of this process, because their clients read too slowly."""
    return _dropped.total


def _discard(chunk: bytes) -> None:
    """`write` at the end."""


class PlainWire:
    """One connection. Implements `hub.wire.Wire`; only data frames may be written."""

    __slots__ = (
        "_backlog",
        "_closing",
        "_fresh",
        "_idle",
        "_options",
        "_readable",
        "_receive",
        "_send",
        "_stalled",
        "_waker",
        "write",
    )

    # The server's own affair.
    compression = 0

    # A task sends it.
    waits = True
    descriptor = -1

    def __init__(self, receive: Receive, send: Send, options: WireOptions) -> None:
        self._receive = receive
        self._send = send
        self._options = options
        # What waits while the writer is busy; what came in this tick while it was idle, so without any limit.
        self._backlog = Backlog(options.slow_budget)
        self._fresh = b""
        self._idle = False
        self.write: Callable[[bytes], object] = self._enqueue
        # Set by `close`: what the writer says at last.
        self._closing: Disconnect | None = None
        # The client has taken nothing for too long.
        self._stalled = False
        # The writer waits for the one, the reader for the other.
        self._waker = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()

    def offer(self, chunk: bytes, lossy: Lossy) -> None:
        if not self.ending:
            self._enqueue(chunk, lossy)

    def _enqueue(self, chunk: bytes, lossy: Lossy | None = None) -> None:
        if self._idle:
            self._fresh += chunk
        else:
            self._keep(chunk, lossy)
        self._waker.set()

    def _keep(self, chunk: bytes, lossy: Lossy | None) -> None:
        dropped = self._backlog.dropped
        if not self._backlog.push(chunk, lossy):
            _slow.add()
            self.close(Disconnects.SLOW)
        elif self._backlog.dropped > dropped:
            _dropped.add(self._backlog.dropped - dropped)

    @property
    def queued(self) -> int:
        """Bytes that wait for a client that reads more slowly than it is written to."""
        return self._backlog.size

    @property
    def ending(self) -> bool:
        """Whether what is written now would be discarded."""
        return self.write is _discard

    def close(self, disconnect: Disconnect) -> None:
        if self._closing is None:
            self._closing = disconnect
            self.write = _discard
            self._waker.set()

    def pause_reading(self) -> None:
        self._readable.clear()

    def resume_reading(self) -> None:
        self._readable.set()

    async def serve(self, handler: Handler) -> None:
        """Run until the connection has ended; the handler is told so in every case."""
        _open.add(self)
        reader = asyncio.create_task(self._read(handler), name="hub plain reader")
        writer = asyncio.create_task(self._write_all(), name="hub plain writer")
        code, reason = 1006, ""
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            first = reader if reader.done() else writer
            code, reason = first.result()
        except Exception:
            log.exception("unexpected fault in a connection", extra=extra_of(handler))
            self.close(Disconnects.INTERNAL)
            await asyncio.wait((writer,))
            code, reason = Disconnects.INTERNAL.code, Disconnects.INTERNAL.reason
        finally:
            # Nothing is awaited here: who is cancelled may be cancelled again, as TestClient does it.
            self.write = _discard
            _open.discard(self)
            reader.cancel()
            writer.cancel()
            handler.on_close(code, reason)

    async def serve_writes(self) -> None:
        """For an application that reads by itself: write until the client has gone or was closed.

        Only the application can end the connection at once. A stalled client learns of its end when it reads again.
        """
        _open.add(self)
        try:
            code, reason = await self._write_all()
            self.write = _discard
            if self._stalled:
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (OSError, RuntimeError):
            pass
        except Exception:
            log.exception("unexpected fault in a connection")
        finally:
            self.write = _discard
            _open.discard(self)

    async def _read(self, handler: Handler) -> tuple[int, str]:
        while True:
            await self._readable.wait()
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                return event.get("code") or 1005, event.get("reason") or ""
            text = event.get("text")
            payload = event["bytes"] if text is None else text.encode()
            if self._closing is not None:
                continue
            if len(payload) > self._options.max_message_size:
                self.close(Disconnects.TOO_BIG)
            else:
                handler.on_message(payload, text is not None)

    async def _write_all(self) -> tuple[int, str]:
        """Send what is queued, then the close. A client that takes nothing for `slow_timeout` is given up."""
        try:
            async with asyncio.timeout(None) as deadline:
                while True:
                    await self._write_waiting(deadline)
                    if self._closing is not None:
                        break
                    self._idle = True
                    self._waker.clear()
                    await self._waker.wait()
                    self._idle = False
                deadline.reschedule(asyncio.get_running_loop().time() + self._options.close_timeout)
                closing = self._closing
                await self._send({"type": "websocket.close", "code": closing.code, "reason": closing.reason})
        except TimeoutError:
            self._stalled = True
            _slow.add()
            return Disconnects.SLOW.code, Disconnects.SLOW.reason
        except (OSError, RuntimeError):  # the client has gone, in the two ways in which servers say so
            return 1006, ""
        return closing.code, closing.reason

    async def _write_waiting(self, deadline: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        while self._fresh or self._backlog:
            chunk, self._fresh = self._fresh or self._backlog.pop(), b""
            for opcode, payload in split(chunk):
                if self._closing is None or deadline.when() is None:  # who is ended has no time for each of them
                    deadline.reschedule(loop.time() + self._options.slow_timeout)
                data = {"text": payload.decode()} if opcode == Opcode.TEXT else {"bytes": payload}
                await self._send({"type": "websocket.send", **data})
        deadline.reschedule(None)
