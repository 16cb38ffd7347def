"""A hub in the configuration of the public SDK tests, for all tables of golden frames."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from tests.support.centrifuge import Client, connected
from tests.support.server import HubProcess, hub_serve

from .words import CONFIG


@pytest.fixture(scope="package")
def hub() -> Iterator[HubProcess]:
    """Two workers, so that a call of the API often has to find its client on the other."""
    with hub_serve("--workers", "2", "--config", str(CONFIG), "--drain", "0") as process:
        yield process
        assert "Traceback" not in process.log
        assert "unexpected fault" not in process.log


@pytest.fixture
def channel() -> str:
    """A channel that no other test uses."""
    return f"golden_{uuid.uuid4().hex}"


@pytest.fixture
async def ann(hub: HubProcess) -> AsyncIterator[Client]:
    """A client after `connect`, without a token."""
    async with connected(hub.ws_url) as opened:
        yield opened


@pytest.fixture
async def api(hub: HubProcess) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"X-API-Key": "api_key"}
    async with httpx2.AsyncClient(base_url=f"{hub.url}/api/", headers=headers, trust_env=False) as opened:
        yield opened
