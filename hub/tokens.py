"""JSON Web Tokens: who a connection is and what it may subscribe to, as its application signed it.

The claims are those of the Centrifuge protocol; docs/tokens.md has the table. A token is split and its claims are
read here; PyJWT has the cryptography. The signature is verified before anything but the header is read.
"""

from __future__ import annotations

import base64
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import jwt
import msgspec
from jwt.exceptions import PyJWTError

from .errors import ConfigError, HubError, InvalidChannel
from .jwks import KeySet, KeysUnavailable
from .keys import ALGORITHMS, HMAC, Key, ecdsa_key, hmac_key, rsa_key
from .types import channel_name

__all__ = [
    "ConnectionToken",
    "KeysUnavailable",
    "Override",
    "SubscribeGrant",
    "SubscriptionToken",
    "TokenExpired",
    "TokenInvalid",
    "TokenKeys",
    "TokenVerifier",
    "sign",
]

# The protocol's ttl is an unsigned 32 bit number; `exp` in milliseconds, a common mistake, is larger.
MAX_TIME = 2**32 - 1


class TokenInvalid(HubError):
    """A token is malformed, not signed by a known key, or not meant for this; the message has the reason."""


class TokenExpired(HubError):
    """A token is good but not now: its `exp` has passed, or its `nbf` has not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKeys:
    """What tokens are verified with, by the settings' names without `token_`."""

    hmac_secret: str = field(default="", repr=False)
    hmac_previous_secret: str = field(default="", repr=False)
    # Unix seconds; 0 is for ever.
    hmac_previous_secret_valid_until: float = 0
    rsa_public_key: str = ""
    ecdsa_public_key: str = ""
    jwks_public_endpoint: str = ""
    # Checked only if set.
    audience: str = ""
    issuer: str = ""
    user_id_claim: str = "sub"

    @property
    def any(self) -> bool:
        """Whether a token could be good at all."""
        return bool(
            self.hmac_secret
            or self.hmac_previous_secret
            or self.rsa_public_key
            or self.ecdsa_public_key
            or self.jwks_public_endpoint
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Channel options that a token sets for its subscription; None leaves what is configured."""

    presence: bool | None = None
    join_leave: bool | None = None
    force_push_join_leave: bool | None = None
    force_recovery: bool | None = None
    force_positioning: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeGrant:
    """A server-side subscription that a connection token asks for; `info` and `data` are compact JSON or b""."""

    info: bytes = b""
    data: bytes = b""
    override: Override = Override()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionToken:
    """A verified connection token; `channels` is empty if the token has `subs`.

    `expire_at` (Unix seconds, 0 is never) is when the connection ends; by its own claim it may already be past.
    """

    user: str
    info: bytes = b""
    meta: bytes = b""
    channels: tuple[str, ...] = ()
    subs: dict[str, SubscribeGrant] = field(default_factory=dict)
    expire_at: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionToken:
    """A verified subscription token; that user, channel and client are the asker's is for the caller to check."""

    user: str
    channel: str
    # Only in tokens of old libraries; else "".
    client: str = ""
    info: bytes = b""
    data: bytes = b""
    expire_at: float = 0
    override: Override = Override()


class TokenVerifier:
    """Verifies tokens with `keys`. Raises ConfigError for a key that cannot be used."""

    # Looked up at each call: a test may have put time forward.
    def __init__(self, keys: TokenKeys, *, clock: Callable[[], float] = lambda: time.time()) -> None:
        self._keys = keys
        self._clock = clock
        self._lasting = _lasting(keys)
        self._previous: Key | None = None
        if keys.hmac_previous_secret:
            self._previous = hmac_key(keys.hmac_previous_secret, "token_hmac_previous_secret_key")
        self._set: KeySet | None = None
        if keys.jwks_public_endpoint:
            self._set = KeySet(keys.jwks_public_endpoint, "token_jwks_public_endpoint")

    async def connection(self, token: str) -> ConnectionToken:
        """The claims of a connection token. Raises TokenInvalid, TokenExpired, KeysUnavailable."""
        payload = await self._verified(token)
        user, claims = self._user(payload), _claims(payload, _ConnectionClaims)
        self._check(claims)
        if claims.channel is not None:
            raise TokenInvalid("a token with a channel is a subscription token")
        subs = {_channel(name): _grant(grant or _Grant()) for name, grant in (claims.subs or {}).items()}
        channels = () if subs else tuple(_channel(name) for name in claims.channels or ())
        info = _bytes(claims.info, claims.b64info, "b64info")
        meta = _compact(claims.meta)
        return ConnectionToken(
            user=user, info=info, meta=meta, channels=channels, subs=subs, expire_at=_expire_at(claims)
        )

    async def subscription(self, token: str) -> SubscriptionToken:
        """The claims of a subscription token. Raises TokenInvalid, TokenExpired, KeysUnavailable."""
        payload = await self._verified(token)
        user, claims = self._user(payload), _claims(payload, _SubscriptionClaims)
        self._check(claims)
        if not claims.channel:
            raise TokenInvalid("a token without a channel is not a subscription token")
        return SubscriptionToken(
            user=user,
            channel=claims.channel,
            client=claims.client or "",
            info=_bytes(claims.info, claims.b64info, "b64info"),
            data=_bytes(claims.data, claims.b64data, "b64data"),
            expire_at=_expire_at(claims),
            override=_override(claims.override),
        )

    # The signature

    async def _verified(self, token: str) -> bytes:
        """The payload of a token that a known key has signed."""
        parts = _parse(token)
        algorithm = parts.header.alg
        if algorithm not in ALGORITHMS:
            raise TokenInvalid(f"algorithm {algorithm!r} is not supported")
        keys = [key for key in self._known() if algorithm in key.algorithms]
        if any(key.verifies(algorithm, parts.signed, parts.signature) for key in keys):
            return _decoded(parts.payload)
        named = await self._named(parts.header)
        if named is not None and named.verifies(algorithm, parts.signed, parts.signature):
            return _decoded(parts.payload)
        if keys or named is not None:
            raise TokenInvalid("the signature does not match")
        raise TokenInvalid(f"there is no key for algorithm {algorithm!r} and key id {parts.header.kid or ''!r}")

    async def _named(self, header: _Header) -> Key | None:
        """The key of the key set that a token names; a set that comes by URL has no secrets."""
        if self._set is None or header.alg in HMAC:
            return None
        return await self._set.find(header.kid or "", header.alg)

    def _known(self) -> list[Key]:
        if self._previous is None:
            return self._lasting
        until = self._keys.hmac_previous_secret_valid_until
        return self._lasting if until and self._clock() >= until else [*self._lasting, self._previous]

    # The claims

    def _user(self, payload: bytes) -> str:
        """The user id; without the claim `sub` it is the anonymous user's, another claim must be there."""
        name = self._keys.user_id_claim
        raw = _claims(payload, dict[str, msgspec.Raw]).get(name, msgspec.Raw(b"null"))
        value = _claims(bytes(raw), object)  # what stayed raw may be a number out of range
        if value is None and name == "sub":
            return ""
        # Applications number their users; only `sub` must be a string (RFC 7519 §4.1.2).
        if isinstance(value, int) and not isinstance(value, bool) and name != "sub":
            return str(value)
        if not isinstance(value, str):
            raise TokenInvalid(f"the claim {name!r} is missing or not a string")
        return value

    def _check(self, claims: _Claims) -> None:
        now = self._clock()
        if self._keys.audience and self._keys.audience not in _audience(claims.aud):
            raise TokenInvalid("the token is for another audience")
        if self._keys.issuer and self._keys.issuer != claims.iss:
            raise TokenInvalid("the token is from another issuer")
        if claims.exp is not None and claims.exp <= now:
            raise TokenExpired("the token has expired")
        if claims.nbf is not None and claims.nbf > now:
            raise TokenExpired("the token is not valid yet")


def sign(claims: Mapping[str, Any], secret: str, algorithm: str = "HS256") -> str:
    """A token with `claims`, for the command line and tests; `secret` is a PEM private key if the algorithm wants one.

    Raises ConfigError.
    """
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"algorithm {algorithm!r} is not supported, known are {', '.join(ALGORITHMS)}")
    if not secret:
        raise ConfigError("a token cannot be signed without a secret")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of short secrets: who verifies has the same one already
        try:
            return jwt.encode(dict(claims), secret, algorithm)
        except (PyJWTError, NotImplementedError, ValueError, TypeError) as error:
            raise ConfigError(f"the token cannot be signed: {error}") from None


def _lasting(keys: TokenKeys) -> list[Key]:
    """The keys that do not change while the hub runs."""
    lasting = []
    if keys.hmac_secret:
        lasting.append(hmac_key(keys.hmac_secret, "token_hmac_secret_key"))
    if keys.rsa_public_key:
        lasting.append(rsa_key(keys.rsa_public_key, "token_rsa_public_key"))
    if keys.ecdsa_public_key:
        lasting.append(ecdsa_key(keys.ecdsa_public_key, "token_ecdsa_public_key"))
    return lasting


# The shapes of header and claims; null is as good as absent everywhere.


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    crit: Any = None


class _Parts(NamedTuple):
    header: _Header
    payload: bytes
    signed: bytes
    signature: bytes


class _Bool(msgspec.Struct):
    value: bool


class _Override(msgspec.Struct):
    presence: _Bool | None = None
    join_leave: _Bool | None = None
    force_push_join_leave: _Bool | None = None
    force_recovery: _Bool | None = None
    force_positioning: _Bool | None = None


class _Grant(msgspec.Struct):
    info: msgspec.Raw = msgspec.Raw()
    b64info: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    b64data: str | None = None
    override: _Override | None = None


class _Claims(msgspec.Struct, kw_only=True):
    exp: int | float | None = None
    nbf: int | float | None = None
    # Has to be a number and no more: clocks differ, and RFC 7519 gives no reason to refuse by it.
    iat: int | float | None = None
    jti: str | None = None
    iss: str | None = None
    aud: str | list[str] | None = None
    info: msgspec.Raw = msgspec.Raw()
    b64info: str | None = None
    expire_at: int | float | None = None


class _ConnectionClaims(_Claims):
    channels: list[str] | None = None
    subs: dict[str, _Grant | None] | None = None
    meta: msgspec.Raw = msgspec.Raw()
    channel: Any = None


class _SubscriptionClaims(_Claims):
    channel: str | None = None
    client: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    b64data: str | None = None
    override: _Override | None = None


T = TypeVar("T")


def _parse(token: str) -> _Parts:
    """Take a token in its compact form apart (RFC 7515 §7.1)."""
    try:
        head, payload, signature = token.encode("ascii").split(b".")
    except ValueError:
        raise TokenInvalid("it is not a JSON Web Token") from None
    header = _claims(_decoded(head), _Header)
    if header.crit is not None:  # RFC 7515 §4.1.11: what must be understood and is not, is invalid
        raise TokenInvalid("the header has critical extensions, none is supported")
    return _Parts(header, payload, head + b"." + payload, _decoded(signature))


def _decoded(part: bytes) -> bytes:
    """base64url without padding (RFC 7515 §2)."""
    try:
        return base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise TokenInvalid("the token is not base64url") from None


def _claims(json: bytes, kind: type[T]) -> T:
    try:
        json.decode()  # msgspec does not look into what stays raw
        return msgspec.json.decode(json, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TokenInvalid(f"the token cannot be read: {error}") from None


def _audience(claim: str | list[str] | None) -> list[str]:
    return [claim] if isinstance(claim, str) else claim or []


def _expire_at(claims: _Claims) -> float:
    """When what the token opened ends: `expire_at` if it is there, else `exp`. Not rounded: down, a token that is good
    for less than a second would open what has ended already.
    """
    at = claims.exp if claims.expire_at is None else claims.expire_at
    return 0 if at is None else min(max(at, 0), MAX_TIME)


def _channel(name: str) -> str:
    try:
        return channel_name(name)
    except InvalidChannel as error:
        raise TokenInvalid(str(error)) from None


def _grant(grant: _Grant) -> SubscribeGrant:
    return SubscribeGrant(
        info=_bytes(grant.info, grant.b64info, "b64info"),
        data=_bytes(grant.data, grant.b64data, "b64data"),
        override=_override(grant.override),
    )


def _override(override: _Override | None) -> Override:
    if override is None:
        return Override()
    values = {name: getattr(override, name) for name in override.__struct_fields__}
    return Override(**{name: value.value for name, value in values.items() if value is not None})


def _bytes(raw: msgspec.Raw, encoded: str | None, claim: str) -> bytes:
    """Compact JSON from a claim or its form in base64, which wins; it is JSON as well, since it travels in JSON."""
    if not encoded:
        return _compact(raw)
    try:
        decoded = base64.b64decode(encoded, validate=True)
        decoded.decode()
        msgspec.json.decode(decoded)
        return _compact(decoded)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise TokenInvalid(f"the claim {claim!r} is not JSON in base64") from None


def _compact(raw: bytes | msgspec.Raw) -> bytes:
    """Without the white space between its tokens: a newline would end the object that it is put into."""
    json = msgspec.json.format(bytes(raw), indent=-1) if bytes(raw) else b""
    return b"" if json == b"null" else json
