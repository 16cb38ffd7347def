"""Who is there, through the whole stack: real sockets come and go, and the workers that hold them are killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import httpx2
import pytest
import websockets

from tests.support.centrifuge import Client, connected
from tests.support.deployment import KEY, kill, serving, workers_of
from tests.support.redis import RedisProcess, running_redis
from tests.support.server import HubProcess
from tests.support.waiting import eventually

ROOM = "room:storm"
LEASE = 2.0
STEPS = 1000
# Clients that come or go at the same time, and that are there at the same time.
AT_ONCE = 20
MOST = 150
KILLS = 12


@pytest.fixture
def server(redis_binary: str) -> Iterator[RedisProcess]:
    with running_redis(redis_binary) as process:
        yield process


@pytest.fixture
def hubs(server: RedisProcess) -> Iterator[list[HubProcess]]:
    """Three, of which the first has the observer and is left alone."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(serving(server.url, workers=1, HUB_PRESENCE_LEASE=str(LEASE))) for _ in range(3)
        ]  # fmt: skip


class Observer:
    """Hears every join and leave of the room, and asks every hub who is there."""

    def __init__(self, listener: Client, hubs: list[HubProcess]) -> None:
        self._listener = listener
        self._hubs = hubs

    @property
    def client(self) -> str:
        connect: str = self._listener.received[0]["connect"]["client"]
        return connect

    @property
    def comings(self) -> list[tuple[str, str]]:
        """("join" or "leave", client id) in the order in which they were heard."""
        pushes = (message["push"] for message in self._listener.received if "push" in message)
        return [
            (kind, push[kind]["info"]["client"]) for push in pushes for kind in ("join", "leave") if kind in push
        ]  # fmt: skip

    def count(self, kind: str) -> Counter[str]:
        return Counter(client for each, client in self.comings if each == kind)

    @property
    def present(self) -> set[str]:
        """By what was heard."""
        return set(self.count("join") - self.count("leave"))

    async def asked(self, http: httpx2.AsyncClient) -> list[tuple[set[str], int]]:
        """What each hub says who is there, and how many."""
        answers = []
        for hub in self._hubs:
            stats = (await http.post(f"{hub.url}/api/presence_stats", json={"channel": ROOM})).json()["result"]
            presence = (await http.post(f"{hub.url}/api/presence", json={"channel": ROOM})).json()["result"]["presence"]
            answers.append((set(presence), stats["num_clients"]))
        return answers

    async def agrees(self, expected: set[str], timeout: float) -> None:
        """Wait until everybody says that exactly these are there. Raises AssertionError with the difference."""
        answers: list[tuple[set[str], int]] = []
        async with httpx2.AsyncClient(headers={"X-API-Key": KEY}, trust_env=False) as http:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    while self.present != expected or answers != [(expected, len(expected))] * len(self._hubs):
                        await asyncio.sleep(0.1)
                        answers = await self.asked(http)
        assert self.present == expected
        assert answers == [(expected, len(expected))] * len(self._hubs)


@pytest.fixture
async def observer(hubs: list[HubProcess]) -> AsyncIterator[Observer]:
    async with connected(hubs[0].ws_url) as listener:
        await listener.ask("subscribe", channel=ROOM)
        yield Observer(listener, hubs)
        assert listener.end is None


class Storm:
    """Clients of random hubs; `present` is who was told that he is in, and has not gone."""

    def __init__(self, hubs: list[HubProcess], seed: int) -> None:
        self._hubs = hubs
        self._rng = random.Random(seed)
        self._limit = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: dict[str, Client] = {}
        # Everybody who has heard that he joined, and those whose worker was killed before that.
        self.joined: set[str] = set()
        self.unsure: set[str] = set()
        self.kills = 0

    @property
    def present(self) -> set[str]:
        return {name for name, client in self._clients.items() if client.end is None}

    async def rage(self, steps: int) -> None:
        fatal = {steps * (number + 1) // (KILLS + 1) for number in range(KILLS)}
        for step in range(steps):
            if step in fatal:
                self._kill()
            elif len(self._clients) < MOST and self._rng.random() < 0.55:
                await self._start(self._join())
            elif self._clients:
                name = self._rng.choice(sorted(self._clients))
                await self._start(self._leave(self._clients.pop(name)))
        await asyncio.gather(*self._tasks)

    async def calm(self) -> None:
        """All go; may be called twice."""
        await asyncio.gather(*self._tasks, *(client.leave() for client in self._clients.values()))
        self._clients.clear()

    async def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """As a task, when there are not too many; with a moment now and then for what happens by itself."""
        await self._limit.acquire()
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._limit.release())
        await asyncio.sleep(self._rng.choice((0, 0, 0.005)))

    def _kill(self) -> None:
        """kill -9 of the worker of a hub that is not the observer's."""
        for pid in workers_of(self._rng.choice(self._hubs[1:])):
            kill(pid)
            self.kills += 1

    async def _join(self) -> None:
        try:
            client = await Client.open(self._rng.choice(self._hubs).ws_url)
        except (OSError, websockets.InvalidHandshake):  # the worker was killed meanwhile
            return
        name = ""
        try:
            name = (await client.ask("connect"))["client"]
            assert "error" not in await client.ask("subscribe", channel=ROOM)
            await hears_itself(client, name)
        except ConnectionError:
            self.unsure.add(name)
            await client.leave()
        else:
            self.joined.add(name)
            self._clients[name] = client

    async def _leave(self, client: Client) -> None:
        """In one of the ways in which one can."""
        way = self._rng.randrange(3)
        if way == 0:
            with contextlib.suppress(ConnectionError):
                await client.ask("unsubscribe", channel=ROOM)
        elif way == 1:
            client.abort()
        await client.leave()


async def hears_itself(client: Client, name: str) -> None:
    """Wait for the client's own join; after the reply, Redis may not have it yet for a moment."""
    for number in itertools.count(1):
        if (await client.push(ROOM, "join", number))["info"]["client"] == name:
            return


def alternates(comings: list[tuple[str, str]]) -> bool:
    """Nobody leaves before he has joined, or joins twice in a row."""
    inside: set[str] = set()
    for kind, client in comings:
        if (kind == "join") is (client in inside):
            return False
        inside ^= {client}
    return True


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_storm_of_joins_leaves_and_kills(hubs: list[HubProcess], observer: Observer, seed: int) -> None:
    """A thousand: at the end presence is exact everywhere, and everybody was announced once and bid farewell once."""
    storm = Storm(hubs, seed)
    try:
        await storm.rage(STEPS)
        assert storm.kills >= KILLS / 2
        expected = {*storm.present, observer.client}
        await observer.agrees(expected, 4 * LEASE)
        check_announcements(storm, observer, expected)
    finally:
        await storm.calm()
    await observer.agrees({observer.client}, 2 * LEASE)
    check_announcements(storm, observer, {observer.client})


def check_announcements(storm: Storm, observer: Observer, present: set[str]) -> None:
    """One join for each, and one leave for each that is not there any more."""
    joins, leaves = observer.count("join"), observer.count("leave")
    known = {*storm.joined, observer.client}
    assert joins.keys() - storm.unsure == known - storm.unsure
    assert {client: count for client, count in (joins | leaves).items() if count > 1} == {}
    assert leaves.keys() == joins.keys() - present
    assert alternates(observer.comings)
    assert len(storm.unsure) < len(storm.joined) / 4


async def test_a_worker_is_killed(hubs: list[HubProcess], observer: Observer) -> None:
    """Its fifty clients leave within the lease, each once; those of another worker stay, none of them is announced."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(hub.ws_url)) for hub in hubs[1:] for _ in range(50)]
        for client in clients:
            await client.ask("subscribe", channel=ROOM)
        await eventually(lambda: len(observer.comings) == 101)
        names = [client.received[0]["connect"]["client"] for client in clients]
        kill(workers_of(hubs[1])[0])
        killed = asyncio.get_running_loop().time()
        await eventually(lambda: len(observer.count("leave")) == 50, LEASE + 1)
        assert asyncio.get_running_loop().time() - killed < LEASE + 0.5
        await observer.agrees({observer.client, *names[50:]}, LEASE)
        await asyncio.sleep(LEASE)
        assert observer.count("leave") == dict.fromkeys(names[:50], 1)
        assert observer.count("join") == dict.fromkeys([observer.client, *names], 1)


async def test_clients_come_back_after_a_kill(hubs: list[HubProcess], observer: Observer) -> None:
    """As SDKs do, at once and as other clients: for a moment both are there, and then only the new ones."""
    users = itertools.count()

    async def come(hub: HubProcess) -> Client:
        client = await Client.open(hub.ws_url)
        await client.ask("connect", data=next(users))
        await client.ask("subscribe", channel=ROOM)
        return client

    old = [await come(hubs[1]) for _ in range(20)]
    kill(workers_of(hubs[1])[0])
    await asyncio.gather(*(client.closed() for client in old))
    await asyncio.gather(*(client.leave() for client in old))
    new = [await come(hubs[2]) for _ in range(20)]
    names = {client.received[0]["connect"]["client"] for client in new}
    await observer.agrees({observer.client, *names}, 3 * LEASE)
    assert sorted(observer.count("leave").values()) == [1] * 20
    await asyncio.gather(*(client.leave() for client in new))
    await observer.agrees({observer.client}, LEASE)
