"""How a publication travels through Redis. Byte 0 says what follows:

    t b j     text, binary, JSON: a byte, the length of the excluded connection's id (0 for none), that id, the data
    m         metadata: twice a length (4 bytes, big-endian) and as many bytes (the publisher's ClientInfo and the tags,
              both JSON, or empty), then one of the above
    d         it may be sent as a delta; then one of the above
    x         a byte, the length of the trace context, and that (ASCII); then one of the above
    p         `p<offset>:<epoch>:`, its position in the history, then one of the above; put in front by the broker
    l         behind a position: `l<offset>:`, that of the publication before it, where offsets leap; then as above
    + -       somebody joined or left: a ClientInfo as JSON

The kind byte is also the version: a format that comes later gets another letter, so that workers of two versions
can share a Redis during a rolling upgrade (what a worker does not know it counts and skips).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from ..types import DataKind, Membership, Publication

__all__ = ["decode", "encode", "is_json_object", "membership", "positioned"]

_KINDS = {int(kind): kind for kind in DataKind}
_BINARY, _JSON = DataKind.BINARY, DataKind.JSON
_META, _DELTA, _TRACE, _POSITION, _JOIN, _LEAVE = b"mdxp+-"
_tags_decoder = msgspec.json.Decoder(dict[str, str])
_read_over = msgspec.json.Decoder(msgspec.Raw).decode
_size_at = struct.Struct(">I").unpack_from
# Publishers that are not looked through again, because most publications come from one of them; and the length of a
# ClientInfo, above which it is not worth its memory.
REMEMBERED, SHORT = 1024, 512

NOT_OURS = "not a publication of this hub"


def encode(publication: Publication) -> bytes:
    """The bytes to PUBLISH, without the position, which the broker knows; `exclude` is at most 255 bytes."""
    exclude = publication.exclude
    payload = bytes((publication.kind, len(exclude))) + exclude + publication.data
    if publication.trace:
        payload = bytes((_TRACE, len(publication.trace))) + publication.trace.encode() + payload
    if publication.delta:
        payload = b"d" + payload
    if publication.info or publication.tags:
        tags = msgspec.json.encode(publication.tags) if publication.tags else b""
        payload = b"m" + _sized(publication.info) + _sized(tags) + payload
    return payload


def membership(joined: bool, info: bytes) -> bytes:
    """The bytes to PUBLISH for a join or a leave; `info` is a ClientInfo as JSON."""
    return (b"+" if joined else b"-") + info


def positioned(payload: bytes, offset: int, epoch: str) -> bytes:
    """A payload behind its position."""
    return b"p%d:%s:" % (offset, epoch.encode()) + payload


def is_json_object(data: bytes) -> bool:
    """Whether clients can be told `data`, a ClientInfo, as it is."""
    try:
        _check_object(data)
    except ValueError:
        return False
    return True


def decode(payload: bytes) -> Publication | Membership:
    """What `payload` says; ValueError if somebody else wrote to our channels."""
    if not payload:
        raise ValueError(NOT_OURS)
    kind = payload[0]
    if kind in _KINDS:
        return Publication(*_decode_plain(payload, 0))
    if kind == _POSITION:
        return _decode_positioned(payload)
    if kind in (_JOIN, _LEAVE):
        _check_object(payload[1:])
        return Membership(kind == _JOIN, payload[1:])
    return _decode_rich(payload, 0)


def _decode_positioned(payload: bytes) -> Publication:
    after_offset = payload.find(b":", 1, 32)
    after_epoch = payload.find(b":", after_offset + 1, after_offset + 64)
    if after_offset < 0 or after_epoch < 0:
        raise ValueError(NOT_OURS)
    offset, epoch = int(payload[1:after_offset]), payload[after_offset + 1 : after_epoch].decode()
    if not 0 < offset < 2**63:  # what no history has, no client could be told either
        raise ValueError(NOT_OURS)
    start, before = after_epoch + 1, 0
    if payload.startswith(b"l", start):
        after_before = payload.find(b":", start, start + 32)
        before, start = int(payload[start + 1 : after_before]), after_before + 1
        if not 0 < before < offset:
            raise ValueError(NOT_OURS)
    return _decode_rich(payload, start, offset, epoch, before)


def _decode_rich(payload: bytes, start: int, offset: int = 0, epoch: str = "", before: int = 0) -> Publication:
    info, delta, trace = b"", False, ""
    tags: Mapping[str, str] | None = None
    if payload.startswith(b"m", start):
        info, raw_tags, start = _take_metadata(payload, start + 1)
        if info:
            (_check_once if len(info) <= SHORT else _check_object)(info)
        if raw_tags:
            tags = _decode_tags(raw_tags)
    if payload.startswith(b"d", start):
        delta, start = True, start + 1
    if payload.startswith(b"x", start):
        trace, start = _decode_trace(payload, start + 1)
    data, kind, exclude = _decode_plain(payload, start)
    return Publication(data, kind, exclude, info, tags, delta, offset, epoch, before, trace)


def _decode_trace(payload: bytes, at: int) -> tuple[str, int]:
    """The trace context, and where it ends."""
    if len(payload) <= at or len(payload) <= (end := at + 1 + payload[at]):
        raise ValueError(NOT_OURS)
    return payload[at + 1 : end].decode("ascii"), end


def _decode_plain(payload: bytes, at: int) -> tuple[bytes, DataKind, bytes]:
    """The data, its kind, and who is excluded."""
    start = at + 2
    if len(payload) < start or len(payload) < (end := start + payload[at + 1]):
        raise ValueError(NOT_OURS)
    if (kind := _KINDS.get(payload[at])) is None:
        raise ValueError(NOT_OURS)
    data = payload[end:]
    if kind is not _BINARY and not data.isascii():
        data.decode()  # a text frame that is not UTF-8 would make every browser drop its connection
    if kind is _JSON:
        _check_json(data)
    return data, kind, payload[start:end]


def _decode_tags(tags: bytes) -> Mapping[str, str]:
    try:
        return _tags_decoder.decode(tags)
    except msgspec.MsgspecError:
        raise ValueError(NOT_OURS) from None


def _check_object(data: bytes) -> None:
    data.decode()
    if not data.startswith(b"{"):
        raise ValueError(NOT_OURS)
    _check_json(data)


_check_once = lru_cache(REMEMBERED)(_check_object)


def _check_json(data: bytes) -> None:
    """It is copied into what clients are told: it must be one value in one line, or everything after it is spoilt."""
    try:
        _read_over(data)
    except msgspec.MsgspecError:
        raise ValueError(NOT_OURS) from None
    except RecursionError:
        pass  # deeper than a reader in Python goes; its publisher was held to the same
    if b"\n" in data:
        raise ValueError(NOT_OURS)


def _sized(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


def _take_metadata(payload: bytes, start: int) -> tuple[bytes, bytes, int]:
    """ClientInfo, tags, and where they end."""
    try:
        info_end = start + 4 + _size_at(payload, start)[0]
        tags_end = info_end + 4 + _size_at(payload, info_end)[0]
    except struct.error:
        raise ValueError(NOT_OURS) from None
    if len(payload) < tags_end:
        raise ValueError(NOT_OURS)
    return payload[start + 4 : info_end], payload[info_end + 4 : tags_end], tags_end
