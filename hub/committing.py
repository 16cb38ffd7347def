"""The part of `hub.Hub` that publishes when a database transaction is committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Unpack

from anyio import from_thread

from .control import HubNode
from .errors import BrokerUnavailable
from .on_commit import AnySession, on_commit
from .publishing import Order, PublishOptions, check_size, prepare

__all__ = ["CommittingHub"]

log: logging.Logger = logging.getLogger("hub")

# Seconds that Redis has for them when the hub stops.
LAST_WORDS = 5.0


class CommittingHub(HubNode):
    """A hub whose publications may wait for a commit."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Publications after a commit that are under way.
        self._committed: set[asyncio.Task[None]] = set()

    def publish_on_commit(
        self, session: AnySession, channel: str, data: Any, **options: Unpack[PublishOptions]
    ) -> None:
        """`publish` when the outermost transaction of `session` is committed, in the order of these calls.

        `session` is a Session or an AsyncSession of SQLAlchemy or SQLModel, in any thread. If it is rolled back nothing
        is sent, nor what was registered in a SAVEPOINT that is rolled back. `data` is what it is now. The commit does
        not wait for Redis and never fails for it: what cannot be sent is counted (`unsent`) and logged.

        Raises at once what `publish` raises, except BrokerUnavailable; ConfigError without SQLAlchemy; RuntimeError
        where neither the hub nor an event loop is running, as in a script: `hub.sync.Publisher` is for those.
        """
        self.issue_on_commit(session, prepare(self.namespaces, channel, data, **options))

    def issue_on_commit(self, session: AnySession, order: Order) -> None:
        """`publish_on_commit` what is prepared. Raises ConfigError, MessageTooBig, RuntimeError, TypeError."""
        self._loop_to_publish_in()
        check_size(order.publication, self._max_message_size)
        on_commit(session, self._send_committed, order)

    def _loop_to_publish_in(self) -> asyncio.AbstractEventLoop:
        """Where the hub runs, or where it would start."""
        if self._loop is not None and not self._loop.is_closed():
            return self._loop
        try:
            return _loop_here()
        except RuntimeError:
            raise RuntimeError("the hub is not running and here is no event loop: use hub.sync.Publisher") from None

    def _send_committed(self, orders: Sequence[Order]) -> None:
        """Called by the session, in its thread."""
        try:
            loop = self._loop_to_publish_in()
            # In the hub's own thread too: so what is committed one after the other stays in that order.
            loop.call_soon_threadsafe(self._issue_all, orders, loop is self._loop)
        except RuntimeError as error:
            self.unsent.add(len(orders), last=f"not sent: {error}")

    def _issue_all(self, orders: Sequence[Order], running: bool) -> None:
        if running and self._loop is None:  # it is not begun anew for what comes too late
            self.unsent.add(len(orders), last="not sent: the hub has stopped")
            return
        for order in orders:  # tasks begin in this order, and each issues its publication before it waits
            task = asyncio.create_task(self._issue_committed(order), name="hub publish on commit")
            self._committed.add(task)
            task.add_done_callback(self._committed.discard)

    async def _issue_committed(self, order: Order) -> None:
        try:
            await self.start()
            await self.issue(order)
        except BrokerUnavailable:
            pass  # counted and logged
        except Exception:
            log.exception("unexpected fault in a publication on commit in %r", order.channel)
            self.unsent.add(last="unexpected fault")

    async def stop(self) -> None:
        await asyncio.sleep(0)  # what sessions have handed over is under way then
        if self._committed:
            await asyncio.wait(self._committed, timeout=LAST_WORDS)
        await super().stop()


def _loop_here() -> asyncio.AbstractEventLoop:
    """The one that is running, or that has given this thread its work, as for `def` routes. Raises RuntimeError."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return from_thread.run_sync(asyncio.get_running_loop)
