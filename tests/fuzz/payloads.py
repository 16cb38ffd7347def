"""Targets: commands of clients, their filters, what comes out of Redis, and deltas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from hub.protocol import commands, envelope, fossil, tags
from hub.redis_link import server_of
from hub.types import DataKind, Membership, Publication

__all__ = ["command", "delta", "filters", "kind", "payload", "server_info"]


def kind(error: object) -> str:
    """What an error says, without what differs from input to input: what is quoted, and numbers."""
    return re.sub(r"[`'\"].*|[^a-z ]", "", str(error).lower())[:40]


def _strict(raw: bytes) -> Any:
    """As a browser reads JSON: no NaN; in numbers it is not interested here."""
    return json.loads(raw, parse_constant=_refuse, parse_int=str, parse_float=str)


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


# Commands

NAMES = """
    connect subscribe unsubscribe publish presence presence_stats history ping send rpc refresh sub_refresh
    """.split()


def command(data: bytes) -> list[str]:
    """A frame of the protocol; only Malformed is raised, and raw parts can be copied into what others are told."""
    try:
        parsed = commands.parse(data, text=False)
    except commands.Malformed as error:
        if _is_utf8(data):
            _check_malformed_text(data)
        return [kind(error)]
    assert parsed == commands.parse(data, text=True)
    assert len(parsed) == data.removesuffix(b"\n").count(b"\n") + 1
    seen: list[str] = []
    for one, line in zip(parsed, data.split(b"\n"), strict=False):
        assert 0 <= one.id < 2**32
        given = _given(one.body)
        name = _name(one.body)
        again = commands.parse(msgspec.json.encode({"id": one.id, name: given} if name else {"id": one.id}), text=True)
        assert again == [one], "what was encoded is not what is decoded"
        assert name == _wanted(line)
        seen += [name, *(f"{name}.{field}" for field in given)]
    return seen


def _check_malformed_text(data: bytes) -> None:
    try:
        commands.parse(data, text=True)
    except commands.Malformed:
        return
    raise AssertionError("a text frame passes that does not as a binary one")


def _given(body: commands.Body) -> dict[str, Any]:
    """The fields that are not as they are by default."""
    plain = type(body)()
    given = {name: getattr(body, name) for name in body.__struct_fields__}
    given = {name: value for name, value in given.items() if value != getattr(plain, name)}
    for value in given.values():
        if isinstance(value, msgspec.Raw):
            _check_copied(bytes(value))
        elif isinstance(value, str):
            value.encode()
    return given


def _check_copied(raw: bytes) -> None:
    assert b"\n" not in raw
    try:
        _strict(raw)
        msgspec.json.decode(raw, type=msgspec.Raw)  # with half an emoji it is lost on the way to others
    except RecursionError:
        pass


def _name(body: commands.Body) -> str:
    """Of the command; "" if there is none."""
    if isinstance(body, commands.Empty):
        return ""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(body).__name__).lower()


def _wanted(line: bytes) -> str:
    """The first of the protocol's commands in a line; "" if there is none."""
    given = json.loads(line, parse_int=str)
    return next((name for name in NAMES if given.get(name) is not None), "")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# Filters

TAGS: tuple[dict[str, str], ...] = (
    {},
    {"k": ""},
    {"k": "5", "a": "x"},
    {"k": "abc", "b": "1e9999"},
    {"k": "-.5e-3", "a": "é", "": "0"},
)


def filters(data: bytes) -> list[str]:
    """A filter and, in a line of its own, tags; a good one lets through what the table in hub.protocol.tags says."""
    raw_filter, _, raw_tags = data.partition(b"\n")
    try:
        raw = msgspec.json.decode(raw_filter)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    try:
        parsed = tags.parse(raw)
    except ValueError as error:
        return [kind(error)]
    again = tags.parse(msgspec.json.decode(raw_filter))
    assert (parsed, hash(parsed)) == (again, hash(again))
    asked = [*TAGS, *_tags(raw_tags)]
    answers = [parsed.matches(one) for one in asked]
    assert answers == [_passes(raw, one) for one in asked]
    return [f"{raw.get('op') or raw.get('cmp')} {any(answers)}"]


def _tags(raw: bytes) -> list[dict[str, str]]:
    try:
        return [msgspec.json.decode(raw, type=dict[str, str])]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return []


def _passes(raw: dict[str, Any], given: dict[str, str]) -> bool:
    """The table once more, in the simplest way."""
    if op := raw.get("op"):
        results = [_passes(node, given) for node in raw["nodes"]]
        return {"and": all(results), "or": any(results), "not": not results[0]}[op]
    tag, value, values = given.get(raw["key"]), raw.get("val") or "", raw.get("vals") or []
    if tag is None:
        return raw["cmp"] in ("neq", "nin", "nex")
    texts: dict[str, Callable[[], bool]] = {
        "eq": lambda: tag == value,
        "neq": lambda: tag != value,
        "sw": lambda: tag[: len(value)] == value,
        "ew": lambda: not value or tag[-len(value) :] == value,
        "ct": lambda: tag.find(value) >= 0,
        "in": lambda: tag in values,
        "nin": lambda: tag not in values,
        "ex": lambda: True,
        "nex": lambda: False,
        "gt": lambda: _is_number(tag) and Decimal(tag) > Decimal(value),
        "gte": lambda: _is_number(tag) and Decimal(tag) >= Decimal(value),
        "lt": lambda: _is_number(tag) and Decimal(tag) < Decimal(value),
        "lte": lambda: _is_number(tag) and Decimal(tag) <= Decimal(value),
    }
    return texts[raw["cmp"]]()


def _is_number(text: str) -> bool:
    """A decimal number as in JSON, though with a plus, or without digits on one side of the point."""
    mantissa, _, exponent = text.lower().partition("e")
    digits = mantissa.lstrip("+-") if len(mantissa) - len(mantissa.lstrip("+-")) < 2 else ""
    whole, _, part = digits.partition(".")
    sized = exponent.lstrip("+-") if len(exponent) - len(exponent.lstrip("+-")) < 2 else ""
    is_exponent = (_are_digits(sized) and len(sized) <= 4) if "e" in text.lower() else True
    return len(text) <= tags.MAX_LENGTH and _are_digits(whole + part) and is_exponent


def _are_digits(text: str) -> bool:
    return bool(text) and set(text) <= set("0123456789")


# Redis


def payload(data: bytes) -> list[str]:
    """What somebody has published in Redis: ValueError, or something that can be told to clients and encoded again."""
    try:
        decoded = envelope.decode(data)
    except ValueError as error:
        return [type(error).__name__]
    if isinstance(decoded, Membership):
        _check_object(decoded.info)
        assert envelope.membership(decoded.joined, decoded.info) == data
        return [str(decoded.joined)]
    _check_publication(decoded)
    encoded = envelope.encode(decoded)
    if decoded.offset:
        encoded = envelope.positioned(encoded, decoded.offset, decoded.epoch)
    # No tags and an empty table of them are the same.
    again = envelope.decode(encoded)
    assert msgspec.structs.replace(again, tags=again.tags or {}) == msgspec.structs.replace(
        decoded, tags=decoded.tags or {}
    )
    return [f"{decoded.kind} {bool(decoded.info)} {bool(decoded.tags)} {decoded.delta} {bool(decoded.offset)}"]


def _check_publication(publication: Publication) -> None:
    assert 0 <= publication.offset < 2**63
    assert bool(publication.offset) or not publication.epoch
    publication.epoch.encode()
    if publication.kind is not DataKind.BINARY:
        publication.data.decode()
    if publication.kind is DataKind.JSON:
        _check_copied(publication.data)
    if publication.info:
        _check_object(publication.info)
    for tag in (publication.tags or {}).items():
        "".join(tag).encode()


def _check_object(info: bytes) -> None:
    _check_copied(info)
    assert info.startswith(b"{")


def server_info(data: bytes) -> list[str]:
    """A reply to INFO, of whatever calls itself Redis: never an exception."""
    server = server_of(data)
    assert server.lineage in data
    assert not server.replica or b"role:slave" in data
    role, heir = b"slave" if server.replica else b"master", b"1" if server.heir else b"0"
    written = b"role:%b\r\nmaster_replid:%b\r\nmaster_replid2:%b\r\n" % (role, server.lineage, heir)
    assert server_of(written) == server
    return [f"{server.replica} {bool(server.lineage)}"]


# Deltas


def delta(data: bytes) -> list[str]:
    """Two publications behind the length of the first; their delta gives the second, anything else a ValueError."""
    size = int.from_bytes(data[:2], "big") % (len(data) + 1)
    source, target = data[2 : 2 + size] * 2, data[2 + size :]
    seen = []
    for text in (False, True):
        made = fossil.create(source, target, text=text)
        assert fossil.apply(source, made) == target
        if text and _is_utf8(target):
            made.decode()
        seen.append(f"{text} {made.count(b'@').bit_length()} {made.count(b':').bit_length()}")
    return [*seen, _applied(source, target)]


def _applied(source: bytes, made: bytes) -> str:
    try:
        result = fossil.apply(source, made)
    except ValueError as error:
        return str(error)
    assert len(result) <= len(made) * max(1, len(source))
    assert _applied(source, made + b";") == "the delta is malformed", "something may follow"
    assert fossil.apply(source, fossil.create(source, result, text=False)) == result
    return "applied"
