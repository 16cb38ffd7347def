"""Half an emoji in JSON: U+FFFD in its place, and not another byte changed."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.protocol import surrogates
from hub.protocol.surrogates import replace_lone

# All texts that Python's and a browser's JSON can say, the halves of pairs much more often than by chance.
TEXTS = st.text(
    st.characters(exclude_categories=()) | st.characters(categories=["Cs"]) | st.sampled_from('\\"ud83\n\ud83d\ude00')
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def whole(text: str) -> str:
    """As a browser's `toWellFormed`: halves that stand side by side are a pair, any other is U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def wholes(value: Any) -> Any:
    if isinstance(value, dict):
        return {whole(name): wholes(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [wholes(inner) for inner in value]
    return whole(value) if isinstance(value, str) else value


@given(TEXTS)
def test_any_text(text: str) -> None:
    """It is read as the same text with each lone surrogate replaced."""
    assert msgspec.json.decode(replace_lone(json.dumps(text).encode())) == whole(text)


@given(VALUES, st.booleans())
def test_any_json(value: Any, upper: bool) -> None:
    """Wherever in it they stand, names of members too; hexadecimal digits have any case."""
    written = json.dumps(value).encode()
    if upper:
        written = re.sub(rb"(?<=\\u)[0-9a-f]{4}", lambda digits: digits[0].upper(), written)
    assert msgspec.json.decode(replace_lone(written)) == wholes(value)


@given(st.binary() | st.lists(st.sampled_from([b"\\", b"u", b"d83d", b"DE00", b"\\ud83d", b"x"])).map(b"".join))
def test_any_bytes(data: bytes) -> None:
    """What is no JSON has its length, and is what it was the second time."""
    replaced = replace_lone(data)
    assert len(replaced) == len(data)
    assert replace_lone(replaced) == replaced


@pytest.mark.parametrize(
    ("written", "replaced"),
    [
        (rb'"a nice \ud83d"', rb'"a nice \ufffd"'),
        (rb'"\ude00 nice"', rb'"\ufffd nice"'),
        (rb'"\ud83d\ude00"', rb'"\ud83d\ude00"'),
        (rb'"\uD83D\uDE00"', rb'"\uD83D\uDE00"'),
        (rb'"\ude00\ud83d"', rb'"\ufffd\ufffd"'),
        (rb'"\ud83d\ud83d\ude00\ude00"', rb'"\ufffd\ud83d\ude00\ufffd"'),
        (rb'"\\ud83d"', rb'"\\ud83d"'),
        (rb'"\\\ud83d"', rb'"\\\ufffd"'),
        (rb'"\\ud83d\ude00"', rb'"\\ud83d\ufffd"'),
        (rb'"\"\ud83d\""', rb'"\"\ufffd\""'),
        (rb'"\ud83d\n\ude00"', rb'"\ufffd\n\ufffd"'),
        (rb'"\ud7ff\ue000\ufffd\u00e9"', rb'"\ud7ff\ue000\ufffd\u00e9"'),
        ('"\\u00e9 é 😀"'.encode(), '"\\u00e9 é 😀"'.encode()),
        (b'"\\ud83', b'"\\ud83'),
        (b'"\\', b'"\\'),
    ],
)
def test_what_is_replaced(written: bytes, replaced: bytes) -> None:
    """Nothing but halves without their other half; not what only looks like one behind an escaped backslash."""
    assert replace_lone(written) == replaced


@pytest.mark.parametrize("part", [rb"\ud83d", rb"\ud83d\ude00", rb"\ud83d\n", rb"\n", rb"\\", rb"\ud83", b"\\", b"a"])
def test_each_escape_is_looked_at_once(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """However 64 KiB are filled: one match begins where another ends, and none is longer than a pair."""
    ends = [0]

    def replacement(match: re.Match[bytes]) -> bytes:
        assert ends[-1] <= match.start() < match.end() <= match.start() + 12
        ends.append(match.end())
        return given_replacement(match)

    given_replacement = surrogates._replacement
    monkeypatch.setattr(surrogates, "_replacement", replacement)
    text = part * (65536 // len(part))
    assert len(replace_lone(text)) == len(text)
    assert len(ends) <= len(text) // 2 + 1
