"""The load: one process with raw sockets and epoll, so that it costs less than the server.

`python -m bench.load` takes commands and answers them, one line of JSON each; `bench.client` is the other end. It is a
process of its own so that neither the progress bar nor a garbage collection of the runner gets into the figures.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from .comeback import Comeback
from .dialects import DIALECTS, PAYLOAD
from .measure import raise_file_limit
from .publishers import Publishers
from .room import Room
from .sockets import open_sockets
from .spread import Spread

__all__ = ["Load"]


class Load:
    """The commands. What they open stays open until `close`."""

    def __init__(self) -> None:
        self._idle: list[socket.socket] = []
        self._room: Room | None = None
        self._spread: Spread | None = None
        self._publishers: Publishers | None = None
        self._comeback: Comeback | None = None

    def idle(self, port: int, path: str, count: int, dialect: str) -> None:
        """Open sockets and leave them alone."""
        self._idle += open_sockets(port, path, count, DIALECTS[dialect](PAYLOAD))

    def room(
        self, port: int, path: str, count: int, dialect: str, payload: int, publish_port: int | None, tls: bool
    ) -> None:
        """Open sockets for `run`."""
        spoken = DIALECTS[dialect](payload)
        publisher = open_sockets(publish_port or port, path, 1, spoken, tls=tls)
        self._room = Room(publisher + open_sockets(port, path, count - 1, spoken, tls=tls), spoken)
        self._room.settle()

    def run(self, window: int, seconds: float, pids: dict[str, int], rate: float) -> dict[str, Any]:
        assert self._room is not None
        return self._room.run(window, seconds, pids, rate)

    def spread(self, port: int, path: str, publish_port: int, channels: int, sockets: int) -> None:
        """Open sockets for `rounds`."""
        self._spread = Spread(port, path, publish_port, channels, sockets)

    def rounds(self, deliveries: int, seconds: float, pids: dict[str, int]) -> dict[str, Any]:
        assert self._spread is not None
        return self._spread.run(deliveries, seconds, pids)

    def publishers(self, port: int, path: str, count: int) -> None:
        """Open sockets for `publish`."""
        self._publishers = Publishers(port, path, count)

    def publish(self, window: int, seconds: float, pids: dict[str, int]) -> dict[str, Any]:
        assert self._publishers is not None
        return self._publishers.run(window, seconds, pids)

    def leave(self, port: int, path: str, clients: int, channels: int, missed: int) -> None:
        """Have clients miss something."""
        self._comeback = Comeback(clients, channels)
        self._comeback.leave(port, path, missed)

    def connect(self, port: int, path: str) -> None:
        """Have them connected again, not yet subscribed."""
        assert self._comeback is not None
        self._comeback.connect(port, path)

    def recover(self) -> dict[str, float]:
        assert self._comeback is not None
        return self._comeback.recover()

    def close(self) -> None:
        """Close all sockets, before the server is stopped."""
        for opened in (self._room, self._spread, self._publishers, self._comeback):
            if opened is not None:
                opened.close()
        for sock in self._idle:
            sock.close()


COMMANDS = ("idle", "room", "run", "spread", "rounds", "publishers", "publish", "leave", "connect", "recover", "close")


def main() -> None:
    """Obey until the end of standard input."""
    raise_file_limit()
    # Nothing here makes cycles, and a collection would be a pause in the middle of the latencies.
    gc.disable()
    load = Load()
    commands: dict[str, Callable[..., Any]] = {name: getattr(load, name) for name in COMMANDS}
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            reply = {"result": commands[name](**arguments)}
        except (OSError, RuntimeError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        os.write(1, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main()
