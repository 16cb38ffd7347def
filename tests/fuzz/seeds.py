"""Where fuzzing begins: good input of every kind, and what has to be refused or is easily got wrong.

Coverage cannot tell all of these apart, so they are replayed beside the corpus.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from .streams import masked

__all__ = [
    "COMMANDS", "DELTAS", "FILTERS", "FORGED", "FRAMES", "HANDSHAKES", "INFLATING", "MESSAGES", "PAYLOADS", "SERVERS",
    "SIGNED",
]  # fmt: skip


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _deflated(payload: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)[:-4]


# The first byte chooses the limit (see `streams.LIMITS`), the second how the rest is cut.
TINY, SMALL, LARGE = b"\x02\x03", b"\x04\x03", b"\x05\x09"
FRAMES = (
    SMALL + masked(0x81, b"hello") + masked(0x82, b"\xff\0") + masked(0x89, b"ping") + masked(0x88, b"\x03\xe8bye"),
    SMALL + masked(0x01, b"h\xc3") + masked(0x89, b"") + masked(0x00, b"\xa9") + masked(0x80, b"!"),
    TINY + masked(0x02, b"a" * 100) + masked(0x80, b"b" * 100),
    SMALL + masked(0x82, b"x" * 300) + b"\x82",
    LARGE + masked(0x82, b"x" * 300) + masked(0x88, b""),
    SMALL + masked(0x81, b"\xff"),
    SMALL + masked(0x88, b"\x03"),
    SMALL + masked(0x88, b"\x03\xed"),
    SMALL + masked(0x88, b"\x03\xe8\xff"),
    SMALL + b"\x82\xff" + b"\xff" * 8,
)
INFLATING = (
    SMALL + masked(0xC1, _deflated(b"hello hello hello hello")),
    SMALL + masked(0x41, _deflated(b"hello")[:3]) + masked(0x89, b"") + masked(0x80, _deflated(b"hello")[3:]),
    SMALL + masked(0xC1, _deflated(b"a")) + masked(0x81, b"b") + masked(0xC1, _deflated("é".encode())),
    SMALL + masked(0xC2, _deflated(bytes(2000))),
    LARGE + masked(0xC2, _deflated(bytes(60_000))),
    LARGE + masked(0xC2, _deflated(bytes(200_000))),
    SMALL + masked(0xC1, b"\x03\0" * 9 + b"\0"),
    SMALL + masked(0xC2, b"\x01\x01\0\xfe\xffA\0"),
    SMALL + masked(0xC1, b"\0"),
    SMALL + masked(0xC2, b"\xff\xff"),
    SMALL + masked(0xC1, _deflated(b"\xff")),
)
MESSAGES = (
    b"\0\0\5hello",
    b"\x0c\0\x09hello you" + b"\x2c\0\x09hello you",
    b"\x0b\1\x2c" + b"abc " * 75,
    b"\x1f\1\x2c" + b"abc " * 75,
    b"\xac\0\x0a" + "ééééé".encode(),
    b"\2\4\0" + bytes(range(256)) * 4,
    # Compressed with the largest window, which it needs.
    b"\x68\5\0" + b"".join(b"%d " % number for number in range(195)) * 2,
)


def _request(*lines: bytes, path: bytes = b"/ws/a?token=b") -> bytes:
    good = (
        *(b"Host: h", b"Upgrade: websocket", b"Connection: keep-alive, Upgrade", b"Sec-WebSocket-Version: 13"),
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    return b"\r\n".join((b"GET %b HTTP/1.1" % path, *good, *lines, b"", b""))


def _offer(parameters: bytes) -> bytes:
    return _request(b"Sec-WebSocket-Extensions: permessage-deflate; " + parameters)


HANDSHAKES = (
    _request(),
    _request(b"Sec-WebSocket-Protocol: a, b", b"Origin: http://x", b"X: \xe9\xff"),
    _request(b'Sec-WebSocket-Extensions: x; a="b", permessage-deflate; foo'),
    _request(b"Content-Length: 5"),
    _request(b"Sec-WebSocket-Version: 8"),
    _request(path=b"/%c3%a9%ff%00"),
    _request(path=b"/\xc3\xa9"),
    _request().replace(b"GET", b"POST"),
    _request().replace(b"HTTP/1.1", b"HTTP/1.0"),
    _request().replace(b" 13", b" 8"),
    _offer(b"client_max_window_bits, permessage-deflate; server_max_window_bits=10"),
    _offer(b"server_no_context_takeover; client_no_context_takeover; client_max_window_bits=9"),
    _offer(b"server_max_window_bits=8"),
    _offer(b"server_max_window_bits=99"),
)

BODIES: dict[str, Any] = {
    "connect": {
        **{"token": "a.b.c", "data": {"a": 1}, "name": "js", "version": "1"},
        "subs": {"a": {"recover": True, "epoch": "x", "offset": 5}},
    },
    "subscribe": {
        **{"channel": "a", "token": "t", "recover": True, "epoch": "x", "offset": 1, "data": [1.5], "positioned": True},
        **{"recoverable": True, "join_leave": True, "delta": "fossil", "flag": 1, "type": 1, "tf": {"key": "k"}},
    },
    "unsubscribe": {"channel": "a"},
    "publish": {"channel": "a", "data": "x", "type": 1},
    "presence": {"channel": "a"},
    "presence_stats": {"channel": "a"},
    "history": {"channel": "a", "limit": -1, "since": {"offset": 1, "epoch": "x"}, "reverse": True},
    "ping": {},
    "send": {"data": None},
    "rpc": {"data": {}, "method": "m"},
    "refresh": {"token": "t"},
    "sub_refresh": {"channel": "a", "token": "t"},
}
COMMANDS = (
    *(_json({"id": number, name: body}) for number, (name, body) in enumerate(BODIES.items())),
    b"{}",
    b'{"id":1}\n{"id":2,"ping":{}}\n',
    b'{"id":1,"ping":{},"rpc":{}}',
    b'{"id":1,"send":{"data":"\xff"}}',
    rb'{"id":1,"publish":{"channel":"a","data":"\ud83d\\ud83d\ud83d\ude00"}}',
    b'{"id":null,"connect":{"token":null,"data":null}}',
    b'{"id":1,"send":{"data":%b}}' % (b"[" * 1500 + b"]" * 1500),
    b'{"id":1,"subscribe":{"tf":%b}}' % (b"[" * 1500 + b"]" * 1500),
)


def _leaf(cmp: str, **given: object) -> bytes:
    return _json({"key": "k", "cmp": cmp, **given})


FILTERS = (
    *(
        _leaf(cmp, val="abc") + b'\n{"k":"%b"}' % tag
        for cmp in ("eq", "neq", "sw", "ew", "ct")
        for tag in (b"abcx", b"xabc")
    ),
    *(
        _leaf(cmp, val=value) + b'\n{"k":"5.0"}'
        for cmp in ("gt", "gte", "lt", "lte")
        for value in ("5", "-.5e-3", "1_0")
    ),
    *(_leaf(cmp, vals=["a", "5", ""]) for cmp in ("in", "nin")),
    *(_leaf("in", vals=vals) for vals in ([], [1], ["x"] * 129)),
    _leaf("ex"),
    _leaf("nex"),
    _leaf("eq", val="x" * 257),
    b'{"op":"and","nodes":[%b,%b]}' % (_leaf("ex"), _leaf("nex")),
    b'{"op":"or","nodes":[%b,{"op":"not","nodes":[%b]}]}' % (_leaf("ex"), _leaf("nex")),
    b'{"op":"not","nodes":[' * 17 + _leaf("ex") + b"]}" * 17,
    b'{"op":"not","nodes":[]}',
    b'{"op":"x"}',
    b"[]",
)
PAYLOADS = (
    *(b"t\0hi", b"b\2me\xff", b"dj\x001", b"m\0\0\0\2{}\0\0\0\0j\x001", b'm\0\0\0\2{}\0\0\0\t{"k":"v"}dj\2me1'),
    *(b"p12:xyz:t\0hi", b'p9:e:m\0\0\0\0\0\0\0\t{"k":"v"}b\0\xff', b'+{"a":1}', b"-{}", b"+[]", b"+{\n}", b"-{\xff}"),
    *(
        b'j\0{"a":[1,"\xc3\xa9"]}',
        b"j\0[\n]",
        b"j\0NaN",
        b"p0:e:t\0",
        b"p-1:e:t\0",
        b"p:",
        b"t\0\xff",
        b"m\xff\xff\xff\xff",
    ),
    *(b"p9223372036854775808:e:t\0x", b"j\0" + b"[" * 1500),
)
SERVERS = (
    b"role:master\r\nconnected_slaves:0\r\nmaster_replid:%b\r\n" % (b"a" * 40),
    b"role:slave\r\nmaster_replid:b:c\r\nslave0:ip=127.0.0.1,port=1:2\r\n",
    b"# Replication\r\nnonsense",
)


def _pair(source: bytes, target: bytes) -> bytes:
    return len(source).to_bytes(2, "big") + source + target


DELTAS = (
    _pair(b'{"name":"a","x":12345678,"tail":"the same"}', b'{"name":"b","x":12345678,"tail":"the same"}'),
    _pair("éèéèéèéèéè".encode(), "éèéèéçéèéè".encode()),
    _pair(bytes(range(200)), bytes(range(100, 200)) + bytes(range(100))),
    _pair(b"abc", b"0\n0;"),
    _pair(b"", b"1\n1:xU00000;"),
    _pair(b"abcde", b"A\nA@0,3;"),
    _pair(b"a", b"~~~~~~\n" + b"2@0," * 30),
)

CLAIMS = {
    **{"sub": "42", "exp": 1900000000, "nbf": 1, "iat": 1, "jti": "x", "iss": "app", "aud": ["hub"], "id": 7},
    **{"info": {"a": 1}, "b64info": base64.b64encode(b'{"a":\n1}').decode(), "meta": {"b": []}},
}
SUBS = {"a": {"info": 1, "data": {}, "override": {"presence": {"value": True}}}, "b": None}
SUBSCRIPTION = {
    "channel": "a",
    "client": "c",
    "data": 1,
    "b64data": "e30=",
    "override": {"join_leave": {"value": False}},
}
SIGNED = (
    *(
        bytes((verifier,)) + _json({**CLAIMS, **more})
        for verifier in range(3)
        for more in ({"channels": ["a", "b"]}, {"subs": SUBS}, SUBSCRIPTION)
    ),
    *(b"\0" + _json(claims) for claims in ({}, [], {"exp": 1}, {"nbf": 1900000000}, {"sub": 5}, {"channels": ["\0"]})),
    *(b"\0" + _json(claims) for claims in ({"exp": 10**12}, {"expire_at": -5}, {"b64info": "!"}, {"sub": "\ud800"})),
    *(b'\0{"sub":1e999}', b'\0{"sub":%b}' % (b"9" * 5000)),
    *(b"\1" + _json({"id": value}) for value in (5, True, "x", 10**30, None)),
    b'\0{"info": {"a":\n1}\n}',
    b'\1{"id":%b}' % (b"[" * 1500 + b"]" * 1500),
)


def _stranger(how: int, algorithm: bytes) -> bytes:
    return bytes((how,)) + b'{"alg":"%b"}\n{"sub":"42","channel":"a"}' % algorithm


FORGED = (
    # 0x32: with the public key as a secret; 0xF1: not signed.
    *(_stranger(how, b"HS256") for how in (0x10, 0x30, 0x32, 0xF1)),
    *(_stranger(how, algorithm) for how, algorithm in ((0x22, b"HS512"), (0xF1, b"none"), (0x12, b"ES256"))),
    *(_stranger(how, algorithm) for how, algorithm in ((0x20, b"HS384"), (0x40, b"RS256"), (0x33, b"EdDSA"))),
    b"\0a.b.c",
    b"\0\xe9",
    b"\0" + base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=") + b".e30.",
    b"\0eyJhbGciOiJIUzI1NiJ9.e30.AAAA",
    b'\x10{"alg":"HS256","crit":["exp"]}\n{}',
    b"\x10[]\n{}",
)
