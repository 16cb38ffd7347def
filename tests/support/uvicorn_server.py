"""A uvicorn in this process, with the hub's WebSocket class or another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from hub.http import HubHttpProtocol
from hub.wire import HubProtocol


@contextlib.asynccontextmanager
async def serving(app: Any, *, ws: Any = HubProtocol, **options: Any) -> AsyncIterator[tuple[int, uvicorn.Server]]:
    """(port, server) of an application on loopback, in the running loop; stopped on leaving."""
    settings = {"http": HubHttpProtocol, "lifespan": "auto", "log_config": None, "access_log": False, **options}
    config = uvicorn.Config(app, host="127.0.0.1", port=0, ws=ws, timeout_graceful_shutdown=5, **settings)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    if task.done():
        await task
    try:
        yield server.servers[0].sockets[0].getsockname()[1], server
    finally:
        server.should_exit = True
        await task
