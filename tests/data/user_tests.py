"""A user's tests that say every name of `hub.testing`, for type checkers; `tests/test_typing.py` also runs them."""

from __future__ import annotations

from fastapi import FastAPI

from hub import Hub
from hub.testing import (
    Close,
    Closed,
    Cluster,
    FakeRedisServer,
    NothingReceived,
    ProtocolClient,
    Push,
    Refused,
    ReplyError,
    Socket,
)

hub = Hub()
app = FastAPI()
app.include_router(hub.router)


@app.post("/say/{room}")
async def say(room: str, text: str) -> int:
    return (await hub.publish(room, text)).offset


async def test_everybody_hears() -> None:
    async with Cluster(app, workers=2) as cluster:
        socket: Socket = await cluster.connect("/ws/chat:kitchen", worker=1)
        client: ProtocolClient = await cluster.client(worker=0)
        await client.subscribe("chat:kitchen")
        async with cluster.http(worker=0) as http:
            answer = await http.post("/say/chat:kitchen", params={"text": "hello"})
        assert answer.json() == 1
        assert await socket.receive_text() == "hello"
        push: Push = await client.next_publication("chat:kitchen")
        assert push.data == "hello"


async def test_what_goes_wrong() -> None:
    async with Cluster(app, workers=2) as cluster:
        redis: FakeRedisServer = cluster.redis
        socket = await cluster.connect("/ws/kitchen", worker=0)
        assert await reason(socket) == "NothingReceived"
        await redis.drop(seconds=5)
        await cluster.advance(10)
        await cluster.kill(0)
        close: Close = await socket.wait_closed()
        assert close.code == 1006
        assert await reason(socket) == "Closed"
        assert await refusal(cluster, "/nowhere") == 403
        assert await code(await cluster.client(worker=1), "unknown:x") == 102


async def refusal(cluster: Cluster, path: str) -> int:
    try:
        await cluster.connect(path, worker=1)
    except Refused as error:
        return error.status
    return 101


async def code(client: ProtocolClient, channel: str) -> int:
    try:
        await client.subscribe(channel)
    except ReplyError as error:
        return error.code
    return 0


async def reason(socket: Socket) -> str:
    try:
        return await socket.receive_text(timeout=1)
    except (Closed, NothingReceived) as error:
        return type(error).__name__
