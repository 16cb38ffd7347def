"""Fossil deltas: a publication as its difference from the one before.

    <length of the target>\\n
    <n>@<offset>,       copy n bytes of the source
    <n>:<n bytes>       these bytes
    <checksum>;         of the target: the sum of its big-endian 32-bit words, the last one filled up with zeros

Numbers are in base 64 with the digits of `_DIGITS`, most significant first. The decoder goes from left to right, so
any sequence of commands that gives the target is a good delta; the client checks length and checksum.

How copies are found: what source and target have in common at both ends is compared first, which for most edits of a
JSON document is nearly everything. What is left of the target is looked up, `BLOCK` bytes at each place, among the
source's blocks; a hit is made as long as it can be in both directions. Of the many places that a block like `,"name":`
has in the source those next to where the last copy ended are tried: a document is edited rather than shuffled. Both
the table and the work have a bound, and in a stretch without hits the steps grow, so that the time is linear with a
small factor; what is not found by that costs bytes, never correctness.

In a client that speaks JSON the delta travels in a JSON string, so it must be UTF-8. With `text` every command begins
and ends between characters of the target: a copy that ends within one (é and è begin with the same byte) would leave
half a character for the literal that follows.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect
from collections.abc import Sequence
from typing import Literal

__all__ = ["apply", "create"]

_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}

# A copy costs five bytes or so: shorter blocks would find little that pays.
BLOCK = 8
MAX_BLOCKS = 8192
MAX_COPIES = 2048
# Lookups without a hit until the steps grow by one byte.
PATIENCE = 256
# After a copy the source goes on, changed a little: so many lookups are made in so many bytes, at every place of them.
NEAR_LOOKUPS = 64
NEAR = 256


def create(source: bytes, target: bytes, *, text: bool) -> bytes:
    """The delta that makes `target` of `source`; UTF-8 if `text` and if `target` is.

    It may be longer than the target, so it is for the caller to choose.
    """
    writer = _Writer(target, text)
    shortest = min(len(source), len(target))
    prefix = _run(source, 0, target, 0, shortest)
    writer.copy(0, prefix, 0)
    prefix = writer.end
    suffix = _run_back(source, len(source), target, len(target), shortest - prefix)
    _copy_between(writer, source, prefix, len(target) - suffix)
    writer.copy(len(target) - suffix, len(target), len(source) - suffix)
    return writer.finish()


def apply(source: bytes, delta: bytes) -> bytes:
    """The target. Raises ValueError if `delta` is malformed or was made for another source."""
    size, end, at = _read(delta, 0)
    target, kind = bytearray(), b""
    _expect(end == b"\n")
    while kind != b";":
        number, kind, at = _read(delta, at)
        if kind == b"@":
            offset, end, at = _read(delta, at)
            _expect(end == b"," and offset + number <= len(source))
            target += source[offset : offset + number]
        elif kind == b":":
            target += delta[at : at + number]
            at += number
        _expect(kind in b"@:;" and len(target) <= size)
    _expect(len(target) == size and at == len(delta))
    if number != _checksum(target):
        raise ValueError("the delta is for another source: wrong checksum")
    return bytes(target)


# Reading

_NUMBER = re.compile(rb"([0-9A-Z_a-z~]{1,6})([\n@,:;])")


def _expect(condition: bool) -> None:
    if not condition:
        raise ValueError("the delta is malformed")


def _read(delta: bytes, at: int) -> tuple[int, bytes, int]:
    """The number at `at`, the byte that ends it, and where that has ended."""
    found = _NUMBER.match(delta, at)
    if found is None:
        raise ValueError("the delta is malformed")
    value = 0
    for digit in found[1]:
        value = value << 6 | _VALUES[digit]
    return value, found[2], found.end()


# Writing


def _number(value: int) -> bytes:
    digits = bytearray((_DIGITS[value & 63],))
    while value := value >> 6:
        digits.append(_DIGITS[value & 63])
    digits.reverse()
    return bytes(digits)


def _checksum(target: bytes | bytearray) -> int:
    words = -(-len(target) // 4)
    total: int = sum(struct.unpack(f">{words}I", target.ljust(words * 4, b"\0")))
    return total & 0xFFFFFFFF


class _Writer:
    """The commands of a delta; everything that is not copied becomes literal."""

    def __init__(self, target: bytes, text: bool) -> None:
        self.target = target
        self._text = text and not target.isascii()
        self._parts = [_number(len(target)), b"\n"]
        # How far the target is copied or settled as literal; what follows, up to the next copy, is literal.
        self.end = 0
        # Source offset less target offset of the last copy.
        self.shift = 0
        self.copies = 0

    def copy(self, start: int, end: int, offset: int) -> bool:
        """Copy target[start:end] from the source at `offset`, less half characters, if that pays."""
        first, last = start, end
        if self._text:
            first, last = self._boundary(start, 1), self._boundary(end, -1)
        command = b"%b@%b," % (_number(max(last - first, 0)), _number(offset + first - start))
        # Between literals a copy costs the head of the second one too.
        if last - first <= len(command) + 2 * (first > self.end):
            return False
        self._literal(first)
        self._parts.append(command)
        self.end, self.shift = last, offset - start
        self.copies += 1
        return True

    def finish(self) -> bytes:
        self._literal(len(self.target))
        self._parts += (_number(_checksum(self.target)), b";")
        return b"".join(self._parts)

    def _literal(self, end: int) -> None:
        if end > self.end:
            self._parts += (_number(end - self.end), b":", self.target[self.end : end])

    def _boundary(self, at: int, step: Literal[1, -1]) -> int:
        """The next place between characters: no continuation byte follows it, of which a character has up to three."""
        for _ in range(3):
            if 0 < at < len(self.target) and self.target[at] & 0xC0 == 0x80:
                at += step
        return at


# Finding


def _copy_between(writer: _Writer, source: bytes, start: int, end: int) -> None:
    """Find copies for target[start:end]."""
    target = writer.target
    if end - start < BLOCK:
        return
    blocks, at, misses = _blocks(source), start, 0
    while at + BLOCK <= end and writer.copies < MAX_COPIES:
        block = target[at : at + BLOCK]
        places = _next_to(blocks.get(block, ()), at + writer.shift)
        if misses < NEAR_LOOKUPS:
            place = source.find(block, writer.end + writer.shift, writer.end + writer.shift + NEAR)
            places = (place, *places) if place >= 0 else places
        if places and writer.copy(*_longest(writer, source, at, end, places)):
            at, misses = writer.end, 0
        else:
            misses += 1
            at += 1 + misses // PATIENCE


def _blocks(source: bytes) -> dict[bytes, list[int]]:
    """Where the source has which blocks, in ascending order; in a large source not every block."""
    blocks: dict[bytes, list[int]] = {}
    for place in range(0, len(source) - BLOCK + 1, max(BLOCK, len(source) // MAX_BLOCKS)):
        blocks.setdefault(source[place : place + BLOCK], []).append(place)
    return blocks


def _next_to(places: Sequence[int], expected: int) -> Sequence[int]:
    """The ones before and after `expected`."""
    middle = bisect(places, expected)
    return places[max(middle - 1, 0) : middle + 1]


def _longest(writer: _Writer, source: bytes, at: int, end: int, places: Sequence[int]) -> tuple[int, int, int]:
    """The longest copy around target[at] from one of `places`: (start, end, offset)."""
    longest = (0, 0, 0)
    for place in places:
        before = _run_back(source, place, writer.target, at, min(place, at - writer.end))
        after = _run(source, place, writer.target, at, min(len(source) - place, end - at))
        longest = max(longest, (before + after, at - before, place - before))
    size, start, offset = longest
    return start, start + size, offset


def _run(left: bytes, i: int, right: bytes, j: int, limit: int) -> int:
    """How many bytes left[i:] and right[j:] have in common at their beginning, at most `limit`."""
    size, step = 0, 32
    while size < limit:
        step = min(step, limit - size)
        one, other = left[i + size : i + size + step], right[j + size : j + size + step]
        if one != other:
            return size + step - _unequal(one, other, "big")
        size += step
        step *= 2
    return size


def _run_back(left: bytes, i: int, right: bytes, j: int, limit: int) -> int:
    """How many bytes left[:i] and right[:j] have in common at their end, at most `limit`."""
    size, step = 0, 32
    while size < limit:
        step = min(step, limit - size)
        one, other = left[i - size - step : i - size], right[j - size - step : j - size]
        if one != other:
            return size + step - _unequal(one, other, "little")
        size += step
        step *= 2
    return size


def _unequal(one: bytes, other: bytes, order: Literal["big", "little"]) -> int:
    """The number of bytes from the first that differ on, or up to the last: an integer drops its leading zeros."""
    difference = int.from_bytes(one, order) ^ int.from_bytes(other, order)
    return (difference.bit_length() + 7) // 8
