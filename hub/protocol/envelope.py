"""How a publication travels through Redis.

    byte 0   kind: `t` text, `b` binary
    byte 1   length of the excluded connection's id, 0 for none
    ...      that id, then the data to the end

The kind byte is also the version: a format that comes later gets another letter, so that workers of two versions
can share a Redis during a rolling upgrade (what a worker does not know it counts and skips).
"""

from __future__ import annotations

from ..types import Publication

__all__ = ["decode", "encode"]

_TEXT, _BINARY = ord("t"), ord("b")


def encode(publication: Publication) -> bytes:
    """The bytes to PUBLISH; `exclude` is at most 255 bytes."""
    exclude = publication.exclude
    kind = _TEXT if publication.text else _BINARY
    return bytes((kind, len(exclude))) + exclude + publication.data


def decode(payload: bytes) -> Publication:
    """The publication in `payload`; ValueError if somebody else wrote to our channels."""
    if len(payload) < 2 or payload[0] not in (_TEXT, _BINARY) or len(payload) < 2 + payload[1]:
        raise ValueError("not a publication of this hub")
    start = 2 + payload[1]
    data = payload[start:]
    text = payload[0] == _TEXT
    if text and not data.isascii():
        data.decode()  # a text frame that is not UTF-8 would make every browser drop its connection
    return Publication(data, text, payload[2:start])
