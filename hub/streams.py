"""The positions of a worker's channels: read at first, kept by what arrives, and healed from the history.

Each channel has at most one read under way; all who need one wait for it together. So a thousand clients that come
back at once cost Redis one read a channel.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from .broker import Broker
from .errors import BrokerUnavailable
from .log import Throttled
from .protocol import envelope
from .protocol.forms import Event
from .protocol.stream import Filled, Recovery, Stream
from .registry import Channel, Registry
from .types import NOWHERE, HistoryOptions, HistoryPage, Membership, Publication, StreamPosition

__all__ = ["Streams"]

log: logging.Logger = logging.getLogger("hub.streams")

# Reads under way at once after a gap. All of ten thousands of channels would keep Redis busy for longer than anybody
# waits for an answer: publications would fail behind them, and most reads themselves, only to be made again.
READS_AT_ONCE = 500
# Seconds until a read that failed is tried again; sooner if the broker is back.
RETRY = 0.5
# Reads for one recovery; a busy channel may outrun what is remembered of it.
ATTEMPTS = 3
# Seconds between two looks at quiet channels, for a last publication that got lost.
CHECK_INTERVAL = 25.0
# Channels looked at in one go.
CHECK_BATCH = 500
# Publications read in one go.
READ_BATCH = 100
# Seconds that somebody waits for a feed that is back for his channel, and not for all of them yet.
PATIENCE = 5.0

AWAY = "the history cannot be read"


class Streams:
    """Owner of every channel's `stream`."""

    def __init__(self, broker: Broker, registry: Registry, emit: Callable[[Channel, Event], None], limit: int) -> None:
        """`emit` writes an event to the channel's subscribers; `limit` is the most that a client may recover."""
        self._broker = broker
        self._registry = registry
        self._emit = emit
        self._limit = limit
        self._reads: dict[Channel, asyncio.Task[None]] = {}
        # Channels to be read once more when their read has ended.
        self._again: set[Channel] = set()
        # Channels to be read when others have been; in order. Of a dict the first would be hard to find: a loop over it
        # begins with all that were taken out.
        self._due: OrderedDict[Channel, None] = OrderedDict()
        # Channels whose read has failed, until they are tried again.
        self._retries: dict[Channel, asyncio.TimerHandle] = {}
        self._checker: asyncio.Task[None] | None = None
        # Clear from a loss of the feed until all channels are heard again: a read in between proves nothing about what
        # the feed will bring.
        self._hearing = asyncio.Event()
        self._hearing.set()
        self.renewed: Throttled = Throttled(
            log,
            logging.ERROR,
            "%d channels go on in Redis without publications that were delivered: another server has taken its place, "
            "or its data were restored",
        )
        self.lost: Throttled = Throttled(log, logging.ERROR, "%d channels lost publications that cannot be recovered")
        # Found in histories, or said to be in them, and not the hub's.
        self.malformed: Throttled = Throttled(
            log, logging.ERROR, "%d publications of histories in Redis are not the hub's"
        )
        self.healed: int = 0

    # Lifecycle

    def start(self) -> None:
        self._hearing = asyncio.Event()
        self._hearing.set()
        self._checker = asyncio.create_task(self._check_for_ever(), name="hub stream positions")

    async def stop(self) -> None:
        tasks = [*self._reads.values(), *([self._checker] if self._checker else [])]
        self._checker = None
        for task in tasks:
            task.cancel()
        for retry in self._retries.values():
            retry.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A task that is cancelled before its first step does not tidy up.
        self._reads.clear()
        self._again.clear()
        self._due.clear()
        self._retries.clear()

    # Arrivals

    def arrive(self, channel: Channel, publication: Publication) -> None:
        """A publication with a position has come from the broker."""
        stream = channel.stream
        if stream is None:
            self._emit(channel, publication)
            return
        delivered = stream.arrive(publication, _now())
        if delivered is None:
            self.heal(channel)
            return
        for each in delivered:
            self._emit(channel, each)

    def heal(self, channel: Channel) -> None:
        """Read what may be missing; once more if a read is under way, which may have been too early."""
        if not self._hearing.is_set():
            return  # everything will be
        if channel in self._reads:
            self._again.add(channel)
        elif channel.stream is not None:
            self._read(channel)

    def doubt_all(self) -> None:
        """The feed is lost; until `heal_all` nothing that it brings is delivered."""
        self._hearing.clear()
        self._due.clear()
        now = _now()
        for channel in self._registry.channels.values():
            if channel.stream is not None:
                channel.stream.doubt(now)

    def heal_all(self, *, moved: bool = False) -> None:
        """After a gap in the feed; `moved` if it may come from another server now."""
        self._hearing.set()
        for channel in tuple(self._registry.channels.values()):
            if moved and channel.stream is not None:
                channel.stream.suspected = True
            if channel in self._reads:
                self._again.add(channel)
            else:
                self._due[channel] = None
        self._heal_due()

    def _heal_due(self) -> None:
        """Begin as many reads as may be under way; who comes for a channel has it read at once."""
        while self._due and len(self._reads) < READS_AT_ONCE:
            channel, _ = self._due.popitem(last=False)
            if channel.interest:
                self.heal(channel)

    def forget(self, name: str) -> None:
        """The history of a channel was removed."""
        channel = self._registry.channels.get(name)
        if channel is not None and channel.stream is not None:
            channel.stream.forget()

    # Positions

    async def locate(self, channel: Channel, options: HistoryOptions) -> Stream:
        """The stream of a channel, live. Raises BrokerUnavailable if the history cannot be read now."""
        stream = channel.stream
        if stream is None:
            stream = channel.stream = Stream(options, self._limit)
        while not stream.live:
            await self._until_hearing()
            await asyncio.shield(self._reads.get(channel) or self._read(channel))
            if channel not in self._reads and not stream.live:
                raise BrokerUnavailable(AWAY)
        return stream

    async def _until_hearing(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._hearing.wait()
        except TimeoutError:
            raise BrokerUnavailable(AWAY) from None

    async def recover(self, channel: Channel, options: HistoryOptions, since: StreamPosition) -> Recovery:
        """What a client missed that stood at `since`; true at the moment of the return. Raises BrokerUnavailable."""
        stream = await self._locate_at(since, channel, options)
        for _ in range(ATTEMPTS):
            recovery = stream.recover(since, self._limit, _now())
            if recovery is not None:
                return recovery
            await asyncio.shield(self._read(channel, self._limit))
            stream = await self.locate(channel, options)
        return Recovery(None)

    async def latest(self, channel: Channel, options: HistoryOptions, since: StreamPosition | None) -> Recovery:
        """The newest publication, unless the client has it already (`cache` mode)."""
        stream = await self._locate_at(since or NOWHERE, channel, options)
        if since is not None and since.offset == stream.offset and since.epoch in ("", stream.epoch):
            return Recovery([])
        if not stream.knows_newest(_now()):
            await asyncio.shield(self._read(channel, 1))
            stream = await self.locate(channel, options)
        newest = stream.newest(_now())
        return Recovery([newest] if newest is not None else None)

    async def _locate_at(self, since: StreamPosition, channel: Channel, options: HistoryOptions) -> Stream:
        """`locate`, and not behind `since`: a client may come from a worker that has heard more than this one."""
        before = channel.stream.reads if channel.stream is not None else 0
        stream = await self.locate(channel, options)
        if since.offset > stream.offset and since.epoch in ("", stream.epoch) and stream.reads == before:
            self.heal(channel)
            stream = await self.locate(channel, options)
        return stream

    # Reads

    def _read(self, channel: Channel, back: int = 0) -> asyncio.Task[None]:
        stream = channel.stream
        assert stream is not None
        self._due.pop(channel, None)
        work = self._fill(channel, stream, stream.begin(back))
        task = self._reads[channel] = asyncio.create_task(work, name="hub history read")
        return task

    async def _fill(self, channel: Channel, stream: Stream, since: int | None) -> None:
        filled = None
        try:
            filled = stream.fill(*await self._page(channel.name, stream, since), _now())
        except BrokerUnavailable as error:
            log.debug("history of %r: %s", channel.name, error)
        except Exception:
            log.exception("unexpected fault while reading the history of %r", channel.name)
        finally:
            self._reads.pop(channel, None)
            again = channel in self._again
            self._again.discard(channel)
        self._heal_due()
        if filled is None:
            self._retry_later(channel)
            return
        if filled.strays:
            self.malformed.add(filled.strays, last=repr(channel.name))
        self._deliver(channel, filled)
        if stream.gap or again:
            self.heal(channel)

    def _retry_later(self, channel: Channel) -> None:
        """Once, however many reads have failed: clients that come while the broker is away make one each."""
        if channel not in self._retries:
            self._retries[channel] = asyncio.get_running_loop().call_later(RETRY, self._retry, channel)

    def _retry(self, channel: Channel) -> None:
        del self._retries[channel]
        stream = channel.stream
        if channel not in self._reads and stream is not None and not stream.live:
            self._due[channel] = None
            self._heal_due()

    async def _page(self, name: str, stream: Stream, since: int | None) -> tuple[Sequence[Publication], StreamPosition]:
        """What the history has after `since`, and its end; its newest part if that is None, or if it is another one."""
        if since is not None:
            kept, top = await self._read_on(name, stream, since, reverse=False)
            if stream.is_contradicted(kept, top, _now()):
                await self._broker.renew_history(name, stream.epoch)
                self.renewed.add(last=repr(name))
            elif top.epoch == stream.epoch:
                return kept, top
        kept, top = await self._read_on(name, stream, None, reverse=True)
        return kept[::-1], top

    async def _read_on(
        self, name: str, stream: Stream, since: int | None, *, reverse: bool
    ) -> tuple[list[Publication], StreamPosition]:
        """Everything after `since`, or in reverse as much as is remembered; in parts, because a single answer with all
        that a frozen worker has missed could take longer than anybody waits for an answer.
        """
        kept: list[Publication] = []
        most, top = self._limit if reverse else math.inf, None
        while True:
            limit = int(min(READ_BATCH, most))
            page = await self._broker.read_history(
                name, since=since, limit=limit, reverse=reverse, meta_ttl=stream.history.meta_ttl
            )
            if top is not None and top.epoch != page.position.epoch:
                return [], page.position  # wiped meanwhile
            # Forwards more may have come since the first part, and the last one has it.
            top = page.position if top is None or not reverse else top
            kept += self.publications(name, page)
            most -= limit
            is_another = not reverse and top.epoch != stream.epoch
            if is_another or len(page.publications) < limit or most <= 0:
                return kept, top
            since = page.publications[-1][0]

    def publications(self, name: str, page: HistoryPage) -> list[Publication]:
        """Publications with their positions; what is not the hub's is missing, so it is found to be lost."""
        epoch, found = page.position.epoch, []
        for offset, payload in page.publications:
            try:
                event = envelope.decode(envelope.positioned(payload, offset, epoch))
            except ValueError:
                self.malformed.add(last=repr(name))
                continue
            if not isinstance(event, Membership):
                found.append(event)
        return found

    def _deliver(self, channel: Channel, filled: Filled) -> None:
        if filled.lost:
            self._tell(channel)
        elif filled.deliver:
            self.healed += 1
        for publication in filled.deliver:
            self._emit(channel, publication)

    def _tell(self, channel: Channel) -> None:
        """Publications are gone for good: those who rely on getting all are told, the others cannot be."""
        self.lost.add(last=repr(channel.name))
        for subscriber in channel.positioned:
            subscriber.on_insufficient(channel.name)

    # Quiet channels

    async def _check_for_ever(self) -> None:
        seen: dict[Channel, int] = {}
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            await self._hearing.wait()
            quiet, seen = self._quiet_since(seen)
            for channel in quiet:
                if channel.stream is not None:
                    channel.stream.tidy(_now())  # nothing arrives that would
            try:
                for at in range(0, len(quiet), CHECK_BATCH):
                    await self._check([channel for channel in quiet[at : at + CHECK_BATCH] if channel.interest])
            except Exception:
                log.exception("unexpected fault while checking positions")

    def _quiet_since(self, seen: dict[Channel, int]) -> tuple[list[Channel], dict[Channel, int]]:
        now = {c: c.stream.offset for c in self._registry.channels.values() if c.stream is not None and c.stream.live}
        return [channel for channel, offset in now.items() if seen.get(channel) == offset], now

    async def _check(self, channels: Sequence[Channel]) -> None:
        """Compare positions with the ends of the histories; a difference may be on its way, so it is read first."""
        tops = [self._top(channel) for channel in channels]
        for channel, top in zip(channels, await asyncio.gather(*tops, return_exceptions=True), strict=True):
            stream = channel.stream
            if isinstance(top, HistoryPage) and stream is not None and stream.live and top.position != stream.position:
                self.heal(channel)

    def _top(self, channel: Channel) -> asyncio.Future[HistoryPage]:
        assert channel.stream is not None
        meta_ttl = channel.stream.history.meta_ttl
        return self._broker.read_history(channel.name, since=None, limit=0, reverse=False, meta_ttl=meta_ttl)


def _now() -> float:
    return asyncio.get_running_loop().time()
