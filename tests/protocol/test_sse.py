"""Events as bytes, read by the standard's own rules."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hub.protocol.sse import PING, SseForm, encode, event_id, greeting, hub_event, read_event_id
from hub.types import DataKind, Membership, Publication, StreamPosition
from tests.support.sse import Message, Parser

HERE = StreamPosition(7, "3f0a.b1")


def read(chunk: bytes) -> list[Message]:
    return Parser().feed(chunk)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 9))
@example("", 1)
@example("\r\r\n\n", 1)
@example("data: \u2028 : id: 5\n\nid: 6\n", 3)
def test_any_text_arrives(text: str, size: int) -> None:
    """With line feeds for whatever ended its lines, and nothing of it is taken for a field; in pieces of any size."""
    chunk, parser = encode(text.encode(), id=b"e:1") + encode(b"next"), Parser()
    messages = [message for at in range(0, len(chunk), size) for message in parser.feed(chunk[at : at + size])]
    expected = re.sub("\r\n|\r", "\n", text)
    assert messages == [Message("message", expected, "e:1"), Message("message", "next", "e:1")]


def test_what_the_hub_says() -> None:
    """A name of its own, JSON in one line; the first says when to come back."""
    parser = Parser()
    (first,) = parser.feed(greeting(2500, {"subscribed": {"channel": "a\nb"}}, id=b"e:3"))
    assert (first.name, first.body, first.last_id) == ("hub", {"subscribed": {"channel": "a\nb"}}, "e:3")
    assert parser.retry == 2500
    assert read(hub_event({"disconnect": 1})) == [Message("hub", '{"disconnect":1}', "")]


def test_a_ping_is_a_comment() -> None:
    """Of which nobody hears, and which ends no event before it."""
    parser = Parser()
    assert parser.feed(PING) == []
    assert parser.comments == 1


@pytest.mark.parametrize(
    ("publication", "name", "data"),
    [
        (Publication(b"two\nlines"), "message", "two\nlines"),
        (Publication(b'{"a": 1}'), "message", '{"a": 1}'),
        (Publication(b'{"a":"b\\nc"}', DataKind.JSON), "message", '{"a":"b\\nc"}'),
        (Publication(b'"said\\ntwice"', DataKind.JSON), "message", "said\ntwice"),
        (Publication(b"\x00\xff\n", DataKind.BINARY), "binary", base64.b64encode(b"\x00\xff\n").decode()),
    ],
)
def test_publications(publication: Publication, name: str, data: str) -> None:
    """Data as raw WebSockets have them; binary in base64."""
    (frame,) = SseForm().frames("room", [publication], None)
    assert read(frame) == [Message(name, data, "")]


def test_ids_are_for_those_who_may_rely_on_them() -> None:
    """The position, in a positioned form only."""
    publication = Publication(b"x", offset=7, epoch="3f0a.b1")
    (with_id,), (without,) = (SseForm(positioned=known).frames("room", [publication], None) for known in (True, False))
    assert read(with_id)[0].last_id == event_id(HERE).decode() == "3f0a.b1:7"
    assert b"id" not in without


def test_joins_and_leaves() -> None:
    """Events of their own without an id, for who wants them; nothing for the others."""
    events = [Membership(True, b'{"user":"1"}'), Membership(False, b'{"user":"2"}')]
    joined, left = SseForm(join_leave=True).frames("room", events, None)
    assert read(joined + left) == [Message("join", '{"user":"1"}', ""), Message("leave", '{"user":"2"}', "")]
    assert SseForm().frames("room", events, None) == [b"", b""]


def test_equal_forms_share_a_group() -> None:
    """Else each client would have events made for it alone."""
    assert SseForm(positioned=True) == SseForm(positioned=True) != SseForm()
    assert hash(SseForm(positioned=True)) == hash(SseForm(positioned=True))
    form = SseForm(positioned=True)
    assert form.next is form


def test_a_position_comes_back() -> None:
    """The id of an event is the place behind it."""
    assert read_event_id(event_id(HERE).decode()) == HERE
    assert read_event_id(event_id(StreamPosition(0, "e")).decode()) == StreamPosition(0, "e")


@pytest.mark.parametrize(
    "value", ["17", "", ":", ":5", "e:", "e:-1", "e:1:2", "e:٣", "e: 1", "e:" + "9" * 19, "x" * 9999]
)
def test_ids_of_others_are_no_place(value: str) -> None:
    """Not an error, for which a browser would give up: a place that no history has, so its client is told."""
    position = read_event_id(value)
    assert position.epoch == "?"
    assert position.offset == 0
