"""What a client gets later: replies that wait for Redis, and publications that wait for the reply to `connect`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from .protocol.commands import Command
from .protocol.deflate import pack
from .protocol.replies import reply
from .registry import KeepsAll

__all__ = ["EarlyWire", "PendingReplies", "PendingReply", "settle"]


class EarlyWire(KeepsAll):
    """Stands in for the wire until `connect` is answered: publications come after the reply."""

    __slots__ = ("frames", "write")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.write: Callable[[bytes], object] = self.frames.append


class PendingReply(NamedTuple):
    """The reply to `command`; it can be given once `future` is done."""

    command: Command
    future: asyncio.Future[Any]


class PendingReplies(list[PendingReply]):
    """In the order of their commands, which is the order in which Redis answers.

    What Redis answers in one go becomes due in one go: so it can be one write, and one callback of the event loop.
    """

    __slots__ = ()

    def add(self, pending: PendingReply, on_due: Callable[[list[PendingReply]], None]) -> None:
        """`on_due` gets it, with those behind it that are done too; it is the same for all of a client."""
        self.append(pending)
        if len(self) == 1:
            pending.future.add_done_callback(partial(self._on_done, on_due))

    def _on_done(self, on_due: Callable[[list[PendingReply]], None], _: asyncio.Future[Any]) -> None:
        count = next((at for at, pending in enumerate(self) if not pending.future.done()), len(self))
        due, self[:] = self[:count], self[count:]
        if self:
            self[0].future.add_done_callback(partial(self._on_done, on_due))
        on_due(due)


def settle(due: list[PendingReply], compression: int) -> tuple[bytes, list[tuple[Command, Exception]]]:
    """The replies to what Redis has taken, as one chunk for `Wire.write`, and the faults of the rest."""
    faults, replies = [], []
    for command, future in due:
        fault = future.exception()
        if isinstance(fault, Exception):
            faults.append((command, fault))
        elif command.id:
            replies.append(pack(reply(command.id, "publish"), compression))
    return b"".join(replies), faults
