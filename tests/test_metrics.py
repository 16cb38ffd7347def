"""The metrics: what is counted is what happened, and only those read it who may."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio
from fakeredis import FakeAsyncRedis, FakeServer
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from hub import BrokerUnavailable, Hub, Settings
from hub.embedded import EmbeddedServer
from hub.exposition import merge
from hub.histogram import BOUNDS, Histogram
from hub.hub import HubCore
from hub.memory import MemoryBroker
from hub.metrics import METRICS
from hub.plain import PlainWire
from hub.protocol.backlog import Lossy
from hub.protocol.forms import RAW, Form, JsonForm
from hub.protocol.frames import boundaries
from hub.registry import KeepsAll
from hub.types import DataKind, Membership, Publication
from tests.support.positions import KEPT, Hearer, MemoryFeed, say
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually

Numbers = dict[str, float]


def parse(text: bytes) -> Numbers:
    """`name{a="1",b="2"}` → value; labels in order, without `worker`."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()) if k != "worker")
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def numbers(hub: Hub) -> Numbers:
    """All but the process's own, which take a thread."""
    return parse(generate_latest(hub.collector))


def application(hub: Hub) -> FastAPI:
    app = FastAPI()
    app.include_router(hub.router)
    return app


# The table


def test_the_names() -> None:
    """As Prometheus has them: a prefix, base units, `_total` for what only grows; and each is explained."""
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names) > 30
    for metric in METRICS:
        assert re.fullmatch(r"hub_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") is (metric.kind == "counter"), metric.name
        assert metric.name.endswith("_seconds") or metric.kind != "histogram", metric.name
        assert not re.search(r"_(ms|milliseconds|kb|mb|percent)\b", metric.name)
        assert metric.help.endswith(".")


async def test_each_is_there() -> None:
    """With Redis all of them; in memory those that do not concern Redis. The process's own too."""
    async with Hub(Settings(), redis=FakeAsyncRedis()) as hub:
        text = (await hub.metrics("0")).decode()
    assert set(re.findall(r"^# TYPE (hub_\w+)", text, re.MULTILINE)) == {metric.name for metric in METRICS}
    async with Hub(Settings()) as hub:
        text = (await hub.metrics("0")).decode()
    without = {metric.name for metric in METRICS if not metric.of_redis}
    assert set(re.findall(r"^# TYPE (hub_\w+)", text, re.MULTILINE)) == without
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} < set(
        parse(text.encode())
    )
    assert all('worker="0"' in line for line in text.splitlines() if not line.startswith("#"))


async def test_a_registry_of_the_application() -> None:
    """The hub's numbers among others, without the label that tells workers apart."""
    registry = CollectorRegistry()
    async with Hub(Settings()) as hub:
        registry.register(hub.collector)
        assert registry.get_sample_value("hub_ready") == 1
        assert b"worker=" not in generate_latest(registry)


async def test_no_secrets() -> None:
    """The relay is an address without its password."""
    hub = Hub(Settings(api_key="k3y", token="t0ken"), redis="redis://user:s3cret@127.0.0.1:1/0")
    text = (await hub.metrics("0")).decode()
    assert 'relay="redis://127.0.0.1:1/0"' in text
    assert not re.search("s3cret|k3y|t0ken|user:", text)


def test_durations() -> None:
    """Each falls into the first bucket that is not below it; the buckets add up."""
    histogram = Histogram()
    for seconds in (0.0, 0.001, 0.0011, 10.0, 11.0):
        histogram.observe(seconds)
    buckets = dict(histogram.buckets())
    assert len(buckets) == len(BOUNDS) + 1
    assert [buckets[end] for end in ("0.0005", "0.001", "0.0025", "5", "10", "+Inf")] == [1, 2, 3, 3, 4, 5]
    assert repr(histogram) == "<Histogram of 5, 21.002 s>"


# Connections


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[tuple[Hub, str]]:
    """A hub on our own server, and its address."""
    hub = Hub(Settings(**settings))
    async with serving(application(hub)) as (port, _):
        yield hub, f"ws://127.0.0.1:{port}"


async def connect_channels(url: str) -> ClientConnection:
    client = await connect(f"{url}/connection/websocket")
    await client.send(json.dumps({"id": 1, "connect": {}}))
    await client.recv()
    return client


async def test_connections_come_and_go() -> None:
    """By endpoint and close code; a code that nobody knows makes no series of its own."""
    async with served() as (hub, url):
        raw, other = await connect(f"{url}/ws/a"), await connect(f"{url}/ws/b")
        echo, client = await connect(f"{url}/echo"), await connect_channels(url)
        await eventually(lambda: numbers(hub)['hub_connections{endpoint="channels"}'] == 1)
        now = numbers(hub)
        assert now['hub_connections{endpoint="raw"}'] == 2
        assert now['hub_connections{endpoint="echo"}'] == 1
        assert now["hub_channels"] == now["hub_subscriptions"] == 2
        assert now["hub_users"] == 1
        await raw.close()
        await other.close(4321)
        await echo.close(1001)
        await client.close(3500)
        await eventually(lambda: not hub._admission.connections)
        now = numbers(hub)
    closed = {name: value for name, value in now.items() if name.startswith("hub_connections_closed_total")}
    assert closed == {
        'hub_connections_closed_total{code="1000",endpoint="raw"}': 1,
        'hub_connections_closed_total{code="other",endpoint="raw"}': 1,
        'hub_connections_closed_total{code="1001",endpoint="echo"}': 1,
        'hub_connections_closed_total{code="3500",endpoint="channels"}': 1,
    }
    assert now['hub_connections{endpoint="raw"}'] == now['hub_connections{endpoint="channels"}'] == 0
    assert now['hub_connections_opened_total{endpoint="raw"}'] == 2
    assert now['hub_connections_opened_total{endpoint="echo"}'] == 1
    assert now["hub_subscriptions"] == now["hub_channels"] == now["hub_users"] == 0


async def test_refusals() -> None:
    """By reason; of each the first is logged."""
    async with served(token="secret", max_connections=1) as (hub, url):
        with pytest.raises(Exception, match="403"):
            await connect(f"{url}/ws/a", origin="http://evil.example")
        for address in (f"{url}/ws/a?token=wrong", f"{url}/ws/a"):
            async with connect(address) as refused:
                with pytest.raises(ConnectionClosed):
                    await refused.recv()
        async with connect(f"{url}/ws/a?token=secret"), connect(f"{url}/ws/a?token=secret") as refused:
            with pytest.raises(ConnectionClosed):
                await refused.recv()
        now = numbers(hub)
    assert now['hub_connections_refused_total{reason="forbidden_origin"}'] == 1
    assert now['hub_connections_refused_total{reason="unauthorized"}'] == 2
    assert now['hub_connections_refused_total{reason="overloaded"}'] == 1


async def test_a_slow_client() -> None:
    """While it does not read it is congested and its bytes are counted; then it is closed as slow."""
    async with served(slow_timeout=1) as (hub, url):
        client = await connect(f"{url}/ws/a", max_queue=1)
        client.transport.pause_reading()
        for _ in range(400):
            await hub.publish("a", b"x" * 60000)
            await asyncio.sleep(0)
            if numbers(hub)["hub_congested_connections"]:
                break
        for _ in range(4):
            await hub.publish("a", b"x" * 60000)
        await eventually(lambda: numbers(hub)["hub_queued_bytes"] > 60000)
        assert numbers(hub)["hub_congested_connections"] == 1
        await eventually(lambda: numbers(hub)["hub_slow_disconnects_total"] == 1)
        client.transport.abort()
        await eventually(lambda: not numbers(hub)["hub_congested_connections"])


async def test_a_slow_client_of_another_server() -> None:
    """The same on plain ASGI, where what is dropped is counted too."""
    taken = asyncio.Event()

    async def send(event: dict[str, Any]) -> None:
        await taken.wait()

    options = Settings().wire()
    hub = Hub(Settings())
    before = numbers(hub)['hub_dropped_messages_total{cause="slow_reader"}']
    wire = PlainWire(asyncio.Event().wait, send, options)
    writer = asyncio.create_task(wire.serve_writes())
    await asyncio.sleep(0)
    for _ in range(5):
        wire.offer(b"\x81\x01x", Lossy("a", "keep_latest"))
        await asyncio.sleep(0)
    now = numbers(hub)
    assert now["hub_congested_connections"] == 1
    assert now["hub_queued_bytes"] == 3
    assert now['hub_dropped_messages_total{cause="slow_reader"}'] - before == 3
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    assert numbers(hub)["hub_congested_connections"] == 0


# Messages


class Listener(KeepsAll):
    """A subscriber whose connection is a list of writes."""

    def __init__(self, id_: bytes) -> None:
        self.id = id_
        self.writes: list[bytes] = []
        self.write = self.writes.append

    @property
    def wire(self) -> Listener:
        return self

    def on_insufficient(self, channel: str) -> None: ...


FORMS: tuple[Form, ...] = (RAW, JsonForm(), JsonForm(join_leave=True), JsonForm(delta=True))


@pytest.mark.parametrize("seed", range(20))
async def test_deliveries(seed: int) -> None:
    """As many messages and bytes as the clients have got, whatever their forms and whoever is left out."""
    dice = random.Random(seed)
    async with HubCore(MemoryBroker()) as hub:
        listeners = [Listener(b"%d" % number if dice.random() < 0.5 else b"") for number in range(6)]
        for listener in listeners:
            await hub.subscribe(listener, "room", dice.choice(FORMS))
        for _ in range(30):
            event: Publication | Membership
            if dice.random() < 0.2:
                event = Membership(dice.random() < 0.5, b'{"user":"u","client":"c"}')
            else:
                excluded = dice.choice(listeners).id if dice.random() < 0.4 else b""
                event = Publication(b"x" * dice.randrange(200), DataKind.TEXT, excluded)
            hub.delivery.emit(hub.registry.channels["room"], event)
            if dice.random() < 0.3:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
    written = b"".join(chunk for listener in listeners for chunk in listener.writes)
    assert hub.delivery.bytes == len(written)
    assert hub.delivery.messages == sum(1 for _ in boundaries(written)) > 0


async def test_a_message_of_a_client() -> None:
    """In once, out once for this worker, and delivered to each subscriber, with its bytes."""
    async with served() as (hub, url), connect(f"{url}/ws/a") as one, connect(f"{url}/ws/a?echo=0") as two:
        await two.send("hello")
        assert await one.recv() == "hello"
        await hub.publish("a", "all")
        assert [await one.recv(), await two.recv()] == ["all", "all"]
        await hub.publish("nobody", "hears this")
        now = numbers(hub)
    assert now["hub_received_messages_total"] == 1
    assert now["hub_received_bytes_total"] == 5
    assert now["hub_publications_in_total"] == 3
    assert now["hub_publications_in_bytes_total"] == len("hello" + "all" + "hears this")
    assert now["hub_publications_out_total"] == 2
    assert now["hub_deliveries_total"] == 3
    assert now["hub_delivered_bytes_total"] == len("hello") + 2 * len("all") + 3 * 2


async def test_echo_and_commands_are_received() -> None:
    """Whatever the endpoint."""
    async with served() as (hub, url), connect(f"{url}/echo") as echo:
        await echo.send(b"1234")
        await echo.recv()
        client = await connect_channels(url)
        now = numbers(hub)
        await client.close()
    assert now["hub_received_messages_total"] == 2
    assert now["hub_received_bytes_total"] == 4 + len(json.dumps({"id": 1, "connect": {}}))


async def test_refused_commands() -> None:
    """By the code of the error."""
    async with served() as (hub, url):
        client = await connect_channels(url)
        await client.send(json.dumps({"id": 2, "subscribe": {"channel": "nowhere:x"}}))
        assert json.loads(await client.recv())["error"]["code"] == 102
        await client.close()
        assert numbers(hub)['hub_command_errors_total{code="102"}'] == 1


async def test_presence() -> None:
    """What this worker keeps registered."""
    async with served() as (hub, url):
        client = await connect_channels(url)
        await client.send(json.dumps({"id": 2, "subscribe": {"channel": "chat:x"}}))
        await client.recv()
        assert numbers(hub)["hub_presence_entries"] == 1
        await client.close()
        await eventually(lambda: not numbers(hub)["hub_presence_entries"])


class _Away(MemoryBroker):
    """A relay that is not there."""

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[Any]:
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(BrokerUnavailable("not sent: away"))
        return failed

    def read_history(self, channel: str, **options: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        return self.publish(channel, b"")


async def test_what_the_relay_did_not_take() -> None:
    """Publications, whoever made them; other commands apart, because nothing is lost with them."""
    hub = Hub(Settings(allow_anonymous_connect_without_token=True), broker=_Away())
    async with serving(application(hub)) as (port, _):
        with pytest.raises(BrokerUnavailable):
            await hub.publish("a", 1)
        async with connect(f"ws://127.0.0.1:{port}/ws/a") as raw:
            await raw.send("x")
            await raw.recv()
        client = await connect_channels(f"ws://127.0.0.1:{port}")
        await client.send(json.dumps({"id": 2, "subscribe": {"channel": "chat:x"}}))
        assert json.loads(await client.recv())["error"]["code"] == 100
        await client.close()
        now = numbers(hub)
    assert now["hub_unsent_publications_total"] == 2
    assert now["hub_unserved_commands_total"] == 1


async def test_a_fault_in_the_fan_out() -> None:
    """What the clients of the channel did not get is counted."""

    class Broken(Listener):
        wire = None  # type: ignore[assignment]

    async with Hub(Settings()) as hub:
        await hub.subscribe(Broken(b""), "room")
        await hub.publish("room", 1)
        await eventually(lambda: numbers(hub)['hub_dropped_messages_total{cause="fault"}'] == 1)


async def test_payloads_that_are_not_the_hubs() -> None:
    """They are skipped and counted."""
    async with Hub(Settings()) as hub:
        await hub.subscribe(Listener(b""), "room")
        before = numbers(hub)["hub_malformed_payloads_total"]
        hub.deliver("room", b"?")
        hub.on_control(b"?")
        assert numbers(hub)["hub_malformed_payloads_total"] - before == 2


async def test_histories_that_were_renewed() -> None:
    """Redis has lost what clients have heard: once for a channel, beside the loss that they are told of."""
    feed = MemoryFeed()
    async with Hub(Settings(namespaces={"kept": KEPT}), broker=feed.broker) as hub:
        ann = await Hearer(hub).join()
        await say(hub, 1, 2, 3)
        await eventually(lambda: len(ann.heard) == 3)
        assert numbers(hub)["hub_renewals_total"] == numbers(hub)["hub_losses_total"] == 0
        hub.on_loss()
        await feed.fall_back(2)
        hub.on_gap(moved=True)
        await eventually(lambda: ann.told)
        assert numbers(hub)["hub_renewals_total"] == numbers(hub)["hub_losses_total"] == 1


async def test_refused_tokens() -> None:
    """Those that are wrong; the log has one line for all of them."""
    async with served(token_hmac_secret_key="x" * 32) as (hub, url):
        for _ in range(3):
            async with connect(f"{url}/connection/websocket") as client:
                await client.send(json.dumps({"id": 1, "connect": {"token": "a.b.c"}}))
                with pytest.raises(ConnectionClosed):
                    await client.recv()
        assert numbers(hub)['hub_refused_tokens_total{cause="invalid"}'] == 3


# Redis


async def test_the_heartbeat(redis_server: EmbeddedServer) -> None:
    """Its round trips are measured and its age is young; a connection that breaks is counted by its role."""
    async with Hub(Settings(redis_timeout=0.3), redis=redis_server.url) as hub:
        await eventually(lambda: numbers(hub)["hub_redis_round_trip_seconds_count"] >= 15)
        now = numbers(hub)
        assert now["hub_ready"] == 1
        assert 0 <= now["hub_redis_canary_age_seconds"] < 1
        assert 0 < now["hub_redis_round_trip_seconds_sum"] < now["hub_redis_round_trip_seconds_count"]
        assert now['hub_redis_reconnects_total{connection="feed"}'] == now["hub_gaps_total"] == 0
        async with redis.asyncio.from_url(redis_server.url) as other:
            await other.client_kill_filter(_type="pubsub")
        await eventually(lambda: numbers(hub)['hub_redis_reconnects_total{connection="feed"}'] == 1)
        await eventually(lambda: hub.ready)
        assert numbers(hub)["hub_gaps_total"] == 1
        assert numbers(hub)['hub_redis_reconnects_total{connection="commands"}'] == 0


async def test_the_canary_of_a_redis_that_is_away() -> None:
    """It gets older from the start on: nothing has ever come back."""
    server = FakeServer()
    server.connected = False
    async with Hub(Settings(), redis=FakeAsyncRedis(server=server)) as hub:
        await eventually(lambda: numbers(hub)["hub_redis_canary_age_seconds"] > 0.2)
        assert numbers(hub)["hub_ready"] == 0


async def test_the_outbox(redis_server: EmbeddedServer) -> None:
    """What waits for Redis, until it has answered."""
    async with Hub(Settings(), redis=redis_server.url) as hub:
        await eventually(lambda: hub.ready)
        sent = asyncio.create_task(hub.publish("a", "x" * 1000))
        await asyncio.sleep(0)
        assert numbers(hub)["hub_redis_outbox_bytes"] > 1000
        await sent
        await eventually(lambda: numbers(hub)["hub_redis_outbox_bytes"] < 1000)


# Several workers


async def test_the_numbers_of_several_workers() -> None:
    """A metric's lines are together, as the format wants them, and who does not answer is only that."""
    async with Hub(Settings()) as one, Hub(Settings()) as two:
        await two.publish("a", 1)
        merged = merge({"0": await one.metrics("0"), "1": await two.metrics("1"), "2": None}).decode()
    families = list(text_string_to_metric_families(merged))
    assert len({family.name for family in families}) == len(families) == merged.count("# TYPE")
    found = {
        (sample.name, sample.labels["worker"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name in ("hub_up", "hub_publications_in_total")
    }
    assert found == {
        ("hub_up", "0"): 1,
        ("hub_up", "1"): 1,
        ("hub_up", "2"): 0,
        ("hub_publications_in_total", "0"): 0,
        ("hub_publications_in_total", "1"): 1,
    }


# Who may read


LOCAL = {"base_url": "http://localhost:8000", "client": ("127.0.0.1", 5000)}


@pytest.mark.parametrize(
    ("settings", "origin", "headers", "status"),
    [
        ({}, LOCAL, {}, 200),
        ({}, {"base_url": "http://[::1]:8000", "client": ("::1", 5000)}, {}, 200),
        # As on a socket of IPv6, `hub serve --host ::`.
        ({}, {**LOCAL, "client": ("::ffff:127.0.0.1", 5000)}, {}, 200),
        ({}, {}, {}, 401),
        ({}, {**LOCAL, "client": ("10.0.0.7", 5000)}, {}, 401),
        ({}, {**LOCAL, "client": ("::ffff:10.0.0.7", 5000)}, {}, 401),
        # A page that had its host's name point to this machine, and what a proxy on it passes on.
        ({}, {**LOCAL, "base_url": "http://evil.example"}, {}, 401),
        ({}, LOCAL, {"X-Forwarded-For": "127.0.0.1"}, 401),
        ({}, LOCAL, {"Forwarded": "for=127.0.0.1"}, 401),
        ({}, LOCAL, {"Via": "1.1 proxy"}, 401),
        ({"api_key": "key,other"}, {}, {"X-API-Key": "other"}, 200),
        ({"api_key": "key"}, {}, {"Authorization": "apikey key"}, 200),
        ({"api_key": "key"}, {}, {"X-API-Key": "wrong"}, 401),
        ({"api_key": "key"}, {}, {}, 401),
        ({}, {}, {"X-API-Key": ""}, 401),
        ({"metrics": "public"}, {}, {"X-Forwarded-For": "10.0.0.7"}, 200),
        ({"metrics": "off"}, LOCAL, {}, 404),
    ],
)
def test_who_may_read(settings: Any, origin: Any, headers: dict[str, str], status: int) -> None:
    """Who has a key or is on the same machine, unless it is set otherwise."""
    with TestClient(application(Hub(Settings(**settings))), **origin) as client:
        response = client.get("/metrics", headers=headers)
    assert response.status_code == status
    if status == 200:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert parse(response.content)["hub_up"] == 1
    if status == 401:
        assert "HUB_METRICS" in response.json()["detail"]
