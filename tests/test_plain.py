"""The hub on servers that know nothing of it: the connection itself in virtual time, and rooms on hypercorn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import pytest
import websockets
from fastapi import FastAPI

from hub import Hub, Settings, plain
from hub.config import WireOptions
from hub.errors import Disconnects
from hub.plain import PlainWire
from hub.protocol.backlog import Lossy
from hub.protocol.frames import binary_frame, text_frame
from tests.support.clock import in_virtual_time
from tests.support.redis import free_port
from tests.support.transport import Recorder
from tests.support.waiting import eventually


class Peer:
    """The server and the client behind the two ASGI callables."""

    def __init__(self, **options: Any) -> None:
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[Any] = []
        # Clear while the client does not read.
        self.reads = asyncio.Event()
        self.reads.set()
        # Seconds that the client takes for each message.
        self.pause = 0.0
        # What the server raises instead of sending.
        self.error: Exception | None = None
        self.recorder = Recorder()
        self.wire = PlainWire(self.incoming.get, self._send, WireOptions(**options))
        self.serving = asyncio.create_task(self.wire.serve(self.recorder))

    async def _send(self, event: Any) -> None:
        await self.reads.wait()
        await asyncio.sleep(self.pause)
        if self.error is not None:
            raise self.error
        self.sent.append(event.get("text", event.get("bytes", event.get("code"))))

    def says(self, *messages: str | bytes) -> None:
        for message in messages:
            key = "text" if isinstance(message, str) else "bytes"
            self.incoming.put_nowait({"type": "websocket.receive", key: message})


@in_virtual_time
async def test_messages_both_ways() -> None:
    """In order, each in its form, several frames of one write one by one; the client's end is told with its code."""
    peer = Peer()
    peer.wire.write(text_frame(b"1") + binary_frame(b"2"))
    peer.says("a", b"\xff")
    await asyncio.sleep(1)
    peer.wire.write(text_frame(b"3"))
    peer.incoming.put_nowait({"type": "websocket.disconnect", "code": 4000, "reason": "bye"})
    await peer.serving
    assert peer.sent == ["1", b"2", "3"]
    assert peer.recorder.messages == [(b"a", True), (b"\xff", False)]
    assert peer.recorder.closed == [(4000, "bye")]


@in_virtual_time
async def test_close() -> None:
    """What was written before goes out before; afterwards nothing does, and nothing is heard."""
    peer = Peer()
    peer.wire.write(text_frame(b"before"))
    peer.wire.close(Disconnects.TOO_MANY_MESSAGES)
    peer.wire.close(Disconnects.SLOW)
    peer.wire.write(text_frame(b"after"))
    peer.says("after")
    assert peer.wire.ending
    await peer.serving
    assert peer.sent == ["before", 4429]
    assert peer.recorder.messages == []
    assert peer.recorder.closed == [(4429, "too many messages, slow down")]


@in_virtual_time
async def test_too_big() -> None:
    """In bytes; the server behind may have let it in."""
    peer = Peer(max_message_size=3)
    peer.says("abc", "éé", "abc")
    await peer.serving
    assert peer.recorder.messages == [(b"abc", True)]
    assert peer.sent == [1009]


@in_virtual_time
async def test_a_burst_is_not_slowness() -> None:
    """What one tick brings to a client that keeps up is never over a budget."""
    peer = Peer(slow_budget=1000)
    await asyncio.sleep(1)
    for _ in range(2):
        peer.wire.offer(text_frame(b"x" * 600) * 2, Lossy("a", "keep_latest"))
    await asyncio.sleep(1)
    peer.wire.write(text_frame(b"y"))
    await asyncio.sleep(1)
    assert peer.sent == ["x" * 600] * 4 + ["y"]


@pytest.mark.parametrize(
    ("policy", "got"),
    [("disconnect", [0, 1, 2, 3008]), ("drop_oldest", [0, 8, 9]), ("keep_latest", [0, 9])],
)
@in_virtual_time
async def test_slow_clients(
    policy: Any, got: list[int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the budget by the chosen policy, and the log says so."""
    for throttled in (plain._slow, plain._dropped):
        monkeypatch.setattr(throttled, "_next", 0.0)
    peer = Peer(slow_budget=250)
    await asyncio.sleep(1)
    peer.reads.clear()
    for number in range(10):
        peer.wire.offer(binary_frame(bytes([number]) * 100), Lossy("a", policy))
        await asyncio.sleep(0.01)
    peer.reads.set()
    await asyncio.sleep(1)
    assert [message if isinstance(message, int) else message[0] for message in peer.sent] == got
    assert "clients disconnected" in caplog.text if policy == "disconnect" else "messages dropped" in caplog.text


@in_virtual_time
async def test_nothing_is_dropped_for_who_relies_on_all() -> None:
    """What is written, and not offered, comes up to the end; what is offered then is discarded."""
    peer = Peer(slow_budget=250)
    await asyncio.sleep(1)
    peer.reads.clear()
    for number in range(10):
        peer.wire.write(binary_frame(bytes([number]) * 100))
        await asyncio.sleep(0.01)
    peer.wire.offer(binary_frame(b"late"), Lossy("a", "keep_latest"))
    peer.reads.set()
    await asyncio.sleep(1)
    assert [message if isinstance(message, int) else message[0] for message in peer.sent] == [0, 1, 2, 3008]


@in_virtual_time
async def test_a_stalled_client() -> None:
    """Nothing taken for `slow_timeout`: given up, which also ends a close that nobody takes."""
    loop = asyncio.get_running_loop()
    for closes in (False, True):
        peer = Peer(slow_timeout=7, close_timeout=3)
        peer.reads.clear()
        if closes:
            peer.wire.close(Disconnects.UNAUTHORIZED)
        else:
            peer.wire.write(text_frame(b"x"))
        start = loop.time()
        await peer.serving
        assert loop.time() - start == pytest.approx(3 if closes else 7)
        assert peer.recorder.closed == [(3008, "slow")]


@in_virtual_time
async def test_a_client_that_takes_something_now_and_then() -> None:
    """The time is for each message, not for all of them."""
    peer = Peer(slow_timeout=7)
    for number in range(10):
        peer.wire.write(text_frame(b"%d" % number))
    for _ in range(10):
        peer.reads.clear()
        await asyncio.sleep(5)
        peer.reads.set()
        await asyncio.sleep(0)
    assert peer.recorder.closed == []
    peer.serving.cancel()


@in_virtual_time
async def test_who_is_ended_has_no_more_time_for_each_message() -> None:
    """All that waits has the time of one: else who takes one now and then would stay for hours, and in presence too."""
    loop = asyncio.get_running_loop()
    peer = Peer(slow_timeout=7, close_timeout=3)
    await asyncio.sleep(1)
    peer.pause = 6
    for _ in range(1000):
        peer.wire.write(text_frame(b"x"))
        await asyncio.sleep(0)
    peer.wire.close(Disconnects.UNAUTHORIZED)
    start = loop.time()
    await peer.serving
    assert loop.time() - start <= 7 + 3
    assert peer.recorder.closed == [(3008, "slow")]


@in_virtual_time
async def test_holding() -> None:
    """While its handler holds it, the connection is not read."""
    peer = Peer()
    peer.wire.pause_reading()
    peer.says("a", "b")
    await asyncio.sleep(1)
    assert peer.recorder.messages == []
    peer.wire.resume_reading()
    await asyncio.sleep(1)
    assert peer.recorder.messages == [(b"a", True), (b"b", True)]
    peer.serving.cancel()


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("after close")])
@in_virtual_time
async def test_a_client_that_has_gone(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Servers say so in two ways; neither is a fault."""
    peer = Peer()
    peer.error = error
    peer.wire.write(text_frame(b"x"))
    await peer.serving
    assert peer.recorder.closed == [(1006, "")]
    assert caplog.records == []


@in_virtual_time
async def test_a_handler_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets 1011, the log the fault, and the handler its end."""
    peer = Peer()
    peer.recorder.on_message = lambda payload, text: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    peer.says("x")
    await peer.serving
    assert peer.sent == [1011]
    assert peer.recorder.closed == [(1011, "internal error")]
    assert "ZeroDivisionError" in caplog.text


@in_virtual_time
async def test_cancelled() -> None:
    """A server that stops cancels the application: the handler is told, and no task stays behind."""
    before = asyncio.all_tasks()
    peer = Peer()
    await asyncio.sleep(1)
    peer.serving.cancel()
    await asyncio.wait([peer.serving])
    await asyncio.sleep(0)
    assert peer.recorder.closed == [(1006, "")]
    assert asyncio.all_tasks() == before


# For applications that read by themselves


@pytest.mark.parametrize("error", [None, OSError("gone")])
@in_virtual_time
async def test_writing_only(error: Exception | None, caplog: pytest.LogCaptureFixture) -> None:
    """A stalled client is given up and, if it ever reads again, told so; if it has gone meanwhile, that is no fault."""
    peer = Peer(slow_timeout=5)
    peer.serving.cancel()
    await asyncio.sleep(0)
    writing = asyncio.create_task(peer.wire.serve_writes())
    peer.reads.clear()
    peer.wire.write(text_frame(b"x"))
    await asyncio.sleep(6)
    assert peer.wire.ending
    peer.error = error
    peer.reads.set()
    await writing
    assert peer.sent == ([3008] if error is None else [])
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@in_virtual_time
async def test_writing_only_and_a_fault_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and nothing more is written."""
    peer = Peer()
    peer.serving.cancel()
    await asyncio.sleep(0)
    peer.error = KeyError("nobody expected this")
    peer.wire.write = peer.wire._enqueue
    peer.wire.write(text_frame(b"x"))
    await peer.wire.serve_writes()
    assert peer.wire.ending
    assert "unexpected fault in a connection" in caplog.text


# On hypercorn


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.asynccontextmanager
async def on_hypercorn(hub: Hub) -> AsyncIterator[str]:
    """Serve a hub; the beginning of its WebSocket addresses."""
    app = FastAPI()
    app.include_router(hub.router)
    config, stop, port = hypercorn.config.Config(), asyncio.Event(), free_port()
    config.bind, config.errorlog = [f"127.0.0.1:{port}"], None
    serving = hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        group.create_task(serving)
        await eventually(lambda: accepts(port))
        yield f"ws://127.0.0.1:{port}"
        stop.set()


async def test_rooms_on_hypercorn() -> None:
    """Text, binary, leaving out oneself, the hub's own words, and its close codes."""
    hub = Hub(Settings(max_message_size=1000, token="t"))
    async with on_hypercorn(hub) as url, asyncio.timeout(10):
        async with websockets.connect(f"{url}/ws/room?token=t&echo=0&hello=1") as ann:
            async with websockets.connect(f"{url}/ws/room?token=t") as bob:
                assert '"room":"room"' in str(await ann.recv())
                await ann.send("grüße")
                assert await bob.recv() == "grüße"
                await bob.send(b"\x00\xff")
                assert (await bob.recv(), await ann.recv()) == (b"\x00\xff", b"\x00\xff")
                await hub.publish("room", {"n": 1})
                assert (await bob.recv(), await ann.recv()) == ('{"n":1}', '{"n":1}')
                await bob.send("x" * 1001)
                with pytest.raises(websockets.ConnectionClosed, match="1009"):
                    await bob.recv()
            await eventually(lambda: hub.registry.subscribers == 1)
        with pytest.raises(websockets.ConnectionClosed, match="4401"):
            await (await websockets.connect(f"{url}/ws/room")).recv()
        await eventually(lambda: hub._admission.connections == 0)


async def test_a_flood_on_hypercorn() -> None:
    """Many messages at once through a client that reads late: all, in order."""
    hub = Hub(Settings(slow_budget=50_000_000))
    async with on_hypercorn(hub) as url, asyncio.timeout(20):
        async with websockets.connect(f"{url}/ws/room", max_queue=1) as client:
            for number in range(500):
                await hub.publish("room", number.to_bytes(2, "big") * 5000)
            got = [await client.recv() for _ in range(500)]
    assert got == [number.to_bytes(2, "big") * 5000 for number in range(500)]
