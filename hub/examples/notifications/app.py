"""Notifications: published by a request or by a script, for one user, wherever that user is connected.

Run it with `uvicorn hub.examples.notifications.app:app --workers 4`.
"""

from __future__ import annotations

from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection

from hub import ChannelOptions, Hub, Settings, User
from hub.examples.pages import Pages

PEOPLE = ("ann", "bob", "eve")

# `inbox:#ann` is for the user ann, on all her devices; what she misses while she is away waits for an hour.
inbox = ChannelOptions(
    history_size=50,
    history_ttl=3600,
    force_recovery=True,
    allow_history_for_client=True,
)
settings = Settings.load(namespaces={"inbox": inbox})
hub = Hub(settings)
app = FastAPI()
app.include_router(hub.router, prefix="/rt")


class Notice(BaseModel):
    text: str = Field(min_length=1, max_length=200)
    kind: Literal["news", "done", "alarm"] = "news"


@hub.authenticate
async def who(connection: HTTPConnection, token: str | None) -> User | bool:
    """Here the token is a name, and everybody is believed. Look yours up, or the cookie of your session."""
    return User(id=token) if token in PEOPLE else False


@app.post("/notify/{user}", status_code=202)
async def notify(user: Literal["ann", "bob", "eve"], notice: Notice) -> None:
    await hub.publish(f"inbox:#{user}", notice.model_dump())


app.mount("/", Pages(__file__))
