"""Fan-outs that write to the socket themselves: when they may, and that the bytes stay in order when they may not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from hub import Hub, Settings, direct_writes
from hub.direct_writes import DirectWrites
from hub.errors import Disconnects
from hub.protocol.frames import Opcode, split
from hub.wire import HubProtocol
from tests.protocol.test_frames import client_frame
from tests.support.certificate import self_signed, trusting
from tests.support.sockets import HANDSHAKE
from tests.support.transport import FakeTransport, Recorder, Worker, until_lost
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually
from tests.test_wire import Raw, hub_on_uvicorn, raw, small_socket

pytestmark = [
    pytest.mark.both_loops,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere everything goes through the transports"),
]

ROOM = b"/ws/room?echo=0"
# Messages of 60 kB: more than the sockets of a client that does not read take.
COUNT = 60


@pytest.fixture(autouse=True)
def _one_is_a_crowd_and_nothing_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_writes, "CROWD", 1)
    monkeypatch.setattr(direct_writes, "MOST", 1 << 30)


def wires(hub: Hub) -> list[HubProtocol]:
    """Of the room's clients, in the order in which they came."""
    channel = hub.registry.channels.get("room")
    found = [wire for group in channel.groups.values() for wire in group.values()] if channel else []
    return [wire for wire in found if isinstance(wire, HubProtocol)]


# On real sockets


async def test_a_client_is_written_to_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the handshake on, to its own socket."""
    written: list[tuple[int, bytes]] = []
    real = direct_writes.os.write
    monkeypatch.setattr(direct_writes.os, "write", lambda *both: written.append(both) or real(*both))
    async with hub_on_uvicorn() as (hub, port, _), raw(port) as client:
        await client.handshake(ROOM)
        await eventually(lambda: wires(hub))
        [wire] = wires(hub)
        await hub.publish("room", "hi")
        assert await client.read(4) == b"\x81\x02hi"
        assert (wire.descriptor, b"\x81\x02hi") in written


async def test_a_slow_client_gets_everything_in_order() -> None:
    """Messages of others, and answers to its own pings, while its socket is full and while it empties."""
    async with hub_on_uvicorn(slow_budget=64 << 20, slow_timeout=60) as (hub, port, _), raw(port) as good:
        async with raw(sock=small_socket(port)) as slow:
            await good.handshake(ROOM)
            await slow.handshake(ROOM)
            await eventually(lambda: len(wires(hub)) == 2)
            wire = wires(hub)[1]
            reading = asyncio.create_task(good.read(COUNT * (4 + 60_000)))
            for number in range(COUNT):
                await hub.publish("room", f"{number:06}" + "x" * 59_994)
                slow.writer.write(client_frame(Opcode.PING, b"%d" % number))
                await asyncio.sleep(0)
            await reading
            assert wire.descriptor < 0
            assert wire.congested
            got = [(opcode, payload[:6]) for opcode, payload in await everything(slow, COUNT)]
            assert [payload for opcode, payload in got if opcode == Opcode.TEXT] == [b"%06d" % n for n in range(COUNT)]
            assert [payload for opcode, payload in got if opcode == Opcode.PONG] == [b"%d" % n for n in range(COUNT)]
            await eventually(lambda: wire.descriptor >= 0)
            await hub.publish("room", "last")
            assert await slow.read(6) == b"\x81\x04last"


async def everything(client: Raw, count: int) -> list[tuple[int, bytes]]:
    """Frames, until so many texts and pongs have come."""
    data = bytearray()
    size = count * (4 + 60_000) + sum(2 + len(str(number)) for number in range(count))
    async with asyncio.timeout(30):
        while len(data) < size:
            chunk = await client.reader.read(1 << 20)
            assert chunk, "the connection has ended"
            data += chunk
    return list(split(bytes(data)))


async def test_a_client_that_breaks_off_disturbs_nobody() -> None:
    """Its socket is reset while it is written to; a connection that comes right after it gets only what is its own."""
    async with hub_on_uvicorn() as (hub, port, _), raw(port) as good:
        await good.handshake(ROOM)
        for number in range(50):
            async with raw(port) as bad:
                await bad.handshake(ROOM)
                await eventually(lambda: len(wires(hub)) == 2)
                reset(bad)
            sending = [asyncio.create_task(hub.publish("room", f"{number}")) for _ in range(5)]
            async with raw(port) as next_one:
                await next_one.handshake(b"/echo")
                next_one.writer.write(client_frame(Opcode.TEXT, b"mine"))
                assert await next_one.read(6) == b"\x81\x04mine"
            await asyncio.gather(*sending)
            text = f"{number}".encode()
            assert await good.read(5 * (2 + len(text))) == (b"\x81" + bytes([len(text)]) + text) * 5
            await eventually(lambda: len(wires(hub)) == 1)


def reset(client: Raw) -> None:
    linger = struct.pack("ii", 1, 0)
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.writer.transport.abort()


async def test_over_tls_all_goes_through_the_transport(tmp_path: Path) -> None:
    """What the socket is given is not what the client is sent."""
    certificate, key = self_signed(tmp_path)
    hub, app = Hub(Settings(drain=0)), FastAPI()
    app.include_router(hub.router)
    async with serving(app, ssl_certfile=str(certificate), ssl_keyfile=str(key)) as (port, _):
        async with raw(port, ssl=trusting(certificate)) as client:
            await client.handshake(ROOM)
            await eventually(lambda: wires(hub))
            assert [wire.descriptor for wire in wires(hub)] == [-1]
            await hub.publish("room", "hi")
            assert await client.read(4) == b"\x81\x02hi"


# States


class Place:
    """An open connection whose transport has a real socket; `peer` is the other end."""

    def __init__(self, wire: HubProtocol, transport: FakeTransport, peer: socket.socket) -> None:
        self.wire, self.transport, self.peer = wire, transport, peer

    def fan_out(self, chunk: bytes) -> None:
        DirectWrites().write([self.wire], chunk)


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        peer.setblocking(False)
        known = {"socket": ours}
        monkeypatch.setattr(FakeTransport, "get_extra_info", lambda self, name, default=None: known.get(name, default))
        wire, transport = await Worker(Recorder(), drain=0).upgraded()
        assert wire.descriptor == ours.fileno()
        yield Place(wire, transport, peer)
        transport.abort()
        await until_lost(transport)
        assert wire.descriptor < 0


async def test_what_the_socket_takes_the_transport_does_not_see(place: Place) -> None:
    """A fan-out goes to the socket, all else through the transport."""
    place.fan_out(b"one")
    place.wire.write(b"two")
    assert (place.peer.recv(100), place.transport.sent) == (b"one", b"two")


async def test_a_full_socket(place: Place) -> None:
    """The transport gets the rest, and what follows it."""
    place.transport.stalled = True
    chunk = bytes(range(256)) * 8192
    place.fan_out(chunk)
    assert place.wire.descriptor < 0
    place.fan_out(b"next")
    taken = bytearray()
    with contextlib.suppress(BlockingIOError):
        while True:
            taken += place.peer.recv(1 << 20)
    place.transport.stalled = False
    place.transport.take()
    assert bytes(taken) + place.transport.sent == chunk + b"next"
    assert taken


async def test_while_anything_waits_in_the_transport(place: Place) -> None:
    """One byte is enough; what is published then comes behind it, and when both are gone it is direct again."""
    place.transport.stalled = True
    place.wire.write(b"r")
    assert place.wire.descriptor < 0
    place.fan_out(b"publication")
    place.transport.stalled = False
    place.transport.take()
    assert place.transport.sent == b"rpublication"
    assert place.wire.descriptor >= 0


async def test_what_waited_before_it_was_taken_over(place: Place) -> None:
    """An HTTP answer, or what the application sent: it goes out first."""
    wire, transport = Worker(Recorder(), drain=0).connect()
    transport.stalled = True
    transport.write(b"before")
    transport.feed(HANDSHAKE % b"/")
    await eventually(lambda: wire.congested)
    Place(wire, transport, place.peer).fan_out(b"publication")
    assert wire.descriptor < 0
    transport.stalled = False
    transport.take()
    assert transport.sent.startswith(b"before")
    assert transport.sent.endswith(b"publication")
    assert wire.descriptor >= 0
    transport.abort()
    await until_lost(transport)


async def test_a_client_that_takes_only_from_the_socket(place: Place) -> None:
    """What the transport has gets no shorter before the socket has room for a good part of it."""
    place.transport.stalled = True
    place.fan_out(b"a" * 1000)
    place.fan_out(b"b" * 1000)
    place.wire.write(b"c")
    for _ in range(2):
        assert len(place.peer.recv(1000)) == 1000
        place.wire.on_due()
        assert place.wire.congested
        assert b"slow" not in place.transport.buffer
    place.wire.on_due()
    assert b"slow" in place.transport.buffer  # the close frame
    place.transport.stalled = False


async def test_what_waits_is_drained_in_pieces(place: Place) -> None:
    """Not with a system call for each small message."""
    place.transport.stalled = True
    for number in range(1000):
        place.fan_out(b"%03d" % number)
    assert place.wire.waits
    place.transport.stalled, pieces = False, []
    write = place.transport.write
    place.transport.write = lambda data: pieces.append(data) or write(data)  # type: ignore[method-assign]
    place.transport.take()
    assert b"".join(pieces) in b"".join(b"%03d" % number for number in range(1000))
    assert len(pieces) == 1


async def test_a_client_that_takes_its_time_is_not_dropped_while_it_takes(place: Place) -> None:
    """What is in the transport gets less, or is another piece, at each visit."""
    place.transport.stalled = True
    place.wire.write(b"a" * 1000)
    for _ in range(3):
        place.transport.take(100)
        place.wire.on_due()
        assert place.wire.congested
        assert not place.transport.is_closing()
    place.wire.on_due()
    assert b"slow" in place.transport.buffer  # the close frame
    place.transport.stalled = False


async def test_after_the_close_frame(place: Place) -> None:
    """Nothing is written any more."""
    place.wire.close(Disconnects.RESTART)
    place.fan_out(b"late")
    with pytest.raises(BlockingIOError):
        place.peer.recv(100)
    assert b"late" not in place.transport.sent


async def test_a_socket_that_is_broken(place: Place) -> None:
    """The transport is asked, and finds out."""
    place.peer.close()
    place.fan_out(b"into the void")
    assert place.transport.sent == b"into the void"


# Other threads


class Client:
    """A writer whose socket takes everything; `indirect` counts the calls of its `write`."""

    waits = False

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.indirect = 0

    def write(self, chunk: bytes) -> None:
        self.indirect += 1

    def offer(self, chunk: bytes, lossy: object) -> None:
        raise AssertionError


@pytest.fixture
def crowd() -> Iterator[list[Client]]:
    with open("/dev/null", "wb", buffering=0) as nowhere:
        yield [Client(nowhere.fileno()) for _ in range(200)]


def indirect(crowd: list[Client]) -> list[int]:
    return [client.indirect for client in crowd]


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Another thread that never waits."""
    end = threading.Event()

    def compute() -> None:
        while not end.is_set():
            pass

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def write_until_held_up(writes: DirectWrites, crowd: list[Client]) -> list[int]:
    """How often each client's `write` was called in the end."""
    while not any(indirect(crowd)):
        writes.write(crowd, b"chunk")
    return indirect(crowd)


def test_a_thread_that_computes(crowd: list[Client]) -> None:
    """Who comes behind the write that it holds up is written to by transports, and everybody is for some time."""
    writes = DirectWrites()
    with computing():
        held_up = write_until_held_up(writes, crowd)
        writes.write(crowd, b"chunk")
    first = held_up.index(1)
    assert held_up == [0] * first + [1] * (len(crowd) - first)
    assert indirect(crowd) == [count + 1 for count in held_up]


def test_it_is_tried_again(crowd: list[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody wants the interpreter any more."""
    monkeypatch.setattr(direct_writes, "RESPITE", 0.0)
    writes = DirectWrites()
    with computing():
        before = write_until_held_up(writes, crowd)
    writes.write(crowd, b"chunk")
    assert indirect(crowd) == before


@pytest.mark.parametrize("waited", [False, True])
def test_a_write_that_takes_long(crowd: list[Client], monkeypatch: pytest.MonkeyPatch, waited: bool) -> None:
    """Only where this thread has waited for something has another one come between, and not another process."""
    times = iter([0.0, 0.0, *(number * 0.01 for number in range(1, 1000))])
    monkeypatch.setattr(direct_writes.time, "perf_counter", lambda: next(times))
    waits = iter(range(1, 1000)) if waited else iter([1] * 1000)
    monkeypatch.setattr(direct_writes, "_waits", lambda: next(waits))
    DirectWrites().write(crowd, b"chunk")
    assert indirect(crowd) == [0] + [int(waited)] * (len(crowd) - 1)


def test_where_nobody_counts_how_often_a_thread_waits(crowd: list[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that computes could not be told, so nothing is risked."""
    monkeypatch.setattr(direct_writes, "_waits", lambda: 0)
    DirectWrites().write(crowd, b"chunk")
    assert indirect(crowd) == [1] * len(crowd)


def test_few_are_not_worth_it(crowd: list[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """A client alone is written to by its transport, and so is much at once."""
    monkeypatch.setattr(direct_writes, "CROWD", 2)
    monkeypatch.setattr(direct_writes, "MOST", 5)
    DirectWrites().write(crowd[:1], b"chunk")
    DirectWrites().write(crowd[1:3], b"chunk")
    DirectWrites().write(crowd[3:5], b"chunks")
    assert indirect(crowd[:5]) == [1, 0, 0, 1, 1]
