"""The methods of the server API, from a checked request to its result.

They raise what the hub raises; `refusal` says it in the API's terms.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar, get_type_hints

import msgspec
from msgspec import Raw
from pydantic import BaseModel, ValidationError

from . import api_models as api
from .control import HubNode
from .errors import BrokerUnavailable, Disconnect, Disconnects, Error, Errors, InvalidChannel, MessageTooBig, Refused
from .protocol.forms import as_json
from .protocol.surrogates import replace_lone
from .tokens import Override
from .types import ClientInfo, Publication, StreamPosition

__all__ = ["METHODS", "ApiMethods", "Method", "Refusal", "bad_fields", "refusal"]

log: logging.Logger = logging.getLogger("hub.api")

# Calls of one batch or broadcast that run at once; what they send to Redis in one turn leaves in one write.
SIDE_BY_SIDE = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Method:
    """One method: `run` takes a `request` and returns a `result`."""

    run: Callable[[Any], Awaitable[BaseModel]]
    request: type[BaseModel]
    result: type[BaseModel]


class Refusal(NamedTuple):
    """What a caller is told; `status` is for those who want it as the HTTP status."""

    error: Error
    status: int

    def fields(self) -> dict[str, Any]:
        return {"code": self.error.code, "message": self.error.message}


# Of the codes that are not the hub's own fault.
_STATUS = {102: 404, 104: 404, 107: 400, 108: 400, 112: 416, 113: 409}


def refusal(fault: Exception) -> Refusal:
    """Why a call failed. What nobody thought of is logged, and the caller learns no more than that."""
    match fault:
        case Refused():
            return _refusal(fault.error, str(fault))
        case BrokerUnavailable():
            return Refusal(replace(Errors.INTERNAL, message=str(fault)), 503)
        case InvalidChannel() | MessageTooBig():
            return _refusal(Errors.BAD_REQUEST, str(fault))
        case ValidationError():
            return bad_fields(fault.errors(include_url=False, include_context=False, include_input=False))
    log.error("unexpected fault in a call of the API", exc_info=fault)
    return Refusal(Errors.INTERNAL, 500)


def bad_fields(faults: Sequence[Any]) -> Refusal:
    """Error 107 with the name of each field that is missing or of a wrong kind."""
    return _refusal(Errors.BAD_REQUEST, "; ".join(_sentence(fault) for fault in faults))


def _refusal(error: Error, detail: str) -> Refusal:
    message = error.message if detail in ("", error.message) else f"{error.message}: {detail}"
    return Refusal(replace(error, message=message), _STATUS.get(error.code, 500))


def _sentence(fault: Any) -> str:
    # FastAPI says "body" where the path begins.
    name = ".".join(str(part) for part in fault["loc"] if part != "body")
    text = str(fault["msg"]).removeprefix("Value error, ")
    return f"{name}: {text}" if name else text


class ApiMethods:
    """The methods on one hub; `table` has them by name."""

    def __init__(self, hub: HubNode) -> None:
        self._hub = hub
        self.table: dict[str, Method] = {name: _method(getattr(self, name)) for name in METHODS}

    # Publishing

    async def publish(self, body: api.PublishRequest) -> api.PublishResult:
        """Publish to every client of a channel, on every worker."""
        return await self._publish(body.channel, body)

    async def broadcast(self, body: api.BroadcastRequest) -> api.BroadcastResult:
        """Publish the same to many channels; each has its own answer."""

        async def answer(channel: str) -> api.Answer[api.PublishResult]:
            try:
                return api.Answer(result=await self._publish(channel, body))
            except Exception as fault:
                return api.Answer(error=api.ApiError(**refusal(fault).fields()))

        return api.BroadcastResult(responses=await _side_by_side(answer(channel) for channel in body.channels))

    async def _publish(self, channel: str, body: api.PublishRequest | api.BroadcastRequest) -> api.PublishResult:
        result = await self._hub.publish(
            channel,
            base64.b64decode(body.b64data) if body.b64data else body.data,
            idempotency_key=body.idempotency_key,
            version=body.version,
            version_epoch=body.version_epoch,
            tags=body.tags,
            skip_history=body.skip_history,
            delta=body.delta,
            known=True,
        )
        return api.PublishResult(offset=result.offset, epoch=result.epoch) if result.epoch else api.PublishResult()

    # Users

    async def subscribe(self, body: api.SubscribeRequest) -> api.Empty:
        """Subscribe a user's connections to a channel, on every worker."""
        await self._hub.subscribe_user(
            body.user,
            body.channel,
            client=body.client,
            session=body.session,
            info=_json(body.info, body.b64info),
            data=_json(body.data, body.b64data),
            recover_since=_position(body.recover_since),
            expire_at=body.expire_at,
            override=_override(body.override) if body.override else None,
        )
        return api.Empty()

    async def unsubscribe(self, body: api.UnsubscribeRequest) -> api.Empty:
        """Unsubscribe a user's connections from a channel, or from all."""
        await self._hub.unsubscribe_user(body.user, body.channel, client=body.client, session=body.session)
        return api.Empty()

    async def disconnect(self, body: api.DisconnectRequest) -> api.Empty:
        """Close a user's connections."""
        await self._hub.disconnect_user(
            body.user,
            client=body.client,
            session=body.session,
            whitelist=tuple(body.whitelist),
            disconnect=_disconnect(body.disconnect),
        )
        return api.Empty()

    async def refresh(self, body: api.RefreshRequest) -> api.Empty:
        """Let a user's connections live on until another time, or end them as expired."""
        await self._hub.refresh_user(
            body.user,
            client=body.client,
            session=body.session,
            expired=body.expired,
            expire_at=body.expire_at,
            info=_json(body.info),
        )
        return api.Empty()

    # Channels

    async def presence(self, body: api.PresenceRequest) -> api.PresenceResult:
        """Who is in a channel."""
        present = await self._hub.presence(body.channel)
        return api.PresenceResult(presence={client: _client_info(info) for client, info in present.items()})

    async def presence_stats(self, body: api.PresenceStatsRequest) -> api.PresenceStatsResult:
        """How many connections and how many different users are in a channel."""
        clients, users = await self._hub.presence_stats(body.channel)
        return api.PresenceStatsResult(num_clients=clients, num_users=users)

    async def history(self, body: api.HistoryRequest) -> api.HistoryResult:
        """What was published in a channel, and the position of its end."""
        history = await self._hub.history(
            body.channel, limit=body.limit, since=_position(body.since), reverse=body.reverse
        )
        publications = [_publication(publication) for publication in history.publications]
        offset, epoch = history.position
        return api.HistoryResult(publications=publications, offset=offset, epoch=epoch)

    async def history_remove(self, body: api.HistoryRemoveRequest) -> api.Empty:
        """Forget what was published in a channel; its offsets go on."""
        await self._hub.remove_history(body.channel)
        return api.Empty()

    async def channels(self, body: api.ChannelsRequest) -> api.ChannelsResult:
        """The channels that have subscribers, of all workers together."""
        found = await self._hub.channels(body.pattern)
        return api.ChannelsResult(channels={name: api.ChannelInfo(num_clients=found[name]) for name in sorted(found)})

    async def info(self, body: api.InfoRequest) -> api.InfoResult:
        """What every worker has to do."""
        names = api.NodeInfo.model_fields
        nodes = [api.NodeInfo(**{name: getattr(node, name) for name in names}) for node in await self._hub.info()]
        return api.InfoResult(nodes=nodes)

    # Several at once

    async def batch(self, body: api.BatchRequest) -> api.BatchReplies:
        """Many calls in one request; one that fails does not stop the others."""
        if body.parallel:
            return api.BatchReplies(replies=await _side_by_side(self._reply(command) for command in body.commands))
        return api.BatchReplies(replies=[await self._reply(command) for command in body.commands])

    async def _reply(self, command: dict[str, Any]) -> dict[str, Any]:
        try:
            name, fields = _single(command)
            method = self.table[name]
            return {name: await method.run(method.request.model_validate(fields))}
        except Exception as fault:
            return {"error": refusal(fault).fields()}


# In the order of the class.
METHODS = tuple(name for name in vars(ApiMethods) if not name.startswith("_"))


def _method(run: Callable[[Any], Awaitable[BaseModel]]) -> Method:
    hints = get_type_hints(run)
    return Method(run, hints["body"], hints["return"])


def _single(command: dict[str, Any]) -> tuple[str, Any]:
    """The one method that a command names."""
    if len(command) != 1:
        raise Refused(Errors.BAD_REQUEST, "a command of a batch has one method")
    ((name, fields),) = command.items()
    if name not in METHODS or name == "batch":
        raise Refused(Errors.METHOD_NOT_FOUND)
    return name, fields


async def _side_by_side(calls: Iterable[Awaitable[T]]) -> list[T]:
    """The results of calls that do not raise, in their order."""
    results: list[T] = []
    waiting = list(calls)
    for start in range(0, len(waiting), SIDE_BY_SIDE):
        results += await asyncio.gather(*waiting[start : start + SIDE_BY_SIDE])
    return results


# From JSON and to it


def _json(raw: Raw | None, encoded: str = "") -> bytes:
    """JSON of a field, or of its form in base64; null is as good as none."""
    data = base64.b64decode(encoded) if encoded else bytes(raw or b"")
    if encoded:
        try:
            data.decode()
            data = msgspec.json.format(bytes(msgspec.json.decode(replace_lone(data), type=Raw)), indent=-1)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Refused(Errors.BAD_REQUEST, "b64info and b64data of a subscription are JSON in base64") from None
    return b"" if data == b"null" else data


def _position(position: api.Position | None) -> StreamPosition | None:
    return StreamPosition(position.offset, position.epoch) if position else None


def _override(override: api.SubscribeOverride) -> Override:
    return Override(**{name: option.value for name, option in override if option is not None})


def _disconnect(close: api.CloseCode | None) -> Disconnect:
    """A close always has a reason: without one, the JavaScript client takes no code for final."""
    if close is None:
        return Disconnects.FORCE_DISCONNECT
    final = 3500 <= close.code < 4000 or close.code >= 4500
    return Disconnect(code=close.code, reason=close.reason or "disconnect", reconnect=not final)


def _client_info(info: ClientInfo) -> api.ClientInfo:
    return api.ClientInfo(
        user=info.user, client=info.client, conn_info=_raw(info.conn_info), chan_info=_raw(info.chan_info)
    )


def _raw(json: bytes | Raw) -> Raw | None:
    return Raw(bytes(json)) if json else None


class _Publisher(msgspec.Struct):
    """The ClientInfo of a publication."""

    user: str = ""
    client: str = ""
    conn_info: Raw = Raw()
    chan_info: Raw = Raw()


def _publication(publication: Publication) -> api.HistoryPublication:
    info = None
    if publication.info:
        who = msgspec.json.decode(publication.info, type=_Publisher)
        info = api.ClientInfo(
            user=who.user, client=who.client, conn_info=_raw(who.conn_info), chan_info=_raw(who.chan_info)
        )
    tags = dict(publication.tags) if publication.tags else None
    return api.HistoryPublication(data=Raw(as_json(publication)), info=info, offset=publication.offset, tags=tags)
