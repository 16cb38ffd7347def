"""Rooms by path, with a token by query: `/chat/kitchen?token=abc`.

A manager with a `channel` is one room: those who are in it hear each other on every worker, and nobody else does.
Without a good token the handshake is refused with HTTP 403.

    REDIS_URL=redis://localhost uvicorn examples.tutorial.rooms:app --workers 4

Then, in two terminals: `python -m websockets "ws://localhost:8000/chat/kitchen?token=abc"` (and `token=xyz`)
"""

from typing import Annotated

from fastapi import Depends, FastAPI, Path, Query, WebSocket, WebSocketDisconnect, WebSocketException, status

from hub.compat import ConnectionManager

app = FastAPI()
names = {"abc": "Ann", "xyz": "Bob"}


async def name_of(token: Annotated[str, Query()] = ""):
    if token not in names:
        raise WebSocketException(status.WS_1008_POLICY_VIOLATION, "token missing or not valid")
    return names[token]


@app.websocket("/chat/{room_id}")
async def chat(
    websocket: WebSocket,
    room_id: Annotated[str, Path(pattern=r"^[\w-]{1,50}$")],
    name: Annotated[str, Depends(name_of)],
):
    room = ConnectionManager(channel=f"chat:{room_id}")
    await room.connect(websocket)
    try:
        await room.broadcast(f"{name} joined {room_id}")
        while True:
            text = await websocket.receive_text()
            await room.broadcast(f"{name}: {text}")
    except WebSocketDisconnect:
        room.disconnect(websocket)
        await room.broadcast(f"{name} left {room_id}")
