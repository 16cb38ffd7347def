"""Echo: each message comes back to its sender as `you said: …`.

    uvicorn examples.tutorial.echo:app --workers 4

Then talk to it: `python -m websockets ws://localhost:8000/echo`
"""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from hub.compat import ConnectionManager

app = FastAPI()
manager = ConnectionManager()


@app.websocket("/echo")
async def echo(websocket: WebSocket):
    await manager.connect(websocket)
    try:
        while True:
            text = await websocket.receive_text()
            await manager.send_personal_message(f"you said: {text}", websocket)
    except WebSocketDisconnect:
        manager.disconnect(websocket)
