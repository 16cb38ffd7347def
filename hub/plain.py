"""A `Wire` on plain ASGI, for every server but our own: hypercorn, granian, daphne, stock uvicorn, TestClient.

Behind `write` stands a queue with the same budget and policies, and one task a connection that sends. Everything works
here, only slower.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from .config import WireOptions
from .errors import Disconnect, Disconnects
from .protocol.backlog import Backlog
from .protocol.frames import Opcode, split
from .wire import Handler

__all__ = ["PlainWire"]

log = logging.getLogger("hub.wire")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class PlainWire:
    """One connection. Implements `hub.wire.Wire`; only data frames may be written."""

    __slots__ = ("_backlog", "_closing", "_options", "_readable", "_receive", "_send", "_stalled", "_waker", "write")

    def __init__(self, receive: Receive, send: Send, options: WireOptions) -> None:
        self._receive = receive
        self._send = send
        self._options = options
        self._backlog = Backlog(options.slow_budget, options.slow_policy)
        self.write: Callable[[bytes], object] = self._enqueue
        # Set by `close`: what the writer says at last.
        self._closing: Disconnect | None = None
        # The client has taken nothing for too long.
        self._stalled = False
        # The writer waits for the one, the reader for the other.
        self._waker = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()

    def _enqueue(self, chunk: bytes) -> None:
        if not self._backlog.push(chunk):
            self.close(Disconnects.SLOW)
        self._waker.set()

    def _discard(self, chunk: bytes) -> None:
        return

    @property
    def ending(self) -> bool:
        """Whether what is written now would be discarded."""
        return self.write == self._discard

    def close(self, disconnect: Disconnect) -> None:
        if self._closing is None:
            self._closing = disconnect
            self.write = self._discard
            self._waker.set()

    def pause_reading(self) -> None:
        self._readable.clear()

    def resume_reading(self) -> None:
        self._readable.set()

    async def serve(self, handler: Handler) -> None:
        """Run until the connection has ended; the handler is told so in every case."""
        reader = asyncio.create_task(self._read(handler), name="hub plain reader")
        writer = asyncio.create_task(self._write_all(), name="hub plain writer")
        code, reason = 1006, ""
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            first = reader if reader.done() else writer
            code, reason = first.result()
        except Exception:
            log.exception("unexpected fault in a connection")
        finally:
            # Nothing is awaited here: who is cancelled may be cancelled again, as TestClient does it.
            self.write = self._discard
            reader.cancel()
            writer.cancel()
            handler.on_close(code, reason)

    async def serve_writes(self) -> None:
        """For an application that reads by itself: write until the client has gone or was closed.

        Only the application can end the connection at once. A stalled client learns of its end when it reads again.
        """
        try:
            code, reason = await self._write_all()
            self.write = self._discard
            if self._stalled:
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (OSError, RuntimeError):
            pass
        except Exception:
            log.exception("unexpected fault in a connection")
        finally:
            self.write = self._discard

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
                    await self._write_backlog(deadline)
                    if self._closing is not None:
                        break
                    self._waker.clear()
                    await self._waker.wait()
                deadline.reschedule(asyncio.get_running_loop().time() + self._options.close_timeout)
                closing = self._closing
                await self._send({"type": "websocket.close", "code": closing.code, "reason": closing.reason})
        except TimeoutError:
            self._stalled = True
            return Disconnects.SLOW.code, Disconnects.SLOW.reason
        except (OSError, RuntimeError):  # the client has gone, in the two ways in which servers say so
            return 1006, ""
        return closing.code, closing.reason

    async def _write_backlog(self, deadline: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        while self._backlog:
            for opcode, payload in split(self._backlog.pop()):
                deadline.reschedule(loop.time() + self._options.slow_timeout)
                text = opcode == Opcode.TEXT
                await self._send(
                    {"type": "websocket.send", "text": payload.decode()}
                    if text
                    else {"type": "websocket.send", "bytes": payload}
                )
        deadline.reschedule(None)
