"""How a connection ends and in which orders that can happen, on a fake transport and in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from itertools import pairwise
from typing import Any

import pytest

from hub.errors import Disconnects
from hub.protocol.frames import binary_frame, close_frame
from hub.wire_server import wire_server
from tests.protocol.test_frames import client_frame
from tests.support.clock import in_virtual_time
from tests.support.sockets import HANDSHAKE
from tests.support.transport import Recorder, Worker, until_lost

CHUNK = binary_frame(b"x" * 50_000)
SLOW = close_frame(3008, "slow")
RESTART = close_frame(1012, "service restart")
PING = b"\x89\x00"


@pytest.fixture(autouse=True)
def _no_fault(caplog: pytest.LogCaptureFixture) -> Any:
    """No exception escapes into the event loop, which would log it."""
    yield
    assert not [record.getMessage() for record in caplog.records if record.name == "asyncio"]


# The end


@in_virtual_time
async def test_our_close_and_the_answer() -> None:
    """After our close frame nothing else is written or heard; the client's answer ends the connection."""
    recorder = Recorder()
    protocol, transport = await Worker(recorder).upgraded()
    protocol.close(Disconnects.UNAUTHORIZED)
    protocol.close(Disconnects.SLOW)
    protocol.write(b"too late")
    transport.feed(client_frame(1, b"too late") + client_frame(9, b"") + client_frame(8, b"\x11\x31"))
    assert await until_lost(transport) < 0.1
    assert transport.sent == close_frame(4401, "token missing or not valid")
    assert recorder.closed == [(4401, "token missing or not valid")]
    assert recorder.messages == []


@in_virtual_time
async def test_our_close_without_an_answer() -> None:
    """Aborted after `close_timeout`, also if the close frame cannot be sent; a hold does not keep the answer out."""
    worker = Worker(Recorder(), close_timeout=3)
    for stalled in (False, True):
        protocol, transport = await worker.upgraded()
        protocol.pause_reading()
        transport.stalled = stalled
        protocol.close(Disconnects.NORMAL)
        assert transport.reading
        assert 3 <= await until_lost(transport) < 3.5


@in_virtual_time
async def test_a_silent_client_gets_no_more_time() -> None:
    """Who has said nothing in all its time is not waited for: it has half a second to answer our close frame."""
    protocol, transport = await Worker(Recorder(), close_timeout=3).upgraded()
    protocol.close(Disconnects.STALE)
    assert 0.5 <= await until_lost(transport) < 1
    assert transport.sent == close_frame(3502, "stale")


@pytest.mark.parametrize(
    ("payload", "echoed", "told"),
    [
        (b"", close_frame(None), (1005, "")),
        (b"\x0f\xa0bye", close_frame(4000), (4000, "bye")),
        (b"\x03\xed", close_frame(1002, "protocol error"), (1002, "protocol error")),
    ],
)
@in_virtual_time
async def test_the_clients_close(payload: bytes, echoed: bytes, told: tuple[int, str]) -> None:
    """Answered with its code, or 1002 if it may not be sent; what follows it means nothing."""
    recorder = Recorder()
    _, transport = await Worker(recorder).upgraded()
    transport.feed(client_frame(8, payload) + client_frame(1, b"after the end"))
    assert transport.sent == echoed
    assert recorder.closed == [told]
    assert recorder.messages == []


@in_virtual_time
async def test_a_broken_frame() -> None:
    """Our direction is closed and the client's drained, because a reset could take the close frame from it."""
    recorder = Recorder()
    _, transport = await Worker(recorder, close_timeout=3).upgraded()
    transport.feed(client_frame(1, b"good") + client_frame(3, b"") + client_frame(1, b"bad"))
    assert transport.eof
    for _ in range(100):
        transport.feed(client_frame(1, b"still sending"))
    assert recorder.messages == [(b"good", True)]
    assert transport.sent == close_frame(1002, "protocol error")
    assert 3 <= await until_lost(transport) < 3.5


@in_virtual_time
async def test_the_client_hangs_up() -> None:
    """Half a connection is none: what waits is flushed for a while, then it is over."""
    recorder = Recorder()
    protocol, transport = await Worker(recorder, close_timeout=3).upgraded()
    transport.stalled = True
    protocol.write(b"on its way")
    transport.hang_up()
    protocol.write(b"too late")
    assert transport.buffer == b"on its way"
    assert 3 <= await until_lost(transport) < 3.5
    assert recorder.closed == [(1006, "")]


@in_virtual_time
async def test_the_end_in_the_middle_of_a_turn() -> None:
    """Scheduled work finds the connection gone; nothing is told after `on_close`."""
    recorder = Recorder()
    protocol, transport = await Worker(recorder).upgraded()
    transport.feed(client_frame(1, b"x") * 1000)
    transport.reset()
    await asyncio.sleep(1)
    count = len(recorder.messages)
    assert recorder.closed == [(1006, "")]
    for late in (protocol.resume_reading, protocol.pause_reading, protocol.shutdown, protocol.resume_writing):
        late()
    protocol.write(b"x")
    protocol.close(Disconnects.NORMAL)
    await asyncio.sleep(100)
    assert len(recorder.messages) == count
    assert recorder.closed == [(1006, "")]


# Handing over


@in_virtual_time
async def test_messages_between_accept_and_serve() -> None:
    """An endpoint may wait before it takes the connection over: what came in between is not lost, nor held back."""
    recorder = Recorder()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await asyncio.sleep(1)
        await scope["extensions"]["hub.wire"]["wire"].serve(recorder)

    _, transport = await Worker(app).upgraded()
    transport.feed(b"".join(client_frame(1 + number % 2, b"%d" % number) for number in range(100)))
    assert not transport.reading  # the endpoint does not receive
    await asyncio.sleep(2)
    assert recorder.messages == [(b"%d" % number, number % 2 == 0) for number in range(100)]
    assert transport.reading


class Curt(Recorder):
    """Says something to the first message, and nothing more."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    def on_message(self, payload: bytes, text: bool) -> None:
        super().on_message(payload, text)
        getattr(self.wire, self.word)(*[Disconnects.BAD_REQUEST] * (self.word == "close"))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.wire = scope["extensions"]["hub.wire"]["wire"]
        await send({"type": "websocket.accept"})
        await asyncio.sleep(1)
        await self.wire.serve(self)


@in_virtual_time
async def test_what_a_handler_says_to_messages_between_accept_and_serve(caplog: pytest.LogCaptureFixture) -> None:
    """As to others: after a close it gets no more, and a hold lasts."""
    for word in ("close", "pause_reading"):
        curt = Curt(word)
        _, transport = await Worker(curt).upgraded()
        transport.feed(client_frame(1, b"one") + client_frame(1, b"two"))
        await asyncio.sleep(2)
        assert (len(curt.messages), curt.closed) == ((1, [(3501, "bad request")]) if word == "close" else (2, []))
        assert transport.reading is (word == "close")
    assert "exception" not in caplog.text


@pytest.mark.parametrize("ends", ["reset", "hang_up"])
@in_virtual_time
async def test_serving_who_has_gone(ends: str) -> None:
    """The handler is told at once."""
    recorder = Recorder()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await asyncio.sleep(1)
        await scope["extensions"]["hub.wire"]["wire"].serve(recorder)

    _, transport = await Worker(app).upgraded()
    getattr(transport, ends)()
    await asyncio.sleep(2)
    assert recorder.closed == [(1006, "")]


@pytest.mark.parametrize("ends", ["reset", "hang_up"])
@in_virtual_time
async def test_accepting_who_has_just_gone(ends: str) -> None:
    """In the moment before it is known: nothing is written, and the application learns of it by `receive`."""
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(1)
        getattr(transport, ends)()
        with contextlib.suppress(OSError):
            await send({"type": "websocket.accept"})
        told.append((await receive())["type"])

    _, transport = Worker(app).connect()
    transport.feed(HANDSHAKE % b"/")
    await asyncio.sleep(2)
    assert transport.sent == b""
    assert told == ["websocket.disconnect"]


@in_virtual_time
async def test_no_handshake() -> None:
    """What uvicorn takes for an upgrade and RFC 6455 does not gets the reason; what follows is not heard."""
    _, transport = Worker(Recorder()).connect()
    transport.stalled = True
    transport.feed((HANDSHAKE % b"/").replace(b"Version: 13", b"Version: 12"))
    transport._protocol.data_received(HANDSHAKE % b"/")
    transport.take()
    assert transport.sent.startswith(b"HTTP/1.1 400 ")
    assert transport.sent.count(b"HTTP/1.1") == 1


@in_virtual_time
async def test_serving_before_the_handshake() -> None:
    """A mistake of the endpoint, and said so."""
    faults: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await scope["extensions"]["hub.wire"]["wire"].serve(Recorder())
        except RuntimeError as error:
            faults.append(str(error))
        await send({"type": "websocket.close"})

    _, transport = Worker(app).connect()
    transport.feed(HANDSHAKE % b"/")
    await until_lost(transport)
    assert transport.sent.startswith(b"HTTP/1.1 403 ")
    assert "websocket.accept" in faults[0]


# Shutdown


@in_virtual_time
async def test_a_shutdown_is_spread_and_ends() -> None:
    """1012 for all, not at once, and whatever the clients do, all is over within the window and a second."""
    loop, recorder = asyncio.get_running_loop(), Recorder()
    worker = Worker(recorder, drain=10)
    connections = [await worker.upgraded() for _ in range(50)]
    for number, (protocol, transport) in enumerate(connections):
        transport.stalled = number % 2 == 0
        protocol.write(CHUNK * 2)
    connections[1][0].close(Disconnects.UNAUTHORIZED)
    start = loop.time()
    for protocol, _ in connections:
        protocol.shutdown()
    await asyncio.sleep(1)
    for _, transport in connections[:20:2]:
        transport.stalled = False  # recovered: must not be forgotten over that
        transport.take()
    closed: list[int] = []
    while worker.state.connections:
        await asyncio.sleep(0.25)
        closed.append(len(recorder.closed))
    assert loop.time() - start < 11
    assert max(after - before for before, after in pairwise(closed)) < 15
    assert all(transport.sent.endswith(RESTART) for _, transport in connections[3::2])


@in_virtual_time
async def test_a_shutdown_with_handshakes() -> None:
    """503 for one that is not answered in the window; one that is answered, even if it came later: 1012."""
    answered = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/slow":
            await receive()
        await answered.wait()
        await send({"type": "websocket.accept"})
        await receive()

    worker = Worker(app, drain=5)
    connections = [worker.connect() for _ in range(3)]
    for (_, transport), path in zip(connections[:2], (b"/slow", b"/quick"), strict=True):
        transport.feed(HANDSHAKE % path)
    await asyncio.sleep(1)
    for protocol, _ in connections:
        protocol.shutdown()
    answered.set()
    late = connections[2][1]
    late.feed(HANDSHAKE % b"/late")
    slow, quick, late_one = (transport for _, transport in connections)
    for transport in (slow, quick, late_one):
        await until_lost(transport)
    assert slow.sent.startswith(b"HTTP/1.1 503 ")
    for transport in (quick, late_one):
        assert transport.sent.startswith(b"HTTP/1.1 101 ")
        assert transport.sent.endswith(RESTART)


# Memory


@in_virtual_time
async def test_nothing_waits_for_the_garbage_collector() -> None:
    """A connection that has ended is freed at once, however it ended; so is what a server kept for all."""
    recorder = Recorder()
    worker = Worker(recorder, close_timeout=1)
    protocol, transport = await worker.upgraded()
    server = weakref.ref(wire_server(worker.config, worker.state, worker.app_state))
    gc.disable()
    try:
        protocol.close(Disconnects.NORMAL)
        await until_lost(transport)
        reference = weakref.ref(protocol)
        transport._protocol = None  # type: ignore[assignment]  # as real transports do
        del protocol, transport, recorder.wire
        assert reference() is None
        del worker
        assert server() is None
    finally:
        gc.enable()
