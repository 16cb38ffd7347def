"""The opening handshake (RFC 6455 §4.2), on the sans-I/O API of websockets."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

__all__ = ["answer", "http_response", "websocket_scope"]


# At DEBUG websockets logs request lines, and tokens travel in them.
_log = logging.getLogger("hub.handshake")
_log.setLevel(logging.INFO)


def answer(data: bytes, config: Config) -> tuple[Request | None, Response]:
    """The request in `data` and the response to it: 101 with uvicorn's own headers, or a refusal with its reason."""
    protocol = ServerProtocol(logger=_log)
    protocol.receive_data(data)
    events = protocol.events_received()
    if not events or not isinstance(events[0], Request):
        return None, Response(400, "Bad Request", Headers(), b"The WebSocket handshake is malformed.\n")
    response = protocol.accept(events[0])
    for name, value in config.encoded_headers:
        response.headers[name.decode("latin-1")] = value.decode("latin-1")
    return events[0], response


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
