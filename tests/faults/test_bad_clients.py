"""Clients that do not do their part, beside one that does: each is ended in its time, and nobody waits for it."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

from hub.protocol.frames import close_frame
from tests.protocol.test_frames import client_frame
from tests.soak_fuzz import fuzz
from tests.support.abuse import fickle, greedy, hectic
from tests.support.attackers import Attacker, allow_many_sockets, watch
from tests.support.canary import LONGEST_WAIT, Canary, worker_of
from tests.support.centrifuge import PATH
from tests.support.figures import memory, open_files
from tests.support.server import HubProcess, hub_serve
from tests.support.silence import vanish
from tests.support.sockets import HANDSHAKE, upgraded

pytestmark = pytest.mark.timed

# Deadlines are looked at four times a second; the rest is this machine.
SLACK = 1.5
MEGABYTE = 2**20
CONNECT = client_frame(1, b'{"id":1,"connect":{}}')
SETTINGS = {"HUB_CLIENT_INSECURE": "true"}


@contextmanager
def serving(**variables: str) -> Iterator[HubProcess]:
    """One worker; whatever clients do, it logs no fault."""
    allow_many_sockets()
    with hub_serve("--workers", "1", "--drain", "0", env={**SETTINGS, **variables}) as process:
        yield process
        log = process.log
    assert "Traceback" not in log
    assert not re.search(r"\b(ERROR|CRITICAL)\b", log)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    """With the deadlines that it has without settings."""
    with serving() as process:
        yield process


@pytest.fixture(scope="module")
def hurried() -> Iterator[HubProcess]:
    """One that waits a second where others wait 10 or 25."""
    with serving(**{f"HUB_{name}": "1" for name in ("PING_INTERVAL", "PING_TIMEOUT", "SLOW_TIMEOUT")}) as process:
        yield process


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as resources:
        yield resources


@pytest.fixture
def attack(stack: ExitStack) -> Callable[..., Attacker]:
    """Connect, and send this."""

    def make(hub: HubProcess, first: bytes = b"") -> Attacker:
        attacker = Attacker(hub.port)
        stack.callback(attacker.sock.close)
        attacker.send(first)
        return attacker

    return make


def has_ended(attacker: Attacker) -> bool:
    return attacker.ended


def test_silence_at_every_stage(hub: HubProcess, attack: Callable[..., Attacker]) -> None:
    """Handshakes that never end and clients that never say `connect`: gone within 10 seconds, the latter with 3502."""
    head = HANDSHAKE % b"/ws"
    with Canary(hub.port) as canary:
        start = time.monotonic()
        halves = [attack(hub, head[:number]) for number in range(100)]
        mute = [attack(hub, HANDSHAKE % PATH.encode()) for _ in range(100)]
        assert not watch(mute, 5, lambda attacker: attacker.got.startswith(b"HTTP/1.1 101"))
        assert len(watch(halves + mute, start + 7.5 - time.monotonic(), has_ended)) == 200
        for attacker in mute[50:]:  # a ping is no command
            attacker.send(client_frame(9, b"alive?"))
        assert not watch(halves + mute, 5, has_ended)
    lasted = [max(attacker.lasted for attacker in group) for group in (halves, mute)]
    print("the longest: {:.2f} s in the handshake, {:.2f} s after it".format(*lasted))
    assert max(lasted) < 10
    assert {attacker.got for attacker in halves} == {b""}
    assert all(attacker.got.endswith(close_frame(3502, "stale")) for attacker in mute)
    assert canary.longest < LONGEST_WAIT


def test_pings_without_pongs(hurried: HubProcess, attack: Callable[..., Attacker]) -> None:
    """Whoever reads and never answers is closed with 3012, in rooms and on the protocol's endpoint."""
    with Canary(hurried.port) as canary:
        start = time.monotonic()
        raw = [attack(hurried, HANDSHAKE % b"/ws/mute") for _ in range(50)]
        clients = [attack(hurried, HANDSHAKE % PATH.encode() + CONNECT) for _ in range(50)]
        assert not watch(raw + clients, 2 + SLACK, lambda attacker: close_frame(3012, "no pong") in attacker.got)
        assert time.monotonic() - start > 1
    assert canary.longest < LONGEST_WAIT


def test_clients_that_vanish(hurried: HubProcess, stack: ExitStack) -> None:
    """No FIN comes, and what is sent to them is not even acknowledged: idle or not, nothing of them is left."""
    worker = worker_of(hurried.port)
    with Canary(hurried.port) as canary, closing(upgraded(hurried.port, "/ws/gone")) as speaker:
        before, gone = open_files(worker), []
        for path in ("/ws/idle", "/ws/gone"):
            gone += [stack.enter_context(closing(upgraded(hurried.port, path))) for _ in range(30)]
        assert open_files(worker) == before + 60
        for sock in gone:
            vanish(sock)
        start = time.monotonic()
        while open_files(worker) > before:
            assert time.monotonic() - start < 6, f"{open_files(worker) - before} are left"
            speaker.sendall(client_frame(1, b"x" * 1000))
            assert len(receive(speaker, 1004)) == 1004
    print(f"vanished clients are gone after {time.monotonic() - start:.1f} s")
    assert canary.longest < LONGEST_WAIT


def receive(sock: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (part := sock.recv(size - len(got))):
        got += part
        if got[:2] == b"\x89\x00":  # a ping between two messages
            sock.sendall(client_frame(10, b""))
            got = got[2:]
    return got


def test_reading_a_byte_a_second(hurried: HubProcess, stack: ExitStack) -> None:
    """They take something now and then, and still cost no more than their budget, and not for long."""
    worker = worker_of(hurried.port)
    with Canary(hurried.port) as canary, closing(upgraded(hurried.port, "/ws/slow?echo=0")) as speaker:
        before, files = memory(worker), open_files(worker)
        slow = [
            stack.enter_context(closing(upgraded(hurried.port, "/ws/slow", receive_buffer=4096))) for _ in range(20)
        ]
        start = next_byte = time.monotonic()
        most = 0
        while open_files(worker) > files:
            assert time.monotonic() - start < 10, f"{open_files(worker) - files} are left"
            speaker.sendall(client_frame(2, b"x" * 16384))
            time.sleep(0.02)
            most = max(most, memory(worker) - before)
            if time.monotonic() > next_byte:
                next_byte += 1
                for sock in slow:
                    with suppress(ConnectionError):
                        sock.recv(1)
    print(f"gone after {time.monotonic() - start:.1f} s; {most / 20 / MEGABYTE:.2f} MB each")
    assert most < 20 * 1.2 * MEGABYTE
    assert "clients disconnected because they read too slowly" in hurried.log
    assert canary.longest < LONGEST_WAIT


def test_random_frames(hub: HubProcess) -> None:
    """`python -m tests.soak_fuzz` in small, on all endpoints."""
    outcome = fuzz(hub, seed=1, frames=4000)
    assert outcome.is_well, outcome
    assert outcome.frames == 4000


async def test_too_many_channels_at_once(hub: HubProcess) -> None:
    """128 are granted, all others are refused with 106, and cost no memory."""
    worker = worker_of(hub.port)
    await greedy(hub.port, 1000)
    before = memory(worker)
    with Canary(hub.port) as canary:
        assert await greedy(hub.port, 20_000) == {0: 128, 106: 20_000 - 128}
    assert memory(worker) - before < 2 * MEGABYTE
    assert canary.longest < LONGEST_WAIT


async def test_channel_names_in_turn(hub: HubProcess) -> None:
    """Nothing remembers a channel in which nobody is: as many others cost no more memory."""
    worker = worker_of(hub.port)
    await fickle(hub.port, 3000, "first")
    before = memory(worker)
    with Canary(hub.port) as canary:
        assert await fickle(hub.port, 3000, "second") == {0: 6000}
    assert memory(worker) - before < 2 * MEGABYTE
    assert canary.longest < LONGEST_WAIT


async def test_ten_thousand_commands_a_second(hub: HubProcess) -> None:
    """Those of one client are answered, as fast as Redis takes them, and nobody else waits for it."""
    with Canary(hub.port) as canary:
        start = time.monotonic()
        replies = await hectic(hub.port, 10_000, 2)
        print(f"{replies.total() / (time.monotonic() - start):.0f} commands a second were answered")
    assert replies.total() > 2000
    assert 100 not in replies
    assert canary.longest < LONGEST_WAIT
