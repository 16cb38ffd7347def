"""A connection of an endpoint of the application's own, in a typed channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..errors import Error, Errors
from ..raw_sessions import RawSession
from ..shared_connection import SharedConnection
from ..types import PublishResult
from ..ws import control_frame
from .model import Model, complaint

if TYPE_CHECKING:
    from .channel import ChannelHandle
    from .hub import TypedHub

__all__ = ["Joined", "joined"]

M = TypeVar("M")


class Joined(SharedConnection, Generic[M]):
    """The connection while it is in the channel; made by `chat(room=...).join(websocket)`.

    The endpoint reads, the hub writes: what is published goes to the client by itself. Its `id` is what `exclude` of a
    publication names.
    """

    def __init__(
        self, hub: TypedHub, handle: ChannelHandle[M], model: Model[M], websocket: WebSocket, user: str
    ) -> None:
        super().__init__(hub, hub.settings, websocket)
        self._handle = handle
        self._model = model
        self.websocket: WebSocket = websocket
        self.id: bytes = hub.next_id()
        self.session: RawSession | None = hub.raw_sessions.begin(user, self.id, handle.name)

    def __repr__(self) -> str:
        return f"<Joined {self.id.decode()} in {self._handle.name!r}>"

    # For the endpoint

    async def iter_text(self) -> AsyncIterator[str]:
        """What the client says, until it goes. One that sends binary is told that this is wrong."""
        while (event := await self.websocket.receive())["type"] != "websocket.disconnect":
            text = event.get("text")
            if text is None:
                self._tell(replace(Errors.BAD_REQUEST, message="data must be text"))
            else:
                yield text

    async def __aiter__(self) -> AsyncIterator[M]:
        """The same as messages of the model. The client is told what is wrong with others, as in raw rooms."""
        async for text in self.iter_text():
            try:
                message = self._model.read(text.encode())
            except ValidationError as error:
                self._tell(replace(Errors.BAD_REQUEST, message=complaint(error)))
            else:
                yield message

    async def publish(
        self,
        message: M,
        *,
        exclude_self: bool = False,
        tags: Mapping[str, str] | None = None,
        idempotency_key: str = "",
    ) -> PublishResult:
        """`ChannelHandle.publish`; with `exclude_self` this connection does not get it."""
        exclude = self.id if exclude_self else b""
        return await self._handle.publish(message, exclude=exclude, tags=tags, idempotency_key=idempotency_key)

    def _tell(self, error: Error) -> None:
        told = {"code": error.code, "message": error.message, "temporary": error.temporary}
        self.wire.write(control_frame("error", told))


@asynccontextmanager
async def joined(
    hub: TypedHub, handle: ChannelHandle[M], model: Model[M], websocket: WebSocket, user: str
) -> AsyncIterator[Joined[M]]:
    """See `ChannelHandle.join`."""
    await hub.start()
    member = Joined(hub, handle, model, websocket, user)
    await member.enter(handle.name, websocket)
    try:
        yield member
    except WebSocketDisconnect:
        pass  # it has gone in the middle of the block
    finally:
        member.leave()
