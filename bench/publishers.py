"""Publishers that are each alone in a room, and so hear only themselves."""

from __future__ import annotations

import select
import time
from typing import Any

from .dialects import Raw
from .measure import cpu_of
from .sockets import open_sockets

__all__ = ["Publishers"]


class Publishers:
    """`count` of them in as many raw rooms, below `path`."""

    def __init__(self, port: int, path: str, count: int) -> None:
        self._dialect = Raw()
        self._sockets = [open_sockets(port, f"{path}-{number}", 1, self._dialect)[0] for number in range(count)]
        self._by_fileno = {sock.fileno(): index for index, sock in enumerate(self._sockets)}
        self._received = [0] * count
        self._sent = [0] * count
        self._buffer = bytearray(1 << 20)
        self._epoll = select.epoll()
        for sock in self._sockets:
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def close(self) -> None:
        self._epoll.close()
        for sock in self._sockets:
            sock.close()

    def run(self, window: int, seconds: float, pids: dict[str, int]) -> dict[str, Any]:
        """Each keeps `window` messages outstanding; the CPU time of `pids` is taken over the same period."""
        for index in range(len(self._sockets)):
            self._publish(index, window)
        came, before, start = 0, cpu_of(pids), time.perf_counter()
        while time.perf_counter() < start + seconds:
            for fileno, _ in self._epoll.poll(1):
                index = self._by_fileno[fileno]
                messages = self._receive(index)
                self._publish(index, messages)
                came += messages
        took, after = time.perf_counter() - start, cpu_of(pids)
        return {"seconds": took, "publications": came, "cpu": {name: after[name] - before[name] for name in pids}}

    def _publish(self, index: int, count: int) -> None:
        frames = (self._dialect.publication(self._sent[index] + number) for number in range(count))
        self._sockets[index].sendall(b"".join(frames))
        self._sent[index] += count

    def _receive(self, index: int) -> int:
        """How many messages have become whole."""
        got = self._sockets[index].recv_into(self._buffer)
        if not got:
            raise ConnectionError("the server closed a connection under load")
        before = self._received[index] // self._dialect.frame
        self._received[index] += got
        return self._received[index] // self._dialect.frame - before
