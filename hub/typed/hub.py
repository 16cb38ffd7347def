"""The part of `hub.Hub` that declares: typed channels, calls, consumers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, Unpack

from starlette.requests import HTTPConnection

from ..authority import Asker, User
from ..committing import CommittingHub
from ..config import Settings
from ..errors import ConfigError
from ..log import Throttled
from ..namespaces import ChannelOptions
from ..types import SlowPolicy
from .channel import TypedChannel
from .dependencies import Event, event, user
from .messages import Crew
from .model import Model
from .options import ChannelKeywords, History, options_of
from .pattern import Pattern
from .rpc import RpcMethod, rpc_method
from .rules import ChannelRules

__all__ = ["TypedHub"]

log: logging.Logger = logging.getLogger("hub.typed")

M = TypeVar("M")
F = TypeVar("F", bound=Callable[..., Any])


class TypedHub(CommittingHub):
    """A hub with declarations. They are made before it starts, as those of routes are."""

    settings: Settings
    # Dependencies of the functions that the hub calls: `Annotated[User | None, Depends(hub.user)]`.
    user: ClassVar[staticmethod[[HTTPConnection], Coroutine[Any, Any, User | None]]] = staticmethod(user)
    event: ClassVar[staticmethod[[HTTPConnection], Coroutine[Any, Any, Event]]] = staticmethod(event)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._typed: dict[str, list[TypedChannel[Any]]] = {}
        self._methods: dict[str, RpcMethod] = {}
        # The FastAPI application, for `dependency_overrides`; from its lifespan on.
        self.application: Any = None
        # At work from `start` to `stop`, if there are consumers.
        self._crew: Crew | None = None
        self.unreadable: Throttled = Throttled(log, logging.ERROR, "%d publications do not fit their channel's model")

    # Declarations

    def channel(
        self,
        address: str,
        model: type[M],
        *,
        history: History | None = None,
        presence: bool = False,
        join_leave: bool = False,
        slow: SlowPolicy | None = None,
        parameters: Mapping[str, Any] | None = None,
        options: ChannelOptions | None = None,
        **keywords: Unpack[ChannelKeywords],
    ) -> TypedChannel[M]:
        """Declare the channels of an address such as "chat:{room}", whose publications are JSON of a model.

        The namespace is what stands before the colon; it is defined here and not in the settings too. `model` is a
        class of pydantic, or any type that pydantic validates. With `history`, clients get what they missed when they
        come back. `slow` is the `slow_policy` of the namespace: what happens to clients that read too slowly.
        `parameters` are types of parameters that no function annotates. `options` and the keywords are those of a
        namespace. Clients may subscribe unless `on_subscribe` says no, and publish where there is an `on_publish`, or
        the options allow it. Raises ConfigError.
        """
        self.require_stopped(f"channel {address!r}")
        pattern = Pattern(address)
        self._require_free(pattern)
        for name, annotation in (parameters or {}).items():
            if name not in pattern.types:
                raise ConfigError(f"channel {address!r} has no {{{name}}}; write it into the address")
            pattern.declare(name, annotation, "`parameters`")
        rules = ChannelRules(pattern, Model[M](model, f"channel {address!r}"))
        channel = TypedChannel(self, rules, options_of(address, history, presence, join_leave, slow, options, keywords))
        self._typed.setdefault(pattern.namespace, []).append(channel)
        self.define(pattern.namespace)
        return channel

    def _require_free(self, pattern: Pattern) -> None:
        """Raises ConfigError if somebody else has these names."""
        namespace, settings = pattern.namespace, self.settings
        if "namespaces" in settings.model_fields_set and namespace in settings.namespaces:
            raise ConfigError(
                f"channel {pattern.address!r}: the settings define the namespace {namespace!r} too; take it out of "
                "there and give its options to hub.channel"
            )
        if namespace == settings.user_personal_channel_namespace:
            raise ConfigError(
                f"channel {pattern.address!r}: {namespace!r} is the namespace of the users' personal channels "
                "(user_personal_channel_namespace); give one of them another"
            )
        for other in self._typed.get(namespace, ()):
            if other.rules.pattern.overlaps(pattern):
                raise ConfigError(
                    f"channel {pattern.address!r}: a name could be one of {other.address!r} as well; put different "
                    "texts in front of their parameters"
                )

    def define(self, namespace: str) -> None:
        """The channels of a namespace are what is declared by now."""
        self.namespaces.define(namespace, partial(_find, tuple(self._typed[namespace])))

    @property
    def typed_channels(self) -> tuple[TypedChannel[Any], ...]:
        """All that `channel` has declared."""
        return tuple(channel for channels in self._typed.values() for channel in channels)

    def rpc(self, name: str) -> Callable[[F], F]:
        """Decorator: what clients call by `name`.

        Either a coroutine with client and data, that returns what JSON can say; or a function with at most one
        parameter for the data, with its model, and dependencies as in FastAPI::

            @hub.rpc("rename")
            async def rename(body: Rename, me: Me, db: DB) -> Renamed: ...

        `hub.Refused` with an `Error` of 400 to 1999, `hub.Denied` and HTTPException tell the client what is wrong.
        Raises ConfigError if there is a call of that name.
        """

        def register(function: F) -> F:
            if name in self._methods:
                raise ConfigError(f"there is an rpc {name!r} already; give one of the two another name")
            method = rpc_method(name, function)
            if method.call is not function:
                self.require_stopped(f"rpc {name!r}")
                self.authority.hooks.keep_connections = True
            self._methods[name] = method
            self.authority.hooks.rpc[name] = method.call
            return function

        return register

    @property
    def rpc_methods(self) -> Mapping[str, RpcMethod]:
        """All that `rpc` has declared, by name."""
        return MappingProxyType(self._methods)

    def require_stopped(self, what: str) -> None:
        """Raises ConfigError once the hub runs: its clients would have other rules than those who come later."""
        if self._loop is not None:
            raise ConfigError(f"{what} is declared while the hub runs; declare it before, at the top of a module")

    # The ends of subscriptions

    def tell_ends(self) -> None:
        self.authority.hooks.left = self._left

    def _left(self, client: Asker, name: str, code: int, reason: str) -> Callable[[], Awaitable[None]] | None:
        """What is to be called for the end of a subscription; with its connection, if there is a code."""
        options = self.namespaces.find(name)
        rules = options.rules if options is not None else None
        if not isinstance(rules, ChannelRules):
            return None
        function = rules.disconnected if code else rules.unsubscribed
        return partial(rules.call, function, client, name, code=code, reason=reason) if function is not None else None

    # Consumers

    async def start(self) -> None:
        await super().start()
        consumers = [(channel.namespace, one) for channel in self.typed_channels for one in channel.consumers]
        if consumers and (self._crew is None or self._crew.loop is not self._loop):
            self._crew = Crew(self, consumers)

    async def stop(self) -> None:
        crew, self._crew = self._crew, None
        if crew is not None:
            await crew.stop()
        await super().stop()


def _find(channels: tuple[TypedChannel[Any], ...], name: str) -> ChannelOptions | None:
    return next((options for channel in channels if (options := channel.find(name)) is not None), None)
