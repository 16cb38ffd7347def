"""A declared channel, `chat`, and one of its many, `chat(room="lobby")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, Unpack

from pydantic import ValidationError
from starlette.websockets import WebSocket

from ..errors import ConfigError
from ..namespaces import ChannelOptions
from ..on_commit import AnySession
from ..protocol.forms import as_json
from ..protocol.replies import read_client_info
from ..publishing import MessageOptions, Order, arrange, labelled
from ..types import ClientInfo, DataKind, PresenceStats, Publication, PublishResult, StreamPosition, channel_name
from .join import Joined, joined
from .messages import Consumer, overhearing
from .options import with_publishers
from .rules import ChannelRules

if TYPE_CHECKING:
    from .hub import TypedHub

__all__ = ["ChannelHandle", "TypedChannel", "TypedHistory", "TypedPublication"]

M = TypeVar("M")
F = TypeVar("F", bound=Callable[..., Any])


class TypedPublication(NamedTuple, Generic[M]):
    """One message of a channel's history; `info` is the client that published it, None if none did."""

    data: M
    offset: int
    epoch: str
    tags: Mapping[str, str]
    info: ClientInfo | None


class TypedHistory(NamedTuple, Generic[M]):
    """A part of a channel's history, and the position of its end.

    `unreadable` publications that do not fit the model are left out; they were published before it was what it is now,
    or by a program that does not know it.
    """

    publications: list[TypedPublication[M]]
    position: StreamPosition
    unreadable: int


class TypedChannel(Generic[M]):
    """All channels of an address, `chat:{room}`; made by `hub.channel`. Called with its parameters it is one of them.

    Decorated functions get the parameters by their names, dependencies as in FastAPI, and the data in a parameter that
    is annotated with the model. They refuse by `raise hub.Denied("...")`, an HTTPException, or False.
    """

    def __init__(self, hub: TypedHub, rules: ChannelRules[M], options: ChannelOptions) -> None:
        self._hub = hub
        self._rules = rules
        # Both with and without the rules: the first is what others get.
        self._plain = options
        self.options: ChannelOptions = options.ruled(rules)
        self.address: str = rules.pattern.address
        self.namespace: str = rules.pattern.namespace
        self.model: type[M] = rules.model.type
        # For `on_message`.
        self.consumers: list[Consumer] = []

    def __repr__(self) -> str:
        return f"<TypedChannel {self.address!r} of {getattr(self.model, '__name__', self.model)}>"

    @property
    def parameters(self) -> dict[str, Any]:
        """The type of each parameter of the address; functions say it by their annotations, else it is `str`."""
        return dict(self._rules.pattern.types)

    def __call__(self, **parameters: Any) -> ChannelHandle[M]:
        """One channel. Raises TypeError for missing or unknown parameters, ValueError for values that do not fit."""
        return ChannelHandle(self._hub, self, self._rules, channel_name(self._rules.pattern.format(parameters)))

    # The application's functions

    def on_subscribe(self, function: F) -> F:
        """Decorator: who may subscribe. Returns `Allow`, True or False; None leaves it to the options.

        Not asked for a client that shows a subscription token. Raises ConfigError.
        """
        self._require_unset("on_subscribe", self._rules.subscribe)
        self._rules.ask_subscribers(self._declare(function))
        return function

    def on_publish(self, function: F) -> F:
        """Decorator: who may publish what; True, False, or None, which leaves it to the options.

        With it clients may publish unless it or the options say no. Raw rooms do not wait, and only listen then.
        Raises ConfigError.
        """
        self._require_unset("on_publish", self._rules.publish)
        declared = self._declare(function, data=True)
        self._rules.ask_publishers(declared)
        self._plain = with_publishers(self._plain)
        self._redefine()
        return function

    def on_unsubscribe(self, function: F) -> F:
        """Decorator: called when a protocol client's subscription has ended and its connection goes on.

        Raises ConfigError.
        """
        self._require_unset("on_unsubscribe", self._rules.unsubscribed)
        self._rules.unsubscribed = self._declare(function)
        self._hub.tell_ends()
        return function

    def on_disconnect(self, function: F) -> F:
        """Decorator: called when the connection of a protocol client that was subscribed has ended.

        Raises ConfigError.
        """
        self._require_unset("on_disconnect", self._rules.disconnected)
        self._rules.disconnected = self._declare(function)
        self._hub.tell_ends()
        return function

    def on_message(self, *, once: bool = False) -> Callable[[F], F]:
        """Decorator: called for each publication in these channels, whoever published it.

        Every worker calls it; with `once`, one worker does, which needs a history. One message after the other in each
        worker. It is at most once: what is published while a worker is cut off from Redis, or dies, may be missed. An
        exception is logged and counted (`consumers`), and the next message follows. Raises ConfigError.
        """
        if once and self.options.history is None:
            raise ConfigError(
                f"channel {self.address!r}: once=True needs a history, because a publication is known by its place in "
                "it; set history=History(size=..., ttl=...)"
            )

        overhearing(self._hub.broker)

        def register(function: F) -> F:
            self._hub.require_stopped(f"{self.address!r}.on_message")
            consumer = Consumer(self._rules, self._rules.declare(function, data=True, clientless=True), once=once)
            if once and any(other.once and other.name == consumer.name for other in self.consumers):
                raise ConfigError(
                    f"channel {self.address!r}: {consumer.name} handles messages already, and workers know functions "
                    "by their names; give this one another"
                )
            self.consumers.append(consumer)
            self._redefine()
            return function

        return register

    def _declare(self, function: Callable[..., Any], *, data: bool = False) -> Any:
        self._hub.require_stopped(f"a function of {self.address!r}")
        declared = self._rules.declare(function, data=data)
        self._hub.authority.hooks.keep_connections = True
        self._redefine()
        return declared

    def _redefine(self) -> None:
        self.options = self._plain.ruled(self._rules)
        self._hub.define(self.namespace)

    def _require_unset(self, name: str, present: object) -> None:
        if present is not None:
            raise ConfigError(f"channel {self.address!r} has an {name} already; ask both in one function")

    # For the hub

    @property
    def rules(self) -> ChannelRules[M]:
        return self._rules

    def find(self, name: str) -> ChannelOptions | None:
        """The options of a channel if its name is one of these."""
        return self.options if self._rules.pattern.parse(name) is not None else None


@dataclass(frozen=True, slots=True)
class ChannelHandle(Generic[M]):
    """One channel; cheap to make."""

    _hub: TypedHub
    _channel: TypedChannel[M]
    _rules: ChannelRules[M]
    name: str

    def __str__(self) -> str:
        return self.name

    async def publish(
        self,
        message: M,
        *,
        exclude: bytes = b"",
        tags: Mapping[str, str] | None = None,
        idempotency_key: str = "",
        version: int = 0,
        version_epoch: str = "",
        skip_history: bool = False,
        delta: bool = False,
    ) -> PublishResult:
        """Send a message to every client of the channel, on every worker; see `Hub.publish` for the keywords.

        The result has `offset` and `epoch`. Raises ValueError if it is not the model's, MessageTooBig,
        BrokerUnavailable.
        """
        order = self._order(
            message,
            exclude=exclude,
            tags=tags,
            idempotency_key=idempotency_key,
            version=version,
            version_epoch=version_epoch,
            skip_history=skip_history,
            delta=delta,
        )
        await self._hub.start()
        return await self._hub.issue(order)

    def publish_on_commit(self, session: AnySession, message: M, **options: Unpack[MessageOptions]) -> None:
        """`publish` when the outermost transaction of `session` is committed; see `Hub.publish_on_commit`.

        The message is checked now, and is what it is now. Raises at once what `publish` raises, except
        BrokerUnavailable; ConfigError without SQLAlchemy; RuntimeError where neither the hub nor an event loop is
        running.
        """
        self._hub.issue_on_commit(session, self._order(message, **options))

    def _order(
        self,
        message: M,
        exclude: bytes = b"",
        tags: Mapping[str, str] | None = None,
        idempotency_key: str = "",
        version: int = 0,
        version_epoch: str = "",
        skip_history: bool = False,
        delta: bool = False,
    ) -> Order:
        publication = labelled(self._rules.model.write(message), DataKind.JSON, exclude, tags)
        return arrange(
            self._channel.options, self.name, publication, idempotency_key, version, version_epoch, skip_history, delta
        )

    async def history(
        self, *, limit: int = -1, since: StreamPosition | None = None, reverse: bool = False
    ) -> TypedHistory[M]:
        """What was published, after `since` (in `reverse` before it, newest first), at most `limit`; see `Hub.history`.

        Raises Refused if the channel has no history (108) or another one than `since` says (112), BrokerUnavailable.
        """
        page = await self._hub.history(self.name, limit=limit, since=since, reverse=reverse)
        read = [found for publication in page.publications if (found := self._read(publication)) is not None]
        unreadable = len(page.publications) - len(read)
        if unreadable:
            self._hub.unreadable.add(unreadable, last=f"in the history of {self.name!r}")
        return TypedHistory(read, page.position, unreadable)

    def _read(self, publication: Publication) -> TypedPublication[M] | None:
        try:
            data = self._rules.model.read(as_json(publication))
        except ValidationError:
            return None
        info = read_client_info(publication.info) if publication.info else None
        return TypedPublication(data, publication.offset, publication.epoch, publication.tags or {}, info)

    async def presence(self) -> dict[str, ClientInfo]:
        """Who is there, by the id of the connection. Raises Refused (108) without presence, BrokerUnavailable."""
        return await self._hub.presence(self.name)

    async def presence_stats(self) -> PresenceStats:
        """How many connections and users. Raises Refused (108) without presence, BrokerUnavailable."""
        return await self._hub.presence_stats(self.name)

    def join(self, websocket: WebSocket, *, user: str = "") -> AbstractAsyncContextManager[Joined[M]]:
        """For an endpoint of the application's own: `async with chat(room=room).join(websocket) as conn`.

        Accepts the connection unless that is done, writes to it what is published in the channel, and ends that with
        the block. Who may is the endpoint's affair; `on_subscribe` is not asked. `user` is the id by which
        `Hub.disconnect_user` and its kin find it. While Redis is away the client is closed with 1013, and
        WebSocketException ends the endpoint.
        """
        return joined(self._hub, self, self._rules.model, websocket, user)
