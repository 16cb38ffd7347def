"""`Hub`: the core with its routes, for any FastAPI application."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakSet

import redis.asyncio as aioredis
from fastapi import APIRouter
from fastapi.params import Depends
from opentelemetry.trace import TracerProvider
from starlette.routing import Route, WebSocketRoute

from .admission import Admission
from .api import api_router
from .asyncapi import AsyncApi
from .authority import Asker, Authority
from .broker import Broker
from .channel_ws import ChannelEndpoint
from .client import Context
from .config import Settings, warn_of_unknown_variables
from .console import Console
from .console_figures import Figures
from .exposition import metrics_router
from .handlers import HANDLERS
from .health import health_router
from .log import redact_tokens
from .memory import MemoryBroker
from .metrics import HubCollector, Vitals, messages_dropped, render
from .pubsub import RedisBroker
from .raw_users import by_signed_token
from .siblings import Siblings
from .sse import SseEndpoint
from .tracing import Tracing
from .typed.authentication import authentication
from .typed.hub import TypedHub
from .watchdog import Watchdog
from .wire_server import OPTIONS_STATE
from .ws import EchoEndpoint, RawEndpoint

__all__ = ["Hub"]

log: logging.Logger = logging.getLogger("hub")

# Seconds that the application has for its `on_disconnect` when the server ends.
LAST_WORDS = 5.0

# All of this process; `hub.testing` looks for those of an application.
hubs: WeakSet[Hub] = WeakSet()

_Authenticate = TypeVar("_Authenticate", bound=Callable[..., Any])
_Subscribe = TypeVar("_Subscribe", bound=Callable[[Asker, str], Awaitable[bool | None]])
_Publish = TypeVar("_Publish", bound=Callable[[Asker, str, Any], Awaitable[bool | None]])
_Disconnect = TypeVar("_Disconnect", bound=Callable[[Asker, int, str], Awaitable[None]])


class Hub(TypedHub):
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
        console: Depends | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        """`redis` is a URL or a client (fakeredis too); without it `settings.redis_url`, without that memory.

        `console=Depends(require_admin)` turns the console on for whom that dependency of yours lets pass; so does
        HUB_CONSOLE_PASSWORD, for who knows it. With both it asks for both. `tracer_provider` turns tracing on, as
        HUB_TRACING does with OpenTelemetry's global one.

        Raises ConfigError if a setting is wrong, TypeError if `console` is no dependency.
        """
        if not isinstance(console, Depends | None):
            raise TypeError(f"console is a dependency, Depends(your_function), not {console!r}")
        self.settings: Settings = settings or _from_environment()
        namespaces = self.settings.channels
        super().__init__(
            broker or _broker(self.settings, redis),
            max_message_size=self.settings.max_message_size,
            subscribe_timeout=self.settings.subscribe_timeout,
            slow_policy=self.settings.slow_policy,
            namespaces=namespaces,
            recovery_limit=self.settings.recovery_limit,
            authority=Authority(self.settings, namespaces),
        )
        self._admission = Admission(self.settings, by_signed_token(self.authority))
        self._watchdog = Watchdog(self.settings.watchdog)
        # The workers of the same `hub serve`; None elsewhere.
        self.siblings: Siblings | None = None
        hubs.add(self)
        self._tracer_provider = tracer_provider  # `hub.testing` makes others like this one
        if tracer_provider is not None or self.settings.tracing:
            self.delivery.tracing = Tracing(lambda: self.node, messages_dropped, tracer_provider)
        # Asks for another worker in the place of this one. Set by who can start one, as `hub serve`.
        self.retire_here: Callable[[], None] | None = None
        self._figures = Figures(self._vitals, lambda: self.retire_here is not None)
        # None: there is none.
        self._console: Console | None = None
        if console is not None or self.settings.console_password is not None:
            self._console = Console(self, self.settings, self._figures, console)

    # Who may do what

    def authenticate(self, function: _Authenticate) -> _Authenticate:
        """Decorator: who may connect. `hub.User` tells who it is, True an anonymous client, False nobody.

        Either a coroutine with the connection and its token (None without one), or a function with dependencies as in
        FastAPI, among which `token` is that token::

            @hub.authenticate
            async def may_connect(connection: HTTPConnection, token: str | None) -> bool | User: ...


            @hub.authenticate
            def who(db: DB, session: Annotated[str | None, Cookie()] = None) -> bool | User: ...

        The token is `?token=` of a raw client and that of a protocol client's `connect`, which is then not verified as
        a JWT. `hub.Denied`, `hub.Refused` and HTTPException say no in their own words to clients that hear words.

        Raises ConfigError for parameters that nobody could fill.
        """
        asked = authentication(function)
        self._admission.authenticator = asked
        self.authority.hooks.authenticate = asked
        return function

    def on_subscribe(self, function: _Subscribe) -> _Subscribe:
        """Decorator: who may subscribe without a token; None leaves it to the namespace.

        Asked for raw rooms too, of whose clients it is told no user. Not asked for `$private` channels and those with
        `#users`. To a protocol client `hub.Refused` says its error, any other exception an internal one (100).

        ::

            @hub.on_subscribe
            async def may_subscribe(client: Asker, channel: str) -> bool | None: ...
        """
        self.authority.hooks.subscribe = function
        return function

    def on_publish(self, function: _Publish) -> _Publish:
        """Decorator: who may publish what; None leaves it to the namespace.

        `data` is what JSON has of it. Raw rooms do not wait for an answer: with this function they only listen.

        ::

            @hub.on_publish
            async def may_publish(client: Asker, channel: str, data: Any) -> bool | None: ...
        """
        self.authority.hooks.publish = function
        return function

    def on_disconnect(self, function: _Disconnect) -> _Disconnect:
        """Decorator: called with the close code and its reason when a protocol client has gone.

        ::

            @hub.on_disconnect
            async def gone(client: Asker, code: int, reason: str) -> None: ...
        """
        self.authority.hooks.disconnect = function
        return function

    @cached_property
    def _context(self) -> Context:
        return Context(self, self.settings, self.authority, self._admission, self.clients, HANDLERS)

    @property
    def _vitals(self) -> Vitals:
        return Vitals(self, self._admission, self._watchdog, self._context.refusals)

    @cached_property
    def collector(self) -> HubCollector:
        """This worker's metrics, for an application that has a registry of its own: `REGISTRY.register(hub.collector)`.

        For the application's only worker, or with prometheus-client's multiprocess mode off: the numbers are of this
        process. `/metrics` of the hub needs no registry.
        """
        return HubCollector(self._vitals)

    async def metrics(self, worker: str) -> bytes:
        """This worker's metrics in Prometheus' text format, each with the label `worker`."""
        return await render(self._vitals, worker)

    @cached_property
    def router(self) -> APIRouter:
        """Everything the hub serves. Including it starts and stops the hub with the application.

        A *mounted* application's lifespan is not run; there the hub starts with its first connection or publication.
        `dependencies` of the application or of `include_router` are for HTTP routes only, and not asked before
        WebSockets and event streams: who may connect says `authenticate`, or a token.
        """
        router = APIRouter(lifespan=self._lifespan)
        raw = RawEndpoint(self, self.settings, self._admission, self.authority, self.raw_sessions)
        echo = EchoEndpoint(self, self.settings, self._admission)
        # Raw ASGI: FastAPI's own WebSocket routes would keep a task and their dependencies for each connection.
        router.routes += [
            WebSocketRoute("/ws", raw, name="hub_lobby"),
            WebSocketRoute("/ws/{room:hub_room}", raw, name="hub_room"),
            WebSocketRoute("/echo", echo, name="hub_echo"),
            WebSocketRoute("/connection/websocket", ChannelEndpoint(self._context), name="hub_channels"),
            Route("/sse/{channel:hub_room}", SseEndpoint(self._context), name="hub_sse", include_in_schema=False),
        ]
        router.include_router(api_router(self, self.settings))
        router.include_router(health_router(self, self._admission, lambda: self.siblings))
        router.include_router(metrics_router(lambda: self._vitals, self.settings, lambda: self.siblings))
        router.include_router(AsyncApi(self).router)
        if self._console is not None:
            router.include_router(self._console.router)
        return router

    # The console, of this worker or another one

    def on_look(self) -> None:
        self._figures.on_look()

    def on_admit(self, ticket: str, lasts: float) -> None:
        if self._console is not None:
            self._console.on_admit(ticket, lasts)

    def on_retire(self) -> None:
        if self.retire_here is None:
            log.warning("this worker was asked to go, and stays: it is not of `hub serve`, nobody would replace it")
            return
        log.warning("another worker is to take the place of this one")
        self._figures.retiring()
        self.retire_here()

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[dict[str, Any]]:
        self.application = app
        if any(_dependencies(getattr(app, "routes", ()))) and not self._asks_who_connects:
            log.warning(
                "the dependencies of include_router, or of the application, are not asked before the hub's WebSockets "
                "and event streams, which are open to everybody: say who may connect with @hub.authenticate"
            )
        async with self:
            yield {OPTIONS_STATE: self.settings.wire()}
            if self._context.tasks:
                await asyncio.wait(self._context.tasks, timeout=LAST_WORDS)

    @property
    def _asks_who_connects(self) -> bool:
        settled = self.settings.token is not None or self.authority.verifies
        return settled or self.authority.hooks.authenticate is not None

    async def start(self) -> None:
        if self._loop is asyncio.get_running_loop():  # each connection asks
            return
        redact_tokens()
        if not self.broker.shared and self._loop is None and multiprocessing.parent_process() is not None:
            log.warning("REDIS_URL is not set: if there are other workers, their clients will not hear each other")
        await super().start()
        self._watchdog.start()

    async def stop(self) -> None:
        self._watchdog.stop()
        await self._figures.stop()
        await super().stop()


def _dependencies(routes: Iterable[Any]) -> Iterator[Sequence[Any]]:
    """Those that FastAPI has for the routes of a hub, each time that its router is included among `routes`."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is None:
            continue
        own = getattr(getattr(route, "include_context", None), "dependencies", ())
        if any(getattr(one, "name", "") == "hub_channels" for one in inner.routes):
            yield own
        yield from ([*own, *others] for others in _dependencies(inner.routes))


def _from_environment() -> Settings:
    settings = Settings.load()
    warn_of_unknown_variables()
    return settings


def _broker(settings: Settings, redis: str | aioredis.Redis | None) -> Broker:
    source = redis or (settings.redis_url.get_secret_value() if settings.redis_url else None)
    if source is None:
        return MemoryBroker()
    return RedisBroker(
        source,
        prefix=settings.redis_prefix,
        timeout=settings.redis_timeout,
        publish_timeout=settings.publish_timeout,
        presence_lease=settings.presence_lease,
    )
