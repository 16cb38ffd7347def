"""What the server says, byte for byte: zero values are left out, except where clients rely on them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from hub.errors import Error, Errors, table
from hub.protocol import replies as r
from hub.protocol.frames import TEXT, split
from hub.types import ClientInfo


def text(frame: bytes) -> str:
    """The payload of the one text frame in `frame`."""
    ((opcode, payload),) = split(frame)
    assert opcode == TEXT
    return payload.decode()


# Results


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (r.SubscribeResult(), "{}"),
        (r.RefreshResult(), "{}"),
        (r.RpcResult(), "{}"),
        (r.SubscribePush(), "{}"),
        (r.ConnectResult("c", "1"), '{"client":"c","version":"1"}'),
        (r.ConnectResult("", ""), '{"client":"","version":""}'),
        (r.HistoryResult([], "", 0), '{"publications":[],"epoch":"","offset":0}'),
        (r.PresenceResult({}), '{"presence":{}}'),
        (r.PresenceStatsResult(0, 0), '{"num_clients":0,"num_users":0}'),
    ],
)
def test_zero_values(result: msgspec.Struct, told: str) -> None:
    """Left out where clients take a missing field for zero; kept where they use it unasked, such as in a loop."""
    assert text(r.reply(2, "x", result)) == f'{{"id":2,"x":{told}}}'


@pytest.mark.parametrize(
    "result",
    [
        r.SubscribeResult(
            expires=True,
            ttl=5,
            recoverable=True,
            epoch="xyz",
            publications=[Raw(b'{"data":1}')],
            recovered=True,
            offset=7,
            positioned=True,
            data=Raw(b"0"),
            was_recovering=True,
            delta=True,
        ),
        r.ConnectResult(
            "c",
            "1",
            expires=True,
            ttl=5,
            data=Raw(b"{}"),
            subs={"a": r.SubscribeResult(recoverable=True)},
            ping=25,
            pong=True,
        ),
        r.RefreshResult(expires=True, ttl=5),
        r.HistoryResult([Raw(b'{"data":1}')], "xyz", 7),
        r.PresenceResult({"c": Raw(b'{"user":"ann"}')}),
        r.PresenceStatsResult(2, 1),
        r.RpcResult(Raw(b"false")),
        r.SubscribePush(recoverable=True, epoch="xyz", offset=7, positioned=True, data=Raw(b"[]")),
    ],
)
def test_every_field_is_told(result: msgspec.Struct) -> None:
    """By its own name; JSON is embedded as it is, and what JSON takes for false is still something."""
    fields = json.loads(text(r.reply(1, "x", result)))["x"]
    assert list(fields) == list(result.__struct_fields__)
    for name, value in fields.items():
        assert json.loads(msgspec.json.encode(getattr(result, name))) == value


def test_server_side_subscriptions_in_the_reply_to_connect() -> None:
    """One about which there is nothing to say is there nevertheless."""
    frame = r.reply(1, "connect", r.ConnectResult("c", "1", subs={"#7": r.SubscribeResult()}))
    assert text(frame) == '{"id":1,"connect":{"client":"c","version":"1","subs":{"#7":{}}}}'


def test_a_reply_without_a_result() -> None:
    """Its kind is named: clients find by that what was answered. The greatest id is repeated exactly."""
    assert text(r.reply(2**32 - 1, "publish")) == '{"id":4294967295,"publish":{}}'


# Errors


@pytest.mark.parametrize("name", [name for name, _ in table(Errors)])
def test_errors(name: str) -> None:
    """Code and text; `temporary` only if it is, for SDKs retry then."""
    error = getattr(Errors, name)
    told = json.loads(text(r.error_reply(3, error)))
    wanted = {"code": error.code, "message": error.message, **({"temporary": True} if error.temporary else {})}
    assert told == {"id": 3, "error": wanted}


def test_an_applications_own_error() -> None:
    """Its text may have any characters."""
    error = Error(code=400, message='no "quotes"\n\u2028', temporary=True)
    frame = text(r.error_reply(1, error))
    assert "\n" not in frame
    assert json.loads(frame)["error"] == {"code": 400, "message": error.message, "temporary": True}


# Pushes


def test_a_ping() -> None:
    """The empty object."""
    assert text(r.PING) == "{}"


@pytest.mark.parametrize(
    ("kind", "body", "channel", "told"),
    [
        ("message", {"data": 1}, "", '{"push":{"message":{"data":1}}}'),
        ("unsubscribe", {"code": 2000, "reason": "r"}, "a", '{"channel":"a","unsubscribe":{"code":2000,"reason":"r"}}'),
        ("subscribe", r.SubscribePush(), "a", '{"push":{"channel":"a","subscribe":{}}}'),
        ("refresh", r.RefreshResult(expires=True, ttl=9), "", '{"push":{"refresh":{"expires":true,"ttl":9}}}'),
        ("join", b'{"info":{"user":""}}', "a", '{"push":{"channel":"a","join":{"info":{"user":""}}}}'),
    ],
)
def test_pushes(kind: str, body: Any, channel: str, told: str) -> None:
    """With the channel if it is about one; bytes are JSON already."""
    wanted = told if told.startswith('{"push"') else f'{{"push":{told}}}'
    assert text(r.push(kind, body, channel)) == wanted


# Who somebody is


def test_client_info() -> None:
    """User and client are always there, also of the anonymous; the rest if there is any."""
    assert r.client_info(ClientInfo(user="", client="")) == b'{"user":"","client":""}'
    info = ClientInfo(user='a"b', client="c", conn_info=b'{"n":1}', chan_info=b"null")
    assert r.client_info(info) == rb'{"user":"a\"b","client":"c","conn_info":{"n":1},"chan_info":null}'


@given(st.text(), st.text(), st.sampled_from([b"", b"null", b'{"n":[1]}']), st.sampled_from([b"", b"0"]))
def test_client_info_is_read_again(user: str, client: str, conn_info: bytes, chan_info: bytes) -> None:
    """By the workers of others, as it was written."""
    info = ClientInfo(user=user, client=client, conn_info=conn_info, chan_info=chan_info)
    assert r.read_client_info(r.client_info(info)) == info


@pytest.mark.parametrize("info", [b"{}", b'{"user":"ann"}', b'{"user":1,"client":"c"}', b'{"client":"c","user":null}'])
def test_client_info_of_nobody(info: bytes) -> None:
    """Objects of somebody else."""
    assert r.read_client_info(info) == ClientInfo(user="", client="")


def test_json_or_unset() -> None:
    """No bytes are no field; every JSON value is one."""
    assert r.json_or_unset(b"") is UNSET
    for data in (b"0", b"null", b'""'):
        told = r.json_or_unset(data)
        assert isinstance(told, Raw)
        assert bytes(told) == data


@given(st.text(), st.text())
def test_one_line_whatever_is_in_it(channel: str, reason: str) -> None:
    """A line break would end the message for clients; names and texts come back as they were."""
    frame = text(r.push("unsubscribe", {"code": 2000, "reason": reason}, channel))
    assert "\n" not in frame
    push = json.loads(frame)["push"]
    assert push["unsubscribe"]["reason"] == reason
    assert push.get("channel", "") == channel
