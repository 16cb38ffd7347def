"""Which frames are commands, and what they say; all others are Malformed and nothing else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.protocol import commands as c
from hub.protocol.commands import Command, Malformed, parse


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def one(frame: bytes) -> Command:
    (command,) = parse(frame, text=True)
    return command


def fields(body: Any) -> dict[str, Any]:
    """By value: `Raw` compares by identity."""
    values = {name: getattr(body, name) for name in body.__struct_fields__}
    return {name: bytes(value) if isinstance(value, msgspec.Raw) else value for name, value in values.items()}


# Every command

DEFAULTS: dict[str, tuple[type, dict[str, Any]]] = {
    "connect": (c.Connect, {"token": "", "data": b"", "subs": {}, "name": "", "version": ""}),
    "subscribe": (
        c.Subscribe,
        {
            "channel": "",
            "token": "",
            "recover": False,
            "epoch": "",
            "offset": 0,
            "data": b"",
            "positioned": False,
            "recoverable": False,
            "join_leave": False,
            "delta": "",
            "tf": None,
            "flag": 0,
            "type": 0,
        },
    ),
    "unsubscribe": (c.Unsubscribe, {"channel": ""}),
    "publish": (c.Publish, {"channel": "", "data": b"", "type": 0}),
    "presence": (c.Presence, {"channel": ""}),
    "presence_stats": (c.PresenceStats, {"channel": ""}),
    "history": (c.History, {"channel": "", "limit": 0, "since": None, "reverse": False}),
    "ping": (c.Ping, {}),
    "send": (c.Send, {"data": b""}),
    "rpc": (c.Rpc, {"data": b"", "method": ""}),
    "refresh": (c.Refresh, {"token": ""}),
    "sub_refresh": (c.SubRefresh, {"channel": "", "token": ""}),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_empty_body(name: str) -> None:
    """Each command with nothing in it is that command, all at zero values; so it is with fields that nobody knows."""
    kind, defaults = DEFAULTS[name]
    for body in ({}, {"unknown": [1, {"deep": None}], "headers": {"a": "b"}}):
        command = one(line(id=7, foo={"bar": 1}, **{name: body}))
        assert command.id == 7
        assert type(command.body) is kind
        assert fields(command.body) == defaults


@pytest.mark.parametrize(
    ("name", "given_"),
    [
        ("connect", {"token": "t", "data": {"a": 1}, "name": "js", "version": "1.2"}),
        (
            "subscribe",
            {
                "channel": "a",
                "token": "t",
                "recover": True,
                "epoch": "xyz",
                "offset": 7,
                "data": [1],
                "positioned": True,
                "recoverable": True,
                "join_leave": True,
                "delta": "fossil",
                "tf": {"key": "k", "cmp": "ex"},
                "flag": 3,
                "type": 4,
            },
        ),
        ("unsubscribe", {"channel": "a"}),
        ("publish", {"channel": "a", "data": "hi", "type": 1}),
        ("presence", {"channel": "a"}),
        ("presence_stats", {"channel": "a"}),
        ("history", {"channel": "a", "limit": -1, "reverse": True}),
        ("send", {"data": None}),
        ("rpc", {"data": 1.5, "method": "m"}),
        ("refresh", {"token": "t"}),
        ("sub_refresh", {"channel": "a", "token": "t"}),
    ],
)
def test_every_field(name: str, given_: dict[str, Any]) -> None:
    """What a client writes is what is read; `data` as the JSON text that it is."""
    wanted = dict(given_)
    if "data" in wanted:
        wanted["data"] = json.dumps(wanted["data"]).encode()
    kind, defaults = DEFAULTS[name]
    command = one(line(id=1, **{name: given_}))
    assert type(command.body) is kind
    assert fields(command.body) == {**defaults, **wanted}


def test_what_is_inside_of_what() -> None:
    """Positions in `connect`, and since when in `history`."""
    body = one(b'{"id":1,"connect":{"subs":{"a":{},"b":{"recover":true,"epoch":"e","offset":3,"delta":"?"}}}}').body
    assert isinstance(body, c.Connect)
    assert body.subs == {"a": c.SubscribeRecovery(), "b": c.SubscribeRecovery(True, "e", 3)}
    body = one(b'{"id":1,"history":{"since":{"offset":3}}}').body
    assert isinstance(body, c.History)
    assert body.since == c.Since(3, "")


@pytest.mark.parametrize(
    ("written", "read"),
    [(b' {"a" : 1}\t', b'{"a" : 1}'), (b" 1e999 ", b"1e999"), (b'"\\u00e9"', b'"\\u00e9"'), (b"null", b"null")],
)
def test_data_is_passed_on_as_it_is(written: bytes, read: bytes) -> None:
    """Not a digit is changed, white space around it is left out."""
    body = one(b'{"id":1,"publish":{"data":%s}}' % written).body
    assert fields(body)["data"] == read


@pytest.mark.parametrize("text", [True, False])
def test_half_an_emoji(text: bool) -> None:
    """`JSON.stringify("a nice 😀 day".slice(0, 8))` is JSON that not every reader takes; see `hub.protocol.surrogates`.

    It ended the connection for good. Others hear U+FFFD in its place, and all else of the frame is as it was.
    """
    first = rb'{"id":1,"publish":{"channel":"a","data":{ "t":"a nice \ud83d", "n":1.50, "\\ud83d":"\ud83d\ude00"}}}'
    one, two = parse(first + b"\n" + rb'{"id":2,"rpc":{"method":"\udc00"}}', text=text)
    assert fields(one.body)["data"] == rb'{ "t":"a nice \ufffd", "n":1.50, "\\ud83d":"\ud83d\ude00"}'
    assert two == Command(2, c.Rpc(method="\ufffd"))


def test_nothing_to_do() -> None:
    """`{}` answers a ping; a body that nobody knows, or that is null, is as empty."""
    for frame in (b"{}", b'{"foo":{}}', b'{"connect":null}'):
        assert one(frame) == Command(0, c.Empty())
    assert one(b'{"id":2,"foo":{}}') == Command(2, c.Empty())


NULLS = [(name, field) for name, (_, defaults) in DEFAULTS.items() for field in defaults if field != "data"]


@pytest.mark.parametrize(("name", "field"), NULLS)
def test_null_is_no_field(name: str, field: str) -> None:
    """As in the JSON of protobuf, and as the API has it. Clients that write what they have not as null were closed."""
    given_ = {"unknown": None, field: None}
    assert fields(one(line(id=7, **{name: given_})).body) == DEFAULTS[name][1]
    assert one(line(id=None, **{name: None})) == Command(0, c.Empty())


def test_null_is_no_id() -> None:
    """And no command: the bodies that are none do not count, before those that do or behind them."""
    assert one(b'{"id":null,"connect":null,"rpc":{"method":"m"},"refresh":null}') == Command(0, c.Rpc(method="m"))
    assert one(b'{"id":3,"id":null,"rpc":{"method":"m","method":null}}') == Command(0, c.Rpc())


@pytest.mark.parametrize(
    "data", [b"null", b'{ "a" : null, "n":1.50e0 , "\\u00e9":[null] }', b"12345678901234567890123", rb'"\ud83d\ude00"']
)
@pytest.mark.parametrize("name", ["connect", "subscribe", "publish", "send", "rpc"])
def test_null_in_data(name: str, data: bytes) -> None:
    """Data is the client's own: it is as it was beside fields that are null, and null is data like any other."""
    body = one(b'{"id":null,"%s":{"channel":null,"type":null,"method":null,"data": %s }}' % (name.encode(), data)).body
    assert fields(body) == DEFAULTS[name][1] | {"data": data}


def test_null_beside_half_an_emoji() -> None:
    """Neither keeps the other from being understood."""
    body = one(rb'{"id":1,"publish":{"channel":null,"type":null,"data":["\ud83d",null]}}').body
    assert fields(body) == {"channel": "", "type": 0, "data": rb'["\ufffd",null]'}


# Several of them

ORDER = list(DEFAULTS)


@given(st.sets(st.sampled_from(ORDER), min_size=2), st.randoms())
def test_several_bodies(names: set[str], random: Any) -> None:
    """The first in the protocol's order counts, wherever it stands."""
    shuffled = sorted(names)
    random.shuffle(shuffled)
    first = min(names, key=ORDER.index)
    assert type(one(line(id=1, **{name: {} for name in shuffled})).body) is DEFAULTS[first][0]


def test_a_field_twice() -> None:
    """The last one counts."""
    assert one(b'{"id":1,"id":2,"rpc":{"method":"a"},"rpc":{"method":"b"}}') == one(b'{"id":2,"rpc":{"method":"b"}}')


def test_line_breaks() -> None:
    """One between two commands, and one more at the end at most; spaces, tabs and carriage returns do not matter."""
    two = [Command(1, c.Ping()), Command(2, c.Unsubscribe("a"))]
    first, second = b'{"id":1,"ping":{}}', b'{"id":2,"unsubscribe":{"channel":"a"}}'
    for frame in (first + b"\n" + second, first + b"\r\n\t" + second + b" \n"):
        for text in (True, False):
            assert parse(frame, text=text) == two
    for frame in (b"", b"\n", b"\n" + first, first + b"\n\n", first + b"\n\n" + second, first + second, b"\n\n"):
        with pytest.raises(Malformed):
            parse(frame, text=True)


def test_one_bad_line_spoils_the_frame() -> None:
    """Nothing of it is a command then."""
    with pytest.raises(Malformed):
        parse(b'{"id":1,"ping":{}}\n{"id":2,"ping":{}', text=True)


# Limits


@pytest.mark.parametrize(
    ("before", "limits", "after"),
    [
        ('{"id":', (0, 2**32 - 1), ',"ping":{}}'),
        ('{"subscribe":{"type":', (0, 2**32 - 1), "}}"),
        ('{"publish":{"type":', (0, 2**32 - 1), "}}"),
        ('{"subscribe":{"offset":', (0, 2**63 - 1), "}}"),
        ('{"connect":{"subs":{"a":{"offset":', (0, 2**63 - 1), "}}}}"),
        ('{"history":{"since":{"offset":', (0, 2**63 - 1), "}}}"),
        ('{"history":{"limit":', (-(2**31), 2**31 - 1), "}}"),
    ],
)
def test_whole_numbers(before: str, limits: tuple[int, int], after: str) -> None:
    """From the least to the greatest of the protocol's type; nothing beyond, and nothing that is no whole number."""
    for number in limits:
        one(f"{before}{number}{after}".encode())
    for wrong in (limits[0] - 1, limits[1] + 1, "1.5", "1.0", "1e3", '"1"', "true", "9" * 5000, "[]", "01", "1e400"):
        with pytest.raises(Malformed):
            one(f"{before}{wrong}{after}".encode())


def test_flags_have_any_sign() -> None:
    """Bits that the hub does not know do not matter."""
    for flag in (-1, 2**63 - 1, -(2**63)):
        body = one(b'{"subscribe":{"flag":%d}}' % flag).body
        assert isinstance(body, c.Subscribe)
        assert body.flag == flag


@pytest.mark.parametrize(("field", "size"), [("name", 16), ("version", 64)])
def test_what_a_client_calls_itself(field: str, size: int) -> None:
    """Limits are in characters."""
    one(line(id=1, connect={field: "é" * size}))
    with pytest.raises(Malformed):
        one(line(id=1, connect={field: "e" * (size + 1)}))


def test_other_texts_may_be_long() -> None:
    """The frame has its own limit, and channel names are judged by their command."""
    text = "é" * 60_000
    assert one(line(id=1, refresh={"token": text})).body == c.Refresh(text)
    assert one(line(id=1, presence={"channel": text})).body == c.Presence(text)


# Malformed

PUBLISH = b'{"id":1,"publish":{"channel":"a","data":%s}}'


@pytest.mark.parametrize(
    "data",
    [
        b"", b"tru", b"NaN", b"Infinity", b"-", b"+1", b"01", b"1.", b".5", b"1e", b"0x1", b"'a'", b'"a', b'"\\x"',
        b'"\\u12"', b'"\\ud80"', b'"\\ud83d\\n', b'"tab\t"', b'"\x00"', b'{"\x01":1}', b'"a\rb"', b"[1,]",
        b"[1 2]", b'{"a":1,}', b"{1:1}", b"{a:1}", b"[", b"1 2", b"/* */ 1",
    ],
)  # fmt: skip
def test_data_that_is_no_json(data: bytes) -> None:
    """It goes to other clients as it is, so it must be JSON that all of them can read. Known fields or not."""
    for frame in (PUBLISH % data, b'{"id":1,"ping":{},"unknown":%s}' % data):
        with pytest.raises(Malformed):
            parse(frame, text=True)


@pytest.mark.parametrize(
    "frame",
    [
        b"x", b"1", b"null", b"[]", b'"{}"', b"{", b"}", b"{}{}", b"{} x", b"\xef\xbb\xbf{}", b"\x00",
        b'{"id":1,"connect":[]}', b'{"id":1,"connect":1}', b'{"id":1,"connect":"{}"}', b'{"id":[null],"ping":{}}',
        b'{"id":1,"connect":{"token":1}}', b'{"id":null,"connect":{"token":[null]}}', b'{"id":1,"connect":{"subs":[]}}',
        b'{"id":null,"connect":[null]}', b'{"id":null,"ping":{}', b'{"id":nul,"ping":{}}',
        b'{"id":1,"connect":{"subs":{"a":null}}}', b'{"id":1,"subscribe":{"channel":["a"]}}',
        b'{"id":1,"subscribe":{"recover":1}}', b'{"id":1,"subscribe":{"recover":"true"}}',
        b'{"id":1,"history":{"since":[0,""]}}', b'{"id":1,"rpc":{"method":"\xff"}}',
        b'{"id":1,"rpc":{"method":"\\ud800\xff"}}',
    ],
)  # fmt: skip
def test_frames_that_are_no_commands(frame: bytes) -> None:
    """Other JSON, fields of another type, and what is no JSON; the error says what is wrong."""
    for text in (True, False):
        with pytest.raises(Malformed) as caught:
            parse(frame, text=text)
        assert str(caught.value)


def test_binary_frames_are_checked_for_utf8() -> None:
    """Text frames are by the wire; what is passed on from binary ones would end other clients' connections."""
    with pytest.raises(Malformed):
        parse(PUBLISH % b'"\xff"', text=False)
    assert parse(PUBLISH % '"é"'.encode(), text=False)


@pytest.mark.parametrize("frame", [b"%s", PUBLISH, b'{"id":1,"subscribe":{"tf":%s}}', b'{"id":1,"unknown":%s}'])
@pytest.mark.parametrize("deep", [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000])
def test_deep_json(frame: bytes, deep: bytes) -> None:
    """Deeper than the interpreter can follow is malformed, not a fault."""
    with pytest.raises(Malformed):
        parse(frame % deep, text=True)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KNOWN = sorted({name for _, defaults in DEFAULTS.values() for name in defaults})
BODIES = st.dictionaries(st.sampled_from(KNOWN), VALUES, max_size=4) | VALUES
COMMANDS = st.dictionaries(st.sampled_from(["id", *ORDER]), BODIES | st.integers(), max_size=3).map(json.dumps)
GOOD = [line(id=1, **{name: {"channel": "a", "data": [1, "é"], "offset": 3}}) for name in ORDER]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Good frames of which a few bytes are other ones, missing, or doubled."""
    frame = bytearray(b"\n".join(draw(st.lists(st.sampled_from(GOOD), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(frame)))
        frame[at : at + draw(st.integers(0, 2))] = draw(
            st.binary(max_size=2) | st.sampled_from([b'"', b"{", b"\n", b"9"])
        )
    return bytes(frame)


@given(st.binary() | damaged() | st.lists(COMMANDS, max_size=3).map("\n".join).map(str.encode), st.booleans())
def test_any_frame(frame: bytes, text: bool) -> None:
    """Commands, one a line and each of a known kind, or Malformed; nothing else is ever raised."""
    try:
        commands = parse(frame, text=text)
    except Malformed:
        return
    assert len(commands) == len(frame.removesuffix(b"\n").split(b"\n"))
    for command in commands:
        assert 0 <= command.id < 2**32
        assert isinstance(command.body, c.Body)
