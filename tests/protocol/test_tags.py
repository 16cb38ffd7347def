"""Which publications a tags filter lets through, and which filters are none."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.protocol.tags import MAX_DEPTH, MAX_LENGTH, MAX_NODES, MAX_VALUES, parse

Raw = dict[str, Any]


def leaf(cmp: str, val: str | None = None, *, key: str = "k", vals: list[str] | None = None) -> Raw:
    """A comparison without what is None."""
    raw = {"key": key, "cmp": cmp, "val": val, "vals": vals}
    return {name: value for name, value in raw.items() if value is not None}


def branch(op: str, *nodes: Raw) -> Raw:
    return {"op": op, "nodes": list(nodes)}


ANY = ["", "a", "abc", "5", "1e3"]


@pytest.mark.parametrize(
    ("raw", "passing", "others"),
    [
        (leaf("eq", "abc"), ["abc"], [None, "", "ABC", "abcd", "ab"]),
        (leaf("eq"), [""], [None, "a"]),
        (leaf("eq", "5"), ["5"], ["5.0", "+5"]),
        (leaf("neq", "abc"), [None, "", "x"], ["abc"]),
        (leaf("in", vals=["a", "b", ""]), ["a", "b", ""], [None, "c", "ab"]),
        (leaf("nin", vals=["a", "b"]), [None, "", "ab"], ["a", "b"]),
        (leaf("ex"), ANY, [None]),
        (leaf("nex"), [None], ANY),
        (leaf("sw", "ab"), ["ab", "abc"], [None, "", "a", "cab"]),
        (leaf("ew", "bc"), ["bc", "abc"], [None, "", "c", "bcd"]),
        (leaf("ct", "b"), ["b", "abc"], [None, "", "ac"]),
        (leaf("ct", "é"), ["René"], ["Rene"]),
        (leaf("sw"), ANY, [None]),
        (leaf("gt", "10"), ["10.1", "11", "1e2", "+10.00000000000000000001"], [None, "", "10", "10.0", "9", "abc"]),
        (leaf("gte", "10"), ["10", "10.0", "1e1", "100"], [None, "9.99", "ten"]),
        (leaf("lt", "-0.5"), ["-1", "-.6"], [None, "-0.5", "0", "-", "NaN", "-Infinity"]),
        (leaf("lte", "0.3"), ["0.3", "0.30", ".3", "-5"], [None, "0.30000000000000000001", "x"]),
        (
            leaf("gt", "0"),
            ["1", "1."],
            ["1_000", " 1", "1\n", "\N{ARABIC-INDIC DIGIT ONE}", "0x1", "1e", "1e99999", "Infinity", "1" * 300, "."],
        ),
        (leaf("lt", "12345678901234567891"), ["12345678901234567890"], ["12345678901234567891"]),
    ],
    ids=str,
)
def test_comparisons(raw: Raw, passing: list[str | None], others: list[str | None]) -> None:
    """Each comparison with tags that pass and tags that do not; None is a missing tag."""
    tags_filter = parse(raw)
    for value in passing:
        assert tags_filter.matches({} if value is None else {"k": value, "other": "x"}), value
    for value in others:
        assert not tags_filter.matches({} if value is None else {"k": value, "other": "abc"}), value


def test_no_tags() -> None:
    """A publication without tags is one whose tags are all missing."""
    assert parse(leaf("neq", "x")).matches(None)
    assert not parse(leaf("eq", "x")).matches(None)


YES, NO = leaf("nex"), leaf("ex")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (branch("and", YES), True),
        (branch("and", YES, YES, YES), True),
        (branch("and", YES, YES, NO), False),
        (branch("or", NO), False),
        (branch("or", NO, NO, YES), True),
        (branch("or", NO, NO), False),
        (branch("not", NO), True),
        (branch("not", YES), False),
        (branch("and", YES, branch("or", NO, branch("not", NO))), True),
        (branch("not", branch("and", YES, branch("not", YES))), True),
    ],
    ids=str,
)
def test_combinations(raw: Raw, expected: bool) -> None:
    """And, or and not, nested."""
    assert parse(raw).matches({}) is expected


def test_empty_fields_are_absent() -> None:
    """What a Protobuf client's library writes for fields that are not set changes nothing."""
    empty = {"op": "", "key": "", "cmp": "", "val": "", "vals": [], "nodes": []}
    assert parse(empty | leaf("eq", "x")) == parse(leaf("eq", "x"))
    assert parse({"op": None, "vals": None, "nodes": None, "new": 1} | leaf("ex")) == parse(leaf("ex"))
    assert parse(empty | branch("not", YES)) == parse(branch("not", YES))


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (None, "not an object"),
        ("k", "not an object"),
        ([], "not an object"),
        ({}, "compares a key"),
        (leaf("eq", "x", key=""), "compares a key"),
        ({"key": "k", "val": "x"}, "compares a key"),
        (leaf("regex", "x"), "'regex'"),
        (leaf("EQ", "x"), "'EQ'"),
        ({"key": 1, "cmp": "eq"}, "'key'"),
        ({"key": "k", "cmp": ["eq"]}, "'cmp'"),
        ({"key": "k", "cmp": "eq", "val": 5}, "'val'"),
        (leaf("in"), "'vals'"),
        (leaf("in", vals=[]), "'vals'"),
        ({"key": "k", "cmp": "in", "vals": "abc"}, "'vals'"),
        ({"key": "k", "cmp": "nin", "vals": ["a", 1]}, "'vals'"),
        (leaf("in", "x", vals=["x"]), "'val'"),
        (leaf("eq", "x", vals=["x"]), "'vals'"),
        (leaf("ex", "x"), "'val'"),
        (leaf("eq", "x") | {"nodes": [YES]}, "'nodes'"),
        (leaf("gt", "abc"), "numbers"),
        (leaf("gt"), "numbers"),
        (leaf("lte", "NaN"), "numbers"),
        ({"op": "xor", "nodes": [YES]}, "'xor'"),
        ({"op": 1, "nodes": [YES]}, "'op'"),
        ({"op": "and"}, "'nodes'"),
        ({"op": "or", "nodes": []}, "'nodes'"),
        ({"op": "and", "nodes": YES}, "'nodes'"),
        ({"op": "and", "nodes": [YES, 1]}, "not an object"),
        (branch("not", YES, YES), "expected is one"),
        (branch("and", YES) | {"key": "k"}, "'key'"),
        (branch("and", YES) | {"cmp": "eq"}, "'cmp'"),
        (branch("and", *[YES] * MAX_NODES), "at most"),
        (branch("and", *[YES] * (MAX_NODES + 1)), "'nodes'"),
        (branch("and", branch("or", *[YES] * 40), branch("or", *[YES] * 40)), "at most"),
        (leaf("in", vals=["x"] * (MAX_VALUES + 1)), "'vals'"),
        (leaf("in", vals=["x" * (MAX_LENGTH + 1)]), "'vals'"),
        (leaf("eq", "x" * (MAX_LENGTH + 1)), "'val'"),
        (leaf("ex", key="x" * (MAX_LENGTH + 1)), "'key'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_filter(raw: object, cause: str) -> None:
    """A malformed filter, or one that is too large, is a ValueError that says why."""
    with pytest.raises(ValueError, match="tags filter") as error:
        parse(raw)
    assert cause in str(error.value)


def nested(depth: int) -> Raw:
    raw = YES
    for _ in range(depth - 1):
        raw = branch("not", raw)
    return raw


def test_depth() -> None:
    """The limit is a legal depth, one more is not, and a tower is refused before the interpreter gives up."""
    parse(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(ValueError, match="levels"):
            parse(nested(depth))


def test_limits_are_legal() -> None:
    """The largest filter of each kind."""
    parse(branch("and", *[YES] * (MAX_NODES - 1)))
    parse(leaf("in", vals=["x"] * MAX_VALUES))
    parse(leaf("eq", "x" * MAX_LENGTH, key="y" * MAX_LENGTH))


# Equality


def test_equal_filters() -> None:
    """Filters that say the same are one key; the order of `vals` and the writing of a number do not matter."""
    one = branch("and", leaf("in", vals=["a", "b", "a"]), leaf("gt", "10"))
    other = branch("and", leaf("in", vals=["b", "a"]), leaf("gt", "10.0"))
    assert parse(one) == parse(other)
    assert len({parse(one), parse(other)}) == 1


@pytest.mark.parametrize(
    "raw",
    [
        leaf("eq", "b"),
        leaf("neq", "a"),
        leaf("eq", "a", key="other"),
        leaf("in", vals=["a"]),
        branch("and", leaf("eq", "a")),
        branch("or", leaf("eq", "a")),
        branch("not", leaf("eq", "a")),
    ],
    ids=str,
)
def test_unequal_filters(raw: Raw) -> None:
    """What another filter lets through is not shared."""
    assert parse(raw) != parse(leaf("eq", "a"))
    assert parse(branch("and", leaf("eq", "a"))) != parse(branch("or", leaf("eq", "a")))


# Properties

KEYS = st.sampled_from(["a", "b"])
VALUES = st.sampled_from(["", "x", "xy", "1", "2", "10", "-1.5"])
LEAVES = st.one_of(
    st.builds(
        lambda key, cmp, val: leaf(cmp, val, key=key), KEYS, st.sampled_from(["eq", "neq", "sw", "ew", "ct"]), VALUES
    ),
    st.builds(
        lambda key, cmp, val: leaf(cmp, str(val), key=key),
        KEYS,
        st.sampled_from(["gt", "gte", "lt", "lte"]),
        st.decimals(-20, 20, places=2),
    ),
    st.builds(
        lambda key, cmp, vals: leaf(cmp, vals=vals, key=key),
        KEYS,
        st.sampled_from(["in", "nin"]),
        st.lists(VALUES, min_size=1, max_size=3),
    ),
    st.builds(lambda key, cmp: leaf(cmp, key=key), KEYS, st.sampled_from(["ex", "nex"])),
)
FILTERS = st.recursive(
    LEAVES,
    lambda nodes: (
        st.builds(
            lambda op, some: branch(op, *some), st.sampled_from(["and", "or"]), st.lists(nodes, min_size=1, max_size=3)
        )
        | st.builds(lambda one: branch("not", one), nodes)
    ),
    max_leaves=8,
)
TAGS = st.dictionaries(KEYS, VALUES)

OPPOSITES = {"neq": "eq", "nin": "in", "nex": "ex"}


def expected(raw: Raw, tags: Mapping[str, str]) -> bool:
    """The protocol's words, once more and without any thought of speed."""
    if "op" in raw:
        found = [expected(node, tags) for node in raw["nodes"]]
        return {"and": all(found), "or": any(found), "not": not found[0]}[raw["op"]]
    cmp, tag, val = raw["cmp"], tags.get(raw["key"]), raw.get("val", "")
    if cmp in OPPOSITES:
        return not expected(raw | {"cmp": OPPOSITES[cmp]}, tags)
    if tag is None:
        return False
    if cmp in ("gt", "gte", "lt", "lte"):
        if tag in ("", "x", "xy"):
            return False
        sign = Decimal(tag).compare(Decimal(val))
        return {"gt": sign > 0, "gte": sign >= 0, "lt": sign < 0, "lte": sign <= 0}[cmp]
    return {
        "eq": tag == val,
        "in": tag in raw.get("vals", []),
        "ex": True,
        "sw": tag[: len(val)] == val,
        "ew": tag[max(len(tag) - len(val), 0) :] == val,
        "ct": tag.find(val) >= 0,
    }[cmp]


@given(FILTERS, TAGS)
def test_any_filter(raw: Raw, tags: dict[str, str]) -> None:
    """Every tree decides as its definition says, and so does its equal."""
    assert parse(raw).matches(tags) is expected(raw, tags)
    assert hash(parse(raw)) == hash(parse(raw))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["and", "not", "eq", "gt", "in"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["op", "key", "cmp", "val", "vals", "nodes"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(ANYTHING, TAGS)
def test_anything(raw: object, tags: dict[str, str]) -> None:
    """Whatever a client sends is a filter or a ValueError."""
    try:
        tags_filter = parse(raw)
    except ValueError:
        return
    assert tags_filter.matches(tags) in (True, False)
