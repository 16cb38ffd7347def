"""Packages of the npm registry that some tests run."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from pathlib import Path

from tests.support.needs import missing, npm


def install(folder: Path) -> None:
    """The packages of `folder`'s package.json are in its node_modules, fetched once.

    Where there is no package registry, the test is skipped.
    """
    with (folder / "package.json").open() as description:
        fcntl.flock(description, fcntl.LOCK_EX)  # several files of tests may want the same packages at once
        _install(folder, json.load(description)["dependencies"])


def _install(folder: Path, wanted: dict[str, str]) -> None:
    if wanted.items() <= _installed(folder).items():
        return
    shutil.rmtree(folder / "node_modules", ignore_errors=True)
    done = subprocess.run([npm(), "install"], cwd=folder, capture_output=True, text=True, timeout=180)
    if done.returncode:
        missing(f"npm cannot install the packages of {folder}: {done.stderr[-500:]}")


def _installed(folder: Path) -> dict[str, str]:
    """The versions that are in node_modules."""
    found = {}
    modules = folder / "node_modules"
    for path in (*modules.glob("*/package.json"), *modules.glob("@*/*/package.json")):
        package = json.loads(path.read_text())
        found[package["name"]] = package["version"]
    return found
