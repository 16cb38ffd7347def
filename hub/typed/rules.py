"""What a typed channel decides: names by its address, data by its model, rights by the application's functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, get_args

from starlette.requests import HTTPConnection

from ..authority import Allow, Asker
from ..namespaces import PRIVATE
from .dependencies import Event, Function, is_dependency, is_solved, signature_of
from .model import Model
from .pattern import Pattern

__all__ = ["ChannelRules"]

M = TypeVar("M")


class ChannelRules(Generic[M]):
    """Implements `hub.namespaces.Rules`."""

    def __init__(self, pattern: Pattern, model: Model[M]) -> None:
        self.pattern: Pattern = pattern
        self.model: Model[M] = model
        # Set with the application's function for it.
        self.subscribe: Callable[[Any, str], Awaitable[Allow | bool | None]] | None = None
        self.publish: Callable[[Any, str, bytes], Awaitable[bool | None]] | None = None
        # Called when a subscription has ended, and when its connection has.
        self.unsubscribed: Function | None = None
        self.disconnected: Function | None = None

    def complaint(self, data: bytes) -> str:
        return self.model.complaint(data)

    # Declaration

    def declare(self, function: Callable[..., Any], *, data: bool = False, clientless: bool = False) -> Function:
        """A function of this channel; with `data` a parameter of the model's type gets what was published.

        Raises ConfigError.
        """
        signature = signature_of(function)
        message = self._message_parameter(signature) if data else ""
        declared = Function(function, names=tuple(self.pattern.types), message=message, clientless=clientless)
        for name in self.pattern.types:
            parameter = signature.parameters.get(name)
            if parameter is None or parameter.annotation is parameter.empty:
                continue
            if not is_dependency(parameter):  # its type would be of what that makes of the parameter
                self.pattern.declare(name, parameter.annotation, declared.name)
        return declared

    def _message_parameter(self, signature: Any) -> str:
        for parameter in signature.parameters.values():
            free = parameter.name not in self.pattern.types and not is_solved(parameter)
            if free and _same(parameter.annotation, self.model.type):
                return str(parameter.name)
        return ""

    def ask_subscribers(self, function: Function) -> None:
        async def subscribe(asker: Asker, channel: str) -> Allow | bool | None:
            answer: Allow | bool | None = _answer(function, await self.call(function, asker, channel), Allow)
            return answer

        self.subscribe = subscribe

    def ask_publishers(self, function: Function) -> None:
        async def publish(asker: Asker, channel: str, data: bytes) -> bool | None:
            message = self.model.require(data)
            answer: bool | None = _answer(function, await self.call(function, asker, channel, message), bool)
            return answer

        self.publish = publish

    # Events

    async def call(
        self, function: Function, asker: Asker, channel: str, message: Any = None, *, code: int = 0, reason: str = ""
    ) -> Any:
        """Call a function for an event of a client. Raises Refused, and what the function raises."""
        connection = getattr(asker, "connection", None)
        if not isinstance(connection, HTTPConnection):
            raise RuntimeError(f"the request of {asker!r} is not known any more, and {function.name} is to be asked")
        event = Event(channel=channel, client=asker, code=code, reason=reason)
        return await function.call(connection.scope, self.parameters(channel), event, message)

    def parameters(self, channel: str) -> dict[str, str]:
        return self.pattern.texts(channel.removeprefix(PRIVATE)) or {}


def _same(annotation: Any, model: Any) -> bool:
    return annotation == model or (hasattr(annotation, "__metadata__") and get_args(annotation)[0] == model)


def _answer(function: Function, answer: Any, kind: type) -> Any:
    if isinstance(answer, Allow) and answer.expire_at and not isinstance(answer.expire_at, int | float):
        raise TypeError(f"{function.name}: expire_at is Unix time, a number, and not {answer.expire_at!r:.100}")
    if answer is None or isinstance(answer, bool | kind):
        return answer
    wanted = "hub.Allow, a bool or None" if kind is Allow else "a bool or None"
    raise TypeError(f"{function.name} returned {answer!r:.100}; it may return {wanted}")
