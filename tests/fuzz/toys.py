"""Targets for the engine's own test."""

from __future__ import annotations

from .target import Target

__all__ = ["TARGETS"]


def good(data: bytes) -> list[str]:
    """Has something to find and nothing to fall over."""
    if data[:1] == b"h":
        return ["hub" if data[:3] == b"hub" else "h"]
    return []


def planted(data: bytes) -> list[str]:
    """A bug behind six bytes, each of which is one step further, and a length: random bytes would need years."""
    if data[:3] == b"hub":
        if data[3:6] == b"\x81\x80!":
            if len(data) > 20:
                raise AssertionError("the planted bug")
    return []


TARGETS = {"good": Target(good), "planted": Target(planted)}
