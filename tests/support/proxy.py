"""A TCP proxy in front of Redis whose connections fail one by one, each in its own way. It runs in a thread."""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Seconds for which TCP waits before it sends a lost packet once more, at least.
RETRANSMISSION = 0.2

NAME = re.compile(rb"SETNAME\r\n\$\d+\r\n(\S+)\r\n")


class Connection:
    """One connection through the proxy, known by the name that the client gives itself."""

    def __init__(self, name: str, proxy: Proxy) -> None:
        self.name = name
        self._proxy = proxy
        self.ended = False
        self._loop = asyncio.get_running_loop()
        # Set: what comes is passed on. Clear: nothing is read, so that back-pressure builds up.
        self._flowing = asyncio.Event()
        self._flowing.set()
        # What comes is read and thrown away: to either side the other is there and says nothing.
        self._swallowing = False
        # Towards either side.
        self._writers: list[asyncio.StreamWriter] = []

    def stall(self) -> None:
        self._loop.call_soon_threadsafe(self._flowing.clear)

    async def flows(self) -> None:
        """Wait until it does."""
        await asyncio.sleep(0)  # `stall` takes a turn
        await self._flowing.wait()

    @property
    def swallows(self) -> bool:
        return self._swallowing

    def release(self) -> None:
        """Go on after `stall`."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def reset(self) -> None:
        """Cut it off, from both sides."""
        self._loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        self.ended = True
        self._flowing.set()
        for writer in self._writers:
            writer.transport.abort()

    def blackhole(self) -> None:
        self._swallowing = True

    async def pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, until either side ends."""
        self._writers.append(writer)
        try:
            while data := await reader.read(65536):
                await self._flowing.wait()
                if pause := self._proxy.pause():
                    await asyncio.sleep(pause)
                if not self._swallowing:
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass
        finally:
            self.ended = True
            self._flowing.set()
            writer.close()


class Proxy:
    """Listens on `port`; `route` says to which port a connection of that name leads."""

    def __init__(self, route: Callable[[str], int]) -> None:
        self.route = route
        self.port = 0
        # For everybody: seconds by which each piece is late, and the share of pieces that get lost on the way. TCP
        # repeats these and keeps the order, so they and what comes behind them are late.
        self.latency = self.loss = 0.0
        self._dice = random.Random(1)
        # Names (parts of them) of connections that stall, and whose data is swallowed, new ones too.
        self._stalled: set[str] = set()
        self._swallowed: set[str] = set()
        self._connections: list[Connection] = []
        self._pipes: set[asyncio.Future[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def open(self, name: str = "") -> list[Connection]:
        """The open connections whose name ends with `name`, the oldest first."""
        return [each for each in tuple(self._connections) if each.name.endswith(name) and not each.ended]

    def pause(self) -> float:
        """How much later than usual the next piece is."""
        lost = self.loss > 0 and self._dice.random() < self.loss
        return self.latency + (RETRANSMISSION if lost else 0.0)

    # What lasts, for all connections with `part` in their names, and those to come

    def stall(self, part: str) -> None:
        self._stalled.add(part)
        for each in self._with(part):
            each.stall()

    def blackhole(self, part: str) -> None:
        self._swallowed.add(part)
        for each in self._with(part):
            each.blackhole()

    def release(self, part: str) -> None:
        """All is well again: what was stalled goes on, and what was swallowed is cut off."""
        if part in self._swallowed:
            for each in self._with(part):
                each.reset()
        self._stalled.discard(part)
        self._swallowed.discard(part)
        for each in self._with(part):
            each.release()

    def _with(self, part: str) -> list[Connection]:
        return [each for each in self.open() if part in each.name]

    async def run(self, started: threading.Event) -> None:
        """Serve until `stop`; what is open then is cut off."""
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stopping.wait()
        server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def stop(self) -> None:
        """From another thread."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(65536)
        match = NAME.search(first)  # redis-py gives the name in the first command
        connection = Connection(match.group(1).decode() if match else "", self)
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.route(connection.name))
        except OSError:
            writer.close()
            return
        self._connections.append(connection)
        if any(part in connection.name for part in self._swallowed):
            connection.blackhole()
        elif any(part in connection.name for part in self._stalled):
            connection.stall()
            await connection.flows()
        if not connection.swallows:
            upstream.write(first)
        pipes = (connection.pipe(reader, upstream), connection.pipe(upstream_reader, writer))
        self._pipes.update(asyncio.ensure_future(pipe) for pipe in pipes)


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """A proxy that leads every connection to `port`, unless told otherwise."""
    proxy, started = Proxy(lambda name: port), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.run(started)), name="fault proxy")
    thread.start()
    assert started.wait(5)
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join(5)
