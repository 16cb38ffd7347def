"""The wheels, and environments that have them with what they say that they need, and nothing else.

Nothing is downloaded: what the wheel needs is linked from the environment of the tests.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
# Where each distribution of this tree is made.
PROJECTS = {"broadcast-hub": ROOT, "broadcast-hub-dev": ROOT / "dev"}


def build(folder: Path, name: str = "broadcast-hub") -> Path:
    """A wheel of the tree as it is."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=PROJECTS[name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob(f"{name.replace('-', '_')}-[0-9]*.whl")
    return wheel


class Environment:
    """A virtual environment with the hub."""

    def __init__(self, folder: Path, wheel: Path, *extras: str, tools: Iterable[str] = ()) -> None:
        """`wheel` is the hub's; `tools` are distributions that it does not need, with what they need."""
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        (self.site,) = folder.glob("lib/python*/site-packages")
        self._install(wheel)
        needs = [*self._needs("broadcast-hub", extras), *((tool, ()) for tool in tools)]
        if ("broadcast-hub-dev", ()) in needs:
            self._install(build(folder, "broadcast-hub-dev"))
            needs += self._needs("broadcast-hub-dev")
        for name in sorted(_closure(needs)):
            self._link(importlib.metadata.distribution(name))

    def _needs(self, name: str, extras: Iterable[str] = ()) -> list[tuple[str, tuple[str, ...]]]:
        """What one of this tree says that it needs."""
        (own,) = importlib.metadata.distributions(name=name, path=[str(self.site)])
        return list(_needs(own, extras))

    def _install(self, wheel: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", "--isolated"]
        done = subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def _link(self, distribution: Distribution) -> None:
        """Its packages, and its programs."""
        parts = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
        for part in parts:
            if not (self.site / part).exists():
                (self.site / part).symlink_to(str(distribution.locate_file(part)))
        for entry in distribution.entry_points.select(group="console_scripts"):
            script = self.bin / entry.name
            script.write_text(
                f"#!{self.python}\nimport sys\nfrom {entry.module} import {entry.attr}\nsys.exit({entry.attr}())\n"
            )
            script.chmod(0o755)

    @property
    def variables(self) -> dict[str, str]:
        """For its programs: its own come first, and nothing of this project's or machine's settings is there."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HUB_", "REDIS_", "PYTHON"))}
        return {**kept, "PATH": f"{self.bin}:{kept.get('PATH', '')}", "VIRTUAL_ENV": str(self.bin.parent)}

    def run(self, *command: str, cwd: Path, timeout: float = 150) -> subprocess.CompletedProcess[str]:
        """One of its programs, to its end."""
        where = self.bin / command[0]
        program = str(where) if where.exists() else command[0]
        words = [program, *command[1:]]
        return subprocess.run(words, cwd=cwd, env=self.variables, capture_output=True, text=True, timeout=timeout)


def _needs(distribution: Distribution, extras: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The names of what it requires with these extras, each with the extras that it wants of it."""
    for text in distribution.requires or ():
        required = Requirement(text)
        if required.marker is None or any(required.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield required.name, tuple(required.extras)


def _closure(wanted: Iterable[tuple[str, tuple[str, ...]]]) -> set[str]:
    """The names of these, of what they need, and so on."""
    seen: set[tuple[str, tuple[str, ...]]] = set()
    left = list(wanted)
    while left:
        if (each := left.pop()) not in seen and each[0] not in PROJECTS:
            seen.add(each)
            left += _needs(importlib.metadata.distribution(each[0]), each[1])
    return {name for name, _ in seen}
