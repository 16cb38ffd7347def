"""A broker as a worker has it, with everything that it has heard."""

from __future__ import annotations

from hub.broker import Broker

from .waiting import eventually


class Ear:
    """A started broker; `heard` is what it has delivered, in order."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.heard: list[tuple[str, bytes]] = []

    def deliver(self, channel: str, payload: bytes) -> None:
        self.heard.append((channel, payload))

    def payloads(self, channel: str) -> list[bytes]:
        """What came on one channel."""
        return [payload for name, payload in self.heard if name == channel]

    async def start(self) -> Ear:
        await self.broker.start(self.deliver)
        return self

    async def hears(self, count: int, timeout: float = 5) -> list[tuple[str, bytes]]:
        """Wait until at least `count` publications have come; all of them."""
        await eventually(lambda: len(self.heard) >= count, timeout)
        return self.heard
