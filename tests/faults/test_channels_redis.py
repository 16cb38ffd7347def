"""Redis forgets everything, or drops connections, in the middle of traffic: nobody is left with a wrong picture.

Clients recover as the SDKs do, and a ledger knows what the API has accepted in which epoch. A stretch of publications
that a client takes for unbroken must be unbroken, whatever happened to Redis meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tests.support.centrifuge import connected
from tests.support.checker import Checker, all_reach
from tests.support.deployment import KEY, serving
from tests.support.ledger import Ledger
from tests.support.redis import RedisProcess, running_redis
from tests.support.server import HubProcess
from tests.support.traffic import Publisher, Traffic
from tests.support.waiting import eventually

CHANNELS = [f"news-{number}" for number in range(4)]
CLIENTS = 12
# Seconds: within this after Redis is back, everybody has everything.
SETTLES_WITHIN = 10.0


@pytest.fixture
def server(redis_binary: str) -> Iterator[RedisProcess]:
    with running_redis(redis_binary) as process:
        yield process


@pytest.fixture
def hub(server: RedisProcess) -> Iterator[HubProcess]:
    with serving(server.url, workers=2) as process:
        yield process


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    book = Ledger()
    yield book
    book.judge()
    assert not book.violations, book.verdict


@pytest.fixture
async def checkers(hub: HubProcess, ledger: Ledger) -> AsyncIterator[list[Checker]]:
    """Each in two channels, all subscribed."""
    rng = random.Random(1)
    group = []
    for number in range(CLIENTS):
        channels = [CHANNELS[number % len(CHANNELS)], CHANNELS[(number + 1) % len(CHANNELS)]]
        group.append(Checker(f"client {number}", hub.port, channels, ledger, rng))
    try:
        await eventually(lambda: all(checker.ready for checker in group), 10)
        yield group
    finally:
        await asyncio.gather(*(checker.leave() for checker in group))


@pytest.fixture
async def publisher(hub: HubProcess, ledger: Ledger) -> AsyncIterator[Publisher]:
    async with Publisher("single", hub.url, KEY, ledger) as one:
        yield one


def events(checkers: list[Checker]) -> Counter[str]:
    """Of all of them together."""
    return sum((checker.events for checker in checkers), Counter())


@contextlib.asynccontextmanager
async def traffic(hub: HubProcess, ledger: Ledger, rate: float = 100) -> AsyncIterator[Traffic]:
    async with Traffic(hub.url, KEY, CHANNELS, rate, ledger, publishers=2) as running:
        await asyncio.sleep(0.5)
        yield running
        await asyncio.sleep(1)


async def has_settled(checkers: list[Checker], publisher: Publisher, ledger: Ledger) -> None:
    """A new publication reaches everybody, who is then where the history ends."""
    before = sum(map(len, ledger.accepted.values()))

    async with asyncio.timeout(SETTLES_WITHIN):
        while sum(map(len, ledger.accepted.values())) < before + len(CHANNELS):
            await publisher.batch(CHANNELS, parallel=False)
    tops = await publisher.tops(CHANNELS)
    assert await all_reach(checkers, tops, SETTLES_WITHIN), (checkers, tops)


def assert_told(checkers: list[Checker], wipes: int = 1) -> None:
    """For each channel every client has been told that what it had is over, and begun anew."""
    for checker in checkers:
        for channel, stretches in checker.stretches.items():
            assert len({stretch.epoch for stretch in stretches}) == wipes + 1, (checker, channel, stretches)


def flush(server: RedisProcess) -> None:
    with server.client() as client:
        client.flushall()


def restart_empty(server: RedisProcess) -> None:
    server.kill()
    server.start()


def restart_after_a_while(server: RedisProcess) -> None:
    """Long enough for every client to have heard nothing for a while, and for publications to be refused."""
    server.kill()
    asyncio.run(asyncio.sleep(1.5))
    server.start()


def flush_and_cut(server: RedisProcess) -> None:
    """The workers miss what comes right after it."""
    with server.client() as client, client.pipeline() as pipeline:
        pipeline.flushall()
        pipeline.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        pipeline.execute()


@pytest.mark.parametrize("wipe", [flush, restart_empty, restart_after_a_while, flush_and_cut])
async def test_a_wipe_in_traffic(
    server: RedisProcess,
    hub: HubProcess,
    checkers: list[Checker],
    publisher: Publisher,
    ledger: Ledger,
    wipe: Callable[[RedisProcess], None],
) -> None:
    """Everybody is told, in each of their channels; then everything reaches everybody again."""
    async with traffic(hub, ledger):
        await asyncio.to_thread(wipe, server)
    await has_settled(checkers, publisher, ledger)
    assert_told(checkers)


async def test_many_wipes(
    server: RedisProcess, hub: HubProcess, checkers: list[Checker], publisher: Publisher, ledger: Ledger
) -> None:
    """One after another, some before the last has settled."""
    rng = random.Random(4)
    async with traffic(hub, ledger, rate=200):
        for _ in range(8):
            await asyncio.to_thread(rng.choice((flush, flush_and_cut)), server)
            await asyncio.sleep(rng.choice((0.02, 0.1, 0.5)))
    await has_settled(checkers, publisher, ledger)
    for checker in checkers:
        for channel, stretches in checker.stretches.items():
            assert len({stretch.epoch for stretch in stretches}) > 1, (checker, channel)


@pytest.mark.parametrize("wipe", [flush, restart_empty, flush_and_cut])
async def test_a_wipe_in_silence(
    server: RedisProcess,
    checkers: list[Checker],
    publisher: Publisher,
    ledger: Ledger,
    wipe: Callable[[RedisProcess], None],
) -> None:
    """Nothing is published around it: the next publication, which has offset 1 again, reaches everybody."""
    await publisher.batch(CHANNELS, parallel=False)
    assert await all_reach(checkers, await publisher.tops(CHANNELS), SETTLES_WITHIN)
    await asyncio.to_thread(wipe, server)
    await has_settled(checkers, publisher, ledger)
    assert_told(checkers)


async def test_a_wipe_before_the_first_publication(
    server: RedisProcess, checkers: list[Checker], publisher: Publisher, ledger: Ledger
) -> None:
    """Clients are at 0 of one epoch, and hear 1 of another on the same connection: it does not go on from there."""
    flush(server)
    await has_settled(checkers, publisher, ledger)
    assert_told(checkers)


async def test_a_wipe_behind_which_the_offsets_fit(
    server: RedisProcess, checkers: list[Checker], publisher: Publisher, ledger: Ledger
) -> None:
    """Clients are at 3; after the wipe workers miss 1 to 3 of the new history and hear 4: it does not go on from 3."""
    for _ in range(3):
        await publisher.batch(CHANNELS, parallel=False)
    assert await all_reach(checkers, await publisher.tops(CHANNELS), SETTLES_WITHIN)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-subscribe")
        flush_and_cut(server)
        for _ in range(3):
            await publisher.batch(CHANNELS, parallel=False)
        client.execute_command("ACL", "SETUSER", "default", "+subscribe")
    await has_settled(checkers, publisher, ledger)
    assert_told(checkers)


async def test_clients_that_come_back_after_a_wipe(
    server: RedisProcess, checkers: list[Checker], publisher: Publisher, ledger: Ledger
) -> None:
    """They bring a position of the old epoch, at an offset that the new one has too: `recovered` is missing."""
    await publisher.batch(CHANNELS, parallel=False)
    assert await all_reach(checkers, await publisher.tops(CHANNELS), SETTLES_WITHIN)
    flush(server)
    for _ in range(2):
        await publisher.batch(CHANNELS, parallel=False)
    for checker in checkers:
        checker.restart()
    await has_settled(checkers, publisher, ledger)
    assert_told(checkers)
    assert events(checkers)["told"] == 2 * CLIENTS


@pytest.mark.parametrize("wiped", [True, False])
async def test_a_client_from_before_what_is_kept(
    server: RedisProcess, hub: HubProcess, publisher: Publisher, wiped: bool
) -> None:
    """Nobody remembers what it missed, neither Redis nor the worker: it is told at once, wiped or not."""
    async with connected(hub.ws_url) as listener, connected(hub.ws_url) as late:
        epoch = (await listener.ask("subscribe", channel="short:x"))["epoch"]
        for _ in range(250):
            await publisher.publish("short:x")
        await listener.push("short:x", "pub", 250)
        if wiped:
            flush(server)
        answer = await late.ask("subscribe", channel="short:x", recover=True, offset=100, epoch=epoch)
        assert answer["was_recovering"] is True
        assert "recovered" not in answer
        assert "publications" not in answer
        await publisher.publish("short:x")
        assert (await late.push("short:x", "pub"))["offset"] == (1 if wiped else 251)
        if wiped:
            assert (await listener.push("short:x", "unsubscribe"))["code"] == 2500


async def test_cut_subscriptions_are_healed_in_place(
    server: RedisProcess, hub: HubProcess, checkers: list[Checker], publisher: Publisher, ledger: Ledger
) -> None:
    """CLIENT KILL TYPE pubsub, thirty times in traffic: what was missed is filled in, and clients notice nothing."""
    rng = random.Random(3)
    async with traffic(hub, ledger, rate=300) as running:
        with server.client() as client:
            for _ in range(30):
                assert client.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 0
                await asyncio.sleep(rng.uniform(0.01, 0.2))
    await has_settled(checkers, publisher, ledger)
    assert events(checkers) == {"connected": CLIENTS}
    assert running.unanswered == 0
    assert all(len(stretches) == 1 for checker in checkers for stretches in checker.stretches.values())
    assert hub.log.count("feed: the connection") > 4


async def test_the_last_publication_before_silence(
    server: RedisProcess, checkers: list[Checker], publisher: Publisher, ledger: Ledger
) -> None:
    """It falls into a gap and nothing follows that would show it: it is filled in when the subscription is back."""
    for _ in range(5):
        with server.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await publisher.batch(CHANNELS, parallel=True)
        assert await all_reach(checkers, await publisher.tops(CHANNELS), SETTLES_WITHIN), checkers
    assert events(checkers) == {"connected": CLIENTS}


async def test_cut_commands(
    server: RedisProcess, hub: HubProcess, checkers: list[Checker], publisher: Publisher, ledger: Ledger
) -> None:
    """CLIENT KILL TYPE normal in traffic: some publications are refused or doubtful, what was accepted is heard."""
    rng = random.Random(5)
    async with traffic(hub, ledger, rate=200):
        with server.client() as client:
            for _ in range(15):
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await asyncio.sleep(rng.uniform(0.02, 0.2))
    await has_settled(checkers, publisher, ledger)
    assert all(len(stretches) == 1 for checker in checkers for stretches in checker.stretches.values())


async def test_clients_come_and_go_through_a_wipe(
    server: RedisProcess, hub: HubProcess, checkers: list[Checker], publisher: Publisher, ledger: Ledger
) -> None:
    """Recoveries of both epochs are under way while everything is wiped and cut."""
    rng = random.Random(6)
    async with traffic(hub, ledger, rate=200):
        for turn in range(40):
            rng.choice(checkers).restart()
            if turn % 10 == 5:
                await asyncio.to_thread(flush_and_cut, server)
            elif turn % 3 == 0:
                with server.client() as client:
                    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(rng.uniform(0.01, 0.1))
    await has_settled(checkers, publisher, ledger)
