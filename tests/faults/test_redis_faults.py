"""Redis dies, freezes, or loses connections: nobody is disconnected, nobody is left in the dark, delivery resumes.

Real workers and a real server. In each case the senders learn at once or by an error frame that a message was not
relayed, and clients on different workers hear each other again within two seconds of Redis's return.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import redis
import websockets
from websockets.protocol import State

from tests.support.redis import RedisProcess, running_redis
from tests.support.server import HubProcess, hub_serve

RESUME_WITHIN = 2.0


@pytest.fixture
def server(redis_binary: str) -> Iterator[RedisProcess]:
    with running_redis(redis_binary) as process:
        yield process


@pytest.fixture
def hub(server: RedisProcess) -> Iterator[HubProcess]:
    with hub_serve("-w", "2", "--redis-url", server.url, "--drain", "0", env={"HUB_API_KEY": "key"}) as process:
        yield process


class Pair:
    """Two clients of one room on different workers, and what the second has heard."""

    def __init__(self, sender: websockets.ClientConnection, receiver: websockets.ClientConnection) -> None:
        self.sender, self.receiver = sender, receiver
        self._number = 0
        self.errors: list[str] = []

    async def resumed(self, timeout: float) -> float:
        """Send until something sent after now arrives; seconds that took."""
        start = time.monotonic()
        first = self._number + 1
        async with asyncio.timeout(timeout):
            while True:
                self._number += 1
                await self.sender.send(str(self._number))
                heard = await self._heard(0.05)
                if heard and max(heard) >= first:
                    return time.monotonic() - start

    async def _heard(self, seconds: float) -> list[int]:
        heard = []
        try:
            async with asyncio.timeout(seconds):
                while True:
                    heard.append(int(await self.receiver.recv()))
        except TimeoutError:
            return heard

    async def error(self, timeout: float) -> dict[str, object]:
        """Send one message and wait for the hub's refusal of it."""
        await self.sender.send("0")
        async with asyncio.timeout(timeout):
            while True:
                body = json.loads(await self.sender.recv())
                if isinstance(body, dict) and "error" in body["hub"]:
                    error: dict[str, object] = body["hub"]["error"]
                    return error


@asynccontextmanager
async def connected_pair(hub: HubProcess) -> AsyncIterator[Pair]:
    """Two clients that different workers serve; they must still be connected at the end."""
    by_worker: dict[int, websockets.ClientConnection] = {}
    while len(by_worker) < 2:
        client = await websockets.connect(f"{hub.ws_url}/ws/fault?hello=1", ping_interval=None)
        worker = json.loads(await client.recv())["hub"]["hello"]["worker"]
        if by_worker.setdefault(worker, client) is not client:
            await client.close()
    pair = Pair(*by_worker.values())
    try:
        await pair.resumed(5)
        yield pair
        assert [client.state for client in by_worker.values()] == [State.OPEN, State.OPEN]
    finally:
        await asyncio.gather(*(client.close() for client in by_worker.values()))


def readiness_lost_after(hub: HubProcess, timeout: float) -> float:
    """Seconds until the readiness of some worker turns 503."""
    start = time.monotonic()
    while time.monotonic() - start < timeout:
        if hub.status("/health/ready") == 503:
            return time.monotonic() - start
        time.sleep(0.05)
    raise AssertionError(f"still ready after {timeout} s")


def assert_quiet_log(hub: HubProcess) -> None:
    assert "Traceback" not in hub.log
    assert "unexpected fault" not in hub.log


async def test_redis_is_killed_and_comes_back(hub: HubProcess, server: RedisProcess) -> None:
    """kill -9 and a restart after two seconds: the sender is told, delivery resumes within 2 s, all stay connected."""
    async with connected_pair(hub) as pair:
        server.kill()
        error = await pair.error(5)
        assert error["code"] == 100
        assert error["temporary"] is True
        await asyncio.to_thread(readiness_lost_after, hub, 5)
        await asyncio.sleep(1)
        server.start()
        assert await pair.resumed(10) < RESUME_WITHIN
        assert_quiet_log(hub)


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_connections_are_killed(hub: HubProcess, server: RedisProcess, kind: str) -> None:
    """CLIENT KILL of either connection, five times: back within 2 s each time, with two connections a worker."""
    async with connected_pair(hub) as pair:
        with server.client() as client:
            for _ in range(5):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
                assert await pair.resumed(10) < RESUME_WITHIN
            await asyncio.wait_for(two_connections_a_worker(client), 5)
        assert_quiet_log(hub)


async def two_connections_a_worker(client: redis.Redis) -> None:
    """Until Redis lists just these; one that was killed may linger there for a moment."""
    while True:
        names = [entry["name"] for entry in client.client_list() if entry["name"].startswith("hub-")]
        nodes, roles = zip(*(name.removeprefix("hub-").rsplit("-", 1) for name in names), strict=True)
        if sorted(roles) == ["commands", "commands", "feed", "feed"] and len(set(nodes)) == 2:
            return
        await asyncio.sleep(0.05)


async def test_redis_freezes_for_ten_seconds(hub: HubProcess, server: RedisProcess) -> None:
    """SIGSTOP: not ready within 5 s, the API answers 503 within 5 s, delivery resumes within 2 s of SIGCONT."""
    async with connected_pair(hub) as pair:
        start = time.monotonic()
        server.send_signal(signal.SIGSTOP)
        try:
            assert (await pair.error(5))["code"] == 100
            assert await asyncio.to_thread(readiness_lost_after, hub, 5) < 5
            assert await asyncio.to_thread(hub.publish_status, "fault", "1", "key") == 503
            await asyncio.sleep(10 - (time.monotonic() - start))
        finally:
            server.send_signal(signal.SIGCONT)
        assert await pair.resumed(10) < RESUME_WITHIN
        assert_quiet_log(hub)


async def test_a_joiner_waits_for_redis_and_is_told(hub: HubProcess, server: RedisProcess) -> None:
    """While Redis is away nobody is told that he is in: the handshake ends with 1013."""
    server.kill()
    async with websockets.connect(f"{hub.ws_url}/ws/new", open_timeout=15) as client:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
    server.start()
    async with websockets.connect(f"{hub.ws_url}/ws/new", open_timeout=15) as client:
        await client.send("in")
        assert await asyncio.wait_for(client.recv(), 5) == "in"


async def test_five_thousand_channels_come_back(redis_binary: str) -> None:
    """All of 5,000 channels deliver again after a restart, and only channels with listeners are subscribed."""
    from hub.pubsub import RedisBroker

    names = [f"room-{number}" for number in range(5000)]
    heard: set[str] = set()
    with running_redis(redis_binary) as server:
        broker = RedisBroker(server.url)
        await broker.start(lambda channel, payload: heard.add(channel))
        async with asyncio.timeout(20):
            await asyncio.gather(*(broker.subscribe(name) for name in names))
            server.kill()
            while broker.gaps == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            server.start()
            start = time.monotonic()
            await asyncio.gather(*(broker.subscribe(name) for name in names))
            assert time.monotonic() - start < RESUME_WITHIN + 1
            await asyncio.gather(*(broker.publish(name, b"x") for name in names))
            while len(heard) < len(names):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        with server.client() as client:
            assert len(client.pubsub_channels("hub:channel:*")) == 5000
            for name in names[:4990]:
                broker.unsubscribe(name)
            await wait_for_channels(client, 10)
        await broker.stop()


async def wait_for_channels(client: redis.Redis, count: int) -> None:
    """Until Redis has `count` of the hub's channels."""
    async with asyncio.timeout(10):
        while len(client.pubsub_channels("hub:channel:*")) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
