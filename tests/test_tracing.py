"""One trace from an HTTP handler over Redis to the workers that delivered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import fakeredis
import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from hub import BrokerUnavailable, ChannelOptions, Hub, Settings
from hub.inbox import VALUES, Inbox
from hub.testing import Cluster
from tests.support.waiting import eventually


class Site:
    """Three workers on one Redis, each with its exporter; the application publishes in the first."""

    def __init__(self) -> None:
        server = fakeredis.FakeServer()
        settings = Settings(namespaces={"orders": ChannelOptions(history_size=10, history_ttl=60)})
        self.exporters = [InMemorySpanExporter() for _ in range(3)]
        self.hubs = [
            Hub(settings, redis=fakeredis.FakeAsyncRedis(server=server), tracer_provider=provider(exporter))
            for exporter in self.exporters
        ]
        self.app = FastAPI(telemetry={"tracer_provider": provider(self.exporters[0]), "operation_spans": False})

        @self.app.post("/ship/{channel}")
        async def ship(channel: str) -> None:
            await self.hubs[0].publish(channel, {"state": "shipped"})

    async def post(self, channel: str) -> None:
        async with AsyncClient(transport=ASGITransport(self.app), base_url="http://site") as client:
            assert (await client.post(f"/ship/{channel}")).status_code == 200

    def spans(self, worker: int, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporters[worker].get_finished_spans() if span.name == name]


def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    async with AsyncExitStack() as stack:
        for hub in made.hubs:
            await stack.enter_async_context(hub)
        await eventually(lambda: all(hub.ready for hub in made.hubs))
        yield made


async def listening(hub: Hub, channel: str, count: int) -> list[Inbox]:
    inboxes = [Inbox(channel, 1 << 20) for _ in range(count)]
    for inbox in inboxes:
        await hub.subscribe(inbox, channel, VALUES)
    return inboxes


async def test_one_trace(site: Site) -> None:
    """Request, publication and the fan-outs of both workers with clients, each below the one before."""
    await listening(site.hubs[1], "orders:7", 3)
    [inbox] = await listening(site.hubs[2], "orders:7", 1)
    await site.post("orders:7")
    assert await inbox.take() == {"state": "shipped"}
    await eventually(lambda: all(site.spans(worker, "deliver orders") for worker in (1, 2)))
    [request], [published] = site.spans(0, "POST /ship/{channel}"), site.spans(0, "publish orders")
    assert published.parent is not None
    assert published.parent.span_id == request.context.span_id
    assert (published.kind, published.attributes["messaging.destination.name"]) == (SpanKind.PRODUCER, "orders:7")
    assert site.spans(0, "deliver orders") == []
    for worker, receivers in ((1, 3), (2, 1)):
        [delivered] = site.spans(worker, "deliver orders")
        assert delivered.kind is SpanKind.CONSUMER
        assert delivered.context.trace_id == request.context.trace_id
        assert delivered.parent is not None
        assert delivered.parent.span_id == published.context.span_id
        assert delivered.attributes["hub.receivers"] == receivers
        assert delivered.attributes["hub.dropped"] == 0
        assert delivered.attributes["hub.node"] == site.hubs[worker].node
        assert delivered.attributes["messaging.message.id"].endswith(":1")
        assert delivered.start_time <= delivered.end_time


async def test_bytes_and_drops(site: Site) -> None:
    """What was written, and what a reader that is too slow has lost by it."""
    slow = Inbox("news", 10)
    await site.hubs[1].subscribe(slow, "news", VALUES)
    for _ in range(2):
        await site.post("news")
        await eventually(lambda: len(site.spans(1, "deliver")) == len(site.spans(0, "publish")))
    first, second = site.spans(1, "deliver")
    assert (first.attributes["hub.dropped"], second.attributes["hub.dropped"]) == (0, 1)
    assert first.attributes["hub.bytes"] == second.attributes["hub.bytes"] > len('{"state":"shipped"}')
    assert "messaging.message.id" not in first.attributes


async def test_publications_of_one_tick(site: Site) -> None:
    """Each has its own trace, over one fan-out."""
    await listening(site.hubs[0], "orders:1", 2)
    await asyncio.gather(*(site.hubs[0].publish("orders:1", number) for number in range(3)))
    await eventually(lambda: len(site.spans(0, "deliver orders")) == 3)
    delivered = site.spans(0, "deliver orders")
    assert len({span.context.trace_id for span in delivered}) == 3
    assert {span.attributes["messaging.batch.message_count"] for span in delivered} <= {1, 2, 3}


async def test_a_publication_that_fails(site: Site) -> None:
    """The span says so."""
    await site.hubs[0].broker.stop()
    with pytest.raises(BrokerUnavailable):
        await site.hubs[0].publish("orders:1", 1)
    [span] = site.spans(0, "publish orders")
    assert not span.status.is_ok
    assert [event.name for event in span.events] == ["exception"]


async def test_without_tracing() -> None:
    """Nothing is added to what travels, and what others have traced is delivered."""
    server, exporter = fakeredis.FakeServer(), InMemorySpanExporter()
    traced = Hub(Settings(), redis=fakeredis.FakeAsyncRedis(server=server), tracer_provider=provider(exporter))
    plain = Hub(Settings(), redis=fakeredis.FakeAsyncRedis(server=server))
    async with traced, plain:
        [inbox], [other] = await listening(plain, "a", 1), await listening(traced, "a", 1)
        await traced.publish("a", 1)
        assert await inbox.take() == 1
        await eventually(lambda: len(exporter.get_finished_spans()) == 2)
        await plain.publish("a", 2)
        assert [await other.take(), await other.take()] == [1, 2]
    assert len(exporter.get_finished_spans()) == 2


def test_the_setting() -> None:
    """HUB_TRACING takes OpenTelemetry's global provider."""
    assert Hub(Settings(tracing=True)).delivery.tracing is not None
    assert Hub(Settings()).delivery.tracing is None


async def test_in_a_cluster() -> None:
    """The workers of `hub.testing` have the provider that the application's hub was given."""
    exporter = InMemorySpanExporter()
    hub = Hub(Settings(), tracer_provider=provider(exporter))
    app = FastAPI()
    app.include_router(hub.router)
    async with Cluster(app, workers=2) as cluster:
        browser = await cluster.connect("/ws/x", worker=1)
        await hub.publish("x", "hi")
        assert await browser.receive_text() == "hi"
    assert {span.name for span in exporter.get_finished_spans()} == {"publish", "deliver"}
