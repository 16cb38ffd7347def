"""How event streams learn that a uvicorn ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI

from hub import sse_departure
from hub.sse_departure import Departures, uvicorn_of_this_process
from tests.support.waiting import eventually


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[uvicorn.Server]:
    """A uvicorn that has taken over the signals, as it does when it runs."""
    server = uvicorn.Server(uvicorn.Config(FastAPI(), port=0, log_config=None))
    monkeypatch.setattr(sse_departure, "EVERY", 0.01)
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    yield server
    signal.signal(signal.SIGTERM, before)


def test_it_is_found_where_it_handles_signals(server: uvicorn.Server) -> None:
    """And nothing else is taken for one."""
    assert uvicorn_of_this_process() is server
    signal.signal(signal.SIGTERM, lambda *_: None)
    assert uvicorn_of_this_process() is None
    signal.signal(signal.SIGTERM, [].append)  # a method, of something else
    assert uvicorn_of_this_process() is None


async def test_all_are_called_when_it_ends(server: uvicorn.Server) -> None:
    """Once each, except who has gone before."""
    called: list[str] = []
    departures = Departures()
    watchers = [lambda name=name: called.append(name) for name in "abc"]
    for watcher in watchers:
        departures.watch(watcher)
    departures.forget(watchers[1])
    await asyncio.sleep(0.05)
    assert called == []
    signal.raise_signal(signal.SIGTERM)
    await eventually(lambda: len(called) == 2)
    assert called == ["a", "c"]
    for watcher in watchers:
        departures.forget(watcher)


async def test_who_comes_late_is_called_too(server: uvicorn.Server) -> None:
    """A request that was on its way when the signal came."""
    server.should_exit = True
    called: list[bool] = []
    departures = Departures()
    for number in (1, 2):
        departures.watch(lambda: called.append(True))
        await eventually(lambda number=number: len(called) == number)


async def test_an_end_without_a_signal(server: uvicorn.Server) -> None:
    """`--limit-max-requests`: uvicorn stops to listen, and says nothing else."""
    listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    server.started, server.servers = True, [listening]
    called: list[bool] = []
    departures = Departures()
    departures.watch(lambda: called.append(True))
    await asyncio.sleep(0.05)
    assert called == []
    listening.close()
    await listening.wait_closed()
    await eventually(lambda: called)


async def test_nothing_runs_while_nobody_watches(server: uvicorn.Server) -> None:
    """The timer goes with the last one."""
    departures = Departures()
    departures.watch(print)
    departures.forget(print)
    departures.forget(print)
    assert departures._timer is None
