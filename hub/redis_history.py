"""The history of channels in Redis: one stream a channel, written and read by scripts.

    <prefix>:stream:{<channel>}        the publications, with `<offset>-0` as id and the payload in field `d`
    <prefix>:meta:{<channel>}          hash: `s` offset of the last one, `e` epoch, `v` and `ve` version and its epoch,
                                       `l` lineage of the server that took it
    <prefix>:result:{<channel>}:<key>  `<offset>:<epoch>` of the publication with that idempotency key
    <prefix>:lineage                   lineage of the server, if it goes on with what others have copies of

The stream goes with its ttl; the meta hash outlives it, so that a position from before is known to be an old one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from .broker import IDEMPOTENCY_TTL, fresh_epoch
from .protocol.stream import renewed
from .redis_commands import Argument, Parse
from .redis_scripts import Script, load
from .types import HistoryOptions, HistoryPage, PublishResult, StreamPosition

__all__ = ["RedisHistory"]

# The largest offset that a stream id can hold; clients may name any.
LAST_OFFSET = 2**64 - 1

_RESULT_TTL = int(IDEMPOTENCY_TTL * 1000)
_NO_HISTORY = PublishResult()


class _Redis(Protocol):
    """What sends commands: `hub.redis_commands.Commands`, or the broker for its present connection."""

    def execute(self, *command: Argument, parse: Parse | None = None) -> asyncio.Future[Any]: ...

    def call(
        self, script: Script, keys: Sequence[Argument], args: Sequence[Argument], parse: Parse | None = None
    ) -> asyncio.Future[Any]: ...


class RedisHistory:
    """Implements the history methods of `hub.broker.Broker`."""

    def __init__(self, prefix: str, redis: _Redis) -> None:
        self._redis = redis
        # What comes before the name of a channel.
        self._channel, self._stream, self._meta = f"{prefix}:channel:", f"{prefix}:stream:{{", f"{prefix}:meta:{{"
        self._result = f"{prefix}:result:{{"
        # Of the server: what all that hold its data have in common, until one of them becomes a master of its own.
        self.lineage: str = f"{prefix}:lineage"
        self.scripts: tuple[Script, ...] = load("append"), load("publish_once"), load("history"), load("renew")
        self._append, self._once, self._history, self._renew = self.scripts

    def append(
        self,
        channel: str,
        payload: bytes,
        history: HistoryOptions,
        idempotency_key: str,
        version: int,
        version_epoch: str,
    ) -> asyncio.Future[PublishResult]:
        """Publish and keep."""
        keys: list[Argument] = [f"{self._stream}{channel}}}", f"{self._meta}{channel}}}", self.lineage]
        args: list[Argument] = [
            self._channel + channel,
            payload,
            fresh_epoch(),
            history.size,
            int(history.ttl * 1000),
            int(history.meta_ttl * 1000),
        ]
        if idempotency_key:
            keys.append(self._result_key(channel, idempotency_key))
        if idempotency_key or version > 0:
            args.append(_RESULT_TTL)
        if version > 0:
            args += (version, version_epoch)
        return self._redis.call(self._append, keys, args, _result)

    def publish(self, channel: str, payload: bytes, idempotency_key: str) -> asyncio.Future[PublishResult]:
        """Publish without keeping."""
        name = self._channel + channel
        if not idempotency_key:
            return self._redis.execute(b"PUBLISH", name, payload, parse=_published)
        keys = (self._result_key(channel, idempotency_key),)
        return self._redis.call(self._once, keys, (name, payload, _RESULT_TTL), _first_result)

    def read(
        self, channel: str, since: int | None, limit: int, reverse: bool, meta_ttl: float
    ) -> asyncio.Future[HistoryPage]:
        """A part of the stream and the position."""
        first, last = (b"+", b"-") if reverse else (b"-", b"+")
        if since == 0 and reverse:
            limit = 0  # nothing is before it, and Redis takes it for an error
        elif since is not None:
            first = b"(%d-0" % min(since, LAST_OFFSET)
        keys = (f"{self._stream}{channel}}}", f"{self._meta}{channel}}}")
        order = b"XREVRANGE" if reverse else b"XRANGE"
        return self._redis.call(
            self._history, keys, (fresh_epoch(), int(meta_ttl * 1000), limit, order, first, last), _page
        )

    def remove(self, channel: str) -> asyncio.Future[None]:
        """Delete the stream."""
        return self._redis.execute(b"DEL", f"{self._stream}{channel}}}", parse=_nothing)

    def renew(self, channel: str, epoch: str) -> asyncio.Future[None]:
        """Another epoch for the stream."""
        return self._redis.call(
            self._renew, (f"{self._meta}{channel}}}",), (epoch, renewed(epoch, fresh_epoch())), _nothing
        )

    def _result_key(self, channel: str, idempotency_key: str) -> str:
        return f"{self._result}{channel}}}:{idempotency_key}"


# The meaning of replies


def _result(reply: Any) -> PublishResult:
    return PublishResult(reply[0], reply[1].decode(), len(reply) > 2)


def _published(reply: Any) -> PublishResult:
    return _NO_HISTORY


def _first_result(reply: Any) -> PublishResult:
    if reply is None:
        return _NO_HISTORY
    offset, _, epoch = reply.decode().partition(":")
    return PublishResult(int(offset), epoch, True)


def _page(reply: Any) -> HistoryPage:
    offset, epoch, entries = reply
    # An id is `<offset>-0`, the fields are `d` and the payload.
    publications = [(int(name[:-2]), fields[1]) for name, fields in entries]
    return HistoryPage(publications, StreamPosition(offset, epoch.decode()))


def _nothing(reply: Any) -> None:
    return None
