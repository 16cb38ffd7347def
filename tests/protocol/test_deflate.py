"""permessage-deflate: what is agreed on, what is written, and what is made of what comes in, however it is made."""

from __future__ import annotations

import os
import random
import threading
import tracemalloc
import zlib
from dataclasses import dataclass
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.frames import Opcode as PeerOpcode

from hub.protocol import deflate, frames
from hub.protocol.deflate import InflatingParser, agree, pack, pack_all
from hub.protocol.forms import RAW, Event, JsonForm, deflated
from hub.protocol.frames import FrameError, FrameParser, Opcode, binary_frame, text_frame
from hub.types import DataKind, Publication
from tests.protocol.test_frames import client_frame, read

RSV1, RSV2, RSV3 = 4, 2, 1
PROSE = b"It was the best of times, it was the worst of times, " * 40


def compress(payload: bytes, bits: int = 15, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    """A message as another implementation makes it (§7.2.1)."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -bits, strategy=strategy)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def read_all(parser: FrameParser, *pieces: bytes) -> list[tuple[int, bytes]]:
    """All events, however many turns they take."""
    events = []
    for piece in pieces:
        events += parser.messages(piece, 128)
        while parser.interrupted:
            events += parser.messages(b"", 128)
    return events


def refusal(*pieces: bytes, max_size: int = 10_000) -> tuple[list[tuple[int, bytes]], int]:
    """What was read before the error, and the error's close code."""
    seen: list[tuple[int, bytes]] = []
    parser = InflatingParser(max_size)
    try:
        for piece in pieces:
            seen += parser.messages(piece, 128)
            while parser.interrupted:
                seen += parser.messages(b"", 128)
    except FrameError as error:
        return seen, error.disconnect.code
    pytest.fail("nothing was refused")


def inflate(frame: bytes, bits: int = 15) -> bytes:
    """The payload of a frame that we wrote, read by another implementation with a window of that size."""
    [(start, payload, end)] = frames.boundaries(frame)
    peer = PerMessageDeflate(True, True, bits, bits)
    compressed = bool(frame[start] & 0x40)
    return bytes(peer.decode(Frame(PeerOpcode.TEXT, frame[payload:end], rsv1=compressed)).data)


# The handshake

BOTH = [("server_no_context_takeover", None), ("client_no_context_takeover", None)]


@pytest.mark.parametrize(
    ("offer", "answer", "bits"),
    [
        ([], BOTH, 15),
        ([("server_no_context_takeover", None)], BOTH, 15),
        ([("client_no_context_takeover", None), ("client_max_window_bits", None)], BOTH, 15),
        ([("client_max_window_bits", "8")], BOTH, 15),
        ([("server_max_window_bits", "15")], [*BOTH, ("server_max_window_bits", "15")], 15),
        ([("server_max_window_bits", "9")], [*BOTH, ("server_max_window_bits", "9")], 9),
        ([("client_max_window_bits", "10"), ("server_max_window_bits", "12")], None, 12),
    ],
)
def test_offers_that_are_met(offer: deflate.Parameters, answer: list[tuple[str, str | None]] | None, bits: int) -> None:
    """No side keeps a context; a window that is asked for is promised; the client's own window is its affair."""
    agreed = agree(offer)
    assert agreed is not None
    assert agreed == (answer or [*BOTH, ("server_max_window_bits", str(bits))], bits)


@pytest.mark.parametrize(
    "offer",
    [
        pytest.param([("server_max_window_bits", "8")], id="zlib-cannot"),
        pytest.param([("server_max_window_bits", "7")], id="too-small"),
        pytest.param([("server_max_window_bits", "16")], id="too-large"),
        pytest.param([("server_max_window_bits", "09")], id="leading-zero"),
        pytest.param([("server_max_window_bits", None)], id="no-value"),
        pytest.param([("client_max_window_bits", "16")], id="client-too-large"),
        pytest.param([("client_max_window_bits", "x")], id="client-no-number"),
        pytest.param([("server_no_context_takeover", "1")], id="value"),
        pytest.param([("client_no_context_takeover", "true")], id="client-value"),
        pytest.param([("server_no_context_takeover", None)] * 2, id="twice"),
        pytest.param([("mystery", None)], id="unknown"),
    ],
)
def test_offers_that_are_declined(offer: deflate.Parameters) -> None:
    """§7.1: what is not defined, has a wrong value, comes twice, or cannot be met."""
    assert agree(offer) is None


# Writing


@given(st.binary(max_size=3000) | st.text(max_size=3000).map(str.encode), st.integers(9, 15))
def test_others_read_what_we_pack(payload: bytes, bits: int) -> None:
    """With the window that they have; a frame never gets longer, and keeps its opcode."""
    for frame in (binary_frame(payload), text_frame(payload), binary_frame(payload * 40)):
        packed = pack(frame, bits)
        assert inflate(packed, bits) == inflate(frame)
        assert len(packed) <= len(frame)
        assert packed[0] & 0x8F == frame[0]


def test_a_small_window() -> None:
    """What lies further back than the client's window is not referred to."""
    # Not any bytes: some have a few within the window that make it one byte shorter.
    frame = binary_frame(random.Random(1).randbytes(4000) * 4)
    assert len(pack(frame, 15)) < 5000
    assert pack(frame, 11) == frame
    near = binary_frame(os.urandom(200) * 80)
    assert len(pack(near, 9)) < len(near) / 2
    assert inflate(pack(near, 9), 9) == inflate(near)


def test_packed_frames_stand_alone() -> None:
    """No frame needs one before it: they may come in any order, and some may be left out."""
    messages = [PROSE, PROSE[7:], b"{}" * 1000, PROSE]
    packed = [pack(text_frame(message), 15) for message in messages]
    assert packed[0] == packed[3]
    for order in permutations(range(4)):
        assert [inflate(packed[at]) for at in order] == [messages[at] for at in order]


def test_what_is_not_worth_it() -> None:
    """Small and incompressible frames stay as they are; so do large ones, which would hold up everybody."""
    noise = os.urandom(2000)
    for payload in (b"", b"x" * 200, noise, b"x" * 200_000):
        assert pack(binary_frame(payload), 15) == binary_frame(payload)
    assert len(pack(binary_frame(b"x" * 120_000), 15)) < 1000
    assert pack(text_frame(PROSE), 0) == text_frame(PROSE)


def test_much_at_once() -> None:
    """Of many frames the first are compressed, up to what the event loop can bear."""
    frame = text_frame(b"x" * 60_000)
    packed = pack_all([frame] * 10, 15)
    assert [len(each) < 1000 for each in packed] == [True] * 4 + [False] * 6
    assert [inflate(each) for each in packed] == [b"x" * 60_000] * 10
    assert pack_all([b"", frame], 15)[0] == b""


def test_threads_do_not_mix() -> None:
    """Event loops in several threads share a compressor."""
    payloads = [bytes([65 + number]) * 50 + PROSE for number in range(4)]
    wrong: list[bytes] = []

    def work(payload: bytes) -> None:
        wrong.extend(payload for _ in range(300) if inflate(pack(text_frame(payload * 9), 11)) != payload * 9)

    threads = [threading.Thread(target=work, args=(payload,)) for payload in payloads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@dataclass
class CountingForm:
    """A form that knows how often it was asked, and what came of it."""

    asked: int = 0
    positioned = True

    def __hash__(self) -> int:
        return id(self)

    @property
    def next(self) -> CountingForm:
        return self

    def frames(self, channel: str, events: list[Event], base: Publication | None) -> list[bytes]:
        self.asked += 1
        return RAW.frames(channel, events, base)


def test_a_compressed_form() -> None:
    """Who has the same form and window shares a group; who has none keeps the form itself."""
    form = CountingForm()
    assert deflated(form, 0) is form
    compressed = deflated(form, 15)
    assert compressed == deflated(form, 15) != deflated(form, 12)
    assert hash(compressed) == hash(deflated(form, 15))
    assert compressed.positioned
    assert compressed.next is compressed
    [frame] = compressed.frames("x", [Publication(PROSE, DataKind.TEXT)], None)
    assert (inflate(frame), form.asked) == (PROSE, 1)
    assert len(frame) < len(PROSE) / 10


def test_a_compressed_form_for_the_first_events() -> None:
    """It goes on to what its form goes on to."""
    first = JsonForm(delta=True)
    assert deflated(first, 15).next == deflated(first.next, 15) != deflated(first, 15)


# Reading

payloads = st.one_of(st.text(max_size=600), st.text("ab", max_size=600)).map(str.encode)
sendings = st.lists(
    st.one_of(
        st.tuples(st.sampled_from((Opcode.TEXT, Opcode.BINARY)), payloads),
        st.tuples(st.just(Opcode.BINARY), st.binary(max_size=600)),
    ),
    max_size=6,
)
settings_of_others = st.tuples(
    st.integers(9, 15),
    st.integers(0, 9),
    st.sampled_from((zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_FIXED, zlib.Z_RLE)),
)


@given(sendings, st.integers(1, 50), settings_of_others, st.data())
def test_any_cutting_gives_the_same_messages(
    sent: list[tuple[int, bytes]], step: int, options: tuple[int, int, int], data: st.DataObject
) -> None:
    """However others compress, fragment and mix, and however TCP cuts it, the messages come out."""
    stream = b""
    for opcode, payload in sent:
        rsv = data.draw(st.sampled_from((RSV1, 0)))
        body = compress(payload, *options) if rsv else payload
        cut = data.draw(st.integers(0, len(body)))
        if cut < len(body):
            stream += client_frame(opcode, body[:cut], fin=False, rsv=rsv)
            stream += client_frame(Opcode.PING, b"between")
            stream += client_frame(Opcode.CONT, body[cut:])
        else:
            stream += client_frame(opcode, body, rsv=rsv)
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    got = [event for event in read_all(InflatingParser(5000), *pieces) if event != (Opcode.PING, b"between")]
    assert got == sent
    whole = InflatingParser(5000, stream)
    assert [event for event in read_all(whole, b"") if event != (Opcode.PING, b"between")] == sent


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(bytes.fromhex("f248cdc9c90700"), id="fixed"),
        pytest.param(bytes.fromhex("000500faff48656c6c6f00"), id="stored"),
        pytest.param(bytes.fromhex("f348cdc9c9070000"), id="last-block"),
        pytest.param(bytes.fromhex("f248050000 00ffff cac9c90700".replace(" ", "")), id="two-blocks"),
    ],
)
def test_the_examples_of_the_rfc(stream: bytes) -> None:
    """§7.2.3: one compressed message in all the ways shown, in one frame and in two."""
    assert read(InflatingParser(100), client_frame(1, stream, rsv=RSV1)) == [(1, b"Hello")]
    for cut in range(len(stream) + 1):
        parts = client_frame(1, stream[:cut], fin=False, rsv=RSV1) + client_frame(0, stream[cut:])
        assert read(InflatingParser(100), parts, client_frame(1, b"Hello")) == [(1, b"Hello")] * 2


def test_an_empty_message() -> None:
    """§7.2.3.6."""
    assert read(InflatingParser(100), client_frame(1, b"\x00", rsv=RSV1)) == [(1, b"")]
    parts = client_frame(2, b"", fin=False, rsv=RSV1) + client_frame(0, b"\x00", fin=False) + client_frame(0, b"")
    assert read(InflatingParser(100), parts) == [(2, b"")]


def test_each_message_stands_alone() -> None:
    """A client that keeps its context against what was agreed is refused, not misread."""
    compressor = zlib.compressobj(wbits=-15)
    first, second = ((compressor.compress(PROSE) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4] for _ in range(2))
    assert refusal(client_frame(1, first, rsv=RSV1), client_frame(1, second, rsv=RSV1)) == ([(1, PROSE)], 1007)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(client_frame(1, b"x", rsv=RSV2), id="rsv2"),
        pytest.param(client_frame(1, b"\x00", rsv=RSV1 | RSV3), id="rsv1-and-3"),
        pytest.param(client_frame(Opcode.PING, b"\x00", rsv=RSV1), id="ping"),
        pytest.param(client_frame(Opcode.CLOSE, b"", rsv=RSV1), id="close"),
        pytest.param(client_frame(Opcode.CONT, b"\x00", rsv=RSV1), id="continuation-of-nothing"),
        pytest.param(client_frame(1, b"\x00", fin=False, rsv=RSV1) + client_frame(0, b"", rsv=RSV1), id="continuation"),
        pytest.param(
            client_frame(1, b"x", fin=False) + client_frame(1, b"\x00", rsv=RSV1), id="message-inside-message"
        ),
        pytest.param(client_frame(3, b"\x00", rsv=RSV1), id="reserved-opcode"),
        pytest.param(client_frame(1, b"\x00", rsv=RSV1, masked=False), id="unmasked"),
        pytest.param(b"\xc2\xff" + b"\xff" * 8, id="size-with-top-bit"),
    ],
)
def test_where_rsv1_may_not_be(broken: bytes) -> None:
    """It is for the first frame of a data message; what stood before is given."""
    good = client_frame(1, compress(b"good"), rsv=RSV1)
    assert refusal(good + broken) == ([(1, b"good")], 1002)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff" * 30, id="garbage"),
        pytest.param(b"\x07", id="reserved-block-type"),
        pytest.param(compress(PROSE)[:-1], id="cut"),
        pytest.param(compress(PROSE)[:20], id="cut-early"),
        pytest.param(compress(PROSE) + b"\x00\x00\xff", id="too-long"),
        pytest.param(zlib.compress(PROSE), id="zlib-header"),
        pytest.param(b"\x00\x05\x00\xfa\xffHel", id="cut-stored-block"),
        pytest.param(b"\x03\x00", id="last-block-alone"),
    ],
)
def test_malformed_streams(stream: bytes) -> None:
    """What is no deflate stream, or ends in the middle of one, is refused with 1007."""
    good = client_frame(1, b"good")
    assert refusal(good + client_frame(2, stream, rsv=RSV1)) == ([(1, b"good")], 1007)
    parts = client_frame(2, stream[:7], fin=False, rsv=RSV1) + client_frame(0, stream[7:])
    assert refusal(good + parts) == ([(1, b"good")], 1007)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(stream: bytes, valid_start: bool) -> None:
    """No other exception comes out, and nothing beyond the limit."""
    body = (compress(PROSE)[:40] if valid_start else b"") + stream
    parser = InflatingParser(3000)
    try:
        [(_, payload)] = read_all(parser, client_frame(2, body, rsv=RSV1))
    except FrameError as refused:
        code = refused.disconnect.code
    else:
        code = 1000
        assert len(payload) <= 3000
    assert code in (1000, 1007, 1009)


def test_text_is_checked_while_it_is_inflated() -> None:
    """Text that can no longer become UTF-8 is refused before its end."""
    body = compress(b"x" * 50 + b"\xff" + os.urandom(3000))
    assert refusal(client_frame(1, body, rsv=RSV1)[:-500]) == ([], 1007)
    assert refusal(client_frame(1, compress(b"\xce"), rsv=RSV1)) == ([], 1007)
    assert read_all(InflatingParser(9000), client_frame(2, body, rsv=RSV1))[0][1][50] == 0xFF


# Limits


def test_the_limit_is_for_what_comes_out() -> None:
    """A message of the largest size is read, though deflate makes noise longer than it was; one byte more is not."""
    for payload in (os.urandom(10_000), b"x" * 10_000):
        for level in (0, 6):
            body = compress(payload, level=level)
            assert read_all(InflatingParser(10_000), client_frame(2, body, rsv=RSV1)) == [(2, payload)]
            assert refusal(client_frame(2, body, rsv=RSV1), max_size=9_999) == ([], 1009)


def test_compressed_bytes_have_a_limit_too() -> None:
    """From the header, over fragments, and if nothing comes out."""
    assert refusal(client_frame(2, b"x" * 20_000, rsv=RSV1)[:8]) == ([], 1009)
    fragment = client_frame(0, b"\x00\x00\x00\xff\xff" * 200, fin=False)
    assert refusal(client_frame(2, b"", fin=False, rsv=RSV1) + fragment * 20) == ([], 1009)
    last_blocks = client_frame(0, b"\x03\x00" * 1000, fin=False)
    assert refusal(client_frame(2, b"", fin=False, rsv=RSV1) + last_blocks * 20) == ([], 1009)


def bomb(size: int) -> bytes:
    """A message that inflates to `size` zero bytes, whole MiB: blocks that do not look back can be repeated."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return (block * (size >> 20)).removesuffix(b"\x00\x00\xff\xff")


@pytest.mark.parametrize("limit", [2**16, 2**20])
def test_a_bomb(limit: int) -> None:
    """64 MiB in 64 KiB are refused with 1009 when the limit is passed, having taken twice the limit at most."""
    body = bomb(2**26)
    pieces = [body[at : at + 16384] for at in range(0, len(body), 16384)]
    fragments = [client_frame(2, pieces[0], fin=False, rsv=RSV1)]
    fragments += [client_frame(0, piece, fin=False) for piece in pieces[1:]]
    tracemalloc.start()
    try:
        assert refusal(*fragments, max_size=limit) == ([], 1009)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * limit + 200_000  # the pieces themselves, and zlib's window


def test_a_large_message_takes_turns() -> None:
    """Others get their turn while it is inflated, and it is whole in the end."""
    size = 16 * 2**20
    parser = InflatingParser(size)
    stream = client_frame(2, compress(bytes(size)), rsv=RSV1) + client_frame(1, b"next")
    events, turns = [], 0
    for piece in (stream, *[b""] * 200):
        before = len(parser._message or b"")
        events += parser.messages(piece, 128)
        assert len(parser._message or b"") - before <= deflate.MOST_A_TURN + deflate.STEP
        turns += 1
        if not parser.interrupted:
            break
    assert turns > size / (deflate.MOST_A_TURN + deflate.STEP)
    assert events == [(2, bytes(size)), (1, b"next")]


def test_work_for_nothing_takes_turns() -> None:
    """Ends of streams, each of which costs a new context and brings nothing, are not handled all at once."""
    parser, turns = InflatingParser(10_000), 1
    events = list(parser.messages(client_frame(2, b"\x03\x00" * 4000 + b"\x00", rsv=RSV1), 128))
    while parser.interrupted:
        events += parser.messages(b"", 128)
        turns += 1
    assert events == [(2, b"")]
    assert turns > 4000 * deflate.LEAST_STEP / deflate.MOST_A_TURN


def test_small_messages_are_read_in_one_turn() -> None:
    """Nobody waits for what is there."""
    parser = InflatingParser(5000)
    stream = client_frame(1, compress(PROSE), rsv=RSV1)
    assert list(parser.messages(stream * 30, 128)) == [(1, PROSE)] * 30
    assert not parser.interrupted
    assert parser._inflater is None
