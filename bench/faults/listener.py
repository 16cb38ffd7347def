"""Clients that stay in the room: who loses the connection comes back to the other worker, as behind a load balancer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from .dialects import Dialect, number_of
from .verdict import Heard

__all__ = ["Listener", "SlowListener"]

# Seconds before another attempt, at least and at most.
PAUSE = (0.1, 0.4)
HANDSHAKE_TIMEOUT = 5.0


class Listener:
    """One such client, from its creation until `leave`."""

    def __init__(self, name: str, ports: Sequence[int], path: str, dialect: Dialect) -> None:
        """`ports` are tried in turn, its own worker's first."""
        self.heard = Heard(name)
        self._path = path
        self._ports = itertools.cycle(ports)
        self._dialect = dialect
        self._task = asyncio.create_task(self._run(), name=f"listener {name}")

    @property
    def is_there(self) -> bool:
        """Whether messages come."""
        return bool(self.heard.messages)

    async def leave(self) -> None:
        self._task.cancel()
        results = await asyncio.gather(self._task, return_exceptions=True)
        if results[0] is not None and not isinstance(results[0], asyncio.CancelledError):
            raise results[0]

    async def _run(self) -> None:
        for port in self._ports:
            try:
                async with self._connect(port) as connection:
                    await self._talk(connection)
            except ConnectionClosed as end:
                code = end.rcvd.code if end.rcvd is not None else 1006
                self._tell(f"close {code}")
            except (OSError, InvalidHandshake, InvalidMessage):
                pass  # nobody there: nothing that it had has ended
            await asyncio.sleep(random.uniform(*PAUSE))

    def _connect(self, port: int) -> connect:
        url = f"ws://127.0.0.1:{port}{self._path}"
        return connect(
            url, proxy=None, compression=None, ping_interval=None, max_size=None, open_timeout=HANDSHAKE_TIMEOUT
        )

    async def _talk(self, connection: ClientConnection) -> None:
        """Until the connection ends, by ConnectionClosed."""
        await self._say(connection, self._dialect.greeting())
        while True:
            frame = await connection.recv()
            self._take(connection, str(frame))
            await self._answer(connection)

    def _take(self, connection: ClientConnection, frame: str) -> None:
        self._last = self._dialect.take(frame)
        now = time.monotonic()
        for payload in self._last.payloads:
            if (number := number_of(payload)) is not None:
                self.heard.messages.append((number, now))
        for what in self._last.told:
            self._tell(what)

    async def _answer(self, connection: ClientConnection) -> None:
        await self._say(connection, self._last.answers)
        if self._last.joined is False:
            await asyncio.sleep(random.uniform(*PAUSE))
            await self._say(connection, self._dialect.again())

    async def _say(self, connection: ClientConnection, frames: Sequence[str]) -> None:
        for frame in frames:
            await connection.send(frame)

    def _tell(self, what: str) -> None:
        self.heard.told.append((time.monotonic(), what))


class SlowListener(Listener):
    """One that stops reading when it is told to, and never goes away by itself."""

    def __init__(self, name: str, ports: Sequence[int], path: str, dialect: Dialect) -> None:
        self._reading = asyncio.Event()
        self._reading.set()
        # Of the present connection: the worker's port and its own.
        self._pair = (0, 0)
        super().__init__(name, ports, path, dialect)

    def stop_reading(self) -> None:
        self._reading.clear()

    @property
    def is_connected(self) -> bool:
        """Whether the server still has its end of the connection; the client's own would not tell."""
        return _is_established(*self._pair)

    def _connect(self, port: int) -> connect:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before the window is agreed upon
        sock.connect(("127.0.0.1", port))
        self._pair = (port, sock.getsockname()[1])
        url = f"ws://127.0.0.1:{port}{self._path}"
        return connect(url, sock=sock, proxy=None, compression=None, ping_interval=None, max_size=None, max_queue=1)

    async def _talk(self, connection: ClientConnection) -> None:
        await self._say(connection, self._dialect.greeting())
        while self._reading.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    self._take(connection, str(await connection.recv()))
                    await self._answer(connection)
        await asyncio.Event().wait()


def _is_established(local_port: int, remote_port: int) -> bool:
    """Whether a process has an open socket between these ports of loopback, by the kernel's table."""
    wanted = [f"0100007F:{port:04X}" for port in (local_port, remote_port)]
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(row[1:3] == wanted and row[3] == "01" and row[9] != "0" for row in rows)
