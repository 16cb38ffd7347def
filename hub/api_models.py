"""What the server API reads and answers, one pair of models a method.

`Json` fields hold JSON that the hub only hands on, as the bytes that came in (see `hub.api`): numbers keep their
digits. Answers leave out what is None. Unknown fields are ignored, so that a newer caller can talk to an older hub.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from msgspec import Raw
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "Answer",
    "ApiError",
    "BatchReplies",
    "BatchRequest",
    "BroadcastRequest",
    "BroadcastResult",
    "ChannelInfo",
    "ChannelsRequest",
    "ChannelsResult",
    "ClientInfo",
    "DisconnectRequest",
    "Empty",
    "HistoryPublication",
    "HistoryRemoveRequest",
    "HistoryRequest",
    "HistoryResult",
    "InfoRequest",
    "InfoResult",
    "NodeInfo",
    "PresenceRequest",
    "PresenceResult",
    "PresenceStatsRequest",
    "PresenceStatsResult",
    "PublishRequest",
    "PublishResult",
    "RefreshRequest",
    "SubscribeRequest",
    "UnsubscribeRequest",
]

MAX_UINT64 = 2**64 - 1
# Seconds since 1970 in 32 bits; milliseconds, a common mistake, are larger.
MAX_TIME = 2**32 - 1
# RFC 6455 §5.5.1: a close frame has 125 bytes, two of them the code.
MAX_REASON = 123

T = TypeVar("T")


def _is_base64(value: str) -> str:
    try:
        base64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError("this is not base64") from None
    return value


def _is_close_reason(value: str) -> str:
    if len(value.encode()) > MAX_REASON:
        raise ValueError(f"this is longer than {MAX_REASON} bytes")
    # The JavaScript client takes such a reason for advice on how to reconnect.
    if value.startswith(("{", "[")):
        raise ValueError("this looks like JSON")
    return value


def _is_raw(value: Any) -> Raw | None:
    """A value in Python has lost what it looked like; and `bytes(5)` is no JSON."""
    if value is not None and not isinstance(value, Raw):
        raise TypeError(f"JSON is handed on as the bytes that it came in, not as {type(value).__name__}")
    return value


# As bytes in `msgspec.Raw`, or None.
Json = Annotated[Any, AfterValidator(_is_raw)]
Base64 = Annotated[str, AfterValidator(_is_base64)]
Reason = Annotated[str, AfterValidator(_is_close_reason)]
Channel = Annotated[str, Field(min_length=1, description="Name of the channel or room.")]
User = Annotated[str, Field(description="Id of the user; empty are those without one.")]
Client = Annotated[str, Field(description="Id of the user's one connection that is meant; empty are all.")]
Session = Annotated[str, Field(description="Session of the user's one connection that is meant; empty are all.")]
ExpireAt = Annotated[int, Field(ge=0, le=MAX_TIME, description="Unix seconds; 0 is never.")]
Offset = Annotated[int, Field(ge=0, le=MAX_UINT64, description="Number of a publication in its channel, from 1.")]


class _Request(BaseModel):
    """The types are JSON's: `"1"` is no number, and 1 no text."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, frozen=True)


class _Answer(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)


def _example(**fields: Any) -> ConfigDict:
    """What /docs shows, in place of every field with some value."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Position(_Request):
    """A place in the history of a channel."""

    offset: Offset = 0
    epoch: str = Field("", description="Name of the history that the offset counts in; empty is any.")


# Publishing


class _Publication(_Request):
    """What `publish` and `broadcast` have in common."""

    data: Json = Field(
        None,
        description="Any JSON. Raw clients get a string as the text that it is, all else as JSON text.",
    )
    b64data: Base64 = Field("", description="Bytes in base64 in place of `data`: a binary publication.")
    tags: dict[str, str] | None = Field(None, description="Texts that subscribers may filter by.")
    idempotency_key: str = Field(
        "", max_length=255, description="The same key in the same channel within 5 minutes publishes once."
    )
    version: int = Field(
        0, ge=0, le=MAX_UINT64, description="Publish only if this is above the channel's last version; 0 is always."
    )
    version_epoch: str = Field("", description="What `version` counts in; another one begins anew.")
    skip_history: bool = Field(False, description="Do not keep it in the channel's history.")
    delta: bool = Field(False, description="It may be sent as the difference to the one before.")

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if "data" not in self.model_fields_set and not self.b64data:
            raise ValueError("data is missing")
        return self


class PublishRequest(_Publication):
    """One publication."""

    model_config: ClassVar[ConfigDict] = _example(channel="chat:lobby", data={"text": "dinner is ready"})

    channel: Channel


class BroadcastRequest(_Publication):
    """One publication for many channels."""

    model_config: ClassVar[ConfigDict] = _example(
        channels=["chat:lobby", "chat:kitchen"], data={"text": "dinner is ready"}
    )

    channels: list[Channel] = Field(min_length=1)


class PublishResult(_Answer):
    """Redis has taken it; `offset` and `epoch` are its place, if the channel has a history."""

    model_config: ClassVar[ConfigDict] = _example(offset=7, epoch="kzqw")

    offset: Offset | None = None
    epoch: str | None = None


# Users


class BoolValue(_Request):
    """On or off."""

    value: bool


class SubscribeOverride(_Request):
    """Channel options of this subscription, in place of those that are configured."""

    presence: BoolValue | None = None
    join_leave: BoolValue | None = None
    force_push_join_leave: BoolValue | None = None
    force_positioning: BoolValue | None = None
    force_recovery: BoolValue | None = None


class SubscribeRequest(_Request):
    """Whom to subscribe, and to what."""

    model_config: ClassVar[ConfigDict] = _example(user="42", channel="chat:lobby")

    user: User = ""
    channel: Channel
    client: Client = ""
    session: Session = ""
    info: Json = Field(None, description="JSON that presence and joins of the channel show of the subscriber.")
    b64info: Base64 = Field("", description="The same in base64.")
    data: Json = Field(None, description="JSON that the subscriber gets with its subscription.")
    b64data: Base64 = Field("", description="The same in base64.")
    recover_since: Position | None = Field(None, description="Send what was published after this, too.")
    expire_at: ExpireAt = 0
    override: SubscribeOverride | None = None


class UnsubscribeRequest(_Request):
    """Whom to unsubscribe, and from what."""

    model_config: ClassVar[ConfigDict] = _example(user="42", channel="chat:lobby")

    user: User = ""
    channel: str = Field("", description="Name of the channel; empty are all of them.")
    client: Client = ""
    session: Session = ""


class CloseCode(_Request):
    """How to close. Clients come back by themselves after 3000-3499 and 4000-4499."""

    code: int = Field(ge=3000, le=4999)
    reason: Reason = ""


class DisconnectRequest(_Request):
    """Whom to disconnect."""

    model_config: ClassVar[ConfigDict] = _example(
        user="42", disconnect={"code": 4500, "reason": "your trial has ended"}
    )

    user: User = ""
    client: Client = ""
    session: Session = ""
    whitelist: list[str] = Field([], description="Ids of the user's connections that stay.")
    disconnect: CloseCode | None = Field(None, description="If not given 3503, force disconnect.")


class RefreshRequest(_Request):
    """Whose connections live on, and until when."""

    model_config: ClassVar[ConfigDict] = _example(user="42", expire_at=1900000000)

    user: User = ""
    client: Client = ""
    session: Session = ""
    expired: bool = Field(False, description="They have expired: close them with 3005.")
    expire_at: ExpireAt = 0
    info: Json = Field(None, description="JSON that presence shows of the connections from now on.")


class Empty(_Answer):
    """Done."""


# Channels


class _ChannelRequest(_Request):
    model_config: ClassVar[ConfigDict] = _example(channel="chat:lobby")

    channel: Channel


class PresenceRequest(_ChannelRequest):
    """Who is in this channel?"""


class ClientInfo(_Answer):
    """Who a connection is."""

    user: str
    client: str
    conn_info: Json = Field(None, description="JSON from the connection's token.")
    chan_info: Json = Field(None, description="JSON from the subscription's token.")


class PresenceResult(_Answer):
    """Every connection in the channel, by its id."""

    model_config: ClassVar[ConfigDict] = _example(
        presence={"5a1f3c": {"user": "42", "client": "5a1f3c", "conn_info": {"name": "Ann"}}}
    )

    presence: dict[str, ClientInfo]


class PresenceStatsRequest(_ChannelRequest):
    """How many are in this channel?"""


class PresenceStatsResult(_Answer):
    """How many."""

    model_config: ClassVar[ConfigDict] = _example(num_clients=3, num_users=2)

    num_clients: int = Field(description="Connections.")
    num_users: int = Field(description="Different users.")


class HistoryRequest(_ChannelRequest):
    """Which part of the history."""

    model_config: ClassVar[ConfigDict] = _example(channel="chat:lobby", limit=10, reverse=True)

    limit: int = Field(
        0, ge=-(2**31), le=2**31 - 1, description="Most publications; 0 asks for the position only, -1 is all."
    )
    since: Position | None = Field(None, description="Publications after this one; in `reverse`, before it.")
    reverse: bool = Field(False, description="Newest first.")


class HistoryPublication(_Answer):
    """A publication that is kept."""

    data: Json
    info: ClientInfo | None = Field(None, description="The client that published, if one did.")
    offset: Offset
    tags: dict[str, str] | None = None


class HistoryResult(_Answer):
    """A part of the history, and the position of its end."""

    model_config: ClassVar[ConfigDict] = _example(
        publications=[{"data": {"text": "dinner is ready"}, "offset": 7}], epoch="kzqw", offset=7
    )

    publications: list[HistoryPublication]
    epoch: str
    offset: Offset


class HistoryRemoveRequest(_ChannelRequest):
    """Whose history to forget."""


class ChannelsRequest(_Request):
    """Which channels."""

    model_config: ClassVar[ConfigDict] = _example(pattern="chat:*")

    pattern: str = Field("", description="`*`, `?` and `[abc]` as in file names; empty is all.")


class ChannelInfo(_Answer):
    """A channel with subscribers."""

    num_clients: int


class ChannelsResult(_Answer):
    """The channels that have subscribers, on any worker."""

    model_config: ClassVar[ConfigDict] = _example(channels={"chat:lobby": {"num_clients": 3}})

    channels: dict[str, ChannelInfo]


class InfoRequest(_Request):
    """There is nothing to say."""

    model_config: ClassVar[ConfigDict] = _example()


class NodeInfo(_Answer):
    """One worker."""

    uid: str
    name: str
    version: str
    num_clients: int = Field(description="Connections.")
    num_users: int = Field(description="Different users.")
    num_subs: int = Field(description="Subscriptions of all connections.")
    num_channels: int
    uptime: int = Field(description="Seconds.")


class InfoResult(_Answer):
    """Every worker."""

    nodes: list[NodeInfo]


# Shapes around them


class ApiError(_Answer):
    """A refusal; docs/reference.md has the codes."""

    model_config: ClassVar[ConfigDict] = _example(code=107, message="bad request: channel: Field required")

    code: int
    message: str


class Answer(_Answer, Generic[T]):
    """Either `result` or `error`."""

    result: T | None = None
    error: ApiError | None = None


class BroadcastResult(_Answer):
    """One answer a channel, in their order."""

    responses: list[Answer[PublishResult]]


class BatchRequest(_Request):
    """Calls of the other methods, each as `{"method": {its request}}`."""

    model_config: ClassVar[ConfigDict] = _example(
        commands=[{"publish": {"channel": "chat:lobby", "data": "hi"}}, {"presence": {"channel": "chat:lobby"}}]
    )

    commands: list[dict[str, Any]]
    parallel: bool = Field(False, description="Side by side; else one after another.")


class BatchReplies(_Answer):
    """One reply a command, in their order: `{"method": {its result}}` or `{"error": …}`."""

    model_config: ClassVar[ConfigDict] = _example(
        replies=[{"publish": {"offset": 7, "epoch": "kzqw"}}, {"error": {"code": 108, "message": "not available"}}]
    )

    replies: list[dict[str, Any]]
