"""What a client of each kind says, and what it makes of what it hears. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DIALECTS", "Dialect", "Heard", "message", "number_of"]

_NUMBER = re.compile(r"#(\d+)#")


def message(number: int, size: int) -> str:
    """The text of a message, of at least `size` characters."""
    return f"#{number}#".ljust(size, ".")


def number_of(payload: str) -> int | None:
    """The number of a message, however it is wrapped."""
    match = _NUMBER.search(payload)
    return int(match.group(1)) if match else None


@dataclass(slots=True)
class Heard:
    """What a frame brings."""

    payloads: list[str] = field(default_factory=list)
    # Frames to send back.
    answers: list[str] = field(default_factory=list)
    # What an application would be told besides.
    told: list[str] = field(default_factory=list)
    # The client is in the room, or is no longer and has to ask again.
    joined: bool | None = None


class Dialect:
    """Plain WebSocket: who is connected is in the room, and a frame is a message."""

    def greeting(self) -> list[str]:
        """What is said after the handshake."""
        return []

    def again(self) -> list[str]:
        """What is said when `Heard.joined` is false."""
        return []

    def take(self, frame: str) -> Heard:
        return Heard([frame])


class SocketIO(Dialect):
    """Socket.IO 5 on Engine.IO 4, by WebSocket alone."""

    def take(self, frame: str) -> Heard:
        if frame.startswith("0"):  # open
            return Heard(answers=["40"])
        if frame == "2":  # ping
            return Heard(answers=["3"])
        if frame.startswith("42"):  # an event
            return Heard([frame])
        if frame.startswith(("41", "44")) or frame == "1":
            return Heard(told=[f"Socket.IO packet {frame[:2]}"])
        return Heard()


class Centrifuge(Dialect):
    """The Centrifuge protocol in JSON; it recovers from its position, as the SDKs do."""

    channel = "room:bench"

    def __init__(self) -> None:
        # Epoch and offset; None before the first reply.
        self.position: tuple[str, int] | None = None
        self._ids = 0

    def greeting(self) -> list[str]:
        return ["\n".join((self._command("connect", {}), *self.again()))]

    def again(self) -> list[str]:
        subscribe: dict[str, Any] = {"channel": self.channel}
        if self.position is not None:
            subscribe |= {"recover": True, "epoch": self.position[0], "offset": self.position[1]}
        return [self._command("subscribe", subscribe)]

    def _command(self, name: str, fields: dict[str, Any]) -> str:
        self._ids += 1
        return json.dumps({"id": self._ids, name: fields})

    def take(self, frame: str) -> Heard:
        heard = Heard()
        for line in frame.splitlines():
            self._take(json.loads(line), heard)
        return heard

    def _take(self, said: dict[str, Any], heard: Heard) -> None:
        push = said.get("push", {})
        if not said:  # a ping
            heard.answers.append("{}")
        elif "pub" in push:
            self._publication(push["pub"], heard)
        elif "unsubscribe" in push:
            heard.told.append(f"unsubscribe {push['unsubscribe']['code']}")
            heard.joined = False
        elif "error" in said:
            heard.told.append(f"error {said['error']['code']}")
            heard.joined = False
        elif "subscribe" in said:
            self._subscribed(said["subscribe"], heard)

    def _subscribed(self, reply: dict[str, Any], heard: Heard) -> None:
        if self.position is not None:
            heard.told.append("recovered: true" if reply.get("recovered") else "recovered: false")
        self.position = (reply["epoch"], reply.get("offset", 0))
        heard.joined = True
        for publication in reply.get("publications", []):
            self._publication(publication, heard)

    def _publication(self, publication: dict[str, Any], heard: Heard) -> None:
        if self.position is not None and "offset" in publication:
            self.position = (self.position[0], max(self.position[1], publication["offset"]))
        heard.payloads.append(str(publication["data"]))


DIALECTS: dict[str, Callable[[], Dialect]] = {"raw": Dialect, "socket.io": SocketIO, "centrifuge": Centrifuge}
