"""The states of an open connection, on a fake transport and in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hub.protocol.frames import binary_frame, close_frame, text_frame
from hub.wire import FRAMES_PER_TURN
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


# Writing


@in_virtual_time
async def test_what_is_written_before_the_handshake_comes_after_it() -> None:
    """A subscription may deliver before the application accepts."""
    recorder = Recorder()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        wire = scope["extensions"]["hub.wire"]["wire"]
        wire.write(text_frame(b"1"))
        await asyncio.sleep(3)
        wire.write(text_frame(b"2"))
        await recorder(scope, receive, send)

    protocol, transport = Worker(app).connect()
    transport.feed(HANDSHAKE % b"/")
    await asyncio.sleep(2)
    assert transport.sent == b""
    await asyncio.sleep(2)
    protocol.write(text_frame(b"3"))
    assert transport.sent.startswith(b"HTTP/1.1 101")
    assert transport.sent.endswith(b"\r\n\r\n" + text_frame(b"1") + text_frame(b"2") + text_frame(b"3"))


@in_virtual_time
async def test_too_much_before_the_handshake() -> None:
    """There is no frame to say it with yet: the handshake is answered with 503."""
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            scope["extensions"]["hub.wire"]["wire"].write(CHUNK)
        await receive()
        told.append(await receive())

    _, transport = Worker(app, slow_budget=100_000).connect()
    transport.feed(HANDSHAKE % b"/")
    await until_lost(transport)
    assert transport.sent.startswith(b"HTTP/1.1 503 ")
    assert told == [{"type": "websocket.disconnect", "code": 3008, "reason": "slow"}]


@in_virtual_time
async def test_a_congested_connection_keeps_order() -> None:
    """What comes while the client does not read follows when it reads again, even if it stalls again meanwhile."""
    protocol, transport = await Worker(Recorder()).upgraded()
    transport.stalled = True
    frames = [binary_frame(bytes([number]) * 50_000) for number in range(8)]
    for frame in frames:
        protocol.write(frame)
    assert protocol.congested
    for _ in range(4):
        transport.take()
    transport.stalled = False
    transport.take()
    assert not protocol.congested
    protocol.write(b"more")
    assert transport.sent == b"".join(frames) + b"more"


@in_virtual_time
async def test_over_the_budget() -> None:
    """The handler is told in a later turn, 3008 follows what was on its way, and nothing is written in between."""
    recorder = Recorder()
    protocol, transport = await Worker(recorder, slow_budget=100_000).upgraded()
    transport.stalled = True
    for _ in range(6):
        protocol.write(CHUNK)
    assert recorder.closed == []  # it would change the tables of the fan-out that is writing
    transport.take()
    protocol.write(b"a gap before this")
    await asyncio.sleep(0)
    transport.take()
    assert recorder.closed == [(3008, "slow")]
    assert transport.sent == CHUNK + SLOW


@pytest.mark.parametrize("ends", ["reset", "hang_up"])
@in_virtual_time
async def test_over_the_budget_and_gone(ends: str) -> None:
    """Between the decision and the close frame the connection may end; the handler is told once."""
    recorder = Recorder()
    protocol, transport = await Worker(recorder, slow_budget=100_000).upgraded()
    transport.stalled = True
    for _ in range(6):
        protocol.write(CHUNK)
    getattr(transport, ends)()
    await until_lost(transport)
    assert len(recorder.closed) == 1
    assert SLOW not in transport.buffer + transport.sent


@in_virtual_time
async def test_over_the_budget_and_nonsense() -> None:
    """A client that overflows with its pongs and breaks the protocol in one segment: one close frame, no fault."""
    protocol, transport = await Worker(Recorder(), slow_budget=100_000).upgraded()
    transport.stalled = True
    for _ in range(3):
        protocol.write(CHUNK)
    transport.feed(client_frame(9, b"p" * 125) * 100 + client_frame(3, b""))
    protocol.write(CHUNK)
    transport.feed(client_frame(9, b"p"))
    await asyncio.sleep(0)
    transport.take()
    assert transport.sent.count(b"\x88") == 1


@pytest.mark.parametrize("chunks", [2, 6])
@in_virtual_time
async def test_a_stalled_client_is_gone_in_time(chunks: int) -> None:
    """Within `slow_timeout` and a second, whether its budget was used up or not; and then nothing is kept."""
    recorder = Recorder()
    protocol, transport = await Worker(recorder, slow_budget=100_000, slow_timeout=4).upgraded()
    transport.stalled = True
    for _ in range(chunks):
        protocol.write(CHUNK)
    assert 4 <= await until_lost(transport) <= 5.01
    assert recorder.closed == [(3008, "slow")]
    assert protocol._backlog is None


@in_virtual_time
async def test_a_stalled_client_that_wakes_up_in_time() -> None:
    """In the last moment before the end it still gets 3008, and its answer ends the connection."""
    protocol, transport = await Worker(Recorder(), slow_timeout=4).upgraded()
    transport.stalled = True
    protocol.write(CHUNK * 2)
    await asyncio.sleep(4.4)
    transport.take()
    assert transport.sent == CHUNK * 2 + SLOW
    transport.feed(client_frame(8, b"\x0b\xc0"))
    assert await until_lost(transport) < 0.1


@in_virtual_time
async def test_a_client_that_reads_slowly_but_does_stays() -> None:
    """Progress in each `slow_timeout` is enough."""
    recorder = Recorder()
    protocol, transport = await Worker(recorder, slow_timeout=4).upgraded()
    transport.stalled = True
    protocol.write(CHUNK * 4)
    for _ in range(20):
        await asyncio.sleep(3)
        transport.take(1000)
    assert recorder.closed == []
    assert not transport.lost


@in_virtual_time
async def test_repr() -> None:
    """The state that an operator would ask for."""
    worker = Worker(Recorder())
    protocol, transport = worker.connect()
    seen = [repr(protocol)]
    protocol, transport = await worker.upgraded()
    seen.append(repr(protocol))
    transport.stalled = True
    protocol.write(CHUNK * 2)
    seen.append(repr(protocol))
    protocol.abort()
    seen.append(repr(protocol))
    assert seen == [f"<HubProtocol {state}>" for state in ("new", "open", "congested", "closing")]


# Keep-alive


@in_virtual_time
async def test_pings() -> None:
    """One in each interval while the client answers, with whatever byte."""
    protocol, transport = await Worker(Recorder(), ping_interval=20, ping_timeout=5).upgraded()
    answers = list(client_frame(10, b"") + client_frame(1, b"hello"))
    start = asyncio.get_running_loop().time()
    for byte in answers:
        while not transport.sent:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        assert transport.sent == PING
        transport.sent = b""
        transport.feed(bytes([byte]))
    elapsed = asyncio.get_running_loop().time() - start
    assert 20 * len(answers) <= elapsed < 20.6 * len(answers)
    assert not protocol.congested


@in_virtual_time
async def test_no_pong() -> None:
    """A client from which nothing comes is told so, and dropped without waiting for an answer."""
    recorder = Recorder()
    _, transport = await Worker(recorder, ping_interval=20, ping_timeout=5).upgraded()
    assert 25 <= await until_lost(transport) < 26.5
    assert transport.sent == PING + close_frame(3012, "no pong")
    assert recorder.closed == [(3012, "no pong")]


@in_virtual_time
async def test_a_client_that_is_not_read_is_not_silent() -> None:
    """While the handler holds it nothing can be heard; after that the clock starts anew."""
    recorder = Recorder()
    protocol, transport = await Worker(recorder, ping_interval=20, ping_timeout=5).upgraded()
    protocol.pause_reading()
    await asyncio.sleep(300)
    assert recorder.closed == []
    protocol.resume_reading()
    await until_lost(transport)
    assert recorder.closed == [(3012, "no pong")]


# Reading


@in_virtual_time
async def test_turns() -> None:
    """However much one client sent, others run after at most a budget of frames; then the rest follows in order."""
    recorder = Recorder()
    _, transport = await Worker(recorder).upgraded()
    count = 3 * FRAMES_PER_TURN + 1
    transport.feed(b"".join(client_frame(2, number.to_bytes(2, "big")) for number in range(count)))
    seen = [len(recorder.messages)]
    while not transport.reading:
        await asyncio.sleep(0)
        seen.append(len(recorder.messages))
    assert seen == [128, 256, 384, 385]
    assert [int.from_bytes(payload, "big") for payload, _ in recorder.messages] == list(range(count))


@in_virtual_time
async def test_a_handler_that_holds_its_connection() -> None:
    """Not one message more, even of what has been read already; it goes on where it was."""
    recorder = Recorder()
    protocol, transport = await Worker(recorder).upgraded()
    note = recorder.on_message
    recorder.on_message = lambda payload, text: (note(payload, text), protocol.pause_reading())  # type: ignore[method-assign,assignment]
    transport.feed(client_frame(1, b"a") + client_frame(1, b"b") + client_frame(9, b"") + client_frame(1, b"c")[:3])
    for expected in ("a", "ab"):
        await asyncio.sleep(1)
        assert "".join(payload.decode() for payload, _ in recorder.messages) == expected
        assert not transport.reading
        protocol.resume_reading()
    await asyncio.sleep(1)
    assert transport.sent == b"\x8a\x00"
    transport.feed(client_frame(1, b"c")[3:])
    assert recorder.messages[-1] == (b"c", True)


@in_virtual_time
async def test_holding_what_waits_for_its_turn() -> None:
    """A hold that comes from outside, between two turns, counts at once."""
    recorder = Recorder()
    protocol, transport = await Worker(recorder).upgraded()
    transport.feed(client_frame(1, b"x") * (FRAMES_PER_TURN + 1))
    protocol.pause_reading()
    await asyncio.sleep(1)
    assert len(recorder.messages) == FRAMES_PER_TURN
    protocol.resume_reading()
    await asyncio.sleep(1)
    assert len(recorder.messages) == FRAMES_PER_TURN + 1
    assert transport.reading


@in_virtual_time
async def test_hasty_clients() -> None:
    """What comes before the handshake is answered is kept, and no more of it than one read."""
    recorder, accept = Recorder(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept.wait()
        await recorder(scope, receive, send)

    _, transport = Worker(app).connect()
    transport.feed(HANDSHAKE % b"/")
    transport.feed(client_frame(1, b"early") + client_frame(1, b"cut")[:4])
    assert not transport.reading
    accept.set()
    await asyncio.sleep(1)
    transport.feed(client_frame(1, b"cut")[4:])
    assert recorder.messages == [(b"early", True), (b"cut", True)]


@in_virtual_time
async def test_a_handler_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A fault in a handler ends that connection, is logged, and harms nothing else."""
    recorder = Recorder()
    recorder.on_message = lambda payload, text: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    recorder.on_close = lambda code, reason: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    _, transport = await Worker(recorder).upgraded()
    transport.feed(client_frame(1, b"x"))
    assert transport.sent == close_frame(1011, "internal error")
    transport.feed(client_frame(8, b"\x03\xf3"))
    await until_lost(transport)
    assert caplog.text.count("unexpected fault in") == 2
