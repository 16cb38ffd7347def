"""Functions that clients call by name: with client and data, or with a model and dependencies."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import HTTPConnection

from ..authority import Asker
from ..errors import ConfigError
from .dependencies import EMPTY, Event, Function, body_parameter, is_marked, signature_of
from .model import Model

__all__ = ["RpcCall", "RpcMethod", "rpc_method"]

# What `hub.authority.Hooks.rpc` has.
RpcCall = Callable[[Asker, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class RpcMethod:
    """What `hub.rpc_methods` has of a method.

    `body` and `result` are the types of the data and of the answer, None where the function does not say them; `takes`
    is whether it takes any data, `optional` whether it does without. `call` is what the hub calls.
    """

    name: str
    function: Callable[..., Any]
    body: Any
    result: Any
    takes: bool
    optional: bool
    call: RpcCall


def rpc_method(name: str, function: Callable[..., Any]) -> RpcMethod:
    """Raises ConfigError."""
    if _takes_client(function):
        return RpcMethod(name, function, None, None, True, True, function)
    signature = signature_of(function)
    parameter = body_parameter(function, signature)
    declared = Function(function, message=parameter.name if parameter is not None else "")
    where = f"rpc {name!r}"
    body = parameter.annotation if parameter is not None and parameter.annotation is not parameter.empty else None
    result = signature.return_annotation if signature.return_annotation is not signature.empty else None
    default = parameter.default if parameter is not None else EMPTY
    model: Model[Any] | None = Model(Any if body is None else body, where) if parameter else None
    call = _Call(declared, model, _answers(result, where), default)
    return RpcMethod(name, function, body, result, parameter is not None, default is not EMPTY, call)


def _answers(result: Any, where: str) -> Model[Any]:
    return Model(Any if result is None else result, where)


def _takes_client(function: Callable[..., Any]) -> bool:
    """Whether it is `(client, data)`: two parameters, none a dependency, and the first no data."""
    try:
        signature = signature_of(function)
    except ConfigError:  # its author may have imported the client's class for the type checker alone
        signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if len(parameters) != 2 or any(is_marked(parameter) for parameter in parameters):
        return False
    first = parameters[0].annotation
    if isinstance(first, str):
        return first.rpartition(".")[2] in ("Asker", "Client", "Any")
    return first in (inspect.Parameter.empty, Any, object) or hasattr(first, "is_subscribed")


class _Call:
    """Reads the data, asks the function, writes what it returns."""

    def __init__(self, function: Function, body: Model[Any] | None, result: Model[Any], default: Any) -> None:
        self._function = function
        self._body = body
        self._result = result
        # For a client that sends nothing; EMPTY if that is wrong.
        self._default = default

    async def __call__(self, client: Asker, data: Any) -> msgspec.Raw:
        message = self._read(data)
        connection = getattr(client, "connection", None)
        assert isinstance(connection, HTTPConnection)
        answer = await self._function.call(connection.scope, {}, Event(client=client), message)
        return msgspec.Raw(self._result.write(answer))

    def _read(self, data: Any) -> Any:
        """Raises Refused (107)."""
        if data is None and self._default is not EMPTY:
            return self._default
        return self._body.require(msgspec.json.encode(data)) if self._body is not None else None
