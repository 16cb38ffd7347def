"""A plain WebSocket client on a blocking socket: no library stands between a test and what the server says.

It is made for thousands of short conversations: one write, one answer, and the connection is thrown away.
"""

from __future__ import annotations

import json
import os
import re
import socket
from typing import Any, NamedTuple

__all__ = ["CHANNELS", "Closed", "PlainClient", "plain_request"]

# Where protocol clients connect.
CHANNELS = "/connection/websocket"
_TEXT, _CLOSE = 0x81, 0x88
_UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


class Closed(NamedTuple):
    """The server's close frame; 1006 if the connection ended without one."""

    code: int
    reason: str = ""


class PlainClient:
    """One connection. `status`, `head` and `body` are the answer to the handshake; `body` only if it was refused."""

    def __init__(self, port: int, path: str = CHANNELS, timeout: float = 10, **headers: str) -> None:
        """`headers` with `_` for `-`; they come after those of the upgrade."""
        self._buffer = b""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._socket.sendall(_request("GET", path, {"Host": f"127.0.0.1:{port}", **_UPGRADE, **named}))
        self.head = self._until(b"\r\n\r\n")
        self.status = int(self.head.split(b" ", 2)[1])
        self.body = b"" if self.status == 101 else self._rest()

    def __enter__(self) -> PlainClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def say(self, *messages: Any) -> None:
        """One text frame with a line for each message."""
        payload = "\n".join(m if isinstance(m, str) else json.dumps(m) for m in messages).encode()
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self._socket.sendall(bytes((_TEXT,)) + _length(len(payload)) + mask + masked)

    def hear(self) -> bytes | Closed:
        """The payload of the next text frame, as it came, or the end."""
        try:
            first, second = self._take(2)
            size = second & 127
            if size >= 126:
                size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
            payload = self._take(size)
        except ConnectionError:
            return Closed(1006)
        if first == _CLOSE:
            return Closed(int.from_bytes(payload[:2], "big"), payload[2:].decode())
        assert first == _TEXT, f"a frame that begins with {first:#x} was not expected"
        return payload

    def answer(self, number: int) -> dict[str, Any] | Closed:
        """The reply with this id, or whatever ends the wait for it: a close, or the refusal of `connect` (id 1)."""
        while True:
            heard = self.hear()
            if isinstance(heard, Closed):
                return heard
            for line in heard.split(b"\n"):
                reply = json.loads(line)
                if reply.get("id") == number or (reply.get("id") == 1 and "error" in reply):
                    assert isinstance(reply, dict)
                    return reply

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._read()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._read()
        head, _, self._buffer = self._buffer.partition(end)
        return head

    def _rest(self) -> bytes:
        """The body of a refusal; a proxy keeps the connection open after it."""
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", self.head)
        return self._take(int(length[1])) if length is not None else b""

    def _read(self) -> None:
        if not (more := self._socket.recv(65536)):
            raise ConnectionResetError("the server has closed the connection")
        self._buffer += more


def plain_request(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes, bytes]:
    """One HTTP request: status, head and body as they came. `headers` with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"Host": f"127.0.0.1:{port}", "Connection": "close", "Content-Length": str(len(body)), **named}
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(_request(method, path, fields) + body)
        answer = b""
        while more := connection.recv(65536):
            answer += more
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), head, content


def _request(method: str, path: str, headers: dict[str, str]) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode()


def _length(size: int) -> bytes:
    if size < 126:
        return bytes((0x80 | size,))
    return b"\xfe" + size.to_bytes(2, "big") if size < 65536 else b"\xff" + size.to_bytes(8, "big")
