"""A Redis in memory whose network can break: fakeredis, with connections that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from .clock import VirtualClock
from .scope import current

try:
    import fakeredis
    from fakeredis.aioredis import FakeAsyncRedisConnection
except ImportError as _error:  # pragma: no cover
    raise ImportError("hub.testing needs fakeredis: pip install 'broadcast-hub[dev]'") from _error

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["FakeRedisServer"]


class FakeRedisServer:
    """The Redis of a cluster. `client` is a plain redis-py client of the test's own, to look and to change."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._server = fakeredis.FakeServer()
        self._connections: WeakSet[_Connection] = WeakSet()
        # Workers that are cut off, by number; None stands for everybody. With the timer that ends it.
        self._away: dict[int | None, asyncio.TimerHandle | None] = {}
        self.client: fakeredis.FakeAsyncRedis = self.new_client()

    def __repr__(self) -> str:
        away = "away" if None in self._away else f"away for {len(self._away)} workers" if self._away else "there"
        return f"<FakeRedisServer {away}, {sum(1 for _ in self._open())} connections>"

    def new_client(self) -> fakeredis.FakeAsyncRedis:
        """A client whose connections are those of the worker in which they are made."""
        client = fakeredis.FakeAsyncRedis(host="fakeredis", server=self._server, connection_class=_Connection)
        client.connection_pool.connection_kwargs["network"] = self
        return client

    async def drop(self, seconds: float | None = None, *, worker: int | None = None) -> None:
        """Cut all connections, and refuse new ones for so many virtual seconds; None: until `restore`.

        With `worker` only that one is cut off, the others go on. Redis keeps its data. Time does not pass here:
        `await cluster.advance(seconds)` lets it.
        """
        if seconds is not None and seconds < 0:
            raise ValueError(f"seconds must not be negative, and are {seconds}")
        await self._clock.idle()
        self._cancel(worker)
        loop = asyncio.get_running_loop()
        self._away[worker] = None if seconds is None else loop.call_later(seconds, self._away.pop, worker, None)
        self.cut(worker)
        await self._clock.idle()

    def restore(self, worker: int | None = None) -> None:
        """Redis takes connections again, of `worker` or of everybody; those who reconnect do so at their own time."""
        for which in [worker] if worker is not None else list(self._away):
            self._cancel(which)
            self._away.pop(which, None)

    def _cancel(self, worker: int | None) -> None:
        handle = self._away.get(worker)
        if handle is not None:
            handle.cancel()

    def cut(self, worker: int | None) -> None:
        """The connections of one worker, or all."""
        for connection in self._open():
            if worker is None or (connection.worker is not None and connection.worker.number == worker):
                connection.cut()

    def refuses(self, worker: Worker | None) -> bool:
        """Whether this worker cannot connect; a client in a test's body is nobody's."""
        return None in self._away or (worker is not None and (worker.number in self._away or worker.dead))

    def add(self, connection: _Connection) -> None:
        self._connections.add(connection)

    def _open(self) -> Iterator[_Connection]:
        return (connection for connection in list(self._connections) if connection.is_open)


class _Connection(FakeAsyncRedisConnection):
    """Ends when it is cut, as a socket would; fakeredis's own goes on waiting for a server that is not there."""

    def __init__(self, *args: Any, network: FakeRedisServer, **options: Any) -> None:
        super().__init__(*args, **options)
        self._network = network
        self.worker: Worker | None = current.get()
        self._was_cut = False

    async def _connect(self) -> None:
        if self._network.refuses(self.worker):
            raise self._connection_error_class("connection refused: the cluster's Redis is away")
        await super()._connect()
        self._was_cut = False
        self._network.add(self)

    @property
    def is_open(self) -> bool:
        return self._sock is not None

    def cut(self) -> None:
        self._was_cut = True
        socket, self._sock = self._sock, None
        if socket is not None and self._writer is not None:
            self._writer.close()
            socket.close()  # Redis forgets its subscriptions
            socket._response_available.set()  # who waits for a reply looks, and finds no socket

    async def _read_response(self, **options: Any) -> Any:
        response = None if self._was_cut else await super()._read_response(**options)
        if self._was_cut:
            raise self._connection_error_class("the connection was cut")
        return response
