"""Server-sent events: `new EventSource("/sse/channel")`, for pages that only listen.

Query parameters, beside the headers that a browser cannot set: `token` (or `Authorization: Bearer`), `sub_token` for a
subscription token, `last_event_id` (or `Last-Event-ID`, which comes first) for what was missed since, `join_leave=1`.
What is refused gets an HTTP status and `{"error": {"code": ..., "message": ...}}`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from .clients import Context
from .errors import BrokerUnavailable, Disconnect, Disconnects, Ended, Error, Errors, Refused, table
from .protocol.commands import Subscribe
from .protocol.sse import read_event_id
from .sse_client import EventStream, may_return
from .wire_contract import HTTP_EXTENSION, HttpConnection

__all__ = ["SseEndpoint"]

log: logging.Logger = logging.getLogger("hub.sse")

# Proxies must neither keep the answer nor collect it; the second is nginx's name for that.
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
# In HTTP/1: what a client has sent behind the request for a stream would be answered after its end, and if those are
# streams too, they would hold up the end of a server one after the other.
LAST_HEADERS = [(b"connection", b"close")]
# For requests with a header of their own that come from another origin (Fetch standard, CORS preflight).
PREFLIGHT_HEADERS = [
    (b"access-control-allow-methods", b"GET"),
    (b"access-control-allow-headers", b"authorization, last-event-id"),
    (b"access-control-max-age", b"600"),
]
# Seconds after which what is not possible now may be.
RETRY_AFTER = b"2"


class Answer(NamedTuple):
    """A refusal."""

    status: int
    code: int
    message: str


_NO_TOKEN = "the hub wants a token: send `Authorization: Bearer <token>`, or `?token=` from an EventSource"
_REFUSED = {
    Errors.UNAUTHORIZED.code: (401, "the token is missing or not valid"),
    Errors.TOKEN_EXPIRED.code: (401, "the token has expired: come back with a new one"),
    Errors.EXPIRED.code: (401, "the connection has expired: come back with a new token"),
    Errors.UNKNOWN_CHANNEL.code: (404, "there is no such channel: its namespace is not configured"),
    Errors.PERMISSION_DENIED.code: (403, "you may not subscribe to this channel"),
    Errors.BAD_REQUEST.code: (400, ""),
    Errors.TOO_MANY_REQUESTS.code: (429, ""),
}
# What applications say is not in our words.
_OURS = [value for _, value in table(Errors)]
_ENDED = {
    Disconnects.INVALID_TOKEN.code: (401, "the token is not valid, or not for this user or channel"),
    Disconnects.BAD_REQUEST.code: (401, _NO_TOKEN),
    Disconnects.EXPIRED.code: (401, "the connection has expired: come back with a new token"),
    Disconnects.FORBIDDEN_ORIGIN.code: (403, "this origin may not connect: list it in HUB_ORIGINS"),
}


class SseEndpoint:
    """An ASGI application."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HTTPConnection(scope)
        if scope["method"] == "GET":
            await self._context.hub.start()
            await self._stream(request, receive, send)
        elif scope["method"] == "OPTIONS":
            headers = [*PREFLIGHT_HEADERS, (b"allow", b"GET"), *self._cors(request)]
            await _answer(send, 204, headers, b"")
        else:
            await self._refuse(
                request, send, Answer(405, Errors.BAD_REQUEST.code, "an event stream is asked for with GET")
            )

    async def _stream(self, request: HTTPConnection, receive: Receive, send: Send) -> None:
        extension = request.scope.get("extensions", {}).get(HTTP_EXTENSION)
        connection: HttpConnection | None = extension and extension["connection"]
        if (refusal := await self._refusal(request, connection)) is not None:
            await self._refuse(request, send, _of_disconnect(refusal))
            return
        stream = EventStream(self._context, send, connection)
        try:
            answer = await self._open(stream, request)
            if answer is None:
                last = LAST_HEADERS if request.scope.get("http_version", "").startswith("1") else []
                await stream.serve(receive, [*STREAM_HEADERS, *last, *self._cors(request)])
            else:
                await self._refuse(request, send, answer)
        finally:
            stream.released()

    async def _refusal(self, request: HTTPConnection, connection: HttpConnection | None) -> Disconnect | None:
        """Whether there is room, and the origin is right; who it is comes later."""
        if connection is not None and (refusal := connection.refusal()) is not None:
            return refusal
        return await self._context.admission.check(request, authenticate=False, paced=connection is not None)

    async def _open(self, stream: EventStream, request: HTTPConnection) -> Answer | None:
        """Why it cannot be; counted as the same refusal of a WebSocket."""
        context = self._context
        try:
            await stream.open(request, _token(request), _wish(request))
        except Refused as refused:
            context.refusals[refused.error.code] += 1
            stream.close(Disconnects.NORMAL)
            return _of_error(refused.error, str(refused))
        except Ended as ended:
            if ended.disconnect is not Disconnects.OVERLOADED:  # which was counted
                context.admission.refuse(ended.disconnect)
            stream.close(ended.disconnect)
            return _of_disconnect(ended.disconnect)
        except BrokerUnavailable as error:
            context.admission.refuse(Disconnects.UNAVAILABLE, str(error))
            stream.close(Disconnects.UNAVAILABLE)
            return Answer(503, Errors.INTERNAL.code, str(error))
        except Exception:
            log.exception("unexpected fault while %r was opened", stream, extra=stream.extra)
            stream.close(Disconnects.SERVER_ERROR)
            return Answer(500, Errors.INTERNAL.code, Errors.INTERNAL.message)
        return None

    async def _refuse(self, request: HTTPConnection, send: Send, answer: Answer) -> None:
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store"), *self._cors(request)]
        if answer.status in (429, 503):
            headers.append((b"retry-after", RETRY_AFTER))
        elif answer.status == 405:
            headers.append((b"allow", b"GET"))
        elif answer.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        body = msgspec.json.encode({"error": {"code": answer.code, "message": answer.message}})
        await _answer(send, answer.status, headers, b"" if request.scope["method"] == "HEAD" else body)

    def _cors(self, request: HTTPConnection) -> list[tuple[bytes, bytes]]:
        """What lets a page of another origin read: those of HUB_ORIGINS, with cookies if they are named."""
        origin, allowed = request.headers.get("origin"), self._context.settings.origins
        if origin is not None and origin in allowed:
            named = (b"access-control-allow-origin", origin.encode("latin-1"))
            return [named, (b"access-control-allow-credentials", b"true"), (b"vary", b"Origin")]
        return [(b"access-control-allow-origin", b"*")] if "*" in allowed else []


def _token(request: HTTPConnection) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.query_params.get("token", "")


def _wish(request: HTTPConnection) -> Subscribe:
    """The subscription that is asked for, in the words of the protocol."""
    query: Mapping[str, str] = request.query_params
    wish = Subscribe(request.path_params["channel"], query.get("sub_token", ""), recoverable=True)
    wish.join_leave = query.get("join_leave") == "1"
    if last := request.headers.get("last-event-id") or query.get("last_event_id"):
        wish.recover, (wish.offset, wish.epoch) = True, read_event_id(last)
    return wish


def _of_error(error: Error, detail: str) -> Answer:
    """An application's own error is told in its words; that of an HTTPException has its status."""
    otherwise = error.code if 400 <= error.code <= 599 else 503 if error.temporary else 403
    status, message = _REFUSED.get(error.code, (otherwise, ""))
    worded = detail != error.message or error not in _OURS
    return Answer(status, error.code, detail if worded else message or detail)


def _of_disconnect(disconnect: Disconnect) -> Answer:
    status, message = _ENDED.get(disconnect.code, (503 if may_return(disconnect) else 403, ""))
    return Answer(status, disconnect.code, message or disconnect.reason)


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = [] if status == 204 else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body})
