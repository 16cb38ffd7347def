"""Addresses of typed channels: from names to parameters and back, and which of them have names in common."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from fastapi import Path
from hypothesis import given
from hypothesis import strategies as st

from hub import ConfigError
from hub.typed.pattern import Pattern

ID = UUID("12345678-1234-5678-1234-567812345678")


class Side(Enum):
    LEFT = "l"
    RIGHT = 2


def pattern(address: str, **types: Any) -> Pattern:
    made = Pattern(address)
    for name, annotation in types.items():
        made.declare(name, annotation, "a test")
    return made


@pytest.mark.parametrize(
    ("made", "name", "values"),
    [
        (pattern("chat:{room}"), "chat:lobby", {"room": "lobby"}),
        (pattern("chat:lobby"), "chat:lobby", {}),
        (pattern("game:{id}:move", id=int), "game:-7:move", {"id": -7}),
        (pattern("file:{id}", id=UUID), f"file:{ID}", {"id": ID}),
        (pattern("hand:{side}", side=Side), "hand:l", {"side": Side.LEFT}),
        (pattern("price:{base}-{quote}"), "price:EUR-USD", {"base": "EUR", "quote": "USD"}),
        (pattern("a.b:{x}*", x=Annotated[str, Path(max_length=3)]), "a.b:abc*", {"x": "abc"}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_there_and_back(made: Pattern, name: str, values: dict[str, Any]) -> None:
    """What a name says is what makes it."""
    assert made.parse(name) == values
    assert made.format(values) == name


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (pattern("chat:{room}"), "chat:"),
        (pattern("chat:{room}"), "chat:a:b"),
        (pattern("chat:{room}"), "chatter:a"),
        (pattern("chat:{room}"), "chat:a\n:b"),
        (pattern("a.b:{x}"), "a-b:x"),
        (pattern("game:{id}", id=int), "game:x"),
        (pattern("game:{id}", id=int), "game:07"),
        (pattern("game:{id}", id=int), "game:7.0"),
        (pattern("game:{id}", id=int), "game:\u0667"),
        (pattern("file:{id}", id=UUID), f"file:{str(ID).upper()}x"),
        (pattern("file:{id}", id=UUID), f"file:{ID.hex}"),
        (pattern("hand:{side}", side=Side), "hand:m"),
        (pattern("a:{x}", x=Annotated[str, Path(max_length=3)]), "a:abcd"),
    ],
)
def test_other_names(made: Pattern, name: str) -> None:
    """What does not fit, or is another spelling of what does, is no channel."""
    assert made.parse(name) is None


@pytest.mark.parametrize(
    ("made", "values", "error"),
    [
        (pattern("chat:{room}"), {}, "takes room, not nothing"),
        (pattern("chat:{room}"), {"room": "a", "rom": "b"}, "takes room, not room, rom"),
        (pattern("chat:lobby"), {"room": "a"}, "takes no parameters, not room"),
        (pattern("chat:{room}"), {"room": ""}, "no channel with room=''"),
        (pattern("chat:{room}"), {"room": "a:b"}, "no channel with room='a:b'"),
        (pattern("price:{base}-{quote}"), {"base": "a", "quote": "b-c"}, "no channel with base='a', quote='b-c'"),
        (pattern("game:{id}", id=int), {"id": "x"}, r"id of 'game:\{id\}': Input should be a valid integer.* not 'x'"),
        (pattern("game:{id}", id=Literal[1]), {"id": 1}, "Input should be 1, not '1', which is what stands in a name"),
    ],
)
def test_wrong_values(made: Pattern, values: dict[str, Any], error: str) -> None:
    """Python is told which parameter is wrong, and why."""
    with pytest.raises((TypeError, ValueError), match=error):
        made.format(values)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("lobby", "has no namespace; begin with a name and a colon"),
        ("{room}:x", "has no namespace"),
        (":x", "has no namespace"),
        ("chat:", "has no namespace"),
        ("$chat:{room}", "has no namespace"),
        ("chat:{room", "a brace has no partner"),
        ("chat:{a b}", "{a b} is no parameter; write a Python name"),
        ("chat:{a}-{a}", "{a} is there twice"),
        ("chat:{a}{b}", "two parameters touch"),
    ],
)
def test_wrong_addresses(address: str, error: str) -> None:
    """An address that is none says what to do."""
    with pytest.raises(ConfigError) as caught:
        Pattern(address)
    assert error in str(caught.value)


def test_one_type_a_parameter() -> None:
    """Two functions agree about a parameter, or it is an error."""
    made = pattern("game:{id}", id=int)
    made.declare("id", int, "may_play")
    with pytest.raises(ConfigError, match="id is int in a test, and UUID in may_watch; annotate it the same in both"):
        made.declare("id", UUID, "may_watch")
    with pytest.raises(ConfigError, match="no value can be a x"):
        pattern("a:{x}", x=Pattern)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("chat:{room}", "chat:{id}", True),
        ("chat:{room}", "chat:lobby", True),
        ("chat:room:{id}", "chat:user:{id}", False),
        ("chat:{a}:x", "chat:{b}:y", False),
        ("chat:{a}:{b}", "chat:{a}", False),
        ("chat:x{a}", "chat:{a}y", True),
        ("chat:x{a}", "chat:y{a}", False),
        ("chat:ab", "chat:a{x}", True),
        ("chat:a", "chat:a{x}", False),
    ],
)
def test_overlaps(one: str, other: str, meet: bool) -> None:
    """Whether a name could be one of both."""
    assert Pattern(one).overlaps(Pattern(other)) is meet
    assert Pattern(other).overlaps(Pattern(one)) is meet


@given(
    st.text(st.sampled_from("ab:-"), max_size=6),
    *[st.lists(st.sampled_from(["a", "b", "-", "{}"]), min_size=1, max_size=4)] * 2,
)
def test_overlaps_are_found(rest: str, one: list[str], other: list[str]) -> None:
    """Two patterns that take the same name overlap."""
    if any("{}{}" in "".join(parts) for parts in (one, other)):
        return
    both = [Pattern("n:" + address(parts)) for parts in (one, other)]
    both = [made for made in both if made.parse(f"n:{rest}") is not None]
    assert len(both) < 2 or both[0].overlaps(both[1])


def address(parts: list[str]) -> str:
    """With a name for each parameter."""
    return "".join(f"{{x{place}}}" if part == "{}" else part for place, part in enumerate(parts))
