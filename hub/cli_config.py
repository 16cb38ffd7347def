"""`hub config check`: whether the hub starts with a file, what it means, and what in it an attacker would like."""

from __future__ import annotations

import stat
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import click

from .authority import Authority
from .cli_remote import printable
from .config import Settings, sourced
from .environment import unknown_variables
from .errors import ConfigError
from .namespaces import ChannelOptions
from .redis_link import private_pool

__all__ = ["config", "prove"]

# RFC 7518 §3.2: a key of HS256 has at least the size of the hash.
LEAST_SECRET = 32
LEAST_KEY = 16

Meaning = list[tuple[str, str]]


@click.group()
def config() -> None:
    """Look at configuration files."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Check FILE as `hub serve --config FILE` would, with the same environment, and say what it means.

    The status is 2 if the hub would not start with it. Warnings leave it at 0.
    """
    try:
        settings = Settings.load(config=file)
        prove(settings)
    except ConfigError as error:
        for sentence in error.args:
            click.echo(f"hub: {' '.join(str(sentence).split())}", err=True)
        sys.exit(2)
    _explain(settings)
    for warning in warnings_of(settings, file):
        click.echo(f"warning: {warning}", err=True)


def prove(settings: Settings, given: Collection[str] = ()) -> None:
    """Build what a worker builds of them, and connect nowhere: its faults are sentences here, and there a traceback.

    `given` are the settings that options of the command line decided. Raises ConfigError with all that is wrong.
    """
    faults: list[str] = []
    for build in (_with_examples, _authority, _relay):
        try:
            build(settings)
        except ConfigError as error:
            faults += [sourced(str(sentence), given) for sentence in error.args]
    if faults:
        raise ConfigError(*faults)


def _with_examples(settings: Settings) -> None:
    if settings.examples:
        from .app import with_examples  # eight programs, for those who want them

        with_examples(settings)


def _authority(settings: Settings) -> None:
    Authority(settings, settings.channels)


def _relay(settings: Settings) -> None:
    if settings.redis_url is None:
        return
    try:
        private_pool(settings.redis_url.get_secret_value(), settings.redis_timeout, "hub")
    except ConfigError as error:  # it does not know where the URL comes from
        raise ConfigError(f"redis_url: {error}") from None


def _explain(settings: Settings) -> None:
    _section("Who may connect", _connecting(settings))
    _section("Channels without a namespace", _channels(settings.without_namespace))
    for name, options in settings.namespaces.items():
        _section(f"Channels {printable(name)}:...", _channels(options))


def _section(title: str, meaning: Meaning) -> None:
    click.secho(title, bold=True)
    for name, value in meaning:
        click.echo(f"  {name:<18}{printable(value)}")


# What it means


def _connecting(settings: Settings) -> Meaning:
    who = "everybody" if _anonymous(settings) else "clients with a token"
    rows = [("clients", who), ("tokens", ", ".join(_token_keys(settings)) or "none is accepted: there is no key")]
    if settings.subscribe_to_user_personal_channel:
        namespace = settings.user_personal_channel_namespace
        rows.append(("personal channel", f"{namespace}:#<user>" if namespace else "#<user>"))
    if settings.console_password:
        rows.append(("console", "with a password, at /console"))
    keys = len(settings.api_keys)
    rows.append(("server API", f"with {'one of ' if keys > 1 else ''}{keys} key{'s' * (keys > 1)}" if keys else "off"))
    return rows


def _token_keys(settings: Settings) -> Iterator[str]:
    if settings.token_hmac_secret_key:
        yield "HMAC"
    if settings.token_hmac_previous_secret_key:
        until = settings.token_hmac_previous_secret_key_valid_until
        yield "HMAC with the secret before" + (f" until {_date(until)}" if until else "")
    if settings.token_rsa_public_key:
        yield "RSA"
    if settings.token_ecdsa_public_key:
        yield "ECDSA"
    if settings.token_jwks_public_endpoint:
        yield f"keys from {settings.token_jwks_public_endpoint.partition('?')[0]}"  # what follows may be a secret


def _anonymous(settings: Settings) -> bool:
    """Whether clients without a token may connect."""
    said = settings.allow_anonymous_connect_without_token
    return settings.client_insecure or (not any(_token_keys(settings)) if said is None else said)


def _channels(options: ChannelOptions) -> Meaning:
    return [
        ("subscribe", _who(options, "subscribe") or "with a token for the channel"),
        ("publish", _who(options, "publish") or "the server API only"),
        ("history", _history(options)),
        ("recovery", _recovery(options)),
        ("presence", (_who(options, "presence") or "the server API only") if options.presence else "off"),
        ("joins, leaves", _joins(options)),
        *_extras(options),
    ]


def _who(options: ChannelOptions, what: str) -> str:
    """Whom the three permissions for `what` allow it; empty if nobody."""
    client = getattr(options, f"allow_{what}_for_client")
    subscriber = getattr(options, f"allow_{what}_for_subscriber", False)
    anonymous = getattr(options, f"allow_{what}_for_anonymous")
    if client:
        return "everybody" if anonymous else "clients with a user id"
    if subscriber:
        return "subscribers" if anonymous else "subscribers with a user id"
    return ""


def _history(options: ChannelOptions) -> str:
    if options.history is None:
        return "off"
    readers = _who(options, "history")
    kept = f"{options.history_size} publications for {_duration(options.history_ttl)}"
    return f"{kept}, read by {readers or 'the server API only'}"


def _recovery(options: ChannelOptions) -> str:
    mode = ", the latest publication" if options.force_recovery_mode == "cache" else ""
    if options.force_recovery:
        return f"all subscribers{mode}"
    if options.allow_recovery:
        return f"subscribers that ask{mode}"
    if options.force_positioning or options.allow_positioning:
        return "off, but subscribers learn of losses" + ("" if options.force_positioning else " if they ask")
    return "off"


def _joins(options: ChannelOptions) -> str:
    if not options.join_leave:
        return "off"
    return "all subscribers" if options.force_push_join_leave else "subscribers that ask"


def _extras(options: ChannelOptions) -> Iterator[tuple[str, str]]:
    if options.channel_regex:
        yield "names", f"match {options.channel_regex}"
    if options.publication_data_format:
        yield "publications", f"are {options.publication_data_format.replace('json_object', 'JSON objects')}"
    if options.allowed_delta_types:
        yield "deltas", "all publications" if options.delta_publish else "publications that ask for it"
    if options.allow_tags_filter:
        yield "filters", "by tags"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


# What an attacker would like


def warnings_of(settings: Settings, file: Path) -> Iterator[str]:
    """One sentence for each setting that is good for trying things out only, and each variable that is none."""
    yield from unknown_variables(Settings.model_fields)
    if settings.client_insecure:
        yield "client_insecure is on: everybody may subscribe, publish and read everywhere"
    elif _anonymous(settings) and settings.host not in ("127.0.0.1", "::1", "localhost"):
        yield f"everybody who reaches {settings.host} may connect without a token"
    yield from _weak_secrets(settings)
    if settings.token_jwks_public_endpoint.startswith("http://"):
        yield "token_jwks_public_endpoint is not https: whoever is on the way can sign tokens"
    if "*" in settings.origins:
        yield "origins allows any web site to connect its visitors"
    if settings.forwarded_allow_ips == "*":
        yield "forwarded_allow_ips believes anybody's X-Forwarded headers"
    if _secrets(settings) and file.stat().st_mode & stat.S_IROTH:
        yield f"{file} has secrets, and every user of this machine can read it"


def _weak_secrets(settings: Settings) -> Iterator[str]:
    for name in ("token_hmac_secret_key", "token_hmac_previous_secret_key"):
        secret = getattr(settings, name)
        if secret and len(secret.get_secret_value().encode()) < LEAST_SECRET:
            yield f"{name} is shorter than {LEAST_SECRET} bytes: it can be guessed from any token"
    if settings.token_hmac_previous_secret_key and not settings.token_hmac_previous_secret_key_valid_until:
        yield "token_hmac_previous_secret_key has no token_hmac_previous_secret_key_valid_until: it is good for ever"
    if any(len(key) < LEAST_KEY for key in settings.api_keys):
        yield f"api_key is shorter than {LEAST_KEY} characters: it can be guessed"
    if settings.token and len(settings.token.get_secret_value()) < LEAST_KEY:
        yield f"token is shorter than {LEAST_KEY} characters: it can be guessed"
    if settings.console_password and len(settings.console_password.get_secret_value()) < LEAST_KEY:
        yield f"console_password is shorter than {LEAST_KEY} characters: it can be guessed"


def _secrets(settings: Settings) -> bool:
    names = ("token", "api_key", "console_password", "token_hmac_secret_key", "token_hmac_previous_secret_key")
    return any(getattr(settings, name) for name in names)
