"""One connection of the Centrifuge protocol, blocking, for what is said beside the measured messages."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from typing import Any

from .dialects import client_frame, frame_at

__all__ = ["Talker", "frames_of", "numbered"]

# Of one frame; the hub takes 65,536 bytes.
LARGEST = 60000


def frames_of(commands: Iterable[dict[str, Any]]) -> list[bytes]:
    """The commands in as few frames as a server takes."""
    frames, lines, size = [], list[bytes](), 0
    for line in (json.dumps(command, separators=(",", ":")).encode() for command in commands):
        if lines and size + len(line) > LARGEST:
            frames.append(client_frame(b"\n".join(lines)))
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    return [*frames, client_frame(b"\n".join(lines))]


def numbered(commands: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """With the ids 1, 2, …"""
    return [{"id": number, **command} for number, command in enumerate(commands, 1)]


class Talker:
    """Says commands and hears replies; pushes are passed over."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        # What has come of the next frame.
        self._data = b""

    def say(self, *commands: dict[str, Any]) -> None:
        for frame in frames_of(commands):
            self.sock.sendall(frame)

    def hear(self, count: int) -> list[dict[str, Any]]:
        """The next `count` replies. Raises ConnectionError if one is an error."""
        replies: list[dict[str, Any]] = []
        while len(replies) < count:
            for line in self._payload().splitlines():
                said = json.loads(line)
                if "error" in said:
                    raise ConnectionError(f"the server refuses a command: {said['error']}")
                if "id" in said:
                    replies.append(said)
        return replies

    def ask(self, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        """Say them, with ids; their replies."""
        self.say(*numbered(commands))
        return self.hear(len(commands))

    def _payload(self) -> bytes:
        """Of the next text frame. Pings go without an answer: nothing here takes as long as a server waits for one."""
        while True:
            while (span := frame_at(self._data, 0)) is None:
                if not (part := self.sock.recv(65536)):
                    raise ConnectionError("the server closed a connection")
                self._data += part
            first, payload, self._data = self._data[0], self._data[span[0] : span[1]], self._data[span[1] :]
            if first == 0x88:
                raise ConnectionError(f"the server ends a conversation: {payload[:100]!r}")
            if first == 0x81:
                return payload
