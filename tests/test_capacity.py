"""How many connections a worker takes, and how fast."""

from __future__ import annotations

import asyncio
import logging
import resource

import pytest
import websockets
from fastapi import FastAPI
from websockets.exceptions import ConnectionClosed, InvalidStatus

from hub import Hub, capacity
from hub.capacity import Capacity, descriptors, limits, raise_descriptor_limit, shortage
from hub.config import Settings, WireOptions
from hub.errors import Disconnects
from tests.support.sockets import HANDSHAKE
from tests.support.transport import Recorder, Worker
from tests.support.uvicorn_server import serving

OPEN = WireOptions()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may open 256 files: 176 WebSockets, 208 connections."""
    monkeypatch.setattr(capacity, "descriptors", lambda: 256)


# Too fast


def test_more_than_the_rate_are_refused(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A tenth of a second's worth at once, then the rate; the refusals are counted, and logged once."""
    now = 100.0
    monkeypatch.setattr("hub.admission.time.monotonic", lambda: now)
    worker, options = Capacity(), WireOptions(connect_rate=200)

    def come(count: int) -> int:
        return sum(worker.refusal(1, options) is None for _ in range(count))

    assert come(1000) == 20
    now += 1
    assert [come(1) for _ in range(30)].count(1) == 20
    taken = 0
    for _ in range(1000):
        now += 0.001
        taken += come(2)
    assert taken == pytest.approx(200, abs=1)
    total = worker.refused[Disconnects.TOO_MANY_CONNECTIONS].total
    assert total == 1030 - 40 + 2000 - taken
    assert caplog.text.count("refused because they come faster than HUB_CONNECT_RATE") == 1


def test_a_low_rate_lets_a_few_come_at_once() -> None:
    """Ten windows of one person are no herd."""
    worker, options = Capacity(), WireOptions(connect_rate=0.5)
    assert sum(worker.refusal(1, options) is None for _ in range(30)) == 10


def test_without_a_rate_all_come_in() -> None:
    """And the rate of a hub that is mounted later counts from then on."""
    worker = Capacity()
    assert all(worker.refusal(1, OPEN) is None for _ in range(5000))
    options = WireOptions(connect_rate=1)
    assert sum(worker.refusal(1, options) is None for _ in range(100)) == 10


async def test_our_own_server_answers_503() -> None:
    """Before it looks at the handshake, and it says when to come again; the connection ends."""
    worker = Worker(Recorder(), connect_rate=1)
    for _ in range(10):
        await worker.upgraded()
    _, transport = worker.connect()
    transport.feed(HANDSHAKE % b"/")
    head, _, body = transport.sent.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 1" in head
    assert body == b"too many connections come at once, try again later\n"
    assert transport.is_closing()


@pytest.mark.parametrize(("ws", "refused"), [("hub.wire:HubProtocol", 503), ("websockets-sansio", 1013)])
@pytest.mark.parametrize("path", ["/ws/room", "/echo", "/connection/websocket"])
async def test_a_foreign_server_closes_with_1013(ws: str, refused: int, path: str) -> None:
    """There the handshake is over when the hub hears of it; our own server answers it, for the same number."""
    app = FastAPI()
    app.include_router(Hub(Settings(connect_rate=0.1)).router)
    async with serving(app, ws=ws, http="auto") as (port, _):
        ends = [await first_moments(f"ws://127.0.0.1:{port}{path}") for _ in range(12)]
    assert ends == [0] * 10 + [refused] * 2


async def first_moments(url: str) -> int:
    """Connect: 0 if one may stay, else the HTTP status or the close code."""
    try:
        async with websockets.connect(url) as client:
            async with asyncio.timeout(0.02):
                await client.recv()
    except InvalidStatus as error:
        return error.response.status_code
    except ConnectionClosed as error:
        return error.rcvd.code if error.rcvd else 1006
    except TimeoutError:
        pass
    return 0


# Too many


@pytest.mark.usefixtures("files")
def test_files_run_out(caplog: pytest.LogCaptureFixture) -> None:
    """First WebSockets are refused, then everything is dropped: some files stay for Redis."""
    worker = Capacity()
    assert worker.refusal(176, OPEN) is None
    assert worker.refusal(177, OPEN) is Disconnects.OVERLOADED
    assert not worker.is_exhausted(208)
    assert worker.is_exhausted(209)
    assert (worker.refused[Disconnects.OVERLOADED].total, worker.dropped.total) == (1, 1)
    assert "refused because the worker may open no more files (ulimit -n)" in caplog.text
    assert "dropped because no file is left (ulimit -n)" in caplog.text


def test_very_few_files() -> None:
    """Some are for clients all the same."""
    assert [limits(files) for files in (0, 16, 64, 256, 20_000)] == [
        (0, 0),
        (10, 12),
        (40, 48),
        (176, 208),
        (19_920, 19_952),
    ]


@pytest.mark.usefixtures("files")
def test_a_warning_at_the_start() -> None:
    """It names the limit, what it means and how to raise it."""
    assert shortage(Settings(max_connections=176)) is None
    advice = "raise the limit (ulimit -n, LimitNOFILE= of systemd, ulimits: of Compose)"
    most = "a worker takes 176 WebSockets at most, because it may open only 256 files: "
    assert shortage(Settings()) == most + advice
    assert shortage(Settings(max_connections=177)) == f"max_connections is 177, but {most}{advice}"


def test_the_limit_is_raised(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """To the hard one; where the system does not let us, the log says so."""
    limits = [(64, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    raise_descriptor_limit()
    raise_descriptor_limit()
    assert limits == [(64, 4096), (4096, 4096)]
    assert descriptors() == 4096

    def refuse(_: int, both: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    limits.append((64, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with caplog.at_level(logging.WARNING):
        raise_descriptor_limit()
    assert "the limit of open files stays at 64" in caplog.text
    limits.append((resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert descriptors() > 10**9


def test_a_system_without_such_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows: nothing is raised, nothing is short."""
    monkeypatch.setattr(capacity, "resource", None)
    raise_descriptor_limit()
    assert shortage(Settings(max_connections=10**6)) is None
