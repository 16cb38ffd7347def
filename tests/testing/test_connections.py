"""The clients of a cluster: what they send, receive and refuse to read, and what they say when nothing comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import BackgroundTasks, FastAPI, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketState

from hub import Hub, Settings
from hub.testing import Closed, Cluster, NothingReceived, ProtocolClient, Refused, ReplyError

app = FastAPI()
hub = Hub(Settings(slow_timeout=5))
app.include_router(hub.router)
# What the endpoints have noticed.
noticed: list[Any] = []


@pytest.fixture
async def c() -> AsyncIterator[Cluster]:
    noticed.clear()
    async with Cluster(app, workers=2) as cluster:
        yield cluster


@app.websocket("/mine/{name}")
async def mine(socket: WebSocket, name: str, greeting: str = Query("hello")) -> None:
    await socket.accept(subprotocol=next(iter(socket.scope["subprotocols"]), None))
    await socket.send_json({"name": name, "greeting": greeting, "cookie": socket.headers.get("cookie")})
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason"))
            if message.get("text") == "fail":
                raise LookupError("no such thing")
            if message.get("text") == "close":
                await socket.close(4000, "as you wish")
                return
            await socket.send({**message, "type": "websocket.send"})
    except WebSocketDisconnect as end:
        noticed.append((end.code, end.reason, socket.client_state is WebSocketState.DISCONNECTED))


@app.websocket("/denied/{how}")
async def denied(socket: WebSocket, how: str) -> None:
    if how == "answer":
        await socket.send_denial_response(JSONResponse({"why": "not you"}, 429))
    elif how == "close":
        await socket.close(1008)
    elif how == "fail":
        raise LookupError("no such thing")


@app.websocket("/never")
async def never(socket: WebSocket) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        noticed.append("cancelled")


class Rude:
    """Plain ASGI, so that nothing between it and the server minds the order."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.send", "text": "before the accept"})


class Talkative:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        assert (await receive())["type"] == "websocket.disconnect"
        try:
            await send({"type": "websocket.send", "text": "after the end"})
        except OSError as error:
            noticed.append(str(error))


app.router.routes += [WebSocketRoute("/rude", Rude()), WebSocketRoute("/talkative", Talkative())]


@app.websocket("/flood")
async def flood(socket: WebSocket) -> None:
    await socket.accept()
    for number in range(3):
        await socket.send_text(str(number))
        noticed.append(number)


@app.post("/double")
async def double(request: Request) -> dict[str, str]:
    await asyncio.sleep(30)
    return {"text": (await request.body()).decode() * 2}


@app.get("/ticks")
async def ticks() -> StreamingResponse:
    async def tick() -> AsyncIterator[str]:
        try:
            for number in range(1000):
                yield f"{number}\n"
                await asyncio.sleep(10)
        finally:
            noticed.append("gone")

    return StreamingResponse(tick())


@app.get("/later")
async def later(tasks: BackgroundTasks, fail: bool = False) -> None:
    async def work() -> None:
        await asyncio.sleep(10)
        if fail:
            raise LookupError("too late")
        noticed.append("later")

    tasks.add_task(work)


class Silence(Response):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        pass


@app.get("/silence")
async def silence() -> Silence:
    return Silence()


@app.get("/patient")
async def patient(request: Request) -> None:
    while not await request.is_disconnected():  # noqa: ASYNC110
        await asyncio.sleep(1)
    noticed.append("left")


@app.get("/fail")
async def fail() -> None:
    raise LookupError("no such thing")


async def test_an_endpoint_of_the_application(c: Cluster) -> None:
    """Path, query, headers, subprotocols, text, bytes and JSON arrive, and come back."""
    headers = {"Cookie": "a=b"}
    socket = await c.connect("/mine/a%20b?greeting=moin", worker=1, headers=headers, subprotocols=["x", "y"])
    assert socket.subprotocol == "x"
    assert await socket.receive_json() == {"name": "a b", "greeting": "moin", "cookie": "a=b"}
    await socket.send_text("grüße")
    await socket.send_bytes(b"\x00\xff")
    await socket.send_json([1, None])
    assert await socket.receive_text() == "grüße"
    assert await socket.receive_bytes() == b"\x00\xff"
    assert await socket.receive_json() == [1, None]
    assert socket.received[1:] == ["grüße", b"\x00\xff", "[1,null]"]
    assert repr(socket) == "<Socket /mine/a%20b?greeting=moin at worker 1, open>"


async def test_the_wrong_kind_of_message(c: Cluster) -> None:
    """Text where bytes are expected is said to be text."""
    socket = await c.connect("/mine/x")
    with pytest.raises(AssertionError, match=r"expected bytes from /mine/x at worker 0, and got '\{\"name\""):
        await socket.receive_bytes()
    await socket.send_bytes(b"x")
    with pytest.raises(AssertionError, match=r"expected text from /mine/x at worker 0, and got b'x'"):
        await socket.receive_text()


async def test_nothing_comes(c: Cluster) -> None:
    """The error tells what had come, and the time that has passed is virtual."""
    socket = await c.connect("/ws/x")
    with pytest.raises(NothingReceived, match=r"nothing came to /ws/x at worker 0 in 60 s; received so far: nothing"):
        await socket.receive_text(timeout=60)
    assert c.time == pytest.approx(60)
    for number in range(7):
        await socket.send_text(str(number))
    for _ in range(7):
        await socket.receive()
    with pytest.raises(NothingReceived, match=r"received so far: 2 more, then '2', '3', '4', '5', '6'"):
        await socket.receive(timeout=1)
    with pytest.raises(NothingReceived, match="was not closed within 1 s; received so far"):
        await socket.wait_closed(timeout=1)


async def test_silence(c: Cluster) -> None:
    """Asserted for some time; a message that has come, or comes meanwhile, is none."""
    socket = await c.connect("/ws/x")
    await socket.receive_nothing(seconds=10)
    asyncio.get_running_loop().call_later(5, lambda: asyncio.ensure_future(hub.publish("x", "late")))
    with pytest.raises(AssertionError, match="expected nothing from /ws/x at worker 0, and got 'late'"):
        await socket.receive_nothing(seconds=10)
    assert await socket.receive() == "late"


async def test_the_client_closes(c: Cluster) -> None:
    """The application is told code and reason; lost networks are 1006."""
    first, second = await c.connect("/mine/x"), await c.connect("/mine/x")
    await first.close(4001, "bye")
    await second.drop()
    assert noticed == [(4001, "bye", True), (1006, "", True)]
    assert first.closed
    with pytest.raises(Closed, match=r"/mine/x at worker 0 was closed with 4001 'bye'"):
        await first.send_text("x")
    await first.close()
    assert first.close_seen == (4001, "bye")


async def test_the_server_closes(c: Cluster) -> None:
    """What came before is received first, then each call says how it ended."""
    socket = await c.connect("/mine/x")
    await socket.send_text("close")
    assert await socket.wait_closed() == (4000, "as you wish")
    await socket.receive()
    with pytest.raises(Closed) as closed:
        await socket.receive()
    assert closed.value.close == (4000, "as you wish")
    flooded = await c.connect("/flood")
    assert [await flooded.receive() for _ in range(3)] == ["0", "1", "2"]
    assert (await flooded.wait_closed()).code == 1000


async def test_the_application_fails(c: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """As on a server it is 1011 and a line in the log; the error has the cause."""
    socket = await c.connect("/mine/x")
    await socket.receive()
    await socket.send_text("fail")
    with pytest.raises(Closed, match="1011") as closed:
        await socket.receive()
    assert isinstance(closed.value.__cause__, LookupError)
    assert "exception in the application, /mine/x at worker 0" in caplog.text


async def test_refused_handshakes(c: Cluster) -> None:
    """HTTP statuses, as a server would answer; what the application raises before it accepts is raised here."""
    with pytest.raises(Refused, match=r"/denied/answer at worker 0 was refused with HTTP 429") as refused:
        await c.connect("/denied/answer")
    assert (refused.value.status, refused.value.body) == (429, b'{"why":"not you"}')
    for path, status in (("/denied/close", 403), ("/denied/silent", 500), ("/nowhere", 403)):
        with pytest.raises(Refused) as refused:
            await c.connect(path)
        assert refused.value.status == status
    with pytest.raises(LookupError, match="no such thing"):
        await c.connect("/denied/fail")


async def test_an_endpoint_that_errs(c: Cluster) -> None:
    """What a server would not send is an error of the application, and what comes after the end is an OSError."""
    with pytest.raises(RuntimeError, match="but the application has sent 'send'"):
        await c.connect("/rude")
    socket = await c.connect("/talkative")
    await socket.close()
    assert noticed == ["/talkative at worker 0 has ended"]


async def test_a_handshake_that_is_given_up(c: Cluster) -> None:
    """The application learns that the client has gone; the end of the cluster ends what waits for ever."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await c.connect("/never")
    await c.stop(0)
    assert noticed == ["cancelled"]


async def test_a_stalled_client(c: Cluster) -> None:
    """`send` waits for it, until it reads again."""
    socket = await c.connect("/mine/x")
    await socket.receive()
    socket.stall()
    assert "stalled" in repr(socket)
    await socket.send_text("one")
    with pytest.raises(NothingReceived, match="the client is stalled; received so far"):
        await socket.receive(timeout=1)
    socket.resume()
    assert await socket.receive() == "one"


async def test_a_stalled_client_of_the_hub(c: Cluster) -> None:
    """It is given up after its time; the others have heard everything meanwhile."""
    slow, quick = await c.connect("/ws/x", worker=1), await c.connect("/ws/x", worker=1)
    slow.stall()
    for number in range(3):
        await hub.publish("x", str(number))
        assert await quick.receive() == str(number)
    await c.advance(10)
    with c.on(1):
        assert hub.registry.subscribers == 1
    assert await slow.wait_closed() == (1000, "")  # docs/testing.md says so
    assert slow.received == []


# The protocol


async def test_commands_and_pushes(c: Cluster) -> None:
    """Everything that a test of channels needs, on two workers."""
    ann, bob = await c.client(worker=0), await c.client(worker=1)
    assert ann.connected["ping"] == 25
    assert (await ann.subscribe("chat:x"))["recoverable"] is True
    await bob.subscribe("chat:x")
    await bob.publish("chat:x", {"text": "hi"})
    assert (await ann.next_push(kind="join")).channel == "chat:x"
    push = await ann.next_publication("chat:x")
    assert (push.kind, push.data, push.body["offset"]) == ("pub", {"text": "hi"}, 1)
    assert set(await ann.presence("chat:x")) == {ann.id, bob.id}
    assert [each["data"] for each in (await ann.history("chat:x", limit=10))["publications"]] == [{"text": "hi"}]
    await bob.unsubscribe("chat:x")
    assert (await ann.next_push(kind="leave")).body["info"]["client"] == bob.id
    with pytest.raises(ReplyError, match="subscribe was refused: 102 unknown channel") as refused:
        await ann.subscribe("nowhere:x")
    assert (refused.value.code, refused.value.temporary) == (102, False)


async def test_pushes_that_are_passed_over_wait(c: Cluster) -> None:
    """A test may ask for kinds in any order, and gets each in the order in which it came."""
    client = await c.client()
    await client.subscribe("chat:x")
    for number in range(2):
        await hub.publish("chat:x", number)
    assert [(await client.next_publication()).data for _ in range(2)] == [0, 1]
    assert (await client.next_push()).kind == "join"
    with pytest.raises(NothingReceived, match=r"no pub of 'chat:x' came to /connection/websocket at worker 0 in 1 s"):
        await client.next_publication("chat:x", timeout=1)


async def test_pings_are_answered(c: Cluster) -> None:
    """For as long as the client reads."""
    client = await c.client()
    await c.advance(120)
    assert not client.closed
    client.stall()
    await c.advance(120)
    assert client.closed


async def test_the_end_of_a_protocol_client(c: Cluster) -> None:
    """Commands and pushes say how it ended; without an answer they say that."""
    client = await c.client()
    client.stall()
    with pytest.raises(NothingReceived, match="subscribe had no reply from /connection/websocket at worker 0 in 1 s"):
        await client.command("subscribe", timeout=1, channel="chat:x")
    await c.kill(0)
    with pytest.raises(Closed, match="1006"):
        await client.subscribe("chat:x")
    with pytest.raises(Closed, match="1006"):
        await client.next_push()


async def test_a_command_under_way_at_the_end(c: Cluster) -> None:
    """Its worker dies: no reply, and no waiting for one."""
    client = await c.client(path="/connection/websocket")
    client.stall()
    asking = asyncio.create_task(client.rpc("anything"))
    await c.kill(0)
    with pytest.raises(Closed, match="1006"):
        await asking
    assert isinstance(client, ProtocolClient)


# HTTP


async def test_http(c: Cluster) -> None:
    """A call that takes half a minute takes no time; errors of the application are raised."""
    async with c.http(worker=1, headers={"X-Test": "1"}) as client:
        assert (await client.post("/double", content="ab")).json() == {"text": "abab"}
        assert c.time == pytest.approx(30)
        with pytest.raises(LookupError, match="no such thing"):
            await client.get("/fail")
        assert (await client.get("/health/ready")).status_code == 200


async def test_answers_that_go_on(c: Cluster) -> None:
    """Server-sent events of the hub and of the application: read as they come, in virtual time, until either leaves."""
    async with c.http(worker=1).stream("GET", "/ticks") as response:
        lines = response.aiter_lines()
        assert [await anext(lines) for _ in range(3)] == ["0", "1", "2"]
        assert c.time == pytest.approx(20)
    await c.settle()
    assert noticed == ["gone"]
    async with c.http(worker=1).stream("GET", "/ticks") as response:
        lines = response.aiter_lines()
        await anext(lines)
        await c.kill(1)
        with pytest.raises(ConnectionResetError):
            await anext(lines)


async def test_background_tasks_are_done(c: Cluster) -> None:
    """When the call returns; what they raise is not lost."""
    assert (await c.http().get("/later")).status_code == 200
    assert noticed == ["later"]
    with pytest.raises(LookupError):
        await c.http().get("/later?fail=1")
    with pytest.raises(RuntimeError, match="the application has not answered GET /silence"):
        await c.http().get("/silence")


async def test_http_and_the_end_of_a_worker(c: Cluster) -> None:
    """A call under way fails with its worker, a later one is refused; who gives up is gone for the application."""
    client = c.http(worker=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await client.get("/patient")
    await c.advance(2)
    assert noticed == ["left"]
    call = asyncio.create_task(client.post("/double"))
    await c.settle()
    await c.kill(1)
    with pytest.raises(ConnectionResetError, match="worker 1 was killed or stopped"):
        await call
    with pytest.raises(ConnectionRefusedError, match="worker 1 is not running"):
        await client.get("/health/ready")
    with pytest.raises(ConnectionRefusedError):
        c.http(worker=1)
    assert isinstance(client, httpx2.AsyncClient)
