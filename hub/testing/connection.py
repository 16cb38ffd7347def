"""A WebSocket without a network: the server's half of ASGI's conversation, and the client behind it.

ASGI WebSocket specification 2.4: https://asgi.readthedocs.io/en/latest/specs/www.html#websocket
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from .clock import VirtualClock
from .worker import Worker

__all__ = ["Close", "Closed", "Connection", "NothingReceived", "Refused", "Socket"]

log: logging.Logger = logging.getLogger("hub.testing")

HOST = "testserver"
# Virtual seconds.
TIMEOUT = 5.0
# Messages that an error cites.
CITED = 5

_ports = itertools.count(50000)


class Close(NamedTuple):
    """How a connection has ended. 1006 is an end that nobody told of, as when a worker was killed."""

    code: int
    reason: str


class Closed(Exception):
    """The connection has ended, and everything that it has brought was received. `close` has code and reason."""

    def __init__(self, close: Close, where: str) -> None:
        self.close = close
        super().__init__(f"{where} was closed with {close.code} {close.reason!r}")


class Refused(Exception):
    """The handshake was answered with an HTTP error: `status`, `body`."""

    def __init__(self, status: int, body: bytes, where: str) -> None:
        self.status: int = status
        self.body: bytes = body
        super().__init__(f"{where} was refused with HTTP {status} {body.decode(errors='replace')!r:.200}")


class NothingReceived(AssertionError):
    """Nothing came in time; the message tells what had come before."""


class Connection:
    """One client of one worker: what it sends, and what becomes of the connection."""

    def __init__(self, worker: Worker, clock: VirtualClock, path: str) -> None:
        self.worker = worker
        self.path = path
        self._clock = clock
        # How it has ended; None while it is open.
        self.close_seen: Close | None = None
        # What the server has chosen.
        self.subprotocol: str | None = None
        self.task: asyncio.Task[None]
        self._to_app: deque[dict[str, Any]] = deque([{"type": "websocket.connect"}])
        # What the application, the client, and a stalled `send` wait for.
        self._for_app, self._for_client, self._reads = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._reads.set()
        self._accepted = False
        # Why the application failed, if it did.
        self._fault: BaseException | None = None
        # Of a denial response.
        self._status, self._body = 0, b""

    def __repr__(self) -> str:
        state = f"closed {self.close_seen.code}" if self.close_seen else "open" if self._reads.is_set() else "stalled"
        return f"<{type(self).__name__} {self._where}, {state}>"

    @property
    def _where(self) -> str:
        return f"{self.path} at worker {self.worker.number}"

    # The client

    @property
    def closed(self) -> bool:
        """Whether the client has seen the end."""
        return self.close_seen is not None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, as a client does; returns when the application has done what it does then."""
        self._end_by_client(code, reason)
        await self._clock.idle()

    async def drop(self) -> None:
        """Lose the network: the application is told 1006, as servers do."""
        self._end_by_client(1006, "")
        await self._clock.idle()

    def stall(self) -> None:
        """Read nothing: what the application sends waits in its `send`, until `resume`."""
        self._reads.clear()

    def resume(self) -> None:
        """Read again."""
        self._reads.set()

    async def wait_closed(self, timeout: float = TIMEOUT) -> Close:
        """Code and reason of its end, within `timeout` virtual seconds. Raises NothingReceived."""
        self._clock.allow(timeout)
        try:
            async with asyncio.timeout(timeout):
                while self.close_seen is None:
                    await self._wait()
        except TimeoutError:
            raise NothingReceived(f"{self._where} was not closed within {timeout:g} s; {self._history()}") from None
        return self.close_seen

    async def _wait(self) -> None:
        self._for_client.clear()
        await self._for_client.wait()

    def _send_to_app(self, event: dict[str, Any]) -> None:
        if self.close_seen is not None:
            raise self._closed_error()
        self._clock.allow(0.0)
        self._tell_app(event)

    def _tell_app(self, event: dict[str, Any]) -> None:
        self._to_app.append(event)
        self._for_app.set()

    def _closed_error(self) -> Closed:
        assert self.close_seen is not None
        error = Closed(self.close_seen, self._where)
        error.__cause__ = self._fault
        return error

    def _history(self) -> str:
        """For errors."""
        return "what came before is unknown"

    def _on_message(self, message: str | bytes) -> None:
        """The client has read one."""
        raise NotImplementedError

    def _on_closed(self) -> None:
        """The client has seen the end."""

    # The handshake

    async def open(self, headers: Mapping[str, str], subprotocols: Sequence[str]) -> None:
        """Connect. Raises Closed or Refused, or what the application raises before it has accepted."""
        self.worker.connections.add(self)
        self.task = self.worker.spawn(self._serve(self._scope(headers, subprotocols)), f"serves {self.path}")
        self.task.add_done_callback(lambda _: self.worker.connections.discard(self))
        self._clock.allow(0.0)
        try:
            while not self._accepted and self.close_seen is None:
                await self._wait()
        except asyncio.CancelledError:
            self._end_by_client(1006, "")
            raise
        if not self._accepted:
            raise self._fault or Refused(self._status or 500, self._body, self._where)

    def _scope(self, headers: Mapping[str, str], subprotocols: Sequence[str]) -> dict[str, Any]:
        url = urlsplit(self.path)
        given = {"host": HOST, **{name.lower(): value for name, value in headers.items()}}
        if subprotocols:
            given["sec-websocket-protocol"] = ", ".join(subprotocols)
        return {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": unquote(url.path),
            "raw_path": url.path.encode(),
            "query_string": url.query.encode(),
            "root_path": "",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()],
            "client": ("127.0.0.1", next(_ports)),
            "server": (HOST, 80),
            "subprotocols": list(subprotocols),
            "state": self.worker.state.copy(),
            "extensions": {"websocket.http.response": {}},
        }

    # The server

    async def _serve(self, scope: dict[str, Any]) -> None:
        try:
            await self.worker.app(scope, self._receive, self._send)
        except Exception as error:
            if self.close_seen is None:
                log.exception("exception in the application, %s", self._where)
                self._fault = error
            self._see(Close(1011, "Internal Error"))
        else:
            self._see(Close(1000, ""))

    def end_by_server(self, code: int, reason: str) -> None:
        """The server closes it."""
        self._tell_app({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._see(Close(code, reason))

    def vanish(self) -> None:
        """Nobody is told."""
        self._see(Close(1006, ""))

    async def _receive(self) -> dict[str, Any]:
        while not self._to_app:
            self._for_app.clear()
            await self._for_app.wait()
        if len(self._to_app) == 1 and self._to_app[0]["type"] == "websocket.disconnect":
            return self._to_app[0]  # as often as it is asked for
        return self._to_app.popleft()

    async def _send(self, message: dict[str, Any]) -> None:
        await self._reads.wait()
        if self.close_seen is not None:
            raise OSError(f"{self._where} has ended")
        kind = message["type"].removeprefix("websocket.")
        expected = ("send", "close") if self._accepted else ("accept", "close", *_DENIAL)
        if kind not in expected:
            raise RuntimeError(f"expected one of {expected}, but the application has sent {kind!r}")
        _SERVED[kind](self, message)

    def _serve_accept(self, message: dict[str, Any]) -> None:
        self._accepted, self.subprotocol = True, message.get("subprotocol")
        self._for_client.set()

    def _serve_data(self, message: dict[str, Any]) -> None:
        data = message.get("bytes")
        self._on_message(message["text"] if data is None else data)
        self._for_client.set()

    def _serve_close(self, message: dict[str, Any]) -> None:
        if not self._accepted:
            self._status = 403  # so servers answer it
        self.end_by_server(message.get("code", 1000), message.get("reason") or "")

    def _serve_denial_start(self, message: dict[str, Any]) -> None:
        self._status = message["status"]

    def _serve_denial(self, message: dict[str, Any]) -> None:
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            self.end_by_server(1006, "")

    def _end_by_client(self, code: int, reason: str) -> None:
        if self.close_seen is None:
            self.end_by_server(code, reason)

    def _see(self, close: Close) -> None:
        """The client's end of it."""
        if self.close_seen is None:
            self.close_seen = close
            self._reads.set()
            self._on_closed()
            self._for_client.set()


_DENIAL = ("http.response.start", "http.response.body")

_SERVED: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "accept": Connection._serve_accept,
    "send": Connection._serve_data,
    "close": Connection._serve_close,
    "http.response.start": Connection._serve_denial_start,
    "http.response.body": Connection._serve_denial,
}


class Socket(Connection):
    """A plain WebSocket client. What it has received and nobody has asked for waits.

    Timeouts are in virtual seconds; they cost no real ones. Each `receive` raises NothingReceived when nothing came
    in time, and Closed when the connection has ended and nothing is left to receive.
    """

    def __init__(self, worker: Worker, clock: VirtualClock, path: str) -> None:
        super().__init__(worker, clock, path)
        # Everything so far, and how many of these were asked for.
        self.received: list[str | bytes] = []
        self._taken = 0

    def _on_message(self, message: str | bytes) -> None:
        self.received.append(message)

    async def send_text(self, text: str) -> None:
        """Raises Closed."""
        self._send_to_app({"type": "websocket.receive", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        """Raises Closed."""
        self._send_to_app({"type": "websocket.receive", "bytes": data})

    async def send_json(self, value: Any) -> None:
        """As a text message. Raises Closed."""
        await self.send_text(msgspec.json.encode(value).decode())

    async def receive(self, timeout: float = TIMEOUT) -> str | bytes:
        """The next message."""
        self._clock.allow(timeout)
        try:
            async with asyncio.timeout(timeout):
                while self._taken == len(self.received):
                    if self.close_seen is not None:
                        raise self._closed_error()
                    await self._wait()
        except TimeoutError:
            raise NothingReceived(f"nothing came to {self._where} in {timeout:g} s; {self._history()}") from None
        self._taken += 1
        return self.received[self._taken - 1]

    async def receive_text(self, timeout: float = TIMEOUT) -> str:
        """The next message, which must be text: AssertionError otherwise."""
        message = await self.receive(timeout)
        assert isinstance(message, str), f"expected text from {self._where}, and got {message!r:.200}"
        return message

    async def receive_bytes(self, timeout: float = TIMEOUT) -> bytes:
        """The next message, which must be binary: AssertionError otherwise."""
        message = await self.receive(timeout)
        assert isinstance(message, bytes), f"expected bytes from {self._where}, and got {message!r:.200}"
        return message

    async def receive_json(self, timeout: float = TIMEOUT) -> Any:
        """The next message, of which JSON is made."""
        return msgspec.json.decode(await self.receive(timeout))

    async def receive_nothing(self, seconds: float = 1.0) -> None:
        """Let so much time pass; AssertionError if a message comes meanwhile, or has come before."""
        await self._clock.advance(seconds)
        waiting = self.received[self._taken :]
        assert not waiting, f"expected nothing from {self._where}, and got {_cite(waiting)}"

    def _history(self) -> str:
        state = "the client is stalled; " if not self._reads.is_set() else ""
        return f"{state}received so far: {_cite(self.received) if self.received else 'nothing'}"


def _cite(messages: Sequence[str | bytes]) -> str:
    """The last ones."""
    omitted = len(messages) - CITED
    start = f"{omitted} more, then " if omitted > 0 else ""
    return start + ", ".join(f"{message!r:.200}" for message in messages[-CITED:])
