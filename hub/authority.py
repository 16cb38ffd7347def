"""Who may do what: tokens, the application's own functions, and the permissions of namespaces, in this order."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import msgspec
from starlette.requests import HTTPConnection

from .admission import USER, Authenticator
from .config import Settings
from .errors import Disconnects, Ended, Error, Errors, InvalidChannel, Refused
from .log import Throttled
from .namespaces import PRIVATE, ChannelOptions, Namespaces
from .publishing import unfit
from .tokens import (
    ConnectionToken,
    KeysUnavailable,
    Override,
    SubscribeGrant,
    SubscriptionToken,
    TokenExpired,
    TokenInvalid,
    TokenKeys,
    TokenVerifier,
)
from .types import channel_name

__all__ = ["Allow", "Asker", "Authority", "Grant", "Hooks", "Principal", "RoomRights", "User", "as_python"]

log: logging.Logger = logging.getLogger("hub.client")

# What stands before the users of a channel that only they may enter: `dialog#7,12`.
LIMITED = "#"
# Longest name; the bytes count, because that is what Redis and other servers have to keep.
MAX_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """What `@hub.authenticate` may return: who the connection is.

    `info` is shown to others (any JSON value), `channels` are subscribed for the client, `expire_at` is Unix time.
    """

    id: str
    info: Any = None
    channels: tuple[str, ...] = ()
    expire_at: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who a protocol connection is. `info` is JSON or empty; `expire_at` Unix time, 0 for never."""

    user: str = ""
    info: bytes = b""
    expire_at: float = 0
    # Server-side subscriptions.
    subs: Mapping[str, SubscribeGrant] = field(default_factory=dict)
    # What the application's function returned.
    known: User | None = field(default=None, compare=False)

    def remembered(self, connection: HTTPConnection) -> Principal:
        """For functions of typed channels (`hub.typed.dependencies`)."""
        if self.known is not None:
            connection.scope[USER] = self.known
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """That a client may subscribe, and how."""

    options: ChannelOptions
    info: bytes = b""
    data: bytes = b""
    expire_at: float = 0
    # Whether the client can ask for more time, which takes another token.
    renewable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """What `on_subscribe` of a typed channel may return: that the client may subscribe, and how.

    The client gets `data` with the answer, others see `info` of it in this channel (any JSON values). When `expire_at`,
    Unix time, has come, the subscription ends and the client asks for it again.
    """

    data: Any = None
    info: Any = None
    expire_at: float = 0

    def grant(self, options: ChannelOptions) -> Grant:
        info, data = (b"" if value is None else msgspec.json.encode(value) for value in (self.info, self.data))
        return Grant(options=options, info=info, data=data, expire_at=self.expire_at, renewable=False)


class RoomRights(NamedTuple):
    """What a raw client may do in a room."""

    join: bool
    publish: bool
    # The channel's options, if what is published must have a certain format.
    strict: ChannelOptions | None = None
    # Unix time at which it has to go; 0 for never.
    expire_at: float = 0


class Asker(Protocol):
    """The client that wants something, as the application's functions get it."""

    @property
    def client_id(self) -> str:
        """The connection's id, as presence lists it; empty for a raw client."""

    @property
    def user(self) -> str:
        """The user's id; empty for an anonymous or raw client."""

    def is_subscribed(self, channel: str) -> bool:
        """Whether this connection is subscribed to `channel` now; False for a raw client."""


class _RawAsker:
    """A client of the raw endpoint: nobody in particular."""

    client_id = ""
    user = ""

    def __init__(self, connection: HTTPConnection | None) -> None:
        self.connection = connection

    def is_subscribed(self, channel: str) -> bool:
        return False

    def send(self, data: Any) -> None:
        """It knows no messages."""


@dataclass(slots=True)
class Hooks:
    """The application's functions; see the decorators of `hub.Hub`."""

    authenticate: Authenticator | None = None
    subscribe: Callable[[Asker, str], Awaitable[bool | None]] | None = None
    publish: Callable[[Asker, str, Any], Awaitable[bool | None]] | None = None
    disconnect: Callable[[Asker, int, str], Awaitable[None]] | None = None
    rpc: dict[str, Callable[[Asker, Any], Awaitable[Any]]] = field(default_factory=dict)
    # Of typed channels: what is to be called when a subscription ends; by client, channel, close code or 0, reason.
    left: Callable[[Asker, str, int, str], Callable[[], Awaitable[None]] | None] | None = None
    # Whether some of them have dependencies, for which the request of the handshake is kept.
    keep_connections: bool = False


def as_python(data: bytes) -> Any:
    """JSON of a client as the application gets it, None without any.

    Raises Refused, for not all JSON has a value in Python: numbers may be out of range, and lists too deep.
    """
    try:
        return msgspec.json.decode(data) if data else None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Refused(Errors.BAD_REQUEST, f"data: {error}") from None


class Authority:
    """The rules of one hub."""

    def __init__(self, settings: Settings, namespaces: Namespaces) -> None:
        """Raises ConfigError if a token key cannot be used."""
        keys = _token_keys(settings)
        # What clients may show in place of a signed token; None without one.
        self._static = settings.token.get_secret_value().encode() if settings.token else None
        self.hooks: Hooks = Hooks()
        self.namespaces = namespaces
        self.insecure: bool = settings.client_insecure
        self._tokens = TokenVerifier(keys)
        self.verifies: bool = keys.any  # signed tokens
        self.invalid_tokens: Throttled = Throttled(log, logging.INFO, "%d tokens were refused")
        self.unverified_tokens: Throttled = Throttled(log, logging.ERROR, "%d tokens could not be verified")
        anonymous = settings.allow_anonymous_connect_without_token
        self._anonymous = self.insecure or (anonymous if anonymous is not None else not (keys.any or self._static))
        self._personal = settings.subscribe_to_user_personal_channel
        self._personal_namespace = settings.user_personal_channel_namespace

    # Connections

    async def connect(self, connection: HTTPConnection, token: str) -> Principal:
        """Who it is. Raises Refused or Ended."""
        if self.hooks.authenticate is not None:
            return self._admitted(await self._ask(self.hooks.authenticate, connection, token)).remembered(connection)
        if self._is_static(token or connection.query_params.get("token", "")):
            return Principal()
        if token:
            return self._admitted(await self._verify(token))
        if not self._anonymous:
            raise Ended(Disconnects.BAD_REQUEST)
        return Principal()

    async def refresh(self, connection: HTTPConnection | None, token: str, user: str) -> Principal:
        """The same connection with a new token. Raises Refused if that cannot be judged now, Ended."""
        try:
            principal = self._admitted(await self._verify_again(connection, token))
        except Refused as refusal:
            if refusal.error.temporary:
                raise
            raise Ended(Disconnects.EXPIRED) from None
        if principal.user != user:
            raise Ended(Disconnects.INVALID_TOKEN)
        return principal.remembered(connection) if connection is not None else principal

    async def _verify_again(self, connection: HTTPConnection | None, token: str) -> Principal:
        if self.hooks.authenticate is None:
            return await self._verify(token)
        if connection is None:  # its user does not expire
            raise Ended(Disconnects.BAD_REQUEST)
        return await self._ask(self.hooks.authenticate, connection, token)

    def _is_static(self, token: str) -> bool:
        return self._static is not None and hmac.compare_digest(token.encode(errors="surrogatepass"), self._static)

    async def _ask(self, authenticator: Authenticator, connection: HTTPConnection, token: str) -> Principal:
        answer = await authenticator(connection, token or None)
        if isinstance(answer, User):
            info = msgspec.json.encode(answer.info) if answer.info is not None else b""
            subs = {channel: SubscribeGrant() for channel in answer.channels}
            return Principal(user=answer.id, info=info, expire_at=answer.expire_at, subs=subs, known=answer)
        if not answer:
            raise Ended(Disconnects.INVALID_TOKEN)
        return Principal()

    async def _verify(self, token: str) -> Principal:
        try:
            return _principal(await self._tokens.connection(token))
        except TokenExpired:
            raise Refused(Errors.TOKEN_EXPIRED) from None
        except TokenInvalid as error:
            self.invalid_tokens.add(last=f"of a connection, {error}")
            raise Ended(Disconnects.INVALID_TOKEN) from None
        except KeysUnavailable as error:
            self.unverified_tokens.add(last=str(error))
            raise Refused(Errors.INTERNAL, str(error)) from None

    def _admitted(self, principal: Principal) -> Principal:
        """With the personal channel. Raises Refused if its time is over."""
        if principal.expire_at and principal.expire_at <= time.time():
            raise Refused(Errors.EXPIRED)
        if not (self._personal and principal.user):
            return principal
        namespace = f"{self._personal_namespace}:" if self._personal_namespace else ""
        channel = f"{namespace}{LIMITED}{principal.user}"
        subs = {**principal.subs, channel: principal.subs.get(channel, SubscribeGrant())}
        return replace(principal, subs=subs)

    # Subscriptions

    def options(self, channel: str) -> ChannelOptions:
        """The options of a channel that somebody names. Raises Refused."""
        try:
            size = len(channel_name(channel).encode())
        except InvalidChannel as error:
            raise Refused(Errors.BAD_REQUEST, str(error)) from None
        if size > MAX_NAME:
            raise Refused(Errors.BAD_REQUEST, f"channel name has {size} bytes, allowed are {MAX_NAME}")
        options = self.namespaces.find(channel)
        if options is None:
            raise Refused(Errors.UNKNOWN_CHANNEL)
        return options

    def grant(self, channel: str, granted: SubscribeGrant) -> Grant:
        """A subscription that the server decides. Raises Refused."""
        options = _overridden(self.options(channel), granted.override)
        return Grant(options=options, info=granted.info, data=granted.data)

    async def subscribe(self, asker: Asker, channel: str, token: str) -> Grant:
        """Whether a client may subscribe by itself. Raises Refused or Ended."""
        options = self.options(channel)
        if token:
            return await self._by_token(asker, channel, token, options)
        if not (allowed := await self._may_subscribe(asker, channel, options)):
            raise Refused(Errors.PERMISSION_DENIED)
        return allowed.grant(options) if isinstance(allowed, Allow) else Grant(options=options)

    async def sub_refresh(self, asker: Asker, channel: str, token: str) -> Grant:
        """A new token for a subscription. Raises Refused or Ended."""
        return await self._by_token(asker, channel, token, self.options(channel))

    async def _by_token(self, asker: Asker, channel: str, token: str, options: ChannelOptions) -> Grant:
        claims = await self._verify_subscription(token)
        if claims.channel != channel or claims.user != asker.user or claims.client not in ("", asker.client_id):
            raise Ended(Disconnects.INVALID_TOKEN)
        if claims.expire_at and claims.expire_at <= time.time():
            raise Refused(Errors.EXPIRED)
        options = _overridden(options, claims.override)
        return Grant(options=options, info=claims.info, data=claims.data, expire_at=claims.expire_at)

    async def _verify_subscription(self, token: str) -> SubscriptionToken:
        try:
            return await self._tokens.subscription(token)
        except TokenExpired:
            raise Refused(Errors.TOKEN_EXPIRED) from None
        except TokenInvalid as error:
            self.invalid_tokens.add(last=f"of a subscription, {error}")
            raise Refused(Errors.PERMISSION_DENIED) from None
        except KeysUnavailable as error:
            self.unverified_tokens.add(last=str(error))
            raise Refused(Errors.INTERNAL, str(error)) from None

    async def _may_subscribe(self, asker: Asker, channel: str, options: ChannelOptions) -> Allow | bool:
        if self.insecure:
            return True
        if channel.startswith(PRIVATE):
            return False
        if LIMITED in channel:
            listed = asker.user in channel.partition(LIMITED)[2].split(",") and bool(asker.user)
            if not listed or options.rules is None or options.rules.subscribe is None:
                return listed
        answer = await self._ask_subscribe(asker, channel, options)
        return self.may_join(asker.user, options) if answer is None else answer

    async def _ask_subscribe(self, asker: Asker, channel: str, options: ChannelOptions) -> Allow | bool | None:
        """What the application's function says, the channel's before the hub's; None without one."""
        hook = (options.rules.subscribe if options.rules is not None else None) or self.hooks.subscribe
        return await hook(asker, channel) if hook is not None else None

    def may_join(self, user: str, options: ChannelOptions) -> bool:
        """Whether the namespace lets a client in that has nothing but its name."""
        return self.insecure or (
            options.allow_subscribe_for_client and (bool(user) or options.allow_subscribe_for_anonymous)
        )

    # Raw rooms

    async def room(self, name: str, *, trusted: bool, connection: HTTPConnection | None = None) -> RoomRights:
        """What a raw client may do in a room; `trusted` if it is known (`Admission.is_known`), else it is anonymous.

        It shows no subscription token, has no user id here, and its messages do not wait: so private and user-limited
        channels are closed to it, and where the application decides about publications it only listens.
        """
        options = self.namespaces.of_room(name)
        if self.namespaces.is_typed(name) and options.rules is None:  # not one of its channels
            return RoomRights(False, False)
        if self.insecure:
            return RoomRights(True, True, options if options.rules is not None else None)
        if name.startswith(PRIVATE) or LIMITED in name:
            return RoomRights(False, False)
        join = options.allow_subscribe_for_client and (trusted or options.allow_subscribe_for_anonymous)
        try:
            answer = await self._ask_subscribe(_RawAsker(connection), name, options)
            join = join if answer is None else bool(answer)
        except Refused:
            answer = join = False
        publish = options.permissions["publish"].given("somebody" if trusted else "", subscribed=True)
        strict = options if options.publication_data_format else None
        return RoomRights(join, publish and not self.asks(options), strict, getattr(answer, "expire_at", 0))

    # Commands in a channel

    def publishable(self, channel: str, data: bytes) -> ChannelOptions:
        """The options of a channel to which `data` may be published by somebody. Raises Refused."""
        options = self.options(channel)
        if complaint := options.complaint(data, binary=False):
            raise unfit(options, complaint)
        return options

    def asks(self, options: ChannelOptions) -> bool:
        """Whether the application decides about each publication."""
        return self.hooks.publish is not None or (options.rules is not None and options.rules.publish is not None)

    def may_publish(self, asker: Asker, channel: str, options: ChannelOptions) -> None:
        """By the namespace's permissions. Raises Refused."""
        self._require(self._allowed(asker, channel, options, "publish"), Errors.PERMISSION_DENIED)

    async def ask_publish(self, asker: Asker, channel: str, data: bytes) -> None:
        """By the application's function, and where it returns None by the namespace. Raises Refused."""
        options = self.options(channel)
        if options.rules is not None and options.rules.publish is not None:
            allowed = await options.rules.publish(asker, channel, data)
        else:
            assert self.hooks.publish is not None
            allowed = await self.hooks.publish(asker, channel, as_python(data))
        if allowed is None:
            self.may_publish(asker, channel, options)
        else:
            self._require(allowed, Errors.PERMISSION_DENIED)

    def presence(self, asker: Asker, channel: str) -> None:
        """Whether a client may ask who is there. Raises Refused."""
        options = self.options(channel)
        self._require(options.presence, Errors.NOT_AVAILABLE)
        self._require(self._allowed(asker, channel, options, "presence"), Errors.PERMISSION_DENIED)

    def history(self, asker: Asker, channel: str) -> None:
        """Whether a client may read the history. Raises Refused."""
        options = self.options(channel)
        self._require(options.history is not None, Errors.NOT_AVAILABLE)
        self._require(self._allowed(asker, channel, options, "history"), Errors.PERMISSION_DENIED)

    def _require(self, condition: bool, error: Error) -> None:
        if not condition:
            raise Refused(error)

    def may(self, asker: Asker, channel: str, options: ChannelOptions, what: str) -> bool:
        """Whether the namespace lets a client do `what` (presence, history) as a subscriber of `channel`."""
        return self.insecure or options.permissions[what].given(asker.user, subscribed=True)

    def _allowed(self, asker: Asker, channel: str, options: ChannelOptions, what: str) -> bool:
        return self.insecure or options.permissions[what].given(asker.user, asker.is_subscribed(channel))


def _overridden(options: ChannelOptions, override: Override) -> ChannelOptions:
    names = ("presence", "join_leave", "force_push_join_leave", "force_recovery", "force_positioning")
    changes = {name: value for name in names if (value := getattr(override, name)) is not None}
    return options.model_copy(update=changes) if changes else options


def _token_keys(settings: Settings) -> TokenKeys:
    def secret(name: str) -> str:
        value = getattr(settings, name)
        return value.get_secret_value() if value else ""

    return TokenKeys(
        hmac_secret=secret("token_hmac_secret_key"),
        hmac_previous_secret=secret("token_hmac_previous_secret_key"),
        hmac_previous_secret_valid_until=settings.token_hmac_previous_secret_key_valid_until,
        rsa_public_key=settings.token_rsa_public_key,
        ecdsa_public_key=settings.token_ecdsa_public_key,
        jwks_public_endpoint=settings.token_jwks_public_endpoint,
        audience=settings.token_audience,
        issuer=settings.token_issuer,
        user_id_claim=settings.token_user_id_claim,
    )


def _principal(token: ConnectionToken) -> Principal:
    subs = dict(token.subs) or {channel: SubscribeGrant() for channel in token.channels}
    return Principal(user=token.user, info=token.info, expire_at=token.expire_at, subs=subs)
