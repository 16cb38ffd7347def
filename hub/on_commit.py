"""Publications that wait for a database transaction: sent when it is committed, forgotten when it is rolled back.

A session of SQLAlchemy says when its transactions end, but not how; what says that they were committed comes before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from .errors import ConfigError
from .publishing import Order

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, SessionTransaction, scoped_session

    AnySession = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]
else:  # SQLAlchemy is imported when it is used
    AnySession = Any

__all__ = ["AnySession", "Send", "on_commit"]

log: logging.Logger = logging.getLogger("hub.on_commit")

# Publishes, in this order, and raises nothing: what is committed is committed.
Send = Callable[[Sequence[Order]], None]

# In `Session.info`.
_KEY = "hub.on_commit"


def on_commit(session: AnySession, send: Send, order: Order) -> None:
    """Call `send` once the outermost transaction of `session` is committed, with all that it was given for.

    What is registered in a SAVEPOINT that is rolled back is forgotten. Raises ConfigError without SQLAlchemy,
    TypeError for what is no session.
    """
    present = _session_of(session)
    waiting: _Waiting | None = present.info.get(_KEY)
    if waiting is None:
        waiting = present.info[_KEY] = _Waiting(present)
    waiting.add(present, send, _as_it_is_now(order))


def _as_it_is_now(order: Order) -> Order:
    """The caller may change its dictionary of tags later."""
    tags = order.publication.tags
    return replace(order, publication=replace(order.publication, tags=dict(tags))) if tags else order


def _session_of(session: Any) -> Session:
    """The synchronous one of SQLAlchemy, which all others have inside."""
    try:
        from sqlalchemy.orm import Session
    except ImportError:
        raise ConfigError("publish_on_commit needs the package SQLAlchemy: pip install 'broadcast-hub[sql]'") from None
    if hasattr(session, "registry"):  # a scoped session
        session = session()
    session = getattr(session, "sync_session", session)
    if not isinstance(session, Session):
        raise TypeError(
            f"publish_on_commit takes a Session or an AsyncSession of SQLAlchemy, not {type(session).__name__}"
        )
    return session


class _Waiting:
    """What one session will publish."""

    def __init__(self, session: Session) -> None:
        from sqlalchemy import event

        # Each with the transaction or SAVEPOINT on which it depends, in the order in which they came.
        self._orders: list[tuple[SessionTransaction, Send, Order]] = []
        # The outermost one, from its commit to its end: then its connections are given back.
        self._committed: SessionTransaction | None = None
        event.listen(session, "after_commit", self._on_commit)
        event.listen(session, "after_transaction_end", self._on_end)

    def add(self, session: Session, send: Send, order: Order) -> None:
        transaction = session.get_nested_transaction() or session.get_transaction()
        # As the first statement would begin one.
        self._orders.append((transaction or session.begin(), send, order))

    def _on_commit(self, session: Session) -> None:
        """Of the transaction, or of a SAVEPOINT: what depended on that depends on what is around it now."""
        nested = session.get_nested_transaction()
        if nested is None:
            self._committed = session.get_transaction()
            return
        around = _around(nested)
        self._orders = [(around if t is nested else t, send, order) for t, send, order in self._orders]

    def _on_end(self, session: Session, transaction: SessionTransaction) -> None:
        if transaction is self._committed:
            self._committed = None
            orders, self._orders = self._orders, []
            _publish(orders)
        else:
            self._orders = [each for each in self._orders if each[0] is not transaction]


def _around(nested: SessionTransaction) -> SessionTransaction:
    """The SAVEPOINT or transaction in which a SAVEPOINT is; what a flush uses in between is neither."""
    around = nested.parent
    assert around is not None
    while not around.nested and around.parent is not None:
        around = around.parent
    return around


def _publish(orders: Sequence[tuple[SessionTransaction, Send, Order]]) -> None:
    together: dict[Send, list[Order]] = {}
    for _, send, order in orders:
        together.setdefault(send, []).append(order)
    for send, due in together.items():
        try:
            send(due)
        except Exception:
            log.exception("unexpected fault after a commit; up to %d publications were not sent", len(due))
