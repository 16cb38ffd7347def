"""What channels are like: which namespace a channel is in, and which options go together."""

from __future__ import annotations

import re
from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hub.namespaces import BUILT_IN, OPEN, ChannelOptions, Namespaces, namespace_of

# Whose namespace


@pytest.mark.parametrize(
    ("channel", "namespace"),
    [
        ("lobby", ""),
        ("chat:lobby", "chat"),
        ("chat:a:b", "chat"),
        ("$chat:lobby", "chat"),
        ("$lobby", ""),
        ("$$chat:a", "$chat"),
        ("chat:", "chat"),
        (":a", ""),
        ("$:a", ""),
        ("chat$:a", "chat$"),
        ("chat#1,2", ""),
        ("chat:a#1,2", "chat"),
        (" chat:a", " chat"),
        ("Räume:a", "Räume"),
    ],
)
def test_the_namespace_of_a_channel(channel: str, namespace: str) -> None:
    """What stands before the first colon; the sign of private channels is no part of it."""
    assert namespace_of(channel) == namespace


FIRST, SECOND = ChannelOptions(presence=True), ChannelOptions(join_leave=True)


def test_the_options_of_a_channel() -> None:
    """Of its namespace, or of those without one; an unknown namespace has none, and is no other one either."""
    namespaces = Namespaces(FIRST, {"n": SECOND})
    assert namespaces.find("a") is namespaces.find("$a") is namespaces.find(":a") is FIRST
    assert namespaces.find("n:a") is namespaces.find("$n:a") is SECOND
    for unknown in ("N:a", "nn:a", " n:a", "n$:a", "$$n:a"):
        assert namespaces.find(unknown) is None
        assert namespaces.of_room(unknown) is FIRST
    assert namespaces.of_room("n:a") is SECOND


def test_without_configuration() -> None:
    """Names without a colon are open and plain, `chat` has all there is, and nothing else is known."""
    namespaces = Namespaces()
    assert namespaces.find("lobby") is OPEN
    assert OPEN.history is None
    chat = namespaces.find("chat:lobby")
    assert chat is BUILT_IN["chat"]
    assert chat.history is not None
    assert astuple(chat.history) == (100, 300.0, 30 * 86400.0)
    assert namespaces.find("other:a") is None


def test_later_changes_of_what_was_given() -> None:
    """Do not matter."""
    given_ = {"n": SECOND}
    namespaces = Namespaces(FIRST, given_)
    given_.clear()
    assert namespaces.find("n:a") is SECOND


# channel_regex


@pytest.mark.parametrize(
    ("pattern", "channel", "fits"),
    [
        ("^[a-z]+$", "n:abc", True),
        ("^[a-z]+$", "$n:abc", True),
        ("^[a-z]+$", "n:ABC", False),
        ("^[a-z]+$", "n:", False),
        ("^[a-z]+$", "n:abc1", False),
        ("^[a-z]+$", "n:ABC-n:abc", False),
        ("^n:[a-z]+$", "n:n:abc", True),
        ("b", "n:abc", True),
        ("n", "n:abc", False),
        ("^$", "n:", True),
        ("", "n:anything", True),
    ],
)
def test_what_a_namespace_calls_its_channels(pattern: str, channel: str, fits: bool) -> None:
    """All that stands after the first colon is searched, and nothing before it."""
    options = ChannelOptions(channel_regex=pattern)
    assert Namespaces(FIRST, {"n": options}).find(channel) is (options if fits else None)


@pytest.mark.parametrize(("channel", "fits"), [("abc", True), ("ABC", False), ("$abc", False), (":abc", False)])
def test_what_channels_without_a_namespace_are_called(channel: str, fits: bool) -> None:
    """The whole name; raw rooms of any other name have the same options all the same."""
    options = ChannelOptions(channel_regex="^[a-z]+$")
    namespaces = Namespaces(options, {})
    assert namespaces.find(channel) is (options if fits else None)
    assert namespaces.of_room(channel) is options


@given(st.text(min_size=1), st.text(), st.sampled_from(["", "$"]))
def test_any_name(name: str, rest: str, private: str) -> None:
    """However a namespace is called, it is found by what precedes the first colon, and its channels by what follows."""
    name = name.replace(":", "").removeprefix("$") or "n"
    options = ChannelOptions(channel_regex=f"^{re.escape(rest)}\\Z")
    namespaces = Namespaces(FIRST, {name: options})
    assert namespaces.find(f"{private}{name}:{rest}") is options
    assert namespaces.find(f"{private}{name}:{rest}!") is None
    assert namespaces.find(f"{private}{name}{name}:{rest}") is None


# Durations


@pytest.mark.parametrize(
    ("given_", "seconds"),
    [
        (0, 0.0),
        (1.5, 1.5),
        ("300s", 300.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1h30m15s", 5415.0),
        ("0.5h", 1800.0),
        ("30d", 2592000.0),
        ("250ms", 0.25),
        ("1m1m", 120.0),
        ("0s", 0.0),
    ],
)
def test_durations(given_: Any, seconds: float) -> None:
    """Numbers of seconds, and texts with units, which add up."""
    assert ChannelOptions(history_meta_ttl=given_).history_meta_ttl == seconds


@pytest.mark.parametrize(
    "given_",
    ["", "5", "s", "5 m", " 5m", "5m ", "-5m", "1h-30m", "5w", "5M", "1,5m", "1.m", ".5m", "1e3s", "five", "5m30",
     -1, float("nan"), float("inf"), "9" * 400 + "s", None, [], {}],
)  # fmt: skip
def test_what_is_no_duration(given_: Any) -> None:
    """Anything else; what never ends too, for Redis keeps nothing for ever that it was told to expire."""
    with pytest.raises(ValidationError, match="history_meta_ttl"):
        ChannelOptions(history_meta_ttl=given_)


# Options that go together

KEPT: dict[str, Any] = {"history_size": 10, "history_ttl": "1m"}


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"history_size": 10}, "history needs both history_size and history_ttl"),
        ({"history_ttl": "1m"}, "history needs both history_size and history_ttl"),
        ({"force_recovery": True}, "need history_size and history_ttl"),
        ({"allow_recovery": True}, "need history_size and history_ttl"),
        ({"force_positioning": True}, "need history_size and history_ttl"),
        ({"allow_positioning": True}, "need history_size and history_ttl"),
        ({**KEPT, "history_meta_ttl": "59s"}, "history_meta_ttl must not be shorter than history_ttl"),
        ({"channel_regex": "("}, "channel_regex: missing"),
        ({"history_size": -1}, "history_size"),
        ({"presense": True}, "presense"),
        ({"force_recovery_mode": "other"}, "force_recovery_mode"),
        ({"allowed_delta_types": ["other"]}, "allowed_delta_types"),
        ({"publication_data_format": "xml"}, "publication_data_format"),
    ],
)
def test_options_that_contradict(options: dict[str, Any], cause: str) -> None:
    """Refused with the names of the options."""
    with pytest.raises(ValidationError, match=cause):
        ChannelOptions(**options)


@pytest.mark.parametrize("extra", ["force_recovery", "allow_recovery", "force_positioning", "allow_positioning"])
def test_what_is_kept(extra: str) -> None:
    """With both its size and its time there is a history, and all that relies on it."""
    history = ChannelOptions(**KEPT, history_meta_ttl="1m", **{extra: True}).history
    assert history is not None
    assert astuple(history) == (10, 60.0, 60.0)


def test_positions_are_kept_for_a_minute_at_least() -> None:
    """Workers look at quiet channels every 25 s, which is what keeps the position of a channel with subscribers."""
    history = ChannelOptions(history_size=10, history_ttl="5s", history_meta_ttl="5s").history
    assert history is not None
    assert astuple(history) == (10, 5.0, 60.0)


def test_everything_is_off() -> None:
    """Unless it is turned on; and nobody changes it later."""
    options = ChannelOptions()
    turned_on = {name for name, value in options if value not in (False, 0, "", (), None)}
    assert turned_on == {"history_meta_ttl", "force_recovery_mode"}
    assert options.history is None
    with pytest.raises(ValidationError, match="frozen"):
        options.presence = True


# Formats of data


@pytest.mark.parametrize(
    ("wanted", "data", "binary", "complaint"),
    [
        ("", b"x", False, ""),
        ("", b"x", True, ""),
        ("", b"", False, "data is missing"),
        ("", b"", True, "data is missing"),
        ("json", b"1", False, ""),
        ("json", b"", False, "data is missing"),
        ("json", b"x", True, "data must be JSON"),
        ("json_object", b'{"a":1}', False, ""),
        ("json_object", b"[1]", False, "data must be a JSON object"),
        ("json_object", b'"{"', False, "data must be a JSON object"),
        ("json_object", b"{}", True, "data must be JSON"),
        ("binary", b"x", True, ""),
        ("binary", b"{}", False, "data must be binary"),
        ("binary", b"", True, "data is missing"),
    ],
)
def test_what_publications_must_be(wanted: Any, data: bytes, binary: bool, complaint: str) -> None:
    """What is wrong is a text for an error; the empty format takes anything but nothing."""
    assert ChannelOptions(publication_data_format=wanted).complaint(data, binary=binary) == complaint
