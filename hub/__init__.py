"""A Redis-backed, horizontally scalable WebSocket broadcast hub for FastAPI.

Public: `Hub` to embed, `Settings` and `ChannelOptions` to configure it, `User` and `Refused` for its decorators, the
exceptions; `hub.sync.Publisher` to publish without an event loop; `hub.compat` for code of the FastAPI tutorial and of
broadcaster; `hub.wire:HubProtocol` as uvicorn's WebSocket class.
"""

__version__ = "0.1.0"

from .authority import User
from .config import Settings
from .embed import Hub
from .errors import BrokerUnavailable, ConfigError, Error, HubError, InvalidChannel, MessageTooBig, Refused
from .namespaces import ChannelOptions

__all__ = [
    "BrokerUnavailable",
    "ChannelOptions",
    "ConfigError",
    "Error",
    "Hub",
    "HubError",
    "InvalidChannel",
    "MessageTooBig",
    "Refused",
    "Settings",
    "User",
]
