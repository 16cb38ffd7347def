"""Functions of the application that get what is published in typed channels.

A worker hears a whole namespace then, whoever listens in it. For `once` all workers hear a message and each asks Redis
for it by its place in the history; who asks first, handles it. A worker that dies with it takes it along.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..broker import Broker, Overhearing
from ..errors import BrokerUnavailable, ConfigError
from ..namespaces import PRIVATE
from ..protocol import envelope
from ..protocol.forms import as_json
from ..types import Publication
from .dependencies import Event, Function
from .model import complaint
from .rules import ChannelRules

if TYPE_CHECKING:
    from .hub import TypedHub

__all__ = ["Consumer", "Crew", "overhearing"]

log: logging.Logger = logging.getLogger("hub.typed")

# Messages that wait for one function; beyond, the newest are dropped.
BACKLOG = 1000
# Seconds for which it is remembered who handles a message. Who waits behind a function that runs for long asks for it
# ahead of its turn, after a third of them at least and two thirds at most.
CLAIM = 300.0
# Seconds that functions have to come to their end when the hub stops.
LAST_WORDS = 5.0
# And then to clean up; what runs in a thread cannot be stopped.
CLEANUP = 1.0


@dataclass(frozen=True, slots=True)
class Consumer:
    """A function that gets the messages of a channel."""

    rules: ChannelRules[Any]
    function: Function
    once: bool

    @property
    def name(self) -> str:
        """The same in every worker."""
        return f"{self.function.module}.{self.function.name}"


def overhearing(broker: Broker) -> Overhearing:
    """Raises ConfigError for one that hears single channels only."""
    if not isinstance(broker, Overhearing):
        raise ConfigError(f"on_message needs a broker with `listen` and `claim`; {broker.name} has none")
    return broker


@dataclass(slots=True, eq=False)
class _Work:
    """A message that waits for its turn."""

    channel: str
    publication: Publication
    # It was there at the last look.
    known: bool = False
    # Whether it is ours; None unless that was asked ahead of its turn.
    claim: asyncio.Future[bool] | None = None

    @property
    def claimed(self) -> bool:
        claim = self.claim
        return claim is not None and claim.done() and claim.exception() is None and claim.result()


class _Worker:
    """One function at work in one worker: a queue and a task."""

    def __init__(self, hub: TypedHub, broker: Overhearing, consumer: Consumer) -> None:
        self._hub = hub
        self._broker = broker
        self._rules, self._function = consumer.rules, consumer.function
        self._name, self._once = consumer.name, consumer.once
        self._waiting: deque[_Work] = deque()
        self._wake = asyncio.Event()
        self._ending = False
        # The next look at those that wait.
        self._look: asyncio.TimerHandle | None = None
        if self._once:
            self._claim_waiting()
        self.task: asyncio.Task[None] = asyncio.create_task(self._run(), name=f"hub on_message {self._function.name}")

    def take(self, channel: str, publication: Publication) -> None:
        """Handle it when its turn has come, if the channel is one of these."""
        if self._rules.pattern.parse(channel.removeprefix(PRIVATE)) is None:
            return
        if len(self._waiting) >= BACKLOG:
            self._miss(channel, f"more than {BACKLOG} others wait")
            return
        self._waiting.append(_Work(channel, publication))
        self._wake.set()

    def end(self) -> None:
        """Begin nothing more."""
        self._ending = True
        self._wake.set()
        if self._look is not None:
            self._look.cancel()
        for work in self._waiting:
            if work.claimed:  # so nobody else handles it
                self._miss(work.channel, "the worker has stopped meanwhile")

    def _claim_waiting(self) -> None:
        """When the turn of these comes, the claims of others may have ended: they would be handled twice."""
        for work in self._waiting:
            if work.known and work.claim is None and work.publication.offset:
                work.claim = self._ask(work)
            work.known = True
        self._look = asyncio.get_running_loop().call_later(CLAIM / 3, self._claim_waiting)

    async def _next(self) -> _Work | None:
        while not (self._waiting or self._ending):
            self._wake.clear()
            await self._wake.wait()
        return None if self._ending else self._waiting.popleft()

    async def _run(self) -> None:
        while (work := await self._next()) is not None:
            channel = work.channel
            try:
                await self._handle(work)
            except asyncio.CancelledError:
                self._miss(channel, "the worker has stopped meanwhile")
                raise
            except BrokerUnavailable as error:
                self._miss(channel, str(error))
            except Exception:
                log.exception("unexpected fault in %s for a message in %r", self._function.name, channel)
                self._miss(channel, "it raised an exception")

    async def _handle(self, work: _Work) -> None:
        if self._once and not await self._claim(work):
            return
        channel, publication = work.channel, work.publication
        try:
            message = self._rules.model.read(as_json(publication))
        except ValidationError as error:
            self._miss(channel, complaint(error))
            return
        await self._function.call(self._scope(), self._rules.parameters(channel), Event(channel=channel), message)

    async def _claim(self, work: _Work) -> bool:
        """Whether this worker is the one that handles it."""
        if not work.publication.offset:
            self._miss(
                work.channel, "it was published with skip_history, so that once=True does not know it from others"
            )
            return False
        return await (work.claim or self._ask(work))

    def _ask(self, work: _Work) -> asyncio.Future[bool]:
        key = f"{self._name}:{work.publication.epoch}:{work.publication.offset}:{work.channel}"
        return self._broker.claim(key, CLAIM)

    def _scope(self) -> dict[str, Any]:
        """In place of a handshake."""
        scope = {"type": "websocket", "path": "", "query_string": b"", "headers": []}
        return {**scope, "app": self._hub.application}

    def _miss(self, channel: str, reason: str) -> None:
        self._hub.unhandled.add(last=f"{self._function.name} in {channel!r}: {reason}")


class Crew:
    """All functions at work in one worker."""

    def __init__(self, hub: TypedHub, consumers: Iterable[tuple[str, Consumer]]) -> None:
        """Each with its namespace."""
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._hub = hub
        broker = overhearing(hub.broker)
        self._workers: dict[str, list[_Worker]] = {}
        for namespace, consumer in consumers:
            self._workers.setdefault(namespace, []).append(_Worker(hub, broker, consumer))
        for namespace in self._workers:
            for prefix in (f"{namespace}:", f"{PRIVATE}{namespace}:"):
                broker.listen(prefix, self._hear)

    def _hear(self, channel: str, payload: bytes) -> None:
        try:
            heard = envelope.decode(payload)
        except ValueError:
            self._hub.malformed.add(last=repr(channel))
            return
        if isinstance(heard, Publication):
            for worker in self._workers[channel.removeprefix(PRIVATE).partition(":")[0]]:
                worker.take(channel, heard)

    async def stop(self) -> None:
        """Let functions that run come to their end, for a while."""
        tasks = [worker.task for workers in self._workers.values() for worker in workers]
        if self.loop is not asyncio.get_running_loop():
            return  # they have ended with theirs
        for workers in self._workers.values():
            for worker in workers:
                worker.end()
        await asyncio.wait(tasks, timeout=LAST_WORDS)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=CLEANUP)
