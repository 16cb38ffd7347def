"""The values that travel through the hub."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

from msgspec import Struct

from .errors import InvalidChannel

__all__ = [
    "LOBBY",
    "NOWHERE",
    "ClientInfo",
    "DataKind",
    "HistoryOptions",
    "HistoryPage",
    "HistoryResult",
    "Membership",
    "PresenceStats",
    "Publication",
    "PublishResult",
    "SlowPolicy",
    "StreamPosition",
    "channel_name",
]

# The channel of `/ws`.
LOBBY = "lobby"

MAX_CHANNEL_LENGTH = 255

# What happens to a client that reads more slowly than it is written to, once the budget is used up: it is disconnected,
# or the oldest publications that wait are dropped, or all but the channel's latest.
SlowPolicy = Literal["disconnect", "drop_oldest", "keep_latest"]


def channel_name(name: str) -> str:
    """Return `name` if it may name a channel: 1-255 characters, none of them a control character.

    Raises InvalidChannel.
    """
    if not 1 <= len(name) <= MAX_CHANNEL_LENGTH:
        raise InvalidChannel(f"channel name has {len(name)} characters, allowed are 1 to {MAX_CHANNEL_LENGTH}")
    # Unprintable is more than control characters (it has the space separators too), so it is only a fast first look.
    if not name.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise InvalidChannel("channel name has control characters")
    return name


class DataKind(IntEnum):
    """What the data of a publication is; the value is its first byte on the way through Redis."""

    # Text as a raw client sent it; UTF-8.
    TEXT = ord("t")
    BINARY = ord("b")
    # Any JSON value; UTF-8, no line breaks outside of strings.
    JSON = ord("j")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientInfo:
    """Who a connection is. `conn_info` and `chan_info` are JSON, or empty."""

    user: str
    client: str
    conn_info: bytes = b""
    chan_info: bytes = b""


class StreamPosition(NamedTuple):
    """A place in the history of a channel.

    Offsets count publications from 1, and leap where another Redis server goes on with the history. They mean
    something only together with their epoch, which changes when the history is lost. Offset 0 is the beginning, an
    empty epoch any.
    """

    offset: int
    epoch: str


# Of a channel without history.
NOWHERE = StreamPosition(0, "")


class Publication(Struct, frozen=True):
    """One message of a channel, as it travels between workers.

    `exclude` names the connection, of `join` or of a raw room, that does not want its own message back; empty:
    everybody gets it. `info` is the client that published, a ClientInfo as JSON, if one did. `delta`: it may be sent as
    the difference to the one before. `offset` and `epoch` are its place in the history; 0 and empty without one.
    `before` is the offset of the publication before it, where offsets have leapt; else 0. `trace` is the context of the
    span in which it was published (W3C `traceparent`), if there is one.
    """

    data: bytes
    kind: DataKind = DataKind.TEXT
    exclude: bytes = b""
    info: bytes = b""
    tags: Mapping[str, str] | None = None
    delta: bool = False
    offset: int = 0
    epoch: str = ""
    before: int = 0
    trace: str = ""

    @property
    def previous(self) -> int:
        """The offset of the publication before it; 0 if it is the first."""
        return self.before or self.offset - 1


class Membership(Struct, frozen=True):
    """Somebody has joined a channel, or left it. `info` is a ClientInfo as JSON."""

    joined: bool
    info: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryOptions:
    """What is kept of a channel: `size` publications for `ttl` seconds, and its position for `meta_ttl` seconds.

    `meta_ttl` is much longer than `ttl`, so that who comes back later than `ttl` learns that it missed something.
    """

    size: int
    ttl: float
    meta_ttl: float


class PublishResult(NamedTuple):
    """Where a publication stands in its channel's history; 0 and empty without history.

    `suppressed`: the same idempotency key, or a newer version, was there already, so nothing was sent.
    """

    offset: int = 0
    epoch: str = ""
    suppressed: bool = False


class HistoryPage(NamedTuple):
    """A part of a channel's history, as (offset, payload), and the position of its end."""

    publications: list[tuple[int, bytes]]
    position: StreamPosition


class HistoryResult(NamedTuple):
    """A part of a channel's history, and the position of its end."""

    publications: list[Publication]
    position: StreamPosition


class PresenceStats(NamedTuple):
    """How many connections are in a channel, and of how many users."""

    num_clients: int
    num_users: int
