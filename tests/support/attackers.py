"""Clients that mean no good, thousands at a time: each remembers what it got and whether the server has ended it."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable

from .sockets import connect


class Attacker:
    """One connection."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.sock = connect(port, receive_buffer=receive_buffer)
        self.got = b""
        self.ended = False
        # Seconds from its beginning to its end, once it is ended.
        self.lasted = 0.0
        self._since = time.monotonic()

    def send(self, data: bytes) -> None:
        """All of it, if the server takes it."""
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(data)

    def read(self) -> None:
        """What has arrived; waits for something."""
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        self.got += data
        if not data:
            self.ended = True
            self.lasted = time.monotonic() - self._since

    def reset(self) -> None:
        """End without a farewell."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def allow_many_sockets() -> None:
    """For this process and its children."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def watch(attackers: Iterable[Attacker], timeout: float, done: Callable[[Attacker], bool]) -> list[Attacker]:
    """Read from all until each is ended or `done`; those that are neither after `timeout` seconds."""
    waiting = {attacker.sock.fileno(): attacker for attacker in attackers if not attacker.ended and not done(attacker)}
    deadline = time.monotonic() + timeout
    with select.epoll() as epoll:
        for fileno in waiting:
            epoll.register(fileno, select.EPOLLIN)
        while waiting and time.monotonic() < deadline:
            for fileno, _ in epoll.poll(0.1):
                attacker = waiting[fileno]
                attacker.read()
                if attacker.ended or done(attacker):
                    epoll.unregister(fileno)
                    del waiting[fileno]
    return list(waiting.values())
