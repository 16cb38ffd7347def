"""Live prices: there is a ticker in every worker, and yet each tick is published once.

Run it with `uvicorn hub.examples.prices.app:app --workers 4`.
"""

from __future__ import annotations

import json
import random

from fastapi import FastAPI

from hub import ChannelOptions, Hub, Settings
from hub.examples.pages import Pages
from hub.examples.repeat import repeat

FIRST = dict.fromkeys(("Amber", "Basalt", "Cobalt", "Dune", "Ember", "Fjord", "Grove", "Heath"), 100.0)

# The latest publication says all: newcomers get it at once, and who reads too slowly gets nothing but it.
prices = ChannelOptions(
    history_size=1,
    history_ttl=60,
    force_recovery=True,
    force_recovery_mode="cache",
    auto_cache_recover=True,
    slow_policy="keep_latest",
    allow_subscribe_for_client=True,
    allow_subscribe_for_anonymous=True,
)
hub = Hub(Settings.load(namespaces={"prices": prices}))


async def tick(number: int) -> None:
    """Publish the next prices, if no other worker has done so: Redis takes each version once."""
    last = (await hub.history("prices:all", limit=1, reverse=True)).publications
    before = json.loads(last[0].data) if last else FIRST
    after = {name: round(max(1, price * random.uniform(0.99, 1.01)), 2) for name, price in before.items()}
    await hub.publish("prices:all", after, version=number)


lifespan = repeat(0.5, tick)
app = FastAPI(lifespan=lifespan)
app.include_router(hub.router, prefix="/rt")
app.mount("/", Pages(__file__))
