"""What our ASGI server does for applications that are not well behaved, on a fake transport and in virtual time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from hub.asgi import QUEUE_LIMIT, ClientDisconnected
from hub.protocol.frames import close_frame, text_frame
from tests.protocol.test_frames import client_frame
from tests.support.clock import in_virtual_time
from tests.support.sockets import HANDSHAKE
from tests.support.transport import FakeTransport, Worker, until_lost

ACCEPT = {"type": "websocket.accept"}
INTERNAL = close_frame(1011, "internal error")


async def connecting(app: Any, **options: Any) -> FakeTransport:
    """A connection whose application has begun."""
    _, transport = Worker(app, **options).connect()
    transport.feed(HANDSHAKE % b"/")
    await asyncio.sleep(0.01)
    return transport


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "websocket.send", "text": "x"}],
        [{"type": "http.response.start", "status": 200}],
        [{"type": "websocket.http.response.body", "body": b""}],
        [{"type": "websocket.http.response.start", "status": 402}, ACCEPT],
        [ACCEPT, ACCEPT],
        [ACCEPT, {"type": "websocket.http.response.start", "status": 402}],
        [ACCEPT, {"type": "websocket.nonsense"}],
    ],
)
@in_virtual_time
async def test_messages_out_of_order(messages: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """RuntimeError with what was expected; unhandled, it is 500 or 1011 for the client and one line in the log."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in messages[:-1]:
            await send(message)
        with pytest.raises(RuntimeError, match=r"^expected 'websocket\..*, but got '"):
            await send(messages[-1])
        await send(messages[-1])

    transport = await connecting(app)
    if messages[0] is ACCEPT:
        assert transport.sent.endswith(INTERNAL)
    else:
        assert transport.sent.startswith(b"HTTP/1.1 500 ")
        assert transport.lost
    assert errors(caplog) == ["exception in the ASGI application"]


@in_virtual_time
async def test_an_application_that_never_answers(caplog: pytest.LogCaptureFixture) -> None:
    """It may take its time; if it returns without an answer the client gets 500, and the log names the fault."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(50)

    transport = await connecting(app)
    assert 49 < await until_lost(transport) < 51
    assert transport.sent.startswith(b"HTTP/1.1 500 ")
    assert errors(caplog) == ["the ASGI application returned without accepting or closing a WebSocket"]


@in_virtual_time
async def test_a_client_that_leaves_before_it_is_accepted(caplog: pytest.LogCaptureFixture) -> None:
    """The application learns of it by `receive`, again and again, and by an OSError from `send`."""
    noticed: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        noticed.extend([(await receive())["type"] for _ in range(3)])
        await send(ACCEPT)

    transport = await connecting(app)
    transport.reset()
    await asyncio.sleep(1)
    assert noticed == ["websocket.connect", "websocket.disconnect", "websocket.disconnect"]
    assert transport.sent == b""
    assert errors(caplog) == []


@in_virtual_time
async def test_a_client_that_leaves_while_the_application_sends() -> None:
    """Whoever waits for it to read goes on, and the next `send` raises."""
    sent: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        for number in range(10):
            await send({"type": "websocket.send", "bytes": bytes(50_000)})
            sent.append(number)

    _, transport = Worker(app).connect()
    transport.feed(HANDSHAKE % b"/")
    transport.stalled = True
    await asyncio.sleep(1)
    assert sent == [0]
    transport.reset()
    await asyncio.sleep(1)
    assert sent == [0, 1]


@in_virtual_time
async def test_several_senders_on_one_connection() -> None:
    """All wait while the client does not read, and go on when it does; one that gives up takes none along."""
    done: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def speak(name: str) -> None:
            await send({"type": "websocket.send", "bytes": bytes(70_000)})
            done.append(name)

        await send(ACCEPT)
        tasks = [asyncio.create_task(speak(name)) for name in "abcd"]
        await asyncio.sleep(1)
        tasks[2].cancel()
        await asyncio.wait(tasks)

    _, transport = Worker(app).connect()
    transport.feed(HANDSHAKE % b"/")
    transport.stalled = True
    await asyncio.sleep(2)
    assert done == []
    transport.stalled = False
    transport.take()
    await asyncio.sleep(1)
    assert sorted(done) == ["a", "b", "d"]


@in_virtual_time
async def test_an_application_that_does_not_receive() -> None:
    """Its queue is bounded, because the client is not read; then it gets everything, in order."""
    got: list[str] = []
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await go_on.wait()
        while (event := await receive())["type"] == "websocket.receive":
            got.append(event["text"])

    transport = await connecting(app)
    transport.feed(b"".join(client_frame(1, b"%d" % number) for number in range(100)))
    await asyncio.sleep(1)
    assert not transport.reading
    go_on.set()
    await asyncio.sleep(1)
    assert got == [str(number) for number in range(100)]
    assert len(got) > QUEUE_LIMIT
    assert transport.reading


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 2999, 5000, 70_000])
@in_virtual_time
async def test_close_codes_that_may_not_be_sent(code: int, caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of the application, and said so; the client gets 1011."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await send({"type": "websocket.close", "code": code})

    transport = await connecting(app)
    assert transport.sent.endswith(INTERNAL)
    assert f"a close frame cannot have the code {code}" in caplog.text


@in_virtual_time
async def test_after_its_own_close() -> None:
    """The application's close has defaults; after it `send` raises and `receive` tells how it ended."""
    noticed: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await send({"type": "websocket.close"})
        noticed.append(await receive())
        try:
            await send({"type": "websocket.send", "text": "x"})
        except OSError as error:
            noticed.append(type(error))

    transport = await connecting(app)
    assert transport.sent.endswith(close_frame(1000))
    assert noticed == [{"type": "websocket.disconnect", "code": 1000, "reason": ""}, ClientDisconnected]


@in_virtual_time
async def test_the_end_of_another_connection(caplog: pytest.LogCaptureFixture) -> None:
    """An application that dies of sending to somebody who has left is a fault; it does not leave its client hanging."""
    sends: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sends.append(send)
        await send(ACCEPT)
        while True:
            await receive()
            for other in sends:
                await other({"type": "websocket.send", "text": "hello"})

    worker = Worker(app)
    (_, gone), (_, stays) = [await worker.upgraded() for _ in range(2)]
    gone.reset()
    await asyncio.sleep(1)
    stays.feed(client_frame(1, b"hello"))
    await asyncio.sleep(1)
    assert stays.sent.endswith(INTERNAL)
    assert errors(caplog) == ["exception in the ASGI application"]


@in_virtual_time
async def test_denials() -> None:
    """Status, headers and a body in parts become one HTTP response."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"x-why", b"caf\xe9"), (b"content-type", b"text/html")]
        await send({"type": "websocket.http.response.start", "status": 402, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"pay ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"first"})
        with pytest.raises(ClientDisconnected):
            await send({"type": "websocket.http.response.body"})

    transport = await connecting(app)
    assert transport.sent.startswith(b"HTTP/1.1 402 Payment Required\r\nx-why: caf\xe9\r\ncontent-type: text/html\r\n")
    assert transport.sent.endswith(b"\r\n\r\npay first")
    assert transport.lost


@in_virtual_time
async def test_a_denial_that_is_not_read() -> None:
    """A refused client cannot hold its connection by not reading why."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})

    _, transport = Worker(app, close_timeout=3).connect()
    transport.stalled = True
    transport.feed(HANDSHAKE % b"/")
    assert 3 <= await until_lost(transport) < 3.5


@in_virtual_time
async def test_messages_arrive_as_they_were_sent() -> None:
    """Text as str, binary as bytes, each with its key only; text is sent as a text frame."""
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await send({"type": "websocket.send", "text": "ü", "bytes": None})
        got.extend([await receive(), await receive()])

    transport = await connecting(app)
    assert transport.sent.endswith(text_frame("ü".encode()))
    transport.feed(client_frame(1, "é".encode()) + client_frame(2, b"\xff"))
    await asyncio.sleep(1)
    assert got == [{"type": "websocket.receive", "text": "é"}, {"type": "websocket.receive", "bytes": b"\xff"}]
    assert transport.sent.endswith(close_frame(1000, "normal closure"))
