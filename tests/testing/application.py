"""What the clusters of these tests run."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from hub import Hub, Settings


def make_app(hub: Hub | None = None, **options: Any) -> FastAPI:
    """An application as users write it, the hub at `/rt`."""
    app = FastAPI(**options)
    hub = hub or Hub(Settings())
    app.include_router(hub.router, prefix="/rt")
    app.state.hub = hub
    return app
