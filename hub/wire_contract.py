"""What an endpoint and a connection are to each other, on whatever server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .errors import Disconnect
from .protocol.backlog import Lossy

__all__ = ["EXTENSION", "HTTP_EXTENSION", "Handler", "HttpConnection", "Wire"]

# The key of the ASGI scope extension with which our own server offers a connection.
EXTENSION = "hub.wire"
# The same of an HTTP request: `{"connection": HttpConnection}`.
HTTP_EXTENSION = "hub.http"


class Handler(Protocol):
    """Who gets what arrives. Both methods are synchronous.

    An attribute `shutdown`, if it has one, is the `Disconnect` with which the server says that it ends.
    """

    def on_message(self, payload: bytes, text: bool, /) -> None:
        """One whole message; valid UTF-8 where `text` is true."""

    def on_close(self, code: int, reason: str, /) -> None:
        """The connection has ended, by either side; called once, and nothing is called after it."""


class Wire(Protocol):
    """One open WebSocket connection, on whatever server."""

    # Takes ready-made frames; never raises, never waits.
    write: Callable[[bytes], object]

    # See `hub.registry.Writer` for these two.
    @property
    def waits(self) -> bool: ...
    @property
    def descriptor(self) -> int: ...

    def offer(self, chunk: bytes, lossy: Lossy, /) -> None:
        """The same with frames that may be left out if the client reads too slowly."""

    # Bits of the window that the client has for compressed messages (`hub.protocol.deflate`), 0 if it takes none.
    compression: int

    async def serve(self, handler: Handler, /) -> None:
        """Give the connection to `handler`. On our own server returns at once, elsewhere when it has ended."""

    def close(self, disconnect: Disconnect, /) -> None:
        """Send a close frame; what is written afterwards is discarded."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class HttpConnection(Protocol):
    """The connection of a request whose answer does not end by itself, on our own server."""

    # Called when the server ends, which waits for the answer then. Belongs to the answer, which takes it away again.
    on_shutdown: Callable[[], object] | None
    # It was dropped because the client took nothing for `slow_timeout`.
    stalled: bool

    @property
    def draining(self) -> bool:
        """Whether the server ends already."""

    def refusal(self) -> Disconnect | None:
        """Why there cannot be one more that stays, or None; counted and logged."""

    def abort(self) -> None:
        """Drop it without waiting for anything."""
