"""A warning about a Redis that drops histories when its memory is full, where it could refuse publications."""

from __future__ import annotations

import asyncio
import functools
import logging

from .redis_commands import Commands

__all__ = ["EvictionCheck"]

log: logging.Logger = logging.getLogger("hub.redis")


class EvictionCheck:
    """Asks each server once, by `INFO`: unlike `CONFIG GET`, rule and host allow that to the hub."""

    def __init__(self, name: str) -> None:
        """`name` is the address, for the log."""
        self._name = name
        # `Server.lineage` of those that have answered; a failover adds one.
        self._answered: set[bytes] = set()

    def look(self, commands: Commands) -> None:
        """At a new connection. Who does not say there who it is would not answer this either."""
        lineage = commands.lineage
        if lineage and lineage not in self._answered:
            policy = commands.execute(b"INFO", b"memory", parse=_evicting_policy)
            policy.add_done_callback(functools.partial(self._on_policy, lineage))

    def _on_policy(self, lineage: bytes, policy: asyncio.Future[str]) -> None:
        if policy.exception() is not None:
            log.debug("%s does not say what it does when its memory is full: %s", self._name, policy.exception())
            return
        self._answered.add(lineage)
        if policy.result():
            log.warning(
                "%s drops histories when its memory is full, because its maxmemory-policy is %s; set it to noeviction, "
                "so that publications are refused instead, and their publishers told",
                self._name,
                policy.result(),
            )


def _evicting_policy(info: bytes) -> str:
    """What is dropped at the limit; empty if nothing is, or there is none. Raises ValueError, as for any bad reply."""
    fields = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    policy = fields.get(b"maxmemory_policy", b"noeviction").decode()
    return policy if int(fields.get(b"maxmemory", 0)) and policy != "noeviction" else ""
