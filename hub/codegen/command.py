"""`hub codegen ts`: a typed client of an application, for programs in TypeScript."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..errors import ConfigError
from ..pages import STATIC
from .client import typescript
from .source import document_of

__all__ = ["codegen"]

# What the client is built on.
_LIBRARY = ("hub.js", "hub.d.ts")


@click.group()
def codegen() -> None:
    """Write clients of an application."""


@codegen.command()
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write; without it, standard output.")
@click.option("--import", "imports", help="Where the client imports hub.js from, if not from its own folder.")
@click.option("--check", is_flag=True, help="Write nothing; the status is 1 if the file is not up to date.")
def ts(source: str, output: Path | None, imports: str | None, check: bool) -> None:
    """Write a TypeScript client of SOURCE: its channels, with the types of their messages, and its calls.

    SOURCE is a program as `module:application` (or `module:hub`), or its /asyncapi.json as a URL or a file. With
    --output, hub.js and hub.d.ts are written beside the client, unless --import says where they are.
    """
    text = typescript(document_of(source), imports=imports or "./hub.js")
    if output is None:
        if check:
            raise click.UsageError("--check compares with a file: name it with --output")
        click.echo(text, nl=False)
        return
    wanted = {output: text, **({} if imports else _library(output.parent))}
    stale = [path for path, text in wanted.items() if _text(path) != text]
    if check:
        _report(stale)
    for path in stale:
        _write(path, wanted[path])


def _library(folder: Path) -> dict[Path, str]:
    return {folder / name: (STATIC / name).read_text(encoding="utf-8") for name in _LIBRARY}


def _text(path: Path) -> str | None:
    """None if it is not there."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error}") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {str(path)!r}: {error.strerror}") from None


def _report(stale: list[Path]) -> None:
    for path in stale:
        click.echo(f"hub: {path} is not up to date; run this without --check", err=True)
    sys.exit(1 if stale else 0)
