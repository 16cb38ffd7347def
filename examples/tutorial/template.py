"""A page from a Jinja2 template with its script in `static/ws.js`, and a handler that publishes.

`templates/room.html` gets the room's name; `static/ws.js` connects to it.

    REDIS_URL=redis://localhost uvicorn examples.tutorial.template:app --workers 4

Then open http://localhost:8000/rooms/kitchen in two windows.
"""

from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, Request
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from hub import Hub

here = Path(__file__).parent
templates = Jinja2Templates(here / "templates")

hub = Hub()
app = FastAPI()
app.include_router(hub.router, prefix="/rt")
app.mount("/static", StaticFiles(directory=here / "static"), name="static")


@app.get("/rooms/{room}")
async def page(request: Request, room: str):
    return templates.TemplateResponse(request, "room.html", {"room": room})


@app.post("/rooms/{room}/announcements", status_code=202)
async def announce(room: str, text: Annotated[str, Body(embed=True)]):
    await hub.publish(room, f"📢 {text}")
