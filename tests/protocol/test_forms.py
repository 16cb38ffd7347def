"""What one event is to whom: raw clients get data, protocol clients pushes, each only what it asked for."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hub.protocol import fossil
from hub.protocol.forms import RAW, Event, Form, JsonForm, as_json, as_text, json_publication
from hub.protocol.frames import BINARY, TEXT, split
from hub.protocol.tags import parse
from hub.types import DataKind, Membership, Publication

INFO = b'{"user":"ann","client":"c1"}'
ODD = parse({"key": "n", "cmp": "in", "vals": ["1", "3", "5"]})


def json_pub(data: Any, **fields: Any) -> Publication:
    return Publication(json.dumps(data, separators=(",", ":")).encode(), DataKind.JSON, **fields)


def messages(form: Form, *events: Event, base: Publication | None = None) -> list[Any]:
    """What a subscriber reads; None for an event that it does not get."""
    return [json.loads(frame_text(frame)) if frame else None for frame in form.frames("a", events, base)]


def frame_text(frame: bytes) -> bytes:
    """The payload of the one text frame in `frame`; a line break in it would end a message for SDKs."""
    ((opcode, payload),) = split(frame)
    assert opcode == TEXT
    assert b"\n" not in payload
    return payload


# Bridging


@pytest.mark.parametrize(
    ("kind", "data", "raw", "protocol"),
    [
        ("t", b"hi", b"hi", b'"hi"'),
        ("t", b"42", b"42", b'"42"'),
        ("t", b'"quoted"', b'"quoted"', rb'"\"quoted\""'),
        ("t", b'{"a":1}', b'{"a":1}', b'{"a":1}'),
        ("t", b'{"a": 1,\n "b": [ ] }\n', b'{"a": 1,\n "b": [ ] }\n', b'{"a":1,"b":[]}'),
        ("t", b"[1, 2]", b"[1, 2]", b"[1,2]"),
        ("t", b" [1]", b" [1]", b'" [1]"'),
        ("t", b"{oops", b"{oops", b'"{oops"'),
        ("t", b"[1]x", b"[1]x", b'"[1]x"'),
        ("t", b"[1e999]", b"[1e999]", b'"[1e999]"'),
        ("t", b'{"a":"\\ud800"}', b'{"a":"\\ud800"}', rb'"{\"a\":\"\\ud800\"}"'),
        ("t", b"two\nlines\x00", b"two\nlines\x00", rb'"two\nlines\u0000"'),
        ("t", "naïve".encode(), "naïve".encode(), '"naïve"'.encode()),
        ("b", b"\x00\xff", b"\x00\xff", b'{"b64data":"AP8="}'),
        ("b", b"", b"", b'{"b64data":""}'),
        ("j", b'"a text"', b"a text", b'"a text"'),
        ("j", rb'"tab\t\u00e9"', "tab\té".encode(), rb'"tab\t\u00e9"'),
        ("j", b'""', b"", b'""'),
        ("j", b'{"a":1}', b'{"a":1}', b'{"a":1}'),
        ("j", b"null", b"null", b"null"),
        ("j", b"1.50", b"1.50", b"1.50"),
    ],
)
def test_bridging(kind: str, data: bytes, raw: bytes, protocol: bytes) -> None:
    """The table of docs/channels.md and its borders: the bytes themselves at raw clients, a line of JSON at others."""
    publication = Publication(data, DataKind(ord(kind)))
    ((opcode, payload),) = split(RAW.frames("a", [publication], None)[0])
    assert (opcode, payload) == (BINARY if kind == "b" else TEXT, raw)
    assert as_json(publication) == protocol
    if kind != "b":
        assert as_text(publication) == raw


@pytest.mark.parametrize("depth", [500, 100_000])
def test_deep_text_is_bridged(depth: int) -> None:
    """However deep the brackets of a raw client are, protocol clients get JSON: that, or the text as a string."""
    text = "[" * depth + "]" * depth
    told = as_json(Publication(text.encode()))
    assert told.decode() in (text, json.dumps(text))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@given(st.text())
def test_any_text(text: str) -> None:
    """A raw client's text is unchanged at raw clients; at protocol clients it is one line with the same meaning."""
    publication = Publication(text.encode())
    assert as_text(publication) == text.encode()
    told = as_json(publication)
    assert b"\n" not in told
    assert json.loads(told) == (text if told.startswith(b'"') else json.loads(text))


@given(JSON)
def test_any_json(value: Any) -> None:
    """A string is its text at raw clients, all else its JSON text; protocol clients get what was published."""
    publication = json_pub(value)
    assert as_text(publication).decode() == (value if isinstance(value, str) else publication.data.decode())
    assert as_json(publication) is publication.data


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    """Binary data comes back out of its base64."""
    assert base64.b64decode(json.loads(as_json(Publication(data, DataKind.BINARY)))["b64data"]) == data


# Raw clients


def test_raw_clients_hear_publications_only() -> None:
    """Of a join nothing is written; they rely on no position, and their form never changes."""
    frames = RAW.frames("a", [Publication(b"1"), Membership(True, INFO), Publication(b"2", offset=7)], None)
    assert [[payload for _, payload in split(frame)] for frame in frames] == [[b"1"], [], [b"2"]]
    assert RAW.positioned is False
    assert RAW.next is RAW


# Pushes


def test_a_push_has_what_the_publication_has() -> None:
    """Fields that say nothing are left out; the publisher's info is embedded as the JSON that it is."""
    rich = json_pub({"x": 1}, info=INFO, tags={"k": 'a "quoted" tag'}, offset=2, epoch="xyz", exclude=b"me", delta=True)
    assert messages(JsonForm(), json_pub(1), rich) == [
        {"push": {"channel": "a", "pub": {"data": 1}}},
        {
            "push": {
                "channel": "a",
                "pub": {
                    "data": {"x": 1},
                    "info": {"user": "ann", "client": "c1"},
                    "offset": 2,
                    "tags": {"k": 'a "quoted" tag'},
                },
            }
        },
    ]


@pytest.mark.parametrize(
    ("offset", "told"),
    [(0, {"data": 1}), (1, {"data": 1, "offset": 1, "epoch": "xyz"}), (2, {"data": 1, "offset": 2})],
)
def test_the_first_offset_tells_the_epoch(offset: int, told: Any) -> None:
    """A subscriber of an empty stream does not know it yet; later ones have it from their reply."""
    publication = json_pub(1, offset=offset, epoch="xyz")
    assert json.loads(json_publication(publication, b"1")) == told


@pytest.mark.parametrize("channel", ["a", 'say "hi"\\', "raum:Tür\u2028"])
def test_any_channel_name(channel: str) -> None:
    """Names are escaped."""
    events: list[Event] = [json_pub(1), Membership(True, INFO)]
    frames = JsonForm(join_leave=True).frames(channel, events, None)
    assert [json.loads(frame_text(frame))["push"]["channel"] for frame in frames] == [channel, channel]


def test_joins_and_leaves_where_they_are_wanted() -> None:
    """Both are events of the channel for who asked, and nothing at all for others."""
    events = [Membership(True, INFO), json_pub(1), Membership(False, INFO)]
    info = {"info": {"user": "ann", "client": "c1"}}
    assert messages(JsonForm(join_leave=True), *events) == [
        {"push": {"channel": "a", "join": info}},
        {"push": {"channel": "a", "pub": {"data": 1}}},
        {"push": {"channel": "a", "leave": info}},
    ]
    assert messages(JsonForm(), *events)[::2] == [None, None]


def test_a_tags_filter_holds_back_publications_only() -> None:
    """What does not match, or has no tags, is not written; joins and leaves have no tags and pass."""
    form = JsonForm(tags_filter=ODD, join_leave=True)
    events = [json_pub(1, tags={"n": "1"}), json_pub(2, tags={"n": "2"}), json_pub(3), Membership(True, INFO)]
    first, *held, join = messages(form, *events)
    assert first["push"]["pub"] == {"data": 1, "tags": {"n": "1"}}
    assert held == [None, None]
    assert "join" in join["push"]


# Deltas

LONG = {"text": "x" * 100, "count": 1}
BASE, NEXT = json_pub(LONG), json_pub({**LONG, "count": 2}, delta=True, offset=5)


def told(form: JsonForm, *events: Event, base: Publication | None = None) -> list[Any]:
    return [message["push"]["pub"] for message in messages(form, *events, base=base)]


def test_the_first_data_is_whole() -> None:
    """A subscriber with deltas has no base at first, whatever the channel has; its data is a string all the same."""
    (first,) = told(JsonForm(delta=True), NEXT, base=BASE)
    assert first == {"data": NEXT.data.decode(), "offset": 5}
    (unknown,) = told(JsonForm(delta=True, based=True), NEXT, base=None)
    assert unknown == first


def test_a_patch_of_the_publication_before() -> None:
    """With a base, `data` is a patch that makes the new data of the old, and says so."""
    (patched,) = told(JsonForm(delta=True, based=True), NEXT, base=BASE)
    patch = patched.pop("data").encode()
    assert patched == {"offset": 5, "delta": True}
    assert fossil.apply(BASE.data, patch) == NEXT.data
    assert len(patch) < len(NEXT.data)


def test_each_publication_of_a_batch_is_the_base_of_the_next() -> None:
    """Also for who had none when it began, and with a join in between."""
    third = json_pub({**LONG, "count": 3}, delta=True)
    events: list[Event] = [BASE, Membership(True, INFO), third]
    whole, join, patched = messages(JsonForm(delta=True, join_leave=True), *events)
    assert whole["push"]["pub"] == {"data": BASE.data.decode()}
    assert "join" in join["push"]
    assert patched["push"]["pub"]["delta"] is True
    assert fossil.apply(BASE.data, patched["push"]["pub"]["data"].encode()) == third.data


@pytest.mark.parametrize(
    ("base", "publication"),
    [
        pytest.param(BASE, json_pub({**LONG, "count": 2}), id="the publisher did not ask"),
        pytest.param(BASE, json_pub([1, 2, 3], delta=True), id="the patch is longer"),
    ],
)
def test_whole_where_a_patch_is_not_wanted(base: Publication, publication: Publication) -> None:
    """The data as a string, and no word of a delta."""
    assert told(JsonForm(delta=True, based=True), publication, base=base) == [{"data": publication.data.decode()}]


def test_a_patch_has_whole_characters() -> None:
    """It travels in a JSON string, and é and è begin with the same byte."""
    old, new = json_text("é" * 31), replace(json_text("é" * 30 + "è"), delta=True)
    (patched,) = told(JsonForm(delta=True, based=True), new, base=old)
    assert patched["delta"] is True
    assert fossil.apply(old.data, patched["data"].encode()) == new.data


def json_text(text: str) -> Publication:
    return Publication(json.dumps(text, ensure_ascii=False).encode(), DataKind.JSON)


def test_what_is_filtered_is_no_base() -> None:
    """A patch is of what the subscriber has: of the last publication that it got, or there is none."""
    form = JsonForm(delta=True, based=True, tags_filter=ODD)
    first, second, third = (replace(NEXT, tags={"n": n}) for n in "123")
    assert "delta" not in told(form, third, base=second)[0]
    assert "delta" in told(form, third, base=first)[0]
    one, two, three = (
        json_pub({"text": "x" * 90 + text * 10}, tags={"n": n}, delta=True) for n, text in ["1x", "2y", "3z"]
    )
    _, held, patched = messages(form, one, two, three)
    assert held is None
    assert patched["push"]["pub"]["delta"] is True
    assert fossil.apply(one.data, patched["push"]["pub"]["data"].encode()) == three.data


def test_who_has_no_deltas_gets_json() -> None:
    """The publisher's wish alone changes nothing."""
    assert told(JsonForm(based=True), NEXT, base=BASE) == [{"data": {**LONG, "count": 2}, "offset": 5}]


def test_patches_are_made_of_what_is_read() -> None:
    """Texts of raw clients are bridged first, the base as well."""
    old, new = Publication(b'{"text": "%s"}' % (b"x" * 100)), json_pub({"text": "x" * 100, "new": 1}, delta=True)
    (patched,) = told(JsonForm(delta=True, based=True), new, base=old)
    assert fossil.apply(as_json(old), patched["data"].encode()) == new.data


def test_a_publication_for_a_reply() -> None:
    """As in a push: whole, or a patch if there is a base."""
    form = JsonForm(delta=True)
    assert json.loads(form.publication(NEXT)) == {"data": NEXT.data.decode(), "offset": 5}
    assert json.loads(form.publication(NEXT, BASE))["delta"] is True


PUBLICATIONS = st.builds(
    lambda number, text, kind, delta: Publication(
        json.dumps({"text": text, "fill": "é" * 30}, ensure_ascii=False).encode(), kind, tags={"n": number}, delta=delta
    ),
    st.sampled_from("123456"),
    st.text("aéß€😀", max_size=5),
    st.sampled_from(DataKind),
    st.booleans(),
)
EVENTS = PUBLICATIONS | st.just(Membership(False, INFO))


@given(st.lists(st.lists(EVENTS, max_size=4), max_size=6), st.booleans(), st.sampled_from([None, ODD]))
def test_who_applies_patches_has_what_others_have(ticks: list[list[Event]], join_leave: bool, tags: Any) -> None:
    """Through any number of ticks a client that keeps the data it read last can apply every patch to it."""
    form: Form = JsonForm(delta=True, join_leave=join_leave, tags_filter=tags)
    plain = JsonForm(join_leave=join_leave, tags_filter=tags)
    base, have = None, b""
    for tick in ticks:
        for got, whole in zip(messages(form, *tick, base=base), messages(plain, *tick), strict=True):
            assert (got is None) == (whole is None)
            if got and "pub" in got["push"]:
                have = applied(have, got["push"]["pub"])
                assert json.loads(have) == whole["push"]["pub"]["data"]
        base, form = after(tick, base, form)


def applied(have: bytes, publication: Any) -> bytes:
    data: bytes = publication["data"].encode()
    return fossil.apply(have, data) if publication.get("delta") else data


def after(tick: Sequence[Event], base: Publication | None, form: Form) -> tuple[Publication | None, Form]:
    """What `Channel.advance` does once `tick` is written."""
    written = [event for event in tick if isinstance(event, Publication)]
    return (written[-1], form.next) if written else (base, form)


# Groups


def test_equal_forms_share_a_group() -> None:
    """Forms are values: equal wishes of two clients are one dict key, any difference makes another."""
    same = {JsonForm(tags_filter=parse({"key": "n", "cmp": "eq", "val": v})) for v in ("1", "1", "2")}
    assert len(same) == 2
    fields: list[dict[str, Any]] = [
        {},
        {"join_leave": True},
        {"positioned": True},
        {"tags_filter": ODD},
        {"delta": True},
        {"delta": True, "based": True},
    ]
    forms = [JsonForm(**field) for field in fields]
    assert len({RAW, *forms, *(JsonForm(**field) for field in fields)}) == len(forms) + 1


def test_a_form_goes_on_once() -> None:
    """With deltas there is a base after the first publication; all others stay as they are, the same object."""
    first = JsonForm(delta=True, positioned=True, tags_filter=ODD, join_leave=True)
    assert first.next == JsonForm(delta=True, positioned=True, tags_filter=ODD, join_leave=True, based=True)
    assert first.next.next == first.next
    for settled in (first.next, JsonForm(), JsonForm(positioned=True)):
        assert settled.next is settled
