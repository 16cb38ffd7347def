"""A dashboard: every worker tells once a second how it is, and the last minute is there when the page opens.

Run it with `uvicorn hub.examples.dashboard.app:app --workers 4`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import FastAPI

from hub import ChannelOptions, Hub, Settings
from hub.examples.pages import Pages
from hub.examples.repeat import repeat

vitals = ChannelOptions(
    history_size=240,
    history_ttl=60,
    force_recovery=True,
    allow_subscribe_for_client=True,
    allow_subscribe_for_anonymous=True,
    allow_history_for_subscriber=True,
    allow_history_for_anonymous=True,
)
hub = Hub(Settings.load(namespaces={"vitals": vitals}))
at_work = asyncio.Lock()


async def report(second: int) -> None:
    """Percent of a processor, and how much later than asked the event loop was at most, in milliseconds."""
    cpu, start, late = time.process_time(), time.perf_counter(), 0.0
    for _ in range(18):
        before = time.perf_counter()
        await asyncio.sleep(0.05)
        late = max(late, time.perf_counter() - before - 0.05)
    percent = 100 * (time.process_time() - cpu) / (time.perf_counter() - start)
    now = {"cpu": round(percent, 1), "lag": round(1000 * late, 1), "clients": len(hub.clients)}
    await hub.publish("vitals:all", {"worker": hub.node[:4], "at": second, **now})


@hub.rpc("dashboard.work")
async def work(client: Any, data: Any) -> None:
    """Keep the worker of this client busy for two seconds, but only once at a time."""
    if at_work.locked():
        return
    async with at_work:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            sum(range(200_000))
            await asyncio.sleep(0)


lifespan = repeat(1, report)
app = FastAPI(lifespan=lifespan)
app.include_router(hub.router, prefix="/rt")
app.mount("/", Pages(__file__))
