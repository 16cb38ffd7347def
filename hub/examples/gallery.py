"""All examples on one hub: what `hub serve --examples` adds at `/examples`.

Each example is a program of its own, with a hub of its own under `rt/`. Here one hub stands in for all of these, so
that a worker has one pair of connections to Redis and one set of limits, whatever the number of examples.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import ModuleType
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import HTTPConnection

from ..admission import Authenticator
from ..config import Settings
from ..embed import Hub
from ..errors import ConfigError
from .pages import Pages

__all__ = ["EXAMPLES", "add_examples", "with_examples"]

EXAMPLES = ("chat", "prices", "notifications", "dashboard", "game", "whiteboard", "text", "stream")

# Whoever comes may use the examples, and some hand out names: that would undo the rules of a hub that has any.
_RULES = (
    *("token", "token_hmac_secret_key", "token_hmac_previous_secret_key", "token_rsa_public_key"),
    *("token_ecdsa_public_key", "token_jwks_public_endpoint"),
)

# The hubs with which the programs were written, before another stood in for them.
_own: dict[str, Hub] = {}


def _program(name: str) -> ModuleType:
    module = importlib.import_module(f".{name}.app", __package__)
    _own.setdefault(name, module.hub)
    return module


def with_examples(settings: Settings) -> Settings:
    """`settings` with the namespaces of the examples.

    Raises ConfigError if one of them means something else there, or if not everybody may connect.
    """
    for rule in _RULES:
        if getattr(settings, rule):
            raise ConfigError(f"examples: everybody may use them, so they are not for a hub with {rule}; leave one out")
    if settings.allow_anonymous_connect_without_token is False:
        raise ConfigError("examples: everybody may use them, so allow_anonymous_connect_without_token must not be off")
    namespaces = dict(settings.namespaces)
    for name in EXAMPLES:
        _program(name)
        for namespace, options in _own[name].settings.namespaces.items():
            if namespaces.setdefault(namespace, options) != options:
                raise ConfigError(f"examples: {name} has a namespace {namespace!r} of its own; give yours another name")
    return settings.model_copy(update={"namespaces": namespaces})


def add_examples(app: FastAPI, hub: Hub) -> None:
    """Serve the examples at `/examples`. The settings of `hub` come from `with_examples`."""
    programs = {name: _program(name) for name in EXAMPLES}
    realtime = FastAPI(openapi_url=None)
    realtime.include_router(hub.router)
    for name, program in programs.items():
        hub.authority.hooks.rpc |= _own[name].authority.hooks.rpc
        program.hub = hub  # type: ignore[attr-defined]  # its functions ask for it when they are called
        app.mount(f"/examples/{name}/rt", realtime)  # before the program, whose own hub is never reached
        app.mount(f"/examples/{name}", program.app)
    app.mount("/examples", Pages(__file__))
    hub.authority.hooks.authenticate = _authenticator()

    @hub.rpc("worker")
    async def worker(client: object, data: object) -> str:
        """Which worker serves this page."""
        return hub.node

    app.include_router(APIRouter(lifespan=_running(programs)))


def _authenticator() -> Authenticator:
    """Each program's own for those who connect there, and nobody in particular everywhere else."""
    own = {f"/examples/{name}/rt": _own[name].authority.hooks.authenticate for name in EXAMPLES}

    async def authenticate(connection: HTTPConnection, token: str | None) -> object:
        root = connection.scope.get("root_path", "")
        asked = next((ask for path, ask in own.items() if ask is not None and root.endswith(path)), None)
        return True if asked is None else await asked(connection, token)

    return authenticate


def _running(programs: dict[str, ModuleType]) -> Any:
    """What runs beside the requests: the lifespan of a program that is mounted is run by nobody else."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for program in programs.values():
                if hasattr(program, "lifespan"):
                    await stack.enter_async_context(program.lifespan(app))
            yield

    return lifespan
