"""Server-sent events, without I/O: https://html.spec.whatwg.org/multipage/server-sent-events.html

An event is what a raw WebSocket client gets as a message, with the publication's position as its id:

    id: <epoch>:<offset>
    data: text as it is, a line of it behind each `data:`; or JSON in one line

Binary data are an event `binary` in base64, joins and leaves are events `join` and `leave`, and what the hub itself
says is an event `hub`, a JSON object.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from ..types import DataKind, Publication, SlowPolicy, StreamPosition
from .forms import Event, Form, as_text

__all__ = ["PING", "SseForm", "encode", "event_id", "greeting", "hub_event", "read_event_id"]

# A comment, of which no client hears: so that proxies and clients do not take silence for the end.
PING = b":\n\n"

# What ends a line; nothing else does, U+2028 neither.
_LINE_END = re.compile(rb"\r\n|\r|\n")
_ID = re.compile(r"([^\s:]{1,64}):([0-9]{1,18})")
# Where no history is: what its clients have missed cannot be had.
_ELSEWHERE = StreamPosition(0, "?")


def encode(data: bytes, *, name: bytes = b"", id: bytes = b"") -> bytes:
    """An event; line ends in `data` are line feeds for the client."""
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(_LINE_END.split(data))
    parts = [b"data: ", data, b"\n\n"]
    if name:
        parts[:0] = (b"event: ", name, b"\n")
    if id:
        parts[:0] = (b"id: ", id, b"\n")
    return b"".join(parts)


def hub_event(body: Any, *, id: bytes = b"") -> bytes:
    """What the hub itself says."""
    return encode(msgspec.json.encode(body), name=b"hub", id=id)


def greeting(retry: int, body: Any, *, id: bytes = b"") -> bytes:
    """The first of a stream; after its end a browser comes back in `retry` milliseconds."""
    return b"retry: %d\n" % retry + hub_event(body, id=id)


def event_id(position: StreamPosition) -> bytes:
    """How clients call a place in a history; it is theirs to keep, not to understand."""
    return b"%s:%d" % (position.epoch.encode(), position.offset)


def read_event_id(value: str) -> StreamPosition:
    """The place of which an id tells; one that no history has, if it is not one of the hub's."""
    match = _ID.fullmatch(value)
    return StreamPosition(int(match[2]), match[1]) if match else _ELSEWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class SseForm:
    """Publications as events; with ids where the client can rely on getting all of them."""

    positioned: bool = False
    # The subscriber hears of joins and leaves.
    join_leave: bool = False
    # A client must be able to begin with any event.
    delta = False
    # The answer ends, and its client comes back and says how far it got.
    slow: ClassVar[SlowPolicy] = "disconnect"

    @property
    def next(self) -> Form:
        return self

    def frames(self, channel: str, events: Sequence[Event], base: Publication | None) -> list[bytes]:
        return [self._frame(event) for event in events]

    def _frame(self, event: Event) -> bytes:
        if isinstance(event, Publication):
            return self.publication(event)
        return encode(event.info, name=b"join" if event.joined else b"leave") if self.join_leave else b""

    def wants(self, publication: Publication) -> bool:
        return True

    def publication(self, publication: Publication) -> bytes:
        id = event_id(StreamPosition(publication.offset, publication.epoch)) if self.positioned else b""
        if publication.kind is DataKind.BINARY:
            return encode(base64.b64encode(publication.data), name=b"binary", id=id)
        return encode(as_text(publication), id=id)
