"""What waits for a client that reads more slowly than it is written to, without I/O."""

from __future__ import annotations

from collections import deque

from ..config import SlowPolicy

__all__ = ["Backlog"]


class Backlog:
    """Chunks of whole frames, at most `budget` bytes of them.

    Over the budget `disconnect` refuses, `drop_oldest` makes room from the front, `keep_latest` keeps only what came
    last. A chunk holds everything that one channel delivered in one tick.
    """

    __slots__ = ("_budget", "_chunks", "_policy", "dropped", "size")

    def __init__(self, budget: int, policy: SlowPolicy) -> None:
        self._budget = budget
        self._policy = policy
        self._chunks: deque[bytes] = deque()
        # Bytes that wait.
        self.size = 0
        # Chunks thrown away so far.
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def push(self, chunk: bytes) -> bool:
        """Keep `chunk`; false if the policy is to disconnect instead."""
        if self._policy == "keep_latest":
            self._drop_all()
        elif self.size + len(chunk) > self._budget:
            if self._policy == "disconnect":
                return False
            while self._chunks and self.size + len(chunk) > self._budget:
                self.pop()
                self.dropped += 1
        self._chunks.append(chunk)
        self.size += len(chunk)
        return True

    def pop(self) -> bytes:
        """The oldest chunk. Raises IndexError if there is none."""
        chunk = self._chunks.popleft()
        self.size -= len(chunk)
        return chunk

    def _drop_all(self) -> None:
        self.dropped += len(self._chunks)
        self._chunks.clear()
        self.size = 0
