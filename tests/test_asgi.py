"""Any ASGI application: the same conversations on our own server class, in uvloop and asyncio, and on hypercorn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import pytest
import websockets
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.support.redis import free_port
from tests.support.uvicorn_server import serving

# Their transports differ in what they raise and when.
pytestmark = pytest.mark.both_loops

pytestmark = pytest.mark.both_loops

# What the applications below noticed.
noticed: list[object] = []


async def echo(socket: WebSocket) -> None:
    """Echo until the client leaves; note how."""
    subprotocols = socket.scope["subprotocols"]
    await socket.accept(subprotocol=subprotocols[-1] if subprotocols else None, headers=[(b"x-hub", b"yes")])
    try:
        while True:
            event = await socket.receive()
            if event["type"] == "websocket.disconnect":
                noticed.append((event["code"], event.get("reason")))
                return
            if event.get("text") is not None:
                await socket.send_text(event["text"])
            else:
                await socket.send_bytes(event["bytes"])
    except WebSocketDisconnect as gone:
        noticed.append((gone.code, gone.reason))


async def close(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close(4321, "as agreed")


async def close_first(socket: WebSocket) -> None:
    await socket.close()


async def deny(socket: WebSocket) -> None:
    await socket.send_denial_response(PlainTextResponse("payment required", 402, {"x-why": "money"}))


async def fail_first(socket: WebSocket) -> None:
    raise RuntimeError("before the handshake")


async def fail(socket: WebSocket) -> None:
    await socket.accept()
    raise RuntimeError("after the handshake")


async def forget(socket: WebSocket) -> None:
    """Returns with the connection open."""
    await socket.accept()
    await socket.send_text("last words")


async def send_late(socket: WebSocket) -> None:
    """Sends to a client that has gone."""
    await socket.accept()
    assert (await socket.receive())["type"] == "websocket.disconnect"
    try:
        await socket.send_text("too late")
    except (WebSocketDisconnect, RuntimeError) as error:
        noticed.append(type(error).__name__)


async def flood(socket: WebSocket) -> None:
    await socket.accept()
    for number in range(2000):
        await socket.send_bytes(number.to_bytes(4, "big") * 1024)
    await socket.close()


async def scope(socket: WebSocket) -> None:
    await socket.accept()
    keys = ("type", "path", "query_string", "scheme", "root_path", "raw_path")
    await socket.send_json({key: str(socket.scope[key]) for key in keys} | {"origin": socket.headers.get("origin")})


ENDPOINTS = (echo, close, close_first, deny, fail_first, fail, forget, send_late, flood, scope)
app = Starlette(routes=[WebSocketRoute(f"/{endpoint.__name__}", endpoint) for endpoint in ENDPOINTS])
app.routes.append(WebSocketRoute("/scope/{rest:path}", scope))


@contextlib.asynccontextmanager
async def on_hypercorn() -> AsyncIterator[int]:
    """The same application on a server that knows nothing of the hub."""
    config, stop, port = hypercorn.config.Config(), asyncio.Event(), free_port()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None  # type: ignore[assignment]
    task = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.01)
    yield port
    stop.set()
    await task


@contextlib.asynccontextmanager
async def on_our_class() -> AsyncIterator[int]:
    async with serving(app) as (port, _):
        yield port


@pytest.fixture(params=[on_our_class, on_hypercorn])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The address of the application on either server."""
    noticed.clear()
    serve: Callable[[], Any] = request.param
    async with serve() as port:
        yield f"ws://127.0.0.1:{port}"


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition with a deadline."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_conversation(url: str) -> None:
    """Text and binary both ways, the subprotocol and header that the application chose, its notice of the close."""
    async with websockets.connect(f"{url}/echo", subprotocols=["a", "b"]) as client:  # type: ignore[list-item]
        assert client.subprotocol == "b"
        assert client.response is not None
        assert client.response.headers["x-hub"] == "yes"
        for message in ("", "grüße", b"", b"\x00\xff" * 70000):
            await client.send(message)
            assert await client.recv() == message
        await client.close(4001, "bye")
    await until(lambda: noticed)
    assert noticed[0][0] in (4001, 1006)  # type: ignore[index]  # hypercorn always says 1006


async def test_the_application_closes(url: str) -> None:
    """Its code and reason arrive."""
    async with websockets.connect(f"{url}/close") as client:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4321, "as agreed")


@pytest.mark.parametrize(("path", "status"), [("close_first", 403), ("deny", 402), ("fail_first", 500)])
async def test_refusals_before_the_handshake(url: str, path: str, status: int) -> None:
    """An HTTP status, and the response that the application gave."""
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(f"{url}/{path}")
    response = refused.value.response
    assert response.status_code == status
    if path == "deny":
        assert response.headers["x-why"] == "money"
        assert bytes(response.body or b"") == b"payment required"


async def test_the_application_fails(url: str) -> None:
    """After the handshake the client gets a close with a code, not a dead connection."""
    async with websockets.connect(f"{url}/fail") as client:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd is None or closed.value.rcvd.code in (1006, 1011)


async def test_the_application_forgets_to_close(url: str) -> None:
    """What it said arrives, then the connection ends."""
    async with websockets.connect(f"{url}/forget") as client:
        assert await client.recv() == "last words"
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()


async def test_sending_to_a_client_that_has_gone() -> None:
    """An exception for the application, and nothing worse."""
    noticed.clear()
    async with on_our_class() as port:
        async with websockets.connect(f"ws://127.0.0.1:{port}/send_late"):
            pass
        await until(lambda: noticed)


async def test_more_than_the_client_takes(url: str) -> None:
    """8 MB for a client that begins to read late: the application waits, and nothing is lost."""
    async with websockets.connect(f"{url}/flood", max_queue=1) as client:
        await asyncio.sleep(0.2)
        async with asyncio.timeout(20):
            got = [await client.recv() for _ in range(2000)]
    assert got == [number.to_bytes(4, "big") * 1024 for number in range(2000)]


async def test_scope(url: str) -> None:
    """Path, query, scheme and headers as the specification has them."""
    address = f"{url}/scope/a%20b%2Fc?x=%31&y"
    async with websockets.connect(address, origin="http://o.example") as client:  # type: ignore[arg-type]
        told = str(await client.recv())
    assert '"path":"/scope/a b/c"' in told
    assert "x=%31&y" in told
    assert '"scheme":"ws"' in told
    assert '"origin":"http://o.example"' in told
