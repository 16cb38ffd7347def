"""Subscriptions that the application has ordered, and that wait: something else is being done in their channel.

An attempt of the client's own may be refused, or end as soon as it is made because the application said so before; and
a client that was promised silence by the reply to `unsubscribe` has not been told otherwise before that reply. So an
order is carried out when the channel is free, as commands of the client are, and ahead of those that wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import Client

__all__ = ["Orders"]


class Orders:
    """Of all clients of a worker; nothing is left of one for which none waits.

    One a channel is enough: behind it the client is subscribed, and what was ordered later would change nothing.
    """

    def __init__(self) -> None:
        # In the order in which they came.
        self._waiting: dict[Client, dict[str, Callable[[], None]]] = {}

    def __repr__(self) -> str:
        return f"<Orders {sum(map(len, self._waiting.values()))} waiting>"

    def keep(self, client: Client, channel: str, order: Callable[[], None]) -> None:
        self._waiting.setdefault(client, {}).setdefault(channel, order)

    def channels(self, client: Client) -> list[str]:
        return list(self._waiting.get(client, ()))

    def withdraw(self, client: Client, channel: str) -> Callable[[], None] | None:
        """The order that waited; None without one."""
        own = self._waiting.get(client, {})
        order = own.pop(channel, None)
        if order is not None and not own:
            del self._waiting[client]
        return order

    def forget(self, client: Client) -> None:
        """It has gone."""
        self._waiting.pop(client, None)

    def carry_out(self, client: Client) -> None:
        """Those whose channel is free."""
        for channel in self.channels(client):
            if client.is_changing(channel):
                continue
            order = self.withdraw(client, channel)
            if order is not None:  # the one before may have ended the client
                order()
