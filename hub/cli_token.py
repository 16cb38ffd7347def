"""`hub token`: tokens for trying things out, and for applications that would rather run a command than a library."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import msgspec
from pydantic import TypeAdapter, ValidationError

from .cli_remote import config_option
from .config import Settings
from .errors import ConfigError
from .namespaces import Seconds
from .tokens import sign

__all__ = ["token"]


class _Duration(click.ParamType[float]):
    """Seconds, or a text like 5m, 1h30m, 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return TypeAdapter(Seconds).validate_python(float(value) if _is_number(value) else value)
        except ValidationError:
            self.fail(f"{value!r} is not a number of seconds, nor a text like 5m, 1h30m, 7d", param, ctx)


class _Json(click.ParamType[Any]):
    """Any JSON."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return msgspec.json.decode(value)
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
            self.fail(f"{value!r} is not JSON (a text needs its quotes)", param, ctx)


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and value.replace(".", "", 1).isdecimal()


@click.command()
@click.option("--user", default="", help="Id of the user.  [default: empty, anonymous]")
@click.option("--channel", help="Make a token for subscribing to this channel, in place of one for connecting.")
@click.option("--channels", "subscribed", help="Channels that the connection is subscribed to, comma-separated.")
@click.option("--info", type=_Json(), help="JSON that presence shows of the client, or of its subscription.")
@click.option("--expires", type=_Duration(), default="1h", help="Until then it is good; 0 is for ever.  [default: 1h]")
@click.option("--secret", help="What it is signed with.  [env: HUB_TOKEN_HMAC_SECRET_KEY]")
@click.option(
    "--algorithm",
    type=click.Choice(["HS256", "HS384", "HS512"]),
    default="HS256",
    help="How it is signed.  [default: HS256]",
)
@config_option
def token(
    user: str,
    channel: str | None,
    subscribed: str | None,
    info: Any,
    expires: float,
    secret: str | None,
    algorithm: str,
    config: Path | None,
) -> None:
    """Make a JSON Web Token that a hub with the same secret takes.

    \b
    hub token --user 42 --info '{"name": "Ann"}'
    hub token --user 42 --channel '$private' --expires 10m
    """
    if channel is not None and subscribed is not None:
        raise click.UsageError("--channels is for connecting, --channel for subscribing: give one of them")
    settings = Settings.load(config=config)
    claims = _identity(settings, user) | _times(expires)
    claims |= {"info": info} if info is not None else {}
    claims |= {"channel": channel} if channel is not None else {}
    claims |= {"channels": _split(subscribed)} if subscribed is not None else {}
    click.echo(sign(claims, secret or _secret(settings), algorithm))


def _identity(settings: Settings, user: str) -> dict[str, Any]:
    """What a hub with these settings asks for."""
    claims = {settings.token_user_id_claim: user}
    if settings.token_audience:
        claims["aud"] = settings.token_audience
    if settings.token_issuer:
        claims["iss"] = settings.token_issuer
    return claims


def _times(expires: float) -> dict[str, Any]:
    now = int(time.time())
    return {"iat": now, "exp": now + int(expires)} if expires else {"iat": now}


def _split(channels: str) -> list[str]:
    return [name for name in (part.strip() for part in channels.split(",")) if name]


def _secret(settings: Settings) -> str:
    if settings.token_hmac_secret_key is None:
        raise ConfigError(
            "there is no secret to sign with: set HUB_TOKEN_HMAC_SECRET_KEY, or give --secret or --config"
        )
    return settings.token_hmac_secret_key.get_secret_value()
