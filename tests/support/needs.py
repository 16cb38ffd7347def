"""Programs that some tests need and a machine may lack."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

# The continuous integration sets this: nothing may be skipped there.
STRICT = os.environ.get("HUB_TEST_STRICT") == "1"


def missing(what: str) -> NoReturn:
    """Skip the test because of `what`; under HUB_TEST_STRICT=1 it fails instead."""
    if STRICT:
        pytest.fail(what)
    pytest.skip(what)


def need(*names: str, hint: str) -> str:
    """Return the path of the first program of `names` that is on PATH.

    Without any, the test is skipped with `hint` (how to get it); under HUB_TEST_STRICT=1 it fails instead.
    """
    for name in names:
        if path := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"):
            return path
    missing(f"{' or '.join(names)} is not installed: {hint}")


def chromium() -> str:
    """The system's Chromium, which Playwright drives."""
    return need("chromium", "chromium-browser", "google-chrome", hint="apt install chromium")


def nginx() -> str:
    """The system's nginx."""
    return need("nginx", hint="apt install nginx-light")


def node() -> str:
    """Node.js, with its test runner and fetch."""
    return need("node", hint="apt install nodejs")


def npm() -> str:
    """Node's package manager."""
    return need("npm", hint="apt install npm")
