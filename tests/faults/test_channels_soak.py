"""`make soak` in small: three workers behind nginx, kills and cuts, and clients that judge every publication."""

from __future__ import annotations

import pytest

from tests.soak import Plan, run
from tests.support import needs

pytestmark = [pytest.mark.cluster, pytest.mark.timed]


@pytest.mark.parametrize("shape", [(3,), (1, 1, 1)], ids=["one hub of three workers", "three hubs of one worker"])
async def test_nothing_is_lost_while_workers_are_killed(redis_binary: str, shape: tuple[int, ...]) -> None:
    """0 lost, 0 duplicated, 0 out of order, and clients that did lose their connection and did recover."""
    plan = Plan(
        clients=20, channels=5, rate=200, duration=8, seed=len(shape), shape=shape, kill_every=2.5, cut_every=1.5
    )
    report = await run(plan, redis_binary, needs.nginx())
    assert not report.violations, report.ledger.verdict
    assert report.kills >= 2
    assert report.cuts >= 3
    assert report.events["recovered"] >= 2
    assert report.ledger.deliveries == report.expected > plan.rate * plan.duration
