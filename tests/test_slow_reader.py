"""One client of a thousand stops reading: the others do not notice, it costs its budget, and then it is gone."""

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

from hub.protocol.frames import split
from tests.protocol.test_frames import client_frame
from tests.support.server import HubProcess, hub_serve
from tests.support.sockets import receive_all, upgraded

CLIENTS = 1000
PAYLOAD = 16384
FRAME = PAYLOAD + 4
SLOW_TIMEOUT = 3
BUDGET = 256 * 1024


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    environment = {"HUB_SLOW_TIMEOUT": str(SLOW_TIMEOUT), "HUB_SLOW_BUDGET": str(BUDGET)}
    with hub_serve("--workers", "1", "--drain", "0", env=environment) as process:
        yield process


def worker_pid(hub: HubProcess) -> int:
    with closing(upgraded(hub.port, "/ws/other?hello=1")) as sock:
        ((_, payload),) = split(sock.recv(4096))
        return int(json.loads(payload)["hub"]["hello"]["worker"])


def memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def p99_of_rounds(publisher: socket.socket, clients: list[socket.socket], rounds: int) -> float:
    """The p99 of the time from sending to arrival, over all clients and rounds."""
    waits: list[float] = []
    for _ in range(rounds):
        start = time.monotonic()
        publisher.sendall(client_frame(2, b"x" * PAYLOAD))
        waits += [arrival - start for arrival in receive_all(clients, FRAME)]
    return statistics.quantiles(waits, n=100)[98]


def listeners(hub: HubProcess) -> int:
    """Connections with a room, as the worker tells."""
    with urllib.request.urlopen(f"{hub.url}/health/ready") as response:
        return int(json.load(response)["connections"])


def seconds_until_dropped(hub: HubProcess, count: int) -> float:
    """Until only `count` listeners are left."""
    start = time.monotonic()
    while listeners(hub) != count:
        assert time.monotonic() - start < SLOW_TIMEOUT + 5
        time.sleep(0.02)
    return time.monotonic() - start


@pytest.mark.timeout(120)
def test_one_of_a_thousand_stops_reading(hub: HubProcess) -> None:
    """The others' p99 stays within 1.5 times that without it, memory within the budget, and it is dropped in time."""
    pid = worker_pid(hub)
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(upgraded(hub.port, "/ws/room"))) for _ in range(CLIENTS)]
        p99_of_rounds(clients[0], clients, 20)
        without, beside, grown = [], [], []
        for _ in range(3):  # interleaved, so that a slow moment of the machine meets both
            without.append(p99_of_rounds(clients[0], clients, 15))
            before = memory(pid)
            stack.enter_context(closing(upgraded(hub.port, "/ws/room", receive_buffer=4096)))
            beside.append(p99_of_rounds(clients[0], clients, 15))
            grown.append(memory(pid) - before)
            assert seconds_until_dropped(hub, CLIENTS) < SLOW_TIMEOUT + 1
        assert statistics.median(beside) < 1.5 * statistics.median(without)
        assert min(grown) < 2 * BUDGET
        assert "clients disconnected because they read too slowly" in hub.log


def test_it_is_told_when_it_reads_again(hub: HubProcess) -> None:
    """Beyond its budget a client gets 3008 after what was on its way."""
    with closing(upgraded(hub.port, "/ws/room")) as good:
        with closing(upgraded(hub.port, "/ws/room", receive_buffer=4096)) as stalled:
            while listeners(hub) == 2:
                p99_of_rounds(good, [good], 10)
            received = bytearray()
            while part := stalled.recv(65536):
                received += part
        *messages, (opcode, payload) = split(bytes(received))
        assert set(messages) == {(2, b"x" * PAYLOAD)}
        assert (opcode, int.from_bytes(payload[:2], "big"), payload[2:]) == (8, 3008, b"slow")
