"""permessage-deflate (RFC 7692) without I/O, server side.

Neither side keeps a context from one message to the next. So what goes to many is compressed once, an idle connection
costs nothing, and all that a connection must remember is how large a window its client has.

Writing: `pack` takes a ready-made frame and gives it back compressed, if that is worth it.

Reading: `InflatingParser` inflates a message while it arrives, never beyond the size limit, and some of it at a time: a
few bytes can become a thousand times as many.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from ..errors import Disconnects
from .frames import BINARY, RESERVED_BITS, TEXT, FrameError, FrameParser, boundaries, data_frame

__all__ = ["NAME", "InflatingParser", "Parameters", "agree", "pack", "pack_all"]

NAME = "permessage-deflate"
Parameters = Sequence[tuple[str, str | None]]

RSV1 = 0x40
# The end of what a flush gives: an empty stored block without its first byte. It is not sent (§7.2.1).
TAIL = b"\x00\x00\xff\xff"
# An empty last block. A stream that does not end with it after its own end was cut off in the middle of a block.
LAST = b"\x03\x00"

# Windows of 2^8 to 2^15 bytes can be asked for. zlib cannot write for the smallest.
WINDOWS = {str(bits): bits for bits in range(8, 16)}
LEAST_WINDOW, MOST_WINDOW = 9, 15

# Frames that are compressed, in bytes. Smaller ones gain next to nothing; larger ones would hold up the event loop.
LEAST, MOST = 256, 131072
# Bytes that are compressed in one go, for the same reason.
MOST_AT_ONCE = 262144
# Half the time of zlib's default and a tenth more bytes.
LEVEL = 3

# Bytes that come out in one step, and those of one connection before the others get their turn. Each step counts for
# some: it has its price though nothing may come out.
STEP, LEAST_STEP = 65536, 1024
MOST_A_TURN = 262144


# The handshake


def agree(offer: Parameters) -> tuple[Parameters, int] | None:
    """What to answer to an offer, and the bits of our window; None to decline it (§7.1).

    That the client keeps no context need not be offered to be asked for (§7.1.1.2).
    """
    wishes = dict(offer)
    if len(wishes) < len(offer) or not all(_is_valid(name, value) for name, value in offer):
        return None
    answer: list[tuple[str, str | None]] = [("server_no_context_takeover", None), ("client_no_context_takeover", None)]
    size = wishes.get("server_max_window_bits")
    if size is None:
        return answer, MOST_WINDOW
    bits = WINDOWS[size]
    return ([*answer, ("server_max_window_bits", size)], bits) if bits >= LEAST_WINDOW else None


def _is_valid(name: str, value: str | None) -> bool:
    """A hint about the client's own window may go without a value: any that it may have can be read."""
    match name:
        case "server_no_context_takeover" | "client_no_context_takeover":
            return value is None
        case "server_max_window_bits":
            return value in WINDOWS
        case "client_max_window_bits":
            return value is None or value in WINDOWS
    return False


# Writing


class _Compressor:
    """The one of this process for a window size: a full flush makes it forget what it has seen."""

    def __init__(self, bits: int) -> None:
        self._zlib = zlib.compressobj(LEVEL, zlib.DEFLATED, -bits)
        # Applications may have event loops in several threads.
        self._lock = threading.Lock()

    def compress(self, payload: memoryview) -> bytes:
        with self._lock:
            return (self._zlib.compress(payload) + self._zlib.flush(zlib.Z_FULL_FLUSH))[: -len(TAIL)]


_compressor = cache(_Compressor)


def pack(frame: bytes, bits: int) -> bytes:
    """`frame`, a whole text or binary frame, for clients with this `Wire.compression`: compressed if it pays."""
    if not bits or not LEAST <= len(frame) <= MOST:
        return frame
    [(_, start, _)] = boundaries(frame)
    packed = data_frame(frame[0] | RSV1, _compressor(bits).compress(memoryview(frame)[start:]))
    return packed if len(packed) < len(frame) else frame


def pack_all(frames: Iterable[bytes], bits: int) -> list[bytes]:
    """Each of `frames` as `pack` has it, the later ones as they are if it becomes too much for one go."""
    packed, room = [], MOST_AT_ONCE
    for frame in frames:
        packed.append(pack(frame, bits) if len(frame) <= room else frame)
        room -= len(frame)
    return packed


# Reading


class _Inflater:
    """One compressed message."""

    __slots__ = ("_ended", "_full", "_unread", "_zlib", "fed")

    def __init__(self) -> None:
        # With the largest window, whatever the client uses.
        self._zlib = zlib.decompressobj(-MOST_WINDOW)
        self._unread = b""
        # The last step gave as much as it was allowed to.
        self._full = False
        # All of the message was fed.
        self._ended = False
        # Bytes so far.
        self.fed = 0

    @property
    def pending(self) -> bool:
        """More comes out without being fed."""
        return self._full or bool(self._unread)

    @property
    def done(self) -> bool:
        return self._ended and self._zlib.eof and not self._unread

    def feed(self, piece: bytes) -> None:
        self._unread += piece
        self.fed += len(piece)

    def end(self) -> None:
        self._unread += TAIL + LAST
        self._ended = True

    def step(self) -> bytes:
        """The next bytes that come out, at most `STEP`. Raises FrameError."""
        try:
            out = self._zlib.decompress(self._unread, STEP)
        except zlib.error:
            raise FrameError(Disconnects.NOT_DEFLATE) from None
        if not self._zlib.eof:
            self._unread, self._full = self._zlib.unconsumed_tail, len(out) == STEP
        else:
            self._unread, self._full = self._zlib.unused_data, False
            if self._unread or not self._ended:  # §7.2.3.4: a last block need not be the message's last
                self._zlib = zlib.decompressobj(-MOST_WINDOW)
        if self._ended and not self.pending and not self._zlib.eof:
            raise FrameError(Disconnects.NOT_DEFLATE)
        return out


class InflatingParser(FrameParser):
    """A `FrameParser` for a connection that has agreed on permessage-deflate."""

    __slots__ = ("_compressed", "_inflater", "_room")

    def __init__(self, max_size: int, received: bytes = b"") -> None:
        super().__init__(max_size, received)
        # The header being parsed is that of a compressed message.
        self._compressed = False
        # Of the compressed message being assembled, None outside of one.
        self._inflater: _Inflater | None = None
        # Bytes that may still be inflated in this turn.
        self._room = 0

    def messages(self, data: bytes, budget: int) -> Iterator[tuple[int, bytes]]:
        self._room = MOST_A_TURN
        yield from super().messages(data, budget)
        if self._inflater is not None and self._inflater.pending:
            self.interrupted = True

    def _is_extended(self, first: int) -> bool:
        self._compressed = first & RESERVED_BITS == RSV1 and first & 0x0F in (TEXT, BINARY)  # §6.1, §7.2.3
        return self._compressed

    def _check_size(self, size: int) -> None:
        """A message that deflate cannot make shorter gets longer, by no more than an eighth."""
        if size >> 63 or not (self._compressed or self._inflater):
            super()._check_size(size)
        elif size + (self._inflater.fed if self._inflater else 0) > self.max_size + self.max_size // 8 + 64:
            raise FrameError(Disconnects.TOO_BIG)

    def _begin(self, opcode: int, size: int, mask: bytes) -> tuple[int, bytes] | None:
        if not self._compressed:
            return super()._begin(opcode, size, mask)
        self._compressed = False
        self._inflater = _Inflater()
        return self._begin_piecewise(opcode, size, mask)

    def _step(self) -> tuple[int, bytes] | None:
        inflater = self._inflater
        event = None if inflater is not None and inflater.pending else super()._step()
        while event is None and self._inflater is not None and self._inflater.pending:
            if self._room <= 0:
                self.interrupted: bool = False  # no further in this turn
                break
            event = self._inflate(self._inflater)
        return event

    def _add(self, chunk: bytes) -> None:
        if self._inflater is None:
            super()._add(chunk)
        else:
            self._inflater.feed(chunk)

    def _inflate(self, inflater: _Inflater) -> tuple[int, bytes] | None:
        assert self._message is not None
        out = inflater.step()
        self._room -= max(LEAST_STEP, len(out))
        if len(self._message) + len(out) > self.max_size:
            raise FrameError(Disconnects.TOO_BIG)
        super()._add(out)
        return self._finish() if inflater.done else None

    def _finish(self) -> tuple[int, bytes] | None:
        if self._inflater is not None:
            if not self._inflater.done:
                self._inflater.end()
                return None
            self._inflater = None
        return super()._finish()
