"""What is written to an answer without end, in virtual time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from hub import sse_wire
from hub.sse_wire import SseWire
from tests.support.clock import in_virtual_time

HEADERS = [(b"content-type", b"text/event-stream")]


class Peer:
    """The server and the client behind the two ASGI callables."""

    def __init__(self, budget: int = 1024, *, serve: bool = True) -> None:
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.incoming.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        self.sent: list[bytes] = []
        self.started: Any = None
        self.ended = False
        # Clear while the client does not read.
        self.reads = asyncio.Event()
        self.reads.set()
        # What the server raises instead of sending.
        self.error: Exception | None = None
        # Called once, in the turn in which something has been sent.
        self.on_sent: Callable[[], object] | None = None
        # Called for being slow; with what could still be written then.
        self.slow: list[bool] = []
        self.wire = SseWire(self._send, budget, lambda: self.slow.append(self.wire.slow))
        if serve:
            self.serve()

    def serve(self) -> None:
        self.serving = asyncio.create_task(self.wire.serve(self.incoming.get, HEADERS))

    async def _send(self, event: Any) -> None:
        await self.reads.wait()
        if self.error is not None:
            raise self.error
        if event["type"] == "http.response.start":
            self.started = event
            return
        assert not self.ended
        self.sent += [event["body"]] if event["body"] else []
        self.ended = not event["more_body"]
        if self.on_sent is not None:
            asyncio.get_running_loop().call_soon(self.on_sent)
            self.on_sent = None

    def leaves(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})


@in_virtual_time
async def test_what_came_before_the_answer_is_first() -> None:
    """In the order: the beginning, what was delivered meanwhile, what comes later; then the client goes."""
    peer = Peer(serve=False)
    peer.wire.begin(b"hello ")
    peer.wire.write(b"early ")
    assert not peer.wire.serving
    peer.serve()
    await asyncio.sleep(1)
    peer.wire.write(b"late ")
    peer.wire.write(b"later")
    await asyncio.sleep(1)
    assert peer.started == {"type": "http.response.start", "status": 200, "headers": HEADERS}
    assert b"".join(peer.sent) == b"hello early late later"
    assert peer.wire.serving
    assert peer.wire in sse_wire.open_sse_wires()
    peer.leaves()
    await peer.serving
    peer.wire.write(b"too late")
    await asyncio.sleep(1)
    assert peer.sent[-1] == b"late later"  # of one turn
    assert not peer.ended  # nobody is there
    assert sse_wire.open_sse_wires() == []


@in_virtual_time
async def test_the_turn_in_which_the_answer_begins() -> None:
    """What is written then comes behind what was delivered before, too."""
    peer = Peer(serve=False)
    peer.wire.begin(b"1")
    peer.wire.write(b"2")
    peer.wire.write(b"3")

    async def receive() -> Any:
        if not peer.sent:
            peer.wire.write(b"4")
            await asyncio.sleep(1)
        return await peer.incoming.get()

    serving = asyncio.create_task(peer.wire.serve(receive, HEADERS))
    await asyncio.sleep(2)
    assert b"".join(peer.sent) == b"1234"
    peer.leaves()
    await serving


@in_virtual_time
async def test_an_idle_stream_has_no_task() -> None:
    """But the application's own."""
    peer = Peer()
    peer.wire.write(b"x")
    await asyncio.sleep(1)
    assert not peer.wire.busy
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert "hub event stream writer" not in names
    peer.leaves()
    await peer.serving


@in_virtual_time
async def test_what_waits_has_a_budget() -> None:
    """Beyond it the owner is told, once and not in the middle of the write, and nothing more is taken."""
    peer = Peer(budget=10)
    await asyncio.sleep(1)
    peer.reads.clear()
    peer.wire.write(b"a" * 1000)  # nothing waits: however large
    await asyncio.sleep(1)
    assert peer.wire.busy
    peer.wire.write(b"12345")
    peer.wire.write(b"67890")
    assert peer.wire.queued == 10
    peer.wire.write(b"!")
    peer.wire.write(b"!")
    assert peer.slow == []
    await asyncio.sleep(1)
    assert peer.slow == [True]
    peer.wire.cut()
    await peer.serving
    peer.reads.set()
    await asyncio.sleep(1)
    assert peer.sent == []


@in_virtual_time
async def test_who_had_no_chance_to_read_is_not_slow() -> None:
    """However much comes in the turn in which nothing waited."""
    peer = Peer(budget=10)
    await asyncio.sleep(1)
    for number in b"123":
        peer.wire.write(bytes([number]) * 100)
    await asyncio.sleep(1)
    assert peer.sent == [b"1" * 100 + b"2" * 100 + b"3" * 100]
    assert peer.slow == []
    peer.leaves()
    await peer.serving


@in_virtual_time
async def test_a_beginning_has_no_budget() -> None:
    """All that a client missed is one chunk, larger than what may wait for it afterwards."""
    peer = Peer(budget=10, serve=False)
    peer.wire.begin(b"x" * 1000)
    peer.wire.write(b"0123456789")
    peer.serve()
    await asyncio.sleep(1)
    assert b"".join(peer.sent) == b"x" * 1000 + b"0123456789"
    assert peer.slow == []
    peer.leaves()
    await peer.serving


@in_virtual_time
async def test_a_client_that_catches_up_stays() -> None:
    """What waited is sent in its order, and there is room again."""
    peer = Peer(budget=10)
    await asyncio.sleep(1)
    for number in b"123":
        peer.reads.clear()
        peer.wire.write(b"first")
        await asyncio.sleep(1)
        peer.wire.write(bytes([number]) * 10)
        peer.reads.set()
        await asyncio.sleep(1)
    assert peer.sent == [b"first", b"1" * 10, b"first", b"2" * 10, b"first", b"3" * 10]
    assert (peer.slow, peer.wire.queued, peer.wire.sent) == ([], 0, 6)
    peer.leaves()
    await peer.serving


@in_virtual_time
async def test_what_comes_while_a_task_ends_is_not_forgotten() -> None:
    """It has sent all, and nobody has been told yet that it has ended."""
    peer = Peer()
    await asyncio.sleep(1)
    peer.on_sent = lambda: peer.wire.write(b"two")
    peer.wire.write(b"one")
    await asyncio.sleep(1)
    assert peer.sent == [b"one", b"two"]
    peer.on_sent = lambda: peer.wire.finish(b"bye")
    peer.wire.write(b"three")
    await peer.serving
    assert (peer.sent, peer.ended) == ([b"one", b"two", b"three", b"bye"], True)


@pytest.mark.parametrize("busy", [False, True])
def test_the_end_comes_behind_what_waits(busy: bool) -> None:
    """Then the answer is complete, and `serve` returns without the server's help."""

    @in_virtual_time
    async def run() -> None:
        peer = Peer()
        await asyncio.sleep(1)
        if busy:
            peer.reads.clear()
        peer.wire.write(b"one ")
        await asyncio.sleep(1)
        peer.wire.write(b"two ")
        peer.wire.finish(b"bye")
        peer.wire.finish(b"bye again")
        peer.wire.write(b"three")
        peer.reads.set()
        await peer.serving
        assert b"".join(peer.sent) == b"one two bye"
        assert peer.ended

    run()


@in_virtual_time
async def test_an_end_before_the_beginning() -> None:
    """The answer is complete, with all that was to be in it."""
    peer = Peer(serve=False)
    peer.wire.begin(b"hello ")
    peer.wire.finish(b"bye")
    peer.serve()
    await peer.serving
    assert (b"".join(peer.sent), peer.ended) == (b"hello bye", True)


@in_virtual_time
async def test_an_end_that_nobody_takes_can_be_cut() -> None:
    """The owner decides when; twice is once."""
    peer = Peer()
    await asyncio.sleep(1)
    peer.reads.clear()
    peer.wire.finish(b"bye")
    await asyncio.sleep(5)
    assert not peer.serving.done()
    peer.wire.cut()
    peer.wire.cut()
    await peer.serving
    peer.wire.cut()
    assert not peer.ended


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), RuntimeError("gone"), KeyError("what?")])
def test_a_server_that_fails_ends_the_stream(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Two kinds of error say that the client has gone; another one is a fault, and logged."""

    @in_virtual_time
    async def run() -> None:
        peer = Peer()
        await asyncio.sleep(1)
        peer.error = error
        peer.wire.write(b"x")
        await peer.serving

    with caplog.at_level(logging.ERROR):
        run()
    assert [record.message for record in caplog.records] == (
        ["unexpected fault in an event stream"] if isinstance(error, KeyError) else []
    )


@in_virtual_time
async def test_a_client_that_has_gone_before_the_answer() -> None:
    """Servers may say so by an error."""
    peer = Peer(serve=False)
    peer.error = BrokenPipeError("gone")
    peer.serve()
    await peer.serving


@in_virtual_time
async def test_who_cancels_gets_its_way() -> None:
    """A server that has waited long enough for its answers; nothing goes on behind it."""
    peer = Peer()
    await asyncio.sleep(1)
    peer.reads.clear()
    peer.wire.write(b"x")
    await asyncio.sleep(1)
    peer.serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await peer.serving
    await asyncio.sleep(1)
    assert not peer.wire.busy
    assert sse_wire.open_sse_wires() == []
