"""Three replicas behind a real nginx with the shipped configuration."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import websockets

from tests.support import needs
from tests.support.cluster import Cluster, Replica, running_cluster
from tests.support.image import health_check
from tests.support.member import TOKEN, Member, everybody_hears_everybody, members
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster


@pytest.fixture
def cluster(redis_binary: str) -> Iterator[Cluster]:
    """For tests that end a part of it."""
    with running_cluster(redis_binary, needs.nginx()) as running:
        yield running


@pytest.fixture(scope="module")
def calm_cluster(redis_binary: str) -> Iterator[Cluster]:
    """For tests that leave it as it was."""
    with running_cluster(redis_binary, needs.nginx()) as running:
        yield running


@contextlib.asynccontextmanager
async def talking(group: list[Member]) -> AsyncIterator[list[int]]:
    """A conversation of the group meanwhile; the list has the turns in which everybody heard everybody."""
    turns: list[int] = []
    over = asyncio.Event()

    async def talk() -> None:
        while not over.is_set():
            await everybody_hears_everybody(group, f"turn-{len(turns)}")
            turns.append(len(turns))
            await asyncio.sleep(0.01)

    conversation = asyncio.create_task(talk())
    try:
        yield turns
    finally:
        over.set()
        await conversation


@contextlib.asynccontextmanager
async def visitors(cluster: Cluster) -> AsyncIterator[list[str]]:
    """One newcomer after another meanwhile; the list has those who got in."""
    guests: list[str] = []

    async def come_and_go() -> None:
        while True:
            async with websockets.connect(f"{cluster.ws_url}/ws/guests?token={TOKEN}"):
                guests.append("in")
            await asyncio.sleep(0.01)

    coming = asyncio.create_task(come_and_go())
    try:
        yield guests
    finally:
        coming.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await coming


async def test_replicas_chat(calm_cluster: Cluster) -> None:
    """Clients of three replicas hear each other through nginx, once and all in the same order."""
    async with members(calm_cluster, 9) as group:
        for turn in range(3):
            await everybody_hears_everybody(group, str(turn))
        assert len(group[0].heard) == 3 * 9
        assert all(member.heard == group[0].heard for member in group)


async def test_the_redis_of_the_compose_file_has_its_limits(calm_cluster: Cluster) -> None:
    """The one word of the command that holds four is understood, and nothing is stored."""
    with calm_cluster.redis.client(decode_responses=True) as client:
        assert "pubsub 67108864 16777216 60" in client.config_get("client-output-buffer-limit").popitem()[1]
        assert client.config_get("save")["save"] == ""


async def test_only_the_own_origin_comes_in(calm_cluster: Cluster) -> None:
    """Behind nginx the hub still knows under which host and port the page was served."""
    page = f"http://127.0.0.1:{calm_cluster.proxy.port}"
    async with websockets.connect(f"{calm_cluster.ws_url}/ws", origin=websockets.Origin(page)) as socket:
        await socket.send("hi")
        assert await socket.recv() == "hi"
    with pytest.raises(websockets.InvalidStatus) as refusal:
        await websockets.connect(f"{calm_cluster.ws_url}/ws", origin=websockets.Origin("http://127.0.0.1:1"))
    assert refusal.value.response.status_code == 403


async def test_a_replica_is_killed(cluster: Cluster) -> None:
    """kill -9 of one: the others' clients lose nothing meanwhile, the victim's come back; no log has a token."""
    async with members(cluster, 9) as group:
        victim = cluster.replica_of(group[0].worker)
        orphans = [member for member in group if member.worker == victim.worker]
        survivors = [member for member in group if member.worker != victim.worker]
        async with talking(survivors) as turns:
            await eventually(lambda: turns, 10)
            await asyncio.to_thread(victim.kill)
            await eventually(lambda: all(member.closes and member.connected.is_set() for member in orphans), 10)
            seen = len(turns)
            await eventually(lambda: len(turns) > seen, 10)
        assert [member.closes for member in survivors] == [[]] * len(survivors)
        assert [member.closes for member in orphans] == [[1006]] * len(orphans)
        assert victim.worker not in {member.worker for member in group}
        assert len(survivors[0].heard) == len(set(survivors[0].heard)) == len(turns) * len(survivors)
        assert all(member.heard == survivors[0].heard for member in survivors)
        await everybody_hears_everybody(group, "after")
    assert not any(member.refusals for member in group)
    # A connection is logged when it has ended.
    expected = len(group) + len(orphans)
    await eventually(lambda: cluster.proxy.access_log.count('"GET /ws/room" 101') == expected, 10)
    assert TOKEN not in cluster.logs


async def test_a_rolling_restart(cluster: Cluster) -> None:
    """One after another is restarted: every close says 1012, nobody is refused, everybody chats again."""
    async with members(cluster, 9) as group, visitors(cluster) as guests:
        for turn, replica in enumerate(cluster.replicas.values()):
            assert await asyncio.to_thread(replica.stop) == 0
            replica.start()
            await asyncio.to_thread(replica.wait_ready)
            await everybody_hears_everybody(group, f"restart-{turn}")
        closes = [code for member in group for code in member.closes]
        assert len(closes) >= len(group)
        assert set(closes) == {1012}
        assert len(guests) > len(closes)
    assert not any(member.refusals for member in group)
    assert "Traceback" not in cluster.logs
    assert TOKEN not in cluster.logs


async def test_the_health_check_of_the_image(cluster: Cluster) -> None:
    """It says healthy, and when Redis has gone unhealthy: within the 5 s in which readiness turns false."""
    replica = cluster.replicas["hub1"]
    assert await passes_health_check(replica)
    cluster.redis.kill()
    async with asyncio.timeout(10):
        while await passes_health_check(replica):
            pass


async def passes_health_check(replica: Replica) -> bool:
    """The image's own command, with the address of this replica."""
    program, *arguments = (word.replace(":8000/", f":{replica.port}/") for word in health_check())
    assert program == "python"
    check = await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=asyncio.subprocess.DEVNULL)
    return await check.wait() == 0
