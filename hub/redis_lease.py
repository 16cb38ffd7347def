"""The lease of a worker on what it has written into Redis, and the removal of what dead workers have left behind.

A worker holds one lease, whatever the number of its connections, and renews it. In Redis a lease is in one of three
places, each a sorted set, and moves in one direction only:

    <prefix>:leases         held; its score is its expiry. Only now can anything be written under it.
    <prefix>:leases:lapsed  claimed by another worker, which removes its entries; at the score the next one may go on
    <prefix>:leases:reaped  has no entries any more; remembered, so that its worker, were it alive, learns that they
                            are gone and that everybody knows. Missing in all three: Redis has lost its data.
    <prefix>:lease:<lease>  set of its entries, `<client> <channel>`

An expired lease that nobody has claimed can still be renewed, so after a time without Redis nobody loses anything:
whoever could not renew in time does not claim either, until the others had their turn. All times are by the clock of
Redis, and scripts decide, each atomically; so two claimers at once, or one that dies in the middle, do no harm: an
entry goes, and is told of, once. A lease that was lost is never used again: what its worker wants to keep it writes
under a new one, which takes entries over that are still there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Sequence
from typing import Any, Protocol

from .errors import BrokerUnavailable
from .redis_commands import Argument, Parse
from .redis_scripts import Script, load

__all__ = ["SCRIPTS", "Lease", "LeaseHolder", "Redis", "presence_script"]

log: logging.Logger = logging.getLogger("hub.redis")

# Parts of the time within which everything of a dead worker has to be gone. A lease that was renewed at the moment of
# death expires after EXPIRY, is found after LOOK at most, and the rest is for the removal.
EXPIRY, RENEWAL, LOOK = 0.65, 0.2, 0.12
# Milliseconds that no lease has left, as `presence_lease` is five minutes at most: one that has them was renewed before
# the clock went back, as in a failover to a machine with another time.
LONGEST = 300_000
# A claimer that has removed nothing for this part of it is taken for dead.
CLAIM = 0.2
# Entries removed by one script: some milliseconds, for which Redis does nothing else.
REAP_BATCH = 250
# Seconds for which a lease is remembered after its end: longer than any worker is cut off and comes back.
MEMORY = 24 * 3600
# `stop` removes for so many seconds what is left; others do the rest.
STOP_TIMEOUT = 1.0

FAULT = "not sent: unexpected fault in the renewal of the presence lease"


class Redis(Protocol):
    """What sends commands: `hub.redis_commands.Commands`."""

    def execute(self, *command: Argument, parse: Parse | None = None) -> asyncio.Future[Any]: ...

    def call(
        self, script: Script, keys: Sequence[Argument], args: Sequence[Argument], parse: Parse | None = None
    ) -> asyncio.Future[Any]: ...


class LeaseHolder(Protocol):
    """Who writes under the lease. All synchronous."""

    def on_lease(self) -> None:
        """There is a new lease: everything has to be written again."""

    def on_lapsed(self) -> None:
        """Others remove, or have removed, everything that was written, and tell of it; a new lease follows."""

    def on_kept(self) -> None:
        """Redis is there, and the lease goes on."""

    def on_failed(self, reason: str) -> None:
        """Redis does not answer; until it does, the lease may run out."""


def presence_script(name: str) -> Script:
    """A script behind the text that all of them share."""
    return Script((load("presence_common").source + load(name).source).decode())


_TAKE, _RENEW = presence_script("lease_take"), presence_script("lease_renew")
_CLAIM, _REAP = presence_script("lease_claim"), presence_script("lease_reap")
SCRIPTS = (_TAKE, _RENEW, _CLAIM, _REAP)


class Lease:
    """Holds a lease for one worker and claims those of others; all durations in seconds."""

    def __init__(self, prefix: str, node: str, seconds: float, holder: LeaseHolder, redis: Redis) -> None:
        """Everything of a worker is gone within `seconds` of its death. `node` is for the operator's eyes."""
        self._prefix, self._node, self._holder, self._redis = prefix, node, holder, redis
        self._loop = asyncio.get_running_loop()
        self._renewal, self._look = RENEWAL * seconds, LOOK * seconds
        # Milliseconds, for scripts: how long a lease lasts, how much of it a worker in good order has left at least,
        # and how long a claim lasts.
        self._ttl = int(EXPIRY * seconds * 1000)
        self._comfort = self._ttl - int(2 * self._renewal * 1000)
        self._claim = int(CLAIM * seconds * 1000)
        # The lease; None before the first, and from the loss of one to the next.
        self.name: str | None = None
        # The one before, until there is the next.
        self._old = ""
        # The run of the server that gave the lease.
        self._run = b""
        # Others may not have renewed before this moment, by the loop's clock.
        self._patience = 0.0
        # Set by `check`.
        self._wake = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._hold(), name="hub redis lease"),
            asyncio.create_task(self._watch(), name="hub redis reaper"),
        ]

    def __repr__(self) -> str:
        return f"<Lease {self.name or 'none'}>"

    def check(self) -> None:
        """Renew now: Redis is back, or has refused what was written under the lease."""
        self._wake.set()

    async def stop(self) -> None:
        """Give the lease up, and remove what is still written under it as far as time allows."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        name, self.name = self.name, None
        if name is None:
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await self._call(_TAKE, "", 0, name, 0)
                await self._reap(name)
        except (TimeoutError, BrokerUnavailable) as error:
            log.info("presence lease %s is left to others: %s", name, error or "no time")
        except Exception:
            log.exception("unexpected fault at the end of presence lease %s", name)

    # The own lease

    async def _hold(self) -> None:
        """Have a lease, for ever."""
        while True:
            self._wake.clear()
            try:
                await self._renew_or_take()
            except BrokerUnavailable as error:
                self._be_patient()
                self._holder.on_failed(str(error))
            except Exception:
                log.exception("unexpected fault in the renewal of the presence lease")
                self._holder.on_failed(FAULT)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._renewal):
                    await self._wake.wait()

    async def _renew_or_take(self) -> None:
        if self.name is not None:
            state, left, run = await self._call(_RENEW, self.name, self._ttl)
            if not self._comfort <= left <= LONGEST:
                self._be_patient()
            if state == b"kept" and run == self._run:
                self._holder.on_kept()
                return
            self._lose(state)
        await self._take_new()

    def _lose(self, state: bytes) -> None:
        assert self.name is not None
        log.warning("the presence lease %s is %s; everything is registered again", self.name, _WORDS[state])
        self._old, self.name = self.name, None
        if state == b"lapsed":
            self._holder.on_lapsed()

    async def _take_new(self) -> None:
        """A name that was never used, also if this is lost on the way: then it expires without entries."""
        name = f"{self._node}.{os.urandom(6).hex()}"
        # If the old one is still there, then as a server remembers it that was restored from an older state: there is
        # time to take over what is right, and the rest is removed.
        self._run = await self._call(_TAKE, name, self._ttl, self._old, self._ttl)
        self.name, self._old = name, ""
        self._be_patient()
        self._holder.on_lease()

    def _be_patient(self) -> None:
        """Claim nothing until the others had time to renew: what kept this worker from it may have kept them."""
        self._patience = self._loop.time() + 2 * self._renewal

    # Those of others

    async def _watch(self) -> None:
        """Look for expired leases, for ever; at random times, so that the workers do not all come at once."""
        while True:
            await asyncio.sleep(self._look * random.uniform(0.5, 1.0))
            try:
                while name := await self._claim_next():
                    log.warning("the worker with presence lease %s is gone", name)
                    log.info("%d presence entries of %s removed", await self._reap(name), name)
            except BrokerUnavailable:
                self._be_patient()
            except Exception:
                log.exception("unexpected fault in the removal of presence entries")

    async def _claim_next(self) -> str | None:
        if self.name is None or self._loop.time() < self._patience:
            return None
        name: bytes | None = await self._call(_CLAIM, self.name, self._comfort, LONGEST, self._claim, MEMORY * 1000)
        return name.decode() if name else None

    async def _reap(self, name: str) -> int:
        """Remove all entries of a lease, one batch after the other; how many there were."""
        total, count = 0, REAP_BATCH
        while count == REAP_BATCH:
            count = await self._call(_REAP, name, REAP_BATCH, self._claim)
            total += count
        return total

    def _call(self, script: Script, *args: Argument) -> asyncio.Future[Any]:
        return self._redis.call(script, (), (self._prefix, *args))


# What became of a lease; `kept`, and yet lost, is one that a server knows from a saved state.
_WORDS = {
    b"lapsed": "lapsed, so that others remove its entries",
    b"lost": "lost, and with it the data of Redis",
    b"kept": "older than this Redis, which has started since",
}
