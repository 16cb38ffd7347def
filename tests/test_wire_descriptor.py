"""Fan-outs that write to the socket themselves: when they may, and that the bytes stay in order when they may not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from hub import Hub, Settings
from hub.delivery import _write_to_all
from hub.errors import Disconnects
from hub.protocol.frames import Opcode, split
from hub.wire import HubProtocol
from tests.protocol.test_frames import client_frame
from tests.support.certificate import self_signed, trusting
from tests.support.transport import FakeTransport, Recorder, Worker, until_lost
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually
from tests.test_wire import hub_on_uvicorn, raw, small_socket

pytestmark = pytest.mark.both_loops

ROOM = b"/ws/room?echo=0"
# Messages of 60 kB: more than the sockets of a client that does not read, and its transport, take.
COUNT = 60


def wires(hub: Hub) -> list[HubProtocol]:
    """Of the room's clients, in the order in which they came."""
    channel = hub.registry.channels.get("room")
    found = [wire for group in channel.groups.values() for wire in group.values()] if channel else []
    return [wire for wire in found if isinstance(wire, HubProtocol)]


# On real sockets


async def test_a_client_is_written_to_directly() -> None:
    """From the handshake on."""
    async with hub_on_uvicorn() as (hub, port, _), raw(port) as client:
        await client.handshake(ROOM)
        await eventually(lambda: wires(hub))
        [wire] = wires(hub)
        assert wire.descriptor >= 0
        await hub.publish("room", "hi")
        assert await client.read(4) == b"\x81\x02hi"


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
            got = [(opcode, payload[:6]) for opcode, payload in await everything(slow, COUNT)]
            assert [payload for opcode, payload in got if opcode == Opcode.TEXT] == [b"%06d" % n for n in range(COUNT)]
            assert [payload for opcode, payload in got if opcode == Opcode.PONG] == [b"%d" % n for n in range(COUNT)]
            await hub.publish("room", "last")
            assert await slow.read(6) == b"\x81\x04last"
            assert wire.descriptor >= 0


async def everything(client: object, count: int) -> list[tuple[int, bytes]]:
    """Frames, until so many texts and pongs have come."""
    reader: asyncio.StreamReader = client.reader  # type: ignore[attr-defined]
    data = bytearray()
    size = count * (4 + 60_000) + sum(2 + len(str(number)) for number in range(count))
    async with asyncio.timeout(30):
        while len(data) < size:
            chunk = await reader.read(1 << 20)
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
                linger = struct.pack("ii", 1, 0)
                bad.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                bad.writer.transport.abort()
            sending = [asyncio.create_task(hub.publish("room", f"{number}")) for _ in range(5)]
            async with raw(port) as next_one:
                await next_one.handshake(b"/echo")
                next_one.writer.write(client_frame(Opcode.TEXT, b"mine"))
                assert await next_one.read(6) == b"\x81\x04mine"
            await asyncio.gather(*sending)
            text = f"{number}".encode()
            assert await good.read(5 * (2 + len(text))) == (b"\x81" + bytes([len(text)]) + text) * 5
            await eventually(lambda: len(wires(hub)) == 1)


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


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
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
    _write_to_all([place.wire], b"one", None)
    place.wire.write(b"two")
    assert (place.peer.recv(100), place.transport.sent) == (b"one", b"two")


async def test_a_full_socket(place: Place) -> None:
    """The transport gets the rest, and what follows it."""
    place.transport.stalled = True
    chunk = bytes(range(256)) * 8192
    _write_to_all([place.wire], chunk, None)
    assert place.wire.descriptor < 0
    _write_to_all([place.wire], b"next", None)
    taken = bytearray()
    with contextlib.suppress(BlockingIOError):
        while True:
            taken += place.peer.recv(1 << 20)
    place.transport.stalled = False
    place.transport.take()
    assert bytes(taken) + place.transport.sent == chunk + b"next"
    assert taken


async def test_while_the_transport_has_something(place: Place) -> None:
    """A reply waits there, so a publication waits behind it; when both are gone it is direct again."""
    place.transport.stalled = True
    place.wire.write(b"reply")
    _write_to_all([place.wire], b"publication", None)
    assert place.transport.buffer == b"replypublication"
    place.transport.take()
    place.wire._watch()
    assert place.wire.descriptor >= 0


async def test_while_it_is_congested(place: Place) -> None:
    """Everything waits in the backlog, in order, until the client reads."""
    place.transport.stalled = True
    place.wire.write(b"a" * 70_000)
    assert place.wire.congested
    _write_to_all([place.wire], b"b", None)
    assert place.wire.descriptor < 0
    place.transport.stalled = False
    place.transport.take()
    assert place.transport.sent == b"a" * 70_000 + b"b"
    assert place.wire.descriptor >= 0


async def test_after_the_close_frame(place: Place) -> None:
    """Nothing is written any more."""
    place.wire.close(Disconnects.RESTART)
    _write_to_all([place.wire], b"late", None)
    with pytest.raises(BlockingIOError):
        place.peer.recv(100)
    assert b"late" not in place.transport.sent


async def test_a_socket_that_is_broken(place: Place) -> None:
    """The transport is asked, and finds out."""
    place.peer.close()
    _write_to_all([place.wire], b"into the void", None)
    assert place.transport.sent == b"into the void"
