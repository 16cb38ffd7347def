"""JSON with half an emoji: legal, and not for every reader.

A character beyond U+FFFF is escaped as two surrogates (RFC 8259 §7). Texts that were cut in UTF-16, as JavaScript's
`"a nice 😀 day".slice(0, 8)`, end with one of them, which `JSON.stringify` and Python's `json.dumps` write as
`\\ud83d`. What a reader makes of that is "unpredictable" (§8.2): msgspec and pydantic refuse all of it. So it is no
reason to refuse a message, and nothing to hand on: U+FFFD takes its place, as a browser does wherever it writes UTF-8.
"""

from __future__ import annotations

import re

__all__ = ["replace_lone"]

# Escapes from left to right: a pair; a surrogate that is none of one; any other, of which the backslash and one more
# byte are enough, so that what follows an escaped backslash is no escape.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def replace_lone(json: bytes) -> bytes:
    """`json` with U+FFFD for each surrogate without its other half. It takes time: for what could not be decoded."""
    return _ESCAPE.sub(_replacement, json)


def _replacement(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[1] else escape[0]
