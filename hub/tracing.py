"""One trace from who publishes over Redis to the workers that delivered, by the OpenTelemetry API.

`publish <namespace>` is a span of kind producer, below the one that is current where the application publishes. Its
context travels in the publication (W3C Trace Context, `traceparent`), and each worker that has clients in the channel
ends it with `deliver <namespace>`, a span of kind consumer over its fan-out. What clients publish is not traced: they
bring no context, and there may be a lot of it. Attributes follow the semantic conventions of messaging where these have
a name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from msgspec.structs import replace
from opentelemetry import trace
from opentelemetry.trace import SpanKind, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .namespaces import namespace_of
from .protocol.forms import Event
from .publishing import Order
from .registry import Channel
from .types import Publication

__all__ = ["Begun", "Tracing"]

_SYSTEM = {"messaging.system": "broadcast_hub"}
_PARENT = "traceparent"


class Begun(NamedTuple):
    """A fan-out, before it: Unix time in nanoseconds, and how many messages were dropped till then."""

    at: int
    dropped: int


class Tracing:
    """The spans of one worker."""

    def __init__(
        self, node: Callable[[], str], dropped: Callable[[], int], provider: TracerProvider | None = None
    ) -> None:
        """`node` tells the worker's name, `dropped` how many messages clients have lost so far; `provider` None is
        OpenTelemetry's global one.
        """
        self._tracer = trace.get_tracer("hub", tracer_provider=provider)
        self._propagator = TraceContextTextMapPropagator()
        self._node = node
        self._dropped = dropped

    @contextmanager
    def publishing(self, order: Order) -> Iterator[Order]:
        """Around the publishing of an order, of that which is yielded: it has the context of the span."""
        publication, carrier = order.publication, dict[str, str]()
        with self._tracer.start_as_current_span(
            _named("publish", order.channel),
            kind=SpanKind.PRODUCER,
            attributes={
                **_SYSTEM,
                "messaging.operation.type": "send",
                "messaging.destination.name": order.channel,
                "messaging.message.body.size": len(publication.data),
            },
        ):
            self._propagator.inject(carrier)
            yield replace(order, publication=replace(publication, trace=carrier.get(_PARENT, "")))

    def begin(self) -> Begun:
        """A fan-out begins."""
        return Begun(time.time_ns(), self._dropped())

    def delivered(self, channel: Channel, events: Sequence[Event], begun: Begun, size: int) -> None:
        """These events were written, `size` bytes in all: a span for each publication among them that is traced."""
        traced = [event for event in events if isinstance(event, Publication) and event.trace]
        if not traced:
            return
        ended = time.time_ns()
        attributes: dict[str, str | int] = {
            **_SYSTEM,
            "messaging.operation.type": "process",
            "messaging.destination.name": channel.name,
            "messaging.batch.message_count": len(events),
            "hub.node": self._node(),
            "hub.receivers": len(channel),
            "hub.bytes": size,
            "hub.dropped": self._dropped() - begun.dropped,
        }
        for publication in traced:
            self._deliver(channel.name, publication, attributes, begun.at, ended)

    def _deliver(
        self, channel: str, publication: Publication, attributes: Mapping[str, str | int], begun: int, ended: int
    ) -> None:
        span = self._tracer.start_span(
            _named("deliver", channel),
            context=self._propagator.extract({_PARENT: publication.trace}),
            kind=SpanKind.CONSUMER,
            attributes={**attributes, **_position(publication)},
            start_time=begun,
        )
        span.end(ended)


def _named(operation: str, channel: str) -> str:
    """Without the channel itself: names of spans are to be few."""
    return f"{operation} {namespace_of(channel)}".rstrip()


def _position(publication: Publication) -> dict[str, str]:
    """Of a publication with history."""
    return {"messaging.message.id": f"{publication.epoch}:{publication.offset}"} if publication.offset else {}
