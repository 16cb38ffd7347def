"""The health checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from .admission import Admission
from .hub import HubCore
from .siblings import Siblings

__all__ = ["health_router", "readiness"]

# Seconds that the other workers have to say whether they are ready; probes wait one second or more.
PATIENCE = 0.8

READY, NOT_READY, NO_ANSWER = "ready", "not ready", "no answer"


class Health(BaseModel):
    """State of the worker that answers, and in `workers` whether each worker of the same `hub serve` is ready."""

    status: Literal["live", "ready", "not ready"]
    node: str
    broker: str
    connections: int
    channels: int
    workers: dict[str, Literal["ready", "not ready", "no answer"]] = {}


async def readiness(hub: HubCore) -> bytes:
    """Of this worker, for the others."""
    return (READY if hub.ready else NOT_READY).encode()


async def _readiness_of_all(siblings: Siblings) -> dict[str, str]:
    """By worker. Who is blocked, stopped or gone cannot say so, but those who share its address can."""
    answers = await siblings.ask("ready", PATIENCE)
    return {name: NO_ANSWER if answer is None else answer.decode() for name, answer in answers.items()}


def _all_ready(workers: dict[str, str]) -> bool:
    """Whether each place has a worker that is; one that has a successor, or is one, may not be."""
    places = {name.partition(".")[0] for name in workers}
    return places == {name.partition(".")[0] for name, state in workers.items() if state == READY}


def health_router(hub: HubCore, admission: Admission, siblings: Callable[[], Siblings | None]) -> APIRouter:
    """`/health/live`, `/health/ready`."""
    router = APIRouter(tags=["health"])

    def health(status: str, workers: dict[str, str]) -> Health:
        return Health.model_validate(
            {
                "status": status,
                "node": hub.node,
                "broker": hub.broker.name,
                "connections": admission.connections,
                "channels": len(hub.registry.channels),
                "workers": workers,
            }
        )

    @router.get("/health/live")
    async def live() -> Health:
        """The process runs and its event loop turns."""
        return health("live", {})

    @router.get("/health/ready", responses={503: {"model": Health}})
    async def ready(response: Response) -> Health:
        """The relay works, proven by a round trip through Redis within the last seconds; else 503.

        With several workers it has to work for each, whichever answers: a client may come to any of them. One that is
        blocked or stopped is `no answer`.
        """
        others = siblings()
        workers = await _readiness_of_all(others) if others is not None else {}
        is_ready = hub.ready and _all_ready(workers)
        response.status_code = 200 if is_ready else 503
        return health(READY if is_ready else NOT_READY, workers)

    return router
