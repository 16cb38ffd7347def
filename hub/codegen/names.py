"""Names and texts in TypeScript."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable

__all__ = ["RESERVED", "camel", "comment", "is_identifier", "literal", "member", "type_name", "unique"]

_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")

# What the file has or uses, and what TypeScript does not take as the name of a type.
RESERVED: frozenset[str] = frozenset(
    "Channel Client ClientInfo History HistoryOptions Hub PresenceStats Publication PublishResult Subscription "
    "SubscriptionOptions createClient "
    "Array Boolean JSON Object Partial Pick Promise RangeError Record String "
    "any bigint boolean never number object string symbol undefined unknown void "
    "await break case catch class const continue debugger default delete do else enum export extends false finally "
    "for function if implements import in instanceof interface let new null package private protected public return "
    "static super switch this throw true try typeof var while with yield".split()
)


def is_identifier(text: str) -> bool:
    return _IDENTIFIER.fullmatch(text) is not None


def literal(value: object) -> str:
    """A value of JSON as it is written in a program; nothing in it is taken for anything else."""
    return json.dumps(value, ensure_ascii=True)


def member(name: str) -> str:
    """A property of an object."""
    if name == "__proto__":  # it would be the prototype, with or without quotes
        return f"[{literal(name)}]"
    return name if is_identifier(name) else literal(name)


def camel(text: str, fallback: str) -> str:
    """`server/time` as `serverTime`."""
    first, *others = re.findall(r"[A-Za-z0-9_]+", text) or [fallback]
    name = first + "".join(other[:1].upper() + other[1:] for other in others)
    return name if is_identifier(name) else f"{fallback}{name}"


def type_name(text: str) -> str:
    """`Message-Input` as `MessageInput`, `Page_int_` as `PageInt`; other names stay as they are, if they can."""
    generic = re.search("_(?=-|$)", text)  # so does pydantic write the brackets of `Page[int]`
    name = camel(text.replace("_", "-") if generic else text, "Model")
    return f"{name}Model" if name in RESERVED else name


def unique(name: str, taken: Collection[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}{number}"
    return found


def comment(lines: Iterable[str], indent: str = "") -> str:
    """A documentation comment, or nothing; nothing in it can end it."""
    texts = [line.rstrip().replace("*/", "*\\/") for text in lines for line in text.splitlines() or [""]]
    if not texts:
        return ""
    if len(texts) == 1:
        return f"{indent}/** {texts[0]} */\n"
    return "".join(f"{indent}{line}".rstrip() + "\n" for line in ("/**", *(f" * {text}" for text in texts), " */"))
