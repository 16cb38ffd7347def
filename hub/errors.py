"""Everything that can go wrong, each code once.

Two families, as in the Centrifuge protocol: an `Error` answers one message and leaves the connection open; a
`Disconnect` ends the connection. Exceptions (`HubError`) are for the Python caller.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BrokerUnavailable",
    "ConfigError",
    "Denied",
    "Disconnect",
    "Disconnects",
    "Ended",
    "Error",
    "Errors",
    "HubError",
    "InvalidChannel",
    "MessageTooBig",
    "Refused",
    "StartError",
    "Unsubscribe",
    "Unsubscribes",
]


class HubError(Exception):
    """Base of every exception that the hub raises for its caller."""


class BrokerUnavailable(HubError):
    """Redis could not be reached, or did not answer in time; the message says whether it may have been sent."""


class ConfigError(HubError):
    """Settings are wrong or contradict each other; each argument is a sentence that names the settings of one fault."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


class StartError(HubError):
    """`hub serve` cannot start now, with settings that may be right: another attempt may succeed."""


class InvalidChannel(HubError, ValueError):
    """A channel name is empty, longer than 255 characters, or has control characters."""


class MessageTooBig(HubError, ValueError):
    """The data of a publication are larger than `max_message_size` bytes."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe:
    """The end of one subscription by the server. From 2500 on, clients subscribe again by themselves."""

    code: int
    reason: str


class Errors:
    """Refusals; the numbers are those of the Centrifuge protocol.

    A protocol client gets them as the reply to its command, a raw client as `{"hub": {"error": ...}}`, the HTTP API
    answers with them. An application may use 400 to 1999 for its own.
    """

    INTERNAL = Error(code=100, message="internal server error", temporary=True)
    # Raw clients: they are told the cause instead of this text.
    NOT_RELAYED = Error(code=100, message="the message was not relayed", temporary=True)
    UNAUTHORIZED = Error(code=101, message="unauthorized")
    UNKNOWN_CHANNEL = Error(code=102, message="unknown channel")
    PERMISSION_DENIED = Error(code=103, message="permission denied")
    METHOD_NOT_FOUND = Error(code=104, message="method not found")
    ALREADY_SUBSCRIBED = Error(code=105, message="already subscribed")
    LIMIT_EXCEEDED = Error(code=106, message="limit exceeded")
    BAD_REQUEST = Error(code=107, message="bad request")
    NOT_AVAILABLE = Error(code=108, message="not available")
    TOKEN_EXPIRED = Error(code=109, message="token expired")
    EXPIRED = Error(code=110, message="expired")
    TOO_MANY_REQUESTS = Error(code=111, message="too many requests", temporary=True)
    UNRECOVERABLE_POSITION = Error(code=112, message="unrecoverable position")
    CONCURRENT_PAGINATION = Error(code=113, message="concurrent pagination", temporary=True)


class Refused(HubError):
    """A command was refused; `error` says why in the protocol's terms, the exception's text in more detail."""

    def __init__(self, error: Error, detail: str = "") -> None:
        super().__init__(detail or error.message)
        self.error = error


class Denied(Refused):
    """Raised by the application's functions: permission denied (103), and the sentence that the client is told."""

    def __init__(self, reason: str = Errors.PERMISSION_DENIED.message) -> None:
        super().__init__(Error(code=Errors.PERMISSION_DENIED.code, message=reason))


class Ended(HubError):
    """A connection must end; `disconnect` says how."""

    def __init__(self, disconnect: Disconnect) -> None:
        super().__init__(disconnect.reason)
        self.disconnect = disconnect


class Unsubscribes:
    """Every reason for which the hub ends a subscription by itself. Applications may use 2100-2499 and 2600-2999."""

    SERVER = Unsubscribe(code=2000, reason="server unsubscribe")
    INSUFFICIENT_STATE = Unsubscribe(code=2500, reason="insufficient state")
    EXPIRED = Unsubscribe(code=2501, reason="subscription expired")
    STATE_INVALIDATED = Unsubscribe(code=2502, reason="state invalidated")


class Disconnects:
    """Every close code that the hub sends by itself.

    1000-2999 belong to RFC 6455, 3000-3999 to the Centrifuge protocol, 4400-4499 mirror the HTTP status of the
    same meaning.
    """

    NORMAL = Disconnect(code=1000, reason="normal closure", reconnect=False)
    PROTOCOL_ERROR = Disconnect(code=1002, reason="protocol error", reconnect=False)
    INVALID_DATA = Disconnect(code=1007, reason="text message is not UTF-8", reconnect=False)
    NOT_DEFLATE = Disconnect(code=1007, reason="compressed message is malformed", reconnect=False)
    TOO_BIG = Disconnect(code=1009, reason="message too big", reconnect=False)
    INTERNAL = Disconnect(code=1011, reason="internal error")
    RESTART = Disconnect(code=1012, reason="service restart")
    OVERLOADED = Disconnect(code=1013, reason="worker is full, try again later")
    TOO_MANY_CONNECTIONS = Disconnect(code=1013, reason="too many connections come at once, try again later")
    UNAVAILABLE = Disconnect(code=1013, reason="Redis does not answer, try again later")
    UNVERIFIED = Disconnect(code=1013, reason="tokens cannot be verified now, try again later")
    CONNECTION_CLOSED = Disconnect(code=3000, reason="connection closed")
    SHUTDOWN = Disconnect(code=3001, reason="shutdown")
    SERVER_ERROR = Disconnect(code=3004, reason="internal server error")
    EXPIRED = Disconnect(code=3005, reason="connection expired")
    SUBSCRIPTION_EXPIRED = Disconnect(code=3006, reason="subscription expired")
    SLOW = Disconnect(code=3008, reason="slow")
    INSUFFICIENT_STATE = Disconnect(code=3010, reason="insufficient state")
    FORCE_RECONNECT = Disconnect(code=3011, reason="force reconnect")
    NO_PONG = Disconnect(code=3012, reason="no pong")
    TOO_MANY_REQUESTS = Disconnect(code=3013, reason="too many requests")
    INVALID_TOKEN = Disconnect(code=3500, reason="invalid token", reconnect=False)
    BAD_REQUEST = Disconnect(code=3501, reason="bad request", reconnect=False)
    STALE = Disconnect(code=3502, reason="stale", reconnect=False)
    FORCE_DISCONNECT = Disconnect(code=3503, reason="force disconnect", reconnect=False)
    # A raw client; it has one room for ever.
    UNSUBSCRIBED = Disconnect(code=3503, reason="server unsubscribe", reconnect=False)
    CHANNEL_LIMIT = Disconnect(code=3505, reason="channel limit", reconnect=False)
    NOT_AVAILABLE = Disconnect(code=3508, reason="not available", reconnect=False)
    BAD_ROOM = Disconnect(
        code=4400, reason="room name must have 1 to 255 characters and no control characters", reconnect=False
    )
    # A raw client in a room that asks for more than it has.
    FORBIDDEN_ROOM = Disconnect(code=4403, reason="this room is not open to this client", reconnect=False)
    UNAUTHORIZED = Disconnect(code=4401, reason="token missing or not valid", reconnect=False)
    # Before the handshake, so a browser sees HTTP 403 and close code 1006.
    FORBIDDEN_ORIGIN = Disconnect(code=4403, reason="origin not allowed", reconnect=False)
    TOO_MANY_MESSAGES = Disconnect(code=4429, reason="too many messages, slow down")


def table(owner: type) -> list[tuple[str, Error | Disconnect | Unsubscribe]]:
    """The (name, value) pairs of `Errors`, `Disconnects` or `Unsubscribes`, for the reference pages and tests."""
    return [(name, value) for name, value in vars(owner).items() if isinstance(value, Error | Disconnect | Unsubscribe)]
