"""What `hub.typed.dependencies` uses of FastAPI that is not public: an upgrade that breaks it is seen here."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Annotated, Any

import pytest
from fastapi import Depends, Header, Query
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant, solve_dependencies
from starlette.requests import HTTPConnection

log: list[str] = []


async def opened() -> AsyncIterator[str]:
    log.append("opened")
    try:
        yield "session"
    except ZeroDivisionError:
        log.append("failed")
        raise
    finally:
        log.append("closed")


def opened_in_a_thread() -> Iterator[str]:
    log.append("thread opened")
    yield "thread session"
    log.append("thread closed")


def of_connection(connection: HTTPConnection) -> str:
    return connection.scope["mine"]


def asked(
    room: int,
    session: Annotated[str, Depends(opened)],
    same: Annotated[str, Depends(opened)],
    other: Annotated[str, Depends(opened_in_a_thread, scope="function")],
    mine: Annotated[str, Depends(of_connection)],
    x_who: Annotated[str, Header()],
    page: Annotated[int, Query()] = 1,
) -> None: ...


EXPECTED = {
    "room": 7,
    "session": "session",
    "same": "session",
    "other": "thread session",
    "mine": "m",
    "x_who": "me",
    "page": 3,
}


def scope(**changes: Any) -> dict[str, Any]:
    own = {"type": "websocket", "path": "/", "query_string": b"page=3", "headers": [(b"x-who", b"me")], "mine": "m"}
    return {**own, "path_params": {"room": "7"}, **changes}


async def solve(own: dict[str, Any], provider: Any = None, fault: Exception | None = None) -> Any:
    """As `Function` does it, which then raises the fault."""
    log.clear()
    async with AsyncExitStack() as outer, AsyncExitStack() as inner:
        own["fastapi_inner_astack"], own["fastapi_function_astack"] = outer, inner
        solved = await solve_dependencies(
            request=HTTPConnection(own),  # type: ignore[arg-type]
            dependant=get_dependant(path="{room}", call=asked),
            dependency_overrides_provider=provider,
            async_exit_stack=outer,
            embed_body_fields=False,
        )
        if fault is not None:
            raise fault
        return solved


def test_signatures() -> None:
    """The keywords that are given exist, and no others are required."""
    for function, given in (
        (get_dependant, {"path", "call"}),
        (
            solve_dependencies,
            {"request", "dependant", "dependency_overrides_provider", "async_exit_stack", "embed_body_fields"},
        ),
    ):
        parameters = inspect.signature(function).parameters
        assert given <= parameters.keys()
        assert {name for name, each in parameters.items() if each.default is each.empty} <= given


def test_the_tree() -> None:
    """What is looked at in a dependant, and how its dependencies hang in it."""
    dependant = get_dependant(path="{room}", call=asked)
    names = {"request_param_name", "websocket_param_name", "response_param_name", "background_tasks_param_name"}
    names |= {
        "http_connection_param_name",
        "query_params",
        "header_params",
        "cookie_params",
        "body_params",
        "name",
        "call",
    }
    assert names <= set(Dependant.__dataclass_fields__)
    assert [each.call for each in dependant.dependencies] == [opened, opened, opened_in_a_thread, of_connection]
    assert dependant.dependencies[-1].http_connection_param_name == "connection"
    assert [each.name for each in dependant.path_params] == ["room"]


async def test_values() -> None:
    """By the names of the parameters, each dependency once, and closed with the stacks."""
    solved = await solve(scope())
    assert (solved.values, solved.errors) == (EXPECTED, [])
    assert log == ["opened", "thread opened", "thread closed", "closed"]


async def test_errors() -> None:
    """With their place first, and nothing is raised."""
    solved = await solve(scope(path_params={"room": "x"}, headers=[]))
    assert [tuple(each["loc"]) for each in solved.errors] == [("path", "room"), ("header", "x-who")]
    assert all("msg" in each for each in solved.errors)


async def test_overrides() -> None:
    """By the function that is depended on."""

    class Provider:
        dependency_overrides = {opened: lambda: "other"}

    solved = await solve(scope(), Provider())
    assert solved.values["session"] == "other"
    assert log == ["thread opened", "thread closed"]


async def test_exceptions_go_through_the_dependencies() -> None:
    """So that a session is rolled back."""
    with pytest.raises(ZeroDivisionError):
        await solve(scope(), fault=ZeroDivisionError())
    assert log[-2:] == ["failed", "closed"]


async def test_without_stacks() -> None:
    """They are looked for under their names in the scope, so these names are right."""
    with pytest.raises(AssertionError, match="fastapi_inner_astack not found"):
        await solve_dependencies(
            request=HTTPConnection(scope()),  # type: ignore[arg-type]
            dependant=get_dependant(path="{room}", call=asked),
            async_exit_stack=AsyncExitStack(),
            embed_body_fields=False,
        )
