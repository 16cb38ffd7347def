"""A whiteboard: strokes are kept for newcomers, the moving pens are not.

Run it with `uvicorn hub.examples.whiteboard.app:app --workers 4`.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from hub import ChannelOptions, Hub, Settings
from hub.examples.pages import Pages

everybody: dict[str, Any] = {
    "allow_subscribe_for_client": True,
    "allow_subscribe_for_anonymous": True,
    "allow_publish_for_subscriber": True,
    "allow_publish_for_anonymous": True,
}
# `board:` has the last 300 strokes, for an hour after the last one.
board = ChannelOptions(
    history_size=300,
    history_ttl=3600,
    history_meta_ttl=3600,
    force_recovery=True,
    allow_history_for_subscriber=True,
    allow_history_for_anonymous=True,
    publication_data_format="json_object",
    channel_regex="^[a-z0-9]{1,20}$",
    **everybody,
)
# `pen:` has what is being drawn at this moment: many small messages, which nobody misses later.
pen = ChannelOptions(publication_data_format="json_object", channel_regex="^[a-z0-9]{1,20}$", **everybody)

hub = Hub(Settings.load(namespaces={"board": board, "pen": pen}))
app = FastAPI()
app.include_router(hub.router, prefix="/rt")
app.mount("/", Pages(__file__))
