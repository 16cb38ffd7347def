"""How a server is spoken to after the handshake, and what a message looks like on the way in and out."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

__all__ = ["DIALECTS", "NUMBER", "PAYLOAD", "Centrifuge", "Raw"]

# Bytes of a message, of which the first are its number.
PAYLOAD, NUMBER = 128, 16
FILLER = "." * (PAYLOAD - NUMBER)


def _sent(payload: bytes) -> bytes:
    """A masked text frame, with a mask of zeros, which leaves the payload as it is."""
    return b"\x81\xfe" + len(payload).to_bytes(2, "big") + b"\0\0\0\0" + payload


def _message(number: int) -> str:
    return str(number).zfill(NUMBER) + FILLER


class Raw:
    """What one sends, all receive."""

    def __init__(self) -> None:
        # How a message arrives: an unmasked text frame with a 16-bit length. Its number follows.
        self.head = b"\x81\x7e" + PAYLOAD.to_bytes(2, "big")
        self.frame = len(self.head) + PAYLOAD

    def greet(self, sock: socket.socket) -> None:
        """After the handshake there is nothing to say."""

    def publication(self, number: int) -> bytes:
        return _sent(_message(number).encode())

    def expects(self, frame: bytes) -> bool:
        """Whether a frame that is no message belongs to the conversation."""
        return False


class Centrifuge:
    """The Centrifuge protocol in JSON: subscribed to a channel in which nothing is kept."""

    channel = "bench"

    def __init__(self) -> None:
        self.head = b""
        self.frame = 0

    def greet(self, sock: socket.socket) -> None:
        """Connect and subscribe in one frame, and wait for both answers. The first socket is the publisher."""
        hello = b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"%s"}}' % self.channel.encode()
        sock.sendall(_sent(hello))
        answer = b""
        while b'"subscribe"' not in answer:
            if not (part := sock.recv(4096)):
                raise ConnectionError(f"the server ended the conversation: {answer[:200]!r}")
            answer += part
        if not self.frame:
            client = json.loads(answer[answer.index(b"{") :].split(b"}}")[0] + b"}}")["connect"]["client"]
            self._expect(client)

    def _expect(self, publisher: str) -> None:
        start = '{"push":{"channel":"' + self.channel + '","pub":{"data":"'
        end = '","info":{"user":"","client":"' + publisher + '"}}}}'
        size = len(start) + PAYLOAD + len(end)
        self.head = b"\x81\x7e" + size.to_bytes(2, "big") + start.encode()
        self.frame = 4 + size

    def publication(self, number: int) -> bytes:
        command = {"id": number + 3, "publish": {"channel": self.channel, "data": _message(number)}}
        return _sent(json.dumps(command).encode())

    def expects(self, frame: bytes) -> bool:
        """The publisher is answered."""
        return frame.startswith(b'{"id":') and b'"publish":{}' in frame


DIALECTS: dict[str, Callable[[], Raw | Centrifuge]] = {"raw": Raw, "centrifuge": Centrifuge}
