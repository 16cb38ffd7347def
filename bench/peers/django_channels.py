"""The peer: Django Channels with channels_redis, the consumer of its tutorial in one file, on uvicorn.

https://channels.readthedocs.io/en/stable/tutorial/part_3.html. `CHANNEL_LAYER` says which of the two layers.
"""

from __future__ import annotations

import os
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY="of no use here",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    CHANNEL_LAYERS={
        "default": {"BACKEND": os.environ["CHANNEL_LAYER"], "CONFIG": {"hosts": [os.environ["REDIS_URL"]]}}
    },
    # Without it Django mails errors to nobody.
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "root": {"handlers": ["console"], "level": "WARNING"},
    },
)
django.setup()


class ChatConsumer(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def disconnect(self, close_code: int) -> None:
        await self.channel_layer.group_discard("room", self.channel_name)

    async def receive(self, text_data: str) -> None:
        await self.channel_layer.group_send("room", {"type": "chat.message", "message": text_data})

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["message"])


async def publish(request: HttpRequest) -> HttpResponse:
    layer = get_channel_layer()
    await layer.group_send("room", {"type": "chat.message", "message": request.body.decode()})
    return HttpResponse(status=204)


urlpatterns = [path("publish", publish)]
app = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": URLRouter([path("ws", ChatConsumer.as_asgi())])})
