"""The commands of a worker, all that are issued in one turn of the event loop in one write."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from .errors import BrokerUnavailable
from .redis_link import Link, LinkOwner, pack

__all__ = ["OUTBOX_LIMIT", "Commands", "refuse"]

# Publications that wait for Redis, sent or not, in bytes; beyond, new ones are refused.
OUTBOX_LIMIT = 16 * 1024 * 1024

UNREACHABLE = "not sent: Redis cannot be reached"
FULL = "not sent: too many publications wait for Redis"
BROKEN = "the connection to Redis broke; the publication may have been sent or not"
LATE = "Redis did not answer in time; the publication may have been sent or not"


def refuse(future: asyncio.Future[None], reason: str) -> None:
    """Fail a future with BrokerUnavailable; one that nobody waits for is not worth asyncio's warning."""
    if not future.done():
        future.set_exception(BrokerUnavailable(reason))
        future.exception()


class Commands(LinkOwner):
    """Commands and their replies, first in first out.

    What was not sent waits for the attempt to connect that is under way, but no longer than its deadline; while Redis
    is known to be away nothing is accepted. What was sent and not answered fails with the connection, because
    repeating it could apply it twice.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout
        # (packed, future, deadline): not sent, and sent but not answered. Both in order of deadline.
        self._outbox: deque[tuple[bytes, asyncio.Future[None], float]] = deque()
        self._inflight: deque[tuple[int, asyncio.Future[None], float]] = deque()
        self._bytes = 0
        self._flush_scheduled = False
        # Why nothing is accepted: set by `turn_away`, None again by `welcome`.
        self._refusal: str | None = None

    def execute(self, *command: Any) -> asyncio.Future[None]:
        """Send with the others of this turn. The future fails with BrokerUnavailable, soon after `timeout` at last."""
        packed = pack(command)
        # One that is larger than the limit goes alone.
        full = self._bytes and self._bytes + len(packed) > OUTBOX_LIMIT
        reason = self._refusal or (FULL if full else None)
        if reason is None:
            return self._append(packed)
        future: asyncio.Future[None] = self.loop.create_future()
        refuse(future, reason)
        return future

    def ask(self, *command: Any) -> asyncio.Future[None] | None:
        """`execute` for the heartbeat: past the limit, so that congestion does not look like silence.

        None while there is no connection.
        """
        if self.link is None:
            return None
        self.unanswered += 1
        return self._append(pack(command))

    def attach(self, link: Link) -> None:
        super().attach(link)
        self.welcome()
        self._flush()

    def turn_away(self, reason: str = UNREACHABLE) -> None:
        """Fail what was not sent, and what comes until Redis is known to be there."""
        self._refusal = reason
        while self._outbox:
            self._drop_unsent(reason)

    def welcome(self) -> None:
        """What comes may wait for the connection: Redis is there."""
        self._refusal = None

    def expire(self, now: float) -> None:
        """Fail what was past its deadline then."""
        for _, future, due in self._inflight:
            if due > now:
                break
            refuse(future, LATE)  # it stays in the queue: its reply must be paired off should it come
        while self._outbox and self._outbox[0][2] <= now:
            self._drop_unsent(UNREACHABLE)

    def on_reply(self, reply: Any) -> None:
        self.unanswered = 0
        size, future, _ = self._inflight.popleft()
        self._bytes -= size
        if future.done():
            return
        if isinstance(reply, Exception):
            refuse(future, f"Redis refused the publication: {reply}")
        else:
            future.set_result(None)

    def on_lost(self, cause: Exception | None) -> None:
        super().on_lost(cause)
        while self._inflight:
            size, future, _ = self._inflight.popleft()
            self._bytes -= size
            refuse(future, BROKEN)

    def _append(self, packed: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self.loop.create_future()
        self._bytes += len(packed)
        self._outbox.append((packed, future, self.loop.time() + self._timeout))
        if self.link is not None and not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self.link is None or not self._outbox:
            return
        batch = list(self._outbox)
        self._outbox.clear()
        self._inflight.extend((len(packed), future, due) for packed, future, due in batch)
        self.link.send(b"".join([packed for packed, _, _ in batch]))

    def _drop_unsent(self, reason: str) -> None:
        packed, future, _ = self._outbox.popleft()
        self._bytes -= len(packed)
        refuse(future, reason)
