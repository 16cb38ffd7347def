"""Settings: from the command line, `HUB_*` and `REDIS_URL`, a TOML file, in this order of precedence."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from .environment import Environment, unknown_variables, variable_of
from .errors import ConfigError
from .namespaces import BUILT_IN, OPEN, ChannelOptions, Namespaces
from .types import SlowPolicy

__all__ = ["Settings", "WireOptions", "sourced", "warn_of_unknown_variables"]

log: logging.Logger = logging.getLogger("hub.config")


_REDIS_SCHEMES = ("redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://")

# What names a setting in a sentence: its first word, and others that are no English, as ping_interval.
_NAMES = re.compile(r"\A[\w.-]+\w|\b[a-z]+_\w+")

LEAST_PASSWORD = 8

# RFC 6454 §6.2, of pages and of applications that are made of them (`capacitor://localhost`).
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#@*\s]+")

# One or several texts; in the environment separated by commas.
_Texts = Annotated[tuple[str, ...], NoDecode]


@dataclass(frozen=True, slots=True, kw_only=True)
class WireOptions:
    """What a connection must know; seconds and bytes. Handed to `hub.wire` through the lifespan state."""

    max_message_size: int = 65536
    ping_interval: float = 25.0
    ping_timeout: float = 10.0
    handshake_timeout: float = 8.0
    close_timeout: float = 5.0
    slow_budget: int = 1048576
    slow_timeout: float = 10.0
    connect_rate: float = 0.0
    compression: bool = False
    drain: float = 5.0


class Settings(BaseSettings):
    """Everything that can be set. Durations are in seconds, sizes in bytes."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix="HUB_",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,  # no timer can be set to never
    )

    # Where to listen
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    uds: Path | None = Field(default=None, description="Unix domain socket to listen on instead of host and port.")
    workers: int = Field(default=1, ge=1, le=512, description="Worker processes.")
    forwarded_allow_ips: str = Field(
        default="127.0.0.1",
        description="Proxies whose X-Forwarded-* headers are believed; comma-separated, * for all.",
    )
    drain: float = Field(default=5.0, ge=0, le=3600, description="Seconds over which SIGTERM spreads the closes.")
    drain_notice: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="Seconds before that in which only /health/ready says that the end is near.",
    )

    examples: bool = Field(
        default=False, description="Serve the examples at /examples, for everybody. They are in `broadcast-hub[dev]`."
    )

    # Logging and watching
    log_format: Literal["text", "json"] = Field(
        default="text", description="Shape of the log lines of `hub serve`; in your own application logging is yours."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that `hub serve` logs."
    )
    metrics: Literal["private", "public", "off"] = Field(
        default="private", description="Who may read /metrics; private: who has an API key or is on the same machine."
    )
    tracing: bool = Field(
        default=False, description="Publications are traced, by OpenTelemetry's global tracer provider."
    )
    watchdog: float = Field(
        default=1.0, ge=0, description="The stack of an event loop that stands still for this long is logged; 0 never."
    )

    # Redis
    redis_url: SecretStr | None = Field(
        default=None,
        description="redis://, rediss://, unix:// or redis+sentinel:// URL; without one `hub serve` starts a server of "
        "its own, and `Hub()` in your own application relays in the memory of its process (and warns in a worker that "
        "may have others beside it).",
    )
    redis_timeout: float = Field(default=3.0, gt=0, le=60, description="Silence of Redis that counts as an outage.")
    publish_timeout: float = Field(
        default=2.0, gt=0, le=60, description="Longest wait for Redis to take a publication."
    )
    subscribe_timeout: float = Field(default=5.0, gt=0, le=60, description="Longest wait of a joiner for Redis.")
    redis_prefix: str = Field(
        default="hub",
        min_length=1,
        description="First part of every Redis key and channel. Another one for each hub on a server: Redis passes "
        "messages on to all of its databases.",
    )

    # Who may do what
    token: SecretStr | None = Field(default=None, description="Static token that clients must send as ?token=.")
    api_key: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="Keys of the HTTP API (X-API-Key), comma-separated; without one it is off."
    )
    console_password: SecretStr | None = Field(
        default=None, description="Password of the console at /console, 8 characters at least; without one it is off."
    )
    origins: _Texts = Field(
        default=(),
        description="Origins (https://app.example.com) allowed besides the same host, comma-separated; * for all.",
    )

    # Protocol clients
    token_hmac_secret_key: SecretStr | None = Field(
        default=None, description="Secret of HS256, HS384 and HS512 tokens."
    )
    token_hmac_previous_secret_key: SecretStr | None = Field(
        default=None, description="The secret before, still accepted."
    )
    token_hmac_previous_secret_key_valid_until: int = Field(
        default=0, ge=0, description="Until when (Unix time); 0 is for ever."
    )
    token_rsa_public_key: str = Field(default="", description="PEM of the key of RS256, RS384 and RS512 tokens.")
    token_ecdsa_public_key: str = Field(default="", description="PEM of the key of ES256, ES384 and ES512 tokens.")
    token_jwks_public_endpoint: str = Field(default="", description="URL of a JSON Web Key Set.")
    token_audience: str = Field(default="", description="What `aud` of a token must be, if set.")
    token_issuer: str = Field(default="", description="What `iss` of a token must be, if set.")
    token_user_id_claim: str = Field(default="sub", min_length=1, description="The claim with the user's id.")
    allow_anonymous_connect_without_token: bool | None = Field(
        default=None, description="Clients without a token may connect; unset, they may if no token key is set."
    )
    client_insecure: bool = Field(default=False, description="Everybody may do everything. For tests.")
    subscribe_to_user_personal_channel: bool = Field(
        default=False, description="Each user is subscribed to the channel #<user id>."
    )
    user_personal_channel_namespace: str = Field(default="", description="The namespace of these channels.")
    client_channel_limit: int = Field(default=128, ge=1, le=65536, description="Channels of one client.")
    # With this and `handshake_timeout` no silent client is there after 10 s: a deadline is met a quarter of a second
    # late at most, the answer to a close frame may take half a second, and the rest is for a worker that is busy.
    client_stale_timeout: float = Field(
        default=8.0,
        gt=0,
        description="A client must send `connect` within this time; 3502 comes 0.25 s later at most, the end 0.75 s "
        "after that.",
    )
    client_expired_grace: float = Field(
        default=25.0, ge=0, description="How much later than its token a client expires."
    )
    presence_lease: float = Field(
        default=10.0, ge=1, le=300, description="The clients of a dead worker leave within this."
    )
    recovery_limit: int = Field(default=300, ge=1, le=10000, description="A client that missed more does not recover.")
    without_namespace: ChannelOptions = Field(default=OPEN, description="Channels whose names have no colon.")
    namespaces: dict[str, ChannelOptions] = Field(
        default=dict(BUILT_IN), description="Channels whose names begin with `<name>:`."
    )

    # Limits
    max_message_size: int = Field(default=65536, ge=1, le=2**30, description="Largest message.")
    message_rate: float = Field(default=0.0, ge=0, description="Messages a second from one connection; 0 is unlimited.")
    message_burst: int = Field(default=0, ge=0, description="Messages at once; needs message_rate, 0 is twice that.")
    max_connections: int = Field(
        default=0, ge=0, description="WebSockets and event streams of one worker; 0 is unlimited."
    )
    connect_rate: float = Field(
        default=0.0,
        ge=0,
        description="New WebSockets and event streams a second of one worker, the others get HTTP 503; 0 is unlimited.",
    )

    # Connections
    ping_interval: float = Field(default=25.0, gt=0, description="A silent connection is pinged after this long.")
    ping_timeout: float = Field(default=10.0, gt=0, description="It is dropped if nothing comes back for this long.")
    handshake_timeout: float = Field(
        default=8.0, gt=0, description="Longest handshake or other HTTP request; cut off 0.25 s later at most."
    )
    slow_policy: SlowPolicy = Field(
        default="disconnect",
        description="What happens to a raw client that reads too slowly, if its namespace does not say.",
    )
    slow_budget: int = Field(default=1048576, ge=1024, description="Bytes kept for such a client.")
    slow_timeout: float = Field(default=10.0, gt=0, description="A client that takes nothing for this long is dropped.")
    compression: bool = Field(default=False, description="Messages may be compressed (permessage-deflate).")

    config: Path | None = Field(default=None, description="TOML file with any of these settings.")

    @field_validator("origins", "api_key", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(value.split(",")) if isinstance(value, str) else value

    @field_validator("origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """As browsers send them: what is written in another way would match nothing, without a word."""
        origins = tuple(origin for each in value if (origin := each.strip().rstrip("/").lower()))
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; one is https://app.example.com, and * stands for all")
        return origins

    @field_validator("api_key")
    @classmethod
    def _without_empty(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        """Who sends no key would have an empty one."""
        return tuple(SecretStr(key) for each in value if (key := each.get_secret_value().strip()))

    @field_validator(
        *("redis_url", "token", "console_password", "token_hmac_secret_key", "token_hmac_previous_secret_key"),
        *("host", "uds", "config"),
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: Any, info: ValidationInfo) -> Any:
        """Nor in a file or an option: an empty host would listen on all interfaces, an empty token is nobody's."""
        return cls.model_fields[info.field_name or ""].default if value == "" else value

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        if not value.get_secret_value().startswith(_REDIS_SCHEMES):
            raise ValueError(f"a Redis URL begins with {', '.join(_REDIS_SCHEMES[:-1])} or {_REDIS_SCHEMES[-1]}")
        return value

    @field_validator("console_password")
    @classmethod
    def _check_console_password(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < LEAST_PASSWORD:
            raise ValueError(f"a password has at least {LEAST_PASSWORD} characters")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.ping_timeout > self.ping_interval:
            raise ValueError("ping_timeout must not be longer than ping_interval")
        if self.message_burst and not self.message_rate:
            raise ValueError("message_burst needs message_rate: without it nothing is limited")
        personal = self.user_personal_channel_namespace
        if personal and personal not in self.namespaces:
            raise ValueError(f"user_personal_channel_namespace: there is no namespace {personal!r}")
        for name in self.namespaces:
            if not name or ":" in name or "$" in name or "#" in name:
                raise ValueError(f"namespaces: {name!r} is not a name; it must not have :, $ or #")
        if self.slow_budget < self.max_message_size:
            raise ValueError("slow_budget must hold at least one message of max_message_size")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = init_settings().get("config") or os.environ.get("HUB_CONFIG")
        sources = (init_settings, Environment(settings_cls))
        return (*sources, TomlConfigSettingsSource(settings_cls, Path(path))) if path else sources

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Settings with `overrides` on top (None means: not given). Raises ConfigError, one sentence a fault."""
        given = {name: value for name, value in overrides.items() if value is not None}
        path = given.get("config") or os.environ.get("HUB_CONFIG")
        try:
            if path and not Path(path).is_file():
                raise ConfigError(f"config: there is no file {str(path)!r}")
            settings = cls(**given)
        except ValidationError as error:
            raise ConfigError(*(sourced(_sentence(fault), given) for fault in error.errors())) from None
        except OSError as error:
            raise ConfigError(f"config: {str(path)!r} cannot be read: {error.strerror}") from None
        except ValueError as error:  # a TOML file that cannot be parsed
            raise ConfigError(f"config: {path}: {error}") from None
        if path:
            _refuse_unknown(Path(path))
        return settings

    def for_worker(self, redis_url: str | None) -> bytes:
        """All settings as JSON, secrets included, with the Redis that the supervisor chose."""
        values = self.model_dump(exclude={"config", "uds"}, exclude_unset=True)
        values |= {name: _reveal(value) for name, value in values.items()}
        return json.dumps({**values, "redis_url": redis_url}).encode()

    @property
    def api_keys(self) -> tuple[str, ...]:
        return tuple(key.get_secret_value() for key in self.api_key)

    @property
    def channels(self) -> Namespaces:
        """The options of every channel."""
        return Namespaces(self.without_namespace, self.namespaces)

    @property
    def burst(self) -> int:
        """Messages that may come at once, at least one."""
        return self.message_burst or max(1, round(2 * self.message_rate))

    def wire(self) -> WireOptions:
        """The part that connections need."""
        names = WireOptions.__dataclass_fields__
        return WireOptions(**{name: getattr(self, name) for name in names if name != "close_timeout"})


def _reveal(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return [_reveal(item) for item in value] if isinstance(value, tuple) else value


@cache
def warn_of_unknown_variables() -> None:
    """Through the log, once a process."""
    for sentence in unknown_variables(Settings.model_fields):
        log.warning("%s", sentence)


def sourced(sentence: str, options: Collection[str]) -> str:
    """With the variable behind each setting that it names and the environment decides; `options` win over that."""

    def name(found: re.Match[str]) -> str:
        setting = found[0].partition(".")[0]
        known = setting in Settings.model_fields and setting not in options
        variable = variable_of(setting) if known else ""
        return f"{found[0]} ({variable})" if variable else found[0]

    return _NAMES.sub(name, sentence)


def _sentence(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    text = str(fault["msg"]).removeprefix("Value error, ")
    return f"{name}: {text}" if name else text


def _refuse_unknown(path: Path) -> None:
    """A misspelt setting in the file would otherwise be ignored without a word."""
    import tomllib

    unknown = set(tomllib.loads(path.read_text())) - set(Settings.model_fields)
    if unknown:
        raise ConfigError(f"config: {path} has unknown settings: {', '.join(sorted(unknown))}")
