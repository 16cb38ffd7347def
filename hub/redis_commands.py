"""The commands of a worker, all that are issued in one turn of the event loop in one write."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from .errors import BrokerUnavailable
from .redis_link import Link, LinkOwner, pack
from .redis_scripts import Script

__all__ = ["OUTBOX_LIMIT", "Argument", "Commands", "Parse", "refuse"]

# Publications that wait for Redis, sent or not, in bytes; beyond, new ones are refused.
OUTBOX_LIMIT = 16 * 1024 * 1024

UNREACHABLE = "not sent: Redis cannot be reached"
FULL = "not sent: too many publications wait for Redis"
BROKEN = "the connection to Redis broke; the publication may have been sent or not"
LATE = "Redis did not answer in time; the publication may have been sent or not"


# What hiredis can pack.
Argument = bytes | str | int
# Makes the result of a reply. It is no other task and no other future, because every publication would pay for it.
Parse = Callable[[Any], Any]


class _Command(NamedTuple):
    """Issued and not answered yet."""

    packed: bytes
    future: asyncio.Future[Any]
    deadline: float
    # The same with the script's source, for a server that does not know its digest.
    in_full: tuple[Any, ...] | None
    # What the reply means; None: it is the result as it comes.
    parse: Parse | None


def refuse(future: asyncio.Future[Any], reason: str) -> None:
    """Fail a future with BrokerUnavailable; one that nobody waits for is not worth asyncio's warning."""
    if not future.done():
        future.set_exception(BrokerUnavailable(reason))
        future.exception()


def _settle(command: _Command, reply: Any) -> None:
    """Answer a command, if anybody still waits; what cannot be understood is its failure and nobody else's."""
    if command.future.done():
        return
    try:
        command.future.set_result(reply if command.parse is None else command.parse(reply))
    except Exception as error:
        refuse(command.future, f"Redis answered {reply!r:.100}, which means nothing: {error!r}")


class Commands(LinkOwner):
    """Commands and their replies, first in first out.

    What was not sent waits for the attempt to connect that is under way, but no longer than its deadline; while Redis
    is known to be away nothing is accepted. What was sent and not answered fails with the connection, because
    repeating it could apply it twice.

    Commands run in the order in which they were issued, scripts that the server has lost (SCRIPT FLUSH) included: what
    comes after waits until those are on their way again.
    """

    def __init__(self, timeout: float, scripts: Iterable[Script] = (), lineage_key: str = "") -> None:
        """Each server first of all gets the `scripts`, and its own lineage under `lineage_key`, if these are given."""
        super().__init__()
        self._timeout = timeout
        self._scripts = tuple(scripts)
        self._lineage_key = lineage_key
        # Not sent, and sent but not answered. Both in order of deadline.
        self._outbox: deque[_Command] = deque()
        self._inflight: deque[_Command] = deque()
        # Scripts that the server did not know and so did not run. They go again, ahead of what was not sent, once all
        # that is under way has come back.
        self._unknown: list[_Command] = []
        # Packed commands in all of these.
        self.bytes: int = 0
        self._flush_scheduled = False
        # The server has to be told its lineage, and has not taken it yet.
        self._nameless = False
        # Why nothing is accepted: set by `turn_away`, None again by `welcome`.
        self._refusal: str | None = None

    def execute(self, *command: Argument, parse: Parse | None = None) -> asyncio.Future[Any]:
        """Send with the others of this turn. The future has what `parse` makes of the reply (bytes, int, list or None).

        It fails with BrokerUnavailable if Redis refuses, or soon after `timeout` at last.
        """
        return self._issue(command, None, parse)

    def call(
        self, script: Script, keys: Sequence[Argument], args: Sequence[Argument], parse: Parse | None = None
    ) -> asyncio.Future[Any]:
        """Run a script, by its digest; in full if the server does not have it (a new one, or after SCRIPT FLUSH)."""
        rest = (len(keys), *keys, *args)
        return self._issue((b"EVALSHA", script.sha, *rest), (b"EVAL", script.source, *rest), parse)

    def _issue(
        self, command: tuple[Any, ...], in_full: tuple[Any, ...] | None, parse: Parse | None
    ) -> asyncio.Future[Any]:
        packed = pack(command)
        # One that is larger than the limit goes alone.
        full = self.bytes and self.bytes + len(packed) > OUTBOX_LIMIT
        reason = self._refusal or (FULL if full else None)
        if reason is None:
            return self._append(packed, self.loop.create_future(), in_full, parse)
        future: asyncio.Future[Any] = self.loop.create_future()
        refuse(future, reason)
        return future

    def ask(self, *command: Argument) -> asyncio.Future[Any] | None:
        """`execute` for the heartbeat: past the limit, so that congestion does not look like silence.

        None while there is no connection.
        """
        if self.link is None:
            return None
        self.unanswered += 1
        return self._append(pack(command), self.loop.create_future())

    def attach(self, link: Link) -> None:
        super().attach(link)
        self.welcome()
        self._load_scripts(link)
        self.name_server()
        self._flush()

    def turn_away(self, reason: str = UNREACHABLE) -> None:
        """Fail what was not sent, and what comes until Redis is known to be there."""
        self._refusal = reason
        while self._outbox:
            self._refuse_unsent(self._outbox.popleft(), reason)

    def welcome(self) -> None:
        """What comes may wait for the connection: Redis is there."""
        self._refusal = None

    def expire(self, now: float) -> None:
        """Fail what was past its deadline then."""
        for command in self._inflight:
            if command.deadline > now:
                break
            refuse(command.future, LATE)  # it stays in the queue: its reply must be paired off should it come
        while self._unknown and self._unknown[0].deadline <= now:
            self._refuse_unsent(self._unknown.pop(0), UNREACHABLE)
            self._schedule_flush()  # of what has waited behind it
        while self._outbox and self._outbox[0].deadline <= now:
            self._refuse_unsent(self._outbox.popleft(), UNREACHABLE)

    def on_reply(self, reply: Any) -> None:
        self.unanswered: int = 0
        command = self._inflight.popleft()
        self.bytes -= len(command.packed)
        if not isinstance(reply, Exception):
            _settle(command, reply)
        elif command.in_full is not None and str(reply).startswith("NOSCRIPT"):
            packed = pack(command.in_full)
            self.bytes += len(packed)
            self._unknown.append(command._replace(packed=packed, in_full=None))
        else:
            refuse(command.future, f"Redis refused: {reply}")
        if self._unknown and not self._inflight:
            self._repeat_unknown()
            self._schedule_flush()

    def on_lost(self, cause: Exception | None) -> None:
        super().on_lost(cause)
        while self._inflight:
            command = self._inflight.popleft()
            self.bytes -= len(command.packed)
            refuse(command.future, BROKEN)
        self._repeat_unknown()
        if self._refusal is not None:
            self.turn_away(self._refusal)

    def _append(
        self,
        packed: bytes,
        future: asyncio.Future[Any],
        in_full: tuple[Any, ...] | None = None,
        parse: Parse | None = None,
    ) -> asyncio.Future[Any]:
        self.bytes += len(packed)
        self._outbox.append(_Command(packed, future, self.loop.time() + self._timeout, in_full, parse))
        self._schedule_flush()
        return future

    def _load_scripts(self, link: Link) -> None:
        """Before anything else, because a script that is not known yet costs a round trip of everybody's."""
        for script in self._scripts:
            self._send_now(link, (b"SCRIPT", b"LOAD", script.source))

    def name_server(self) -> None:
        """Have it know its lineage, ahead of every publication: scripts compare (`lua/append.lua`)."""
        self._nameless = self.link is not None and self.link.server.heir and bool(self._lineage_key)

    def _naming(self) -> _Command:
        """With each write until it is taken: a server that refuses it now (NOREPLICAS) may take what comes next."""
        named = self.lineage
        packed = pack((b"SET", self._lineage_key, named))
        self.bytes += len(packed)
        return _Command(packed, self.loop.create_future(), 0, None, functools.partial(self._on_named, named))

    def _on_named(self, lineage: bytes, reply: Any) -> None:
        if lineage == self.lineage:
            self._nameless = False

    def _send_now(self, link: Link, command: tuple[Argument, ...]) -> None:
        packed = pack(command)
        self.bytes += len(packed)
        self._inflight.append(_Command(packed, self.loop.create_future(), 0, None, None))
        link.send(packed)

    def _repeat_unknown(self) -> None:
        self._outbox.extendleft(reversed(self._unknown))
        self._unknown.clear()

    def _schedule_flush(self) -> None:
        if self.link is not None and not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self.link is None or self._unknown or not self._outbox:
            return
        if self._nameless:
            self._outbox.appendleft(self._naming())
        batch = list(self._outbox)
        self._outbox.clear()
        self._inflight.extend(batch)
        self.link.send(b"".join([command.packed for command in batch]))

    def _refuse_unsent(self, command: _Command, reason: str) -> None:
        self.bytes -= len(command.packed)
        refuse(command.future, reason)
