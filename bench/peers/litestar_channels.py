"""The peer: Litestar Channels with the route handlers that it makes itself, on uvicorn.

https://docs.litestar.dev/2/usage/channels.html. `CHANNELS_BACKEND` says which of the two Redis backends.
"""

from __future__ import annotations

import os

from litestar import Litestar, Request, WebSocket, post, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.redis import RedisChannelsPubSubBackend, RedisChannelsStreamBackend
from litestar.exceptions import WebSocketDisconnect
from redis.asyncio import Redis

redis = Redis.from_url(os.environ["REDIS_URL"])
backend = (
    RedisChannelsPubSubBackend(redis=redis)
    if os.environ["CHANNELS_BACKEND"] == "pubsub"
    else RedisChannelsStreamBackend(redis=redis, history=100)
)


@post("/publish", status_code=204)
async def publish(request: Request, channels: ChannelsPlugin) -> None:
    # `channels.publish` would only queue the message: nobody could be told that it has failed.
    await channels.wait_published((await request.body()).decode(), "room")


@websocket("/publishing")
async def publishing(socket: WebSocket, channels: ChannelsPlugin) -> None:
    """As the plugin's own handlers, but what is received is published."""
    await socket.accept()
    async with channels.start_subscription("room") as subscriber, subscriber.run_in_background(socket.send_text):
        try:
            while True:
                channels.publish(await socket.receive_text(), "room")
        except WebSocketDisconnect:
            pass


app = Litestar(
    route_handlers=[publish, publishing],
    plugins=[ChannelsPlugin(backend=backend, channels=["room"], create_ws_route_handlers=True)],
)
