"""What somebody who can write to the hub's Redis might put there."""

from __future__ import annotations

import json

__all__ = ["BAD_CONTROL", "BAD_ENTRIES", "BAD_EVENTS", "BAD_PRESENCE", "GOOD", "ODD_CONTROL"]


def _sized(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


GOOD = b'j\0{"good":1}'
# What arrives on the channel of a channel and is no publication of a hub.
BAD_EVENTS: dict[str, bytes] = {
    "nothing": b"",
    "a word": b"hello",
    "a null": b"\0",
    "an unknown kind": b"z\0{}",
    "half a publication": b"j",
    "an id longer than all": b"t\xffabc",
    "text that is not UTF-8": b"t\0\xff\xfe",
    "JSON that is not UTF-8": b'j\0"\xff"',
    "JSON that ends early": b'j\0{"a":',
    "no JSON": b"j\0nope",
    "nothing as JSON": b"j\0",
    "two JSON": b'j\0{}{"push":{}}',
    "a line break, and a reply": b'j\0{}\n{"id":3,"history":{}}',
    "a line break in JSON": b'j\0{"a":\n1}',
    "an end, and a push": b'j\0{}}}\n{"push":{"channel":"news:open","pub":{"data":666}}}',
    "half metadata": b"m\0\0",
    "metadata that ends early": b"m" + (2**32 - 1).to_bytes(4, "big") + b"x",
    "info that is no JSON": b"m" + _sized(b"{nope") + _sized(b"") + GOOD,
    "info with a line break": b"m" + _sized(b'{"user":\n"x"}') + _sized(b"") + GOOD,
    "tags that are no JSON": b"m" + _sized(b"") + _sized(b"{") + GOOD,
    "tags that are no texts": b"m" + _sized(b"") + _sized(b'{"a":1}') + GOOD,
    "metadata of nothing": b"m" + _sized(b"") + _sized(b""),
    "a delta of nothing": b"d",
    "half a position": b"p",
    "a position of nothing": b"p7:epoch:",
    "a position without a number": b"px:epoch:" + GOOD,
    "a position below all": b"p-7:epoch:" + GOOD,
    "no position": b"p0:epoch:" + GOOD,
    "an epoch without end": b"p7:" + b"e" * 5000 + b":" + GOOD,
    "an epoch that is not UTF-8": b"p7:\xff:" + GOOD,
    "a number without end": b"p" + b"9" * 5000 + b":epoch:" + GOOD,
    "a position in a position": b"p7:epoch:p8:epoch:" + GOOD,
    "a join that is not UTF-8": b"+\xff",
    "a join of nobody": b"+",
    "a join that is no JSON": b'+{"user":',
    "a leave that is no object": b"-[]",
    "a join with a line break": b'+{"user":"x",\n"client":"y"}',
    "a megabyte": b"\xff" * 2**20,
    "a megabyte of JSON": b'j\0{"a":"' + b"x" * 2**20,
}
# What workers tell each other, and is no order.
BAD_CONTROL: dict[str, bytes] = {
    "nothing": b"",
    "a word": b"hello",
    "not UTF-8": b"\xff\xfe",
    "no object": b"[]",
    "no type": b"{}",
    "an unknown type": b'{"do":"shutdown"}',
    "a wrong type": b'{"do":"disconnect","user":42,"code":"x","reason":[]}',
    "a missing field": b'{"do":"survey"}',
    "deep": b'{"do":"answer","number":"x","body":' + b"[" * 50_000,
    "a megabyte": b"x" * 2**20,
    "a number without end": b"9" * 5000,
    "a code that no frame can have": json.dumps(
        {"do": "disconnect", "user": "", "code": 99999, "reason": "x"}
    ).encode(),
}
# Orders that can be read, of nobody and nothing.
ODD_CONTROL: dict[str, bytes] = {
    "an answer that nobody asked for": b'{"do":"answer","number":"none","body":{}}',
    "an order for nobody": b'{"do":"disconnect","user":"nobody","code":3503,"reason":"x"}',
    "an unknown channel": b'{"do":"forget","channel":"nowhere:x"}',
}
# Fields of entries in the stream of a history.
BAD_ENTRIES: list[dict[bytes, bytes]] = [
    {b"x": b"y"},
    {b"d": b""},
    {b"d": b"nope"},
    {b"d": b"j\0{"},
    {b"d": b"p9:epoch:" + GOOD},
    {b"d": b"+{}"},
    {b"d": b"\xff" * 2**20},
]
# Values in the hash of a channel's presence; the fields are client ids.
BAD_PRESENCE: dict[bytes, bytes] = {
    b"nothing": b"",
    b"word": b"hello",
    b"half": b"lease 1",
    b"number": b"lease 1 x 42{}",
    b"longer": b"lease 1 99 42",
    b"negative": b'lease 1 -3 42{"user":"42","client":"c"}',
    b"json": b'lease 1 2 42{"user":',
    b"array": b"lease 1 2 42[]",
    b"utf8": b'lease 1 2 42{"user":"\xff","client":"c"}',
    b"break": b'lease 1 2 42{"user":"42",\n"client":"c"}',
    b"\xff\xfe": b'lease 1 2 42{"user":"42","client":"c"}',
    b"types": b'lease 1 2 42{"user":42,"client":[]}',
    b"huge": b"\xff" * 2**20,
}
