"""A Redis-backed, horizontally scalable WebSocket broadcast hub for FastAPI.

Public: `Hub` to embed, `Settings` and `ChannelOptions` to configure it, `Asker`, `User`, `Refused` and `Error` for its
decorators, the values that its methods take and return, the exceptions; `hub.sync.Publisher` to publish without an
event loop; `hub.compat` for code of the FastAPI tutorial and of broadcaster; `hub.wire:HubProtocol` as uvicorn's
WebSocket class.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
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

# Where they are, for whoever asks: `hub serve` minds signals before it has imported all of them.
_HOMES = {
    "authority": "Allow Asker User",
    "config": "Settings",
    "control": "NodeInfo",
    "embed": "Hub",
    "errors": "BrokerUnavailable ConfigError Denied Disconnect Error HubError InvalidChannel MessageTooBig Refused",
    "namespaces": "ChannelOptions",
    "tokens": "Override",
    "typed": "ChannelHandle Event History Joined TypedChannel TypedHistory TypedPublication",
    "types": "ClientInfo DataKind HistoryResult PresenceStats Publication PublishResult StreamPosition",
}

if not TYPE_CHECKING:  # type checkers would take every name for known

    def __getattr__(name: str) -> object:
        from importlib import import_module

        for home, names in _HOMES.items():
            if name in names.split():
                value = globals()[name] = getattr(import_module(f".{home}", __name__), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
