"""Frames: what one side builds the other reads, whatever the pieces; what breaks RFC 6455 gets its close code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.frames import Opcode as PeerOpcode

from hub.protocol import frames
from hub.protocol.frames import FrameError, FrameParser, Opcode

MASK = b"\x11\x22\x33\x44"


def client_frame(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """A frame as a client would send it."""
    size = len(payload)
    head = bytes((fin << 7 | rsv << 4 | opcode,))
    bit = 0x80 if masked else 0
    if size < 126:
        head += bytes((bit | size,))
    elif size < 65536:
        head += bytes((bit | 126,)) + size.to_bytes(2, "big")
    else:
        head += bytes((bit | 127,)) + size.to_bytes(8, "big")
    return head + MASK + frames.unmask(payload, MASK) if masked else head + payload


def read(parser: FrameParser, *pieces: bytes, budget: int = 1_000_000) -> list[tuple[int, bytes]]:
    """All events of the pieces, fed one after another."""
    return [event for piece in pieces for event in parser.messages(piece, budget)]


def refusal(*pieces: bytes, max_size: int = 1000) -> tuple[list[tuple[int, bytes]], int]:
    """What was read before the error, and the error's close code."""
    seen: list[tuple[int, bytes]] = []
    parser = FrameParser(max_size)
    try:
        for piece in pieces:
            for event in parser.messages(piece, 1000):
                seen.append(event)
    except FrameError as error:
        return seen, error.disconnect.code
    pytest.fail("nothing was refused")


messages = st.lists(
    st.one_of(
        st.tuples(st.just(Opcode.TEXT), st.text(max_size=300).map(str.encode)),
        st.tuples(st.just(Opcode.BINARY), st.binary(max_size=300)),
        st.tuples(st.sampled_from((Opcode.PING, Opcode.PONG)), st.binary(max_size=125)),
    ),
    max_size=8,
)


@given(messages, st.integers(1, 40), st.data())
def test_any_cutting_gives_the_same_messages(sent: list[tuple[int, bytes]], step: int, data: st.DataObject) -> None:
    """However fragments and TCP segments cut a stream, the same messages come out."""
    stream = b""
    for opcode, payload in sent:
        cut = data.draw(st.integers(0, len(payload))) if opcode < 8 else len(payload)
        if cut < len(payload):
            stream += client_frame(opcode, payload[:cut], fin=False)
            stream += client_frame(Opcode.PING, b"between")
            stream += client_frame(Opcode.CONT, payload[cut:])
        else:
            stream += client_frame(opcode, payload)
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    got = [event for event in read(FrameParser(1000), *pieces) if event != (Opcode.PING, b"between")]
    assert got == sent


@given(messages)
def test_a_budget_interrupts_and_loses_nothing(sent: list[tuple[int, bytes]]) -> None:
    """With a budget of one frame a call, repeated calls give everything, in order."""
    parser = FrameParser(1000)
    got = list(parser.messages(b"".join(client_frame(*message) for message in sent), 1))
    while parser.interrupted:
        got += parser.messages(b"", 1)
    assert got == sent


@given(messages, st.integers(0, 3))
def test_a_caller_may_stop(sent: list[tuple[int, bytes]], cut: int) -> None:
    """Whoever leaves the loop after a message goes on with the next one; `interrupted` says whether there is any."""
    stream = b"".join(client_frame(*message) for message in sent)
    parser, got = FrameParser(1000, stream[: len(stream) - cut]), []
    while parser.interrupted:
        for event in parser.messages(b"", 100):
            got.append(event)
            break
    got += parser.messages(stream[len(stream) - cut :], 100)
    assert got == sent


def test_a_few_bytes_do_not_keep_a_large_read() -> None:
    """What is parsed is let go, though the beginning of a frame stays: idle connections must not hold their reads."""
    parser = FrameParser(200_000)
    assert len(read(parser, client_frame(2, b"x" * 100_000) + b"\x82")) == 1
    assert parser._buffer == b"\x82"
    assert read(parser, client_frame(2, b"y")[1:]) == [(2, b"y")]
    assert parser._buffer == b""


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_written_frames_are_those_of_another_implementation(size: int) -> None:
    """Our frames are, byte for byte, those that the websockets library writes."""
    payload = b"x" * size
    assert frames.text_frame(payload) == Frame(PeerOpcode.TEXT, payload).serialize(mask=False)
    assert frames.binary_frame(payload) == Frame(PeerOpcode.BINARY, payload).serialize(mask=False)
    assert list(frames.split(frames.text_frame(payload) + frames.binary_frame(b"y"))) == [(1, payload), (2, b"y")]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(client_frame(Opcode.TEXT, b"x", masked=False), id="unmasked"),
        pytest.param(client_frame(Opcode.TEXT, b"x", rsv=4), id="rsv1"),
        pytest.param(client_frame(3, b"x"), id="reserved-opcode"),
        pytest.param(client_frame(11, b"x"), id="reserved-control-opcode"),
        pytest.param(client_frame(Opcode.PING, b"x", fin=False), id="fragmented-ping"),
        pytest.param(client_frame(Opcode.PING, b"x" * 126), id="long-ping"),
        pytest.param(client_frame(Opcode.CONT, b"x"), id="continuation-of-nothing"),
        pytest.param(client_frame(1, b"x", fin=False) + client_frame(1, b"y"), id="message-inside-message"),
        pytest.param(b"\x82\xff" + b"\xff" * 8, id="size-with-top-bit"),
    ],
)
def test_protocol_errors_come_after_the_good_messages(broken: bytes) -> None:
    """A broken frame is refused with 1002, and what stood before it in the segment is still given."""
    seen, code = refusal(client_frame(Opcode.TEXT, b"good") + broken)
    assert seen == [(Opcode.TEXT, b"good")]
    assert code == 1002


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_byte_by_byte(size: int) -> None:
    """A header may be cut anywhere."""
    stream = client_frame(Opcode.BINARY, b"x" * size)
    head, tail = stream[:20], stream[20:]
    got = read(FrameParser(100_000), *(head[at : at + 1] for at in range(len(head))), tail)
    assert got == [(Opcode.BINARY, b"x" * size)]


def test_too_big_is_refused_from_the_header() -> None:
    """The size limit acts before any payload arrives, also over fragments."""
    assert refusal(client_frame(Opcode.BINARY, b"x" * 1001)[:8]) == ([], 1009)
    parts = client_frame(Opcode.BINARY, b"x" * 600, fin=False) + client_frame(Opcode.CONT, b"x" * 401)
    assert refusal(parts) == ([], 1009)
    assert read(FrameParser(1000), client_frame(Opcode.BINARY, b"x" * 1000)) == [(2, b"x" * 1000)]


@pytest.mark.parametrize(
    "pieces",
    [
        [client_frame(Opcode.TEXT, b"\xff")],
        [client_frame(Opcode.TEXT, b"abc\xff" + b"x" * 500)[:20]],
        [client_frame(Opcode.TEXT, b"\xce", fin=False), client_frame(Opcode.CONT, b"\xff", fin=False)],
        [client_frame(Opcode.TEXT, b"\xce", fin=False), client_frame(Opcode.CONT, b"")],
    ],
)
def test_invalid_utf8_fails_fast(pieces: list[bytes]) -> None:
    """Text that can no longer become UTF-8 is refused with 1007 at once, inside an unfinished frame too."""
    assert refusal(*pieces) == ([], 1007)


def test_a_million_fragments_cost_one_buffer() -> None:
    """One-byte fragments are assembled without an object each."""
    parser = FrameParser(100_000)
    read(parser, client_frame(Opcode.BINARY, b"", fin=False))
    fragment = client_frame(Opcode.CONT, b"x", fin=False)
    assert read(parser, fragment * 50_000) == []
    assert read(parser, client_frame(Opcode.CONT, b"")) == [(Opcode.BINARY, b"x" * 50_000)]


@pytest.mark.parametrize("payload", [b"x", b"\x03\xe7", b"\x03\xed", b"\x13\x88", b"\x07\xcf"])
def test_bad_close_payloads(payload: bytes) -> None:
    """One byte, codes that may not be sent, and codes out of range are protocol errors (§7.4)."""
    with pytest.raises(FrameError) as caught:
        frames.parse_close(payload)
    assert caught.value.disconnect.code == 1002


def test_close_frames() -> None:
    """Codes and reasons round-trip; a long reason is cut to fit a control frame, between characters."""
    assert frames.parse_close(b"") == (1005, "")
    assert frames.parse_close(frames.close_frame(4400, "why")[2:]) == (4400, "why")
    long = frames.close_frame(1000, "é" * 100)
    assert len(long) == 2 + 2 + 122
    assert frames.parse_close(long[2:]) == (1000, "é" * 61)
    with pytest.raises(FrameError) as caught:
        frames.parse_close(b"\x03\xe8\xff")
    assert caught.value.disconnect.code == 1007
