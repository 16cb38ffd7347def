"""Three replicas behind a real nginx with the shipped configuration."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator

import pytest
import websockets

from tests.support import needs
from tests.support.cluster import Cluster, running_cluster

pytestmark = pytest.mark.cluster


@pytest.fixture
def cluster(redis_binary: str) -> Iterator[Cluster]:
    with running_cluster(redis_binary, needs.nginx()) as running:
        yield running


class Member:
    """A chat client that comes back when its connection ends, as the page does."""

    def __init__(self, cluster: Cluster, room: str) -> None:
        self._url = f"{cluster.ws_url}/ws/{room}?hello=1&token=s3cret"
        self._task = asyncio.create_task(self._run())
        self._socket: websockets.ClientConnection | None = None
        self.connected = asyncio.Event()
        self.worker = 0
        # Close codes seen, and texts heard.
        self.closes: list[int] = []
        self.heard: list[str] = []
        self._news = asyncio.Event()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError, websockets.InvalidHandshake, TimeoutError):
                async with websockets.connect(self._url, ping_interval=None) as self._socket:
                    await self._listen(self._socket)
            self.connected.clear()
            await asyncio.sleep(0.05)

    async def _listen(self, socket: websockets.ClientConnection) -> None:
        try:
            self.worker = json.loads(await socket.recv())["hub"]["hello"]["worker"]
            self.connected.set()
            while True:
                self.heard.append(str(await socket.recv()))
                self._news.set()
        except websockets.ConnectionClosed as closed:
            self.closes.append(closed.rcvd.code if closed.rcvd else 1006)

    async def say(self, text: str) -> None:
        await self.connected.wait()
        assert self._socket is not None
        await self._socket.send(text)

    async def hears(self, text: str) -> None:
        while text not in self.heard:
            self._news.clear()
            await self._news.wait()

    async def leave(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def members(cluster: Cluster, count: int, room: str = "room"):  # type: ignore[no-untyped-def]
    """`count` members, all connected, on every replica."""
    group = [Member(cluster, room) for _ in range(count)]
    try:
        async with asyncio.timeout(20):
            await asyncio.gather(*(member.connected.wait() for member in group))
        assert {cluster.replica_of(member.worker) for member in group} == set(cluster.replicas.values())
        yield group
    finally:
        await asyncio.gather(*(member.leave() for member in group))


async def everybody_hears_everybody(group: list[Member], turn: str) -> None:
    """Each says one thing; all hear all of it."""
    said = [f"{turn}-{number}" for number in range(len(group))]
    async with asyncio.timeout(20):
        await asyncio.gather(*(member.say(text) for member, text in zip(group, said, strict=True)))
        await asyncio.gather(*(member.hears(text) for member in group for text in said))


async def test_replicas_chat(cluster: Cluster) -> None:
    """Clients of three replicas hear each other through nginx; no token is in any log."""
    async with members(cluster, 9) as group:
        for turn in range(3):
            await everybody_hears_everybody(group, str(turn))
    assert "GET /ws/room" in cluster.access_log
    assert "s3cret" not in cluster.access_log + "".join(replica.log for replica in cluster.replicas.values())


async def test_a_replica_is_killed(cluster: Cluster) -> None:
    """kill -9 of one: the others' clients lose nothing meanwhile, the victim's come back through nginx."""
    async with members(cluster, 9) as group:
        victim = cluster.replica_of(group[0].worker)
        orphans = [member for member in group if cluster.replica_of(member.worker) is victim]
        survivors = [member for member in group if member not in orphans]
        chat = asyncio.create_task(talk(survivors, 40))
        await asyncio.sleep(0.2)
        victim.kill()
        await chat
        assert [member.closes for member in survivors] == [[]] * len(survivors)
        async with asyncio.timeout(10):
            while not all(member.closes and member.connected.is_set() for member in orphans):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await everybody_hears_everybody(group, "after")


async def talk(group: list[Member], turns: int) -> None:
    """A conversation that takes a while; each member hears everything."""
    for turn in range(turns):
        await everybody_hears_everybody(group, f"turn-{turn}")
        await asyncio.sleep(0.02)


async def test_a_rolling_restart(cluster: Cluster) -> None:
    """One after another is restarted: every close says 1012, everybody comes back, exit statuses are 0."""
    async with members(cluster, 9) as group:
        for turn, replica in enumerate(cluster.replicas.values()):
            assert await asyncio.to_thread(replica.stop) == 0
            replica.start()
            await asyncio.to_thread(replica.wait_ready)
            await everybody_hears_everybody(group, f"restart-{turn}")
        closes = [code for member in group for code in member.closes]
        assert len(closes) >= len(group)
        assert set(closes) == {1012}
        assert not any("Traceback" in replica.log for replica in cluster.replicas.values())
