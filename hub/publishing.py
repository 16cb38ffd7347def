"""A publication before it is sent: from the caller's values to what the broker is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from .errors import Error, Errors, MessageTooBig, Refused
from .namespaces import ChannelOptions, Namespaces
from .protocol.forms import as_json
from .types import DataKind, HistoryOptions, Publication, channel_name

__all__ = [
    "MessageOptions",
    "Order",
    "PublishOptions",
    "arrange",
    "check_size",
    "labelled",
    "prepare",
    "publication_of",
    "unfit",
]

# For who gave something else.
PUBLISHABLE = (
    "give bytes, a str, a model of pydantic, or what JSON can say: dict (by str or numbers), list, int, float, bool, "
    "None, and in them datetime, UUID, Decimal, Enum, dataclasses"
)


class MessageOptions(TypedDict, total=False):
    """What may be said of a message besides its channel; `Hub.publish` says what each means."""

    exclude: bytes
    tags: Mapping[str, str] | None
    idempotency_key: str
    version: int
    version_epoch: str
    skip_history: bool
    delta: bool


class PublishOptions(MessageOptions, total=False):
    """The same where the channel may be none of the configured ones."""

    known: bool


class Order(Struct, frozen=True):
    """A publication, and how the broker is to publish it."""

    channel: str
    publication: Publication
    # None: it is not kept.
    history: HistoryOptions | None
    idempotency_key: str
    version: int
    version_epoch: str
    # It is only passed on: there is nothing to keep and nothing to compare.
    plain: bool


def prepare(
    namespaces: Namespaces,
    channel: str,
    data: Any,
    exclude: bytes = b"",
    tags: Mapping[str, str] | None = None,
    idempotency_key: str = "",
    version: int = 0,
    version_epoch: str = "",
    skip_history: bool = False,
    delta: bool = False,
    known: bool = False,
) -> Order:
    """Check everything but the size. Raises InvalidChannel, TypeError, Refused (typed channels, or with `known`)."""
    found = namespaces.find(channel_name(channel))
    publication = publication_of(data, exclude, tags)
    if known:
        _require_welcome(found, publication)
    elif found is None and namespaces.is_typed(channel):
        raise Refused(Errors.UNKNOWN_CHANNEL, f"{channel!r} is not one of the namespace's typed channels")
    elif found is not None and found.rules is not None:
        _require_welcome(found, publication)
    options = found or namespaces.without
    return arrange(options, channel, publication, idempotency_key, version, version_epoch, skip_history, delta)


def arrange(
    options: ChannelOptions,
    channel: str,
    publication: Publication,
    idempotency_key: str,
    version: int,
    version_epoch: str,
    skip_history: bool,
    delta: bool,
) -> Order:
    """How a channel with these options takes a publication."""
    history = None if skip_history else options.history
    plain = history is None and not idempotency_key and not version
    if delta or (options.delta_publish and not plain):
        publication = replace(publication, delta=True)
    return Order(channel, publication, history, idempotency_key, version, version_epoch, plain)


def publication_of(data: Any, exclude: bytes = b"", tags: Mapping[str, str] | None = None) -> Publication:
    """How Python values travel: `bytes` as a binary message, `str` as the text that it is, all else as JSON text.

    Models of pydantic are written by their aliases. Raises TypeError for what JSON cannot say, for tags that are not
    texts, and for an `exclude` that is no id.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return labelled(bytes(data), DataKind.BINARY, exclude, tags)
    if isinstance(data, str):
        return labelled(data.encode(), DataKind.TEXT, exclude, tags)
    if isinstance(data, msgspec.Raw):  # JSON already; protocol frames are separated by line breaks
        bytes(data).decode()  # msgspec does not look into texts
        return labelled(msgspec.json.format(bytes(data), indent=-1), DataKind.JSON, exclude, tags)
    return labelled(_written(data), DataKind.JSON, exclude, tags)


def labelled(data: bytes, kind: DataKind, exclude: bytes, tags: Mapping[str, str] | None) -> Publication:
    """With what callers say besides. Raises TypeError for tags that are not texts, and an `exclude` that is no id."""
    if tags and not all(isinstance(value, str) for value in tags.values()):
        raise TypeError(f"the values of tags must be texts: {dict(tags)!r:.200}")
    if not isinstance(exclude, bytes):
        raise TypeError(
            f"exclude is the `id` of a connection of `join`, which is bytes, and not {type(exclude).__name__}; "
            "protocol clients (`client_id`) cannot be left out"
        )
    return Publication(data, kind, exclude, tags=tags)


def _written(data: Any) -> bytes:
    try:
        return _write(data)
    except TypeError as error:
        raise TypeError(f"the data cannot be published, because {error}; {PUBLISHABLE}") from error


def _of_model(value: Any) -> msgspec.Raw:
    """What msgspec does not know, wherever in the data it is."""
    if not isinstance(value, BaseModel):
        raise TypeError(f"JSON has nothing for an object of type {type(value).__name__}")
    try:
        return msgspec.Raw(value.model_dump_json(by_alias=True).encode())
    except PydanticSerializationError as error:
        raise TypeError(f"pydantic has no JSON for this {type(value).__name__}: {error}") from error


_write = msgspec.json.Encoder(enc_hook=_of_model).encode


def check_size(publication: Publication, most: int) -> int:
    """The bytes of its data. Raises MessageTooBig."""
    size = len(publication.data)
    if size > most:
        raise MessageTooBig(f"the message has {size} bytes, allowed are {most} (HUB_MAX_MESSAGE_SIZE)")
    return size


def _require_welcome(options: ChannelOptions | None, publication: Publication) -> None:
    """The channel's namespace is known and takes such data. Raises Refused."""
    if options is None:
        raise Refused(Errors.UNKNOWN_CHANNEL)
    binary = publication.kind is DataKind.BINARY
    data = as_json(publication) if options.rules is not None and publication.data and not binary else publication.data
    if complaint := options.complaint(data, binary=binary):
        raise unfit(options, complaint)


def unfit(options: ChannelOptions, complaint: str) -> Refused:
    """Of data that a channel does not take. What is wrong by a model is what its clients are told, too."""
    if options.rules is None:
        return Refused(Errors.BAD_REQUEST, complaint)
    return Refused(Error(code=Errors.BAD_REQUEST.code, message=complaint))
