"""Frames and JSON that somebody might send, from nearly right to not at all."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import strategies as st

from tests.protocol.test_frames import client_frame

__all__ = ["NAMES", "commands", "frames", "random_commands", "random_frames"]

# The commands of the protocol, and one that is none.
NAMES = (
    *("connect", "subscribe", "unsubscribe", "publish", "presence", "presence_stats", "history", "rpc", "refresh"),
    *("sub_refresh", "send", "ping", "foo"),
)
FIELDS = (
    *("channel", "data", "token", "recover", "offset", "epoch", "limit", "since", "reverse", "delta", "tf", "flag"),
    *("type", "positioned", "recoverable", "join_leave", "method", "subs", "name", "version", "headers", "bar"),
)
CHANNELS = (
    *("a", "news", "closed:x", "nobody:x", "$private", "#7", "#", ":", "::", "", "x" * 255, "x" * 300, "é", "\x00"),
)
SPECIAL: tuple[Any, ...] = (
    *(0, 1, -1, 2**31, 2**32, 2**63, 2**64, 2**100, -(2**63), 1.5, -0.0, 1e308, True, False, None),
    *("", "x", "\ud800", "\n", '"', "\\", "ﷺ", "fossil", "null", "{}", "1", "a.b.c", [], {}, [[]], {"": {}}),
)

scalars = st.one_of(
    st.sampled_from(SPECIAL), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
filters: st.SearchStrategy[Any] = st.recursive(
    st.fixed_dictionaries(
        {}, optional={"key": scalars, "cmp": st.sampled_from(["eq", "in", "gt", "no"]), "val": scalars}
    ),
    lambda inner: st.fixed_dictionaries({"op": st.sampled_from(["and", "or", "not", ""]), "nodes": st.lists(inner)}),
    max_leaves=6,
)


def _field(name: str) -> st.SearchStrategy[Any]:
    """Mostly of the right kind, so that a command gets beyond its parser."""
    right: dict[str, st.SearchStrategy[Any]] = {
        "channel": st.sampled_from(CHANNELS),
        "offset": st.sampled_from([0, 1, 5, 2**64 - 1]),
        "epoch": st.sampled_from(["", "x"]),
        "limit": st.sampled_from([0, -1, 1, 2**31 - 1]),
        "since": st.fixed_dictionaries({}, optional={"offset": st.sampled_from([0, 2**64 - 1]), "epoch": st.just("")}),
        "tf": filters,
        "flag": st.integers(0, 7),
        "type": st.integers(0, 5),
        "delta": st.sampled_from(["", "fossil"]),
        "token": st.sampled_from(["", "a.b.c", "eyJhbGciOiJub25lIn0.e30."]),
    }
    booleans = ("recover", "reverse", "positioned", "recoverable", "join_leave")
    wanted = st.booleans() if name in booleans else right.get(name, values)
    return st.one_of(wanted, wanted, wanted, values)


_bodies = st.fixed_dictionaries({}, optional={name: _field(name) for name in FIELDS})
_ids = st.one_of(st.integers(2, 2**31), st.integers(2, 2**31), scalars)
# One command; sometimes several bodies in one, or none.
commands = st.builds(
    lambda number, bodies: {"id": number, **bodies},
    _ids,
    st.dictionaries(st.sampled_from(NAMES), _bodies | values, min_size=0, max_size=2),
)

_lines = st.one_of(
    commands.map(json.dumps),
    commands.map(json.dumps),
    values.map(json.dumps),
    st.sampled_from(["", " ", "{}", "[]", "null", "{", '{"id":', "NaN", '{"id":2,"id":3,"rpc":{}}', "\ufeff{}"]),
    st.sampled_from(["[" * 2000, '{"a":' * 2000, '{"id":2,"publish":{"channel":"a","data":' + "[" * 5000]),
    st.text(max_size=40),
)
# What goes into one frame: text, or bytes for a binary one.
frames = st.one_of(
    st.lists(_lines, min_size=1, max_size=4).map("\n".join).map(lambda text: text.encode("utf-8", "replace").decode()),
    st.binary(max_size=60),
)


# The same without Hypothesis, which is too slow for a hundred thousand


def random_frames(rng: random.Random, count: int) -> bytes:
    """Frames of which most are legal by themselves and some are not."""
    frames = []
    for _ in range(count):
        opcode = rng.choice((0, 1, 1, 2, 2, 8, 9, 10, rng.randrange(16)))
        payload = rng.randbytes(rng.choice((0, 1, 5, 125, 126, rng.randrange(2000))))
        if opcode == 1 and rng.random() < 0.7:
            payload = b"text " * (len(payload) // 5)
        frame = client_frame(opcode, payload, fin=rng.random() < 0.8, rsv=rng.choice((0, 0, 0, 0, 1, 4)))
        if rng.random() < 0.1:
            frame = frame[: rng.randrange(len(frame))] + rng.randbytes(8)
        frames.append(frame)
    return b"".join(frames)


# Of the right kind, by field; all others are texts.
_RIGHT: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("recover", "reverse", "positioned", "recoverable", "join_leave"), (True, False)),
    "channel": CHANNELS,
    "data": SPECIAL,
    "offset": (0, 1, 5, 2**63 - 1),
    "limit": (0, -1, 1, 2**31 - 1),
    "since": ({}, {"offset": 0, "epoch": ""}, {"offset": 2**63 - 1, "epoch": "x"}),
    "tf": ({"op": "and", "nodes": []}, {"key": "a", "cmp": "eq", "val": "b"}, {"op": "not"}, {}),
    "flag": (0, 1, 2, 7),
    "type": (0, 1, 5),
    "delta": ("", "fossil"),
    "subs": ({}, {"a": {"recover": True, "offset": 1}}),
    "headers": ({}, {"a": "b"}),
    "": ("", "x", "ﷺ", "a.b.c"),
}
# What does not end the connection by itself.
_PEACEFUL = tuple(name for name in NAMES if name not in ("connect", "refresh", "send", "ping", "foo"))


def random_commands(rng: random.Random) -> bytes:
    """What goes into one text frame of the protocol: commands, of which nearly all can be parsed."""
    lines = [json.dumps(_random_command(rng)) for _ in range(rng.randrange(1, 4))]
    if rng.random() < 0.02:
        line = rng.choice(lines)
        at = rng.randrange(len(line))
        lines.append(line[:at] + rng.choice(("", "{", "[" * 500, "\x00", "é", '"', "1e999")) + line[at + 1 :])
    return "\n".join(lines).encode()


def _random_command(rng: random.Random) -> dict[str, Any]:
    chosen = {"channel", *rng.sample(FIELDS, rng.randrange(5))} if rng.random() < 0.98 else ()
    body = {field: rng.choice(_RIGHT.get(field, _RIGHT[""])) for field in chosen}
    if rng.random() < 0.01:
        body[rng.choice(FIELDS)] = rng.choice(SPECIAL)
    name = rng.choice(_PEACEFUL if rng.random() < 0.98 else NAMES)
    return {"id": rng.randrange(2, 2**31), name: body}
