"""Filters on a publication's tags: a subscriber receives only what it asked for.

A filter is a tree of the Centrifuge protocol's `FilterNode`, the field `tf` of a subscribe command:

    {"key": "price", "cmp": "gt", "val": "10"}          compares one tag
    {"op": "and" | "or", "nodes": [...]}                combines one filter or more
    {"op": "not", "nodes": [one]}

    eq neq sw ew ct     the tag is, is not, starts with, ends with, contains `val`
    gt gte lt lte       the same with numbers; false for a tag that is none
    in nin              the tag is, is not among `vals`
    ex nex              the tag exists, does not

A missing tag satisfies `neq`, `nin` and `nex` and nothing else. Filters are values with a hash, so that a channel's
subscribers with equal filters can share one evaluation.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

__all__ = ["TagsFilter", "parse"]

# A client sends the filter once and the hub evaluates it for every publication.
MAX_DEPTH = 16
MAX_NODES = 64
MAX_VALUES = 128
MAX_LENGTH = 256

# Decimal itself also takes NaN, Infinity, underscores, spaces and the digits of all scripts.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


@dataclass(frozen=True, slots=True)
class TagsFilter:
    """A valid filter; equal ones let the same publications through."""

    root: _Node
    # Computed once: the tree is hashed from leaf to root.
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash(self.root))

    def __hash__(self) -> int:
        return self._hash

    def matches(self, tags: Mapping[str, str] | None) -> bool:
        """Whether a publication with these tags passes; without tags all are missing."""
        return self.root.matches(tags or {})


def parse(raw: object) -> TagsFilter:
    """The filter in a decoded `tf`. Raises ValueError with the cause."""
    return TagsFilter(_Parser().node(raw, 1))


# The tree


class _Node(Protocol):
    def matches(self, tags: Mapping[str, str]) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Comparison:
    key: str
    cmp: str
    value: str | Decimal | frozenset[str]

    def matches(self, tags: Mapping[str, str]) -> bool:
        tag = tags.get(self.key)
        return self.cmp in _WITHOUT_TAG if tag is None else _TESTS[self.cmp](tag, self.value)


@dataclass(frozen=True, slots=True)
class _And:
    nodes: tuple[_Node, ...]

    def matches(self, tags: Mapping[str, str]) -> bool:
        return all(node.matches(tags) for node in self.nodes)


@dataclass(frozen=True, slots=True)
class _Or:
    nodes: tuple[_Node, ...]

    def matches(self, tags: Mapping[str, str]) -> bool:
        return any(node.matches(tags) for node in self.nodes)


@dataclass(frozen=True, slots=True)
class _Not:
    node: _Node

    def matches(self, tags: Mapping[str, str]) -> bool:
        return not self.node.matches(tags)


def _number(text: str) -> Decimal | None:
    return Decimal(text) if len(text) <= MAX_LENGTH and _NUMBER.fullmatch(text) else None


def _numeric(compare: Callable[[Decimal, Decimal], bool]) -> Callable[[str, Any], bool]:
    def test(tag: str, limit: Decimal) -> bool:
        number = _number(tag)
        return number is not None and compare(number, limit)

    return test


_TEXT: dict[str, Callable[[str, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "sw": str.startswith,
    "ew": str.endswith,
    "ct": operator.contains,
}
_NUMERIC: dict[str, Callable[[str, Any], bool]] = {
    "gt": _numeric(operator.gt),
    "gte": _numeric(operator.ge),
    "lt": _numeric(operator.lt),
    "lte": _numeric(operator.le),
}
_AMONG: dict[str, Callable[[str, Any], bool]] = {
    "in": lambda tag, values: tag in values,
    "nin": lambda tag, values: tag not in values,
}
_EXISTENCE: dict[str, Callable[[str, Any], bool]] = {
    "ex": lambda tag, _: True,
    "nex": lambda tag, _: False,
}
_TESTS = {**_TEXT, **_NUMERIC, **_AMONG, **_EXISTENCE}
_WITHOUT_TAG = ("neq", "nin", "nex")


# Parsing. Empty fields are absent ones: in the protocol's other encoding they cannot be told apart.


class _Parser:
    """Makes nodes of one filter."""

    def __init__(self) -> None:
        # Of the whole tree, so far.
        self._count = 0

    def node(self, raw: object, depth: int) -> _Node:
        if not isinstance(raw, dict):
            raise ValueError("a tags filter's node is not an object")
        self._count += 1
        if depth > MAX_DEPTH or self._count > MAX_NODES:
            raise ValueError(f"a tags filter has at most {MAX_NODES} nodes, {MAX_DEPTH} levels deep")
        return self._branch(raw, depth) if raw.get("op") else _comparison(raw)

    def _branch(self, raw: dict[str, object], depth: int) -> _Node:
        op = _text(raw, "op")
        if op not in ("and", "or", "not"):
            raise ValueError(f"a tags filter has no op {op!r}")
        _absent(raw, f"op {op!r}", "key", "cmp", "val", "vals")
        nodes = tuple(self.node(node, depth + 1) for node in _list(raw, "nodes", MAX_NODES))
        if op == "not":
            if len(nodes) != 1:
                raise ValueError(f"op 'not' of a tags filter has {len(nodes)} nodes, expected is one")
            return _Not(nodes[0])
        return _And(nodes) if op == "and" else _Or(nodes)


def _comparison(raw: dict[str, object]) -> _Comparison:
    key, cmp = _text(raw, "key"), _text(raw, "cmp")
    if not key or cmp not in _TESTS:
        raise ValueError(f"a tags filter compares a key, known are {' '.join(_TESTS)}; got key {key!r}, cmp {cmp!r}")
    if cmp in _AMONG:
        _absent(raw, f"cmp {cmp!r}", "val", "nodes")
        return _Comparison(key, cmp, _values(raw))
    if cmp in _EXISTENCE:
        _absent(raw, f"cmp {cmp!r}", "val", "vals", "nodes")
        return _Comparison(key, cmp, "")
    _absent(raw, f"cmp {cmp!r}", "vals", "nodes")
    value = _text(raw, "val")
    return _Comparison(key, cmp, value if cmp in _TEXT else _limit(cmp, value))


def _limit(cmp: str, value: str) -> Decimal:
    number = _number(value)
    if number is None:
        raise ValueError(f"cmp {cmp!r} of a tags filter compares numbers, val is {value!r}")
    return number


def _values(raw: dict[str, object]) -> frozenset[str]:
    values = _list(raw, "vals", MAX_VALUES)
    return frozenset(_checked(value, "vals") for value in values)


def _text(raw: dict[str, object], name: str) -> str:
    value = raw.get(name)
    return "" if value is None else _checked(value, name)


def _checked(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_LENGTH:
        raise ValueError(f"{name!r} of a tags filter is not a string of at most {MAX_LENGTH} characters")
    return value


def _list(raw: dict[str, object], name: str, limit: int) -> list[object]:
    values = raw.get(name)
    if not isinstance(values, list) or not 1 <= len(values) <= limit:
        raise ValueError(f"{name!r} of a tags filter is not a list of 1 to {limit}")
    return values


def _absent(raw: dict[str, object], what: str, *names: str) -> None:
    for name in names:
        if raw.get(name):
            raise ValueError(f"{what} of a tags filter does not go with {name!r}")
