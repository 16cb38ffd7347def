"""What is counted: a table of the metrics, and the collector that reads them.

The numbers live where they arise, as plain integers of the objects that own the state; here is what they are called and
where they are. They are collected when somebody asks, so nothing is paid for in between. How they are asked for is in
`hub.exposition`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeAlias

from prometheus_client import Metric as Family
from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from . import __version__
from .admission import ENDPOINTS, OTHER, Admission
from .control import HubNode
from .errors import Disconnects, table
from .histogram import Histogram
from .http import refused_requests
from .inbox import lost_messages
from .plain import PlainWire, dropped_messages, open_wires
from .pubsub import RedisBroker
from .redis_presence import malformed_entries
from .sse_wire import SseWire, open_sse_wires
from .watchdog import Watchdog
from .wire_server import wire_servers

__all__ = ["METRICS", "UP", "HubCollector", "Metric", "Vitals", "messages_dropped", "render"]


@dataclass(frozen=True, slots=True)
class Vitals:
    """Everything of a worker that has numbers."""

    hub: HubNode
    admission: Admission
    watchdog: Watchdog
    # Commands of clients that were refused, by the code of the error.
    refusals: Counter[int]


# One number, one for each value of the labels, or none where it makes no sense.
Reading: TypeAlias = float | Histogram | Mapping[Any, float] | None


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table. A `read` that gives several numbers has a key, or a tuple of keys, for the `labels`."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    read: Callable[[Vitals], Reading]
    labels: tuple[str, ...] = ()

    @property
    def of_redis(self) -> bool:
        """Whether there is no such number where something else relays."""
        return isinstance(self.read, _OfRedis)


# The table


@dataclass(frozen=True, slots=True)
class _OfRedis:
    """Reads an attribute of the Redis broker."""

    attribute: str

    def __call__(self, vitals: Vitals) -> Reading:
        broker = vitals.hub.broker
        return getattr(broker, self.attribute) if isinstance(broker, RedisBroker) else None


def _opened(vitals: Vitals) -> Reading:
    """Those that are open and those that have ended."""
    opened = Counter(vitals.admission.open)
    for (endpoint, _), count in vitals.admission.closed_by_code.items():
        opened[endpoint] += count
    return _each_endpoint(opened)


def _each_endpoint(counts: Counter[str]) -> dict[str, float]:
    return {endpoint: counts[endpoint] for endpoint in ENDPOINTS}


def _closed(vitals: Vitals) -> Reading:
    counts = vitals.admission.closed_by_code
    return {(endpoint, "other" if code == OTHER else code): count for (endpoint, code), count in counts.items()}


_REASONS = {value: name.lower() for name, value in table(Disconnects)}


def _refused(vitals: Vitals) -> Reading:
    counts: Counter[str] = Counter()
    for refused in (vitals.admission.refused, *(server.capacity.refused for server in wire_servers())):
        counts.update({_REASONS[disconnect]: events.total for disconnect, events in refused.items()})
    counts["no_file_left"] = sum(server.capacity.dropped.total for server in wire_servers())
    return counts


def _slow(vitals: Vitals) -> Reading:
    closed = vitals.admission.closed_by_code
    return sum(closed[endpoint, Disconnects.SLOW.code] for endpoint in ENDPOINTS)


def messages_dropped() -> int:
    """In this process, for clients that read too slowly and stay connected."""
    return dropped_messages() + lost_messages() + sum(server.dropped.total for server in wire_servers())


def _dropped(vitals: Vitals) -> Reading:
    return {"slow_reader": messages_dropped(), "fault": vitals.hub.delivery.failed}


def _tokens(vitals: Vitals) -> Reading:
    authority = vitals.hub.authority
    return {"invalid": authority.invalid_tokens.total, "keys": authority.unverified_tokens.total}


def _congested() -> list[Any]:
    elsewhere: list[PlainWire | SseWire] = [*open_wires(), *open_sse_wires()]
    congested = chain(*(server.congested for server in wire_servers()))
    return [*congested, *(wire for wire in elsewhere if wire.queued)]


METRICS = (
    Metric(
        "hub_info",
        "gauge",
        "Always 1; the version, the id of the worker among all, and what it relays through.",
        lambda v: {(__version__, v.hub.node, v.hub.broker.name): 1},
        ("version", "node", "relay"),
    ),
    Metric("hub_ready", "gauge", "1 while the worker hears itself through the relay.", lambda v: v.hub.broker.ready),
    # Connections
    Metric(
        "hub_connections",
        "gauge",
        "Open WebSockets and event streams (`sse`).",
        lambda v: _each_endpoint(v.admission.open),
        ("endpoint",),
    ),
    Metric("hub_connections_opened_total", "counter", "Connections that were admitted.", _opened, ("endpoint",)),
    Metric(
        "hub_connections_closed_total",
        "counter",
        "Connections that have ended, by close code; 1006 is an end without a close frame, 1005 one without a reason.",
        _closed,
        ("endpoint", "code"),
    ),
    Metric(
        "hub_connections_refused_total",
        "counter",
        "Connections that were not admitted.",
        _refused,
        ("reason",),
    ),
    Metric(
        "hub_requests_refused_total",
        "counter",
        "HTTP requests and handshakes that were not HTTP, or did not come to their end in time.",
        lambda v: refused_requests(),
        ("cause",),
    ),
    Metric("hub_slow_disconnects_total", "counter", "Connections closed because the client read too slowly.", _slow),
    Metric(
        "hub_congested_connections",
        "gauge",
        "Connections whose client reads more slowly than it is written to.",
        lambda v: len(_congested()),
    ),
    Metric(
        "hub_queued_bytes",
        "gauge",
        "Bytes that wait for these clients.",
        lambda v: sum(wire.queued for wire in _congested()),
    ),
    Metric(
        "hub_users", "gauge", "Different users of this worker, of `channels` and `sse`.", lambda v: v.hub.clients.users
    ),
    Metric("hub_channels", "gauge", "Channels with subscribers.", lambda v: len(v.hub.registry.channels)),
    Metric("hub_subscriptions", "gauge", "Subscriptions of all connections.", lambda v: v.hub.registry.subscriptions),
    Metric(
        "hub_presence_entries",
        "gauge",
        "Presences that the worker keeps registered.",
        lambda v: v.hub.broker.presence.entries,
    ),
    # Messages
    Metric("hub_received_messages_total", "counter", "WebSocket messages of clients.", lambda v: v.hub.received),
    Metric("hub_received_bytes_total", "counter", "Bytes of these messages.", lambda v: v.hub.received_bytes),
    Metric(
        "hub_publications_in_total",
        "counter",
        "Publications of clients, the API and the application that were given to the relay.",
        lambda v: v.hub.taken,
    ),
    Metric("hub_publications_in_bytes_total", "counter", "Bytes of their data.", lambda v: v.hub.taken_bytes),
    Metric(
        "hub_publications_out_total",
        "counter",
        "Publications, joins and leaves that were written to the subscribers that a channel has here.",
        lambda v: v.hub.delivery.events,
    ),
    Metric("hub_deliveries_total", "counter", "Messages written to subscribers.", lambda v: v.hub.delivery.messages),
    Metric(
        "hub_delivered_bytes_total",
        "counter",
        "Bytes of these messages with their frames.",
        lambda v: v.hub.delivery.bytes,
    ),
    Metric(
        "hub_dropped_messages_total",
        "counter",
        "Messages that did not reach a client that stays connected (slow_policy), or any client (a fault of the hub).",
        _dropped,
        ("cause",),
    ),
    Metric(
        "hub_malformed_payloads_total",
        "counter",
        "What was found on the hub's Redis channels, in histories and presence, and is not the hub's.",
        lambda v: v.hub.malformed.total + v.hub.streams.malformed.total + malformed_entries(),
    ),
    Metric(
        "hub_unsent_publications_total",
        "counter",
        "Publications that Redis did not take, or did not confirm; their publishers were told.",
        lambda v: v.hub.unsent.total,
    ),
    Metric(
        "hub_unserved_commands_total",
        "counter",
        "Other commands of clients that failed because Redis did not answer.",
        lambda v: v.hub.unserved.total,
    ),
    Metric(
        "hub_unhandled_messages_total",
        "counter",
        "Messages that a function of on_message did not handle; the cause is in the log.",
        lambda v: v.hub.unhandled.total,
    ),
    Metric(
        "hub_command_errors_total",
        "counter",
        "Commands of protocol clients that were refused, by the code of the error.",
        lambda v: v.refusals,
        ("code",),
    ),
    Metric(
        "hub_refused_tokens_total",
        "counter",
        "Tokens that were not valid, or whose keys could not be fetched; one that has expired is an error 109.",
        _tokens,
        ("cause",),
    ),
    # Recovery
    Metric(
        "hub_heals_total",
        "counter",
        "Times that what a channel had missed was read from its history and delivered.",
        lambda v: v.hub.streams.healed,
    ),
    Metric(
        "hub_losses_total",
        "counter",
        "Times that a channel with history lost publications for good; its clients were told.",
        lambda v: v.hub.streams.lost.total,
    ),
    Metric(
        "hub_renewals_total",
        "counter",
        "Times that a history went on under a new epoch, because Redis lacked what had been delivered from it.",
        lambda v: v.hub.streams.renewed.total,
    ),
    Metric(
        "hub_gaps_total",
        "counter",
        "Times that nothing was heard for a while; what a channel without history missed then is gone.",
        _OfRedis("gaps"),
    ),
    # Redis
    Metric(
        "hub_redis_reconnects_total",
        "counter",
        "Times that a connection to Redis broke and was begun again.",
        _OfRedis("reconnects"),
        ("connection",),
    ),
    Metric(
        "hub_redis_round_trip_seconds",
        "histogram",
        "From a heartbeat's PUBLISH to its answer, about one a second.",
        _OfRedis("round_trips"),
    ),
    Metric(
        "hub_redis_canary_age_seconds",
        "gauge",
        "Age of the last heartbeat that came back through pub/sub; below 2 while all is well.",
        _OfRedis("canary_age"),
    ),
    Metric(
        "hub_redis_outbox_bytes",
        "gauge",
        "Commands that wait for Redis or its answer; 16 MiB at most.",
        _OfRedis("outbox_bytes"),
    ),
    # The process
    Metric(
        "hub_event_loop_lag_seconds",
        "histogram",
        "How late the event loop is, measured four times a second.",
        lambda v: v.watchdog.lag,
    ),
    Metric(
        "hub_event_loop_blocks_total",
        "counter",
        "Times that it stood still for longer than HUB_WATCHDOG; the log has the stack.",
        lambda v: v.watchdog.blocks,
    ),
)

UP = Metric("hub_up", "gauge", "Whether the worker has answered within a second.", lambda v: 1, ("worker",))


# Reading it


class HubCollector(Collector):
    """For a registry of prometheus-client: the numbers of one hub, without the label `worker`."""

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            reading = metric.read(self._vitals)
            if reading is not None:
                yield _family(metric, reading)


def _family(metric: Metric, reading: float | Histogram | Mapping[Any, float]) -> Family:
    if isinstance(reading, Histogram):
        histogram = HistogramMetricFamily(metric.name, metric.help)
        histogram.add_metric((), reading.buckets(), reading.sum)
        return histogram
    kind = GaugeMetricFamily if metric.kind == "gauge" else CounterMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for key, value in reading.items() if isinstance(reading, Mapping) else [((), reading)]:
        family.add_metric([str(part) for part in (key if isinstance(key, tuple) else (key,))], value)
    return family


_process = ProcessCollector(registry=None)


class _Named(Collector):
    """Metrics whose series get the label `worker`."""

    def __init__(self, name: str, families: Iterable[Family]) -> None:
        self._name = name
        self._families = families

    def collect(self) -> Iterator[Family]:
        for family in self._families:
            family.samples = [s._replace(labels={"worker": self._name, **s.labels}) for s in family.samples]
            yield family


async def render(vitals: Vitals, worker: str) -> bytes:
    """The numbers of this worker, in Prometheus' text format."""
    # With ten thousand files open it takes long to count them.
    process = await asyncio.to_thread(lambda: list(_process.collect()))
    return generate_latest(_Named(worker, [*HubCollector(vitals).collect(), *process]))
