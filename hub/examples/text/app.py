"""A text that several people write at once: the hub keeps one order of all edits, the pages merge them.

Run it with `uvicorn hub.examples.text.app:app --workers 4`.
"""

from __future__ import annotations

from fastapi import FastAPI

from hub import ChannelOptions, Hub, Settings
from hub.examples.pages import Pages

# Edits since before the latest copy of the whole text, which the pages publish now and then.
text = ChannelOptions(
    presence=True,
    join_leave=True,
    force_push_join_leave=True,
    history_size=300,
    history_ttl=3600,
    history_meta_ttl=3600,
    force_recovery=True,
    publication_data_format="json_object",
    channel_regex="^[a-z0-9]{1,20}$",
    allow_subscribe_for_client=True,
    allow_subscribe_for_anonymous=True,
    allow_publish_for_subscriber=True,
    allow_publish_for_anonymous=True,
    allow_presence_for_subscriber=True,
    allow_presence_for_anonymous=True,
    allow_history_for_subscriber=True,
    allow_history_for_anonymous=True,
)
hub = Hub(Settings.load(namespaces={"text": text}))
app = FastAPI()
app.include_router(hub.router, prefix="/rt")
app.mount("/", Pages(__file__))
