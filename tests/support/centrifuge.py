"""A client of the Centrifuge protocol that sends what it is given and keeps all that comes.

Nothing is interpreted on the way out, so a test can say what no SDK would; on the way in it is as strict as can be.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

__all__ = ["PATH", "Client", "Json", "client", "connected"]

PATH = "/connection/websocket"
PATIENCE = 10.0

Json = dict[str, Any]


class Client:
    """One connection. It answers pings once `connect` was answered with `pong`, unless it is told not to."""

    def __init__(self, socket: ClientConnection, *, answers_pings: bool = True) -> None:
        self._socket = socket
        self._answers_pings = answers_pings
        self._ids = itertools.count(1)
        # Every object that came, in order; `received[_read:]` was not yet taken by `receive`.
        self.received: list[Json] = []
        self._read = 0
        # When each ping came, in the loop's time.
        self.pings: list[float] = []
        # Code and reason of the end; None while it is open.
        self.end: tuple[int, str] | None = None
        # Set whenever something of the above has changed.
        self._news = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, ws_url: str, *, answers_pings: bool = True, **options: Any) -> Client:
        """Connect the socket; nothing is sent."""
        socket = await websockets.connect(ws_url + PATH, ping_interval=None, proxy=None, max_size=None, **options)
        return cls(socket, answers_pings=answers_pings)

    # Out

    async def send(self, *frames: str | bytes | Json) -> None:
        """Each as one frame: texts and bytes as they are, an object as JSON. After the end nothing happens."""
        with contextlib.suppress(ConnectionClosed):
            for frame in frames:
                await self._socket.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def send_as_text(self, payload: bytes) -> None:
        """One text frame, even if it is not UTF-8."""
        await self._socket.send(payload, text=True)

    async def send_fragments(self, parts: Iterable[str]) -> None:
        """One message in as many frames, or in fewer if the end comes before the last."""
        with contextlib.suppress(ConnectionClosed):
            await self._socket.send(parts)

    async def command(self, name: str, **fields: Any) -> int:
        """Send one command; its id."""
        number = next(self._ids)
        await self.send({"id": number, name: fields})
        return number

    async def ask(self, name: str, **fields: Any) -> Json:
        """Send one command; its result, or `{"error": …}`."""
        reply = await self.reply(await self.command(name, **fields))
        if "error" in reply:
            return {"error": reply["error"]}
        result: Json = reply[name]
        return result

    # In

    async def receive(self, timeout: float = PATIENCE) -> Json:
        """The next object that is not a ping, whatever it is. Raises ConnectionError at the end."""
        async with asyncio.timeout(timeout):
            while self._read == len(self.received):
                await self._wait("the next object")
        self._read += 1
        return self.received[self._read - 1]

    async def reply(self, number: int, timeout: float = PATIENCE) -> Json:
        """The reply with this id. Raises ConnectionError if the end comes first."""
        return await self._find(lambda message: message.get("id") == number, f"reply {number}", timeout)

    async def push(self, channel: str, kind: str, number: int = 1, timeout: float = PATIENCE) -> Json:
        """What the `number`-th push of this kind in `channel` says."""
        async with asyncio.timeout(timeout):
            while len(found := self.pushes(channel, kind)) < number:
                await self._wait(f"push {number} of {kind} in {channel!r}")
        return found[number - 1]

    def pushes(self, channel: str, kind: str) -> list[Json]:
        """What all pushes of this kind in `channel` said so far."""
        pushes = (message["push"] for message in self.received if "push" in message)
        return [push[kind] for push in pushes if kind in push and push.get("channel", "") == channel]

    async def closed(self, timeout: float = PATIENCE) -> tuple[int, str]:
        """Wait for the end; its code and reason."""
        async with asyncio.timeout(timeout):
            await asyncio.shield(self._listening)
        assert self.end is not None
        return self.end

    async def _find(self, wanted: Any, what: str, timeout: float) -> Json:
        seen = 0
        async with asyncio.timeout(timeout):
            while True:
                for message in self.received[seen:]:
                    if wanted(message):
                        return message
                seen = len(self.received)
                await self._wait(what)

    async def _wait(self, what: str) -> None:
        if self.end is not None:
            raise ConnectionError(f"closed with {self.end} before {what}; received {self.received[-5:]}")
        self._news.clear()
        await self._news.wait()

    async def _listen(self) -> None:
        try:
            async for frame in self._socket:
                assert isinstance(frame, str), "JSON travels in text frames"
                for line in frame.split("\n"):
                    await self._take(json.loads(line))
                self._news.set()
        except websockets.ConnectionClosedError:
            pass
        finally:
            self.end = (self._socket.close_code or 1006, self._socket.close_reason or "")
            self._news.set()

    async def _take(self, message: Json) -> None:
        assert isinstance(message, dict), f"{message!r} is neither a reply nor a push"
        if message:
            self.received.append(message)
            return
        self.pings.append(asyncio.get_running_loop().time())
        if self._answers_pings:
            await self.send("{}")

    # The end

    def abort(self) -> None:
        """Vanish without a close frame."""
        self._socket.transport.abort()

    async def leave(self) -> None:
        """Close, and wait until it is done."""
        await self._socket.close()
        await self._listening


@contextlib.asynccontextmanager
async def client(ws_url: str, **options: Any) -> AsyncIterator[Client]:
    """An open connection on which nothing was sent."""
    opened = await Client.open(ws_url, **options)
    try:
        yield opened
    finally:
        await opened.leave()


@contextlib.asynccontextmanager
async def connected(ws_url: str, *, token: str = "", **options: Any) -> AsyncIterator[Client]:
    """A connection after `connect`, which must have gone well."""
    async with client(ws_url, **options) as opened:
        result = await opened.ask("connect", **({"token": token} if token else {}))
        assert "client" in result, result
        yield opened
