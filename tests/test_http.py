"""The HTTP class as a client meets it, before it becomes a WebSocket or never does: raw bytes, on both event loops."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import Request, Response, WebSocket
from starlette.requests import ClientDisconnect

from hub import http
from hub.config import WireOptions
from hub.errors import Disconnects
from hub.http import MAX_HEAD_SIZE, HubHttpProtocol
from hub.protocol.frames import close_frame, text_frame
from hub.wire import HubProtocol
from hub.wire_server import OPTIONS_STATE
from tests.protocol.test_frames import client_frame
from tests.support.sockets import HANDSHAKE
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.both_loops

TIMEOUT = 0.3
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


class App:
    """Answers with what it got; `/wait` when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.served: list[str] = []
        # Of the last request, when its body has come.
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.startup"
            scope["state"][OPTIONS_STATE] = WireOptions(handshake_timeout=TIMEOUT, slow_timeout=TIMEOUT, drain=0)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            await self._echo(WebSocket(scope, receive, send))
        else:
            await self._answer(Request(scope, receive), scope, receive, send)

    async def _echo(self, socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)

    async def _answer(self, request: Request, scope: Any, receive: Any, send: Any) -> None:
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        self.headers = scope["headers"]
        if request.url.path == "/wait":
            await self.go_on.wait()
        self.served.append(f"{request.method} {request.url.path}")
        size = int(request.query_params.get("size", 0))
        await Response(b"got " + body + bytes(size))(scope, receive, send)


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def until(self, end: bytes) -> bytes:
        """What comes, to such an end; but only the last of much."""
        async with asyncio.timeout(5):
            while True:
                try:
                    return await self._reader.readuntil(end)
                except asyncio.LimitOverrunError as error:
                    await self._reader.readexactly(error.consumed)

    def pause(self) -> None:
        """Take nothing more."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def some(self, count: int) -> bytes:
        async with asyncio.timeout(5):
            return await self._reader.read(count)

    async def rest(self) -> bytes:
        """Everything up to the end, which may be a reset."""
        got = b""
        try:
            async with asyncio.timeout(5):
                while part := await self._reader.read(65536):
                    got += part
        except ConnectionResetError:
            pass
        return got

    async def close(self) -> None:
        self._writer.transport.abort()
        await asyncio.sleep(0)


class Server:
    """A running application and its clients."""

    def __init__(self, app: App, port: int, uvicorn: Any) -> None:
        self.app, self._port, self.uvicorn = app, port, uvicorn
        self._clients: list[Client] = []

    async def connect(self, data: bytes = b"") -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self._port))
        self._clients.append(client)
        client.send(data)
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server with a short handshake timeout."""
    app = App()
    async with serving(app, lifespan="on", timeout_keep_alive=30) as (port, uvicorn):
        running = Server(app, port, uvicorn)
        yield running
        await running.close()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a client does is an error of the server."""
    for throttled in (http._slow, http._invalid):
        monkeypatch.setattr(throttled, "_next", 0.0)
    yield
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def test_requests_that_do_not_come_to_their_end(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Cut off when the time is over, wherever they stopped, and the log says so."""
    starts = [b"", b"\r\n", b"G", b"GET / HTTP/1.1\r\nHost:", (HANDSHAKE % b"/")[:99]]
    starts.append(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nbody")
    clients = [await server.connect(start) for start in starts]
    begun = asyncio.get_running_loop().time()
    assert await asyncio.gather(*(client.rest() for client in clients)) == [b""] * len(starts)
    assert TIMEOUT - 0.1 < asyncio.get_running_loop().time() - begun < TIMEOUT + 0.6
    assert "requests cut off because they did not come to their end in time" in caplog.text


async def test_byte_by_byte_is_not_in_time(server: Server) -> None:
    """The time is for the whole request; each byte does not win more of it."""
    client = await server.connect()
    for byte in HANDSHAKE % b"/":
        client.send(bytes([byte]))
        await asyncio.sleep(0.02)
        if not server.uvicorn.server_state.connections:
            break
    assert await client.rest() == b""


async def test_the_next_request_has_its_time_too(server: Server) -> None:
    """Keep-alive is no way around it: even an empty line starts the clock; without any the connection may wait."""
    clients = [await server.connect() for _ in range(2)]
    for wait in (TIMEOUT + 0.6, 0):
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await client.until(b"got ")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(wait)
    for client, start in zip(clients, (b"\r\n", b"GET /"), strict=True):
        client.send(start)
    assert await asyncio.gather(*(client.rest() for client in clients)) == [b"", b""]


async def test_an_answer_may_take_longer(server: Server) -> None:
    """The time is the client's, not the application's."""
    client = await server.connect(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
    await asyncio.sleep(TIMEOUT + 0.6)
    server.app.go_on.set()
    assert (await client.until(b"got ")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"])
async def test_who_does_not_read_the_answer(server: Server, last: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Is dropped when nothing was taken for `slow_timeout`, whatever is asked meanwhile."""
    client = await server.connect()
    client.pause()
    client.send(b"GET /?size=8000000 HTTP/1.1\r\nHost: h\r\n%b\r\n" % last)
    await eventually(lambda: server.app.served)
    for _ in range(3):
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.sleep(0.01)
    await eventually(lambda: not server.uvicorn.server_state.connections)
    assert "clients disconnected because they read too slowly" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"])
async def test_who_reads_the_answer_slowly(server: Server, last: bytes) -> None:
    """Gets all of it, however long it takes."""
    client = await server.connect(b"GET /?size=8000000 HTTP/1.1\r\nHost: h\r\n%b\r\n" % last)
    got = 0
    while got < 8_000_000:
        got += len(await client.some(200_000))
        await asyncio.sleep(0.01)


async def test_heads_that_are_too_large(server: Server) -> None:
    """Refused from the limit on, in one header or in many; the client gets the answer though it is still sending."""
    for head in (b"X: " + b"y" * 2_000_000, b"X: y\r\n" * 400_000):
        client = await server.connect(b"GET / HTTP/1.1\r\n" + head)
        assert (await client.rest()).startswith(b"HTTP/1.1 431 ")
    client = await server.connect(b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * (MAX_HEAD_SIZE - 100) + b"\r\n\r\n")
    assert (await client.until(b"got ")).startswith(b"HTTP/1.1 200")


async def test_a_large_body_is_not_a_head(server: Server) -> None:
    """The limit ends with the head, and the next request has one of its own."""
    client = await server.connect()
    for _ in range(2):
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n")
        client.send(b"z" * 300_000)
        assert (await client.until(b"z" * 300_000)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("endless", [b"0\r\n" + 30_000 * b"a:\r\n", b"0\r\na:" + 90_000 * b"b", b"1;" + 90_000 * b"x"])
async def test_endless_trailers(server: Server, endless: bytes) -> None:
    """What follows the head and is no body has its limit too; each trailer would cost thirty times its bytes."""
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    before = http.refused_requests()
    client = await server.connect(head + endless)
    assert await client.rest() == b""
    assert server.app.served == []
    assert http.refused_requests() == before  # not for its time


async def test_trailers_are_no_headers(server: Server) -> None:
    """They are read over, and the next request is read as ever; many small chunks are no trailers."""
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    client = await server.connect(head + b"1\r\nx\r\n" * 20_000 + b"0\r\nX-API-Key: stolen\r\n\r\n")
    assert (await client.until(b"got x")).startswith(b"HTTP/1.1 200 ")
    await eventually(lambda: server.app.served == ["POST /a"])
    assert b"x-api-key" not in dict(server.app.headers)
    client.send(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
    await eventually(lambda: server.app.served == ["POST /a", "GET /b"])


async def test_nonsense(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """400, and the end; one line in the log for all."""
    for nonsense in (b"\x16\x03\x01\x02\0", b"GET / HTTP/9", b"CONNECT h:1 HTTP/1.1", b"GET /\xff HTTP/1.1"):
        client = await server.connect(nonsense + b"\r\n\r\n" + b"\0" * 300_000)
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1
    assert caplog.text.count("requests refused because they are not HTTP") == 1


async def test_nonsense_after_a_request(server: Server) -> None:
    """While a request is being answered there is no place for a second answer: the connection ends."""
    client = await server.connect(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\nnonsense\r\n\r\n")
    assert await client.rest() == b""
    server.app.go_on.set()
    await asyncio.sleep(0.1)


async def test_too_many_requests_at_once(server: Server) -> None:
    """A few may wait for the answer to one before them; a connection with more of them ends."""
    few = await server.connect(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n" * 10)
    many = await server.connect(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n" * 30)
    assert await many.rest() == b""
    server.app.go_on.set()
    for _ in range(10):
        assert (await few.until(b"got ")).startswith(b"HTTP/1.1 200")


async def test_a_flood_that_breaks_off(server: Server) -> None:
    """What still waits for its turn is forgotten with its connection."""
    for _ in range(3):
        client = await server.connect(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000)
        await asyncio.sleep(0)
        await client.close()
    client = await server.connect(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (await client.until(b"got ")).startswith(b"HTTP/1.1 200")


async def test_other_upgrades_are_ignored(server: Server) -> None:
    """As RFC 9110 §7.8 allows, but the connection ends; nothing behind such a request is taken for another one."""
    client = await server.connect(b"GET /a HTTP/1.1\r\nHost: h\r\n" + UPGRADE + b"\r\nGET /b HTTP/1.1\r\n\r\n")
    client.send(b"GET /c HTTP/1.1\r\nHost: h\r\n\r\n")
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
    assert server.app.served == ["GET /a"]


async def test_other_upgrades_with_a_body_are_refused(server: Server) -> None:
    """The parser would take the body for a request; a proxy in front would not."""
    smuggled = b"GET /admin HTTP/1.1\r\n\r\n"
    for field in (b"Content-Length: 23\r\n", b"Transfer-Encoding: chunked\r\n"):
        client = await server.connect(b"POST /a HTTP/1.1\r\nHost: h\r\n" + field + UPGRADE + b"\r\n" + smuggled)
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
    assert server.app.served == []


@pytest.mark.parametrize(
    ("start", "fields", "status"),
    [
        pytest.param(b"GET /", b"", b"101", id="ordinary"),
        pytest.param(b"GET /", b"Cookie: " + b"c" * 20_000 + b"\r\n", b"101", id="long"),
        pytest.param(b"GET /", b"Content-Length: 0\r\n", b"101", id="no-body"),
        pytest.param(b"GET /", b"X-Name: a \t\r\n", b"101", id="white-space"),
        pytest.param(b"GET /", b"Content-Length: 5\r\n", b"400", id="body"),
        pytest.param(b"GET /", b"Transfer-Encoding: chunked\r\n", b"400", id="chunked"),
        pytest.param(b"GET /", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"400", id="two-keys"),
        pytest.param(b"GET /\xc3\xbc", b"", b"400", id="path-not-ascii"),
        pytest.param(b"POST /", b"", b"405", id="method"),
    ],
)
async def test_handshakes(server: Server, start: bytes, fields: bytes, status: bytes) -> None:
    """The ordinary ones are parsed once, the others end as they do under uvicorn's own class."""
    handshake = (HANDSHAKE % b"/").replace(b"GET /", start, 1).replace(b"\r\n", b"\r\n" + fields, 1)
    client = await server.connect(handshake)
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 " + status)


async def test_an_upgrade_behind_an_unanswered_request(server: Server) -> None:
    """Two protocols on one connection would mix: it ends."""
    client = await server.connect(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n" + HANDSHAKE % b"/")
    assert await client.rest() == b""
    server.app.go_on.set()
    await asyncio.sleep(0.1)


async def test_an_upgrade_after_an_answered_request(server: Server) -> None:
    """The usual thing of a keep-alive connection, with a frame in the same segment."""
    client = await server.connect(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    await client.until(b"got ")
    client.send(HANDSHAKE % b"/" + client_frame(1, b"early"))
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    assert await client.until(b"early") == text_frame(b"early")


@pytest.mark.parametrize("reads", [True, False])
async def test_an_upgrade_behind_an_answer_that_waits(server: Server, reads: bool) -> None:
    """The connection knows that it is congested, though that was said before: it gets both answers, or is dropped."""
    client = await server.connect(b"GET /?size=20000000 HTTP/1.1\r\nHost: h\r\n\r\n")
    client.pause()
    await eventually(lambda: server.app.served)
    client.send(HANDSHAKE % b"/")
    connections = server.uvicorn.server_state.connections
    await eventually(lambda: [each.congested for each in connections if isinstance(each, HubProtocol)] == [True])
    if reads:
        client.resume()
        await client.until(b"HTTP/1.1 101")
        await client.until(b"\r\n\r\n")
        client.send(client_frame(1, b"alive"))
        assert await client.until(b"alive") == text_frame(b"alive")
    else:
        await eventually(lambda: not connections)


async def test_the_http_object_is_freed_by_the_upgrade(server: Server) -> None:
    """It must not wait for the garbage collector, which would come late in a worker with many connections."""
    gc.collect()
    gc.disable()
    try:
        client = await server.connect(HANDSHAKE % b"/")
        await client.until(b"\r\n\r\n")
        assert not [found for found in gc.get_objects() if isinstance(found, HubHttpProtocol)]
    finally:
        gc.enable()


async def test_requests_on_their_way_when_the_worker_retires(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever was let in just before the end is answered, and told that it was the last time on this connection."""
    request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    idle = await server.connect(request)
    await idle.until(b"got ")
    new, begun, second, silent, socket = [await server.connect(start) for start in (b"", b"GE", request, b"", b"")]
    await second.until(b"got ")
    second.send(b"GE")
    await eventually(lambda: sum(one._head == 2 for one in server.uvicorn.server_state.connections) == 2)
    server.uvicorn.should_exit = True
    assert await idle.rest() == b""
    new.send(request)
    socket.send(HANDSHAKE % b"/")
    for client in (begun, second):
        client.send(request[2:])
    for answer in await asyncio.gather(*(client.rest() for client in (new, begun, second))):
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        assert answer.endswith(b"got ")
    assert (await socket.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    assert await socket.until(Disconnects.RESTART.reason.encode()) == close_frame(1012, Disconnects.RESTART.reason)
    await socket.close()
    assert await silent.rest() == b""
    assert "cut off" not in caplog.text
