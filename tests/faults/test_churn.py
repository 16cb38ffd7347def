"""Clients that come and go all the time, and workers whose clocks are wrong: nothing is lost."""

from __future__ import annotations

import asyncio
import random
import time
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.soak import Plan, run
from tests.support import needs
from tests.support.checker import Checker, all_reach
from tests.support.deployment import KEY
from tests.support.fleet import Fleet, Replica, running_fleet
from tests.support.ledger import Ledger
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster

CHANNELS = [f"news-{number}" for number in range(6)]
CLIENTS = 20

# Python imports it at its start. Nothing of the hub asks for the time in another way than `time.time`.
SKEW = """
import os, time
real, seconds = time.time, float(os.environ["SKEW"])
time.time = lambda: real() + seconds
"""


async def test_clients_that_reset_close_and_freeze(redis_binary: str) -> None:
    """Each for a second and a half on average, in four channels: all recoveries are complete."""
    plan = Plan(clients=20, channels=10, subscriptions=4, rate=100, duration=5, kill_every=0, cut_every=0, churn=1.5)
    report = await run(plan, redis_binary, needs.nginx())
    assert not report.violations, report.ledger.verdict
    assert report.churned > 20
    assert report.events["recovered"] > 4 * 20
    assert report.ledger.deliveries == report.expected


@pytest.fixture
def fleet(redis_binary: str, tmp_path: Path) -> Iterator[Fleet]:
    """One clock is ten minutes behind, one ten minutes ahead."""
    (tmp_path / "sitecustomize.py").write_text(SKEW)
    skews = [{"PYTHONPATH": str(tmp_path), "SKEW": str(seconds)} for seconds in (-600, 0, 600)]
    with running_fleet(redis_binary, needs.nginx(), each=skews) as running:
        yield running
        assert "Traceback" not in running.log


def offset(replica: Replica) -> float:
    """Seconds by which its clock is ahead, as it tells everybody."""
    with urllib.request.urlopen(f"http://127.0.0.1:{replica.port}/health/live") as response:
        return parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time()


async def test_clocks_that_are_ten_minutes_off(fleet: Fleet) -> None:
    """Order, recovery and the end of a history are Redis's business: nobody notices, and all lasts as it should."""
    assert [round(offset(replica) / 10) for replica in fleet.replicas] == [-60, 0, 60]
    ledger, rng = Ledger(), random.Random(1)
    checkers = [
        Checker(f"client {number}", fleet.port, [CHANNELS[number % len(CHANNELS)]], ledger, rng)
        for number in range(CLIENTS)
    ]
    try:
        await eventually(lambda: all(checker.ready for checker in checkers), 10)
        async with Traffic(fleet.url, KEY, CHANNELS, 100, ledger, publishers=2) as traffic:
            for _ in range(20):
                rng.choice(checkers).restart()
                await asyncio.sleep(0.2)
            await traffic.stop()
            tops = await traffic.publishers[0].tops(CHANNELS)
            assert await all_reach(checkers, tops, 10), checkers
    finally:
        await asyncio.gather(*(checker.leave() for checker in checkers))
    ledger.judge()
    assert not ledger.violations, ledger.verdict
    with fleet.redis.client() as client:
        left = [client.ttl(key) for key in client.scan_iter("hub*") if client.type(key) == b"stream"]
    assert len(left) == len(CHANNELS)
    assert all(290 <= seconds <= 300 for seconds in left), left
