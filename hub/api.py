"""The server's HTTP API and the health checks."""

from __future__ import annotations

import hmac
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Response, Security
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field

from .config import Settings
from .errors import BrokerUnavailable, InvalidChannel, MessageTooBig
from .hub import HubCore

__all__ = ["api_router"]

_api_key = APIKeyHeader(name="X-API-Key", auto_error=False, description="The value of HUB_API_KEY.")


class PublishRequest(BaseModel):
    """A publication from outside."""

    channel: str = Field(description="Name of the channel or room.", examples=["lobby"])
    data: Any = Field(description="Any JSON. A string arrives as the text that it is, all else as JSON text.")


class PublishResponse(BaseModel):
    """Redis has taken the publication."""

    result: dict[str, Any] = Field(default_factory=dict)


class Health(BaseModel):
    """State of this worker."""

    status: str
    node: str
    broker: str
    connections: int
    channels: int


def api_router(hub: HubCore, settings: Settings) -> APIRouter:
    """`/api/publish`, `/health/live`, `/health/ready`."""
    router = APIRouter()
    # JSON may write a character in six bytes. The body is read before the key is checked, so its size must have an end.
    body_limit = 6 * settings.max_message_size + 4096

    async def authorize(key: Annotated[str | None, Security(_api_key)]) -> None:
        expected = settings.api_key.get_secret_value() if settings.api_key else ""
        if not expected:
            raise HTTPException(403, "The HTTP API is off: set HUB_API_KEY to turn it on.")
        if not hmac.compare_digest((key or "").encode(), expected.encode()):
            raise HTTPException(401, "The X-API-Key header is missing or wrong.")

    @router.post("/api/publish", tags=["hub"], dependencies=[Security(authorize)], max_body_size=body_limit)
    async def publish(body: PublishRequest) -> PublishResponse:
        """Publish to every client of a channel, on every worker."""
        try:
            await hub.publish(body.channel, body.data)
        except InvalidChannel as error:
            raise HTTPException(422, str(error)) from None
        except MessageTooBig as error:
            raise HTTPException(413, str(error)) from None
        except BrokerUnavailable as error:
            raise HTTPException(503, str(error), headers={"Retry-After": "1"}) from None
        return PublishResponse()

    def health(status: str) -> Health:
        registry = hub.registry
        return Health(
            status=status,
            node=hub.node,
            broker=hub.broker.name,
            connections=registry.subscribers,
            channels=len(registry.channels),
        )

    @router.get("/health/live", tags=["health"])
    async def live() -> Health:
        """The process runs and its event loop turns."""
        return health("live")

    @router.get("/health/ready", tags=["health"], responses={503: {"model": Health}})
    async def ready(response: Response) -> Health:
        """The relay works, proven by a round trip through Redis within the last seconds; else 503."""
        response.status_code = 200 if hub.ready else 503
        return health("ready" if hub.ready else "not ready")

    return router
