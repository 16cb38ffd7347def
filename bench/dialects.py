"""How a server is spoken to after the handshake, and what a message looks like on the way in and out."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

__all__ = [
    "DIALECTS",
    "NUMBER",
    "PAYLOAD",
    "Centrifuge",
    "Dialect",
    "Present",
    "Raw",
    "RawLong",
    "SocketIO",
    "client_frame",
    "frame_at",
    "head_of",
]

# Bytes of a message, if nothing else is wanted, of which the first are its number.
PAYLOAD, NUMBER = 128, 16
# An id of a client is as long as this.
CLIENT = "00000000-0000-0000-0000-000000000000"


def _length(size: int, masked: int) -> bytes:
    if size < 126:
        return bytes((masked | size,))
    if size < 1 << 16:
        return bytes((masked | 126,)) + size.to_bytes(2, "big")
    return bytes((masked | 127,)) + size.to_bytes(8, "big")


def head_of(size: int) -> bytes:
    """The header of an unmasked text frame: how a message of `size` bytes arrives."""
    return b"\x81" + _length(size, 0)


def client_frame(payload: bytes) -> bytes:
    """A masked text frame, with a mask of zeros, which leaves the payload as it is."""
    return b"\x81" + _length(len(payload), 0x80) + b"\0\0\0\0" + payload


def frame_at(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the payload of the unmasked frame at `at` begins and ends; None if it is not all there."""
    if len(data) - at < 2:
        return None
    start, size = at + 2, data[at + 1]
    if size >= 126:
        wide = 2 if size == 126 else 8
        start, size = start + wide, int.from_bytes(data[start : start + wide], "big")
    return (start, start + size) if start + size <= len(data) else None


def _until(sock: socket.socket, answer: bytes, word: bytes) -> bytes:
    """Receive until `word` has come; everything so far."""
    while word not in answer:
        if not (part := sock.recv(4096)):
            raise ConnectionError(f"the server ended the conversation: {answer[:200]!r}")
        answer += part
    return answer


class Dialect:
    """A message has `payload` bytes, of which the first are its number. `head` and `frame` may be set by `greet`."""

    def __init__(self, payload: int = PAYLOAD) -> None:
        self.payload = payload
        # How a message arrives, up to its number; its size then, and that of the whole frame.
        self.head = b""
        self.message = self.frame = 0

    def greet(self, sock: socket.socket, rest: bytes = b"") -> None:
        """After the handshake, behind which `rest` has come already."""
        raise NotImplementedError

    def publication(self, number: int) -> bytes:
        """A frame that publishes it."""
        raise NotImplementedError

    def reply(self, frame: bytes) -> bytes | None:
        """What to send when a frame comes that is no message; None if it does not belong to the conversation."""
        return None

    def _text(self, number: int) -> str:
        return str(number).zfill(NUMBER).ljust(self.payload, ".")

    def _expect(self, start: str, end: str = "") -> None:
        """A message arrives between these."""
        self.message = len(start) + self.payload + len(end)
        header = head_of(self.message)
        self.head, self.frame = header + start.encode(), len(header) + self.message


class Raw(Dialect):
    """What one sends, all receive."""

    def __init__(self, payload: int = PAYLOAD) -> None:
        super().__init__(payload)
        self._expect("")

    def greet(self, sock: socket.socket, rest: bytes = b"") -> None:
        """There is nothing to say."""
        if rest:
            raise ConnectionError(f"the server speaks first: {rest[:200]!r}")

    def publication(self, number: int) -> bytes:
        return client_frame(self._text(number).encode())


class RawLong(Raw):
    """Of messages that are as long as the channel endpoint makes them, which says who has published them."""

    def __init__(self, payload: int = PAYLOAD) -> None:
        channel = Centrifuge(payload)
        channel.expect(CLIENT)
        super().__init__(channel.message)


class SocketIO(Dialect):
    """Socket.IO 5 on Engine.IO 4, by WebSocket alone; events are called `message`."""

    def __init__(self, payload: int = PAYLOAD) -> None:
        super().__init__(payload)
        self._expect('42["message","', '"]')

    def greet(self, sock: socket.socket, rest: bytes = b"") -> None:
        """The server opens Engine.IO; the client asks for the default namespace, and is let in."""
        _until(sock, rest, b'0{"sid"')
        sock.sendall(client_frame(b"40"))
        _until(sock, b"", b'40{"sid"')

    def publication(self, number: int) -> bytes:
        return client_frame(f'42["message","{self._text(number)}"]'.encode())

    def reply(self, frame: bytes) -> bytes | None:
        """Pings of Engine.IO are answered."""
        return client_frame(b"3") if frame == b"2" else None


class Centrifuge(Dialect):
    """The Centrifuge protocol in JSON: subscribed to a channel in which nothing is kept."""

    channel = "bench"

    def greet(self, sock: socket.socket, rest: bytes = b"") -> None:
        """Connect and subscribe in one frame, and wait for both answers. The first socket is the publisher."""
        hello = b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"%s"}}' % self.channel.encode()
        sock.sendall(client_frame(hello))
        answer = _until(sock, rest, b'"subscribe"')
        if not self.frame:
            client = json.loads(answer[answer.index(b"{") :].split(b"}}")[0] + b"}}")["connect"]["client"]
            self.expect(client)

    def expect(self, publisher: str) -> None:
        """What this client publishes arrives so."""
        start = '{"push":{"channel":"' + self.channel + '","pub":{"data":"'
        self._expect(start, '","info":{"user":"","client":"' + publisher + '"}}}}')

    def publication(self, number: int) -> bytes:
        command = {"id": number + 3, "publish": {"channel": self.channel, "data": self._text(number)}}
        return client_frame(json.dumps(command).encode())

    def reply(self, frame: bytes) -> bytes | None:
        """The publisher is answered, and the protocol's own pings want an answer."""
        if frame == b"{}":
            return client_frame(b"{}")
        return b"" if frame.startswith(b'{"id":') and b'"publish":{}' in frame else None


class Present(Centrifuge):
    """In a channel where it is known who is there."""

    channel = "present:bench"


DIALECTS: dict[str, Callable[[int], Dialect]] = {
    "raw": Raw,
    "raw-long": RawLong,
    "socket.io": SocketIO,
    "centrifuge": Centrifuge,
    "presence": Present,
}
