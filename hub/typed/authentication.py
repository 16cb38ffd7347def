"""The application's function that says who connects: with connection and token, or with FastAPI's dependencies."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from ..admission import Authenticator
from ..errors import ConfigError
from .dependencies import Event, Function, is_marked, is_solved, refusal, signature_of

__all__ = ["authentication"]

TOKEN = "token"


def authentication(function: Callable[..., Any]) -> Authenticator:
    """What the hub asks; it raises Refused where the function raises HTTPException.

    Raises ConfigError for a parameter that is neither the token, nor the connection, nor a dependency.
    """
    return _asking(function) if _takes_connection_and_token(function) else _solving(function)


def _takes_connection_and_token(function: Callable[..., Any]) -> bool:
    """Whether it is a coroutine of these two by position, whatever it calls them."""
    if not inspect.iscoroutinefunction(function):
        return False
    try:
        signature = signature_of(function)
    except ConfigError:  # its author may have imported the types for the type checker alone
        signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    return len(parameters) == 2 and not any(is_marked(parameter) for parameter in parameters)


def _asking(function: Callable[..., Any]) -> Authenticator:
    async def ask(connection: HTTPConnection, token: str | None) -> object:
        try:
            return await function(connection, token)
        except HTTPException as fault:
            raise refusal(fault) from fault

    return ask


def _solving(function: Callable[..., Any]) -> Authenticator:
    for parameter in signature_of(function).parameters.values():
        if parameter.name != TOKEN and not is_solved(parameter):
            raise ConfigError(
                f"@hub.authenticate: nothing says what {parameter.name!r} is; there are `token`, the connection "
                "(annotated with starlette.requests.HTTPConnection), and dependencies: Annotated[..., Depends(...)]"
            )
    declared = Function(function, message=TOKEN)

    async def ask(connection: HTTPConnection, token: str | None) -> object:
        return await declared.call(connection.scope, {}, Event(), token)

    return ask
