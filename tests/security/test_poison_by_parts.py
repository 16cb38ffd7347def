"""The parts that meet what is not the hub's, one by one; test_poisoned_redis.py has them all together."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio as aioredis
from starlette.requests import HTTPConnection

from hub import Settings
from hub.admission import Admission
from hub.embedded import EmbeddedServer
from hub.errors import BrokerUnavailable, Disconnects
from hub.memory import MemoryBroker
from hub.protocol import envelope
from hub.protocol.replies import read_client_info
from hub.protocol.stream import Filled, Stream
from hub.pubsub import RedisBroker
from hub.redis_presence import OCCUPIED, _infos, malformed_entries
from hub.registry import Registry
from hub.streams import Streams
from hub.types import ClientInfo, DataKind, HistoryOptions, HistoryPage, Publication, StreamPosition
from tests.support.security_poison import BAD_ENTRIES, BAD_EVENTS
from tests.support.waiting import eventually

HISTORY = HistoryOptions(size=10, ttl=60, meta_ttl=600)


@pytest.mark.parametrize("what", BAD_EVENTS)
def test_events(what: str) -> None:
    """No piece of poison is an event."""
    with pytest.raises(ValueError, match=r"."):
        envelope.decode(BAD_EVENTS[what])


def test_deep_data() -> None:
    """JSON deeper than a parser goes was published by somebody who was allowed to: it is passed on."""
    data = b"[" * 5000 + b"]" * 5000
    assert envelope.decode(b"j\0" + data) == Publication(data, DataKind.JSON)


def test_a_position_that_is_not_reached() -> None:
    """What was there before a read, and is beyond what the read has found, is given up."""
    stream = Stream(HISTORY, 100)
    stream.begin()
    stream.fill([], StreamPosition(5, "A"), 0.0)
    assert stream.arrive(Publication(b"1", offset=1000, epoch="A"), 0.0) is None
    stream.begin()
    assert stream.arrive(Publication(b"2", offset=7, epoch="A"), 0.0) == []
    assert stream.fill([], StreamPosition(5, "A"), 0.0) == Filled([], False, 1)
    assert stream.gap  # of what has come since: that may be further than the read


async def test_entries_of_a_history() -> None:
    """They are counted and left out, and so are joins, which have no place there."""
    streams = Streams(MemoryBroker(), Registry(), lambda channel, event: None, 100)
    bad = [(number, *entry.values()) for number, entry in enumerate(BAD_ENTRIES, 1)]
    page = HistoryPage([*bad, (98, b"+{}"), (99, b"j\0001")], StreamPosition(99, "A"))
    assert [publication.offset for publication in streams.publications("x", page)] == [99]
    assert streams.malformed.total == len(bad) + 1


def test_entries_of_presence() -> None:
    """What is no entry is counted and left out."""
    before = malformed_entries()
    reply = [b"good", b"lease 1 1 7{}", b"bad", b"hello", b"\xff", b"lease 1 1 7{}", b"long", b"lease 1 " + b"9" * 5000]
    assert _infos(reply) == {"good": b"{}"}
    assert malformed_entries() == before + 3


def test_who_it_is() -> None:
    """An object of another shape is nobody, and what is no object is told to nobody."""
    assert read_client_info(b'{"user":42}') == read_client_info(b"{}") == ClientInfo(user="", client="")
    assert [envelope.is_json_object(info) for info in (b"{}", b"[]", b"", b'{"a":\n1}', b'{"', b'{"\xff"}')] == [
        True, *[False] * 5,
    ]  # fmt: skip


async def test_a_key_that_is_occupied(redis_server: EmbeddedServer) -> None:
    """Who waits for an entry there is refused, others are not; when the key is free, the entry comes by itself."""
    broker = RedisBroker(redis_server.url, presence_lease=1)
    async with aioredis.Redis.from_url(redis_server.url) as redis:
        await redis.set("hub:presence:{taken}", "somebody else's")
        await broker.start(lambda channel, payload: None)
        try:
            await eventually(lambda: broker.ready)
            taken = broker.presence.add("taken", "c1", "7", b"{}", announce=False)
            free = broker.presence.add("free", "c1", "7", b"{}", announce=False)
            with pytest.raises(BrokerUnavailable, match=OCCUPIED):
                await taken
            await free
            assert await broker.presence.read("free") == {"c1": b"{}"}
            await redis.delete("hub:presence:{taken}")
            async with asyncio.timeout(5):
                while await broker.presence.read("taken") != {"c1": b"{}"}:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        finally:
            await broker.stop()


@pytest.mark.parametrize("origin", ["http://[", "http://a]b"])
async def test_an_origin_that_is_no_address(origin: str) -> None:
    """It is foreign, and no fault."""
    scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": [(b"origin", origin.encode())]}
    assert await Admission(Settings()).check(HTTPConnection(scope)) is Disconnects.FORBIDDEN_ORIGIN
