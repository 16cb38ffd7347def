"""What the connections of one worker share."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from weakref import WeakKeyDictionary

from uvicorn.config import Config
from uvicorn.server import ServerState

from .config import WireOptions
from .deadlines import Deadlines
from .log import Throttled

__all__ = ["OPTIONS_STATE", "WireServer", "wire_server"]

log = logging.getLogger("hub.wire")

# The key of the WireOptions in the lifespan state.
OPTIONS_STATE = "hub.wire.options"


class WireServer:
    """What the connections of one worker share."""

    def __init__(self, config: Config, state: ServerState, app_state: dict[str, Any]) -> None:
        self.app = config.loaded_app
        self.config = config
        self.state = state
        self.app_state = app_state
        self.loop = asyncio.get_running_loop()
        # uvicorn's, until a hub brings its own: through the lifespan, or with its first connection if it is mounted.
        self.options: WireOptions = app_state.get(OPTIONS_STATE) or WireOptions(
            max_message_size=config.ws_max_size,
            ping_interval=config.ws_ping_interval or 25.0,
            ping_timeout=config.ws_ping_timeout or 10.0,
        )
        self.configured = OPTIONS_STATE in app_state
        self.deadlines = Deadlines(self.loop)
        # True from the first `shutdown` on.
        self.draining = False
        self.slow = Throttled(log, logging.WARNING, "%d clients disconnected because they read too slowly")
        self.dropped = Throttled(log, logging.WARNING, "%d messages dropped for clients that read too slowly")
        self.silent = Throttled(log, logging.INFO, "%d connections dropped because they did not answer a ping")


_servers: WeakKeyDictionary[ServerState, WireServer] = WeakKeyDictionary()


def wire_server(config: Config, state: ServerState, app_state: dict[str, Any]) -> WireServer:
    """The one of this worker; uvicorn has no place to keep it but its own state."""
    server = _servers.get(state)
    if server is None:
        server = _servers[state] = WireServer(config, state, app_state)
    return server
