"""`python -m tests.soak_herd` in small, and workers that stand still or lose their supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests import soak_herd
from tests.support import needs
from tests.support.attackers import Attacker, allow_many_sockets, watch
from tests.support.checker import Checker, all_reach
from tests.support.deployment import KEY
from tests.support.fleet import Fleet, running_fleet
from tests.support.ledger import Ledger
from tests.support.server import hub_serve
from tests.support.sockets import HANDSHAKE
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timed]

CHANNELS = [f"news-{number}" for number in range(6)]
CLIENTS = 30
SETTLES_WITHIN = 10.0


async def test_the_clients_of_a_dead_node_come_back(redis_binary: str) -> None:
    """All at once, soon, and with everything that they missed."""
    plan = soak_herd.Plan(clients=240, channels=24, rate=60, back_within=4)
    report = await soak_herd.run(plan, redis_binary, needs.nginx())
    assert not report.ledger.violations, report.ledger.verdict
    assert 40 < report.herd < 160
    assert report.events["recovered"] == report.herd


def test_a_herd_that_comes_faster_than_it_may() -> None:
    """Of 1,000 in one moment as many get in as the rate says, the others are refused, and all who ask are answered."""
    allow_many_sockets()
    with (
        hub_serve("--workers", "1", "--drain", "0", env={"HUB_CONNECT_RATE": "200"}) as hub,
        contextlib.ExitStack() as stack,
    ):
        attackers = [Attacker(hub.port) for _ in range(1000)]
        for attacker in attackers:
            stack.callback(attacker.sock.close)
        start = time.monotonic()
        for attacker in attackers:
            attacker.send(HANDSHAKE % b"/ws/herd")
        assert not watch(attackers, 5, lambda attacker: b"\r\n\r\n" in attacker.got)
        most = 20 + 200 * (time.monotonic() - start)
        inside = [attacker for attacker in attackers if attacker.got.startswith(b"HTTP/1.1 101 ")]
        refused = [attacker for attacker in attackers if attacker not in inside]
        assert 20 <= len(inside) <= most < 500
        assert all(attacker.got.startswith(b"HTTP/1.1 503 ") for attacker in refused)
        assert all(b"\r\nRetry-After: 1\r\n" in attacker.got for attacker in refused)
        assert "connections refused because they come faster than HUB_CONNECT_RATE" in hub.log


# Workers in trouble


@pytest.fixture(scope="module")
def fleet(redis_binary: str) -> Iterator[Fleet]:
    """Three replicas with a worker each."""
    with running_fleet(redis_binary, needs.nginx(), replicas=3) as running:
        yield running
        log = running.log
    assert "Traceback" not in log
    assert "unexpected fault" not in log


@contextlib.asynccontextmanager
async def listening(fleet: Fleet) -> AsyncIterator[list[Checker]]:
    """Clients in traffic that goes on a while after the block; nothing may be lost."""
    ledger, rng = Ledger(), random.Random(1)
    checkers = [
        Checker(f"client {number}", fleet.port, [CHANNELS[number % len(CHANNELS)]], ledger, rng)
        for number in range(CLIENTS)
    ]
    try:
        await eventually(lambda: all(checker.ready for checker in checkers), 10)
        async with Traffic(fleet.url, KEY, CHANNELS, 100, ledger, publishers=2) as traffic:
            await asyncio.sleep(0.5)
            yield checkers
            await asyncio.sleep(0.5)
            await traffic.stop()
            tops = await traffic.publishers[0].tops(CHANNELS)
        assert await all_reach(checkers, tops, SETTLES_WITHIN), checkers
    finally:
        await asyncio.gather(*(checker.leave() for checker in checkers))
    ledger.judge()
    assert not ledger.violations, ledger.verdict


def absences(checkers: list[Checker]) -> list[float]:
    """Of all of them."""
    return [seconds for checker in checkers for seconds in checker.absences]


async def test_a_worker_stands_still_for_ten_seconds(fleet: Fleet) -> None:
    """SIGSTOP: the clients of the others notice nothing, its own have everything within seconds after SIGCONT."""
    (worker,) = fleet.replicas[0].workers
    async with listening(fleet) as checkers:
        os.kill(worker, signal.SIGSTOP)
        try:
            await asyncio.sleep(10)
            assert await asyncio.to_thread(fleet.replicas[0].status, "/health/ready") != 200
            assert fleet.replicas[1].status("/health/ready") == 200
        finally:
            os.kill(worker, signal.SIGCONT)
        await eventually(lambda: all(checker.ready for checker in checkers), 5)
    late = [checker for checker in checkers if checker.closes]
    print(f"{len(late)} of {CLIENTS} clients reconnected, away for {max(absences(late), default=0):.2f} s at most")
    assert fleet.replicas[0].workers == [worker]
    assert sum(bool(checker.closes) for checker in checkers) <= CLIENTS / 2


async def test_a_supervisor_is_killed(fleet: Fleet) -> None:
    """kill -9: its worker closes its clients in good order, and they go on with the other replicas."""
    victim = fleet.replicas[0]
    workers = victim.workers
    async with listening(fleet) as checkers:
        os.kill(victim.process.pid, signal.SIGKILL)
        await eventually(lambda: any(checker.closes for checker in checkers), 5)
        await asyncio.sleep(2.5)
        await eventually(lambda: all(checker.ready for checker in checkers), 5)
    print(f"its clients were away for {max(absences(checkers)):.2f} s at most")
    assert {code for checker in checkers for _, code in checker.closes} == {3001}
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    victim.process.wait()
    victim.start()
    victim.wait_ready()
