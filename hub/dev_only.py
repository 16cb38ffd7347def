"""The parts of this package that only those need who write applications: another wheel brings them (`dev/`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ConfigError

__all__ = ["dev_only"]


@contextmanager
def dev_only(what: str) -> Iterator[None]:
    """Import such a part within this. Raises ConfigError, if it is not there, saying how `what` gets it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if not str(error.name).startswith(f"{__package__}."):
            raise
        raise ConfigError(f"{what} needs the package broadcast-hub-dev: pip install 'broadcast-hub[dev]'") from None
