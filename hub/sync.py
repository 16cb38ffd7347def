"""Publishing without an event loop: from Celery tasks, scripts, threads, Django."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, Unpack

import redis as redis_py

from .config import Settings
from .errors import BrokerUnavailable, ConfigError
from .log import Throttled
from .on_commit import AnySession, on_commit
from .protocol import envelope
from .publishing import Order, PublishOptions, check_size, prepare
from .redis_history import RedisHistory
from .redis_sync import SyncRedis, Unreachable
from .types import PublishResult

if TYPE_CHECKING:
    from .typed.hub import TypedHub

__all__ = ["Publisher"]

log: logging.Logger = logging.getLogger("hub.sync")


class Publisher:
    """Publishes to the clients of a hub that shares the Redis and the settings of this process.

    Make one for the process and keep it. It is thread-safe, with a connection for each thread that publishes at the
    same time, and fork-safe: one that was made before the fork works in the child.

    ::

        publisher = Publisher()                                   # REDIS_URL, HUB_* from the environment
        publisher.publish("chat:board", {"text": "it is done"})   # returns when Redis has it
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        redis: str | redis_py.Redis | None = None,
        hub: TypedHub | None = None,
    ) -> None:
        """`redis` is a URL or a client (fakeredis too); without it `settings.redis_url`.

        `hub` is one that has declared typed channels, and need not run: with it their options and models are known.
        Its settings are taken if there are no others; a `redis` that it was given is not, so give that here too.

        Nothing is connected yet. Raises ConfigError if a setting is wrong, or if there is no Redis.
        """
        self.settings: Settings = settings or (hub.settings if hub is not None else Settings.load())
        url = self.settings.redis_url
        source = redis or (url.get_secret_value() if url else None)
        if source is None:
            raise ConfigError("hub.sync.Publisher reaches the hub through its Redis: set REDIS_URL")
        self._namespaces = hub.namespaces if hub is not None else self.settings.channels
        self._redis = SyncRedis(source, self.settings.publish_timeout)
        self._history = RedisHistory(self.settings.redis_prefix, self._redis)
        self._redis.lineage_key = self._history.lineage
        self.unsent: Throttled = Throttled(log, logging.ERROR, "%d publications could not be relayed")

    def __repr__(self) -> str:
        return f"<Publisher {self._redis.name}, {self.unsent.total} publications failed>"

    def publish(
        self,
        channel: str,
        data: Any,
        *,
        exclude: bytes = b"",
        tags: Mapping[str, str] | None = None,
        idempotency_key: str = "",
        version: int = 0,
        version_epoch: str = "",
        skip_history: bool = False,
        delta: bool = False,
        known: bool = False,
    ) -> PublishResult:
        """Send `data` to every client of `channel`: `Hub.publish` with the same arguments, result and errors.

        Returns once Redis has taken it. It is at most once: after BrokerUnavailable, whose text says whether it may
        have been sent, nothing is sent by itself. Each step, to connect and to be answered, takes `publish_timeout`
        seconds at most. It blocks: in a coroutine await `Hub.publish`.

        Raises Refused (102) for a namespace that is not known (with `known`), Refused (107) for data that do not fit it
        (with `known`, or a typed channel's model), BrokerUnavailable, InvalidChannel, MessageTooBig, TypeError for what
        JSON cannot say.
        """
        return self._send(
            self._prepare(
                channel,
                data,
                exclude=exclude,
                tags=tags,
                idempotency_key=idempotency_key,
                version=version,
                version_epoch=version_epoch,
                skip_history=skip_history,
                delta=delta,
                known=known,
            )
        )

    def publish_on_commit(
        self, session: AnySession, channel: str, data: Any, **options: Unpack[PublishOptions]
    ) -> None:
        """`publish` when the outermost transaction of `session` is committed, in the order of these calls.

        `session` is a Session of SQLAlchemy or SQLModel. If it is rolled back nothing is sent, nor what was registered
        in a SAVEPOINT that is rolled back. `data` is what it is now. What cannot be sent after the commit is counted
        (`unsent`) and logged; the commit never fails for it.

        Raises at once what `publish` raises, except BrokerUnavailable; ConfigError without SQLAlchemy.
        """
        on_commit(session, self._send_committed, self._prepare(channel, data, **options))

    def close(self) -> None:
        """Close its connections; afterwards it refuses to publish. May be called twice."""
        self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _prepare(self, channel: str, data: Any, **options: Unpack[PublishOptions]) -> Order:
        order = prepare(self._namespaces, channel, data, **options)
        check_size(order.publication, self.settings.max_message_size)
        return order

    def _send(self, order: Order) -> PublishResult:
        try:
            return self._issue(order)
        except BrokerUnavailable as error:
            self._count(1, str(error))
            raise

    def _issue(self, order: Order) -> PublishResult:
        # What it returns is what `SyncRedis` returns: the result, not a future of it.
        payload, history = envelope.encode(order.publication), order.history
        sent: Any
        if history is None:
            sent = self._history.publish(order.channel, payload, order.idempotency_key)
        else:
            version = order.version, order.version_epoch
            sent = self._history.append(order.channel, payload, history, order.idempotency_key, *version)
        return sent  # type: ignore[no-any-return]

    def _send_committed(self, orders: Sequence[Order]) -> None:
        for number, order in enumerate(orders, 1):
            try:
                self._send(order)
            except Unreachable as error:  # the rest would only make the committer wait
                self._count(len(orders) - number, str(error))
                return
            except BrokerUnavailable:
                continue

    def _count(self, count: int, cause: str) -> None:
        if count:
            self.unsent.add(count, last=cause)
