"""What clients say: the commands of the Centrifuge client protocol v2 in JSON (the protocol's `Command` message).

A frame holds one or more commands, separated by one line break each. Fields that are unknown or null are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from .surrogates import replace_lone

__all__ = [
    "Command",
    "Connect",
    "Empty",
    "History",
    "Malformed",
    "Ping",
    "Presence",
    "PresenceStats",
    "Publish",
    "Refresh",
    "Rpc",
    "Send",
    "SubRefresh",
    "Subscribe",
    "SubscribeRecovery",
    "Unsubscribe",
    "parse",
]

UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
# Of an offset; the protocol has one bit more, which no history will ever need.
UInt64 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Int64 = int
# Tokens and channel names may be long; the frame has its own limit.
Name = Annotated[str, Meta(max_length=16)]
Version = Annotated[str, Meta(max_length=64)]


class Malformed(ValueError):
    """A frame that is not commands."""


class SubscribeRecovery(Struct):
    """What a client knows of a server-side subscription from its last session."""

    recover: bool = False
    epoch: str = ""
    offset: UInt64 = 0


class Connect(Struct):
    token: str = ""
    data: Raw = Raw()
    subs: dict[str, SubscribeRecovery] = {}
    name: Name = ""
    version: Version = ""


class Subscribe(Struct):
    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: UInt64 = 0
    data: Raw = Raw()
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    tf: Any = None
    flag: Int64 = 0
    type: UInt32 = 0


class Unsubscribe(Struct):
    channel: str = ""


class Publish(Struct):
    channel: str = ""
    data: Raw = Raw()
    type: UInt32 = 0


class Presence(Struct):
    channel: str = ""


class PresenceStats(Struct):
    channel: str = ""


class Since(Struct):
    offset: UInt64 = 0
    epoch: str = ""


class History(Struct):
    channel: str = ""
    limit: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0
    since: Since | None = None
    reverse: bool = False


class Ping(Struct):
    pass


class Send(Struct):
    data: Raw = Raw()


class Rpc(Struct):
    data: Raw = Raw()
    method: str = ""


class Refresh(Struct):
    token: str = ""


class SubRefresh(Struct):
    channel: str = ""
    token: str = ""


class Empty(Struct):
    """`{}`, the answer to a ping; and a command that nobody knows."""


Body = (
    Connect
    | Subscribe
    | Unsubscribe
    | Publish
    | Presence
    | PresenceStats
    | History
    | Ping
    | Send
    | Rpc
    | Refresh
    | SubRefresh
    | Empty
)


class _Envelope(Struct):
    """The command itself; of several bodies the first in this order counts."""

    id: UInt32 = 0
    connect: Connect | None = None
    subscribe: Subscribe | None = None
    unsubscribe: Unsubscribe | None = None
    publish: Publish | None = None
    presence: Presence | None = None
    presence_stats: PresenceStats | None = None
    history: History | None = None
    ping: Ping | None = None
    send: Send | None = None
    rpc: Rpc | None = None
    refresh: Refresh | None = None
    sub_refresh: SubRefresh | None = None


_BODIES = _Envelope.__struct_fields__[1:]
_decoder = msgspec.json.Decoder(_Envelope)
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


class Command(Struct, frozen=True):
    """One command. `id` 0: no reply is wanted."""

    id: int
    body: Body


def parse(frame: bytes, *, text: bool) -> list[Command]:
    """The commands of a frame, at least one; in a binary frame too. Raises Malformed."""
    try:
        if not text:
            frame.decode()
        lines = frame.removesuffix(b"\n").split(b"\n")
        return [_parse_line(line) for line in lines]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None


def _parse_line(line: bytes) -> Command:
    envelope = _decode(line)
    for name in _BODIES:
        body = getattr(envelope, name)
        if body is not None:
            return Command(envelope.id, body)
    return Command(envelope.id, Empty())


def _decode(line: bytes) -> _Envelope:
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        return _decoder.decode(_without_nulls(replace_lone(line)))


def _without_nulls(line: bytes) -> bytes:
    """In protobuf's JSON a field that is null is absent; but `data`, where null is as good as any other."""
    command = _members(line)
    return msgspec.json.encode({name: _members(raw) if name in _BODIES else raw for name, raw in command.items()})


def _members(raw: bytes | Raw) -> dict[str, Raw]:
    return {name: value for name, value in _decode_members(raw).items() if name == "data" or bytes(value) != b"null"}
