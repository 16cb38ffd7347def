"""One client's subscription to one channel, from the wish to the reply."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from msgspec import Raw

from .authority import Grant
from .errors import Disconnects, Ended, Errors, Refused
from .hub import HubCore
from .namespaces import ChannelOptions
from .protocol import tags
from .protocol.commands import Subscribe
from .protocol.forms import Form, JsonForm, deflated
from .protocol.replies import SubscribeResult, client_info, json_or_unset, read_client_info
from .protocol.stream import Recovery, Stream
from .registry import Channel, Subscriber
from .types import ClientInfo, Publication, SlowPolicy, StreamPosition

__all__ = ["Plan", "Subscription", "introduce", "plan", "rename", "rename_in", "subscribe", "ttl"]

# The protocol has 32 bits for it; an application may say infinity.
MAX_TTL = 2**32 - 1
# Bit of `Subscribe.flag`: an error is wanted in place of a subscription that has missed something.
REJECT_UNRECOVERED = 2


@dataclass(slots=True, kw_only=True)
class Subscription:
    """What a client has of a channel. `info` is its ClientInfo there, as JSON."""

    info: bytes
    server_side: bool
    presence: bool
    # Joins and leaves are told.
    announce: bool
    expire_at: float
    # Until the presence store has confirmed.
    registering: asyncio.Future[None] | None = None


class _Introduced(Protocol):
    """A client, as others see it."""

    client_id: str
    user: str
    info: bytes
    subs: dict[str, Subscription]


class _ClientForm(Form, Protocol):
    """One in which a client gets single publications, too: those that it missed."""

    @property
    def join_leave(self) -> bool: ...
    @property
    def delta(self) -> bool: ...
    def wants(self, publication: Publication, /) -> bool: ...
    def publication(self, publication: Publication, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What a client gets of what it wishes."""

    options: ChannelOptions
    form: _ClientForm
    recoverable: bool
    # Where the client stood, if it wants what it missed.
    since: StreamPosition | None
    reject_unrecovered: bool


class _Permissions(Protocol):
    def __call__(self, what: str, /) -> bool: ...


def introduce(hub: HubCore, client: _Introduced, channel: str) -> asyncio.Future[None]:
    """Have presence list it, with the info that it has there; done when that is so."""
    subscription = client.subs[channel]
    return hub.broker.presence.add(
        channel, client.client_id, client.user, subscription.info, announce=subscription.announce
    )


def rename(hub: HubCore, client: _Introduced, info: bytes) -> None:
    """Its `conn_info` is another: in presence, and in what it publishes from now on. Nobody is told that it joins."""
    client.info = info
    for channel, subscription in client.subs.items():
        rename_in(hub, client, channel, read_client_info(subscription.info).chan_info)


def rename_in(hub: HubCore, client: _Introduced, channel: str, chan_info: bytes) -> None:
    """The same of its `chan_info` in a channel."""
    subscription = client.subs[channel]
    known = ClientInfo(user=client.user, client=client.client_id, conn_info=client.info, chan_info=chan_info)
    subscription.info = client_info(known)
    if subscription.presence:
        introduce(hub, client, channel)


def plan(wish: Subscribe, options: ChannelOptions, may: _Permissions) -> Plan:
    """Decide between what the namespace forces, allows, and the client wishes. Raises Refused or Ended."""
    kept = options.history is not None
    recoverable = kept and (options.force_recovery or (wish.recoverable and options.allow_recovery and may("history")))
    positioned = recoverable or (
        kept and (options.force_positioning or (wish.positioned and options.allow_positioning and may("history")))
    )
    announced = options.force_push_join_leave or (wish.join_leave and may("presence"))
    form = JsonForm(
        join_leave=options.join_leave and announced,
        positioned=positioned,
        tags_filter=_filter(wish.tf, options),
        delta=_delta(wish.delta, options) and positioned,
    )
    form = replace(form, slow=_slow(options, form, recoverable=recoverable))
    since = StreamPosition(wish.offset, wish.epoch) if wish.recover and recoverable else None
    rejecting = since is not None and bool(wish.flag & REJECT_UNRECOVERED)  # a newcomer has missed nothing
    return Plan(options, form, recoverable, since, rejecting)


def _slow(options: ChannelOptions, form: JsonForm, *, recoverable: bool) -> SlowPolicy:
    """Nothing may be left out for who relies on hearing everything; recovery in `cache` mode wants but the latest."""
    relies = form.positioned and not (recoverable and options.force_recovery_mode == "cache")
    return "disconnect" if relies or form.delta or form.join_leave else options.slow_policy or "disconnect"


def _filter(wish: Any, options: ChannelOptions) -> tags.TagsFilter | None:
    if wish is None:
        return None
    if not options.allow_tags_filter:
        raise Refused(Errors.BAD_REQUEST, "the namespace has no allow_tags_filter")
    try:
        return tags.parse(wish)
    except ValueError as error:
        raise Refused(Errors.BAD_REQUEST, f"tf: {error}") from None


def _delta(wish: str, options: ChannelOptions) -> bool:
    if wish not in ("", "fossil"):
        raise Ended(Disconnects.BAD_REQUEST)
    return wish in options.allowed_delta_types


async def subscribe(
    hub: HubCore,
    subscriber: Subscriber,
    name: str,
    plan: Plan,
    grant: Grant,
    done: Callable[[SubscribeResult], None],
    *,
    compression: int = 0,
) -> None:
    """Deliver a channel; `done` is called with the result in the very moment in which delivery begins.

    `compression` is that of the subscriber's connection. Raises Refused and BrokerUnavailable; nothing is left behind
    then.
    """
    async with hub.attending(name) as channel:
        stream, recovery = await _locate(hub, channel, plan)
        result = _result(plan, grant, stream, recovery)
        hub.join(subscriber, channel, deflated(plan.form, compression))
        done(result)


async def _locate(hub: HubCore, channel: Channel, plan: Plan) -> tuple[Stream | None, Recovery | None]:
    history = plan.options.history
    if history is None:
        return None, None
    recovery = None
    cached = plan.options.force_recovery_mode == "cache"
    if cached and (plan.since is not None or plan.options.auto_cache_recover):
        recovery = await hub.streams.latest(channel, history, plan.since)
    elif plan.since is not None:
        recovery = await hub.streams.recover(channel, history, plan.since)
    return await hub.streams.locate(channel, history), recovery  # it is live after a recovery: nothing comes between


def _result(plan: Plan, grant: Grant, stream: Stream | None, recovery: Recovery | None) -> SubscribeResult:
    result = SubscribeResult(data=json_or_unset(grant.data))
    if grant.renewable:
        result.expires, result.ttl = bool(grant.expire_at), ttl(grant.expire_at)
    result.delta = plan.form.delta
    if stream is not None and plan.form.positioned:
        result.positioned, result.recoverable = True, plan.recoverable
        result.offset, result.epoch = stream.position
    if recovery is not None:
        _recovered(result, plan, recovery)
    return result


def _recovered(result: SubscribeResult, plan: Plan, recovery: Recovery) -> None:
    result.was_recovering = True
    if recovery.publications is None:
        if plan.reject_unrecovered:
            raise Refused(Errors.UNRECOVERABLE_POSITION)
        return
    result.recovered = True
    if plan.since is not None and plan.options.force_recovery_mode == "stream":
        # The client gets ahead by applying the publications.
        result.offset = plan.since.offset
    result.publications = [Raw(plan.form.publication(p)) for p in recovery.publications if plan.form.wants(p)]


def ttl(expire_at: float) -> int:
    """Whole seconds until then, at least one; 0 for never."""
    return max(1, math.ceil(min(expire_at - time.time(), MAX_TTL))) if expire_at else 0
