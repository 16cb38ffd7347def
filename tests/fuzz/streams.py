"""Targets: WebSocket frames and the handshake, plain and with permessage-deflate."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from typing import Any

from uvicorn.config import Config
from websockets.datastructures import Headers

from hub.errors import Disconnect
from hub.handshake import answer, http_response, request_in, websocket_scope
from hub.protocol import frames
from hub.protocol.deflate import LEAST, TAIL, InflatingParser, pack
from hub.protocol.frames import FrameError, FrameParser, Opcode

__all__ = ["deflated", "handshake", "masked", "messages", "stream"]

LIMITS = (0, 1, 125, 126, 1000, 70_000)
# A header, or a control frame that has not arrived as a whole.
LONGEST_UNPARSED = 6 + 125
KNOWN_CODES = (1002, 1007, 1009)
MASK = b"\x11\x22\x33\x44"


class Outcome:
    """What a parser has made of a stream."""

    def __init__(self, parser: FrameParser) -> None:
        self._parser = parser
        self.events: list[tuple[int, bytes]] = []
        # None while the peer has kept to the protocol.
        self.end: Disconnect | None = None

    def feed(self, pieces: Iterator[bytes] | list[bytes], budget: int) -> Outcome:
        try:
            for piece in pieces:
                self._take(piece, budget)
                self._check_memory()
        except FrameError as error:
            self.end = error.disconnect
        assert self.end is None or self.end.code in KNOWN_CODES, self.end
        return self

    def _take(self, piece: bytes, budget: int) -> None:
        turns = len(piece) + self._parser.max_size + 1000
        self.events.extend(self._parser.messages(piece, budget))
        while self._parser.interrupted:
            assert turns, "no end of turns"
            turns -= 1
            self.events.extend(self._parser.messages(b"", budget))

    def _check_memory(self) -> None:
        """Once everything is taken in, no more is kept than the message so far."""
        parser = self._parser
        assert len(parser._buffer) - parser._at <= LONGEST_UNPARSED
        assert len(parser._buffer) <= LONGEST_UNPARSED, "a large read is kept"
        assert len(parser._message or b"") <= parser.max_size
        inflater = getattr(parser, "_inflater", None)
        assert inflater is None or not inflater._unread, "input of the inflater is kept"


def stream(data: bytes) -> list[str]:
    """Bytes of a client: first a limit and how the rest is cut; the cutting makes no difference."""
    return _stream(data, FrameParser)


def deflated(data: bytes) -> list[str]:
    """The same on a connection that has agreed on permessage-deflate."""
    return _stream(data, InflatingParser)


def _stream(data: bytes, parser: type[FrameParser]) -> list[str]:
    limit, step, rest = LIMITS[_at(data, 0) % len(LIMITS)], 1 + _at(data, 1) % 97, data[2:]
    whole = Outcome(parser(limit)).feed([rest], 1_000_000)
    _check_events(whole, limit)
    middle = len(rest) // 2
    others = {
        "in pieces": Outcome(parser(limit)).feed(_cut(rest, step), 1_000_000),
        "frame by frame": Outcome(parser(limit)).feed([rest], 1),
        "with what the handshake left": Outcome(parser(limit, rest[:middle])).feed([b"", rest[middle:]], 3),
    }
    for how, other in others.items():
        assert other.events == whole.events, how
        # What is too big and no UTF-8 either may be refused for either; a frame that comes in one piece is looked at
        # as a whole.
        assert (other.end is None) is (whole.end is None), how
        if parser is FrameParser:
            assert other.end == whole.end, how
    return [f"{opcode} {len(payload).bit_length()}" for opcode, payload in whole.events] + [str(whole.end)]


def _check_events(outcome: Outcome, limit: int) -> None:
    for opcode, payload in outcome.events:
        assert opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE, Opcode.PING, Opcode.PONG)
        assert len(payload) <= (limit if opcode < Opcode.CLOSE else 125)
        if opcode == Opcode.TEXT:
            payload.decode()
        elif opcode == Opcode.CLOSE:
            _check_close(payload)
    written = b"".join(frames.data_frame(*event) for event in outcome.events)
    assert list(frames.split(written)) == outcome.events


def _check_close(payload: bytes) -> None:
    try:
        code, reason = frames.parse_close(payload)
    except FrameError:
        return
    echo = frames.close_frame(None if code == 1005 else code, reason)
    assert list(frames.split(echo)) == [(Opcode.CLOSE, payload)]


def messages(data: bytes) -> list[str]:
    """Messages that a client sends, each in some fragments, compressed or not: what was encoded decodes to itself."""
    sent, wire, program = [], b"", data
    while len(program) >= 3:
        how, size, program = program[0], int.from_bytes(program[1:3], "big") % 2048, program[3:]
        payload, program = program[:size] * (1 + how % 4), program[size:]
        opcode = Opcode.TEXT if how & 4 and _is_text(payload) else Opcode.BINARY
        wire += _client_message(opcode, payload, how >> 3)
        sent.append((int(opcode), payload))
        _check_pack(opcode, payload, 9 + how % 7)
    outcome = Outcome(InflatingParser(70_000)).feed(_cut(wire, 1 + len(data) % 97), 2)
    assert outcome.end is None
    assert [event for event in outcome.events if event[0] != Opcode.PING] == sent
    return [f"{opcode} {len(payload).bit_length()}" for opcode, payload in sent]


def _client_message(opcode: int, payload: bytes, how: int) -> bytes:
    """Compressed and in two fragments with a ping between them, or not, as the bits of `how` say."""
    rsv1 = 0x40 if how & 1 else 0
    if rsv1:
        deflater = zlib.compressobj(how % 10, zlib.DEFLATED, -(9 + how % 7))
        flush = zlib.Z_FULL_FLUSH if how & 2 else zlib.Z_SYNC_FLUSH
        payload = (deflater.compress(payload) + deflater.flush(flush)).removesuffix(TAIL)
    if not how & 4:
        return masked(0x80 | rsv1 | opcode, payload)
    middle = how * len(payload) // 32
    parts = (rsv1 | opcode, payload[:middle]), (0x80 | Opcode.PING, b""), (0x80 | Opcode.CONT, payload[middle:])
    return b"".join(masked(*part) for part in parts)


def masked(first: int, payload: bytes) -> bytes:
    """A client's frame that begins with `first`."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + MASK + frames.unmask(payload, MASK)


def _check_pack(opcode: int, payload: bytes, bits: int) -> None:
    """A frame for many, compressed once, says the same to a client with this window."""
    frame = frames.data_frame(opcode, payload)
    packed = pack(frame, bits)
    assert len(packed) <= len(frame)
    if packed is not frame:
        assert len(frame) >= LEAST
        [(_, body)] = frames.split(packed)
        inflater = zlib.decompressobj(-bits)
        assert inflater.decompress(body + TAIL) == payload


def _is_text(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _cut(data: bytes, step: int) -> Iterator[bytes]:
    return (data[at : at + step] for at in range(0, len(data), step))


def _at(data: bytes, index: int) -> int:
    return data[index] if index < len(data) else 0


# The handshake


class _Socket:
    """What uvicorn asks a transport's socket."""

    def getpeername(self) -> tuple[str, int]:
        return ("10.0.0.1", 1234)

    def getsockname(self) -> tuple[str, int]:
        return ("10.0.0.2", 80)


# 500 would be an exception that websockets did not foresee.
REFUSALS = (400, 403, 405, 426, 505)


async def _application(scope: Any, receive: Any, send: Any) -> None:
    """Nothing is served."""


CONFIG = Config(_application, log_config=None)
CONFIG.load()
TRANSPORT = asyncio.Transport({"socket": _Socket()})


def handshake(data: bytes) -> list[str]:
    """A request, from its first line to the empty one; there is an answer to any, and an upgrade only to a good one."""
    request = request_in(data)
    response, bits = answer(request, CONFIG, compression=True)
    refused = http_response(response.status_code, Headers(response.headers), bytes(response.body or b""))
    assert refused.startswith(b"HTTP/1.1 %d " % response.status_code)
    assert refused.count(b"\r\n\r\n") >= 1
    assert (bits in range(9, 16)) if bits else True
    if request is None or response.status_code != 101:
        assert response.status_code in REFUSALS, response
        return [f"{response.status_code} {bytes(response.body or b'')[:30]!r}"]
    assert "websocket" in ",".join(request.headers.get_all("Upgrade")).lower()
    assert "upgrade" in ",".join(request.headers.get_all("Connection")).lower()
    assert ("Sec-WebSocket-Extensions" in response.headers) is bool(bits)
    assert b"\r\n\r\n" in response.serialize()
    scope = websocket_scope(request, CONFIG, TRANSPORT)
    for name, value in scope["headers"]:
        assert name.lower() in data.lower()
        assert value in data
    return [f"101 {bits}", f"{len(scope['subprotocols'])} subprotocols"]
