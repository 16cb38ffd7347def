"""What goes into Redis comes out of it; what somebody else put there is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hub.protocol import envelope
from hub.types import DataKind, Membership, Publication

TEXTS = st.text()
JSON = st.recursive(st.none() | st.integers() | TEXTS, lambda inner: st.lists(inner, max_size=3)).map(
    lambda value: json.dumps(value, ensure_ascii=False).encode()
)
INFOS = st.dictionaries(TEXTS, TEXTS, max_size=2).map(lambda info: json.dumps(info).encode())
DATA = {DataKind.TEXT: TEXTS.map(str.encode), DataKind.BINARY: st.binary(), DataKind.JSON: JSON}
# Every shape that a publication has before it has a position. No tags are the same as an empty table of them.
PUBLICATIONS = st.sampled_from(DataKind).flatmap(
    lambda kind: st.builds(
        Publication,
        DATA[kind],
        st.just(kind),
        st.binary(max_size=255),
        st.just(b"") | INFOS,
        st.none() | st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=3),
        st.booleans(),
        trace=st.just("") | st.text("0123456789abcdef-", min_size=1, max_size=255),
    )
)
EPOCHS = st.text("abcxyz0189.", min_size=1, max_size=40)

# Round trips


@given(PUBLICATIONS)
def test_publications(publication: Publication) -> None:
    """Data, kind, who is excluded, info, tags and the wish for a delta survive byte for byte."""
    assert envelope.decode(envelope.encode(publication)) == publication


@given(PUBLICATIONS, st.integers(1, 2**63 - 1), EPOCHS)
def test_positions(publication: Publication, offset: int, epoch: str) -> None:
    """The position that the broker puts in front comes out with the rest, which is the same with and without it."""
    payload = envelope.positioned(envelope.encode(publication), offset, epoch)
    assert envelope.decode(payload) == replace(publication, offset=offset, epoch=epoch)


@given(st.booleans(), INFOS)
def test_joins_and_leaves(joined: bool, info: bytes) -> None:
    """Who it was, and whether it came or went."""
    assert envelope.decode(envelope.membership(joined, info)) == Membership(joined, info)


def test_the_bytes() -> None:
    """Workers of two versions share a Redis while they are replaced: these formats stay as they are."""
    rich = Publication(b"1", DataKind.JSON, b"me", b"{}", {"k": "v"}, True)
    written = [
        (Publication(b"hi"), b"t\0hi"),
        (Publication(b"\xff", DataKind.BINARY, b"me"), b"b\2me\xff"),
        (Publication(b"1", DataKind.JSON, delta=True), b"dj\0001"),
        (Publication(b"1", DataKind.JSON, info=b"{}"), b"m\0\0\0\2{}\0\0\0\0j\0001"),
        (Publication(b"hi", trace="00-a-b-01"), b"x\t00-a-b-01t\0hi"),
        (replace(rich, trace="1-2"), b'm\0\0\0\2{}\0\0\0\t{"k":"v"}dx\0031-2j\2me1'),
        (rich, b'm\0\0\0\2{}\0\0\0\t{"k":"v"}dj\2me1'),
    ]
    for publication, payload in written:
        assert envelope.encode(publication) == payload
        assert envelope.decode(payload) == publication
    assert envelope.positioned(b"t\0hi", 12, "xyz") == b"p12:xyz:t\0hi"
    leapt = envelope.decode(b"p12:xyz:l7:t\0hi")
    assert leapt == Publication(b"hi", offset=12, epoch="xyz", before=7)
    assert (leapt.previous, replace(leapt, before=0).previous) == (7, 11)
    for wrong in (b"l0:", b"l12:", b"l13:", b"l-1:", b"l:", b"lx:", b"l7"):
        with pytest.raises(ValueError, match=r"not a publication|invalid literal"):
            envelope.decode(b"p12:xyz:" + wrong + b"t\0hi")
    assert envelope.membership(True, b"{}") == b"+{}"
    assert envelope.membership(False, b"{}") == b"-{}"


def test_no_tags() -> None:
    """An empty table of them is not sent."""
    assert envelope.encode(Publication(b"1", tags={})) == envelope.encode(Publication(b"1"))


def test_an_id_that_is_too_long() -> None:
    """Its length has one byte."""
    assert envelope.decode(envelope.encode(Publication(b"1", exclude=b"x" * 255))) == Publication(
        b"1", exclude=b"x" * 255
    )
    with pytest.raises(ValueError, match="bytes must be in range"):
        envelope.encode(Publication(b"1", exclude=b"x" * 256))


# What is not ours


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"hello", b'{"a":1}', b"\x00\x00x", b"z\0x",
        # Broken off, or with a wrong length.
        b"t", b"b", b"j", b"t\x05abc", b"m", b"m\0\0", b"m\0\0\0\2{", b"m\0\0\0\0", b"m\0\0\0\0\0\0", b"d", b"p", b"p1",
        b"m\0\0\0\0\0\0\0\0", b"m\xff\xff\xff\xff", b"p1:e", b"p1:e:", b"p1:e:t", b"p1:e:t\x02a",
        b"x", b"x\0", b"x\2a", b"x\2ab", b"x\1\xfft\0x", b"p1:e:x",
        # In another order than they are written in.
        b"dm\0\0\0\0\0\0\0\0t\0x", b"ddt\0x", b"m\0\0\0\0\0\0\0\0m\0\0\0\0\0\0\0\0t\0x", b"p1:e:p2:e:t\0x",
        b"dp1:e:t\0x", b"p1:e:+{}", b"d+{}", b"x\1axt\0x", b"x\1adt\0x", b"m\0\0\0\0\0\0\0\0-{}",
        # JSON that is none, or would not be one line in one message.
        b"j\0", b"j\0x", b"j\0{", b"j\0001 2", b"j\0[1,\n2]", b'j\0"a\nb"', b"p1:e:j\0x", b"+", b"-{",
        b"+1", b'+"{}"', b"-[]", b"+{}{}", b"-{\n}",
        b"m\0\0\0\1{\0\0\0\0t\0x", b"m\0\0\0\2[]\0\0\0\0t\0x", b"m\0\0\0\3{}\n\0\0\0\0t\0x",
        # Positions that are none.
        b"p0:e:t\0x", b"p-1:e:t\0x", b"p9223372036854775808:e:t\0x",
        b"p:e:t\0x", b"px:e:t\0x", b"p1.5:e:t\0x", b"p" + b"1" * 40 + b":e:t\0x", b"p1:" + b"e" * 80 + b":t\0x",
        # Tags that are none.
        b"m\0\0\0\0\0\0\0\2[]t\0x", b'm\0\0\0\0\0\0\0\7{"a":1}t\0x', b"m\0\0\0\0\0\0\0\1{t\0x",
        b'm\0\0\0\0\0\0\0\7{"\xff":""}t\0x',
    ],
)  # fmt: skip
def test_foreign_payloads_are_refused(payload: bytes) -> None:
    """Each with the same sentence, or what Python says of the number or text in it."""
    with pytest.raises(ValueError, match=r"not a publication of this hub|codec|invalid literal"):
        envelope.decode(payload)


@pytest.mark.parametrize(
    "payload", [b"t\0\xff", b"j\0\xff", b"+\xff", b"-\xff", b"m\0\0\0\1\xff\0\0\0\0t\0x", b"p1:\xff:t\0x"]
)
def test_text_is_utf8(payload: bytes) -> None:
    """Browsers would drop their connections over one text frame that is not; binary data may be anything."""
    with pytest.raises(UnicodeDecodeError):
        envelope.decode(payload)
    assert envelope.decode(b"b\0\xff") == Publication(b"\xff", DataKind.BINARY)


def test_json_that_is_too_deep_to_look_at() -> None:
    """Passes: it was published so, and whoever reads it takes it or leaves it."""
    data = b"[" * 100_000 + b"]" * 100_000
    assert envelope.decode(b"j\0" + data) == Publication(data, DataKind.JSON)


@pytest.mark.parametrize(
    ("data", "fits"),
    [(b"{}", True), (b'{"user":"\xc3\xa9"}', True), (b"", False), (b"[]", False), (b'"{}"', False), (b"{", False),
     (b"{\n}", False), (b'{"user":"\xff"}', False), (b" {}", False)],
)  # fmt: skip
def test_what_is_told_of_somebody(data: bytes, fits: bool) -> None:
    """One JSON object in one line, as in joins."""
    assert envelope.is_json_object(data) is fits


WRITTEN = st.one_of(
    PUBLICATIONS.map(envelope.encode),
    PUBLICATIONS.map(lambda publication: envelope.positioned(envelope.encode(publication), 3, "xyz")),
    INFOS.map(lambda info: envelope.membership(True, info)),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Of our own, but with some bytes missing, others, or too many; or broken off."""
    payload = bytearray(draw(WRITTEN))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(payload)))
        payload[at : at + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=3) | st.sampled_from([b"p", b"m", b"d", b":"])
        )
    return bytes(payload[: draw(st.integers(0, len(payload)))] if draw(st.booleans()) else payload)


@given(st.binary() | damaged() | st.lists(st.sampled_from("mdptbj+-0:\0"), max_size=12).map("".join).map(str.encode))
def test_junk(payload: bytes) -> None:
    """A value that can be written to clients, or ValueError; nothing else is ever raised."""
    try:
        event = envelope.decode(payload)
    except ValueError:
        return
    event.info.decode()
    if isinstance(event, Publication):
        assert event.kind is DataKind.BINARY or event.data.decode() is not None
        assert all(isinstance(part, str) for pair in (event.tags or {}).items() for part in pair)
        assert envelope.decode(envelope.encode(event)) == replace(event, offset=0, epoch="", tags=event.tags or None)
