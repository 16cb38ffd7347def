"""A protocol client of a few lines that shows a test what came over the wire."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

# Of tests/sdk/hub.toml. Too short for PyJWT, which warns.
SECRET = b"secret"


def token(**claims: Any) -> str:
    """A JWT as an application's server would issue it."""
    parts = [_base64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "HS256"}, claims)]
    signature = hmac.digest(SECRET, ".".join(parts).encode(), hashlib.sha256)
    return ".".join([*parts, _base64(signature)])


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Session:
    """A connection that has sent `connect`."""

    def __init__(self, socket: ClientConnection, claims: dict[str, Any]) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        # Pushes that came while something else was waited for, oldest first.
        self._pushes: list[dict[str, Any]] = []
        self.connected = self.ask("connect", **({"token": token(**claims)} if claims else {}))
        self.client: str = self.connected["client"]

    def ask(self, command: str, **fields: Any) -> Any:
        """The result of a command, or its `error`."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, command: fields}))
        while True:
            for message in self._receive():
                if message.get("id") == number:
                    return message[command] if command in message else message["error"]

    def push(self, kind: str, channel: str = "") -> Any:
        """The next push of this kind, in this channel if one is given; others before it are left for later."""
        while True:
            for push in self._pushes:
                if kind in push and (not channel or push["channel"] == channel):
                    self._pushes.remove(push)
                    return push[kind]
            for _ in self._receive():
                pass

    def closed(self) -> tuple[int, str]:
        """Wait for the server to close; code and reason."""
        with suppress(ConnectionClosed):
            while True:
                for _ in self._receive():
                    pass
        return self._socket.protocol.close_code or 0, self._socket.protocol.close_reason or ""

    def _receive(self) -> Iterator[dict[str, Any]]:
        """The messages of the next frame, in which pushes are kept."""
        for line in str(self._socket.recv(10)).split("\n"):
            message = json.loads(line)
            if "push" in message:
                self._pushes.append(message["push"])
            yield message


@contextmanager
def session(ws_url: str, **claims: Any) -> Iterator[Session]:
    """A connected client; with claims it sends a token."""
    with connect(f"{ws_url}/connection/websocket", proxy=None) as socket:
        yield Session(socket, claims)
