"""The tutorial's manager with a way to broadcast from elsewhere, as the other peers have it."""

from __future__ import annotations

from fastapi import Request

from .tutorial import app, manager

__all__ = ["app"]


@app.post("/publish", status_code=204)
async def publish(request: Request) -> None:
    await manager.broadcast((await request.body()).decode())
