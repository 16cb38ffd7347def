"""Attacks on a real worker: no fault in its log, no stuck connection, and nobody else has to wait."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.protocol.test_frames import client_frame
from tests.support.attackers import Attacker, allow_many_sockets, watch
from tests.support.canary import LONGEST_WAIT, Canary, worker_of
from tests.support.figures import memory
from tests.support.garbage import random_frames
from tests.support.server import HubProcess, hub_serve
from tests.support.sockets import HANDSHAKE

pytestmark = pytest.mark.timed

HANDSHAKE_TIMEOUT = 2
MAX_MESSAGE_SIZE = 1_000_000
# Deadlines are checked four times a second, and this machine is not the fastest.
SLACK = 1.5

PONG = b"\x8a\x06alive?"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    """One worker."""
    allow_many_sockets()
    sizes = {"HUB_MAX_MESSAGE_SIZE": str(MAX_MESSAGE_SIZE), "HUB_SLOW_BUDGET": str(MAX_MESSAGE_SIZE)}
    times = {"HUB_HANDSHAKE_TIMEOUT": str(HANDSHAKE_TIMEOUT), "HUB_SLOW_TIMEOUT": "1"}
    environment = {"HUB_API_KEY": "key", **sizes, **times}
    with hub_serve("--workers", "1", "--drain", "0", env=environment) as process:
        yield process


@pytest.fixture(scope="module")
def worker(hub: HubProcess) -> int:
    """Its process id."""
    return worker_of(hub.port)


@pytest.fixture(autouse=True)
def _clean_log(hub: HubProcess, worker: int) -> Iterator[None]:
    """Whatever is thrown at it, the worker logs no fault."""
    before = memory(worker)
    yield
    print(f"the worker's memory: {(memory(worker) - before) / 2**20:+.1f} MB")
    assert "Traceback" not in hub.log
    assert not re.search(r"\b(ERROR|CRITICAL)\b", hub.log)


@pytest.fixture
def attack(hub: HubProcess) -> Iterator[Callable[..., Attacker]]:
    """Make an attacker, after its handshake if a path is given."""
    attackers: list[Attacker] = []

    def make(path: str | None = None, **options: Any) -> Attacker:
        attackers.append(Attacker(hub.port, **options))
        if path is not None:
            attackers[-1].send(HANDSHAKE % path.encode())
            assert not watch(attackers[-1:], 5, is_upgraded)
            attackers[-1].got = b""
        return attackers[-1]

    yield make
    for attacker in attackers:
        attacker.sock.close()


def is_answered(attacker: Attacker) -> bool:
    return b"\r\n\r\n" in attacker.got


def is_upgraded(attacker: Attacker) -> bool:
    return attacker.got.startswith(b"HTTP/1.1 101 ") and is_answered(attacker)


def assert_none_is_stuck(attackers: list[Attacker]) -> None:
    """Each was ended, or answers a ping, or waits for the rest of a frame: then zeros end it, at the latest."""
    for attacker in attackers:
        attacker.send(client_frame(9, b"alive?"))
    silent = watch(attackers, SLACK, lambda attacker: PONG in attacker.got)
    for attacker in silent:
        attacker.send(bytes(MAX_MESSAGE_SIZE + 200_000))
    stuck = watch(silent, SLACK, lambda attacker: False)
    assert not stuck, f"{len(stuck)} of {len(attackers)} connections are stuck"


def assert_kept_alive(attackers: list[Attacker]) -> None:
    """What was a request after all was answered as one, and the next request is answered too."""
    for attacker in attackers:
        attacker.got = b""
        attacker.send(b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n")
    assert not watch(attackers, SLACK, lambda attacker: b'"live"' in attacker.got)


def random_handshake(rng: random.Random) -> bytes:
    """The handshake with something wrong in it."""
    good = bytearray(HANDSHAKE % b"/ws/x")
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(good))
        good[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(good) if rng.random() < 0.8 else rng.randbytes(rng.randrange(300))


def test_ten_thousand_random_frames(hub: HubProcess, attack: Callable[..., Attacker]) -> None:
    """Seeded: 10,000 frames on 1,000 connections, of which some vanish; each other is ended or goes on."""
    rng = random.Random(6455)
    with Canary(hub.port) as canary:
        for _ in range(10):
            attackers = [attack(rng.choice(("/ws/x", "/echo"))) for _ in range(100)]
            for attacker in attackers:
                attacker.send(random_frames(rng, 10))
            for attacker in attackers[90:]:
                attacker.reset()
            assert_none_is_stuck(attackers[:90])
    assert canary.longest < LONGEST_WAIT


def test_ten_thousand_random_handshakes(hub: HubProcess, attack: Callable[..., Attacker]) -> None:
    """Seeded: each is answered or cut off in the time that a handshake may take; what stays open can be used."""
    rng = random.Random(7230)
    with Canary(hub.port) as canary:
        for _ in range(2):
            attackers = [attack() for _ in range(5000)]
            for attacker in attackers:
                attacker.send(random_handshake(rng))
            assert not watch(attackers, HANDSHAKE_TIMEOUT + SLACK, is_answered)
            open_ = [attacker for attacker in attackers if not attacker.ended]
            upgraded = [attacker for attacker in open_ if is_upgraded(attacker)]
            assert 50 < len(upgraded) < 3000  # else the mutations are too weak, or too strong
            assert_none_is_stuck(upgraded)
            assert_kept_alive([attacker for attacker in open_ if not is_upgraded(attacker)])
            for attacker in attackers:
                attacker.sock.close()
    assert canary.longest < LONGEST_WAIT


def test_handshakes_that_never_end(hub: HubProcess, attack: Callable[..., Attacker]) -> None:
    """100 clients that stop in the middle of it are cut off in time, as are those that go on byte by byte."""
    head, start = HANDSHAKE % b"/ws", time.monotonic()
    attackers = [attack() for _ in range(100)]
    for number, attacker in enumerate(attackers[10:]):
        attacker.send(head[:number])
    waiting, at = attackers, 0
    while waiting and time.monotonic() - start < HANDSHAKE_TIMEOUT + SLACK:
        for attacker in attackers[:10]:
            attacker.send(head[at : at + 1])
        waiting, at = watch(waiting, 0.04, lambda attacker: False), at + 1
    assert not waiting
    assert at < len(head)
    assert {attacker.got for attacker in attackers} == {b""}


def test_a_storm_of_handshakes(hub: HubProcess, attack: Callable[..., Attacker]) -> None:
    """A thousand clients that come back at once get in, and those who are in do not notice."""
    with Canary(hub.port) as canary:
        attackers = [attack() for _ in range(1000)]
        for attacker in attackers:
            attacker.send(HANDSHAKE % b"/ws/storm")
        assert not watch(attackers, 5, is_upgraded)
        assert not any(attacker.ended for attacker in attackers)
    assert canary.longest < LONGEST_WAIT


@pytest.mark.parametrize("payload", [b"x", b""], ids=["of-one-byte", "of-none"])
def test_a_million_fragments(hub: HubProcess, attack: Callable[..., Attacker], payload: bytes) -> None:
    """A million fragments of one byte, or of none: nobody else waits, and the message is whole at its end."""
    fragments = client_frame(0, payload, fin=False) * 1000
    message = payload * 999_000 + b"end"
    with Canary(hub.port) as canary:
        attacker = attack("/echo")
        attacker.send(client_frame(2, b"", fin=False))
        for _ in range(999):
            attacker.send(fragments)
        attacker.send(client_frame(0, b"end"))
        assert not watch([attacker], 20, lambda attacker: len(attacker.got) >= len(message) + 2)
        assert attacker.got.endswith(message)
    assert canary.longest < LONGEST_WAIT


def test_fragments_beyond_the_limit(hub: HubProcess, attack: Callable[..., Attacker]) -> None:
    """The client that goes on sending them is told 1009, though it has not stopped sending."""
    with Canary(hub.port) as canary:
        attacker = attack("/echo")
        attacker.send(client_frame(2, b"", fin=False) + client_frame(0, b"x" * 500, fin=False) * 4000)
        assert not watch([attacker], 2, lambda attacker: False)
        assert attacker.got[2:4] == (1009).to_bytes(2, "big")
    assert canary.longest < LONGEST_WAIT


def test_a_ping_flood_from_a_client_that_does_not_read(hub: HubProcess, attack: Callable[..., Attacker]) -> None:
    """Its pongs are not kept without bound: it is disconnected."""
    pings = client_frame(9, b"p" * 125) * 500
    with Canary(hub.port) as canary:
        attacker = attack("/echo", receive_buffer=4096)
        with pytest.raises(ConnectionError):
            send_for_ever(attacker, pings)
    assert "clients disconnected because they read too slowly" in hub.log
    assert canary.longest < LONGEST_WAIT


def send_for_ever(attacker: Attacker, data: bytes) -> None:
    """Until an error; bounded, in case none comes."""
    for _ in range(10_000):
        attacker.sock.sendall(data)


def test_an_endless_header(hub: HubProcess, attack: Callable[..., Attacker]) -> None:
    """8 MiB of header are refused from 64 KiB on, and the client learns why."""
    for line in (b"X: " + b"y" * 8 * 2**20, b"a:\r\n" * 2**21):
        with Canary(hub.port) as canary:
            start, attacker = time.monotonic(), attack()
            attacker.send(b"GET /ws HTTP/1.1\r\n" + line)
            assert not watch([attacker], 2, lambda attacker: False)
        assert attacker.got.startswith(b"HTTP/1.1 431 ")
        assert time.monotonic() - start < 2
        assert canary.longest < LONGEST_WAIT


POST = b"POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: key\r\nContent-Type: application/json\r\n"
CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 500_000


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n" * 50_000, id="pipelined-requests"),
        pytest.param(CHUNKS, id="chunks-of-one-byte"),
        pytest.param(POST + b"Content-Length: 1000000000\r\n\r\n" + bytes(3_000_000), id="huge-body"),
        pytest.param(b"\r\n" * 2_000_000, id="empty-lines"),
        pytest.param(bytes(4_000_000), id="zeros"),
    ],
)
def test_floods_of_http(hub: HubProcess, attack: Callable[..., Attacker], flood: bytes) -> None:
    """Refused or answered, but ended in time, and nobody else waits."""
    with Canary(hub.port) as canary:
        attacker = attack()
        attacker.send(flood)
        assert not watch([attacker], HANDSHAKE_TIMEOUT + SLACK, lambda attacker: False)
    assert canary.longest < LONGEST_WAIT


def test_requests_that_break_off(hub: HubProcess, attack: Callable[..., Attacker]) -> None:
    """In the head, in the body, while the answer is on its way: no line in the log."""
    whole = POST + b'Content-Length: 30\r\n\r\n{"channel": "c", "data": "dd"}'
    for at in range(1, len(whole), 3):
        attacker = attack()
        attacker.send(whole[:at])
        attacker.reset()
    time.sleep(0.2)  # for what must not happen
    assert hub.status("/health/live") == 200
