"""What each worker tells about itself while somebody looks: its figures once a second, its busiest channels.

They travel like any publication, through a channel that no client can name, so a worker of another machine is seen like
one of this, and ten people who look cost what one costs. Nobody looks: nothing is measured, nothing is sent. Somebody
does: the worker that serves him tells all workers to go on for a while, and says so again as long as he is there.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from . import __version__
from .control import OWN, HubNode
from .errors import BrokerUnavailable
from .histogram import Histogram
from .metrics import METRICS, Metric, Vitals
from .protocol import envelope
from .pubsub import RedisBroker
from .types import DataKind, Publication
from .wire_server import wire_servers

__all__ = ["FIGURES", "Figures", "Meter", "WorkerFigures", "busiest"]

log: logging.Logger = logging.getLogger("hub.console")

# The channel of the figures.
FIGURES = f"{OWN}console"

# Seconds: between two figures; before the first, which has no time to compare with; between two lists of channels.
INTERVAL, FIRST, LISTING = 1.0, 0.25, 2.0
# Seconds that workers go on without being told again, and how often they are.
LEASE = 9.0
AGAIN = LEASE / 3
# Channels in a list, and those that are looked at before the others of the event loop get their turn.
MOST_CHANNELS, SLICE = 100, 500
# A list may take this share of the time.
SHARE = 0.02
# Seconds for which a worker that was asked to go says so; a new one that cannot start has given up by then.
RETIRING = 75.0


class WorkerFigures(Struct, kw_only=True):
    """One worker. Rates are per second, of the time since the figures before; durations are seconds."""

    node: str
    host: str
    pid: int
    version: str
    relay: str
    uptime: float
    # "ready", "not ready", "retiring" (another one is to take its place), "draining".
    state: str
    # Whether `retire` does anything.
    replaceable: bool
    connections: int
    users: int
    channels: int
    subscriptions: int
    # Rates: messages of clients, publications taken, messages and bytes written.
    received: float
    published: float
    delivered: float
    bytes: float
    # Means since the figures before; None if nothing was measured yet.
    lag: float | None
    round_trip: float | None
    # Since a heartbeat came back through Redis; None without Redis.
    silence: float | None
    # Share of one processor; bytes of memory, None where the system does not say.
    processor: float
    memory: int | None
    # Since the start of the worker: by cause, what did not arrive as it should.
    trouble: dict[str, int]


_RATES = {
    "received": "hub_received_messages_total",
    "published": "hub_publications_in_total",
    "delivered": "hub_deliveries_total",
    "bytes": "hub_delivered_bytes_total",
}
_TROUBLE = {
    "dropped": "hub_dropped_messages_total",
    "slow": "hub_slow_disconnects_total",
    "unsent": "hub_unsent_publications_total",
    "lost": "hub_losses_total",
    "refused": "hub_connections_refused_total",
    "blocked": "hub_event_loop_blocks_total",
}
_METRICS: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}


def _read(vitals: Vitals, name: str) -> float:
    """A metric, summed over its labels."""
    reading = _METRICS[name].read(vitals)
    if isinstance(reading, Mapping):
        return float(sum(reading.values()))
    assert not isinstance(reading, Histogram)
    return float(reading or 0)


class _Mean:
    """Of what a histogram has observed since the last look; the one before if there was nothing."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0.0
        self._value: float | None = None

    def read(self, histogram: Histogram) -> float | None:
        count = sum(histogram.counts)
        if count > self._count:
            self._value = (histogram.sum - self._sum) / (count - self._count)
        self._count, self._sum = count, histogram.sum
        return self._value


class Meter:
    """Makes figures of counters: what has changed since the last time, by the time that has passed."""

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals
        self._host = socket.gethostname()
        self._lag, self._round_trip = _Mean(), _Mean()
        self._at, self._counted = self._count()
        self._means()

    def _count(self) -> tuple[float, dict[str, float]]:
        counted = {key: _read(self._vitals, name) for key, name in _RATES.items()}
        return time.monotonic(), {**counted, "processor": time.process_time()}

    def _means(self) -> dict[str, Any]:
        lag, broker = self._lag.read(self._vitals.watchdog.lag), self._vitals.hub.broker
        if not isinstance(broker, RedisBroker):
            return {"lag": lag, "round_trip": None, "silence": None}
        return {"lag": lag, "round_trip": self._round_trip.read(broker.round_trips), "silence": broker.canary_age}

    def read(self, state: str, replaceable: bool) -> WorkerFigures:
        before, counted = self._at, self._counted
        self._at, self._counted = self._count()
        passed = max(self._at - before, 0.001)
        hub, own = self._vitals.hub, self._vitals.hub.registry.channels.get(FIGURES, ())
        return WorkerFigures(
            node=hub.node,
            host=self._host,
            pid=os.getpid(),
            version=__version__,
            relay=hub.broker.name,
            uptime=hub.uptime,
            state=state,
            replaceable=replaceable,
            connections=self._vitals.admission.connections,
            users=hub.clients.users,
            channels=len(hub.registry.channels) - (FIGURES in hub.registry.channels),
            subscriptions=hub.registry.subscriptions - len(own),
            **{key: (now - counted[key]) / passed for key, now in self._counted.items()},
            **self._means(),
            memory=_memory(),
            trouble={key: int(_read(self._vitals, name)) for key, name in _TROUBLE.items()},
        )


def _memory() -> int | None:
    """Bytes of this process that are in memory."""
    with suppress(OSError, ValueError, IndexError), open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


# The busiest channels


class BusyChannel(Struct, array_like=True):
    """A channel here: its subscribers, and what is published to them in a second."""

    name: str
    subscribers: int
    rate: float


class Channels(Struct, kw_only=True):
    """The channels of one worker; with `all` there are no others."""

    node: str
    all: bool
    channels: list[BusyChannel]


async def busiest(vitals: Vitals, tally: Counter[str], passed: float) -> Channels:
    """Where most is written or most would be; `tally` counts what was published in the last seconds, `passed`."""
    hub = vitals.hub
    every = list(hub.registry.channels.values())
    best: list[tuple[float, str, BusyChannel]] = []
    for start in range(0, len(every), SLICE):
        busy = (BusyChannel(each.name, len(each), tally[each.name] / passed) for each in every[start : start + SLICE])
        best = heapq.nlargest(MOST_CHANNELS, itertools.chain(best, _weighed(busy)))
        await asyncio.sleep(0)
    whole = len(every) - (FIGURES in hub.registry.channels) <= MOST_CHANNELS
    return Channels(node=hub.node, all=whole, channels=[channel for _, _, channel in best])


def _weighed(channels: Iterator[BusyChannel]) -> Iterator[tuple[float, str, BusyChannel]]:
    for each in channels:
        if each.subscribers and not each.name.startswith(OWN):
            yield each.subscribers * (1 + each.rate), each.name, each


# Telling


class Gone(Struct):
    """A worker that has ended as it should."""

    node: str


class Figures:
    """Of one worker, told to all consoles while somebody looks."""

    def __init__(self, vitals: Vitals, replaceable: Callable[[], bool]) -> None:
        """`replaceable` tells whether another worker can be asked for (`HubNode.retire`)."""
        self._vitals = vitals
        self._hub: HubNode = vitals.hub
        self._replaceable = replaceable
        # When one was asked for (`time.monotonic`).
        self._retiring_since = -RETIRING
        # Nothing is told after this (`time.monotonic`).
        self._until = 0.0
        # None, or ended, while nobody looks: anywhere, here.
        self._telling: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Figures {'told' if _runs(self._telling) else 'at rest'}>"

    def watch(self) -> None:
        """Somebody has subscribed here."""
        if not _runs(self._asking):
            self._asking = asyncio.create_task(self._ask(), name="hub console asks")

    def on_look(self) -> None:
        """Somebody looks, here or elsewhere."""
        self._until = time.monotonic() + LEASE
        if not _runs(self._telling):
            self._telling = asyncio.create_task(self._tell(), name="hub console figures")

    def retiring(self) -> None:
        """Another worker was asked for."""
        self._retiring_since = time.monotonic()

    async def stop(self) -> None:
        """Whoever looks is told that this worker has not fallen silent but ended."""
        if _runs(self._telling):
            self._send("gone", Gone(node=self._hub.node))
        tasks = [task for task in (self._asking, self._telling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self) -> None:
        while True:
            self.on_look()  # even if Redis cannot tell
            with suppress(BrokerUnavailable):
                await self._hub.look()
            await asyncio.sleep(AGAIN)
            if FIGURES not in self._hub.registry.channels:
                return

    async def _tell(self) -> None:
        delivery = self._hub.delivery
        delivery.tally = Counter()
        try:
            await self._tell_all()
        except Exception:  # whoever still looks begins it anew
            log.exception("unexpected fault in the figures of the console")
        finally:
            delivery.tally = None

    async def _tell_all(self) -> None:
        meter, listed, pause = Meter(self._vitals), time.monotonic(), FIRST
        listing = FIRST
        while time.monotonic() < self._until:
            await asyncio.sleep(pause)
            self._send("worker", meter.read(self._state(), self._replaceable()))
            passed = time.monotonic() - listed
            if passed >= listing:
                listed += passed
                self._send("channels", await busiest(self._vitals, self._take_tally(), passed))
                listing = max(LISTING, (time.monotonic() - listed) / SHARE)
            pause = INTERVAL

    def _take_tally(self) -> Counter[str]:
        delivery = self._hub.delivery
        tally, delivery.tally = delivery.tally or Counter(), Counter()
        return tally

    def _state(self) -> str:
        loop = asyncio.get_running_loop()
        if self._hub.leaving or any(server.draining for server in wire_servers() if server.loop is loop):
            return "draining"
        if time.monotonic() - self._retiring_since < RETIRING:
            return "retiring"
        return "ready" if self._hub.ready else "not ready"

    def _send(self, kind: str, body: Struct) -> None:
        """Without Redis at least to those who look here."""
        data = msgspec.json.encode({kind: body})
        payload = envelope.encode(Publication(data, DataKind.JSON))
        if self._hub.broker.ready:
            self._hub.broker.publish(FIGURES, payload).add_done_callback(_sent)
        else:
            self._hub.deliver(FIGURES, payload)


def _sent(future: asyncio.Future[Any]) -> None:
    """The next figures come in a second, in place of those that could not be sent."""
    _ = future.cancelled() or future.exception()


def _runs(task: asyncio.Task[None] | None) -> bool:
    return task is not None and not task.done()
