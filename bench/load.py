"""The load: raw sockets and epoll, so that the client costs less than the server."""

from __future__ import annotations

import os
import select
import socket
import time
from dataclasses import dataclass, field

__all__ = ["PAYLOAD", "Fanout", "Room"]

PAYLOAD = 128
# What the server sends for one message: an unmasked text frame with a 16-bit length.
FRAME = 4 + PAYLOAD
_BUFFER = 1 << 18
# Latency is taken on every such socket.
_SAMPLE = 16


def _client_frame(payload: bytes) -> bytes:
    """A masked text frame; a mask of zeros leaves the payload as it is."""
    return b"\x81\xfe" + len(payload).to_bytes(2, "big") + b"\0\0\0\0" + payload


def connect(port: int, path: str) -> socket.socket:
    """A WebSocket after its handshake."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        if not (part := sock.recv(4096)):
            raise ConnectionError(f"handshake failed: {answer[:200]!r}")
        answer += part
    if not answer.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(f"handshake failed: {answer[:200]!r}")
    return sock


@dataclass
class Fanout:
    """One measured period."""

    messages: int = 0
    deliveries: int = 0
    seconds: float = 0.0
    # The client's own; near `seconds` it would be the bottleneck.
    client_cpu: float = 0.0
    # Seconds from the sending to the arrival, on every 16th socket.
    latencies: list[float] = field(default_factory=list)


class Room:
    """`size` sockets in one room; the first of them is the publisher."""

    def __init__(self, port: int, size: int, path: str = "/ws/bench") -> None:
        self._sockets = [connect(port, path) for _ in range(size)]
        self._epoll = select.epoll()
        self._received = [0] * size
        self._index = {}
        for index, sock in enumerate(self._sockets):
            sock.setblocking(False)
            self._index[sock.fileno()] = index
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._buffer = bytearray(_BUFFER)
        # By message: when it was sent, and how many sockets have it.
        self._sent_at: list[float] = []
        self._arrived: list[int] = []
        self._done = 0

    def close(self) -> None:
        self._epoll.close()
        for sock in self._sockets:
            sock.close()

    def run(self, window: int, seconds: float) -> Fanout:
        """Keep `window` messages outstanding for `seconds`; a message is done when every socket has it."""
        result = Fanout()
        start, cpu, first = time.perf_counter(), time.process_time(), self._done
        end = start + seconds
        while (now := time.perf_counter()) < end:
            self._send(window - (len(self._sent_at) - self._done), now)
            result.deliveries += self._receive(result.latencies)
        result.messages = self._done - first
        result.seconds, result.client_cpu = time.perf_counter() - start, time.process_time() - cpu
        self._finish()
        return result

    def _send(self, count: int, now: float) -> None:
        for _ in range(count):
            self._sent_at.append(now)
            self._arrived.append(0)
            self._sockets[0].send(_client_frame(os.urandom(PAYLOAD // 2).hex().encode()))

    def _receive(self, latencies: list[float]) -> int:
        """Take in what has arrived; the number of deliveries."""
        deliveries, size = 0, len(self._sockets)
        received, arrived, buffer = self._received, self._arrived, self._buffer
        for fileno, _ in self._epoll.poll(1.0):
            index = self._index[fileno]
            got = self._sockets[index].recv_into(buffer)
            if not got:
                raise ConnectionError("the server closed a connection under load")
            before = received[index] // FRAME
            received[index] += got
            after = received[index] // FRAME
            deliveries += after - before
            for message in range(before, after):
                arrived[message] += 1
            if not index % _SAMPLE:
                now = time.perf_counter()
                latencies.extend(now - self._sent_at[message] for message in range(before, after))
        while self._done < len(arrived) and arrived[self._done] == size:
            self._done += 1
        return deliveries

    def _finish(self) -> None:
        """Wait for what is outstanding, outside of the measured period."""
        deadline = time.perf_counter() + 30
        while self._done < len(self._sent_at):
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{len(self._sent_at) - self._done} messages did not reach every socket")
            self._receive([])
