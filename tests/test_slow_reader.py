"""Of a thousand clients some stop reading: the others do not notice, each costs its budget, and then it is gone."""

from __future__ import annotations

import json
import resource
import socket
import statistics
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from hub.protocol.frames import close_frame, split
from tests.protocol.test_frames import client_frame
from tests.support.attackers import allow_many_sockets
from tests.support.canary import worker_of
from tests.support.server import HubProcess, hub_serve
from tests.support.sockets import receive_all, upgraded

pytestmark = pytest.mark.timed

CLIENTS = 1000
PAYLOAD = 16384
FRAME = PAYLOAD + 4
MESSAGE = client_frame(2, b"x" * PAYLOAD)
SLOW_TIMEOUT = 2
BUDGET = 256 * 1024
# What the transport holds before a connection counts as congested, and what Python and the kernel add.
OVERHEAD = 192 * 1024
# Messages of one measurement; they fit into the budget, so that the stalled clients are there to its end.
ROUNDS = 12


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    """One worker."""
    allow_many_sockets()
    environment = {"HUB_SLOW_TIMEOUT": str(SLOW_TIMEOUT), "HUB_SLOW_BUDGET": str(BUDGET)}
    environment["HUB_PING_INTERVAL"] = "600"  # these clients do not answer
    with hub_serve("--workers", "1", "--drain", "0", env=environment) as process:
        yield process


def memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def latencies(clients: list[socket.socket]) -> list[float]:
    """Of each round the p99, over all clients, of the time from sending to arrival; in ms."""
    p99s = []
    for _ in range(ROUNDS):
        start = time.monotonic()
        clients[0].sendall(MESSAGE)
        times = [arrival - start for arrival in receive_all(clients, FRAME)]
        p99s.append(1000 * statistics.quantiles(times, n=100)[98])
    return p99s


def listeners(hub: HubProcess) -> int:
    """Connections with a room, as the worker tells."""
    with urllib.request.urlopen(f"{hub.url}/health/ready") as response:
        return int(json.load(response)["connections"])


def assert_dropped(hub: HubProcess, stalled_at: float) -> None:
    """Only the good clients are left within the promised time."""
    while listeners(hub) != CLIENTS:
        assert time.monotonic() - stalled_at < SLOW_TIMEOUT + 1
        time.sleep(0.02)


class Room:
    """The good clients, and what they measured by how many stalled ones were beside them."""

    def __init__(self, hub: HubProcess, stack: ExitStack) -> None:
        self._hub, self._stack = hub, stack
        self._worker = worker_of(hub.port)
        self._clients = [self._join() for _ in range(CLIENTS)]
        latencies(self._clients)

    def _join(self, **options: int) -> socket.socket:
        return self._stack.enter_context(closing(upgraded(self._hub.port, "/ws/room", **options)))

    def measure(self) -> dict[int, float]:
        """The median latency without stalled clients, with one, and with 50. Each of those is watched to its end."""
        figures: dict[int, list[float]] = {0: [], 1: [], 50: []}
        for count in (1, 50, 1, 50):  # interleaved, so that a slow moment of the machine meets all
            figures[0] += latencies(self._clients)
            before = memory(self._worker)
            for _ in range(count):
                self._join(receive_buffer=4096)
            figures[count] += latencies(self._clients)
            stalled_at = time.monotonic()
            cost = memory(self._worker) - before
            assert cost < count * (BUDGET + OVERHEAD) + 2**20
            assert_dropped(self._hub, stalled_at)
            seconds = time.monotonic() - stalled_at
            print(f"figure: {count} stalled: {cost / count / 1024:.0f} KiB each, gone {seconds:.1f} s later")
        return {count: statistics.median(p99s) for count, p99s in figures.items()}


@pytest.mark.timeout(180)
def test_some_of_a_thousand_stop_reading(hub: HubProcess) -> None:
    """With one, and with 50: the others' p99 within 1.5 times that without, memory in the budget, gone in time."""
    with ExitStack() as stack:
        room = Room(hub, stack)
        for _ in range(4):  # what stalled clients do to others they do each time; a busy machine does not
            p99 = room.measure()
            print("p99 in ms by the number of stalled clients:", p99)
            if max(p99[1], p99[50]) < 1.5 * p99[0]:
                break
        else:
            pytest.fail("the others have to wait")
    assert "clients disconnected because they read too slowly" in hub.log


def test_it_is_told_when_it_reads_again(hub: HubProcess) -> None:
    """Beyond its budget nothing more is kept for a client, and it gets 3008 after what was on its way."""
    pid = worker_of(hub.port)
    with closing(upgraded(hub.port, "/ws/room")) as good:
        with closing(upgraded(hub.port, "/ws/room", receive_buffer=4096)) as stalled:
            before = memory(pid)
            while listeners(hub) == 2:
                for _ in range(20):
                    good.sendall(MESSAGE)
                    receive_all([good], FRAME)
                assert memory(pid) - before < BUDGET + OVERHEAD + 2**20
            received = bytearray()
            while part := stalled.recv(65536):
                received += part
        assert received.endswith(close_frame(3008, "slow"))
        *messages, _ = split(bytes(received))
        assert set(messages) == {(2, b"x" * PAYLOAD)}
