"""The command line: `hub serve`, and the other commands from their files."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from . import __version__
from .cli_api import COMMANDS as API_COMMANDS
from .cli_config import config, prove
from .cli_token import token
from .config import Settings, warn_of_unknown_variables
from .dev_only import dev_only
from .errors import ConfigError, HubError
from .log import configure

__all__ = ["main"]

# `hub serve` options with their place in the help; the rest of the settings come from HUB_* or the file.
_SERVE_OPTIONS = (
    ("host", str, None),
    ("port", click.IntRange(0, 65535), "-p"),
    ("workers", click.IntRange(1, 512), "-w"),
    ("uds", click.Path(path_type=Path), None),
    ("redis_url", str, None),
    ("drain", click.FloatRange(0, 3600), None),
    ("forwarded_allow_ips", str, None),
    ("log_format", click.Choice(["text", "json"]), None),
    ("log_level", click.Choice(["debug", "info", "warning", "error"]), None),
    ("examples", bool, None),
)


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `hub serve`, with help and default from `Settings`."""
    for name, kind, short in reversed(_SERVE_OPTIONS):
        field = Settings.model_fields[name]
        flag = "--" + name.replace("_", "-")
        variable = "REDIS_URL" if name == "redis_url" else f"HUB_{name.upper()}"
        text = f"{field.description}  [env: {variable}" + (f"; default: {field.default}]" if field.default else "]")
        given = {"is_flag": True, "default": None} if kind is bool else {"type": kind}
        command = click.option(*filter(None, (short, flag)), name, help=text, **given)(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hub")
def cli() -> None:
    """A Redis-backed WebSocket broadcast hub: chat across workers and replicas."""


@cli.command()
@_settings_options
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="TOML file with any setting (message_rate = 10, origins = [...]).  [env: HUB_CONFIG]",
)
def serve(**options: Any) -> None:
    """Serve the hub: raw rooms at /ws and /ws/ROOM, the HTTP API, health checks and a chat page.

    Without a Redis URL it starts a Valkey of its own, or a redis-server found on PATH; without either, one worker
    runs in memory. Every setting can also be given as HUB_<NAME> or in the TOML file; the command line wins over the
    environment, and that over the file.

    \b
    SIGTERM  close the connections spread over --drain seconds, then end
    SIGHUP   load the settings again, and replace the workers one after another;
             from a terminal that was closed, and without nohup, the same as SIGTERM
    """
    if os.name == "nt":
        raise ConfigError("hub serve needs a POSIX system; embed the hub in an application and run it with uvicorn")
    from .supervisor import Supervisor

    def load() -> Settings:
        settings = Settings.load(**options)
        prove(settings, [name for name, value in options.items() if value is not None])
        configure(settings.log_format, settings.log_level)
        warn_of_unknown_variables()
        return settings

    async def run() -> int:
        return await Supervisor(load).run()

    sys.exit(asyncio.run(run()))


class _Codegen(click.Group):
    """Its commands are in the other wheel."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return self._loaded().list_commands(ctx)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return self._loaded().get_command(ctx, name)

    def _loaded(self) -> click.Group:
        with dev_only("hub codegen"):
            from .codegen.command import codegen
        return codegen


@click.group(cls=_Codegen)
def codegen() -> None:
    """Write clients of an application."""


for _command in (*API_COMMANDS, token, config, codegen):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; a fault is one line on standard error: status 2 for bad usage or settings, 1 else."""
    try:
        result = cli.main(prog_name="hub", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        sys.exit(2)
    except click.ClickException as error:
        _die(error.format_message(), error.exit_code)
    except ConfigError as error:
        _die(str(error), 2)
    except HubError as error:
        _die(str(error), 1)


def _die(message: str, status: int) -> None:
    click.echo(f"hub: {' '.join(message.split())}", err=True)
    sys.exit(status)
