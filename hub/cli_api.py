"""The commands that tell a running hub something, or ask it: `hub publish`, `hub channels`, `hub presence`, ..."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Raw

from .cli_remote import Remote, address_options, compact, connect, printable, remote_options, show_table
from .config import Settings
from .embed import Hub

__all__ = ["COMMANDS"]


# hub publish


@click.command()
@click.argument("channel")
@click.argument("data")
@click.option("--json", "is_json", is_flag=True, help="DATA is JSON, not text.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="A tag that subscribers may filter by.")
@click.option("--idempotency-key", default="", metavar="KEY", help="Publish once with this key in 5 minutes.")
@click.option("--redis-url", help="Publish through this Redis instead.  [env: REDIS_URL]")
@address_options
def publish(
    channel: str,
    data: str,
    is_json: bool,
    tags: tuple[str, ...],
    idempotency_key: str,
    redis_url: str | None,
    url: str | None,
    api_key: str | None,
    config: Path | None,
) -> None:
    """Send DATA to everybody in CHANNEL, which may be a raw room. DATA of `-` is read from standard input.

    It goes through a hub if --url is given or no Redis URL is known; else through Redis, and what is kept of it is
    decided by the settings that this command sees.
    """
    settings = Settings.load(redis_url=redis_url, config=config)
    value = _json(sys.stdin.read() if data == "-" else data, is_json)
    options: dict[str, Any] = {"idempotency_key": idempotency_key, "tags": dict(map(_tag, tags)) or None}
    if url or settings.redis_url is None:
        connect(settings, url, api_key).call("publish", channel=channel, data=value, **options)
    else:
        asyncio.run(_publish_redis(settings, channel, value, options))


async def _publish_redis(settings: Settings, channel: str, data: Raw, options: dict[str, Any]) -> None:
    log = logging.getLogger("hub")
    level = log.level
    log.setLevel(logging.CRITICAL)  # the error that follows says the same
    try:
        async with Hub(settings) as hub:
            await hub.publish(channel, data, **options)
    finally:
        log.setLevel(level)


def _json(data: str, is_json: bool) -> Raw:
    try:
        if not is_json:
            return Raw(msgspec.json.encode(data))
        msgspec.json.decode(data)
        return Raw(msgspec.json.format(data.encode(), indent=-1))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise click.BadParameter(f"this is not JSON: {error}", param_hint="DATA") from None
    except UnicodeEncodeError:
        raise click.BadParameter("this is not UTF-8", param_hint="DATA") from None


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--tag")
    return name, value


# Questions


@click.command()
@click.argument("pattern", default="")
@remote_options
def channels(remote: Remote, pattern: str, as_json: bool) -> None:
    """List the channels that have subscribers, on any worker.

    PATTERN is as in file names: 'chat:*' are all channels of the namespace chat.
    """
    result = remote.call("channels", pattern=pattern)
    rows = [(name, channel["num_clients"]) for name, channel in result["channels"].items()]
    _show(result, as_json, ("channel", "clients"), rows)


@click.command()
@click.argument("channel")
@remote_options
def presence(remote: Remote, channel: str, as_json: bool) -> None:
    """List who is in CHANNEL."""
    result = remote.call("presence", channel=channel)
    clients = sorted(result["presence"].values(), key=lambda client: (client["user"], client["client"]))
    rows = [(c["user"], c["client"], _info(c, "conn_info"), _info(c, "chan_info")) for c in clients]
    _show(result, as_json, ("user", "client", "about the client", "about the subscription"), rows)


def _info(client: dict[str, Any], name: str) -> str:
    return compact(client[name]) if name in client else ""


@click.command()
@click.argument("channel")
@click.option(
    "-n", "--limit", type=click.IntRange(min=-1), default=10, help="Most publications; -1 is all.  [default: 10]"
)
@click.option("--since", metavar="OFFSET[:EPOCH]", help="Publications after this position, the oldest first.")
@remote_options
def history(remote: Remote, channel: str, limit: int, since: str | None, as_json: bool) -> None:
    """Show what was published in CHANNEL, the newest first."""
    position = None if since is None else _position(since)
    result = remote.call("history", channel=channel, limit=limit, since=position, reverse=position is None)
    rows = [_row(publication) for publication in result["publications"]]
    _show(result, as_json, ("offset", "user", "tags", "data"), rows)
    if not as_json:
        click.echo(f"The end is at {result['offset']}:{printable(result['epoch'])}")


def _row(publication: dict[str, Any]) -> tuple[Any, ...]:
    tags = ", ".join(f"{name}={value}" for name, value in publication.get("tags", {}).items())
    return publication["offset"], publication.get("info", {}).get("user", ""), tags, compact(publication["data"])


def _position(text: str) -> dict[str, Any]:
    offset, _, epoch = text.partition(":")
    if not offset.isdecimal():
        raise click.BadParameter(f"{text!r} is not OFFSET or OFFSET:EPOCH", param_hint="--since")
    return {"offset": int(offset), "epoch": epoch}


_NODE = ("name", "version", "num_clients", "num_users", "num_subs", "num_channels", "uptime")


@click.command()
@remote_options
def info(remote: Remote, as_json: bool) -> None:
    """List the workers, with what they have to do."""
    result = remote.call("info")
    rows = [[node[name] for name in _NODE] for node in result["nodes"]]
    _show(result, as_json, [name.removeprefix("num_") for name in _NODE], rows)


# Orders


@click.command()
@click.option("--user", required=True, help="Id of the user.")
@click.option("--client", default="", help="Id of the one connection that is meant.")
@click.option("--except", "whitelist", multiple=True, metavar="CLIENT", help="Id of a connection that stays.")
@click.option("--code", type=click.IntRange(3000, 4999), help="Close code.  [default: 3503]")
@click.option("--reason", help="Its reason.  [default: force disconnect]")
@remote_options
def disconnect(
    remote: Remote,
    user: str,
    client: str,
    whitelist: tuple[str, ...],
    code: int | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Close the connections of a user, on every worker.

    Clients come back by themselves after the codes 3000-3499 and 4000-4499.
    """
    if reason is not None and code is None:
        raise click.UsageError("--reason needs --code")
    close = None if code is None else {"code": code, "reason": reason or ""}
    result = remote.call("disconnect", user=user, client=client, whitelist=whitelist, disconnect=close)
    if as_json:
        click.echo(compact(result))


def _show(result: dict[str, Any], as_json: bool, columns: Any, rows: list[Any]) -> None:
    if as_json:
        click.echo(compact(result))
    else:
        show_table(columns, rows)


COMMANDS = (publish, channels, presence, history, info, disconnect)
