"""Clients that come and go all the time: nothing is lost."""

from __future__ import annotations

import pytest

from tests.soak import Plan, run
from tests.support import needs

pytestmark = pytest.mark.cluster


async def test_clients_that_reset_close_and_freeze(redis_binary: str) -> None:
    """Each for a second and a half on average, in four channels: all recoveries are complete."""
    plan = Plan(clients=20, channels=10, subscriptions=4, rate=100, duration=5, kill_every=0, cut_every=0, churn=1.5)
    report = await run(plan, redis_binary, needs.nginx())
    assert not report.violations, report.ledger.verdict
    assert report.churned > 20
    assert report.events["recovered"] > 4 * 20
    assert report.ledger.deliveries == report.expected
