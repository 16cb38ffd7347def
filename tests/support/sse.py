"""A client of server-sent events, by the standard's own rules: what a browser would see.

It asks a port, or an application without any server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote, unquote, urlencode, urlsplit

from fastapi import FastAPI
from starlette.types import ASGIApp

from hub import Hub, Settings
from hub.broker import Broker
from hub.memory import MemoryBroker

from .uvicorn_server import serving

__all__ = ["EventSource", "Message", "Parser", "Target", "ask", "listening", "path_of", "request", "serving_hub"]

PATIENCE = 20.0


@dataclass(frozen=True)
class Message:
    """One event. `last_id` is the last event id when it was dispatched, its own or an older one."""

    name: str
    data: str
    last_id: str

    @property
    def body(self) -> Any:
        """Of an event whose data is JSON."""
        return json.loads(self.data)


class Parser:
    """Bytes in, events out (HTML standard, 9.2.6); what an end cuts off is no event."""

    def __init__(self) -> None:
        self.last_id = ""
        # Milliseconds.
        self.retry: int | None = None
        # Blocks that were comments alone.
        self.comments = 0
        self._rest = b""
        self._data: list[str] = []
        self._name = self._id = ""

    def feed(self, chunk: bytes) -> list[Message]:
        # A carriage return at the end may have its line feed still to come.
        *lines, self._rest = re.split(rb"\r\n|\n|\r(?!$)", self._rest + chunk)
        return [message for line in lines if (message := self._line(line.decode())) is not None]

    def _line(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "":
            self.comments += 1
        elif field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id":
            self._id = value
        elif field == "retry":
            self.retry = int(value)
        return None

    def _dispatch(self) -> Message | None:
        self.last_id = self._id
        data, name = self._data, self._name
        self._data, self._name = [], ""
        return Message(name or "message", "\n".join(data), self.last_id) if data else None


def path_of(channel: str, prefix: str = "", **query: str) -> str:
    """The address of a channel's stream."""
    return f"{prefix}/sse/{quote(channel, safe='')}" + (f"?{urlencode(query)}" if query else "")


class EventSource:
    """One stream that is open, or an answer that is none."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter | _Call) -> None:
        self._reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parser = Parser()
        self._messages: list[Message] = []
        # Whether the server has said that the answer is complete; without that the connection has broken off.
        self.complete = False

    @property
    def last_id(self) -> str:
        return self.parser.last_id

    async def read_head(self) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *fields = head.strip().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}

    async def body(self) -> bytes:
        """Of an answer with a length."""
        return await self._reader.readexactly(int(self.headers.get("content-length", "0")))

    async def _chunk(self) -> bytes:
        """Empty at the end, however it comes."""
        try:
            size = int((await self._reader.readuntil(b"\r\n")), 16)
            chunk = (await self._reader.readexactly(size + 2))[:-2]
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        self.complete = self.complete or not size
        return chunk

    async def next(self) -> Message:
        """The next event. Raises EOFError at the end of the stream, TimeoutError if nothing comes."""
        async with asyncio.timeout(PATIENCE):
            while not self._messages:
                chunk = await self._chunk()
                if not chunk:
                    raise EOFError("the stream has ended")
                self._messages += self.parser.feed(chunk)
        return self._messages.pop(0)

    async def comment(self) -> None:
        """Until one has come; events that come before it are kept."""
        count = self.parser.comments
        async with asyncio.timeout(PATIENCE):
            while self.parser.comments == count:
                self._messages += self.parser.feed(await self._chunk())

    async def take(self, count: int) -> list[str]:
        """The data of so many events, which are all messages."""
        messages = [await self.next() for _ in range(count)]
        assert {message.name for message in messages} <= {"message"}, messages
        return [message.data for message in messages]

    async def greeting(self) -> dict[str, Any]:
        """What the hub says at first."""
        message = await self.next()
        assert message.name == "hub", message
        told: dict[str, Any] = message.body["subscribed"]
        return told

    async def end(self) -> tuple[list[Message], dict[str, Any] | None]:
        """Everything up to the end: what came, and the reason that the hub gave for the end."""
        messages = []
        with contextlib.suppress(EOFError):
            while True:
                messages.append(await self.next())
        if messages and messages[-1].name == "hub" and "disconnect" in messages[-1].body:
            return messages[:-1], messages[-1].body["disconnect"]
        return messages, None

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class _Call:
    """A request that an application answers without a server: its answer is written as a server would write it."""

    def __init__(self, app: ASGIApp, method: str, path: str, headers: Mapping[str, str]) -> None:
        self.reader = asyncio.StreamReader()
        self._gone = asyncio.Event()
        parts = urlsplit(path)
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(parts.path),
            "root_path": "",
            "query_string": parts.query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
        self._chunked = True
        self._task = asyncio.create_task(self._run(app, scope))

    async def _run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        await app(scope, self._receive, self._send)
        self.reader.feed_eof()

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, event: Any) -> None:
        if event["type"] == "http.response.start":
            fields = [b"%s: %s" % field for field in event["headers"]]
            self._chunked = not any(field.startswith(b"content-length") for field in fields)
            self.reader.feed_data(b"\r\n".join([b"HTTP/1.1 %d -" % event["status"], *fields, b"", b""]))
        elif not self._chunked:
            self.reader.feed_data(event["body"])
        else:
            last = b"" if event.get("more_body") else b"0\r\n\r\n"
            body = event["body"]
            self.reader.feed_data((b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + last)
        if not event.get("more_body") and event["type"] == "http.response.body":
            self._gone.set()

    def close(self) -> None:
        self._gone.set()

    async def wait_closed(self) -> None:
        await self._task


# A port, or an application.
Target: TypeAlias = "int | ASGIApp"


async def request(
    target: Target, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", *, buffer: int = 0
) -> EventSource:
    """Ask for a path, and read the head of the answer; close it afterwards.

    With a `buffer` no more than about so many bytes are taken before they are read.
    """
    source = await ask(target, path, headers, method, buffer=buffer)
    async with asyncio.timeout(PATIENCE):
        await source.read_head()
    return source


async def ask(
    target: Target, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", *, buffer: int = 0
) -> EventSource:
    """Ask, and read nothing yet."""
    if not isinstance(target, int):
        call = _Call(target, method, path, {"Host": "hub.example", **(headers or {})})
        return EventSource(call.reader, call)
    reader, writer = await _connect(target, buffer)
    fields = {"Host": f"127.0.0.1:{target}", **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
    return EventSource(reader, writer)


async def _connect(port: int, buffer: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if not buffer:
        return await asyncio.open_connection("127.0.0.1", port)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=sock, limit=buffer)


@contextlib.asynccontextmanager
async def listening(
    target: Target, channel: str, headers: Mapping[str, str] | None = None, prefix: str = "", **query: str
) -> AsyncIterator[EventSource]:
    """A stream whose greeting is still to be read; closed on leaving."""
    source = await request(target, path_of(channel, prefix, **query), headers)
    assert source.status == 200, (source.status, await source.body())
    try:
        yield source
    finally:
        await source.close()


@contextlib.asynccontextmanager
async def serving_hub(
    broker: Broker | None = None, *, http: Any = None, **settings: Any
) -> AsyncIterator[tuple[Hub, Target]]:
    """A hub and where to ask: the port of a uvicorn in this process with that HTTP class, or else its application."""
    hub = Hub(Settings(**{"drain": 0, **settings}), broker=broker or MemoryBroker())
    app = FastAPI()
    app.include_router(hub.router)
    if http is None:
        async with hub:
            yield hub, app
    else:
        async with serving(app, http=http) as (port, _):
            yield hub, port
