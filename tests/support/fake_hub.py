"""A server that says what a test tells it to, and a page with hub.js that connects to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

import hub

__all__ = ["FakeConnection", "FakeHub", "Json", "fake_hub"]

STATIC = Path(hub.__file__).parent / "static"
PATIENCE = 10.0

Json = dict[str, Any]

# `start(options)` makes `hub` and notes its events in `events`; `outcome(promise)` is what became of it, as JSON.
PAGE = """<!doctype html><script type="module">
import { Hub } from "/hub.js";
const names = ["connecting", "connected", "disconnected", "message", "error",
  "subscribing", "subscribed", "unsubscribed", "publication", "join", "leave"];
const plain = ({ code, message, temporary, cause }) => ({ code, message, temporary, cause });
window.events = [];
window.start = (options = {}) => {
  window.hub = new Hub("connection/websocket", options);
  for (const name of names) hub.on(name, ({ error, ...context }) => {
    events.push({ event: name, ...context, ...(error && { error: plain(error) }) });
  });
};
window.outcome = (promise) => promise.then((value) => ({ value }), plain);
</script>"""
FILES = {"/": ("text/html", PAGE), "/hub.js": ("text/javascript", None)}


class FakeConnection:
    """One connection of the client; `frames` are the commands that came, each in a frame of its own."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self.frames: list[Json] = []
        self._unread: asyncio.Queue[Json] = asyncio.Queue()
        # Set when the client has closed.
        self.left = asyncio.Event()

    async def listen(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in self._socket:
                command = json.loads(frame)
                self.frames.append(command)
                self._unread.put_nowait(command)
        self.left.set()

    async def command(self) -> Json:
        """The next one."""
        return await asyncio.wait_for(self._unread.get(), PATIENCE)

    async def commands(self, count: int) -> list[Json]:
        """The next ones."""
        return [await self.command() for _ in range(count)]

    async def send(self, *messages: Json) -> None:
        """All in one frame."""
        with contextlib.suppress(ConnectionClosed):
            await self._socket.send("\n".join(json.dumps(message) for message in messages))

    async def push(self, channel: str, **kind: Any) -> None:
        await self.send({"push": {"channel": channel, **kind}})

    async def close(self, code: int = 3000, reason: str = "the test ends it") -> None:
        await self._socket.close(code, reason)

    async def greet(self, *results: Json, **result: Any) -> list[Json]:
        """Answer `connect` with `result`, and the commands behind it with one of `results` each."""
        commands = await self.commands(1 + len(results))
        body = {"client": "c1", "version": "1", **result}
        answers = [{"id": commands[0]["id"], "connect": body}]
        for command, given in zip(commands[1:], results, strict=True):
            answers.append(answer(command, given))
        await self.send(*answers)
        return commands


def answer(command: Json, result: Json) -> Json:
    """The reply to a command: its result, or `{"error": {...}}`."""
    if "error" in result:
        return {"id": command["id"], **result}
    (kind,) = set(command) - {"id"}
    return {"id": command["id"], kind: result}


class FakeHub:
    """Where the client connects."""

    def __init__(self) -> None:
        self.url = ""
        self.paths: list[str] = []
        self._connections: asyncio.Queue[FakeConnection] = asyncio.Queue()

    async def accept(self) -> FakeConnection:
        """The next connection."""
        return await asyncio.wait_for(self._connections.get(), PATIENCE)

    @property
    def waiting(self) -> int:
        """Connections that nobody has accepted."""
        return self._connections.qsize()

    async def serve(self, socket: ServerConnection) -> None:
        connection = FakeConnection(socket)
        self._connections.put_nowait(connection)
        await connection.listen()

    def answer_http(self, socket: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            self.paths.append(request.path)
            return None
        kind, text = FILES.get(request.path, ("", ""))
        if not kind:
            return socket.respond(HTTPStatus.NOT_FOUND, "")
        body = (text or (STATIC / request.path[1:]).read_text()).encode()
        headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"})
        return Response(200, "OK", headers, body)


@contextlib.asynccontextmanager
async def fake_hub() -> AsyncIterator[FakeHub]:
    fake = FakeHub()
    async with serve(fake.serve, "127.0.0.1", 0, process_request=fake.answer_http, close_timeout=1) as server:
        fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        yield fake
