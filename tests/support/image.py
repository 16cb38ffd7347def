"""deploy/Dockerfile, read."""

from __future__ import annotations

import json
import re

from .cluster import ROOT


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each, with continued lines joined."""
    text = re.sub(r"\s*\\\n\s*", " ", (ROOT / "deploy/Dockerfile").read_text())
    found = (line.partition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return [(name, arguments.strip()) for name, _, arguments in found]


def instruction(name: str) -> str:
    """The arguments of the last one of this name, which is the one that counts."""
    return [arguments for key, arguments in instructions() if key == name][-1]


def health_check() -> list[str]:
    """The command of the image's HEALTHCHECK. Raises if it is not in exec form."""
    command: list[str] = json.loads(instruction("HEALTHCHECK").partition(" CMD ")[2])
    return command
