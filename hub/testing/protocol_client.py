"""A thin client of `/connection/websocket`: the Centrifuge client protocol (version 2, JSON) with nothing added.

It answers pings as long as it is not stalled, and neither reconnects nor recovers by itself: a test says when.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, NamedTuple

import msgspec

from .clock import VirtualClock
from .connection import TIMEOUT, Connection, NothingReceived
from .worker import Worker

__all__ = ["ProtocolClient", "Push", "ReplyError"]

_encode, _decode = msgspec.json.encode, msgspec.json.decode


class ReplyError(Exception):
    """A command was refused: `code`, `message`, `temporary`."""

    def __init__(self, command: str, code: int, message: str, temporary: bool) -> None:
        self.code: int = code
        self.message: str = message
        self.temporary: bool = temporary
        super().__init__(f"{command} was refused: {code} {message}")


class Push(NamedTuple):
    """What the server sends unasked: `kind` is "pub", "join", "leave", "unsubscribe", "disconnect", …"""

    channel: str
    kind: str
    body: dict[str, Any]

    @property
    def data(self) -> Any:
        """Of a publication."""
        return self.body.get("data")


class ProtocolClient(Connection):
    """Commands return the result of their reply as it is in JSON; a refused one raises ReplyError.

    Timeouts are in virtual seconds. Commands raise Closed if the connection ends, NothingReceived without a reply.
    """

    def __init__(self, worker: Worker, clock: VirtualClock, path: str) -> None:
        super().__init__(worker, clock, path)
        self._numbers = itertools.count(1)
        self._replies: dict[int, dict[str, Any]] = {}
        # Every push so far; those that nobody has asked for.
        self.pushes: list[Push] = []
        self._waiting: list[Push] = []
        # The result of `connect`, and the id that it has.
        self.connected: dict[str, Any] = {}
        self.id: str = ""

    # Commands

    async def command(self, name: str, timeout: float = TIMEOUT, **fields: Any) -> dict[str, Any]:
        """Any command of the protocol."""
        number = next(self._numbers)
        self._send_to_app({"type": "websocket.receive", "text": _encode({"id": number, name: fields}).decode()})
        self._clock.allow(timeout)
        try:
            async with asyncio.timeout(timeout):
                while number not in self._replies:
                    if self.close_seen is not None:
                        raise self._closed_error()
                    await self._wait()
        except TimeoutError:
            raise NothingReceived(f"{name} had no reply from {self._where} in {timeout:g} s") from None
        return _result(name, self._replies.pop(number))

    async def connect(self, **fields: Any) -> dict[str, Any]:
        """The first command; `Cluster.client` does it."""
        self.connected = await self.command("connect", **fields)
        self.id = self.connected["client"]
        return self.connected

    async def subscribe(self, channel: str, **fields: Any) -> dict[str, Any]:
        """With `recover=True, offset=…, epoch=…` what was missed is in the result's `publications`."""
        return await self.command("subscribe", channel=channel, **fields)

    async def unsubscribe(self, channel: str) -> None:
        await self.command("unsubscribe", channel=channel)

    async def publish(self, channel: str, data: Any) -> None:
        await self.command("publish", channel=channel, data=data)

    async def history(self, channel: str, **fields: Any) -> dict[str, Any]:
        return await self.command("history", channel=channel, **fields)

    async def presence(self, channel: str) -> dict[str, Any]:
        """Who is there, by the id of the client."""
        found: dict[str, Any] = (await self.command("presence", channel=channel)).get("presence", {})
        return found

    async def rpc(self, method: str, data: Any = None) -> Any:
        """What the application's function has returned."""
        return (await self.command("rpc", method=method, data=data)).get("data")

    # Pushes

    async def next_push(self, channel: str | None = None, kind: str | None = None, timeout: float = TIMEOUT) -> Push:
        """The next one, or the next of this channel and kind; those that are passed over wait for their turn.

        Raises NothingReceived, or Closed if the connection has ended without one.
        """
        self._clock.allow(timeout)
        try:
            async with asyncio.timeout(timeout):
                while (found := self._find(channel, kind)) is None:
                    if self.close_seen is not None:
                        raise self._closed_error()
                    await self._wait()
        except TimeoutError:
            wanted = " ".join(filter(None, (kind or "push", channel and f"of {channel!r}")))
            raise NothingReceived(
                f"no {wanted} came to {self._where} in {timeout:g} s; so far: {self.pushes or 'none'}"
            ) from None
        return found

    async def next_publication(self, channel: str | None = None, timeout: float = TIMEOUT) -> Push:
        """`next_push` of kind "pub"; its `data` is what was published."""
        return await self.next_push(channel, "pub", timeout)

    def _find(self, channel: str | None, kind: str | None) -> Push | None:
        for index, push in enumerate(self._waiting):
            if channel in (None, push.channel) and kind in (None, push.kind):
                return self._waiting.pop(index)
        return None

    # What comes

    def _on_message(self, message: str | bytes) -> None:
        text = message if isinstance(message, str) else message.decode()
        for line in filter(None, text.split("\n")):
            self._take(_decode(line))

    def _take(self, reply: dict[str, Any]) -> None:
        if not reply:
            self._tell_app({"type": "websocket.receive", "text": "{}"})  # a ping
        elif "id" in reply:
            self._replies[reply["id"]] = reply
        else:
            push = reply["push"]
            channel = push.pop("channel", "")
            ((kind, body),) = push.items()
            self.pushes.append(Push(channel, kind, body))
            self._waiting.append(self.pushes[-1])


def _result(name: str, reply: dict[str, Any]) -> dict[str, Any]:
    if (error := reply.get("error")) is not None:
        raise ReplyError(name, error["code"], error["message"], error.get("temporary", False))
    result: dict[str, Any] = reply.get(name) or {}
    return result
