"""The opening handshake (RFC 6455 §4.2, RFC 7692 §7), on the sans-I/O API of websockets."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError
from websockets.extensions import Extension, ServerExtensionFactory
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import ExtensionName, ExtensionParameter
from websockets.utils import accept_key

from .protocol import deflate

__all__ = ["Answer", "answer", "http_response", "request_in", "request_of", "websocket_scope"]


# At DEBUG websockets logs request lines, and tokens travel in them.
_log = logging.getLogger("hub.handshake")
_log.setLevel(logging.INFO)


class _Deflate(Extension):
    """What was agreed on."""

    name = ExtensionName(deflate.NAME)

    def __init__(self, bits: int) -> None:
        self.bits = bits


class _DeflateOffers(ServerExtensionFactory):
    """Takes the first offer that can be met; a client lists them as it prefers them."""

    name = ExtensionName(deflate.NAME)

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], Extension]:
        agreed = None if accepted_extensions else deflate.agree(params)
        if agreed is None:
            raise NegotiationError("the offer is not valid, cannot be met, or another one was taken")
        parameters, bits = agreed
        return list(parameters), _Deflate(bits)


_OFFERS = (_DeflateOffers(),)

# Fields that are lists, which are parsed item by item; and their bytes in all. 60 KB would hold everybody up for 0.1 s.
_LISTS = ("Connection", "Upgrade", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol")
MAX_LISTS = 8192

# What browsers and libraries send.
_CONNECTION = (["Upgrade"], ["keep-alive, Upgrade"], ["upgrade"])
_KEY = re.compile("[A-Za-z0-9+/]{22}==")


class Answer(NamedTuple):
    """To a handshake."""

    # 101 with uvicorn's own headers, or a refusal with its reason.
    response: Response
    # Bits of the window with which messages may be compressed, 0 if they may not.
    compression: int = 0


def request_in(data: bytes) -> Request | None:
    """The request that `data` is; None if it is malformed."""
    protocol = ServerProtocol(logger=_log)
    protocol.receive_data(data)
    events = protocol.events_received()
    return events[0] if events and isinstance(events[0], Request) else None


def request_of(url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Request:
    """A GET that another parser has read."""
    # The parser leaves the white space behind a value, which is no part of it (RFC 9110 §5.5).
    fields = Headers()
    for name, value in headers:
        fields[name.decode("ascii")] = value.strip(b" \t").decode("latin-1")
    return Request(url.decode("ascii"), fields)


def answer(request: Request | None, config: Config, *, compression: bool = False) -> Answer:
    """Answer a request; compression may be agreed on or not."""
    if request is None:
        return Answer(Response(400, "Bad Request", Headers(), b"The WebSocket handshake is malformed.\n"))
    if (key := _key_of_usual(request, compression)) is not None:
        return Answer(_with_headers_of(config, _switch(key)))
    if sum(len(value) for name in _LISTS for value in request.headers.get_all(name)) > MAX_LISTS:
        return Answer(Response(400, "Bad Request", Headers(), b"The WebSocket handshake's lists are too long.\n"))
    protocol = ServerProtocol(logger=_log, extensions=_OFFERS if compression else None)
    response = _with_headers_of(config, protocol.accept(request))
    agreed = protocol.extensions
    return Answer(response, agreed[0].bits if agreed and isinstance(agreed[0], _Deflate) else 0)


def _key_of_usual(request: Request, compression: bool) -> str | None:
    """The key of a handshake that is right beyond doubt (RFC 6455 §4.2.1) and has nothing to negotiate.

    As nearly all are: with `ServerProtocol`, which judges the others, an answer takes twice as long.
    """
    values = request.headers.get_all
    keys = values("Sec-WebSocket-Key")
    usual = (
        # Before websockets 17 a request has neither: it is this or there is none.
        getattr(request, "method", "GET") == "GET"
        and getattr(request, "protocol", "HTTP/1.1") == "HTTP/1.1"
        and values("Upgrade") == ["websocket"]
        and values("Connection") in _CONNECTION
        and values("Sec-WebSocket-Version") == ["13"]
        and len(keys) == 1
        and len(values("Origin")) <= 1
        and not values("Sec-WebSocket-Protocol")
        and not (compression and values("Sec-WebSocket-Extensions"))
    )
    return keys[0] if usual and _KEY.fullmatch(keys[0]) else None


def _switch(key: str) -> Response:
    """RFC 6455 §4.2.2; without the Date that a 1xx may have (RFC 9110 §6.6.1)."""
    headers = Headers()
    headers["Upgrade"], headers["Connection"] = "websocket", "Upgrade"
    headers["Sec-WebSocket-Accept"] = accept_key(key)
    return Response(101, "Switching Protocols", headers)


def _with_headers_of(config: Config, response: Response) -> Response:
    for name, value in config.encoded_headers:
        response.headers[name.decode("latin-1")] = value.decode("latin-1")
    return response


def http_response(status: int, headers: Headers, body: bytes) -> bytes:
    """A whole HTTP response, after which the connection ends."""
    if "Content-Length" not in headers:
        headers["Content-Length"] = str(len(body))
    if "Content-Type" not in headers:
        headers["Content-Type"] = "text/plain; charset=utf-8"
    if "Connection" in headers:
        del headers["Connection"]
    headers["Connection"] = "close"
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return Response(status, phrase, headers, body).serialize()


def websocket_scope(request: Request, config: Config, transport: asyncio.Transport) -> dict[str, Any]:
    """The ASGI scope of a WebSocket connection, without `state` and `extensions`."""
    path, _, query = request.path.partition("?")
    protocols = request.headers.get_all("Sec-WebSocket-Protocol")
    return {
        "type": "websocket",
        "asgi": {"version": config.asgi_version, "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "wss" if is_ssl(transport) else "ws",
        "server": get_local_addr(transport),
        "client": get_remote_addr(transport),
        "root_path": config.root_path,
        "path": config.root_path + unquote(path),
        "raw_path": (config.root_path + path).encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), _raw(value)) for name, value in request.headers.raw_items()],
        "subprotocols": [name.strip() for line in protocols for name in line.split(",")],
    }


def _raw(value: str) -> bytes:
    """A header value as it came. websockets decodes as ISO-8859-1 from 17 on, before as ASCII with surrogates."""
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode("ascii", "surrogateescape")
