"""What waits for a client that reads more slowly than it is written to, without I/O."""

from __future__ import annotations

from collections import deque

from ..config import SlowPolicy
from .frames import boundaries

__all__ = ["Backlog"]


class Backlog:
    """Chunks of whole frames, at most `budget` bytes of them.

    A chunk is what one channel delivered in one tick. Over the budget `disconnect` refuses, `drop_oldest` makes room
    from the front, `keep_latest` keeps only the frame that came last. The newest frame is never dropped.
    """

    __slots__ = ("_budget", "_chunks", "_policy", "dropped", "size")

    def __init__(self, budget: int, policy: SlowPolicy) -> None:
        self._budget = budget if policy != "keep_latest" else 0
        self._policy = policy
        self._chunks: deque[bytes] = deque()
        # Bytes that wait.
        self.size: int = 0
        # Frames thrown away so far.
        self.dropped: int = 0

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def push(self, chunk: bytes) -> bool:
        """Keep `chunk`; false if the policy is to disconnect instead."""
        if self.size + len(chunk) > self._budget:
            if self._policy == "disconnect":
                return False
            chunk = self._newest(chunk)
            while self._chunks and self.size + len(chunk) > self._budget:
                self.dropped += sum(1 for _ in boundaries(self.pop()))
        self._chunks.append(chunk)
        self.size += len(chunk)
        return True

    def pop(self) -> bytes:
        """The oldest chunk. Raises IndexError if there is none."""
        chunk = self._chunks.popleft()
        self.size -= len(chunk)
        return chunk

    def _newest(self, chunk: bytes) -> bytes:
        """The last frames of `chunk` that fit, at least one."""
        last = len(chunk)
        for start, _, end in boundaries(chunk):
            if len(chunk) - start <= self._budget or end == last:
                return chunk[start:]
            self.dropped += 1
        return chunk
