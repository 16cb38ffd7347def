"""The peer: broadcaster with its Redis backend, the chat room of its README on uvicorn.

https://github.com/encode/broadcaster
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from broadcaster import Broadcast
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

broadcast = Broadcast(os.environ["REDIS_URL"])


async def chatroom_ws(websocket: WebSocket) -> None:
    await websocket.accept()
    async with anyio.create_task_group() as task_group:

        async def receive() -> None:
            await chatroom_ws_receiver(websocket)
            task_group.cancel_scope.cancel()

        task_group.start_soon(receive)
        await chatroom_ws_sender(websocket)


async def chatroom_ws_receiver(websocket: WebSocket) -> None:
    async for message in websocket.iter_text():
        await broadcast.publish(channel="chatroom", message=message)


async def chatroom_ws_sender(websocket: WebSocket) -> None:
    async with broadcast.subscribe(channel="chatroom") as subscriber:
        async for event in subscriber:
            await websocket.send_text(event.message)


async def publish(request: Request) -> Response:
    await broadcast.publish(channel="chatroom", message=(await request.body()).decode())
    return Response(status_code=204)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with broadcast:
        yield


app = Starlette(
    routes=[Route("/publish", publish, methods=["POST"]), WebSocketRoute("/ws", chatroom_ws)], lifespan=lifespan
)
