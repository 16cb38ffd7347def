"""Many channels: every subscription gets its message, then the next round begins."""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections.abc import Sequence
from typing import Any

from .dialects import PAYLOAD, Centrifuge, Raw
from .measure import cpu_of
from .sockets import TIMEOUT, open_sockets, ready
from .talk import Talker, frames_of, numbered

__all__ = ["Spread"]

# Listeners that are let in at the same time.
BATCH = 32
# Clients that publish side by side. The hub takes 16 commands of each in a turn of its loop; what it sends to Redis in
# one turn is read by the measured worker in one.
PUBLISHERS = 16


class Spread:
    """`channels` channels, spread over `sockets` listeners, or these over them; whichever are more.

    They listen on `port`. Clients that listen to nothing publish on `publish_port`.
    """

    def __init__(self, port: int, path: str, publish_port: int, channels: int, sockets: int) -> None:
        names = [f"c{number:06}" for number in range(channels)]
        self._publishers = open_sockets(publish_port, path, PUBLISHERS, Raw())
        clients = [Talker(sock).ask({"connect": {}})[0]["connect"]["client"] for sock in self._publishers]
        self._arrival = Centrifuge()
        self._arrival.channel = names[0]
        self._arrival.expect(clients[0])
        self._listeners: list[socket.socket] = []
        while (first := len(self._listeners)) < sockets:
            # Let in at once: nobody may be silent for long.
            batch = open_sockets(port, path, min(BATCH, sockets - first), Raw())
            _let_in(batch, [_channels_of(first + at, sockets, names) for at in range(len(batch))])
            self._listeners += batch
        # All of them, and the listeners of each.
        self._names, self._members = names, max(1, sockets // channels)
        self._publishing = {sock.fileno(): sock for sock in self._publishers}
        self._by_fileno = {sock.fileno(): sock for sock in self._listeners}
        self._buffer = bytearray(1 << 20)
        self._epoll = select.epoll()
        for sock in (*self._publishers, *self._listeners):
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def close(self) -> None:
        self._epoll.close()
        for sock in (*self._publishers, *self._listeners):
            sock.close()

    def run(self, deliveries: int, seconds: float, pids: dict[str, int]) -> dict[str, Any]:
        """Rounds of so many deliveries; the CPU time of `pids` is taken over the same period."""
        publications = max(1, deliveries // self._members)
        turn = itertools.cycle(self._names)
        rounds, before, start = 0, cpu_of(pids), time.perf_counter()
        while time.perf_counter() < start + seconds:
            self._round([next(turn) for _ in range(publications)])
            rounds += 1
        took, after = time.perf_counter() - start, cpu_of(pids)
        return {
            "seconds": took,
            "deliveries": rounds * publications * self._members,
            "publications": rounds * publications,
            "cpu": {name: after[name] - before[name] for name in pids},
        }

    def _round(self, channels: Sequence[str]) -> None:
        """Publish once in each, and wait until everybody has what is his."""
        wanted = len(channels) * self._members * self._arrival.frame
        data = "." * PAYLOAD
        commands = [{"id": 1, "publish": {"channel": name, "data": data}} for name in channels]
        shares = [frames_of(commands[at::PUBLISHERS]) for at in range(min(PUBLISHERS, len(commands)))]
        got, deadline = 0, time.perf_counter() + TIMEOUT
        for frames in itertools.zip_longest(*shares, fillvalue=b""):
            for sock, frame in zip(self._publishers, frames, strict=False):
                sock.sendall(frame)
            got += self._receive(0)
        while got < wanted:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{(wanted - got) // self._arrival.frame} messages did not arrive")
            got += self._receive(1)
        if got != wanted:
            raise ConnectionError(f"{got} bytes arrived in the place of {wanted}")

    def _receive(self, wait: float) -> int:
        """Take in what has arrived; how many bytes of messages."""
        total = 0
        for fileno, _ in ready(self._epoll, wait):
            if publisher := self._publishing.get(fileno):
                self._hear_replies(publisher)
                continue
            got = self._by_fileno[fileno].recv_into(self._buffer)
            if not got:
                raise ConnectionError("the server closed a connection under load")
            total += got
        return total

    def _hear_replies(self, publisher: socket.socket) -> None:
        replies = publisher.recv_into(self._buffer)
        if not replies or b'"error"' in self._buffer[:replies]:
            raise ConnectionError(f"a publisher is told {bytes(self._buffer[:replies])[:200]!r}")


def _channels_of(listener: int, listeners: int, names: Sequence[str]) -> Sequence[str]:
    return names[listener::listeners] if listeners < len(names) else [names[listener % len(names)]]


def _let_in(listeners: Sequence[socket.socket], channels: Sequence[Sequence[str]]) -> None:
    talkers = [Talker(sock) for sock in listeners]
    for talker, mine in zip(talkers, channels, strict=True):
        commands: list[dict[str, Any]] = [{"connect": {}}]
        commands += [{"subscribe": {"channel": name}} for name in mine]
        talker.say(*numbered(commands))
    for talker, mine in zip(talkers, channels, strict=True):
        talker.hear(1 + len(mine))
