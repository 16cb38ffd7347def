"""A Redis-backed, horizontally scalable WebSocket broadcast hub for FastAPI.

Public: `Hub` to embed, `Settings` to configure it, the exceptions; `hub.compat` for code of the FastAPI tutorial;
`hub.wire:HubProtocol` as uvicorn's WebSocket class.
"""

from .config import Settings
from .embed import Hub
from .errors import BrokerUnavailable, ConfigError, HubError, InvalidChannel, MessageTooBig

__all__ = ["BrokerUnavailable", "ConfigError", "Hub", "HubError", "InvalidChannel", "MessageTooBig", "Settings"]

__version__ = "0.1.0"
