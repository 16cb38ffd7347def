"""WebSocket frames without I/O (RFC 6455 §5), server side.

Writing: `text_frame`, `binary_frame`, `close_frame` and so on build a whole unmasked frame as `bytes`, once for all
receivers; frames may be joined. `split` takes such bytes apart again.

Reading: `FrameParser` is fed what arrived and yields messages under a budget, so that the caller decides how much of
one connection's input it handles before the others get their turn. It keeps no object per frame or fragment: a
message is assembled in one bytearray whose size is checked from the header, before any payload is taken in. Text is
checked while it arrives, so a message that can no longer become UTF-8 fails before its end.

An error never overtakes: what came before it in the stream has been yielded when it is raised.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Iterator
from enum import IntEnum

from ..errors import Disconnect, Disconnects

__all__ = [
    "FrameError",
    "FrameParser",
    "Opcode",
    "binary_frame",
    "boundaries",
    "close_frame",
    "data_frame",
    "may_be_sent",
    "parse_close",
    "ping_frame",
    "pong_frame",
    "split",
    "text_frame",
]


class Opcode(IntEnum):
    """RFC 6455 §5.2."""

    CONT = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


CONT, TEXT, BINARY, CLOSE = 0x0, 0x1, 0x2, 0x8
FIN, MASKED, RESERVED_BITS = 0x80, 0x80, 0x70
DATA_OPCODES = (CONT, TEXT, BINARY)
CONTROL_OPCODES = (0x8, 0x9, 0xA)
MAX_CONTROL_PAYLOAD = 125
# Codes that an endpoint may put into a close frame (RFC 6455 §7.4 and the IANA registry).
SENDABLE_CLOSE_CODES = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))


class FrameError(Exception):
    """The peer broke the protocol; `disconnect` is the close to answer with."""

    def __init__(self, disconnect: Disconnect) -> None:
        super().__init__(disconnect.reason)
        self.disconnect = disconnect


# Writing


def data_frame(first: int, payload: bytes) -> bytes:
    """An unfragmented frame whose opcode and reserved bits are those of `first`."""
    size = len(payload)
    if size < 126:
        return bytes((FIN | first, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", FIN | first, 126, size) + payload
    return struct.pack("!BBQ", FIN | first, 127, size) + payload


def text_frame(payload: bytes) -> bytes:
    """An unfragmented text frame; `payload` must be UTF-8."""
    return data_frame(TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """An unfragmented binary frame."""
    return data_frame(BINARY, payload)


def ping_frame() -> bytes:
    """A ping without payload: any byte that comes back proves life, so there is nothing to match."""
    return data_frame(Opcode.PING, b"")


def pong_frame(payload: bytes) -> bytes:
    """The answer to a ping, with its payload (§5.5.3)."""
    return data_frame(Opcode.PONG, payload)


def close_frame(code: int | None, reason: str = "") -> bytes:
    """A close frame; without a code its payload is empty (§5.5.1). Longer reasons than 123 bytes are cut."""
    if code is None:
        return data_frame(CLOSE, b"")
    short = reason.encode()[: MAX_CONTROL_PAYLOAD - 2].decode(errors="ignore")
    return data_frame(CLOSE, code.to_bytes(2, "big") + short.encode())


def boundaries(frames: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (start, payload start, end) of each frame in a concatenation of frames built by this module."""
    at = 0
    while at < len(frames):
        size, payload = frames[at + 1], at + 2
        if size > 125:
            payload += 2 if size == 126 else 8
            size = int.from_bytes(frames[at + 2 : payload], "big")
        yield at, payload, payload + size
        at = payload + size


def split(frames: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (opcode, payload) of each frame in a concatenation of frames built by this module."""
    for start, payload, end in boundaries(frames):
        yield frames[start] & 0x0F, frames[payload:end]


def may_be_sent(code: int) -> bool:
    """Whether a close frame may have this code (§7.4)."""
    return code in SENDABLE_CLOSE_CODES or 3000 <= code < 5000


def parse_close(payload: bytes) -> tuple[int, str]:
    """The code and reason of a received close frame; 1005 if it has none (§7.1.5). Raises FrameError."""
    if not payload:
        return 1005, ""
    if len(payload) == 1:
        raise FrameError(Disconnects.PROTOCOL_ERROR)
    code = int.from_bytes(payload[:2], "big")
    if not may_be_sent(code):
        raise FrameError(Disconnects.PROTOCOL_ERROR)
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(Disconnects.INVALID_DATA) from None


# Reading


def unmask(payload: bytes | bytearray, mask: bytes) -> bytes:
    """XOR with the repeated mask (§5.3), as one operation on big integers: linear, and no loop in Python."""
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


class FrameParser:
    """Takes bytes, gives (opcode, payload): whole TEXT and BINARY messages, and CLOSE, PING, PONG frames."""

    __slots__ = (
        "_at",
        "_buffer",
        "_decoder",
        "_fin",
        "_kind",
        "_mask",
        "_message",
        "_remaining",
        "interrupted",
        "max_size",
    )

    def __init__(self, max_size: int, received: bytes = b"") -> None:
        # Largest message in bytes; may be changed between messages.
        self.max_size: int = max_size
        # There may be more in what was received: the last call of `messages` stopped for another reason than want.
        self.interrupted: bool = bool(received)
        # Received and not yet parsed, from `_at` on.
        self._buffer = received
        self._at = 0
        # The message being assembled, None outside of one; `_kind` is its opcode.
        self._message: bytearray | None = None
        self._kind = 0
        # Checks text across fragments; only while a text message is unfinished.
        self._decoder: codecs.IncrementalDecoder | None = None
        # The data frame whose payload is arriving: its FIN bit, what is left of it, its mask in phase.
        self._fin = True
        self._remaining = 0
        self._mask = b""

    def messages(self, data: bytes, budget: int) -> Iterator[tuple[int, bytes]]:
        """Take in `data` and yield what is complete, after at most `budget` frames.

        The caller may also stop by itself. If `interrupted` is true afterwards, there is more: call again, with
        `b""`. Raises FrameError in the place of the offending frame; nothing may be fed after that.
        """
        if data:
            self._buffer = self._buffer[self._at :] + data if self._buffer else data
            self._at = 0
        self.interrupted = True
        while budget and self.interrupted:
            budget -= 1
            event = self._step()
            if self._at == len(self._buffer):
                self._buffer, self._at, self.interrupted = b"", 0, False
            if event is not None:
                yield event

    def _step(self) -> tuple[int, bytes] | None:
        """Take in one frame, or what has arrived of it; the event that it completes."""
        if self._remaining:
            self._take_payload()
            return self._finish() if self._fin and not self._remaining else None
        header = self._parse_header()
        if header is None:
            self._buffer, self._at = self._buffer[self._at :], 0  # a few bytes must not keep a large read alive
            self.interrupted = False
            return None
        return self._begin(*header)

    def _parse_header(self) -> tuple[int, int, bytes] | None:
        """(opcode, payload size, mask), or None while the header, or the rest of a control frame, is missing."""
        view, at = self._buffer, self._at
        have = len(view) - at
        if have < 2:
            return None
        first, second = view[at], view[at + 1]
        opcode, size, start = first & 0x0F, second & 0x7F, at + 2
        if (first & RESERVED_BITS and not self._is_extended(first)) or not second & MASKED:  # §5.2; §5.1
            raise FrameError(Disconnects.PROTOCOL_ERROR)
        if opcode in CONTROL_OPCODES:
            if size > MAX_CONTROL_PAYLOAD or not first & FIN:  # §5.5
                raise FrameError(Disconnects.PROTOCOL_ERROR)
            if have < 6 + size:
                return None
        else:
            self._check_sequence(opcode)
            if size > 125:
                start += 2 if size == 126 else 8
                if have < start - at:
                    return None
                size = int.from_bytes(view[at + 2 : start], "big")
            self._check_size(size)
            if have < start - at + 4:
                return None
            self._fin = bool(first & FIN)
        self._at = start + 4
        return opcode, size, view[start : start + 4]

    def _is_extended(self, first: int) -> bool:
        """Whether an extension explains the reserved bits in the first byte of a frame."""
        return False

    def _check_sequence(self, opcode: int) -> None:
        """§5.4: a continuation continues something, a new message does not begin inside another."""
        if opcode not in DATA_OPCODES or (opcode == CONT) is (self._message is None):
            raise FrameError(Disconnects.PROTOCOL_ERROR)

    def _check_size(self, size: int) -> None:
        if size >> 63:  # §5.2: the most significant bit must be 0
            raise FrameError(Disconnects.PROTOCOL_ERROR)
        if size + (len(self._message) if self._message else 0) > self.max_size:
            raise FrameError(Disconnects.TOO_BIG)

    def _begin(self, opcode: int, size: int, mask: bytes) -> tuple[int, bytes] | None:
        """Handle the frame whose header was just read; its event if it is complete."""
        if opcode >= CLOSE or (self._fin and opcode != CONT and self._at + size <= len(self._buffer)):
            payload = unmask(self._buffer[self._at : self._at + size], mask)
            self._at += size
            if opcode == TEXT:
                self._check_whole_text(payload)
            return opcode, payload
        return self._begin_piecewise(opcode, size, mask)

    def _begin_piecewise(self, opcode: int, size: int, mask: bytes) -> tuple[int, bytes] | None:
        """A data frame whose payload becomes a part of the message being assembled."""
        if opcode != CONT:
            self._message, self._kind = bytearray(), opcode
            if opcode == TEXT:
                self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._remaining, self._mask = size, mask
        return self._finish() if self._fin and not size else None

    def _take_payload(self) -> None:
        """Move what has arrived of the current frame into the message."""
        chunk = unmask(self._buffer[self._at : self._at + self._remaining], self._mask)
        self._at += len(chunk)
        self._remaining -= len(chunk)
        phase = len(chunk) % 4
        self._mask = self._mask[phase:] + self._mask[:phase]
        self._add(chunk)

    def _add(self, chunk: bytes) -> None:
        """The next part of the message."""
        assert self._message is not None
        if self._decoder is not None:
            self._check_text(chunk, final=False)
        self._message += chunk

    def _finish(self) -> tuple[int, bytes] | None:
        """The message whose last frame is complete."""
        assert self._message is not None
        self._check_text(b"", final=True)
        event = self._kind, bytes(self._message)
        self._message = self._decoder = None
        return event

    def _check_text(self, chunk: bytes, *, final: bool) -> None:
        """§8.1, for a message in pieces."""
        if self._decoder is None:
            return
        try:
            self._decoder.decode(chunk, final)
        except UnicodeDecodeError:
            raise FrameError(Disconnects.INVALID_DATA) from None

    def _check_whole_text(self, payload: bytes) -> None:
        """§8.1, for a message in one piece: the usual case, without a decoder."""
        if not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                raise FrameError(Disconnects.INVALID_DATA) from None
