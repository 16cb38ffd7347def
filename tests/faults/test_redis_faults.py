"""Redis dies, freezes, or loses connections: nobody is disconnected, nobody is left in the dark, delivery resumes.

Real workers and a real server. In each case the senders are told by an error frame that a message was not relayed,
and clients on different workers hear each other again within two seconds of Redis's return.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import redis
import websockets

from hub.pubsub import RedisBroker
from tests.support.proxy import Connection, Proxy, proxy_to
from tests.support.redis import RedisProcess, running_redis
from tests.support.relay import Ear
from tests.support.room import room_across
from tests.support.server import HubProcess, hub_serve
from tests.support.waiting import eventually

pytestmark = pytest.mark.timed

# Seconds, as promised in the documentation.
RESUME_WITHIN = 2.0
DETECT_WITHIN = 5.0


@pytest.fixture
def server(redis_binary: str) -> Iterator[RedisProcess]:
    with running_redis(redis_binary) as process:
        yield process


@pytest.fixture
def hub(server: RedisProcess) -> Iterator[HubProcess]:
    with serving(server.url) as process:
        yield process


@contextlib.contextmanager
def serving(url: str, **variables: str) -> Iterator[HubProcess]:
    """Two workers whose log is quiet at the end: no traceback, no fault that was not expected."""
    variables = {"HUB_API_KEY": "key", **variables}
    with hub_serve("-w", "2", "--redis-url", url, "--drain", "0", env=variables) as process:
        yield process
        log = process.log
    assert "Traceback" not in log
    assert "unexpected fault" not in log


# What is asked from outside


def health(hub: HubProcess) -> tuple[int, str]:
    """The status of /health/ready and the worker that answered."""
    try:
        with urllib.request.urlopen(f"{hub.url}/health/ready", timeout=2) as response:
            return response.status, json.load(response)["node"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["node"]


def all_workers_answer(hub: HubProcess, status: int, timeout: float, workers: int = 2) -> float:
    """Seconds until each worker has answered /health/ready with `status`."""
    start, nodes = time.monotonic(), set()
    while len(nodes) < workers:
        assert time.monotonic() - start < timeout, f"only {len(nodes)} workers answer {status} after {timeout} s"
        answered, node = health(hub)
        if answered == status:
            nodes.add(node)
        time.sleep(0.02)
    return time.monotonic() - start


def refusal_of_the_api(hub: HubProcess) -> float:
    """Seconds until the API refuses a publication with 503."""
    start = time.monotonic()
    assert hub.publish_status("fault", "hi", "key") == 503
    return time.monotonic() - start


def assert_two_connections_a_worker(server: RedisProcess, workers: int = 2) -> None:
    """One for commands and one for the feed, and none that was left behind."""
    with server.client() as client:
        names = sorted(entry["name"] for entry in client.client_list() if entry["name"] != "test")
    nodes = sorted({name.split("-")[1] for name in names})
    assert len(nodes) == workers
    assert names == sorted(f"hub-{node}-{role}" for node in nodes for role in ("commands", "feed"))


# Redis as a whole


async def test_redis_is_killed_and_comes_back(hub: HubProcess, server: RedisProcess) -> None:
    """kill -9, back after one second: senders are told meanwhile, the API answers 503, delivery resumes in 2 s."""
    async with room_across(hub) as room:
        assert_two_connections_a_worker(server)
        for _ in range(2):
            server.kill()
            killed = time.monotonic()
            assert await room.refused() < DETECT_WITHIN
            assert await asyncio.to_thread(refusal_of_the_api, hub) < DETECT_WITHIN
            await asyncio.to_thread(all_workers_answer, hub, 503, DETECT_WITHIN)
            await asyncio.sleep(max(0, 1 - (time.monotonic() - killed)))
            server.start()
            assert await room.resumed() < RESUME_WITHIN
            assert await asyncio.to_thread(all_workers_answer, hub, 200, DETECT_WITHIN) < RESUME_WITHIN
        assert all(error["code"] == 100 and error["temporary"] for member in room.members for error in member.errors)
        assert_two_connections_a_worker(server)


async def test_redis_freezes_for_ten_seconds(hub: HubProcess, server: RedisProcess) -> None:
    """SIGSTOP: not ready within 5 s on any worker, publications refused within 5 s, back within 2 s of SIGCONT."""
    async with room_across(hub) as room:
        server.send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        assert await asyncio.to_thread(refusal_of_the_api, hub) < DETECT_WITHIN
        assert await room.refused() < DETECT_WITHIN
        await asyncio.to_thread(all_workers_answer, hub, 503, DETECT_WITHIN)
        assert time.monotonic() - frozen < DETECT_WITHIN
        while time.monotonic() - frozen < 10:
            assert await room.refused() < DETECT_WITHIN
        server.send_signal(signal.SIGCONT)
        assert await room.resumed() < RESUME_WITHIN
        assert await asyncio.to_thread(all_workers_answer, hub, 200, DETECT_WITHIN) < RESUME_WITHIN
        assert_two_connections_a_worker(server)


async def test_redis_pauses_for_a_moment(hub: HubProcess, server: RedisProcess) -> None:
    """A pause shorter than the timeouts delays messages and loses none, on connections that stay."""
    async with room_across(hub) as room:
        with server.client() as client:
            before = sorted(entry["id"] for entry in client.client_list() if entry["name"] != "test")
            server.send_signal(signal.SIGSTOP)
            counts = [(member.sent, len(member.heard)) for member in room.members]
            for _ in range(10):
                await room.talk()
                await asyncio.sleep(0.1)
            server.send_signal(signal.SIGCONT)
            for member, (_, heard) in zip(room.members, counts, strict=True):
                await eventually(lambda member=member, heard=heard: len(member.heard) == heard + 10)
            assert sorted(entry["id"] for entry in client.client_list() if entry["name"] != "test") == before
        assert all(member.errors == [] for member in room.members)


# Single connections


async def test_subscriptions_are_killed(hub: HubProcess, server: RedisProcess) -> None:
    """CLIENT KILL TYPE pubsub, five times: back within 2 s each time, and the gap is in the log."""
    async with room_across(hub) as room:
        with server.client() as client:
            for _ in range(5):
                client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                assert await room.resumed() < RESUME_WITHIN
        assert_two_connections_a_worker(server)
        assert "publications of 1 channels may be missing until it is back" in hub.log


async def test_commands_are_killed(hub: HubProcess, server: RedisProcess) -> None:
    """CLIENT KILL TYPE normal: each message is heard or refused, none is lost in silence, none comes twice."""
    async with room_across(hub) as room:
        with server.client() as client:
            for _ in range(5):
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                for _ in range(20):
                    await room.talk()
                assert await room.resumed() < RESUME_WITHIN
        ann, bob = room.members
        await eventually(lambda: len(bob.heard) + len(ann.errors) >= ann.sent)
        await eventually(lambda: len(ann.heard) + len(bob.errors) >= bob.sent)
        for member in room.members:
            assert len(set(member.heard)) == len(member.heard)
            assert sorted(member.heard, key=lambda message: int(message.split()[1])) == member.heard
        assert_two_connections_a_worker(server)


async def test_a_worker_that_redis_cut_off_for_its_backlog(hub: HubProcess, server: RedisProcess) -> None:
    """A feed whose output buffer overflowed is dropped by Redis; it comes back by itself."""
    async with room_across(hub) as room:
        with server.client() as client:
            client.config_set("client-output-buffer-limit", "pubsub 100kb 100kb 1")
            name = client.pubsub_channels("hub:channel:*")[0]
            # In one script, so that Redis has no chance to send it.
            client.eval("for i = 1, 100 do redis.call('PUBLISH', KEYS[1], ARGV[1]) end", 1, name, b"x" * 10_000)
            await eventually(lambda: hub.log.count("feed: the connection") == 2)
            client.config_set("client-output-buffer-limit", "pubsub 32mb 8mb 60")
        assert await room.resumed() < RESUME_WITHIN
        assert_two_connections_a_worker(server)


async def test_only_rooms_with_listeners_are_subscribed(hub: HubProcess, server: RedisProcess) -> None:
    """A worker asks Redis for its own rooms and no others, and gives them back."""

    def subscribers(client: redis.Redis) -> dict[bytes, int]:
        channels = client.pubsub_channels("hub:channel:*")
        return dict(client.pubsub_numsub(*channels)) if channels else {}

    with server.client() as client:
        async with room_across(hub), websockets.connect(f"{hub.ws_url}/ws/single"):
            assert subscribers(client) == {b"hub:channel:fault": 2, b"hub:channel:single": 1}
        await eventually(lambda: subscribers(client) == {})
        # Each worker's own, and the one of all.
        assert len(client.pubsub_channels()) == 3


async def test_a_joiner_waits_for_redis_and_is_told(server: RedisProcess) -> None:
    """While Redis is away nobody is told that he is in: the handshake ends with 1013, and later attempts succeed."""
    with serving(server.url, HUB_SUBSCRIBE_TIMEOUT="1") as hub:
        server.kill()
        async with websockets.connect(f"{hub.ws_url}/ws/new") as client:
            with pytest.raises(websockets.ConnectionClosed):
                await client.recv()
            assert client.close_code == 1013
        joining = asyncio.create_task(websockets.connect(f"{hub.ws_url}/ws/new").__aenter__())
        await asyncio.sleep(0.3)
        server.start()
        client = await joining
        await client.send("in")
        assert await asyncio.wait_for(client.recv(), RESUME_WITHIN) == "in"
        await client.close()


async def test_subscriptions_are_refused_for_a_while(server: RedisProcess, caplog: pytest.LogCaptureFixture) -> None:
    """An ACL that is wrong for a moment: commands work, pings are answered, and yet the worker is not deaf for ever."""
    ear = await Ear(RedisBroker(server.url)).start()
    await ear.broker.subscribe("room")
    await eventually(lambda: ear.broker.ready)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-subscribe")
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: caplog.text.count("refused a subscription command") >= 2, 10)
        assert not ear.broker.ready
        client.execute_command("ACL", "SETUSER", "default", "+subscribe")
    await eventually(lambda: ear.broker.ready, 10)
    await ear.broker.publish("room", b"x")
    assert await ear.hears(1) == [("room", b"x")]
    await ear.broker.stop()


# Half-open connections


async def test_a_half_open_connection_of_a_worker(server: RedisProcess) -> None:
    """It swallows everything and does not end: noticed and replaced within 5 s, while the worker goes on serving."""
    with proxy_to(server.port) as proxy, serving(proxy.url) as hub:
        async with room_across(hub) as room:
            broken = proxy.open("-feed")[0]
            broken.blackhole()
            start, slowest = time.monotonic(), 0.0
            while not broken.ended:
                slowest = max(slowest, await asyncio.to_thread(time_of, hub, "/health/live"))
            await room.resumed()
            assert time.monotonic() - start < DETECT_WITHIN
            assert slowest < 0.5
        assert len(proxy.open()) == 4
        assert f"feed: {proxy.url} is silent; dropping the connection" in hub.log


def time_of(hub: HubProcess, path: str) -> float:
    """Seconds that a GET takes; it must succeed."""
    start = time.monotonic()
    assert hub.status(path) == 200
    return time.monotonic() - start


@asynccontextmanager
async def two_brokers(url: str, prefix: str = "hub") -> AsyncIterator[tuple[Ear, Ear]]:
    """One that the test disturbs, and one with the same subscription that it leaves alone."""
    ears = [Ear(RedisBroker(url, prefix=prefix)), Ear(RedisBroker(url, prefix=prefix))]
    for ear in ears:
        await ear.start()
        await ear.broker.subscribe("room")
        await eventually(lambda ear=ear: ear.broker.ready)
    try:
        yield ears[0], ears[1]
    finally:
        await asyncio.gather(*(ear.broker.stop() for ear in ears))


async def time_to_recover(disturbed: Ear, other: Ear) -> float:
    """Seconds until publications pass between the two, both ways."""
    start = time.monotonic()
    disturbed.heard.clear()
    other.heard.clear()
    both = {("room", b"from disturbed"), ("room", b"from other")}
    async with asyncio.timeout(10):
        while not both <= set(disturbed.heard) & set(other.heard):
            disturbed.broker.publish("room", b"from disturbed")
            other.broker.publish("room", b"from other")
            await asyncio.sleep(0.02)
    return time.monotonic() - start


async def test_every_half_open_connection_is_noticed(server: RedisProcess) -> None:
    """Stalled or swallowed, of either kind, or both at once: all pass again within 5 s."""

    async def recovery(proxy: Proxy, fail: Callable[[Connection], None], roles: tuple[str, ...]) -> float:
        async with two_brokers(proxy.url, f"{fail.__name__}-{roles}") as (disturbed, other):
            for role in roles:
                for connection in proxy.open(f"{disturbed.broker.node}-{role}"):
                    fail(connection)
            return await time_to_recover(disturbed, other)

    kinds = (Connection.stall, Connection.blackhole)
    cases = [(fail, roles) for fail in kinds for roles in (("feed",), ("commands",), ("feed", "commands"))]
    with proxy_to(server.port) as proxy:
        times = await asyncio.gather(*(recovery(proxy, *case) for case in cases))
    assert max(times) < DETECT_WITHIN, times
    assert min(times) > 2, times


async def test_a_healthy_connection_to_the_wrong_server(redis_binary: str, server: RedisProcess) -> None:
    """A feed that ends at a server cut off from the rest answers every ping and hears nothing: noticed within 10 s."""
    with running_redis(redis_binary) as island, proxy_to(server.port) as proxy:
        async with two_brokers(proxy.url) as (disturbed, other):
            feed = f"{disturbed.broker.node}-feed"
            proxy.route = lambda name: island.port if name.endswith(feed) else server.port
            with server.client() as client:
                kill(client, feed)
            await eventually(lambda: not disturbed.broker.ready)
            start = time.monotonic()
            await eventually(lambda: proxy.open(feed))
            stranded = proxy.open(feed)[0]
            await eventually(lambda: stranded.ended, 10)
            proxy.route = lambda name: server.port
            await time_to_recover(disturbed, other)
            assert time.monotonic() - start < 10


def kill(client: redis.Redis, name: str) -> None:
    """CLIENT KILL the connection whose name ends so."""
    for entry in client.client_list():
        if entry["name"].endswith(name):
            client.client_kill_filter(_id=entry["id"])


# Many channels


async def longest_turn(stop: asyncio.Event) -> float:
    """The longest turn of the event loop until the stop, in processor seconds: others may keep us from ours."""
    longest, last = 0.0, time.thread_time()
    while not stop.is_set():
        await asyncio.sleep(0)
        longest, last = max(longest, time.thread_time() - last), time.thread_time()
    return longest


@pytest.mark.both_loops
async def test_five_thousand_channels_come_back(server: RedisProcess) -> None:
    """All of 5,000 channels deliver again after a restart, without a turn of the event loop beyond 100 ms."""
    names = [f"room-{number}" for number in range(5000)]
    broker = RedisBroker(server.url)
    ear = await Ear(broker).start()
    await asyncio.gather(*(broker.subscribe(name) for name in names))
    server.kill()
    await eventually(lambda: broker.gaps == 1)
    server.start()
    stop = asyncio.Event()
    watching = asyncio.create_task(longest_turn(stop))
    # Ready means that all are confirmed. Nobody waits for each of them, because 5,000 tasks would be the longest turn.
    await eventually(lambda: broker.ready, RESUME_WITHIN)
    stop.set()
    assert await watching < 0.1
    await asyncio.gather(*(broker.publish(name, b"x") for name in names))
    assert {channel for channel, _ in await ear.hears(5000)} == set(names)
    with server.client() as client:
        assert len(client.pubsub_channels("hub:channel:*")) == 5000
        for name in names[10:]:
            broker.unsubscribe(name)
        await eventually(lambda: len(client.pubsub_channels("hub:channel:*")) == 10)
    await broker.stop()


async def test_a_second_loss_while_it_subscribes_again(server: RedisProcess) -> None:
    """Killed in the middle of 5,000 subscriptions, several times: in the end all of them are there."""
    names = [f"room-{number}" for number in range(5000)]
    broker = RedisBroker(server.url)
    ear = await Ear(broker).start()
    joining = [asyncio.ensure_future(broker.subscribe(name)) for name in names]
    with server.client() as client:
        for losses in range(1, 6):
            await eventually(lambda: client.pubsub_channels("hub:channel:*"))
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await eventually(lambda losses=losses: broker.gaps == losses)
        async with asyncio.timeout(5):
            await asyncio.gather(*joining)
        await eventually(lambda: broker.ready)
        assert len(client.pubsub_channels("hub:channel:*")) == 5000
    await asyncio.gather(*(broker.publish(name, b"x") for name in names))
    assert {channel for channel, _ in await ear.hears(5000)} == set(names)
    await broker.stop()
