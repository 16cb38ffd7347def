"""From a channel's events to its clients' sockets: no await, no queue and no task.

What one turn of the event loop brings is written at its end, each client getting all of it in one write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Mapping

from .direct_writes import DirectWrites
from .protocol.backlog import Lossy
from .protocol.forms import Event
from .registry import Channel, Registry, Subscriber, Writer
from .tracing import Tracing
from .types import Publication

__all__ = ["Delivery"]

log: logging.Logger = logging.getLogger("hub")

# Publications that came together will have company again. So if writing them took t seconds of the processor, the first
# one that comes within t seconds after that waits this share of t for others: one write for all costs little more.
GATHER = 0.2
# Clients that several are written to at once, from which this is worth a timer.
CROWD = 100
# Bytes of several channels that are joined for a client.
JOINED = 8192

# What several channels have for the same clients.
Bundle = defaultdict[Writer, list[bytes]]


class Delivery:
    """The writes of one worker, and their counters."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._direct = DirectWrites()
        # None while stopped.
        self._loop: asyncio.AbstractEventLoop | None = None
        # Channels with pending events; a flush is scheduled while there are any.
        self._dirty: list[Channel] = []
        # How long the last flush took; until when it counts, by `time.monotonic` (uvloop's own time stands still within
        # a turn).
        self._took = self._company_until = 0.0
        # For `hub.metrics`: messages written to clients, with their bytes. Then the events of which these were made,
        # and those that a fault kept from a channel's clients.
        self.messages: int = 0
        self.bytes: int = 0
        self.events: int = 0
        self.failed: int = 0
        # These events by channel; counted only while somebody looks (`hub.console_figures`).
        self.tally: Counter[str] | None = None
        # None: nothing is traced.
        self.tracing: Tracing | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """What is pending still was for clients of another loop, which has ended before it was written."""
        for channel in self._dirty:
            channel.pending.clear()
        self._dirty.clear()
        self._loop = loop

    def stop(self) -> None:
        self._loop = None

    def emit(self, channel: Channel, event: Event) -> None:
        """Write `event` to the channel's clients, behind what was emitted before."""
        if not channel.pending and self._loop is not None:
            if not self._dirty:
                self._schedule(self._loop)
            self._dirty.append(channel)
        channel.pending.append(event)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if time.monotonic() < self._company_until:
            loop.call_later(GATHER * self._took, self.flush)
        else:
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write now what all channels have pending."""
        dirty, self._dirty = self._dirty, []
        crowd = sum(len(channel) for channel in dirty if len(channel.pending) > 1)
        begun = time.thread_time() if crowd >= CROWD else None
        # A transport writes at once, so a client in many channels would cost a system call for each of them.
        several = len(dirty) > 1 and self._registry.overlapping and self.tracing is None
        bundle: Bundle | None = defaultdict(list) if several else None
        for channel in dirty:
            self.write(channel, bundle)
        if bundle is not None:
            self._write_bundle(bundle)
        if begun is not None:
            self._took = time.thread_time() - begun
            self._company_until = time.monotonic() + self._took

    def _write_bundle(self, bundle: Bundle) -> None:
        for wire, chunks in bundle.items():
            try:
                # A copy is this client's alone. What waits, or will because it is much, is shared with others instead.
                if wire.waits or sum(map(len, chunks)) > JOINED:
                    for chunk in chunks:
                        wire.write(chunk)
                else:
                    wire.write(b"".join(chunks))
            except Exception:
                self.failed += len(chunks)
                log.exception("unexpected fault while writing to %r", wire)

    def write(self, channel: Channel, bundle: Bundle | None = None) -> None:
        """Write now what the channel has pending; or put it into a bundle, as far as that may wait."""
        events, channel.pending = channel.pending, []
        if not events:
            return  # somebody who joined in this tick had it written already
        begun = self.tracing.begin() if self.tracing is not None else None
        try:
            messages, size = _fan_out(channel, events, bundle, self._direct)
            self.messages += messages
            self.bytes += size
            self.events += len(events)
            if self.tally is not None:
                self.tally[channel.name] += len(events)
            if self.tracing is not None and begun is not None:
                self.tracing.delivered(channel, events, begun, size)
        except Exception:
            self.failed += len(events)
            log.exception("unexpected fault while writing to the clients of %r", channel)


def _fan_out(channel: Channel, events: list[Event], bundle: Bundle | None, direct: DirectWrites) -> tuple[int, int]:
    """How many messages were written or put into the bundle, and their bytes."""
    excluded = {event.exclude for event in events if isinstance(event, Publication) and event.exclude}
    messages = size = 0
    for form, group in channel.groups.items():
        frames = form.frames(channel.name, events, channel.last)
        joined = frames[0] if len(frames) == 1 else b"".join(frames)
        messages += (len(frames) - frames.count(b"")) * len(group)
        size += len(joined) * len(group)
        lossy = Lossy(channel.name, form.slow) if form.slow != "disconnect" else None
        if excluded:
            kept, saved = _write_others(group, excluded, joined, list(zip(events, frames, strict=True)), lossy)
            messages, size = messages - kept, size - saved
        elif joined and lossy is not None:
            for wire in group.values():
                wire.offer(joined, lossy)
        elif joined and bundle is not None:
            for wire in group.values():
                bundle[wire].append(joined)
        elif joined:
            direct.write(group.values(), joined)
    channel.advance(events)
    return messages, size


def _write_others(
    group: Mapping[Subscriber, Writer],
    excluded: set[bytes],
    joined: bytes,
    framed: list[tuple[Event, bytes]],
    lossy: Lossy | None,
) -> tuple[int, int]:
    """To each subscriber what does not exclude it; how many messages were kept from one, and their bytes."""
    kept = saved = 0
    for subscriber, wire in group.items():
        chunk = joined
        if subscriber.id in excluded:
            own = [frame for event, frame in framed if frame and getattr(event, "exclude", b"") == subscriber.id]
            kept, saved = kept + len(own), saved + sum(map(len, own))
            chunk = b"".join([frame for event, frame in framed if getattr(event, "exclude", b"") != subscriber.id])
        if chunk and lossy is not None:
            wire.offer(chunk, lossy)
        elif chunk:
            wire.write(chunk)
    return kept, saved
