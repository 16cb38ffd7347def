"""`python -m tests.soak_rolling` in small: replicas are restarted one after another, and clients only reconnect."""

from __future__ import annotations

import asyncio
import signal

import pytest
import websockets

from hub.errors import Disconnects
from tests.soak_rolling import Plan, run
from tests.support import needs
from tests.support.server import hub_serve

pytestmark = [pytest.mark.cluster, pytest.mark.timed]


async def test_three_replicas_one_after_another(redis_binary: str) -> None:
    """Nothing is lost, every close asks to come back, they are spread, and nobody comes in faster than he may."""
    plan = Plan(clients=90, channels=9, rate=60, connect_rate=25, drain=1, notice=0.3, slack=8)
    report = await run(plan, redis_binary, needs.nginx())
    assert not report.ledger.violations, report.ledger.verdict
    assert len(report.stops) == 3
    assert {code for stop in report.stops for _, code in stop.closes} == {Disconnects.SHUTDOWN.code}
    assert sum(len(stop.closes) for stop in report.stops) >= plan.clients
    assert report.events["recovered"] >= plan.clients
    assert report.events["refused 503"] > 0  # else the rate was not needed
    assert report.intake > plan.connect_rate / 2


async def test_notice_before_the_drain() -> None:
    """Readiness turns false and everybody is served as before, those who come too; a second signal ends that."""
    with hub_serve("--workers", "2", "--drain", "0", env={"HUB_DRAIN_NOTICE": "60"}) as hub:
        async with websockets.connect(f"{hub.ws_url}/ws/a") as member:
            hub.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                while await asyncio.to_thread(hub.status, "/health/ready") == 200:
                    pass
            assert hub.status("/health/live") == 200
            async with websockets.connect(f"{hub.ws_url}/ws/a") as late:
                await late.send("hello")
                assert await member.recv() == await late.recv() == "hello"
                hub.process.send_signal(signal.SIGTERM)
                for client in (member, late):
                    await asyncio.wait_for(client.wait_closed(), 5)
                    assert client.close_code == Disconnects.RESTART.code
        assert await asyncio.to_thread(hub.process.wait, 10) == 0
        assert "not ready from now on; the drain begins in 60 s" in hub.log
        assert "Traceback" not in hub.log
