"""The values that travel through the hub."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from .errors import InvalidChannel

__all__ = ["LOBBY", "Publication", "channel_name"]

# The channel of `/ws`.
LOBBY = "lobby"

MAX_CHANNEL_LENGTH = 255


def channel_name(name: str) -> str:
    """Return `name` if it may name a channel: 1-255 characters, none of them a control character.

    Raises InvalidChannel.
    """
    if not 1 <= len(name) <= MAX_CHANNEL_LENGTH:
        raise InvalidChannel(f"channel name has {len(name)} characters, allowed are 1 to {MAX_CHANNEL_LENGTH}")
    # Unprintable is more than control characters (it has the space separators too), so it is only a fast first look.
    if not name.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise InvalidChannel("channel name has control characters")
    return name


@dataclass(frozen=True, slots=True)
class Publication:
    """One message of a channel, as it travels between workers.

    `data` is UTF-8 where `text` is true, any bytes else. `exclude` names the connection that does not want its own
    message back; empty: everybody gets it.
    """

    data: bytes
    text: bool = True
    exclude: bytes = b""
