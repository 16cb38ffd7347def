"""The commands of the Centrifuge protocol, one short function each.

A handler answers by itself. What it returns, if anything, is still to be done; faults in it become error replies
(Refused) or the end of the connection (Ended).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw

from . import __version__
from .authority import Grant, as_python
from .client import Client
from .errors import Disconnects, Ended, Errors, Refused
from .protocol import commands as c
from .protocol.commands import Command
from .protocol.forms import as_json, json_publication
from .protocol.replies import (
    ConnectResult,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    RefreshResult,
    RpcResult,
    SubscribePush,
    SubscribeResult,
    push,
    reply,
)
from .protocol.session import State
from .subscription import Subscription, plan, rename, rename_in, subscribe, ttl
from .tokens import SubscribeGrant
from .types import DataKind, Publication, StreamPosition

__all__ = ["HANDLERS", "subscribe_by_server"]

Work: TypeAlias = Coroutine[Any, Any, None]


def _named(channel: str) -> str:
    """A command about a channel must name it."""
    if not channel:
        raise Ended(Disconnects.BAD_REQUEST)
    return channel


# connect


def _connect(client: Client, command: Command) -> Work:
    client.state = State.CONNECTING
    return _connecting(client, command)


async def _connecting(client: Client, command: Command) -> None:
    body: c.Connect = command.body  # type: ignore[assignment]
    context = client.context
    assert client.connection is not None
    principal = await context.authority.connect(client.connection, body.token)
    client.begin(principal, by_token=bool(body.token))
    subs = await _subscribe_server_side(client, principal.subs, body.subs)
    settings = context.settings
    result = ConnectResult(
        client.client_id,
        __version__,
        expires=client.refreshes,
        ttl=ttl(client.expire_at) if client.refreshes else 0,
        subs=subs,
        ping=max(1, round(settings.ping_interval)),
        pong=True,
    )
    client.open(reply(command.id, "connect", result))


async def _subscribe_server_side(
    client: Client, granted: Mapping[str, SubscribeGrant], known: Mapping[str, c.SubscribeRecovery]
) -> dict[str, SubscribeResult]:
    """The subscriptions of the token. All are being made from now on, so that what the application orders is heard."""
    if len(granted) > client.context.settings.client_channel_limit:
        raise Ended(Disconnects.CHANNEL_LIMIT)
    client.opening.update(dict.fromkeys(granted))
    subs: dict[str, SubscribeResult] = {}
    for channel, grant in granted.items():
        with _making(client, channel):
            if client.opening.get(channel) is not None:  # ended before it was begun
                continue
            position = known.get(channel, c.SubscribeRecovery())
            wish = c.Subscribe(channel, recover=position.recover, epoch=position.epoch, offset=position.offset)
            done = partial(subs.__setitem__, channel)
            await _open(client, wish, client.context.authority.grant(channel, grant), done, server_side=True)
    return subs


# subscribe, unsubscribe


def _is_full(client: Client) -> bool:
    """Subscriptions that are being made count."""
    return len(client.subs) + len(client.opening) >= client.context.settings.client_channel_limit


@contextmanager
def _making(client: Client, channel: str) -> Iterator[None]:
    """The block makes a subscription that is in `opening`: there is no second one, and it can be ended already."""
    try:
        yield
    finally:
        ended = client.opening.pop(channel, None)
        if not client.opening:
            client.opening.clear()  # or it keeps its room for eight
        if ended is not None:
            client.end_subscription(channel, ended)


def _subscribe(client: Client, command: Command) -> Work | None:
    body: c.Subscribe = command.body  # type: ignore[assignment]
    _named(body.channel)
    if body.channel in client.subs:
        raise Refused(Errors.ALREADY_SUBSCRIBED)
    if _is_full(client):
        raise Refused(Errors.LIMIT_EXCEEDED)
    if body.type:
        raise Refused(Errors.NOT_AVAILABLE)
    client.opening[body.channel] = None
    return _subscribing(client, command, body)


async def _subscribing(client: Client, command: Command, body: c.Subscribe) -> None:
    def done(result: SubscribeResult) -> None:
        client.reply(command, "subscribe", result)

    with _making(client, body.channel):
        grant = await client.context.authority.subscribe(client, body.channel, body.token)
        await _open(client, body, grant, done)


async def _open(
    client: Client,
    wish: c.Subscribe,
    grant: Grant,
    done: Callable[[SubscribeResult], None],
    *,
    server_side: bool = False,
) -> None:
    context, channel = client.context, wish.channel
    may = partial(context.authority.may, client, channel, grant.options)
    planned = plan(wish, grant.options, may)
    announce = grant.options.join_leave

    def begun(result: SubscribeResult) -> None:
        subscription = Subscription(
            info=client.channel_info(grant.info),
            server_side=server_side,
            presence=grant.options.presence or announce,
            announce=announce,
            expire_at=grant.expire_at,
        )
        done(result)
        client.add(channel, subscription)

    await subscribe(context.hub, client, channel, planned, grant, begun, compression=client.writer.compression)


def subscribe_by_server(
    client: Client,
    channel: str,
    granted: SubscribeGrant,
    since: StreamPosition | None,
    expire_at: float,
    on_fault: Callable[[Exception], None],
) -> None:
    """A subscription that the application decides while the client is connected; the client is told by a push.

    It waits while something else is being done in the channel, and need not be made if that has made one.
    """
    if channel in client.subs:
        return
    if client.is_changing(channel):
        again = partial(subscribe_by_server, client, channel, granted, since, expire_at, on_fault)
        client.context.orders.keep(client, channel, again)
    elif _is_full(client):
        on_fault(Ended(Disconnects.CHANNEL_LIMIT))
    else:
        client.opening[channel] = None
        client.run(_subscribing_by_server(client, channel, granted, since, expire_at), on_fault)


async def _subscribing_by_server(
    client: Client, channel: str, granted: SubscribeGrant, since: StreamPosition | None, expire_at: float
) -> None:
    with _making(client, channel):
        grant = client.context.authority.grant(channel, granted)
        grant = Grant(options=grant.options, info=grant.info, data=grant.data, expire_at=expire_at)
        offset, epoch = since or (0, "")
        wish = c.Subscribe(channel, recover=since is not None, offset=offset, epoch=epoch)

        def done(result: SubscribeResult) -> None:
            told = SubscribePush(result.recoverable, result.epoch, result.offset, result.positioned, result.data)
            client.wire.write(push("subscribe", told, channel))
            for publication in result.publications:
                client.wire.write(push("pub", bytes(publication), channel))

        await _open(client, wish, grant, done, server_side=True)


def _unsubscribe(client: Client, command: Command) -> Work | None:
    body: c.Unsubscribe = command.body  # type: ignore[assignment]
    left = client.drop(_named(body.channel))
    if left is None:
        client.reply(command, "unsubscribe")
        return None
    client.held.append(body.channel)
    return _leaving(client, command, body.channel, left)


async def _leaving(client: Client, command: Command, channel: str, left: asyncio.Future[None]) -> None:
    """Others see that the client has left before it is told so; the presence store makes it true in any case."""
    try:
        await asyncio.wait((left,))
    finally:
        client.held.remove(channel)
    client.reply(command, "unsubscribe")


# publish


def _publish(client: Client, command: Command) -> Work | None:
    body: c.Publish = command.body  # type: ignore[assignment]
    channel, data = _named(body.channel), bytes(body.data)
    authority = client.context.authority
    options = authority.publishable(channel, data)
    if (authority.hooks.publish is not None or options.rules is not None) and authority.asks(options):
        client.held.append(channel)
        return _publish_if_allowed(client, command, channel, data)
    authority.may_publish(client, channel, options)
    _send_on(client, command, channel, data)
    return None


async def _publish_if_allowed(client: Client, command: Command, channel: str, data: bytes) -> None:
    """The next publication waits for the answer about this one, so that they keep their order."""
    try:
        await client.context.authority.ask_publish(client, channel, data)
        _send_on(client, command, channel, data)
    finally:
        client.held.remove(channel)


def _send_on(client: Client, command: Command, channel: str, data: bytes) -> None:
    """Publish now, in the order of the commands; the reply comes when Redis has taken it."""
    subscription = client.subs.get(channel)
    info = subscription.info if subscription is not None else client.channel_info(b"")
    sent = client.context.hub.send(channel, Publication(data, DataKind.JSON, info=info))
    client.await_reply(command, sent)


# presence, presence_stats, history


async def _presence(client: Client, command: Command) -> None:
    channel = _named(command.body.channel)  # type: ignore[union-attr]
    client.context.authority.presence(client, channel)
    await _registered(client, channel)
    present = await client.context.hub.presence_infos(channel)
    client.reply(command, "presence", PresenceResult({key: Raw(info) for key, info in present.items()}))


async def _presence_stats(client: Client, command: Command) -> None:
    channel = _named(command.body.channel)  # type: ignore[union-attr]
    client.context.authority.presence(client, channel)
    await _registered(client, channel)
    clients, users = await client.context.hub.broker.presence.stats(channel)
    client.reply(command, "presence_stats", PresenceStatsResult(clients, users))


async def _registered(client: Client, channel: str) -> None:
    """A client that has subscribed finds itself."""
    subscription = client.subs.get(channel)
    if subscription is not None and subscription.registering is not None:
        await asyncio.wait((subscription.registering,))


async def _history(client: Client, command: Command) -> None:
    body: c.History = command.body  # type: ignore[assignment]
    channel = _named(body.channel)
    client.context.authority.history(client, channel)
    since = StreamPosition(body.since.offset, body.since.epoch) if body.since is not None else None
    history = await client.context.hub.history(channel, limit=body.limit, since=since, reverse=body.reverse)
    publications = [Raw(json_publication(p, as_json(p))) for p in history.publications]
    offset, epoch = history.position
    client.reply(command, "history", HistoryResult(publications, epoch, offset))


# rpc, send


async def _rpc(client: Client, command: Command) -> None:
    body: c.Rpc = command.body  # type: ignore[assignment]
    handlers = client.context.authority.hooks.rpc
    if not handlers:
        raise Refused(Errors.NOT_AVAILABLE)
    if body.method not in handlers:
        raise Refused(Errors.METHOD_NOT_FOUND)
    answer = await handlers[body.method](client, as_python(bytes(body.data)))
    client.reply(command, "rpc", RpcResult(Raw(msgspec.json.encode(answer))))


def _send(client: Client, command: Command) -> None:
    raise Ended(Disconnects.NOT_AVAILABLE)


# refresh, sub_refresh


async def _refresh(client: Client, command: Command) -> None:
    body: c.Refresh = command.body  # type: ignore[assignment]
    if not body.token:
        raise Ended(Disconnects.BAD_REQUEST)
    principal = await client.context.authority.refresh(client.connection, body.token, client.user)
    if not client.refreshes:
        raise Ended(Disconnects.BAD_REQUEST)
    if frozenset(principal.subs) != client.token_subs:
        raise Ended(Disconnects.INSUFFICIENT_STATE)
    if principal.info and principal.info != client.info:
        rename(client.context.hub, client, principal.info)
    client.prolong(principal.expire_at)
    result = RefreshResult(bool(principal.expire_at), ttl(principal.expire_at))
    client.reply(command, "refresh", result)


async def _sub_refresh(client: Client, command: Command) -> None:
    body: c.SubRefresh = command.body  # type: ignore[assignment]
    channel = _named(body.channel)
    subscription = client.subs.get(channel)
    if subscription is None:
        raise Refused(Errors.PERMISSION_DENIED)
    if not body.token:
        raise Refused(Errors.BAD_REQUEST)
    grant = await client.context.authority.sub_refresh(client, channel, body.token)
    subscription.expire_at = grant.expire_at
    if grant.info and client.subs.get(channel) is subscription:
        rename_in(client.context.hub, client, channel, grant.info)
    client.prolong(client.expire_at)
    client.reply(command, "sub_refresh", RefreshResult(bool(grant.expire_at), ttl(grant.expire_at)))


Handler = Callable[[Client, Command], "Work | None"]

HANDLERS: dict[type, Handler] = {
    c.Connect: _connect,
    c.Subscribe: _subscribe,
    c.Unsubscribe: _unsubscribe,
    c.Publish: _publish,
    c.Presence: _presence,
    c.PresenceStats: _presence_stats,
    c.History: _history,
    c.Rpc: _rpc,
    c.Send: _send,
    c.Refresh: _refresh,
    c.SubRefresh: _sub_refresh,
}
