"""Everything that can go wrong, each code once.

Two families, as in the Centrifuge protocol: an `Error` answers one message and leaves the connection open; a
`Disconnect` ends the connection. Exceptions (`HubError`) are for the Python caller.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BrokerUnavailable",
    "ConfigError",
    "Disconnect",
    "Disconnects",
    "Error",
    "Errors",
    "HubError",
    "InvalidChannel",
    "MessageTooBig",
]


class HubError(Exception):
    """Base of every exception that the hub raises for its caller."""


class BrokerUnavailable(HubError):
    """Redis could not be reached, or did not answer in time; the message says whether it may have been sent."""


class ConfigError(HubError):
    """A setting is wrong or two settings contradict each other; the message names them."""


class InvalidChannel(HubError, ValueError):
    """A channel name is empty, longer than 255 characters, or has control characters."""


class MessageTooBig(HubError, ValueError):
    """A publication is larger than `max_message_size`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """A refusal of one message; the connection stays open."""

    code: int
    message: str
    # Whether the same message may succeed later.
    temporary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """The end of a connection: a WebSocket close code (RFC 6455 §7.4) and its reason, at most 123 bytes.

    `reconnect` is advice for clients: with False the same attempt will be refused again.
    """

    code: int
    reason: str
    reconnect: bool = True


class Errors:
    """Refusals sent to a client as `{"hub": {"error": ...}}`; numbers as in the Centrifuge protocol."""

    # The client is told the cause instead of this text.
    NOT_RELAYED = Error(code=100, message="the message was not relayed", temporary=True)


class Disconnects:
    """Every close code that the hub sends by itself.

    1000-2999 belong to RFC 6455, 3000-3999 to the Centrifuge protocol, 4400-4499 mirror the HTTP status of the
    same meaning.
    """

    NORMAL = Disconnect(code=1000, reason="normal closure", reconnect=False)
    PROTOCOL_ERROR = Disconnect(code=1002, reason="protocol error", reconnect=False)
    INVALID_DATA = Disconnect(code=1007, reason="text message is not UTF-8", reconnect=False)
    TOO_BIG = Disconnect(code=1009, reason="message too big", reconnect=False)
    INTERNAL = Disconnect(code=1011, reason="internal error")
    RESTART = Disconnect(code=1012, reason="service restart")
    OVERLOADED = Disconnect(code=1013, reason="worker is full, try again later")
    UNAVAILABLE = Disconnect(code=1013, reason="Redis does not answer, try again later")
    NO_PONG = Disconnect(code=3012, reason="no pong")
    SLOW = Disconnect(code=3008, reason="slow")
    BAD_ROOM = Disconnect(
        code=4400, reason="room name must have 1 to 255 characters and no control characters", reconnect=False
    )
    UNAUTHORIZED = Disconnect(code=4401, reason="token missing or not valid", reconnect=False)
    # Before the handshake, so a browser sees HTTP 403 and close code 1006.
    FORBIDDEN_ORIGIN = Disconnect(code=4403, reason="origin not allowed", reconnect=False)
    TOO_MANY_MESSAGES = Disconnect(code=4429, reason="too many messages, slow down")


def table(owner: type) -> list[tuple[str, Error | Disconnect]]:
    """The (name, value) pairs of `Errors` or `Disconnects`, for the reference pages and tests."""
    return [(name, value) for name, value in vars(owner).items() if isinstance(value, Error | Disconnect)]
