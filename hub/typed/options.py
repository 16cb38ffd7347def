"""What a typed channel is like: the short ways to say it, as options of its namespace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from pydantic import ValidationError

from ..errors import ConfigError
from ..namespaces import ChannelOptions
from ..types import SlowPolicy

__all__ = ["ChannelKeywords", "History", "options_of", "with_publishers"]


@dataclass(frozen=True, slots=True)
class History:
    """What is kept of a channel: the last `size` publications, each for `ttl` seconds (or a text like "5m")."""

    size: int
    ttl: float | str


class ChannelKeywords(TypedDict, total=False):
    """The further options of `ChannelOptions`, by the same names."""

    force_push_join_leave: bool
    history_meta_ttl: float | str
    force_positioning: bool
    allow_positioning: bool
    force_recovery: bool
    allow_recovery: bool
    force_recovery_mode: Literal["stream", "cache"]
    auto_cache_recover: bool
    allowed_delta_types: tuple[Literal["fossil"], ...]
    delta_publish: bool
    allow_tags_filter: bool
    allow_subscribe_for_client: bool
    allow_subscribe_for_anonymous: bool
    allow_publish_for_client: bool
    allow_publish_for_subscriber: bool
    allow_publish_for_anonymous: bool
    allow_presence_for_client: bool
    allow_presence_for_subscriber: bool
    allow_presence_for_anonymous: bool
    allow_history_for_client: bool
    allow_history_for_subscriber: bool
    allow_history_for_anonymous: bool


def options_of(
    address: str,
    history: History | None,
    presence: bool,
    join_leave: bool,
    slow: SlowPolicy | None,
    options: ChannelOptions | None,
    keywords: ChannelKeywords,
) -> ChannelOptions:
    """One after the other: what a typed channel has by itself, `options`, the keywords. Raises ConfigError."""
    given: dict[str, Any] = options.model_dump(exclude_unset=True) if options is not None else {}
    if history is not None:
        given |= {"history_size": history.size, "history_ttl": history.ttl}
    given |= {name: True for name, on in (("presence", presence), ("join_leave", join_leave)) if on}
    given |= {"slow_policy": slow} if slow is not None else {}
    given |= keywords
    for name, reason in _REFUSED.items():
        if given.get(name):
            raise ConfigError(f"channel {address!r}: {name} cannot be set, {reason}")
    try:
        return ChannelOptions(**{**_defaults(given), **given, "publication_data_format": "json"})
    except ValidationError as error:
        fault = error.errors()[0]
        text = str(fault["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"channel {address!r}: {': '.join([*map(str, fault['loc']), text])}") from None


_REFUSED = {
    "channel_regex": "the address says what names are like, and the types of its parameters",
    "publication_data_format": "the model says what data are like",
}


def _defaults(given: dict[str, Any]) -> dict[str, bool]:
    """Clients may subscribe, and see what the channel has; to publish needs an `on_publish`, or an option."""
    on = ["allow_subscribe_for_client", "allow_subscribe_for_anonymous"]
    if given.get("history_size"):
        on += ["force_recovery", "allow_history_for_subscriber", "allow_history_for_anonymous"]
    if given.get("presence"):
        on += ["allow_presence_for_subscriber", "allow_presence_for_anonymous"]
    if given.get("join_leave"):
        on.append("force_push_join_leave")
    return dict.fromkeys(on, True)


def with_publishers(options: ChannelOptions) -> ChannelOptions:
    """For a channel with `on_publish`: whom that does not refuse may publish, unless the options say who may."""
    names = {"allow_publish_for_client", "allow_publish_for_subscriber", "allow_publish_for_anonymous"}
    if names & options.model_fields_set:
        return options
    given = options.model_dump(exclude_unset=True)
    return ChannelOptions(**given, allow_publish_for_client=True, allow_publish_for_anonymous=True)
