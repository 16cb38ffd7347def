"""One event stream's life: what it gets, what it missed, and how it ends; with an application, and on real servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from hub import Hub, Settings
from hub.broker import Broker
from hub.errors import Disconnect, Disconnects
from hub.http import HubHttpProtocol
from hub.memory import MemoryBroker
from hub.namespaces import ChannelOptions
from hub.protocol.sse import event_id
from hub.sse_client import EventStream
from hub.sse_wire import open_sse_wires
from hub.types import StreamPosition
from hub.wire_server import wire_servers
from tests.support.backends import BACKENDS, Backend, backend
from tests.support.protocol_clients import SECRET, Gated
from tests.support.sse import EventSource, Message, Target, ask, listening, path_of, request, serving_hub
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually
from tests.test_plain import on_hypercorn
from tests.test_sse import bearer, refused, sub_token

SERVERS = [HubHttpProtocol, "httptools"]
# A history, and nothing else.
KEPT = ChannelOptions(
    history_size=1000,
    history_ttl=600,
    force_recovery=True,
    allow_subscribe_for_client=True,
    allow_subscribe_for_anonymous=True,
)
CACHE = KEPT.model_copy(update={"force_recovery_mode": "cache"})
PEOPLE = {"token_hmac_secret_key": SECRET}


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest) -> Backend:
    return backend(request.param, request)


@asynccontextmanager
async def kept_hub(broker: Broker | None = None, **settings: Any) -> AsyncIterator[tuple[Hub, Target]]:
    """With the namespaces `kept` and `cache`."""
    async with serving_hub(broker, namespaces={"kept": KEPT, "cache": CACHE}, **settings) as served:
        yield served


def stream_of(hub: Hub) -> EventStream:
    (stream,) = hub.clients
    assert isinstance(stream, EventStream)
    return stream


def numbers(messages: list[Message]) -> list[int]:
    return [int(message.data) for message in messages]


# What was missed


async def test_what_was_missed_comes_first(place: Backend) -> None:
    """From another worker too: everything after the last id, in order and once, and then what is published."""
    brokers = [place.make() for _ in range(2)]
    async with kept_hub(brokers[0]) as (here, target), kept_hub(brokers[1]) as (there, other):
        if not brokers[0].shared:
            there, other = here, target
        async with listening(target, "kept:x") as source:
            await source.greeting()
            for number in range(3):
                await here.publish("kept:x", str(number))
            messages = [await source.next() for _ in range(3)]
        assert numbers(messages) == [0, 1, 2]
        for number in range(3, 6):
            await here.publish("kept:x", str(number))
        async with listening(other, "kept:x", {"Last-Event-ID": messages[1].last_id}) as source:
            hello = await source.next()
            assert hello.body["subscribed"]["recovered"] is True
            assert hello.last_id == messages[1].last_id  # it stands where it stood
            await there.publish("kept:x", "6")
            assert await source.take(5) == ["2", "3", "4", "5", "6"]


async def test_a_page_may_have_the_id_in_its_address() -> None:
    """As it has none but the first time, the header is the newer one."""
    async with kept_hub() as (hub, target):
        ids = []
        for number in range(4):
            position = await hub.publish("kept:x", str(number))
            ids.append(event_id(StreamPosition(position.offset, position.epoch)).decode())
        async with listening(target, "kept:x", last_event_id=ids[1]) as source:
            assert (await source.greeting())["recovered"] is True
            assert await source.take(2) == ["2", "3"]
        async with listening(target, "kept:x", {"Last-Event-ID": ids[2]}, last_event_id=ids[1]) as source:
            await source.greeting()
            assert await source.take(1) == ["3"]


async def test_a_newcomer_gets_a_place() -> None:
    """Before anything is published: who goes then misses nothing."""
    async with kept_hub() as (hub, target):
        async with listening(target, "kept:x") as source:
            hello = await source.next()
            assert "recovered" not in hello.body["subscribed"]
            assert hello.body["subscribed"]["recoverable"] is True
        await hub.publish("kept:x", "0")
        async with listening(target, "kept:x", {"Last-Event-ID": hello.last_id}) as source:
            assert (await source.greeting())["recovered"] is True
            assert await source.take(1) == ["0"]


async def test_nothing_is_lost_while_it_is_busy() -> None:
    """A client that comes and goes all the time, while others publish, has heard each publication once."""
    heard: list[int] = []
    async with kept_hub() as (hub, target):

        async def publish() -> None:
            for number in range(300):
                await hub.publish("kept:x", str(number))
                await asyncio.sleep(0.001)

        last: dict[str, str] = {}
        publishing = None
        while len(heard) < 300:
            async with listening(target, "kept:x", last) as source:
                assert (await source.greeting()).get("recovered", True)
                publishing = publishing or asyncio.create_task(publish())
                for _ in range(min(7, 300 - len(heard))):
                    message = await source.next()
                    heard.append(int(message.data))
                    last = {"Last-Event-ID": message.last_id}
        assert publishing is not None
        await publishing
    assert heard == list(range(300))


@pytest.mark.parametrize("last", ["0f0f:3", "what a server of another kind says", "0f0f:999999999999999999"])
async def test_what_cannot_be_had_is_told(last: str) -> None:
    """`recovered: false` and a new place, from which it goes on."""
    async with kept_hub() as (hub, target):
        await hub.publish("kept:x", "before")
        async with listening(target, "kept:x", {"Last-Event-ID": last}) as source:
            hello = await source.next()
            assert hello.body["subscribed"]["recovered"] is False
            assert hello.last_id not in ("", last)
            await hub.publish("kept:x", "now")
            assert await source.take(1) == ["now"]


async def test_too_much_was_missed(place: Backend) -> None:
    """Never a part."""
    async with kept_hub(place.make(), recovery_limit=5) as (hub, target):
        async with listening(target, "kept:x") as source:
            first = (await source.next()).last_id
        for number in range(6):
            await hub.publish("kept:x", str(number))
        async with listening(target, "kept:x", {"Last-Event-ID": first}) as source:
            assert (await source.greeting())["recovered"] is False
            await hub.publish("kept:x", "now")
            assert await source.take(1) == ["now"]


@pytest.mark.parametrize("channel", ["plain", "shy:x"])
async def test_without_a_history_for_it(channel: str) -> None:
    """No ids, and who believes in one is told; so where the namespace does not let it recover."""
    shy = KEPT.model_copy(update={"force_recovery": False})
    async with serving_hub(namespaces={"shy": shy}) as (hub, target):
        async with listening(target, channel, {"Last-Event-ID": "0f0f:1"}) as source:
            hello = await source.next()
            assert (hello.body["subscribed"]["recovered"], hello.last_id) == (False, "")
            await hub.publish(channel, "x")
            assert (await source.next()).last_id == ""


@pytest.mark.parametrize("allowed", [False, True])
async def test_recovery_takes_a_permission(allowed: bool) -> None:
    """Where the namespace lets clients recover: those that may read the history."""
    asked = {"force_recovery": False, "allow_recovery": True}
    may = {f"allow_history_for_{who}": allowed for who in ("subscriber", "anonymous")}
    async with serving_hub(namespaces={"asked": KEPT.model_copy(update={**asked, **may})}) as (hub, target):
        async with listening(target, "asked:x") as source:
            assert (await source.greeting())["recoverable"] is allowed
            await hub.publish("asked:x", "0")
            assert bool((await source.next()).last_id) is allowed


async def test_the_latest_of_a_cache() -> None:
    """Who has another gets it, and has no place before it has got it; who has it gets nothing."""
    async with kept_hub() as (hub, target):
        for number in range(3):
            position = await hub.publish("cache:x", str(number))
        newest = event_id(StreamPosition(position.offset, position.epoch)).decode()
        async with listening(target, "cache:x", {"Last-Event-ID": f"{position.epoch}:1"}) as source:
            hello = await source.next()
            assert (hello.body["subscribed"]["recovered"], hello.last_id) == (True, "")
            message = await source.next()
            assert (message.data, message.last_id) == ("2", newest)
        async with listening(target, "cache:x", {"Last-Event-ID": newest}) as source:
            hello = await source.next()
            assert (hello.body["subscribed"]["recovered"], hello.last_id) == (True, newest)
            await hub.publish("cache:x", "3")
            assert await source.take(1) == ["3"]


async def test_what_is_lost_ends_the_stream() -> None:
    """It comes back with its last id, and then it learns that it cannot have everything."""
    async with kept_hub() as (hub, target):
        async with listening(target, "kept:x") as source:
            await source.greeting()
            await hub.publish("kept:x", "0")
            await source.take(1)
            last = source.last_id
            stream_of(hub).on_insufficient("kept:x")
            assert (await source.end())[1] == {"code": 3010, "reason": "insufficient state", "reconnect": True}
        await hub.remove_history("kept:x")
        await hub.publish("kept:x", "1")
        await hub.remove_history("kept:x")
        async with listening(target, "kept:x", {"Last-Event-ID": last}) as source:
            assert (await source.greeting())["recovered"] is False


# Who is there


async def test_presence_and_joins(place: Backend) -> None:
    """A stream is somebody in the channel until it ends; who wants it hears of others."""
    async with serving_hub(place.make(), **PEOPLE) as (hub, target):
        async with listening(target, "chat:x", bearer(sub="1")) as one:
            first = (await one.greeting())["client"]
            assert (await one.next()).body == {"user": "1", "client": first}  # its own
            async with listening(target, "chat:x", bearer(sub="2")) as two:
                second = (await two.greeting())["client"]
                joined = await one.next()
                assert (joined.name, joined.body) == ("join", {"user": "2", "client": second})
                assert set(await hub.presence("chat:x")) == {first, second}
            left = await one.next()
            assert (left.name, left.body["client"]) == ("leave", second)
        await eventually(lambda: not hub.broker.presence.entries)


async def test_joins_are_for_who_asks() -> None:
    """Where the namespace does not push them to everybody."""
    options = {**KEPT.model_dump(), "join_leave": True, "presence": True, "allow_presence_for_subscriber": True}
    people = ChannelOptions(**{**options, "allow_presence_for_anonymous": True})
    async with serving_hub(namespaces={"people": people}) as (hub, target):
        async with listening(target, "people:x", join_leave="1") as asking, listening(target, "people:x") as other:
            await asking.greeting()
            await other.greeting()
            await hub.publish("people:x", "hello")
            assert [(await asking.next()).name for _ in range(3)].count("join") == 2
            assert await other.take(1) == ["hello"]


async def test_it_is_counted() -> None:
    """In metrics, in `info`, and among the subscribers of its channel; and not any more when it has gone."""
    async with kept_hub() as (hub, target):
        async with listening(target, "kept:x") as source:
            await source.greeting()
            text = (await hub.metrics("0")).decode()
            assert 'hub_connections{endpoint="sse",worker="0"} 1.0' in text
            (info,) = await hub.info()
            assert (info.num_clients, info.num_users, info.num_subs, info.num_channels) == (1, 1, 1, 1)
            assert await hub.channels() == {"kept:x": 1}
        await eventually(lambda: not len(hub.clients))
        text = (await hub.metrics("0")).decode()
        assert 'hub_connections{endpoint="sse",worker="0"} 0.0' in text
        assert 'hub_connections_closed_total{code="1005",endpoint="sse",worker="0"} 1.0' in text
        assert (hub.registry.channels, hub.deadlines._slots, hub._admission.connections) == ({}, {}, 0)


# How it ends


async def test_on_disconnect_is_called() -> None:
    """With the stream, and how it ended; not for one that was refused."""
    ended: list[tuple[str, int, str]] = []
    async with kept_hub(**PEOPLE) as (hub, target):

        @hub.on_disconnect
        async def gone(client: Any, code: int, reason: str) -> None:
            assert not client.is_subscribed("kept:x")
            ended.append((client.user, code, reason))

        async with listening(target, "kept:x", bearer(sub="1")) as source:
            await source.greeting()
        await eventually(lambda: len(ended) == 1)
        async with listening(target, "kept:x", bearer(sub="2")) as source:
            await hub.disconnect_user("2")
            await source.end()
        await refused(target, path_of("$x"), bearer(sub="3"))
        await eventually(lambda: len(ended) == 2)
    assert ended == [("1", 1005, ""), ("2", 3503, "force disconnect")]


@pytest.mark.parametrize("http", [*SERVERS, "h11"])
async def test_a_user_is_disconnected(http: Any) -> None:
    """Behind what was published before; the last event says why, and whether it may come back."""
    async with kept_hub(http=http, **PEOPLE) as (hub, port):
        async with (
            listening(port, "kept:x", bearer(sub="7")) as source,
            listening(port, "kept:x", bearer(sub="8")) as b,
        ):
            await source.greeting()
            await b.greeting()
            await hub.publish("kept:x", "last words")
            await hub.disconnect_user("7")
            messages, why = await source.end()
            assert [message.data for message in messages] == ["last words"]
            assert why == {"code": 3503, "reason": "force disconnect", "reconnect": False}
            assert source.complete
            assert [client.user for client in hub.clients] == ["8"]
            await hub.disconnect_user("8", disconnect=Disconnect(code=4501, reason="your own"))
            assert (await b.end())[1] == {"code": 4501, "reason": "your own", "reconnect": False}


async def test_what_else_is_done_to_users() -> None:
    """A stream ends with its subscription, cannot have another, and lives as long as a refresh says."""
    async with kept_hub(client_expired_grace=0, **PEOPLE) as (hub, target):
        async with listening(target, "kept:x", bearer(sub="7")) as source:
            await source.greeting()
            await hub.subscribe_user("7", "kept:y")
            await hub.unsubscribe_user("7", "kept:z")
            await hub.refresh_user("7", expire_at=2**31)
            await hub.publish("kept:y", "not this")
            await hub.publish("kept:x", "this")
            assert await source.take(1) == ["this"]
            stream_of(hub).send({"only": "you"})
            assert (await source.next()).body == {"message": {"only": "you"}}
            await hub.unsubscribe_user("7")
            assert (await source.end())[1] == {"code": 2000, "reason": "server unsubscribe", "reconnect": False}
        async with listening(target, "kept:x", bearer(sub="7")) as source:
            await hub.refresh_user("7", expired=True)
            assert (await source.end())[1]["code"] == 3005
        async with listening(target, "kept:x", bearer(sub="7")) as source:
            await hub.refresh_user("7", expire_at=1)
            assert (await source.end())[1]["code"] == 3005


async def test_a_user_is_disconnected_while_it_comes() -> None:
    """It does not get in."""
    broker = Gated()
    async with serving_hub(broker, **PEOPLE) as (hub, target):
        source = await ask(target, path_of("x"), bearer(sub="7"))
        await eventually(lambda: len(hub.clients))
        await hub.disconnect_user("7")
        broker.gate.set()
        await source.read_head()
        assert source.status == 403
        assert (hub.registry.channels, len(hub.clients), hub._admission.connections) == ({}, 0, 0)
        await source.close()


@pytest.mark.parametrize("what", ["disconnect", "unsubscribe"])
async def test_a_user_is_thrown_out_while_the_application_decides(what: str) -> None:
    """Who he is was known, but the stream was nobody's until `on_subscribe` had answered: the order passed it by."""
    asked, gate = asyncio.Event(), asyncio.Event()
    async with serving_hub(**PEOPLE) as (hub, target):

        @hub.on_subscribe
        async def may(client: Any, channel: str) -> bool:
            asked.set()
            await gate.wait()
            return True

        source = await ask(target, path_of("x"), bearer(sub="7"))
        await asyncio.wait_for(asked.wait(), 5)
        await (hub.disconnect_user("7") if what == "disconnect" else hub.unsubscribe_user("7", "x"))
        gate.set()
        await source.read_head()
        assert source.status == 403
        assert (hub.registry.channels, len(hub.clients), hub._admission.connections) == ({}, 0, 0)
        await source.close()


@pytest.mark.parametrize("channel", ["x", ""])
async def test_a_user_is_unsubscribed_while_it_comes(channel: str) -> None:
    """By name or from all: the call was answered, and the stream began all the same. Another channel is not meant."""
    broker = Gated()
    async with serving_hub(broker, **PEOPLE) as (hub, target):
        source = await ask(target, path_of("x"), bearer(sub="7"))
        await eventually(lambda: len(hub.clients))
        await hub.unsubscribe_user("7", "y")
        await hub.unsubscribe_user("7", channel)
        broker.gate.set()
        await source.read_head()
        assert source.status == 403
        assert (hub.registry.channels, len(hub.clients), hub._admission.connections) == ({}, 0, 0)
        await source.close()
        async with listening(target, "x", bearer(sub="7")) as other:
            await other.greeting()
            await hub.unsubscribe_user("7", "y")
            await hub.publish("x", "heard")
            assert await other.take(1) == ["heard"]


@pytest.mark.parametrize("what", ["connection", "subscription"])
async def test_it_ends_with_its_token(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever expires first, and not before."""
    expiry = time.time() + 3600
    claims = {"exp": expiry} if what == "connection" else {}
    query = {"sub_token": sub_token("$x", "7", exp=expiry)} if what == "subscription" else {}
    settings = {"client_expired_grace": 0, "ping_interval": 36000, **PEOPLE}
    async with serving_hub(**settings) as (hub, target):
        async with listening(target, "$x", bearer(sub="7", channels=["$x"], **claims), **query) as source:
            await source.greeting()
            stream = stream_of(hub)
            assert 3000 < hub.deadlines.left(stream) <= 3601
            stream.on_due()
            assert list(hub.clients) == [stream]
            monkeypatch.setattr("hub.sse_client.time.time", lambda: expiry)
            stream.on_due()
            why = (await source.end())[1]
            assert why is not None
            assert why["code"] == (3005 if what == "connection" else 3006)


@pytest.mark.parametrize("http", [None, *SERVERS])
@pytest.mark.parametrize("leaving", [False, True])
async def test_an_end_that_nobody_takes(http: Any, leaving: bool) -> None:
    """Is cut off after a while."""
    async with kept_hub(http=http, slow_budget=2**24, slow_timeout=600) as (hub, target):
        source = await request(target, path_of("kept:x"), buffer=4096)
        await source.greeting()
        stream = stream_of(hub)
        if http is not None:
            while not stream.wire.queued:
                await hub.publish("kept:x", "x" * 60000)
                await asyncio.sleep(0.001)
        stream.end(Disconnects.FORCE_RECONNECT)
        stream.end(Disconnects.EXPIRED)  # it has ended
        assert (len(hub.clients), hub._admission.closed_by_code) == (0, {("sse", 3011): 1})
        if leaving:
            stream.leave()
            assert hub.deadlines.left(stream) <= 0.5
        stream.on_due()
        await eventually(lambda: not open_sse_wires())
        assert not hub.deadlines._slots
        await source.close()


async def test_silence_is_filled() -> None:
    """With comments, so that nobody on the way takes the stream for dead."""
    async with kept_hub(ping_interval=0.3, ping_timeout=0.3) as (hub, target), listening(target, "kept:x") as source:
        await source.greeting()
        await source.comment()
        await source.comment()
        await hub.publish("kept:x", "still there")
        assert await source.take(1) == ["still there"]


# Who reads too slowly


async def flooded(hub: Hub, port: Target, message: str) -> EventSource:
    """A client that stops reading, in a channel in which so much is said that it is disconnected; it reads again."""
    source = await request(port, path_of("kept:x"), buffer=4096)
    await source.greeting()
    async with asyncio.timeout(20):
        while hub._admission.connections:
            await hub.publish("kept:x", message)
            await asyncio.sleep(0)
    return source


@pytest.mark.parametrize("http", SERVERS)
async def test_who_reads_too_slowly_is_disconnected(http: Any) -> None:
    """Over its budget; counted; it comes back with its last id and has lost nothing."""
    settings = {"slow_budget": 65536, "max_message_size": 65536, "recovery_limit": 1000}
    async with kept_hub(http=http, **settings) as (hub, port):
        source = await flooded(hub, port, "x" * 60000)
        assert hub._admission.closed_by_code["sse", 3008] == 1
        assert "hub_slow_disconnects_total{} 1.0".replace("{}", '{worker="0"}') in (await hub.metrics("0")).decode()
        messages, _ = await source.end()
        await source.close()
        assert not source.complete
        total = (await hub.history("kept:x", limit=0)).position.offset
        last = source.last_id
        assert int(last.rpartition(":")[2]) == len(messages) < total
        async with listening(port, "kept:x", {"Last-Event-ID": last}) as again:
            assert (await again.greeting())["recovered"] is True
            assert len(await again.take(total - len(messages))) == total - len(messages)


@pytest.mark.parametrize("http", SERVERS)
async def test_who_takes_nothing_is_dropped(http: Any) -> None:
    """Within its budget, but for too long."""
    settings: dict[str, Any] = {"slow_budget": 2**24, "slow_timeout": 0.3}
    if http is not HubHttpProtocol:  # where we look ourselves, with the pings
        settings |= {"ping_interval": 0.3, "ping_timeout": 0.3}
    async with kept_hub(http=http, **settings) as (hub, port):
        source = await request(port, path_of("kept:x"), buffer=4096)
        await source.greeting()
        for _ in range(150):  # more than the kernel takes
            await hub.publish("kept:x", "x" * 60000)
        await eventually(lambda: not hub._admission.connections)
        assert hub._admission.closed_by_code["sse", 3008] == 1
        await source.close()


@pytest.mark.timed
@pytest.mark.parametrize("http", SERVERS)
async def test_who_reads_slowly_and_steadily_stays(http: Any) -> None:
    """What it had missed was one chunk, of which nobody saw that it was being taken: it was dropped in the middle."""
    times = {"slow_timeout": 0.7, "ping_interval": 0.3, "ping_timeout": 0.3}
    async with kept_hub(http=http, **times) as (hub, port):
        first = await hub.publish("kept:x", "0")
        for _ in range(200):
            await hub.publish("kept:x", "x" * 60000)
        last = event_id(StreamPosition(first.offset, first.epoch)).decode()
        source = await request(port, path_of("kept:x"), {"Last-Event-ID": last}, buffer=65536)
        left = 200 * 60000
        async with asyncio.timeout(60):
            while left > 0:
                taken = await source._reader.read(65536)
                assert taken, f"dropped with {left} bytes to come"
                left -= len(taken)
                await asyncio.sleep(0.015)
        assert hub._admission.connections == 1
        await source.close()


async def test_a_client_that_goes_with_another_request_behind_its_stream() -> None:
    """Its end is that of the stream, though uvicorn tells it to the last request only."""
    async with kept_hub(http=HubHttpProtocol) as (hub, port):
        source = await request(port, path_of("kept:x"))
        await source.greeting()
        source.writer.write(b"GET /sse/kept%3Ax HTTP/1.1\r\nHost: h\r\n\r\n")  # type: ignore[union-attr]
        (server,) = [server for server in wire_servers() if server.connections]
        await eventually(lambda: any(each.pipeline for each in server.connections))
        await source.close()
        async with asyncio.timeout(20):  # nothing is read behind a request that waits: it is noticed by writing
            while hub._admission.connections:
                await hub.publish("kept:x", "x")
                await asyncio.sleep(0.02)
        assert hub._admission.closed_by_code == {("sse", 1005): 1}


@pytest.mark.parametrize("http", SERVERS)
async def test_nothing_comes_behind_a_stream(http: Any) -> None:
    """On its connection: else streams that are asked for at once would end one after the other with their server."""
    async with kept_hub(http=http) as (hub, port):
        source = await request(port, path_of("kept:x"))
        assert source.headers["connection"] == "close"
        await source.greeting()
        source.writer.write(b"GET /sse/kept%3Ax HTTP/1.1\r\nHost: h\r\n\r\n")  # type: ignore[union-attr]
        for text in ("a", "b", "c"):  # it is read meanwhile: what a server leaves unread resets the connection
            await hub.publish("kept:x", text)
            assert await source.take(1) == [text]
        stream_of(hub).end(Disconnects.FORCE_RECONNECT)
        assert (await source.end())[1] == {"code": 3011, "reason": "force reconnect", "reconnect": True}
        assert source.complete
        assert await source._reader.read() == b""
        await source.close()
        assert hub._admission.closed_by_code == {("sse", 3011): 1}


# On hypercorn


async def test_on_hypercorn() -> None:
    """A stream, its end by the client, and its end by the hub."""
    hub = Hub(Settings(namespaces={"kept": KEPT}, **PEOPLE))
    async with on_hypercorn(hub) as url:
        port = int(url.rpartition(":")[2])
        async with listening(port, "kept:x", bearer(sub="7")) as source:
            await source.greeting()
            for number in range(3):
                await hub.publish("kept:x", str(number))
            last = (await source.next()).last_id
        await eventually(lambda: not hub._admission.connections)
        async with listening(port, "kept:x", {**bearer(sub="7"), "Last-Event-ID": last}) as source:
            assert (await source.greeting())["recovered"] is True
            assert await source.take(2) == ["1", "2"]
            await hub.disconnect_user("7")
            assert (await source.end())[1] == {"code": 3503, "reason": "force disconnect", "reconnect": False}
            assert source.complete


# The server ends


async def test_the_ends_are_spread() -> None:
    """Over the drain window, with a rest for those who take their time; then each is told."""
    async with kept_hub(drain=1000) as (hub, target):
        sources = [await request(target, path_of("kept:x")) for _ in range(20)]
        for source in sources:
            await source.greeting()
        streams = list(hub.clients)
        for stream in streams:
            assert isinstance(stream, EventStream)
            stream.leave()
        left = [hub.deadlines.left(stream) for stream in streams]
        assert len({stream.due for stream in streams}) > 1
        assert max(left) <= 701
        for stream, source in zip(streams, sources, strict=True):
            stream.on_due()
            assert (await source.end())[1] == {"code": 3001, "reason": "shutdown", "reconnect": True}
        assert hub.clients.users == 0


@pytest.mark.parametrize("http", SERVERS)
async def test_streams_end_with_their_server(http: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which waits for them, and has nothing to wait for after the drain window."""
    hub, app = Hub(Settings(drain=0.5), broker=MemoryBroker()), FastAPI()
    app.include_router(hub.router)
    async with serving(app, http=http) as (port, server):
        # In a test it does not handle the signals by which it is found.
        monkeypatch.setattr("hub.sse_departure.uvicorn_of_this_process", lambda: server)
        sources = [await request(port, path_of("room")) for _ in range(20)]
        for source in sources:
            await source.greeting()
        server.should_exit = True
        for messages, why in await asyncio.gather(*(source.end() for source in sources)):
            assert messages == []
            assert why is not None
            assert why["code"] == 3001
        for source in sources:
            assert source.complete
            await source.close()
    assert hub._admission.closed_by_code == {("sse", 3001): 20}


async def test_who_comes_to_a_server_that_ends() -> None:
    """Gets a stream that ends at once, not a status after which browsers give up."""
    async with kept_hub(http=HubHttpProtocol) as (_, port):
        source = await ask(port, path_of("kept:x"))
        for server in wire_servers():
            server.draining = True
        await source.read_head()
        assert source.status == 200
        await source.greeting()
        assert (await source.end())[1] == {"code": 3001, "reason": "shutdown", "reconnect": True}
        await source.close()
