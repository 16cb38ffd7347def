"""What somebody with the console may do, and what he does with it.

His WebSocket speaks the protocol of all clients, under an authority of its own: a ticket opens it, and then every
channel may be heard and asked about. What changes something is an RPC, and a line in the log.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import HTTPConnection

from .api_methods import refusal
from .authority import Asker, Authority, Grant, Principal
from .config import Settings
from .console_figures import FIGURES, Figures
from .control import HubNode
from .errors import Error, Errors, InvalidChannel, Refused
from .namespaces import ChannelOptions
from .types import channel_name

__all__ = ["Actions", "ConsoleAuthority"]

log: logging.Logger = logging.getLogger("hub.console")

# Seconds after which the page has to prove again that it may be here.
PROOF_LASTS = 300.0
# Channels in the answer to a search.
MOST_FOUND = 200

NO_WORKER = Error(code=404, message="there is no such worker any more")

T = TypeVar("T", bound=Struct)


class ConsoleAuthority(Authority):
    """May everything but publish, which is an action; who connects has a ticket."""

    def __init__(self, settings: Settings, hub: HubNode, figures: Figures, knows: Callable[[str], bool]) -> None:
        """`knows` tells whether a ticket is good."""
        super().__init__(settings, hub.namespaces)
        self.insecure = True
        self.hooks.rpc = Actions(hub).table
        self._figures = figures
        self._knows = knows

    async def connect(self, connection: HTTPConnection, token: str) -> Principal:
        """A ticket that is not known is to be fetched again: it may have been for another worker, or too slow."""
        if not self._knows(token):
            raise Refused(Errors.TOKEN_EXPIRED)
        return Principal(user="console", expire_at=time.time() + PROOF_LASTS)

    async def refresh(self, connection: HTTPConnection | None, token: str, user: str) -> Principal:
        if not self._knows(token):
            raise Refused(Errors.INTERNAL, "the ticket is not known here yet")
        return Principal(user=user, expire_at=time.time() + PROOF_LASTS)

    async def subscribe(self, asker: Asker, channel: str, token: str) -> Grant:
        """Who listens here is in no presence, and nobody is told that he came."""
        if channel == FIGURES:
            self._figures.watch()
            return Grant(options=ChannelOptions())
        try:
            options = self.namespaces.of_room(channel_name(channel))
        except InvalidChannel as error:
            raise Refused(Errors.BAD_REQUEST, str(error)) from None
        unseen = {"presence": False, "join_leave": False, "force_push_join_leave": False}
        return Grant(options=options.model_copy(update=unseen))

    def asks(self, options: ChannelOptions) -> bool:
        """Nor may who an application's function of a typed channel would let."""
        return False

    def may_publish(self, asker: Asker, channel: str, options: ChannelOptions) -> None:
        raise Refused(Errors.PERMISSION_DENIED)


class _Publish(Struct):
    channel: str
    # JSON, or any text.
    data: str
    json: bool


class _Disconnect(Struct):
    user: str
    client: str = ""


class _Replace(Struct):
    node: str


class _Channels(Struct):
    # A glob.
    pattern: str = ""


class Actions:
    """The RPCs of the console by name; each answers with what JSON can say."""

    def __init__(self, hub: HubNode) -> None:
        self._hub = hub
        self.table: dict[str, Callable[[Asker, Any], Awaitable[Any]]] = {
            "publish": _action(_Publish, self._publish),
            "disconnect": _action(_Disconnect, self._disconnect),
            "replace": _action(_Replace, self._replace),
            "channels": _action(_Channels, self._channels),
        }

    async def _publish(self, asker: Asker, body: _Publish) -> dict[str, Any]:
        data = msgspec.Raw(body.data.encode()) if body.json else body.data
        if body.json:
            msgspec.json.decode(body.data)  # raises what is no JSON
        result = await self._hub.publish(body.channel, data)
        _tell(asker, "a message was published in %r", body.channel)
        return {"offset": result.offset} if result.epoch else {}

    async def _disconnect(self, asker: Asker, body: _Disconnect) -> dict[str, Any]:
        if not (body.user or body.client):
            raise Refused(Errors.BAD_REQUEST, "name a user, or the connection of one who has no name")
        await self._hub.disconnect_user(body.user, client=body.client)
        _tell(asker, "the connections of the user %r were ended%s", body.user, f" ({body.client})" * bool(body.client))
        return {}

    async def _replace(self, asker: Asker, body: _Replace) -> dict[str, Any]:
        if not await self._hub.retire(body.node):
            raise Refused(NO_WORKER)
        _tell(asker, "the worker %s is to be replaced", body.node)
        return {}

    async def _channels(self, asker: Asker, body: _Channels) -> dict[str, Any]:
        found = await self._hub.channels(body.pattern)
        most = heapq.nlargest(MOST_FOUND, found.items(), key=lambda item: (item[1], item[0]))
        return {"count": len(found), "channels": most}


def _tell(asker: Asker, text: str, *arguments: object) -> None:
    log.warning(text, *arguments, extra=getattr(asker, "extra", None))


def _action(kind: type[T], run: Callable[[Asker, T], Awaitable[Any]]) -> Callable[[Asker, Any], Awaitable[Any]]:
    """With checked arguments, and with faults that are sentences for who sits before the console."""

    async def answer(asker: Asker, data: Any) -> Any:
        try:
            return await run(asker, msgspec.convert(data, kind))
        except msgspec.MsgspecError as fault:
            raise Refused(Error(code=Errors.BAD_REQUEST.code, message=f"bad request: {fault}")) from None
        except Exception as fault:
            raise Refused(refusal(fault).error) from None

    return answer
