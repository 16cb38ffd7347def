"""What channels are like: options by namespace. The namespace of `chat:lobby` is `chat`.

Names are those of Centrifugo where it has the option. Everything is off unless it is turned on.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from .types import HistoryOptions, SlowPolicy

__all__ = ["BUILT_IN", "OPEN", "ChannelOptions", "Namespaces", "Rules", "namespace_of"]

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def _seconds(value: Any) -> Any:
    """`"1h30m"` as seconds; anything else as it is."""
    if not isinstance(value, str):
        return value
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ValueError('a duration is a number of seconds, or a text like "300s", "5m", "1h30m"')
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


# Seconds for which positions are kept at least. A subscriber does not keep one, a look at a quiet channel does, and
# that may take 50 s (`hub.streams`): without it all are told of a loss where nothing was said for a while.
LEAST_META_TTL = 60.0
# Channels whose options are remembered: finding them anew takes ten times as long, of every publication.
REMEMBERED = 4096


class Permission(NamedTuple):
    """Who may do a thing: clients, clients that are subscribed; and of these also such without a user id."""

    client: bool
    subscriber: bool
    anonymous: bool

    def given(self, user: str, subscribed: bool) -> bool:
        """Whether somebody has it. Subscribed or not, anonymous or not."""
        return (self.client or (subscribed and self.subscriber)) and (bool(user) or self.anonymous)


class Rules(Protocol):
    """What a typed channel (`hub.typed`) decides besides its options."""

    @property
    def subscribe(self) -> Callable[[Any, str], Awaitable[Any]] | None:
        """Asked by client and channel, in place of the hub's `on_subscribe`."""

    @property
    def publish(self) -> Callable[[Any, str, bytes], Awaitable[bool | None]] | None:
        """Asked by client, channel and JSON, in place of the hub's `on_publish`."""

    def complaint(self, data: bytes) -> str:
        """What is wrong with `data`, JSON, by the channel's model; empty if nothing is."""


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)]


class ChannelOptions(BaseModel):
    """The options of a namespace. Durations are seconds, or texts like "5m"."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    # Of a typed channel; set by `ruled`.
    rules: ClassVar[Rules | None] = None

    presence: bool = Field(default=False, description="Who is in the channel is known.")
    join_leave: bool = Field(default=False, description="Joins and leaves are announced to those who want them.")
    force_push_join_leave: bool = Field(default=False, description="They are announced to all subscribers.")

    history_size: int = Field(default=0, ge=0, description="Publications that are kept; needs history_ttl.")
    history_ttl: Seconds = Field(default=0.0, description="How long they are kept; needs history_size.")
    history_meta_ttl: Seconds = Field(
        default=30 * 86400.0, description="How long the position of the channel is kept; a minute at least."
    )
    force_positioning: bool = Field(default=False, description="All subscribers are told if a publication was lost.")
    allow_positioning: bool = Field(default=False, description="Those subscribers are told that want it.")
    force_recovery: bool = Field(default=False, description="All subscribers get what they missed when they come back.")
    allow_recovery: bool = Field(default=False, description="Those subscribers do that want it.")
    force_recovery_mode: Literal["stream", "cache"] = Field(
        default="stream", description="`stream`: all that was missed. `cache`: the latest publication only."
    )
    auto_cache_recover: bool = Field(default=False, description="In `cache` mode, new subscribers get the latest too.")
    allowed_delta_types: tuple[Literal["fossil"], ...] = Field(
        default=(), description="Deltas that subscribers may ask for."
    )
    delta_publish: bool = Field(default=False, description="All publications may be sent as deltas.")
    allow_tags_filter: bool = Field(default=False, description="Subscribers may filter by tags.")
    slow_policy: SlowPolicy | None = Field(
        default=None,
        description="What happens to a subscriber that reads too slowly. `drop_oldest`: the oldest publications that "
        "wait for it are dropped. `keep_latest`: all but the latest.",
    )

    channel_regex: str = Field(default="", description="What the channel's name after `namespace:` must match.")
    publication_data_format: Literal["", "json", "json_object", "binary"] = Field(
        default="", description="What publications must be; empty: anything but nothing."
    )

    allow_subscribe_for_client: bool = Field(default=False, description="Any client with a user id may subscribe.")
    allow_subscribe_for_anonymous: bool = Field(default=False, description="With it, those without may too.")
    allow_publish_for_client: bool = Field(default=False, description="Any client with a user id may publish.")
    allow_publish_for_subscriber: bool = Field(default=False, description="Subscribers may publish.")
    allow_publish_for_anonymous: bool = Field(default=False, description="With one of them, those without may too.")
    allow_presence_for_client: bool = Field(
        default=False, description="Any client with a user id may ask who is there."
    )
    allow_presence_for_subscriber: bool = Field(default=False, description="Subscribers may ask.")
    allow_presence_for_anonymous: bool = Field(default=False, description="With one of them, those without may too.")
    allow_history_for_client: bool = Field(default=False, description="Any client with a user id may read the history.")
    allow_history_for_subscriber: bool = Field(default=False, description="Subscribers may read it.")
    allow_history_for_anonymous: bool = Field(default=False, description="With one of them, those without may too.")

    @model_validator(mode="after")
    def _check_together(self) -> ChannelOptions:
        recovers = self.force_recovery or self.allow_recovery or self.force_positioning or self.allow_positioning
        if bool(self.history_size) != bool(self.history_ttl):
            raise ValueError("history needs both history_size and history_ttl")
        if recovers and not self.history_size:
            raise ValueError("positioning and recovery need history_size and history_ttl")
        if self.slow_policy in ("drop_oldest", "keep_latest") and self._lossless:
            raise ValueError(
                f"slow_policy {self.slow_policy!r} leaves publications out, and with {self._lossless} all subscribers "
                "rely on hearing everything; choose one of the two"
                + (", or force_recovery_mode 'cache'" if self._lossless == "force_recovery" else "")
            )
        if self.history_ttl > self.history_meta_ttl:
            raise ValueError("history_meta_ttl must not be shorter than history_ttl")
        try:
            re.compile(self.channel_regex)
        except re.error as error:
            raise ValueError(f"channel_regex: {error}") from None
        return self

    @property
    def _lossless(self) -> str:
        """The option by which every subscriber hears everything, if one is set."""
        forced = {"force_positioning": self.force_positioning, "force_push_join_leave": self.force_push_join_leave}
        if self.force_recovery_mode == "stream":
            forced["force_recovery"] = self.force_recovery
        return next((name for name, on in forced.items() if on), "")

    @cached_property
    def history(self) -> HistoryOptions | None:
        """What is kept of a channel; None without history."""
        if not self.history_size:
            return None
        meta_ttl = max(self.history_meta_ttl, LEAST_META_TTL)
        return HistoryOptions(size=self.history_size, ttl=self.history_ttl, meta_ttl=meta_ttl)

    @cached_property
    def permissions(self) -> Mapping[str, Permission]:
        """Of `publish`, `presence` and `history`."""
        return {
            what: Permission(*(getattr(self, f"allow_{what}_for_{who}") for who in Permission._fields))
            for what in ("publish", "presence", "history")
        }

    def complaint(self, data: bytes, *, binary: bool) -> str:
        """What is wrong with the data of a publication, if anything: JSON, or bytes where `binary`."""
        wanted = self.publication_data_format
        if not data:
            return "data is missing"
        if wanted == "binary" and not binary:
            return "data must be binary"
        if wanted in ("json", "json_object") and binary:
            return "data must be JSON"
        if wanted == "json_object" and not data.startswith(b"{"):
            return "data must be a JSON object"
        return self.rules.complaint(data) if self.rules is not None else ""

    def ruled(self, rules: Rules) -> ChannelOptions:
        """The same with the rules of a typed channel."""
        options = ChannelOptions(**self.model_dump(exclude_unset=True))
        options.__dict__["rules"] = rules
        return options


# Channels like raw rooms: everybody hears what anybody says, and nothing is kept.
OPEN = ChannelOptions(
    allow_subscribe_for_client=True,
    allow_subscribe_for_anonymous=True,
    allow_publish_for_subscriber=True,
    allow_publish_for_anonymous=True,
)

# What a hub has that was told nothing about namespaces.
BUILT_IN: Mapping[str, ChannelOptions] = {
    "chat": ChannelOptions(
        presence=True,
        join_leave=True,
        force_push_join_leave=True,
        history_size=100,
        history_ttl=300.0,
        force_recovery=True,
        allow_subscribe_for_client=True,
        allow_subscribe_for_anonymous=True,
        allow_publish_for_subscriber=True,
        allow_publish_for_anonymous=True,
        allow_presence_for_subscriber=True,
        allow_presence_for_anonymous=True,
        allow_history_for_subscriber=True,
        allow_history_for_anonymous=True,
    )
}

# In front of a channel's name: only with a token.
PRIVATE = "$"


def namespace_of(channel: str) -> str:
    """What stands before the first colon, without the sign of private channels; empty if there is no colon."""
    name, colon, _ = channel.partition(":")
    return name.removeprefix(PRIVATE) if colon else ""


class Namespaces:
    """The options of every channel."""

    def __init__(self, without: ChannelOptions = OPEN, named: Mapping[str, ChannelOptions] = BUILT_IN) -> None:
        self.without = without
        self.named: dict[str, ChannelOptions] = dict(named)
        self._patterns = {
            name: re.compile(options.channel_regex)
            for name, options in {"": without, **self.named}.items()
            if options.channel_regex
        }
        # Those of typed channels, each with what finds the options of its channels.
        self._typed: dict[str, Callable[[str], ChannelOptions | None]] = {}
        self._remembered = lru_cache(REMEMBERED)(self._look_up)

    def find(self, channel: str) -> ChannelOptions | None:
        """The options of `channel`; None if its namespace is unknown or does not take such a name."""
        return self._remembered(channel)

    def _look_up(self, channel: str) -> ChannelOptions | None:
        name = namespace_of(channel)
        if name in self._typed:
            return self._typed[name](channel.removeprefix(PRIVATE))
        options = self.named.get(name) if name else self.without
        pattern = self._patterns.get(name)
        if pattern is not None and not pattern.search(channel.partition(":")[2] if name else channel):
            return None
        return options

    def of_room(self, channel: str) -> ChannelOptions:
        """The options where any name will do, as in raw rooms: of the namespace if there is one, else of none."""
        return self.find(channel) or self.without

    # Typed channels

    def define(self, namespace: str, find: Callable[[str], ChannelOptions | None]) -> None:
        """From now on, `find` says by a channel's name what the channels of a namespace are like."""
        self._typed[namespace] = find
        self._remembered.cache_clear()

    def is_typed(self, channel: str) -> bool:
        """Whether its namespace has typed channels, so that no other name will do."""
        return namespace_of(channel) in self._typed
