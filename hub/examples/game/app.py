"""A game: everybody steers a dot, and who touches the star first has a point. Redis decides who was first.

Run it with `uvicorn hub.examples.game.app:app --workers 4`.
"""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

from fastapi import FastAPI
from starlette.requests import HTTPConnection

from hub import ChannelOptions, Error, Hub, Refused, Settings, User
from hub.examples.pages import Pages

REACH = 0.06  # of the arena's width and height
players: dict[str, Any] = {
    "presence": True,
    "join_leave": True,
    "force_push_join_leave": True,
    "allow_presence_for_subscriber": True,
}
latest: dict[str, Any] = {"force_recovery": True, "force_recovery_mode": "cache", "auto_cache_recover": True}
kept: dict[str, Any] = {"history_size": 1, "history_ttl": 3600, "history_meta_ttl": 3600}
# Where the dots are is worth nothing a moment later. Star and points are one state, and newcomers get the latest.
arena = ChannelOptions(allow_subscribe_for_client=True, allow_publish_for_subscriber=True, **players)
stars = ChannelOptions(allow_subscribe_for_client=True, **latest, **kept)
hub = Hub(Settings.load(namespaces={"arena": arena, "stars": stars}))


@hub.authenticate
async def who(connection: HTTPConnection, token: str | None) -> User | bool:
    """A window has a secret, and its user id comes of that: nobody can be somebody else, without any accounts."""
    return User(id=hashlib.sha256(token.encode()).hexdigest()[:12]) if token else False


@hub.rpc("game.catch")
async def catch(client: Any, at: Any) -> bool:
    """Whether the player has the star. Of two that touch it the first has it: a state follows another only once."""
    last = (await hub.history("stars:1", limit=1, reverse=True)).publications
    state: dict[str, Any] = json.loads(last[0].data) if last else {"number": 0, "x": 0.5, "y": 0.3, "points": {}}
    try:
        if max(abs(at["x"] - state["x"]), abs(at["y"] - state["y"])) > REACH:
            return False
    except (TypeError, KeyError):
        raise Refused(Error(code=400, message="x and y say where you are")) from None
    present = {info.user for info in (await hub.presence("arena:1")).values()}
    points = {user: count for user, count in state["points"].items() if user in present}
    points[client.user] = points.get(client.user, 0) + 1
    number, x, y = state["number"] + 1, random.uniform(0.08, 0.92), random.uniform(0.08, 0.92)
    state = {"number": number, "x": round(x, 3), "y": round(y, 3), "points": points}
    return not (await hub.publish("stars:1", state, version=number)).suppressed


app = FastAPI()
app.include_router(hub.router, prefix="/rt")
app.mount("/", Pages(__file__))
