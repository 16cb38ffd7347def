"""The core: what is published is written once a tick, in order, to those who listen."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from hub import Hub, Settings
from hub.embedded import EmbeddedServer
from hub.errors import BrokerUnavailable, InvalidChannel, MessageTooBig
from hub.hub import HubCore, publication_of
from hub.memory import MemoryBroker
from hub.protocol.envelope import encode
from hub.protocol.frames import binary_frame, text_frame
from hub.registry import KeepsAll
from hub.types import DataKind, Publication, PublishResult


class Client(KeepsAll):
    """A subscriber whose connection is a list of writes."""

    def __init__(self, id_: bytes = b"") -> None:
        self.id = id_
        self.writes: list[bytes] = []
        self.write = self.writes.append

    @property
    def wire(self) -> Client:
        return self


class SilentBroker(MemoryBroker):
    """Never confirms a subscription."""

    def subscribe(self, channel: str) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    ("data", "publication"),
    [
        ("hi", Publication(b"hi", DataKind.TEXT)),
        (b"\x00\xff", Publication(b"\x00\xff", DataKind.BINARY)),
        ({"BTC": 1}, Publication(b'{"BTC":1}', DataKind.JSON)),
        ([1, None, "é"], Publication('[1,null,"é"]'.encode(), DataKind.JSON)),
        (msgspec.Raw(b'{ "a":\n1.50 }'), Publication(b'{"a":1.50}', DataKind.JSON)),
    ],
)
def test_python_values_as_messages(data: object, publication: Publication) -> None:
    """bytes are binary, a str is the text that it is, all else is JSON text."""
    assert publication_of(data) == publication
    with pytest.raises(TypeError):
        publication_of(object())


@pytest.mark.parametrize(
    ("data", "tags", "error"),
    [
        (1, {"n": 1}, TypeError),
        (msgspec.Raw(b'"\xff"'), None, UnicodeDecodeError),
        (msgspec.Raw(b"1 2"), None, msgspec.DecodeError),
    ],
)
def test_what_nobody_could_read_is_refused(data: object, tags: Any, error: type[Exception]) -> None:
    """By the call: every worker would drop it, and in a history it would be missing to whoever recovers."""
    with pytest.raises(error):
        publication_of(data, tags=tags)


async def test_one_write_a_tick() -> None:
    """Publications of one tick reach a client as one write, in order; text stays text and binary binary."""
    async with HubCore(MemoryBroker()) as hub:
        client = Client()
        await hub.subscribe(client, "room")
        for payload in (b"1", b"2"):
            hub.deliver("room", encode(Publication(payload)))
        hub.deliver("room", encode(Publication(b"\xff", DataKind.BINARY)))
        assert client.writes == []
        await asyncio.sleep(0)
        assert client.writes == [text_frame(b"1") + text_frame(b"2") + binary_frame(b"\xff")]


async def test_the_excluded_get_only_the_others_messages() -> None:
    """echo=0: one's own messages are left out of the tick's write, and no empty write is made."""
    async with HubCore(MemoryBroker()) as hub:
        ann, bob = Client(hub.next_id()), Client()
        await hub.subscribe(ann, "room")
        await hub.subscribe(bob, "room")
        hub.deliver("room", encode(Publication(b"mine", exclude=ann.id)))
        hub.deliver("room", encode(Publication(b"other")))
        await asyncio.sleep(0)
        hub.deliver("room", encode(Publication(b"mine", exclude=ann.id)))
        await asyncio.sleep(0)
        assert ann.writes == [text_frame(b"other")]
        assert bob.writes == [text_frame(b"mine") + text_frame(b"other"), text_frame(b"mine")]


async def test_publish_reaches_subscribers_only() -> None:
    """A publication goes to its channel and to nobody who has left it."""
    async with HubCore(MemoryBroker()) as hub:
        here, gone, elsewhere = Client(), Client(), Client()
        await hub.subscribe(here, "a")
        await hub.subscribe(gone, "a")
        await hub.subscribe(elsewhere, "b")
        hub.unsubscribe(gone, "a")
        await hub.publish("a", "x")
        await asyncio.sleep(0.01)
        assert (here.writes, gone.writes, elsewhere.writes) == ([text_frame(b"x")], [], [])
        hub.remove(here)
        hub.remove(here)
        assert "1 channels, 1 clients, memory ready" in repr(hub)


async def test_a_failing_client_does_not_stop_the_channel_next_to_it() -> None:
    """A fault in one channel's fan-out is logged and the tick's other channels are written."""
    async with HubCore(MemoryBroker()) as hub:
        broken, client = Client(), Client()
        broken.write = None  # type: ignore[assignment]
        await hub.subscribe(broken, "a")
        await hub.subscribe(client, "b")
        hub.deliver("a", encode(Publication(b"x")))
        hub.deliver("b", encode(Publication(b"x")))
        await asyncio.sleep(0)
        assert client.writes == [text_frame(b"x")]


async def test_foreign_messages_are_counted_and_skipped() -> None:
    """What is not the hub's in Redis is neither fatal nor silent."""
    async with HubCore(MemoryBroker()) as hub:
        client = Client()
        await hub.subscribe(client, "room")
        hub.deliver("room", b"junk")
        hub.deliver("room", encode(Publication(b"good")))
        await asyncio.sleep(0)
        assert client.writes == [text_frame(b"good")]
        assert hub.malformed.total == 1


async def test_a_joiner_is_not_in_before_the_broker_confirms() -> None:
    """Without a confirmation in time the joiner is told, and nothing is left behind."""
    async with HubCore(SilentBroker(), subscribe_timeout=0.02) as hub:
        with pytest.raises(BrokerUnavailable, match="not confirmed"):
            await hub.subscribe(Client(), "room")
        assert hub.registry.channels == {}
        joining = asyncio.create_task(hub.subscribe(Client(), "room"))
        await asyncio.sleep(0)
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        assert hub.registry.channels == {}


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "\x00", "\x7f", "\ud800"])
async def test_bad_channel_names(name: str) -> None:
    """Publishing to an impossible channel is the caller's error."""
    async with HubCore(MemoryBroker()) as hub:
        with pytest.raises(InvalidChannel):
            await hub.publish(name, "x")


@pytest.mark.parametrize("name", ["x" * 255, "a/b", "räum 1", "日本", "#$:*?"])
async def test_good_channel_names(name: str) -> None:
    """Everything printable, spaces and other scripts are names."""
    async with HubCore(MemoryBroker()) as hub:
        await hub.publish(name, "x")


async def test_the_size_limit_acts_before_redis() -> None:
    """One huge publication would make Redis cut off every worker that listens."""
    async with HubCore(MemoryBroker(), max_message_size=10) as hub:
        await hub.publish("room", b"x" * 10)
        with pytest.raises(MessageTooBig, match="HUB_MAX_MESSAGE_SIZE"):
            await hub.publish("room", b"x" * 11)


async def test_it_starts_by_itself_and_once() -> None:
    """A publication before the start starts the hub; two starts are one."""
    hub = HubCore(MemoryBroker())
    assert not hub.ready
    await asyncio.gather(hub.publish("room", "x"), hub.start())
    assert hub.ready
    await hub.stop()
    await hub.stop()
    assert "stopped" in repr(hub)


async def test_it_stays_in_its_loop(redis_server: EmbeddedServer) -> None:
    """A thread with an event loop of its own would take it along: two connections more for each time, and for ever."""
    async with Hub(Settings(), redis=redis_server.url) as hub:
        with pytest.raises(RuntimeError, match="in the event loop of another thread"):
            await asyncio.to_thread(asyncio.run, hub.publish("room", "hi"))
        loop = asyncio.get_running_loop()
        sent = asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(hub.publish("room", "hi"), loop).result(5))
        assert await sent == PublishResult()


FORKS = """
import asyncio, os
from hub import ChannelOptions, Hub, Settings

PARENT = os.getpid()
hub = Hub(Settings(namespaces={"room": ChannelOptions(presence=True)}))

async def main():
    async with hub:
        me = hub.next_id().decode()
        await hub.broker.presence.add("room:1", me, "", b'{"user":"","client":"%s"}' % me.encode(), announce=False)
        async with asyncio.timeout(10):
            while len(await hub.presence("room:1")) < 2:
                await asyncio.sleep(0.01)
            while len(await hub.info()) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(1)

children = [os.fork() for _ in range(2) if os.getpid() == PARENT]
if 0 in children:
    try:
        asyncio.run(main())
    except BaseException:
        os._exit(1)
    os._exit(0)
raise SystemExit(any(os.waitpid(child, 0)[1] for child in children))
"""


def test_workers_of_one_fork(redis_server: EmbeddedServer) -> None:
    """As `gunicorn --preload` makes them: with one name they had the same connection ids, and the same presences."""
    environment = {**os.environ, "REDIS_URL": redis_server.url}
    run = subprocess.run([sys.executable, "-c", FORKS], env=environment, capture_output=True, timeout=40, check=False)
    assert (run.returncode, run.stderr) == (0, b"")
