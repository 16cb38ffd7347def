"""The peer: python-socketio with its Redis manager, which is how it reaches the clients of other processes.

https://python-socketio.readthedocs.io/en/stable/server.html#using-a-message-queue, as an ASGI application on uvicorn.
"""

from __future__ import annotations

import os
from typing import Any

import socketio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

manager = socketio.AsyncRedisManager(os.environ["REDIS_URL"])
sio = socketio.AsyncServer(async_mode="asgi", client_manager=manager)


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
    await sio.enter_room(sid, "room")


@sio.event
async def message(sid: str, data: str) -> None:
    await sio.emit("message", data, room="room")


async def publish(request: Request) -> Response:
    await sio.emit("message", (await request.body()).decode(), room="room")
    return Response(status_code=204)


app = socketio.ASGIApp(sio, Starlette(routes=[Route("/publish", publish, methods=["POST"])]))
