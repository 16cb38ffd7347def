"""A key set's endpoint that a test can make as bad as it likes: what it writes are bytes, and when is up to it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jwt.algorithms import ECAlgorithm, RSAAlgorithm

__all__ = ["KeyEndpoint", "jwk", "key_endpoint"]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"


def jwk(key: Any, kid: str) -> dict[str, Any]:
    """The public half of a key as a member of a set."""
    kind = RSAAlgorithm if hasattr(key.public_key().public_numbers(), "n") else ECAlgorithm
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid}


class KeyEndpoint:
    """Answers each request with `pieces`, `pause` seconds between two."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.pieces: Iterable[bytes] = ()
        self.pause = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/keys"

    def has(self, *members: dict[str, Any]) -> None:
        """From now on it is a good one."""
        self.pieces = (HEAD + json.dumps({"keys": members}).encode(),)

    def stop(self) -> None:
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.requests.append(connection.recv(65536))
            for piece in self.pieces:
                connection.sendall(piece)
                if self._ended.wait(self.pause):
                    return
            connection.shutdown(socket.SHUT_WR)


@contextmanager
def key_endpoint() -> Iterator[KeyEndpoint]:
    endpoint = KeyEndpoint()
    try:
        yield endpoint
    finally:
        endpoint.stop()
