"""A client that does what the SDKs do, and complains of what an application would not forgive.

It subscribes to recoverable channels, keeps its position, comes back with it after every loss of the connection and
after unsubscribe 2500, and writes everything into a ledger. What it hears of a channel forms *stretches*: in one, each
publication is the next. A stretch ends only when the hub says so (`recovered` is missing from the reply to a
recovery); whatever else breaks it is a violation.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from .centrifuge import PATH
from .lean_socket import HandshakeRefused, LeanSocket
from .ledger import Ledger, Place, follows

__all__ = ["FREEZE", "Checker", "Stretch", "all_reach", "behind"]

# Seconds. An SDK gives up a reply after 5 s, and a connection 10 s after a ping that did not come.
REPLY_TIMEOUT = 5.0
PING_GRACE = 10.0
# Before another attempt, between 0 and this, doubled each time.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
# How long a client takes nothing before it vanishes.
FREEZE = 2.0
# What a server may end a connection with and have its clients back: it was killed, restarts, or says so.
_COMES_BACK = frozenset({1001, 1006, 1012, 1013, *range(3000, 3500), *range(4000, 4500)})


# What the server says, as far as it matters here


class _Publication(Struct):
    data: str
    offset: int = 0
    epoch: str = ""


class _Error(Struct):
    code: int
    message: str
    temporary: bool = False


class _Unsubscribed(Struct):
    code: int
    reason: str


class _Push(Struct):
    channel: str = ""
    pub: _Publication | None = None
    unsubscribe: _Unsubscribed | None = None
    join: Raw = Raw()
    leave: Raw = Raw()


class _Connected(Struct):
    client: str
    ping: int = 0
    pong: bool = False


class _Subscribed(Struct):
    recoverable: bool = False
    recovered: bool = False
    was_recovering: bool = False
    epoch: str = ""
    offset: int = 0
    publications: list[_Publication] = []


class _Message(Struct, forbid_unknown_fields=True):
    id: int = 0
    error: _Error | None = None
    push: _Push | None = None
    connect: _Connected | None = None
    subscribe: _Subscribed | None = None


_decoder = msgspec.json.Decoder(_Message)


@dataclass(slots=True)
class Stretch:
    """What was heard of a channel without a break."""

    epoch: str
    # Offset of the publication before the first, and of the last.
    start: int
    last: int
    # Offsets below `last` that were not heard: lost unless they come late.
    missing: set[int] = field(default_factory=set)


class Checker:
    """One such client, from its creation until `leave`."""

    def __init__(
        self,
        name: str,
        port: int,
        channels: list[str],
        ledger: Ledger,
        rng: random.Random,
        look_every: float = 0.25,
    ) -> None:
        """It looks for overdue replies and pings so often; thousands in one process should not."""
        self.name = name
        self._port = port
        self._ledger = ledger
        self._rng = rng
        self._look_every = look_every
        # By channel: the stretches, the last of which is the present one; empty before the first reply.
        self.stretches: dict[str, list[Stretch]] = {channel: [] for channel in channels}
        # What happened: "connected", "recovered", "told" (not recovered), "insufficient" (unsubscribe 2500), closes.
        self.events: Counter[str] = Counter()
        # When connections ended and with which code; how long it then took to be in all channels again.
        self.closes: list[tuple[float, int]] = []
        self.absences: list[float] = []
        # When handshakes were answered with another status than 101.
        self.refusals: list[tuple[float, int]] = []
        # Since when it is not; 0 if it is.
        self._gone_at = 0.0
        # Of the present connection: subscribed channels; the channel and the time of each command without reply.
        self.live: set[str] = set()
        self._waiting: dict[int, tuple[str, float]] = {}
        self._ids = 0
        self._socket: LeanSocket | None = None
        # The one that it said goodbye to.
        self._closing: LeanSocket | None = None
        self._ping = 25.0
        self._heard_at = 0.0
        # Failed attempts in a row, of the connection and of each channel.
        self._attempts: Counter[str] = Counter()
        self._task = asyncio.create_task(self._run(), name=f"checker {name}")

    def __repr__(self) -> str:
        positions = {channel: stretches[-1] for channel, stretches in self.stretches.items() if stretches}
        return f"<Checker {self.name} {dict(self.events)} {positions}>"

    @property
    def ready(self) -> bool:
        """Whether it is subscribed to all its channels."""
        return self._socket is not None and len(self.live) == len(self.stretches)

    def at(self, channel: str) -> Place | None:
        """The position that it would recover from."""
        stretches = self.stretches[channel]
        return Place(stretches[-1].epoch, stretches[-1].last) if stretches else None

    def restart(self, how: Literal["abort", "close", "freeze"] = "abort") -> None:
        """Lose the connection in one of these ways, and come back."""
        if self._socket is None:
            return
        if how == "abort":
            self._socket.abort()
        elif how == "freeze":
            self._socket.freeze(FREEZE)
        else:
            self._closing = self._socket
            self._socket.close()

    async def leave(self) -> None:
        """Go, and count what is still missing."""
        self._task.cancel()
        results = await asyncio.gather(self._task, return_exceptions=True)
        if not isinstance(results[0], asyncio.CancelledError):
            self._complain("client failed", repr(results[0]))
        for channel, stretches in self.stretches.items():
            for stretch in stretches:
                if stretch.missing:
                    self._complain("lost", f"{channel} {sorted(stretch.missing)[:5]}", len(stretch.missing))

    # Connecting

    async def _run(self) -> None:
        while True:
            try:
                await self._session()
            except HandshakeRefused as error:
                self.events[f"refused {error.status}"] += 1
                self.refusals.append((time.monotonic(), error.status))
            except OSError as error:  # TimeoutError too
                self.events[f"no connection: {type(error).__name__}"] += 1
            finally:
                if self._socket is not None:
                    self._socket.abort()
                self._socket = None
                self.live.clear()
                self._waiting.clear()
            await self._pause("")

    async def _session(self) -> None:
        """One connection, until its end."""
        async with asyncio.timeout(REPLY_TIMEOUT):
            self._socket = await LeanSocket.open(self._port, PATH, self._on_frame)
        self._heard_at = time.monotonic()
        # As the JavaScript SDK does: everything at once, before the reply to `connect`.
        commands = [self._command("", "connect", {})]
        commands += [self._subscribe(channel) for channel in self.stretches]
        self._socket.send(b"\n".join(commands))
        while not self._socket.ended.done() and not self._is_overdue():
            await asyncio.wait((self._socket.ended,), timeout=self._look_every)
        if self._socket.ended.done():
            self._on_end(*self._socket.ended.result())

    def _is_overdue(self) -> bool:
        now = time.monotonic()
        if any(now - sent > REPLY_TIMEOUT for _, sent in self._waiting.values()):
            self.events["no reply"] += 1
            return True
        if now - self._heard_at > self._ping + PING_GRACE:
            self.events["no ping"] += 1
            return True
        return False

    def _on_end(self, code: int, reason: str) -> None:
        self.events[f"closed {code}"] += 1
        self.closes.append((time.monotonic(), code))
        self._gone_at = self._gone_at or time.monotonic()
        if code not in _COMES_BACK and self._socket is not self._closing:
            self._complain("turned away", f"closed with {code} {reason!r}")

    async def _pause(self, what: str) -> None:
        """Full jitter, so that thousands do not come back at once."""
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._attempts[what], 10))
        self._attempts[what] += 1
        await asyncio.sleep(self._rng.uniform(0, longest))

    # Commands

    def _command(self, channel: str, name: str, fields: object) -> bytes:
        self._ids += 1
        self._waiting[self._ids] = (channel, time.monotonic())
        return msgspec.json.encode({"id": self._ids, name: fields})

    def _subscribe(self, channel: str) -> bytes:
        position = self.at(channel)
        fields: dict[str, object] = {"channel": channel, "flag": 1}
        if position is not None:
            fields |= {"recover": True, "epoch": position.epoch, "offset": position.offset}
        return self._command(channel, "subscribe", fields)

    async def _subscribe_again(self, channel: str, socket: LeanSocket) -> None:
        await self._pause(channel)
        if self._socket is socket and channel not in self.live and not socket.ended.done():
            socket.send(self._subscribe(channel))

    def _later(self, channel: str) -> None:
        """Subscribe again on this connection, if it lives until then."""
        assert self._socket is not None
        task = asyncio.create_task(self._subscribe_again(channel, self._socket))
        self._socket.ended.add_done_callback(lambda _: task.cancel())

    # What comes

    def _on_frame(self, frame: bytes) -> None:
        self._heard_at = time.monotonic()
        for line in frame.split(b"\n"):
            try:
                message = _decoder.decode(line)
            except msgspec.MsgspecError as error:
                self._complain("malformed", f"{error}: {line[:200]!r}")
                continue
            if message.push is not None:
                self._on_push(message.push)
            elif message.id:
                self._on_reply(message)
            elif self._socket is not None:
                self._socket.send(b"{}")

    def _on_reply(self, message: _Message) -> None:
        channel, _ = self._waiting.pop(message.id, (None, 0.0))
        if channel is None:
            self._complain("reply to nothing", repr(message))
        elif message.error is not None:
            self._on_error(channel, message.error)
        elif message.connect is not None:
            self.events["connected"] += 1
            self._ping = message.connect.ping or 25.0
        elif message.subscribe is not None:
            self._on_subscribed(channel, message.subscribe)

    def _on_error(self, channel: str, error: _Error) -> None:
        self.events[f"error {error.code}"] += 1
        if not error.temporary:
            self._complain("turned away", f"{channel}: error {error.code} {error.message!r}")
        elif channel:
            self._later(channel)
        else:
            self.restart()

    def _on_subscribed(self, channel: str, result: _Subscribed) -> None:
        self._attempts[channel] = self._attempts[""] = 0
        self.live.add(channel)
        if self._gone_at and self.ready:
            self.absences.append(time.monotonic() - self._gone_at)
            self._gone_at = 0.0
        position = self.at(channel)
        if not result.recoverable:
            self._complain("turned away", f"{channel} is not recoverable")
        if position is not None and not result.was_recovering:
            self._complain("recovery ignored", f"{channel} from {position}")
        if position is not None and result.recovered:
            self._on_recovered(channel, position, result)
        else:
            self.events["told"] += position is not None
            self._ledger.tell(self.name, channel)
            self.stretches[channel].append(Stretch(result.epoch, result.offset, result.offset))
        for publication in result.publications:
            self._hear(channel, publication)

    def _on_recovered(self, channel: str, position: Place, result: _Subscribed) -> None:
        self.events["recovered"] += 1
        if (result.epoch, result.offset) != position:
            self._complain("moved", f"{channel}: recovered from {position}, answered {result.epoch, result.offset}")

    def _on_push(self, push: _Push) -> None:
        if push.channel not in self.live:
            if push.pub is not None:
                self._complain("not subscribed", f"{push.channel}: {push.pub}")
        elif push.pub is not None:
            self._hear(push.channel, push.pub)
        elif push.unsubscribe is not None:
            self._on_unsubscribed(push.channel, push.unsubscribe)

    def _on_unsubscribed(self, channel: str, push: _Unsubscribed) -> None:
        self.live.discard(channel)
        self.events[f"unsubscribed {push.code}"] += 1
        if push.code == 2500:
            self._later(channel)
        else:
            self._complain("turned away", f"{channel}: unsubscribed with {push.code} {push.reason!r}")

    def _hear(self, channel: str, publication: _Publication) -> None:
        stretch = self.stretches[channel][-1]
        if publication.epoch and publication.epoch != stretch.epoch:
            self._complain("silent change", f"{channel}: from {stretch.epoch, stretch.last} to {publication}")
        self._ledger.hear(self.name, channel, Place(stretch.epoch, publication.offset), publication.data)
        if publication.offset > stretch.last:
            if not follows(publication.offset, stretch.last):  # what a leap leaves out `Fork` finds
                stretch.missing.update(range(stretch.last + 1, publication.offset))
            stretch.last = publication.offset
        elif publication.offset in stretch.missing:
            stretch.missing.remove(publication.offset)
            self._complain("out of order", f"{channel}: {publication} after {stretch.last}")
        else:
            self._complain("duplicated", f"{channel}: {publication} after {stretch.last}")

    def _complain(self, kind: str, detail: str, count: int = 1) -> None:
        self._ledger.violation(kind, f"{self.name}: {detail}", count)


def behind(checkers: list[Checker], tops: dict[str, Place]) -> Iterator[str]:
    """Who is not at the end of which channel."""
    for checker in checkers:
        for channel in checker.stretches:
            if (position := checker.at(channel)) != tops[channel]:
                yield f"{checker.name} is at {position} of {channel}, which ends at {tops[channel]}"


async def all_reach(checkers: list[Checker], tops: dict[str, Place], timeout: float) -> bool:
    """Wait until every checker has everything up to the end of its channels; whether they have in time."""
    deadline = time.monotonic() + timeout
    while any(behind(checkers, tops)):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
