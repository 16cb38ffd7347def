"""Lua scripts: one atomic operation each, in `hub/lua`."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

__all__ = ["Script", "load"]


class Script:
    """The source of a script and the digest by which Redis knows it (EVALSHA)."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source: bytes = source.encode()
        self.sha: bytes = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()


@cache
def load(name: str) -> Script:
    """The script in `hub/lua/<name>.lua`."""
    return Script((files(__package__) / "lua" / f"{name}.lua").read_text())
