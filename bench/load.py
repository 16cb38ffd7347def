"""The load: one process with raw sockets and epoll, so that it costs less than the server.

`python -m bench.load` takes commands and answers them, one line of JSON each; `bench.client` is the other end. It is a
process of its own so that neither the progress bar nor a garbage collection of the runner gets into the figures.

Every message has the same size, so received bytes say how many have arrived. That is checked, not believed: a message
carries its number, which is compared on every 16th socket, and whatever breaks the pattern (a ping, a close frame) is
parsed by its header.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from .dialects import DIALECTS, NUMBER, Centrifuge, Raw
from .measure import cpu_seconds, raise_file_limit

__all__ = ["Room"]

BUFFER = 1 << 20
# Latency is taken, and the number of the message checked, on every such socket.
SAMPLE = 16
# Handshakes that wait for their answer at the same time.
BATCH = 32
REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TIMEOUT = 30.0


Dialect = Raw | Centrifuge


def open_sockets(port: int, path: str, count: int, dialect: Dialect) -> list[socket.socket]:
    """`count` WebSockets that hear what is published."""
    request = REQUEST.format(path=path, port=port).encode()
    opened: list[socket.socket] = []
    while len(opened) < count:
        batch = [_request(port, request) for _ in range(min(BATCH, count - len(opened)))]
        for sock in batch:
            _await_handshake(sock)
            dialect.greet(sock)
        opened += batch
    return opened


def _request(port: int, request: bytes) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(request)
    return sock


def _await_handshake(sock: socket.socket) -> None:
    answer = b""
    while b"\r\n\r\n" not in answer:
        if not (part := sock.recv(4096)):
            break
        answer += part
    if not answer.startswith(b"HTTP/1.1 101") or not answer.endswith(b"\r\n\r\n"):
        raise ConnectionError(f"the handshake failed: {answer[:200]!r}")


class Room:
    """Sockets in one room; the first of them is the publisher."""

    def __init__(self, sockets: list[socket.socket], dialect: Dialect) -> None:
        self._sockets = sockets
        self._dialect = dialect
        # How a message begins, and its size.
        self._head, self._frame = dialect.head, dialect.frame
        self._epoll = select.epoll()
        self._index = {sock.fileno(): index for index, sock in enumerate(sockets)}
        for sock in sockets:
            sock.setblocking(False)
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        # By socket: how many bytes of messages have arrived.
        self._received = [0] * len(sockets)
        # By socket: the beginning of a frame, where the fixed pattern was left.
        self._partial: dict[int, bytes] = {}
        self._buffer = bytearray(BUFFER)
        # By message: when it was sent, and how many sockets have it.
        self._sent_at: list[float] = []
        self._arrived: list[int] = []
        # Messages that every socket has.
        self._done = 0

    def close(self) -> None:
        self._epoll.close()
        for sock in self._sockets:
            sock.close()

    def run(self, window: int, seconds: float, pids: dict[str, int]) -> dict[str, Any]:
        """Keep `window` messages outstanding for `seconds`; the CPU time of `pids` is taken over the same period.

        A message is done when every socket has it. Latencies are in seconds.
        """
        latencies: list[float] = []
        before, own, first = _cpu(pids), time.process_time(), self._done
        deliveries, start = 0, time.perf_counter()
        while (now := time.perf_counter()) < start + seconds:
            self._send(window - (len(self._sent_at) - self._done), now)
            deliveries += self._receive(latencies)
        took, after = time.perf_counter() - start, _cpu(pids)
        figures = {
            "seconds": took,
            "messages": self._done - first,
            "deliveries": deliveries,
            "cpu": {name: after[name] - before[name] for name in pids} | {"client": time.process_time() - own},
            **_distribution(latencies),
        }
        self._finish()
        return figures

    def _send(self, count: int, now: float) -> None:
        for _ in range(count):
            frame = self._dialect.publication(len(self._sent_at))
            if self._sockets[0].send(frame) != len(frame):
                raise ConnectionError("the server does not take the publisher's messages")
            self._sent_at.append(now)
            self._arrived.append(0)

    def _receive(self, latencies: list[float]) -> int:
        """Take in what has arrived; the number of deliveries."""
        deliveries, buffer = 0, self._buffer
        received, arrived, sockets = self._received, self._arrived, self._sockets
        size, head = self._frame, self._head
        for fileno, _ in self._epoll.poll(1.0, len(sockets)):
            index = self._index[fileno]
            got = sockets[index].recv_into(buffer)
            if not got or got % size or not buffer.startswith(head):
                got = self._unusual(index, got)
            before = received[index] // size
            received[index] += got
            after = received[index] // size
            deliveries += after - before
            for message in range(before, after):
                arrived[message] += 1
            if not index % SAMPLE and after > before:
                self._sample(before, after, latencies)
        while self._done < len(arrived) and arrived[self._done] == len(sockets):
            self._done += 1
        return deliveries

    def _sample(self, first: int, end: int, latencies: list[float]) -> None:
        now = time.perf_counter()
        latencies.extend(now - self._sent_at[message] for message in range(first, end))
        number = self._buffer[len(self._head) : len(self._head) + NUMBER]
        if self._buffer.startswith(self._head) and int(number) != first:
            raise ConnectionError(f"message {int(number)} arrived in the place of message {first}")

    def _unusual(self, index: int, got: int) -> int:
        """Parse what is not a row of whole messages; how many bytes of it are whole messages.

        Those messages alone are left in the buffer, for `_sample`.
        """
        if not got:
            raise ConnectionError("the server closed a connection under load")
        data = self._partial.pop(index, b"") + bytes(self._buffer[:got])
        messages, at = b"", 0
        while len(data) - at >= 2:
            start, size = at + 2, data[at + 1]
            if size == 126:
                start, size = at + 4, int.from_bytes(data[at + 2 : at + 4], "big")
            if start + size > len(data):
                break
            if data.startswith(self._head, at):
                messages += data[at : start + size]
            else:
                self._answer(index, data[at], data[start : start + size])
            at = start + size
        if at < len(data):
            self._partial[index] = data[at:]
        self._buffer[: len(messages)] = messages
        return len(messages)

    def _answer(self, index: int, first: int, payload: bytes) -> None:
        """Pings are answered."""
        if self._dialect.expects(payload):
            return
        if first != 0x89:
            raise ConnectionError(f"unexpected frame {first:#x} {payload[:50]!r} under load")
        self._sockets[index].send(bytes((0x8A, 0x80 | len(payload))) + b"\0\0\0\0" + payload)

    def _finish(self) -> None:
        """Wait for what is outstanding."""
        deadline = time.perf_counter() + TIMEOUT
        while self._done < len(self._sent_at):
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{len(self._sent_at) - self._done} messages did not reach every socket")
            self._receive([])


def _cpu(pids: dict[str, int]) -> dict[str, float]:
    return {name: cpu_seconds(pid) for name, pid in pids.items()}


def _distribution(latencies: list[float]) -> dict[str, float]:
    if len(latencies) < 2:
        raise RuntimeError("the server delivered next to nothing")
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98], "max": max(latencies)}


class Load:
    """The commands."""

    def __init__(self) -> None:
        self._idle: list[socket.socket] = []
        self._room: Room | None = None

    def idle(self, port: int, path: str, count: int, dialect: str) -> None:
        """Open sockets and leave them alone."""
        self._idle += open_sockets(port, path, count, DIALECTS[dialect]())

    def room(self, port: int, path: str, count: int, dialect: str) -> None:
        """Open sockets for `run`."""
        spoken = DIALECTS[dialect]()
        self._room = Room(open_sockets(port, path, count, spoken), spoken)

    def run(self, window: int, seconds: float, pids: dict[str, int]) -> dict[str, Any]:
        assert self._room is not None
        return self._room.run(window, seconds, pids)

    def close(self) -> None:
        """Close all sockets, before the server is stopped."""
        if self._room is not None:
            self._room.close()
        for sock in self._idle:
            sock.close()


def main() -> None:
    """Obey until the end of standard input."""
    raise_file_limit()
    # Nothing here makes cycles, and a collection would be a pause in the middle of the latencies.
    gc.disable()
    load = Load()
    commands: dict[str, Callable[..., Any]] = {
        "idle": load.idle,
        "room": load.room,
        "run": load.run,
        "close": load.close,
    }
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            reply = {"result": commands[name](**arguments)}
        except (OSError, RuntimeError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        os.write(1, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main()
