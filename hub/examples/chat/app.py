"""A chat: who is here, what was said before, and nothing lost on the way.

Run it with `uvicorn hub.examples.chat.app:app --workers 4`.
"""

from __future__ import annotations

from fastapi import FastAPI

from hub import Hub
from hub.examples.pages import Pages

hub = Hub()  # channels `chat:…` keep a history and know who is present, without any configuration
app = FastAPI()
app.include_router(hub.router, prefix="/rt")
app.mount("/", Pages(__file__))
