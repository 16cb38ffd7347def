"""What tests ask of a `Broadcast`."""

from __future__ import annotations

import asyncio
from typing import Any

from hub.compat import Broadcast, Subscriber

__all__ = ["left_behind", "soon"]


async def soon(subscriber: Subscriber, timeout: float = 5) -> Any:
    """The next message. Raises TimeoutError."""
    async with asyncio.timeout(timeout):
        return (await subscriber.get()).message


def left_behind(broadcast: Broadcast) -> bool:
    """Whether anything of its subscriptions is there."""
    hub = broadcast._hub
    return bool(broadcast._inboxes or hub.registry.subscribers or hub.registry.channels)
