"""The server's HTTP API: `POST /api/<method>`.

The models make the reference at /docs, and FastAPI checks the requests with them. What is particular is in `_route`:
the key is asked for before the body is read; a body is JSON whatever its content type says; `data` and `info` stay the
bytes that they are; and what is wrong is answered in the shape of the Centrifuge API, with status 200 unless the caller
asks for another one.
"""

from __future__ import annotations

import functools
import hmac
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi import APIRouter, HTTPException, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, APIKeyQuery
from msgspec import Raw
from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders

from .api_methods import ApiMethods, Method, Refusal, bad_fields, refusal
from .api_models import Answer
from .config import Settings
from .control import HubNode
from .protocol.surrogates import replace_lone

__all__ = ["api_router", "holds_key"]

OFF = "The HTTP API is off: set HUB_API_KEY (in the configuration file: api_key) to turn it on."
WRONG_KEY = "The API key is missing or wrong: send it as X-API-Key, as Authorization: apikey <key>, or as ?api_key=."

# Fields with JSON that is not the hub's to understand.
_OPAQUE = ("data", "info")
# Requests of many channels or calls are larger than one publication.
_SEVERAL = 2**20
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode

# For /docs; `_authorize` does the work.
_schemes = [
    Security(scheme)
    for scheme in (
        APIKeyHeader(name="X-API-Key", scheme_name="X-API-Key", description="A key of HUB_API_KEY.", auto_error=False),
        APIKeyHeader(name="Authorization", scheme_name="Authorization", description="`apikey <key>`", auto_error=False),
        APIKeyQuery(name="api_key", scheme_name="api_key", description="It may get into logs.", auto_error=False),
    )
]
_responses: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body is not a JSON object."},
    401: {"description": "The API key is missing or wrong, or the API is off."},
    413: {"description": "The body is too large."},
}


def api_router(hub: HubNode, settings: Settings) -> APIRouter:
    """`/api/<method>`."""
    router = APIRouter(
        prefix="/api",
        tags=["server API"],
        route_class=_route(settings.api_keys),
        dependencies=_schemes,
        responses=_responses,
    )
    # JSON may write a character in six bytes.
    limit = 6 * settings.max_message_size + 4096
    for name, method in ApiMethods(hub).table.items():
        router.add_api_route(
            f"/{name}",
            _endpoint(method, bare=name == "batch"),
            methods=["POST"],
            summary=name,
            response_model=method.result if name == "batch" else Answer[method.result],  # type: ignore[name-defined]
            max_body_size=limit + _SEVERAL if name in ("broadcast", "batch") else limit,
        )
    return router


class _Failed(Exception):
    """A call was refused."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


def _endpoint(method: Method, *, bare: bool) -> Callable[..., Coroutine[Any, Any, Response]]:
    """What FastAPI calls; it reads parameter and description from the method. A bare result is not in `result`."""

    @functools.wraps(method.run)
    async def endpoint(body: Any) -> Response:
        try:
            result = await method.run(body)
        except Exception as fault:
            raise _Failed(refusal(fault)) from None
        return _answer(result if bare else {"result": result})

    return endpoint


def _route(keys: tuple[str, ...]) -> type[APIRoute]:
    """The class of the API's routes."""

    class ApiRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                _authorize(request, keys)
                try:
                    return await handle(_ApiRequest(request.scope, request.receive))
                except RequestValidationError as error:
                    return _refuse(bad_fields(error.errors()), request)
                except _Failed as error:
                    return _refuse(error.refusal, request)

            return answer

    return ApiRoute


# Who may call


def _authorize(request: Request, keys: tuple[str, ...]) -> None:
    if not keys:
        raise HTTPException(401, OFF, headers={"WWW-Authenticate": "apikey"})
    if not holds_key(request, keys):
        raise HTTPException(401, WRONG_KEY, headers={"WWW-Authenticate": "apikey"})


def holds_key(request: Request, keys: tuple[str, ...]) -> bool:
    """Whether the request has one of the API keys."""
    given = _given_key(request).encode()
    # All are compared, in constant time: how long it takes tells nothing about any of them.
    return any([hmac.compare_digest(given, key.encode()) for key in keys])


def _given_key(request: Request) -> str:
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    bearer = credentials.strip() if scheme.lower() == "apikey" else ""
    return request.headers.get("X-API-Key") or bearer or request.query_params.get("api_key", "")


# The body, and the answer


class _ApiRequest(Request):
    """A request whose body is a JSON object."""

    @property
    def headers(self) -> Headers:
        """With the content type that the body has; curl calls everything a form."""
        headers = MutableHeaders(scope=self.scope).mutablecopy()
        headers["Content-Type"] = "application/json"
        return headers

    async def body(self) -> bytes:
        return await super().body() or b"{}"

    async def json(self) -> Any:
        try:
            body = await self.body()
            body.decode()  # msgspec does not look into what stays raw
            return _request(_object(body))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise HTTPException(400, f"The body is not a JSON object: {error}.") from None


def _object(body: bytes) -> dict[str, Raw]:
    try:
        return _decode_object(body)
    except msgspec.DecodeError:
        return _decode_object(replace_lone(body))


def _request(body: dict[str, Raw]) -> dict[str, Any]:
    fields = _fields(body)
    if "commands" in fields:
        fields["commands"] = _commands(fields["commands"])
    return fields


def _fields(raw: dict[str, Raw]) -> dict[str, Any]:
    """Opaque JSON as it came, without white space and line breaks; a null elsewhere is no field at all."""
    return {name: _field(name, value) for name, value in raw.items() if name in _OPAQUE or bytes(value) != b"null"}


def _field(name: str, value: Raw) -> Any:
    if name in _OPAQUE:
        return Raw(msgspec.json.format(bytes(value), indent=-1))
    return value if name == "commands" else _read(value, Any)


def _commands(value: Raw) -> Any:
    """The commands of a batch, each read for itself: what one of them is must not change what another says."""
    commands = _read(value, list[Raw])
    return commands if isinstance(commands, Raw) else [_command(command) for command in commands]


def _command(value: Raw) -> Any:
    command = _read(value, dict[str, Raw])
    return command if isinstance(command, Raw) else {name: _call(fields) for name, fields in command.items()}


def _call(value: Raw) -> Any:
    fields = _read(value, dict[str, Raw])
    return fields if isinstance(fields, Raw) else _fields(fields)


def _read(value: Raw, kind: Any) -> Any:
    """`value` as `kind`; what is none, or has no value in Python, stays raw, and the model says what it should be."""
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.MsgspecError, RecursionError):
        return value


def _answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = msgspec.json.encode(content, enc_hook=_dump)
    return Response(body, status, headers, media_type="application/json")


def _dump(model: BaseModel) -> dict[str, Any]:
    """Models travel without what is None."""
    return {name: value for name, value in model if value is not None}


def _refuse(refusal: Refusal, request: Request) -> Response:
    if request.headers.get("X-Centrifugo-Error-Mode") != "transport":
        return _answer({"error": refusal.fields()})
    return _answer(refusal.fields(), refusal.status, {"Retry-After": "1"} if refusal.status == 503 else None)
