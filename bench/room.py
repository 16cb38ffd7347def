"""Sockets in one room, and what is measured on them.

Every message has the same size, so received bytes say how many have arrived. That is checked, not believed: a message
carries its number, which is compared on every 16th socket, and whatever breaks the pattern (a ping, a close frame) is
parsed by its header.
"""

from __future__ import annotations

import select
import socket
import statistics
import time
from typing import Any

from .dialects import NUMBER, Dialect, frame_at
from .measure import cpu_of
from .sockets import TIMEOUT, ready

__all__ = ["Room"]

BUFFER = 1 << 20
# Latency is taken, and the number of the message checked, on every such socket.
SAMPLE = 16
# How long a message may take to reach everybody before another is tried, where not everybody may have subscribed yet.
PATIENCE = 1.0


class Room:
    """The first of the sockets is the publisher."""

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

    def settle(self) -> None:
        """Publish until a message has reached every socket: some servers subscribe only after the handshake."""
        newest, deadline = [-1] * len(self._sockets), time.perf_counter() + TIMEOUT
        while min(newest) < 0:
            self._send(1, time.perf_counter())
            self._hear(newest, time.perf_counter() + PATIENCE)
            if time.perf_counter() > deadline:
                raise TimeoutError(
                    f"{newest.count(-1)} of {len(newest)} sockets have heard nothing of what was published"
                )
        # All are subscribed now, so all will have the last message; a slow server is not given more.
        self._hear(newest, deadline)
        if min(newest) < len(self._sent_at) - 1:
            raise TimeoutError("the first messages did not reach every socket")
        published = len(self._sent_at)
        self._received = [published * self._frame] * len(self._sockets)
        self._arrived, self._done = [len(self._sockets)] * published, published

    def _hear(self, newest: list[int], end: float) -> None:
        """Take in what comes until all have the last message, or until `end`; the newest number of each socket."""
        last = len(self._sent_at) - 1
        while min(newest) < last and (left := end - time.perf_counter()) > 0:
            for fileno, _ in self._epoll.poll(left):
                index = self._index[fileno]
                try:
                    got = self._sockets[index].recv_into(self._buffer)
                except BlockingIOError:
                    continue
                if got := self._unusual(index, got):
                    at = got - self._frame + len(self._head)
                    newest[index] = int(self._buffer[at : at + NUMBER])

    def run(self, window: int, seconds: float, pids: dict[str, int], rate: float = 0.0) -> dict[str, Any]:
        """Keep `window` messages outstanding for `seconds`; the CPU time of `pids` is taken over the same period.

        Where hardly anything has come by then, for longer: a busy machine may stand still for as long as a short run.

        With `rate`, send so many a second instead, evenly, whatever comes back; their latency counts from the time at
        which they were due. A message is done when every socket has it. Latencies are in seconds.
        """
        latencies: list[float] = []
        before, own, first, sent = cpu_of(pids), time.process_time(), self._done, len(self._sent_at)
        deliveries, start = 0, time.perf_counter()
        while (now := time.perf_counter()) < start + seconds or (len(latencies) < 2 and now < start + TIMEOUT):
            if rate:
                wait = self._send_due(start, rate, sent, now)
            else:
                wait = 1.0
                self._send(window - (len(self._sent_at) - self._done), now)
            deliveries += self._receive(latencies, wait)
        took, after = time.perf_counter() - start, cpu_of(pids)
        figures = {
            "seconds": took,
            "messages": self._done - first,
            "deliveries": deliveries,
            "cpu": {name: after[name] - before[name] for name in pids} | {"client": time.process_time() - own},
            **_distribution(latencies),
        }
        self._finish()
        return figures

    def _send_due(self, start: float, rate: float, sent: int, now: float) -> float:
        """Send what is due `now`; seconds until the next one is. `sent` had been sent at the `start`."""
        while (due := start + (len(self._sent_at) - sent) / rate) <= now:
            self._send(1, due)
        return due - now

    def _send(self, count: int, now: float) -> None:
        for _ in range(count):
            frame = self._dialect.publication(len(self._sent_at))
            if self._sockets[0].send(frame) != len(frame):
                raise ConnectionError("the server does not take the publisher's messages")
            self._sent_at.append(now)
            self._arrived.append(0)

    def _receive(self, latencies: list[float], wait: float = 1.0) -> int:
        """Take in what has arrived; the number of deliveries."""
        deliveries, buffer = 0, self._buffer
        received, arrived, sockets = self._received, self._arrived, self._sockets
        size, head = self._frame, self._head
        for fileno, _ in ready(self._epoll, wait):
            index = self._index[fileno]
            try:
                got = sockets[index].recv_into(buffer)
            except BlockingIOError:  # a record of TLS that has not all come
                continue
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
        while (span := frame_at(data, at)) is not None:
            start, end = span
            if data.startswith(self._head, at):
                messages += data[at:end]
            else:
                self._answer(index, data[at], data[start:end])
            at = end
        if at < len(data):
            self._partial[index] = data[at:]
        self._buffer[: len(messages)] = messages
        return len(messages)

    def _answer(self, index: int, first: int, payload: bytes) -> None:
        """Pings are answered, and what the dialect answers."""
        reply = self._dialect.reply(payload)
        if reply is None and first != 0x89:
            raise ConnectionError(f"unexpected frame {first:#x} {payload[:50]!r} under load")
        if reply is None:
            reply = bytes((0x8A, 0x80 | len(payload))) + b"\0\0\0\0" + payload
        self._sockets[index].send(reply)

    def _finish(self) -> None:
        """Wait for what is outstanding, as long as some of it comes."""
        deadline = time.perf_counter() + TIMEOUT
        while self._done < len(self._sent_at):
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{len(self._sent_at) - self._done} messages did not reach every socket")
            if self._receive([]):
                deadline = time.perf_counter() + TIMEOUT


def _distribution(latencies: list[float]) -> dict[str, float]:
    if len(latencies) < 2:
        raise RuntimeError("the server delivered next to nothing")
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98], "max": max(latencies)}
