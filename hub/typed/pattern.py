"""The address of typed channels, `chat:{room}`: from a channel's name to its parameters, and back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from ..errors import ConfigError

__all__ = ["Pattern"]

_PARAMETER = re.compile(r"\{([^{}]*)\}")
# A parameter is everything up to the next colon, as a path's is up to the next slash.
_VALUE = "[^:]+"


class Pattern:
    """Literal text and parameters in turn; each parameter has a type, `str` unless `declare` said another."""

    def __init__(self, address: str) -> None:
        """Raises ConfigError for an address that is none."""
        self.address: str = address
        self.namespace: str = _namespace(address)
        # Literals at the even places, names of parameters at the odd ones.
        self._parts: list[str] = _PARAMETER.split(address)
        self._check()
        self.types: dict[str, Any] = {name: str for name in self._parts[1::2]}
        self._adapters: dict[str, TypeAdapter[Any]] = {}
        # Types that somebody has said, with who did.
        self._sources: dict[str, str] = {}
        self._regex: re.Pattern[str] = re.compile("".join(self._expressions()))

    def __repr__(self) -> str:
        return f"<Pattern {self.address!r}>"

    def _check(self) -> None:
        literals, names = self._parts[0::2], self._parts[1::2]
        where = f"channel {self.address!r}"
        if any("{" in literal or "}" in literal for literal in literals):
            raise ConfigError(f"{where}: a brace has no partner; a parameter is written {{name}}")
        for name in names:
            if not name.isidentifier():
                raise ConfigError(f"{where}: {{{name}}} is no parameter; write a Python name between the braces")
            if names.count(name) > 1:
                raise ConfigError(f"{where}: {{{name}}} is there twice; give each place a name of its own")
        if any(not literal for literal in literals[1:-1]):
            raise ConfigError(f"{where}: two parameters touch, and no name tells where one ends; put a text between")

    def _expressions(self) -> Iterator[str]:
        for place, part in enumerate(self._parts):
            yield f"({_VALUE})" if place % 2 else re.escape(part)

    # Types

    def declare(self, name: str, annotation: Any, source: str) -> bool:
        """`source` says what a parameter's type is; whether that is new. Raises ConfigError if another one differs."""
        other = self._sources.get(name)
        if other is not None and self.types[name] != annotation:
            raise ConfigError(
                f"channel {self.address!r}: {name} is {_shown(self.types[name])} in {other}, and {_shown(annotation)} "
                f"in {source}; annotate it the same in both"
            )
        new = other is None and annotation is not str
        if new:
            self._adapters[name] = self._adapter(name, annotation)
            self.types[name] = annotation
        self._sources.setdefault(name, source)
        return new

    def _adapter(self, name: str, annotation: Any) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(annotation)
        except PydanticUserError as error:
            raise ConfigError(f"channel {self.address!r}: no value can be a {name}: {error.message}") from None

    # Names

    def parse(self, name: str) -> dict[str, Any] | None:
        """The parameters of a channel's name; None if it is not one of these.

        Each value has one spelling, that of `format`: `game:07` is not the game 7.
        """
        texts = self.texts(name)
        if texts is None:
            return None
        try:
            values = {key: self._value(key, text) for key, text in texts.items()}
        except ValidationError:
            return None
        return values if all(_text(values[key]) == text for key, text in texts.items()) else None

    def texts(self, name: str) -> dict[str, str] | None:
        """The same as they stand in the name; None if literals do not fit."""
        found = self._regex.fullmatch(name)
        return dict(zip(self.types, found.groups(), strict=True)) if found else None

    def format(self, values: Mapping[str, Any]) -> str:
        """The name of a channel. Raises TypeError for missing or unknown parameters, ValueError for wrong values."""
        if values.keys() != self.types.keys():
            wanted = ", ".join(self.types) or "no parameters"
            raise TypeError(f"{self.address!r} takes {wanted}, not {', '.join(values) or 'nothing'}")
        texts = {key: self._checked(key, value) for key, value in values.items()}
        name = "".join(texts[part] if place % 2 else part for place, part in enumerate(self._parts))
        if self.texts(name) != texts:
            shown = ", ".join(f"{key}={text!r}" for key, text in texts.items())
            raise ValueError(
                f"{self.address!r} has no channel with {shown}: a value is not empty, has no colon, and not the text "
                "behind it"
            )
        return name

    def _checked(self, key: str, value: Any) -> str:
        """As it stands in a name, of which it can be read again: no text is a `Literal[1]`."""
        text = _text(self._valid(key, value, repr(value)))
        self._valid(key, text, f"{text!r}, which is what stands in a name")
        return text

    def _valid(self, key: str, value: Any, shown: str) -> Any:
        try:
            return self._value(key, value)
        except ValidationError as error:
            raise ValueError(f"{key} of {self.address!r}: {error.errors()[0]['msg']}, not {shown:.100}") from None

    def _value(self, key: str, value: Any) -> Any:
        adapter = self._adapters.get(key)
        return str(value) if adapter is None else adapter.validate_python(value)

    # Others

    def overlaps(self, other: Pattern) -> bool:
        """Whether a name could be one of both, whatever the types."""
        return _overlap(self._symbols(), other._symbols())

    def _symbols(self) -> list[str]:
        """Characters; for each parameter `_ONE`, and `_MORE` behind it."""
        symbols: list[str] = []
        for place, part in enumerate(self._parts):
            symbols += [_ONE, _MORE] if place % 2 else part
        return symbols


# One character of a parameter, and any number of further ones.
_ONE, _MORE = "{", "}"


def _overlap(one: list[str], other: list[str]) -> bool:
    """Whether two lists of symbols have a text in common: a walk through both automata at once."""
    seen, todo = set(), [(0, 0)]
    while todo:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        i, j = state
        if i == len(one) and j == len(other):
            return True
        if i < len(one) and one[i] == _MORE:
            todo.append((i + 1, j))
        if j < len(other) and other[j] == _MORE:
            todo.append((i, j + 1))
        if i < len(one) and j < len(other) and _meet(one[i], other[j]):
            todo.append((i + (one[i] != _MORE), j + (other[j] != _MORE)))
    return False


def _meet(one: str, other: str) -> bool:
    """Whether two symbols have a character in common."""
    if one in (_ONE, _MORE):
        return other != ":"
    return one != ":" if other in (_ONE, _MORE) else one == other


def _namespace(address: str) -> str:
    name, colon, rest = address.partition(":")
    if not colon or not name or not rest or any(character in name for character in "{}$#"):
        raise ConfigError(
            f"channel {address!r} has no namespace; begin with a name and a colon, and put parameters behind it: "
            "'chat:{room}'"
        )
    return name


def _text(value: Any) -> str:
    return str(value.value) if isinstance(value, Enum) else str(value)


def _shown(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)
