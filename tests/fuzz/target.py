"""What the engine has to know of a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder with its invariants, and how it is fuzzed."""

    # Takes bytes from outside, says what it has seen, and fails an assertion where the decoder breaks a promise.
    run: Callable[[bytes], list[str]]
    # Where fuzzing begins, and what coverage cannot tell apart; replayed beside the corpus.
    seeds: tuple[bytes, ...] = ()
    # What random bytes would hardly hit upon.
    words: tuple[str | bytes, ...] = ()
    # Longest input in bytes.
    longest: int = 512
