"""The health checks."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel

from .hub import HubCore

__all__ = ["health_router"]


class Health(BaseModel):
    """State of this worker."""

    status: str
    node: str
    broker: str
    connections: int
    channels: int


def health_router(hub: HubCore) -> APIRouter:
    """`/health/live`, `/health/ready`."""
    router = APIRouter(tags=["health"])

    def health(status: str) -> Health:
        registry = hub.registry
        return Health(
            status=status,
            node=hub.node,
            broker=hub.broker.name,
            connections=registry.subscribers,
            channels=len(registry.channels),
        )

    @router.get("/health/live")
    async def live() -> Health:
        """The process runs and its event loop turns."""
        return health("live")

    @router.get("/health/ready", responses={503: {"model": Health}})
    async def ready(response: Response) -> Health:
        """The relay works, proven by a round trip through Redis within the last seconds; else 503."""
        response.status_code = 200 if hub.ready else 503
        return health("ready" if hub.ready else "not ready")

    return router
