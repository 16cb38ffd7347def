"""A worker that may open 256 files, and more clients than that: who is in stays and hears everything."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
import redis

from hub.capacity import limits
from tests.protocol.test_frames import client_frame
from tests.support.attackers import Attacker, allow_many_sockets, watch
from tests.support.canary import worker_of
from tests.support.figures import cpu_seconds, open_files
from tests.support.redis import RedisProcess, running_redis
from tests.support.server import HubProcess, hub_serve
from tests.support.sockets import HANDSHAKE, receive_all, upgraded

pytestmark = pytest.mark.timed

FILES = 256
# WebSockets that get in, and connections of any kind.
ROOM, MOST = limits(FILES)
CLIENTS = 400
LISTENERS = 20
HELLO = client_frame(1, b"hello")
HEARD = len(HELLO) - 4  # without the mask
LIMITED = ("sh", "-c", f'ulimit -n {FILES}; exec "$0" "$@"')


@pytest.fixture
def redis_process(redis_binary: str) -> Iterator[RedisProcess]:
    with running_redis(redis_binary) as process:
        yield process


@pytest.fixture
def hub(redis_process: RedisProcess) -> Iterator[HubProcess]:
    """One worker, with no more than its usual deadlines."""
    allow_many_sockets()
    environment = {"REDIS_URL": redis_process.url, "HUB_PING_INTERVAL": "600"}  # these clients do not answer
    with hub_serve("--workers", "1", "--drain", "0", env=environment, wrapper=LIMITED) as process:
        yield process
        log = process.log
    assert "Traceback" not in log
    assert not re.search(r"\bERROR\b(?!.*(ulimit -n|Redis))", log)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as resources:
        yield resources


@pytest.fixture
def room(hub: HubProcess, stack: ExitStack) -> Callable[[], float]:
    """Some listeners; says something to them, all of whom hear it, and gives the seconds that took."""
    listeners = [stack.enter_context(closing(upgraded(hub.port, "/ws/room"))) for _ in range(LISTENERS)]

    def talk() -> float:
        start = time.monotonic()
        listeners[0].sendall(HELLO)
        return max(receive_all(listeners, HEARD, 5)) - start

    talk()
    return talk


def crowd(hub: HubProcess, stack: ExitStack, first: bytes) -> list[Attacker]:
    """Clients that connect at once and send this."""
    attackers = []
    for _ in range(CLIENTS):
        attackers.append(Attacker(hub.port))
        stack.callback(attackers[-1].sock.close)
        attackers[-1].send(first)
    return attackers


def is_answered(attacker: Attacker) -> bool:
    return b"\r\n\r\n" in attacker.got


def got_in(attackers: list[Attacker]) -> list[Attacker]:
    return [attacker for attacker in attackers if attacker.got.startswith(b"HTTP/1.1 101 ")]


def seconds_until_accepted(hub: HubProcess, stack: ExitStack) -> float:
    """Try until a new client gets in."""
    start = time.monotonic()
    while True:
        try:
            stack.enter_context(closing(upgraded(hub.port, "/ws/late")))
        except (ConnectionError, AssertionError):
            assert time.monotonic() - start < 5
            time.sleep(0.02)
        else:
            return time.monotonic() - start


def test_more_clients_than_files(hub: HubProcess, room: Callable[[], float], stack: ExitStack) -> None:
    """New ones are refused with 503 or closed at once, the others notice nothing, and who goes makes room."""
    worker = worker_of(hub.port)
    attackers = crowd(hub, stack, HANDSHAKE % b"/ws/crowd")
    assert not watch(attackers, 5, is_answered)
    inside = got_in(attackers)
    assert ROOM - LISTENERS - 5 <= len(inside) <= ROOM - LISTENERS
    outside = [attacker for attacker in attackers if attacker not in inside]
    answers = {attacker.got.partition(b"\r\n")[0] for attacker in outside}
    assert answers <= {b"HTTP/1.1 503 Service Unavailable", b""}
    assert b"HTTP/1.1 503 Service Unavailable" in answers
    assert not watch(outside, 2, lambda attacker: False)  # closed, too
    before, start = cpu_seconds(worker), time.monotonic()
    latencies = []
    while time.monotonic() - start < 2:
        latencies.append(room())
        time.sleep(0.05)
    busy = (cpu_seconds(worker) - before) / (time.monotonic() - start)
    print(
        f"{len(inside)} of {CLIENTS} got in; the room hears within {max(latencies) * 1000:.1f} ms; {busy:.0%} of a core"
    )
    assert max(latencies) < 0.2
    assert busy < 0.2
    assert open_files(worker) < FILES
    assert hub.status("/health/ready") == 200
    for attacker in inside[:10]:
        attacker.sock.close()
    accepted = seconds_until_accepted(hub, stack)
    print(f"with room again the next client got in after {accepted * 1000:.0f} ms")
    assert accepted < 1
    assert "connections refused because the worker may open no more files (ulimit -n)" in hub.log


def test_silent_connections_take_all_files(
    hub: HubProcess, room: Callable[[], float], stack: ExitStack, redis_process: RedisProcess
) -> None:
    """They are not even WebSockets: the rest is dropped, and Redis, which cuts the worker off meanwhile, is found."""
    worker = worker_of(hub.port)
    attackers = crowd(hub, stack, b"GET /ws/")
    silent = watch(attackers, 1, lambda attacker: False)
    assert len(silent) <= MOST - LISTENERS
    assert room() < 0.2
    with redis_process.client() as client:
        before = connections(client)
        for kind in ("pubsub", "normal"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        start = time.monotonic()
        while connections(client) & before or len(connections(client)) < len(before):
            assert time.monotonic() - start < 5
            time.sleep(0.02)
    print(f"Redis was found again after {time.monotonic() - start:.2f} s")
    assert room() < 0.2
    assert open_files(worker) < FILES
    for attacker in silent:
        attacker.sock.close()
    assert seconds_until_accepted(hub, stack) < 1
    assert "connections dropped because no file is left (ulimit -n)" in hub.log


def connections(client: redis.Redis) -> set[str]:
    """Of the worker to Redis, by their ids."""
    return {entry["id"] for entry in client.client_list() if entry["name"] != "test"}


def test_a_warning_at_the_start(hub: HubProcess) -> None:
    """Whoever reads the log learns of it before the first client does."""
    assert f"a worker takes {ROOM} WebSockets at most, because it may open only {FILES} files: raise" in hub.log
