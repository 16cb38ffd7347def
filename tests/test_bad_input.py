"""Attacks on a real worker: no fault in its log, no stuck connection, and nobody else has to wait."""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import time
from collections.abc import Iterator

import pytest

from tests.protocol.test_frames import client_frame
from tests.support.canary import Canary
from tests.support.server import HubProcess, hub_serve
from tests.support.sockets import HANDSHAKE, connect, upgraded

LONGEST_WAIT = 0.05
HANDSHAKE_TIMEOUT = 2


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    environment = {"HUB_HANDSHAKE_TIMEOUT": str(HANDSHAKE_TIMEOUT), "HUB_MAX_MESSAGE_SIZE": "1000000"}
    with hub_serve("--workers", "1", "--drain", "0", env=environment | {"HUB_SLOW_BUDGET": "1000000"}) as process:
        yield process


@pytest.fixture(autouse=True)
def _clean_log(hub: HubProcess) -> Iterator[None]:
    """Whatever is thrown at it, the worker logs no fault."""
    yield
    assert "Traceback" not in hub.log
    assert not re.search(r"\b(ERROR|CRITICAL)\b", hub.log)


def assert_ended(socks: list[socket.socket], timeout: float) -> None:
    """Every connection is ended by the server within `timeout` seconds."""
    waiting = {sock.fileno(): sock for sock in socks}
    deadline = time.monotonic() + timeout
    while waiting and time.monotonic() < deadline:
        ready, _, _ = select.select(list(waiting), [], [], 0.1)
        for fileno in ready:
            with contextlib.suppress(ConnectionError):
                if waiting[fileno].recv(65536):
                    continue
            del waiting[fileno]
    assert not waiting, f"{len(waiting)} connections are stuck"


def random_frames(rng: random.Random, count: int) -> bytes:
    """Frames of which most are legal by themselves and some are not."""
    frames = []
    for _ in range(count):
        opcode = rng.choice((0, 1, 1, 2, 2, 8, 9, 10, rng.randrange(16)))
        payload = rng.randbytes(rng.choice((0, 1, 5, 125, 126, rng.randrange(2000))))
        if opcode == 1 and rng.random() < 0.7:
            payload = b"text " * (len(payload) // 5)
        frame = client_frame(opcode, payload, fin=rng.random() < 0.8, rsv=rng.choice((0, 0, 0, 0, 1, 4)))
        if rng.random() < 0.1:
            frame = frame[: rng.randrange(len(frame))] + rng.randbytes(8)
        frames.append(frame)
    return b"".join(frames)


def random_handshake(rng: random.Random) -> bytes:
    """The handshake with something wrong in it."""
    good = bytearray(HANDSHAKE % b"/ws/x")
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(good))
        good[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(good) if rng.random() < 0.8 else rng.randbytes(rng.randrange(300))


def test_ten_thousand_random_frames(hub: HubProcess) -> None:
    """Seeded: 10,000 frames on 1,000 connections; each is closed or goes on, and nobody else waits."""
    rng = random.Random(6455)
    with Canary(hub.port) as canary:
        for _ in range(10):
            socks = [upgraded(hub.port, rng.choice(("/ws/x", "/echo"))) for _ in range(100)]
            for sock in socks:
                with contextlib.suppress(ConnectionError):
                    sock.sendall(random_frames(rng, 10))
                    sock.shutdown(socket.SHUT_WR)
            assert_ended(socks, 10)
            for sock in socks:
                sock.close()
    assert canary.longest < LONGEST_WAIT


def test_ten_thousand_random_handshakes(hub: HubProcess) -> None:
    """Seeded: none stays open longer than the handshake may take."""
    rng = random.Random(7230)
    with Canary(hub.port) as canary:
        for _ in range(20):
            socks = []
            for _ in range(500):
                sock = connect(hub.port)
                with contextlib.suppress(ConnectionError):
                    sock.sendall(random_handshake(rng))
                    sock.shutdown(socket.SHUT_WR)
                socks.append(sock)
            assert_ended(socks, HANDSHAKE_TIMEOUT + 6)
            for sock in socks:
                sock.close()
    assert canary.longest < LONGEST_WAIT


def test_handshakes_that_never_end(hub: HubProcess) -> None:
    """100 clients that stop in the middle of it are cut off in time, also those that go on byte by byte."""
    socks = [connect(hub.port) for _ in range(100)]
    for number, sock in enumerate(socks):
        sock.sendall((HANDSHAKE % b"/ws")[: number + 1] if number % 4 else b"")
    assert_ended(socks, HANDSHAKE_TIMEOUT + 1)
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("payload", [b"x", b""])
def test_a_million_fragments(hub: HubProcess, payload: bytes) -> None:
    """A million fragments of one byte, or of none: nobody else waits, and the message is whole at its end."""
    fragment = client_frame(0, payload, fin=False)
    with Canary(hub.port) as canary:
        sock = upgraded(hub.port, "/echo")
        sock.settimeout(60)
        sock.sendall(client_frame(2, b"", fin=False))
        for _ in range(999):
            sock.sendall(fragment * 1000)
        sock.sendall(client_frame(0, b"end"))
        message = payload * 999_000 + b"end"
        head = 2 if len(message) < 126 else 10
        got = b""
        while len(got) < head + len(message):
            got += sock.recv(1 << 20)
        assert got[head:] == message
        sock.close()
    assert canary.longest < LONGEST_WAIT


def send_for_ever(sock: socket.socket, data: bytes) -> None:
    """Until an error; bounded, in case none comes."""
    for _ in range(10_000):
        sock.sendall(data)


def test_a_ping_flood_from_a_client_that_does_not_read(hub: HubProcess) -> None:
    """Its pongs are not kept without bound: it is disconnected."""
    with Canary(hub.port) as canary:
        sock = upgraded(hub.port, "/echo", receive_buffer=4096)
        sock.settimeout(20)
        pings = client_frame(9, b"p" * 125) * 500
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            send_for_ever(sock, pings)
        sock.close()
    assert canary.longest < LONGEST_WAIT


def test_an_endless_header(hub: HubProcess) -> None:
    """8 MiB of header are refused from 64 KiB on."""
    sock = connect(hub.port)
    start = time.monotonic()
    with contextlib.suppress(ConnectionError):
        sock.sendall(b"GET /ws HTTP/1.1\r\nX: " + b"y" * 8 * 1024 * 1024)
    assert_ended([sock], 2)
    assert time.monotonic() - start < 2
    sock.close()
