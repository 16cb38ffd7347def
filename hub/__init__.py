"""A Redis-backed, horizontally scalable WebSocket broadcast hub for FastAPI.

Public: `Hub` to embed, `Settings` and `ChannelOptions` to configure it, `Asker`, `User`, `Refused` and `Error` for its
decorators, the values that its methods take and return, the exceptions; `hub.sync.Publisher` to publish without an
event loop; `hub.compat` for code of the FastAPI tutorial and of broadcaster; `hub.wire:HubProtocol` as uvicorn's
WebSocket class.
"""

__version__ = "0.1.0"

from .authority import Allow, Asker, User
from .config import Settings
from .control import NodeInfo
from .embed import Hub
from .errors import (
    BrokerUnavailable,
    ConfigError,
    Denied,
    Disconnect,
    Error,
    HubError,
    InvalidChannel,
    MessageTooBig,
    Refused,
)
from .namespaces import ChannelOptions
from .tokens import Override
from .typed import ChannelHandle, Event, History, Joined, TypedChannel, TypedHistory, TypedPublication
from .types import ClientInfo, DataKind, HistoryResult, PresenceStats, Publication, PublishResult, StreamPosition

__all__ = [
    "Allow",
    "Asker",
    "BrokerUnavailable",
    "ChannelHandle",
    "ChannelOptions",
    "ClientInfo",
    "ConfigError",
    "DataKind",
    "Denied",
    "Disconnect",
    "Error",
    "Event",
    "History",
    "HistoryResult",
    "Hub",
    "HubError",
    "InvalidChannel",
    "Joined",
    "MessageTooBig",
    "NodeInfo",
    "Override",
    "PresenceStats",
    "Publication",
    "PublishResult",
    "Refused",
    "Settings",
    "StreamPosition",
    "TypedChannel",
    "TypedHistory",
    "TypedPublication",
    "User",
]
