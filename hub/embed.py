"""`Hub`: the core with its routes, for any FastAPI application."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

import redis.asyncio as aioredis
from fastapi import APIRouter
from starlette.routing import WebSocketRoute

from .admission import Admission, Authenticator
from .api import api_router
from .broker import Broker, MemoryBroker
from .config import Settings
from .hub import HubCore
from .log import redact_tokens
from .pubsub import RedisBroker
from .wire_server import OPTIONS_STATE
from .ws import EchoEndpoint, RawEndpoint

__all__ = ["Hub"]

log = logging.getLogger("hub")


class Hub(HubCore):
    """A realtime hub inside a FastAPI application.

    ::

        hub = Hub()                                   # REDIS_URL, HUB_* from the environment
        app = FastAPI()
        app.include_router(hub.router, prefix="/rt")  # starts and stops with the application
        await hub.publish("prices", {"BTC": 1})       # from any handler
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        redis: str | aioredis.Redis | None = None,
        broker: Broker | None = None,
    ) -> None:
        """`redis` is a URL or a client (fakeredis too); without it `settings.redis_url`, without that memory.

        Raises ConfigError if a setting is wrong.
        """
        self.settings = settings or Settings.load()
        super().__init__(
            broker or _broker(self.settings, redis),
            max_message_size=self.settings.max_message_size,
            subscribe_timeout=self.settings.subscribe_timeout,
        )
        self._admission = Admission(self.settings)

    def authenticate(self, authenticator: Authenticator) -> Authenticator:
        """Decorator: who may connect. Called with the connection and the value of `?token=` (None without one).

        ::

            @hub.authenticate
            async def may_connect(connection: HTTPConnection, token: str | None) -> bool: ...
        """
        self._admission.authenticator = authenticator
        return authenticator

    @cached_property
    def router(self) -> APIRouter:
        """Everything the hub serves. Including it starts and stops the hub with the application.

        A *mounted* application's lifespan is not run; there the hub starts with its first connection or publication.
        """
        router = APIRouter(lifespan=self._lifespan)
        raw = RawEndpoint(self, self.settings, self._admission)
        echo = EchoEndpoint(self, self.settings, self._admission)
        # Raw ASGI: FastAPI's own WebSocket routes would keep a task and their dependencies for each connection.
        router.routes += [
            WebSocketRoute("/ws", raw, name="hub_lobby"),
            WebSocketRoute("/ws/{room:hub_room}", raw, name="hub_room"),
            WebSocketRoute("/echo", echo, name="hub_echo"),
        ]
        router.include_router(api_router(self, self.settings))
        return router

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[dict[str, Any]]:
        async with self:
            yield {OPTIONS_STATE: self.settings.wire()}

    async def start(self) -> None:
        redact_tokens()
        if not self.broker.shared and self._loop is None and multiprocessing.parent_process() is not None:
            log.warning("REDIS_URL is not set: if there are other workers, their clients will not hear each other")
        await super().start()


def _broker(settings: Settings, redis: str | aioredis.Redis | None) -> Broker:
    source = redis or (settings.redis_url.get_secret_value() if settings.redis_url else None)
    if source is None:
        return MemoryBroker()
    return RedisBroker(
        source,
        prefix=settings.redis_prefix,
        timeout=settings.redis_timeout,
        publish_timeout=settings.publish_timeout,
    )
