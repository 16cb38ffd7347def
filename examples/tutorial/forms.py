"""Echo in the three forms of a message: text, JSON and bytes.

FastAPI has a method to receive each form. To send, the hub has one rule for all: `bytes` arrive as a binary message, a
`str` as the text that it is, and everything else as JSON.

    uvicorn examples.tutorial.forms:app --workers 4

Then talk to it: `python -m websockets ws://localhost:8000/json`
"""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from hub.compat import ConnectionManager

app = FastAPI()
manager = ConnectionManager()


@app.websocket("/text")
async def echo_text(websocket: WebSocket):
    await echo(websocket, websocket.receive_text)


@app.websocket("/json")
async def echo_json(websocket: WebSocket):
    await echo(websocket, websocket.receive_json)


@app.websocket("/bytes")
async def echo_bytes(websocket: WebSocket):
    await echo(websocket, websocket.receive_bytes)


async def echo(websocket: WebSocket, receive):
    await manager.connect(websocket)
    try:
        while True:
            await manager.send_personal_message(await receive(), websocket)
    except WebSocketDisconnect:
        manager.disconnect(websocket)
