"""The channel endpoint: the Centrifuge client protocol over WebSocket, `/connection/websocket`.

JSON only so far. Who the client is it says in its first command, so nothing but origin and capacity is checked before.
"""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from .admission import CHANNELS
from .client import Client, Context
from .ws import is_ours, refuse, wire_of

__all__ = ["ChannelEndpoint"]

# Offered by some clients of the JSON encoding; those that offer another one get none, and JSON.
JSON_SUBPROTOCOL = "centrifuge-json"


class ChannelEndpoint:
    """An ASGI application."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._options = context.settings.wire()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = self._context
        await context.hub.start()
        await receive()  # websocket.connect
        connection = HTTPConnection(scope)
        refusal = await context.admission.check(connection, authenticate=False, paced=is_ours(scope))
        if refusal is not None:
            await refuse(scope, send, refusal)
            return
        wire = wire_of(scope, receive, send, self._options)
        client = Client(context, wire, connection)
        context.admission.enter(CHANNELS)
        chosen = JSON_SUBPROTOCOL if JSON_SUBPROTOCOL in scope.get("subprotocols", ()) else None
        try:
            await send({"type": "websocket.accept", "subprotocol": chosen})
        except BaseException:  # the client has gone meanwhile
            client.on_close(1006, "")
            raise
        await wire.serve(client)
