"""Forms: what the events of a channel look like to a client.

Subscribers of a channel are grouped by form; what a form makes of an event is made once and written to all of its
group. Forms are values: two that are equal share a group. Another encoding is another class here.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from ..types import DataKind, Membership, Publication, SlowPolicy
from . import deflate, fossil
from .frames import binary_frame, text_frame
from .tags import TagsFilter

__all__ = ["RAW", "Event", "Form", "JsonForm", "RawForm", "as_json", "as_text", "deflated", "json_publication"]

Event = Publication | Membership


class Form(Protocol):
    """How events are written. Hashable."""

    @property
    def positioned(self) -> bool:
        """Whether its subscribers rely on getting every publication, and must be told if one is missing."""

    @property
    def slow(self) -> SlowPolicy:
        """What happens to a subscriber that reads too slowly."""

    @property
    def next(self) -> Form:
        """The form of the same subscriber after its first events."""

    def frames(self, channel: str, events: Sequence[Event], base: Publication | None) -> list[bytes]:
        """One WebSocket frame for each event, empty where the subscriber does not get it.

        `base` is the publication before the first of `events`, if it is known.
        """


def as_text(publication: Publication) -> bytes:
    """What a raw client gets of a publication that is not binary: a JSON string as the text that it is."""
    if publication.kind is DataKind.JSON and publication.data.startswith(b'"'):
        return msgspec.json.decode(publication.data, type=str).encode()
    return publication.data


def as_json(publication: Publication) -> bytes:
    """What a protocol client gets: raw text that is a JSON object or array is that, other text a JSON string."""
    data = publication.data
    if publication.kind is DataKind.JSON:
        return data
    if publication.kind is DataKind.BINARY:
        return b'{"b64data":"' + base64.b64encode(data) + b'"}'
    if data[:1] in (b"{", b"["):
        try:
            msgspec.json.decode(data)
            return msgspec.json.format(data, indent=-1)  # without line breaks
        except (msgspec.MsgspecError, RecursionError):
            pass
    return msgspec.json.encode(data.decode())


def json_publication(publication: Publication, data: bytes, *, delta: bool = False) -> bytes:
    """A Publication of the protocol with `data`, any JSON."""
    parts = [b'{"data":', data]
    if publication.info:
        parts += (b',"info":', publication.info)
    if publication.offset:
        parts.append(b',"offset":%d' % publication.offset)
        if publication.offset == 1:  # a subscriber of an empty stream learns the epoch from it
            parts += (b',"epoch":', msgspec.json.encode(publication.epoch))
    if publication.tags:
        parts += (b',"tags":', msgspec.json.encode(publication.tags))
    if delta:
        parts.append(b',"delta":true')
    parts.append(b"}")
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class RawForm:
    """Of the raw endpoint: the data alone."""

    slow: SlowPolicy = "disconnect"

    positioned = False

    @property
    def next(self) -> Form:
        return self

    def frames(self, channel: str, events: Sequence[Event], base: Publication | None) -> list[bytes]:
        return [self._frame(event) for event in events]

    def _frame(self, event: Event) -> bytes:
        if isinstance(event, Membership):
            return b""
        return binary_frame(event.data) if event.kind is DataKind.BINARY else text_frame(as_text(event))


RAW = RawForm()


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonForm:
    """Of the Centrifuge protocol in JSON: pushes."""

    # The subscriber hears of joins and leaves.
    join_leave: bool = False
    positioned: bool = False
    tags_filter: TagsFilter | None = None
    # The subscriber understands deltas (`data` is then a JSON string); it has the publication before.
    delta: bool = False
    based: bool = False
    slow: SlowPolicy = "disconnect"

    @property
    def next(self) -> Form:
        return replace(self, based=True) if self.delta and not self.based else self

    def frames(self, channel: str, events: Sequence[Event], base: Publication | None) -> list[bytes]:
        head = b'{"push":{"channel":' + msgspec.json.encode(channel)
        # What a patch may be made of: the last publication that the subscriber has got.
        known = base if self.based and base is not None and self.wants(base) else None
        frames = []
        for event in events:
            frame = self._frame(head, event, known)
            frames.append(frame)
            if frame and isinstance(event, Publication):
                known = event
        return frames

    def wants(self, publication: Publication) -> bool:
        """Whether its tags pass the filter."""
        return self.tags_filter is None or self.tags_filter.matches(publication.tags)

    def _frame(self, head: bytes, event: Event, base: Publication | None) -> bytes:
        if isinstance(event, Publication):
            if not self.wants(event):
                return b""
            return text_frame(head + b',"pub":' + self.publication(event, base) + b"}}")
        if not self.join_leave:
            return b""
        return text_frame(head + (b',"join":{"info":' if event.joined else b',"leave":{"info":') + event.info + b"}}}")

    def publication(self, publication: Publication, base: Publication | None = None) -> bytes:
        """A Publication as this subscriber reads it; as a patch of `base` where that is allowed and shorter."""
        data = as_json(publication)
        if not self.delta:
            return json_publication(publication, data)
        if base is not None and publication.delta:
            patch = fossil.create(as_json(base), data, text=True)
            if len(patch) < len(data):
                return json_publication(publication, msgspec.json.encode(patch.decode()), delta=True)
        return json_publication(publication, msgspec.json.encode(data.decode()))


@dataclass(frozen=True, slots=True)
class _DeflatedForm:
    """Another form, compressed for all that have the same window."""

    form: Form
    bits: int

    @property
    def positioned(self) -> bool:
        return self.form.positioned

    @property
    def slow(self) -> SlowPolicy:
        return self.form.slow

    @property
    def next(self) -> Form:
        following = self.form.next
        return self if following is self.form else _DeflatedForm(following, self.bits)

    def frames(self, channel: str, events: Sequence[Event], base: Publication | None) -> list[bytes]:
        return deflate.pack_all(self.form.frames(channel, events, base), self.bits)


def deflated(form: Form, bits: int) -> Form:
    """`form` for a connection with this `Wire.compression`."""
    return _DeflatedForm(form, bits) if bits else form
