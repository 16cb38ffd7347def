"""Servers in the place of the replicas, which see what a proxy makes of a request."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

from .cluster import fixed_port
from .waiting import eventually

__all__ = ["HANDSHAKE", "TOKEN", "Backend", "ask"]

HANDSHAKE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nOrigin: http://chat.example:8080\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
TOKEN = "token=s3cret"


class Backend:
    """Answers every request with one status and keeps the requests; health checks are answered with 200 and not kept.

    Status 0 is one that reads the request and closes the connection.
    """

    def __init__(self, status: int) -> None:
        self.port = fixed_port()
        self.requests: list[str] = []
        self._open = 0
        self._status = status
        # Set by `running`.
        self._server: asyncio.Server

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Leave it after the proxy, which ends the connections."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", self.port) as self._server:
            yield
            await eventually(lambda: not self._open)

    def refuse(self) -> None:
        """From now on, new connections."""
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._answer(reader, writer)
        finally:  # the proxy may have been killed with a connection that is accepted only when the test ends
            writer.close()
            self._open -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if length := re.search(r"^content-length: (\d+)", head, re.MULTILINE | re.IGNORECASE):
                await reader.readexactly(int(length[1]))
            status = 200 if " /health/" in head.partition("\r\n")[0] else self._note(head)
            if not status:
                return
            writer.write(f"HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n".encode())

    def _note(self, head: str) -> int:
        self.requests.append(head)
        return self._status

    @property
    def headers(self) -> dict[str, str]:
        """Of the last request, with lower-case names."""
        lines = self.requests[-1].strip().split("\r\n")[1:]
        return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


async def ask(port: int, line: str, headers: str = "", body: bytes = b"") -> int:
    """The status of the proxy's answer; 0 if it closes the connection without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    writer.write(f"{line} HTTP/1.1\r\nHost: chat.example:8080\r\n{headers}{length}\r\n".encode() + body)
    async with asyncio.timeout(20):
        answer = await reader.readline()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return int(answer.split()[1]) if answer else 0
