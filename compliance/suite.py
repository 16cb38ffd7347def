"""The Autobahn test suite: a program for Python 2.7, in a virtual environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["Missing", "run", "wstest"]

HOME = Path(__file__).parent.parent / ".cache" / "autobahn"
# In this order: what builds the next ones comes first. wsaccel and ujson make the suite several times as fast.
PACKAGES = (
    ("incremental==16.10.1", "wheel"),
    ("--no-build-isolation", "Twisted==19.10.0", "zope.interface<6", "cryptography==3.3.2", "pyOpenSSL==19.1.0"),
    (
        *("autobahn==0.10.9", "txaio==2.1.0", "jinja2==2.11.3", "markupsafe==1.1.1", "Werkzeug==1.0.1"),
        *("klein==17.10.0", "service_identity==18.1.0", "unittest2==1.1.0", "six==1.16.0", "wsaccel", "ujson==2.0.3"),
    ),
    ("--no-deps", "autobahntestsuite==25.10.1"),
)
NO_PYTHON = (
    "The Autobahn test suite needs Python 2.7, which was not found. Install it (`pyenv install 2.7.18`, or the package "
    "python2.7 where the system still has one) and, if it is not on PATH, say where: PYTHON27=/path/to/python2.7"
)


class Missing(Exception):
    """The suite cannot be had; the message says what to do."""


def wstest() -> Path:
    """The suite's program, installed if it is not yet. Raises Missing."""
    program = HOME / "bin" / "wstest"
    if not program.exists():
        python = _python27()
        print(f"compliance: installing the suite into {HOME} (once, about two minutes)", flush=True)
        try:
            _install(python)
        except subprocess.CalledProcessError as error:
            shutil.rmtree(HOME, ignore_errors=True)
            output = (error.output or b"").decode(errors="replace").strip()
            raise Missing(f"The suite could not be installed: {' '.join(error.cmd)}\n{output}") from None
    return program


def _python27() -> str:
    for candidate in _candidates():
        try:
            version = subprocess.run(
                [candidate, "-c", "import sys; print(sys.version_info[:2] == (2, 7))"], capture_output=True, check=False
            )
        except OSError:
            continue
        if version.stdout.strip() == b"True":
            return candidate
    raise Missing(NO_PYTHON)


def _candidates() -> Iterator[str]:
    if named := os.environ.get("PYTHON27"):
        yield named
        return
    yield from ("python2.7", "python2")
    for path in sorted(Path.home().glob(".pyenv/versions/2.7*/bin/python")):
        yield str(path)


def _install(python: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # The last virtualenv that makes environments for Python 2.7, and so in one of its own.
        _run(sys.executable, "-m", "venv", folder)
        _run(f"{folder}/bin/python", "-m", "pip", "install", "-q", "virtualenv<20.22")
        _run(f"{folder}/bin/virtualenv", "-q", "-p", python, str(HOME))
    for packages in PACKAGES:
        _run(str(HOME / "bin" / "pip"), "install", "-q", *packages)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run(program: Path, url: str, cases: Sequence[str], folder: Path, *, timeout: float) -> Path:
    """Run `cases` against an endpoint that echoes; the path of the report, which is missing if the suite failed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spec = folder / "spec.json"
    spec.write_text(
        json.dumps(
            {
                "outdir": str(folder),
                "servers": [{"agent": "hub", "url": url}],
                "options": {"failByDrop": False},
                "cases": list(cases),
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
        )
    )
    with (folder / "wstest.log").open("wb") as log:
        subprocess.run(
            [program, "-m", "fuzzingclient", "-s", spec],
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    return folder / "index.json"
