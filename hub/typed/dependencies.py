"""Functions of the application that are called for an event, with FastAPI's dependencies.

A function's dependencies are read once, when it is declared. They are solved for each event, by the request of the
client's handshake, and closed as soon as the function has returned: a connection that waits holds none of them.

FastAPI's two functions for this are not public; tests/test_typed_fastapi.py pins what is used of them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, get_args, get_origin

from fastapi import params
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant, solve_dependencies
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection

from ..admission import USER
from ..authority import Asker, User, as_python
from ..errors import ConfigError, Error, Errors, Refused

__all__ = [
    "Event",
    "Function",
    "body_parameter",
    "event",
    "is_dependency",
    "is_marked",
    "is_solved",
    "refusal",
    "signature_of",
    "user",
]

# Of an event's scope.
EVENT, MESSAGE = "hub.event", "hub.message"
# Statuses that say that the same may succeed later.
TEMPORARY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
EMPTY = inspect.Parameter.empty
# In place of what a function returns, if it has not.
NOTHING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a function is called for: `Annotated[Event, Depends(hub.event)]`, where `hub` is your `Hub`.

    `channel` is empty for a call by `rpc`, `client` None for a message that a consumer gets. `code` and `reason` are
    those of the close in `on_disconnect`.
    """

    channel: str = ""
    client: Asker | None = None
    code: int = 0
    reason: str = ""


# Dependencies


async def event(connection: HTTPConnection) -> Event:
    """Dependency: the event that the function is called for. Raises RuntimeError outside of events."""
    found = connection.scope.get(EVENT)
    if not isinstance(found, Event):
        raise RuntimeError("Depends(hub.event) and Depends(hub.user) are for functions that the hub calls")
    return found


async def user(connection: HTTPConnection) -> User | None:
    """Dependency: who the client is, None if it is anonymous.

    The object that `@hub.authenticate` returned, of a subclass of User too; or made from the client's token.
    """
    client = (await event(connection)).client
    known = connection.scope.get(USER)
    if isinstance(known, User):
        return known
    if client is None or not client.user:
        return None
    expire_at = getattr(client, "expire_at", 0.0)
    return User(id=client.user, info=as_python(getattr(client, "info", b"")), expire_at=expire_at)


async def _message(connection: HTTPConnection) -> Any:
    return connection.scope[MESSAGE]


# Declaration


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """With real types for its annotations. Raises ConfigError if these cannot be found."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception as error:  # whatever their evaluation raises
        raise ConfigError(
            f"{_name(function)}: its annotations cannot be read ({error}); define at the top of the module what they "
            "name, and not under TYPE_CHECKING"
        ) from None
    parameters = [p.replace(annotation=_unaliased(p.annotation)) for p in signature.parameters.values()]
    return signature.replace(parameters=parameters)


def _unaliased(annotation: Any) -> Any:
    """What `type Me = ...` stands for."""
    return annotation.__value__ if type(annotation).__name__ == "TypeAliasType" else annotation


def body_parameter(function: Callable[..., Any], signature: inspect.Signature) -> inspect.Parameter | None:
    """The one parameter that is neither a dependency nor the connection. Raises ConfigError for several."""
    plain = [parameter for parameter in signature.parameters.values() if not is_solved(parameter)]
    if len(plain) > 1:
        names = ", ".join(parameter.name for parameter in plain)
        raise ConfigError(
            f"{_name(function)}: which of {names} is the data of the call? The others are dependencies: "
            "Annotated[..., Depends(...)]"
        )
    return plain[0] if plain else None


class Function:
    """One function with its dependencies, and how to call it."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        names: Sequence[str] = (),
        message: str = "",
        clientless: bool = False,
    ) -> None:
        """`names` are parameters of the channel, `message` is the parameter that gets the data.

        `clientless`: there is no connection whose headers a dependency could read. Raises ConfigError.
        """
        self.name: str = _name(function)
        self.module: str = str(getattr(_plain(function), "__module__", ""))
        self.signature: inspect.Signature = signature_of(function)
        self._function = function
        self._coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004
        )
        self._check_places(names, message)
        self._dependant = self._read(names, message)
        self._check_tree(self._dependant, clientless)

    def _check_places(self, names: Sequence[str], message: str) -> None:
        for parameter in self.signature.parameters.values():
            if parameter.name not in (*names, message) and not is_solved(parameter):
                known = f"the channel has {', '.join(names)}" if names else "there are no parameters of a channel"
                raise ConfigError(
                    f"{self.name}: nothing says what {parameter.name!r} is; {known}, the data have the model's type, "
                    "and all else is a dependency: Annotated[..., Depends(...)], or Query() for the handshake's query"
                )

    def _read(self, names: Sequence[str], message: str) -> Dependant:
        def stand_in() -> None:
            """Has the function's signature, with the data as one more dependency."""

        parameters = [
            parameter.replace(annotation=Annotated[Any, params.Depends(_message)], default=EMPTY)
            if parameter.name == message
            else parameter
            for parameter in self.signature.parameters.values()
        ]
        keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        stand_in.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
        try:
            return get_dependant(path="/".join(f"{{{name}}}" for name in names), call=stand_in)
        except Exception as error:  # assertions too: FastAPI has many kinds
            raise ConfigError(f"{self.name}: {error}") from error

    def _check_tree(self, dependant: Dependant, clientless: bool) -> None:
        if dependant.call in (_message, event):
            return
        of = f"{self.name}: {dependant.name} " if dependant.name else f"{self.name} "
        for attribute, complaint in _NOT_HERE.items():
            if getattr(dependant, attribute):
                raise ConfigError(of + complaint)
        if clientless and any(getattr(dependant, attribute) for attribute in _OF_CLIENTS):
            raise ConfigError(f"{of}asks for a client's connection, and a consumer has none")
        for other in dependant.dependencies:
            self._check_tree(other, clientless)

    # Calls

    async def call(self, scope: Mapping[str, Any], parameters: Mapping[str, str], what: Event, message: Any) -> Any:
        """What the function returns. `scope` is that of the handshake, `parameters` are the channel's, as texts.

        Raises Refused for HTTPException, WebSocketException and what FastAPI cannot validate; RuntimeError if a
        dependency keeps an exception to itself.
        """
        try:
            return await self._solve(scope, parameters, what, message)
        except HTTPException as fault:
            raise refusal(fault) from fault
        except WebSocketException as fault:
            raise Refused(
                Error(code=Errors.PERMISSION_DENIED.code, message=fault.reason or "permission denied")
            ) from fault
        except asyncio.CancelledError as fault:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise RuntimeError(f"{self.name} waited for something that was cancelled") from fault

    async def _solve(self, scope: Mapping[str, Any], parameters: Mapping[str, str], what: Event, message: Any) -> Any:
        own: dict[str, Any] = {**scope, "path_params": dict(parameters), EVENT: what, MESSAGE: message}
        own.pop("fastapi_async_cleanup_scopes", None)
        app = own.get("app")
        answer: Any = NOTHING
        async with AsyncExitStack() as outer, AsyncExitStack() as inner:
            own["fastapi_inner_astack"], own["fastapi_function_astack"] = outer, inner
            solved = await solve_dependencies(
                request=HTTPConnection(own),  # type: ignore[arg-type]  # it is annotated with more than it asks for
                dependant=self._dependant,
                dependency_overrides_provider=app if hasattr(app, "dependency_overrides") else None,
                async_exit_stack=outer,
                embed_body_fields=False,
            )
            if solved.errors:
                raise Refused(_bad_fields(solved.errors))
            if self._coroutine:
                answer = await self._function(**solved.values)
            else:
                answer = await _in_thread(self._function, solved.values)
        if answer is NOTHING:  # as None it would leave the decision to the options, though somebody may have said no
            raise RuntimeError(
                f"a dependency of {self.name} has caught an exception after its yield; it must raise it again"
            )
        return answer


async def _in_thread(function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """When nobody waits for it any more, its dependencies stay open till its end all the same: it uses them."""
    running = asyncio.ensure_future(run_in_threadpool(function, **values))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait((running,))
        if not running.cancelled():
            running.exception()  # nobody wants it, and asyncio is not to complain
        raise


_NOT_HERE = {
    "request_param_name": "takes a Request, and a WebSocket has none; take starlette.requests.HTTPConnection",
    "websocket_param_name": "takes a WebSocket, which belongs to the hub; take starlette.requests.HTTPConnection",
    "response_param_name": "takes a Response, and an event has none",
    "background_tasks_param_name": "takes BackgroundTasks, and nothing would run them; start a task",
    "body_params": "takes a body, and a handshake has none; the data of an event have the model's type",
}
_OF_CLIENTS = ("http_connection_param_name", "query_params", "header_params", "cookie_params")


def is_marked(parameter: inspect.Parameter) -> bool:
    """Whether it is a dependency, or a part of the request by name: a query parameter, a header, a cookie."""
    return any(isinstance(mark, params.Depends | params.Param | params.Body) for mark in _marks(parameter))


def is_dependency(parameter: inspect.Parameter) -> bool:
    """Whether a function makes it, `Depends(...)`."""
    return any(isinstance(mark, params.Depends) for mark in _marks(parameter))


def _marks(parameter: inspect.Parameter) -> tuple[Any, ...]:
    return (*get_args(parameter.annotation)[1:], parameter.default)


def is_solved(parameter: inspect.Parameter) -> bool:
    """Whether FastAPI is told how to get it."""
    if is_marked(parameter):
        return True
    plain = get_args(parameter.annotation)[0] if get_origin(parameter.annotation) is Annotated else parameter.annotation
    return isinstance(plain, type) and plain.__module__.partition(".")[0] in ("starlette", "fastapi")


def _name(function: Callable[..., Any]) -> str:
    """The same in every worker."""
    function = _plain(function)
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, partial):
        function = function.func
    return function


def refusal(fault: HTTPException) -> Refused:
    """The same for a client of the hub: the HTTP status is a code that applications may use."""
    detail = fault.detail if isinstance(fault.detail, str) else ""
    try:
        message = detail or HTTPStatus(fault.status_code).phrase
    except ValueError:
        message = "refused"
    return Refused(Error(code=fault.status_code, message=message, temporary=fault.status_code in TEMPORARY))


def _bad_fields(faults: Sequence[Any]) -> Error:
    if any(fault["loc"][:1] == ("path",) for fault in faults):
        return Errors.UNKNOWN_CHANNEL
    return Error(code=Errors.BAD_REQUEST.code, message="; ".join(_sentences(faults)))


def _sentences(faults: Sequence[Any]) -> Iterator[str]:
    for fault in faults:
        yield f"{': '.join(map(str, fault['loc']))}: {fault['msg']}"
