"""What the server says: replies and pushes of the Centrifuge client protocol v2 in JSON.

Zero values are left out, except where clients rely on them (fields without a default here).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ..errors import Error
from ..types import ClientInfo
from .frames import text_frame

__all__ = [
    "PING",
    "ConnectResult",
    "HistoryResult",
    "PresenceResult",
    "PresenceStatsResult",
    "RefreshResult",
    "RpcResult",
    "SubscribePush",
    "SubscribeResult",
    "client_info",
    "error_reply",
    "json_or_unset",
    "push",
    "read_client_info",
    "reply",
]

_encode = msgspec.json.Encoder().encode

PING = text_frame(b"{}")


def json_or_unset(data: bytes) -> Raw | UnsetType:
    """JSON for a field that is left out if there is none."""
    return Raw(data) if data else UNSET


class _ClientInfo(Struct, omit_defaults=True):
    user: str
    client: str
    conn_info: Raw | UnsetType = UNSET
    chan_info: Raw | UnsetType = UNSET


class SubscribeResult(Struct, omit_defaults=True):
    """The reply to `subscribe`, and a server-side subscription in the reply to `connect`."""

    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Raw] = []
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    data: Raw | UnsetType = UNSET
    was_recovering: bool = False
    delta: bool = False


class ConnectResult(Struct, omit_defaults=True):
    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    data: Raw | UnsetType = UNSET
    subs: dict[str, SubscribeResult] = {}
    ping: int = 0
    pong: bool = False


class RefreshResult(Struct, omit_defaults=True):
    """Of `refresh` and `sub_refresh`."""

    expires: bool = False
    ttl: int = 0


class HistoryResult(Struct):
    publications: list[Raw]
    epoch: str
    offset: int


class PresenceResult(Struct):
    presence: dict[str, Raw]


class PresenceStatsResult(Struct):
    num_clients: int
    num_users: int


class RpcResult(Struct, omit_defaults=True):
    data: Raw | UnsetType = UNSET


class SubscribePush(Struct, omit_defaults=True):
    """The server has subscribed the client to a channel."""

    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: Raw | UnsetType = UNSET


def client_info(info: ClientInfo) -> bytes:
    """A ClientInfo as JSON."""
    return _encode(_ClientInfo(info.user, info.client, json_or_unset(info.conn_info), json_or_unset(info.chan_info)))


def read_client_info(info: bytes) -> ClientInfo:
    """What `client_info` has written; nobody, if another object stands there."""
    try:
        known = msgspec.json.decode(info, type=_ClientInfo)
    except msgspec.ValidationError:
        return ClientInfo(user="", client="")
    return ClientInfo(
        user=known.user, client=known.client, conn_info=_or_empty(known.conn_info), chan_info=_or_empty(known.chan_info)
    )


def _or_empty(raw: Raw | UnsetType) -> bytes:
    return b"" if raw is UNSET else bytes(raw)


def reply(number: int, kind: str, result: Struct | None = None) -> bytes:
    """The frame that answers command `number` with the result of its kind."""
    body = b"{}" if result is None else _encode(result)
    return text_frame(b'{"id":%d,"%s":%s}' % (number, kind.encode(), body))


def error_reply(number: int, error: Error) -> bytes:
    """The frame that refuses command `number`."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.temporary:
        body["temporary"] = True
    return text_frame(b'{"id":%d,"error":%s}' % (number, _encode(body)))


def push(kind: str, body: Any, channel: str = "") -> bytes:
    """A frame that answers nothing: `body` is encoded, or JSON already if it is bytes."""
    content = body if isinstance(body, bytes) else _encode(body)
    named = b'"channel":' + _encode(channel) + b"," if channel else b""
    return text_frame(b'{"push":{%s"%s":%s}}' % (named, kind.encode(), content))
