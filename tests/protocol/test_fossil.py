"""Deltas give back the target, are UTF-8 where they must be, are short for edits and never slow."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hub.protocol.fossil import MAX_BLOCKS, MAX_COPIES, _blocks, _Writer, apply, create

# What a real server sent for a change of one character; the source behind it was not recorded.
SAMPLE = b"1F\n7:" + b'{"i": 1' + b"18@7,1fjD3N;"


def source_of_the_sample() -> bytes:
    """One with the right length and checksum: its last bytes are chosen by the sum of the rest."""
    begin, checksum = b'{"i": 0' + b"x" * 65, 1 << 30 | 42 << 24 | 46 << 18 | 13 << 12 | 3 << 6 | 23
    padded = b'{"i": 1' + begin[7:]
    rest = sum(int.from_bytes(padded[at : at + 4], "big") for at in range(0, 72, 4))
    missing = (checksum - rest) % 2**32
    # The target has 79 bytes: one whole word and three bytes follow.
    last = missing % 256
    return begin + ((missing - last) % 2**32).to_bytes(4, "big")[:3] + bytes((last,)) + b"\0\0\0"


# Round trips

BYTES = st.binary(max_size=300) | st.text("ab", max_size=300).map(str.encode)
# Characters of one to four bytes that begin alike: é è ê, ü, 中 丽, 🎉 🎊.
TEXT = st.text("aé" + "èê" + "ü中丽🎉🎊" + '"\n', max_size=120).map(str.encode)


@st.composite
def edited(draw: st.DrawFn, texts: st.SearchStrategy[bytes]) -> tuple[bytes, bytes]:
    """Two that have pieces in common, in any order."""
    pieces = draw(st.lists(texts, min_size=1, max_size=6))
    return tuple(b"".join(draw(st.lists(st.sampled_from(pieces), max_size=8))) for _ in range(2))  # type: ignore[return-value]


@given(edited(BYTES) | st.tuples(BYTES, BYTES), st.booleans())
@example((b"", b""), False)
@example((b"", b"abc"), False)
@example((b"abc", b""), False)
def test_round_trip(pair: tuple[bytes, bytes], text: bool) -> None:
    """Any two byte strings, with `text` as well: it needs no more than that to be right."""
    source, target = pair
    assert apply(source, create(source, target, text=text)) == target


@given(edited(TEXT) | st.tuples(TEXT, TEXT))
@example(("né".encode() * 20, "nè".encode() * 20))
@example(("abcdefghijké".encode(), "abcdefghijkè".encode()))
@example(("éabcdefghijk".encode(), "èabcdefghijk".encode()))
@example(("🎉abcdefghijk🎊".encode(), "🎊abcdefghijk🎉".encode()))
def test_a_delta_of_text_is_text(pair: tuple[bytes, bytes]) -> None:
    """However characters share bytes, the delta is UTF-8, and still the right one."""
    source, target = pair
    delta = create(source, target, text=True)
    delta.decode()
    assert apply(source, delta) == target


@given(st.binary(max_size=20).map(lambda value: b"\x80" * 60 + value))
def test_text_that_is_none(target: bytes) -> None:
    """With `text` and a target that is not UTF-8, only the promise about the delta's own UTF-8 is void."""
    for source in (b"\x80" * 50, target[::-1]):
        assert apply(source, create(source, target, text=True)) == target


def test_half_characters() -> None:
    """é to è is the last byte of two: with `text` the whole character is a literal, without it the copy is longer."""
    source, target = ('{"name":"René ' + "x" * 40).encode(), ('{"name":"Renè ' + "x" * 40).encode()
    assert "2:è".encode() in create(source, target, text=True)
    with pytest.raises(UnicodeDecodeError):
        create(source, target, text=False).decode()


# Length


def document(count: int) -> list[dict[str, object]]:
    rng = random.Random(count)
    return [
        {"id": number, "name": f"Müller {number}", "price": round(rng.random() * 100, 2), "on": rng.random() < 0.5}
        for number in range(count)
    ]


def encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def change_one(rows: list[dict[str, object]]) -> None:
    rows[len(rows) // 2]["price"] = "sold"


def change_some(rows: list[dict[str, object]]) -> None:
    for row in rows[::5]:
        row["on"] = "perhaps"


def insert(rows: list[dict[str, object]]) -> None:
    rows.insert(len(rows) // 3, {"id": -1, "name": "new"})


def append(rows: list[dict[str, object]]) -> None:
    rows.append({"id": len(rows), "name": f"Müller {len(rows)}", "price": 1, "on": True})


def remove(rows: list[dict[str, object]]) -> None:
    del rows[1 : len(rows) // 2]


def move(rows: list[dict[str, object]]) -> None:
    rows.insert(0, rows.pop())


@pytest.mark.parametrize(
    ("edit", "share"),
    [(change_one, 0.02), (change_some, 0.11), (insert, 0.02), (append, 0.03), (remove, 0.02), (move, 0.03)],
)
def test_edits_of_json(edit: Callable[[list[dict[str, object]]], None], share: float) -> None:
    """What clients save: the delta has a small part of the document's bytes."""
    rows = document(50)
    source = encode(rows)
    edit(rows)
    target = encode(rows)
    delta = create(source, target, text=True)
    assert apply(source, delta) == target
    assert len(delta) <= share * len(target) + 12  # length and checksum


def test_copies_pay() -> None:
    """No copy is longer than what it copies, so a delta exceeds its target only by its head and end."""
    rng = random.Random(1)
    for _ in range(200):
        source, target = (bytes(rng.choices(b"abc", k=rng.randrange(200))) for _ in range(2))
        assert len(create(source, target, text=True)) <= len(target) + 15


def test_a_copy_between_literals() -> None:
    """It has to pay for the head of the literal that it cuts off as well."""
    assert _Writer(bytes(20), False).copy(0, 8, 300_000)
    assert not _Writer(bytes(20), False).copy(5, 13, 300_000)
    assert _Writer(bytes(20), False).copy(5, 15, 300_000)


def test_the_same() -> None:
    """One copy of everything."""
    assert create(b"x" * 64, b"x" * 64, text=True).startswith(b"10\n10@0,")


def test_nothing() -> None:
    """The empty target needs neither copy nor literal."""
    assert create(b"abc", b"", text=True) == b"0\n0;"


# Time

SIZE = 1 << 20
EVIL = {
    "random": (random.Random(1).randbytes(SIZE), random.Random(2).randbytes(SIZE)),
    "one letter": (b"a" * SIZE, (b"a" * 100 + b"b") * (SIZE // 101)),
    "nearly one letter": ((b"a" * 15 + b"b") * (SIZE // 16), b"a" * SIZE),
    "copies that hardly pay": (
        b"abcdefgh1" * (SIZE // 9),
        b"".join(b"abcdefgh%c" % (50 + number % 70) for number in range(SIZE // 9)),
    ),
    "half characters": ("é".encode() * (SIZE // 2), "è".encode() * (SIZE // 2)),
    "continuations": (b"\x80" * SIZE, (b"\x80" * 50 + b"\x81") * (SIZE // 51)),
    "short": (b"a" * SIZE, b"ab" * 10),
}


@pytest.mark.parametrize("pair", EVIL.values(), ids=EVIL)
def test_time(pair: tuple[bytes, bytes]) -> None:
    """A megabyte that was made to be slow takes a fraction of the second that it may."""
    began = time.thread_time()
    delta = create(*pair, text=True)
    assert time.thread_time() - began < 1
    assert apply(pair[0], delta) == pair[1]


def test_bounds() -> None:
    """The table of a large source and the number of copies are limited, whatever the content."""
    assert 1000 < len(_blocks(random.Random(3).randbytes(SIZE))) <= MAX_BLOCKS + 1
    assert 1000 < create(*EVIL["nearly one letter"], text=False).count(b"@") <= MAX_COPIES + 1


# Decoding


def test_the_sample() -> None:
    """What a real server sent is understood."""
    source = source_of_the_sample()
    assert apply(source, SAMPLE) == b'{"i": 1' + source[7:]
    with pytest.raises(ValueError, match="another source"):
        apply(source.replace(b"x", b"y"), SAMPLE)


@pytest.mark.parametrize(
    "delta",
    [
        b"",
        b"3",
        b"3\n",
        b"3\n3:abc",
        b"3\n3:abc9FZ0",
        b"3:3:abcOM96;",
        b"3\n3:ab",
        b"3\n4:abcd",
        b"3\n3@",
        b"3\n3@0",
        b"3\n3@0;",
        b"3\n3@1,",
        b"3\n3@~~~~~~,",
        b"3\n~~~~~~@0,",
        b"3\n1:a\n",
        b"3\n1:a,",
        b"3\n!:a",
        b"3\n:a",
        b"0000000\n0;",
        b"1\n0;",
        b"0\n0;0;",
        b"0\n0;\n",
        b"0\n1;",
        b"0\n0:0;\xff",
    ],
)
def test_malformed(delta: bytes) -> None:
    """Each way to be wrong is a ValueError."""
    with pytest.raises(ValueError, match="delta"):
        apply(b"abc", delta)


def test_a_copy_beyond_the_source() -> None:
    """It is not shortened to what there is, even if length and checksum were right then."""
    delta = create(b"abc" * 5, b"abc" * 5, text=False)
    assert delta.startswith(b"F\nF@0,")
    with pytest.raises(ValueError, match="malformed"):
        apply(b"abc" * 5, delta.replace(b"F@0,", b"G@0,"))


def test_a_bomb() -> None:
    """Copies that exceed the promised length are not collected first."""
    source = bytes(1 << 16)
    delta = b"10\n" + b"G00@0," * 1000 + b"0;"
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="malformed"):
            apply(source, delta)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.binary() | st.text("01~@:,;\nabc").map(str.encode))
def test_any_delta(delta: bytes) -> None:
    """Whatever comes, it is a target or a ValueError."""
    try:
        apply(b"abc", delta)
    except ValueError:
        pass


@given(st.binary(min_size=1, max_size=50), st.data())
def test_a_changed_literal(target: bytes, data: st.DataObject) -> None:
    """A byte that was changed on the way does not go unnoticed."""
    delta = bytearray(create(b"", target, text=False))
    place = delta.index(b":") + 1 + data.draw(st.integers(0, len(target) - 1))
    delta[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="checksum"):
        apply(b"", bytes(delta))
