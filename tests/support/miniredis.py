"""A Redis of a few lines inside the test's event loop, for virtual time: it can be down, frozen, deaf or choosy."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from typing import Any

import hiredis

from hub.errors import BrokerUnavailable
from hub.redis_link import LinkHandler, Pool, Server

# Of a connection, in seconds.
LATENCY = 0.01


class MiniLink:
    """One connection, from both sides; implements `hub.redis_link.Link`."""

    def __init__(self, server: MiniRedis, handler: LinkHandler, role: str) -> None:
        self._server, self._handler = server, handler
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader()
        self._pending: deque[list[bytes]] = deque()
        self.role = role
        self.server = Server(False, server.lineage)
        self.lost = False
        # Half-open: what is sent goes nowhere, and nothing comes.
        self.frozen = False
        # Congested, if not None: what should come waits here.
        self.held: list[Any] | None = None
        # Everything that was written, one entry a write.
        self.writes: list[bytes] = []

    def send(self, packed: bytes) -> None:
        if self.lost:
            return
        self.writes.append(packed)
        self._parser.feed(packed)
        while (command := self._parser.gets()) is not False:
            self._pending.append(command)
        self._loop.call_soon(self.serve)

    def abort(self) -> None:
        self._loop.call_soon(self.lose)

    def lose(self) -> None:
        """The connection breaks."""
        if not self.lost:
            self.lost = True
            self._server.forget(self)
            self._handler.on_lost(ConnectionResetError("reset by peer"))

    def serve(self) -> None:
        """Answer what has come, unless the server or this connection is frozen."""
        while self._pending and not (self.lost or self.frozen or self._server.frozen):
            self._server.execute(self, self._pending.popleft())

    def tell(self, reply: Any) -> None:
        """A reply or a push."""
        if self.held is not None:
            self.held.append(reply)
        elif not (self.lost or self.frozen):
            self._handler.on_reply(reply)

    def release(self) -> None:
        """What was held comes at once, in order."""
        held, self.held = self.held or [], None
        for reply in held:
            self.tell(reply)


class MiniRedis:
    """PUBLISH, SUBSCRIBE, UNSUBSCRIBE, PING, SCRIPT, and leases; `open_link` takes that of `hub.pubsub.open_link`."""

    def __init__(self) -> None:
        self.links: list[MiniLink] = []
        self.channels: defaultdict[bytes, list[MiniLink]] = defaultdict(list)
        # (time, role) of each attempt to connect.
        self.attempts: list[tuple[float, str]] = []
        # What is wrong: connections refused; no answer at all; commands refused; publications that go astray.
        self.down = False
        self.frozen = False
        self.refused: dict[bytes, str] = {}
        self.deaf = False
        # How often each command came, with its first argument.
        self.counts: Counter[bytes] = Counter()
        # What INFO says, if it says anything.
        self.lineage, self.info = b"", b""

    async def open_link(self, pool: Pool, handler: LinkHandler, timeout: float) -> MiniLink:
        role = pool.connection_kwargs["client_name"].rpartition("-")[2]
        self.attempts.append((asyncio.get_running_loop().time(), role))
        if self.down:
            raise BrokerUnavailable("cannot connect: refused")
        if self.frozen:
            await asyncio.sleep(timeout)
            raise BrokerUnavailable("cannot connect: no answer")
        await asyncio.sleep(LATENCY)
        link = MiniLink(self, handler, role)
        self.links.append(link)
        return link

    def link(self, role: str) -> MiniLink:
        """The present connection of that role."""
        return next(link for link in self.links if link.role == role)

    def kill(self) -> None:
        """The server dies, and all connections with it."""
        self.down = True
        for link in tuple(self.links):
            link.lose()

    def thaw(self) -> None:
        """Go on where the freeze began."""
        self.frozen = False
        for link in tuple(self.links):
            link.serve()

    def forget(self, link: MiniLink) -> None:
        self.links.remove(link)
        for subscribers in self.channels.values():
            if link in subscribers:
                subscribers.remove(link)

    def execute(self, link: MiniLink, command: list[bytes]) -> None:
        name, *arguments = command
        self.counts[b" ".join(command[:2])] += 1
        if name in self.refused:
            link.tell(hiredis.ReplyError(self.refused[name]))
        elif name == b"PUBLISH":
            self._publish(*arguments)
            link.tell(1)
        elif name == b"PING":
            link.tell([b"pong", b""] if link.role == "feed" else b"PONG")
        elif name == b"INFO":
            link.tell(self.info)
        elif name == b"SCRIPT":
            link.tell(b"digest")
        elif name == b"EVALSHA":
            # Leases of presence, known by the number of arguments: renew, reap, take, and claim (there is none).
            link.tell({5: [b"kept", 60_000, b""], 6: 0, 7: b"", 8: b""}[len(arguments)])
        else:
            for channel in arguments:
                change = list.append if name == b"SUBSCRIBE" else list.remove
                change(self.channels[channel], link)
                link.tell([name.lower(), channel, 1])

    def _publish(self, channel: bytes, payload: bytes) -> None:
        if not self.deaf:
            for link in tuple(self.channels[channel]):
                link.tell([b"message", channel, payload])
