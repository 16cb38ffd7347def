"""Clients that were away come back all at once, and recover what they missed."""

from __future__ import annotations

import socket
import time
from typing import Any

from .dialects import PAYLOAD, Raw
from .sockets import open_sockets
from .talk import Talker

__all__ = ["Comeback"]

# Clients that connect at the same time; they recover all at once.
BATCH = 32


class Comeback:
    """`clients` in `channels` channels that keep a history."""

    def __init__(self, clients: int, channels: int) -> None:
        self._channels = [f"kept:c{number}" for number in range(channels)]
        self._wanted = [self._channels[number % channels] for number in range(clients)]
        # By channel: where its clients left.
        self._positions: dict[str, dict[str, Any]] = {}
        self._missed = 0
        self._opened: list[socket.socket] = []

    def close(self) -> None:
        for sock in self._opened:
            sock.close()

    def leave(self, port: int, path: str, missed: int) -> None:
        """Learn the positions from a worker, and publish so much in each channel afterwards."""
        (sock,) = open_sockets(port, path, 1, Raw())
        talker = Talker(sock)
        talker.ask({"connect": {}})
        for channel in self._channels:
            talker.ask({"publish": {"channel": channel, "data": "the first"}})
            (reply,) = talker.ask({"subscribe": {"channel": channel}})
            self._positions[channel] = {"epoch": reply["subscribe"]["epoch"], "offset": reply["subscribe"]["offset"]}
            talker.ask({"unsubscribe": {"channel": channel}})
            talker.ask(*({"publish": {"channel": channel, "data": "." * PAYLOAD}} for _ in range(missed)))
        self._missed = missed
        sock.close()

    def connect(self, port: int, path: str) -> None:
        """Every client is connected, and subscribed to nothing."""
        while (left := len(self._wanted) - len(self._opened)) > 0:
            batch = open_sockets(port, path, min(BATCH, left), Raw())
            for sock in batch:
                Talker(sock).ask({"connect": {}})
            self._opened += batch

    def recover(self) -> dict[str, float]:
        """All at once. Raises ConnectionError unless everybody gets all that he missed."""
        start, talkers = time.perf_counter(), [Talker(sock) for sock in self._opened]
        for talker, channel in zip(talkers, self._wanted, strict=True):
            subscribe = {"channel": channel, "recover": True, **self._positions[channel]}
            talker.say({"id": 2, "subscribe": subscribe})
        for talker in talkers:
            (reply,) = talker.hear(1)
            got, recovered = len(reply["subscribe"].get("publications", ())), reply["subscribe"].get("recovered")
            if got != self._missed or not recovered:
                raise ConnectionError(f"{got} of {self._missed} publications were recovered")
        return {"seconds": time.perf_counter() - start}
