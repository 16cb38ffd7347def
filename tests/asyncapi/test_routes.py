"""Where the document and the page are, and what is served with them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from hub.pages import STATIC
from tests.support import typed_app

PATHS = ("asyncapi.json", "asyncapi", "asyncapi/asyncapi.js")


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(typed_app.make()[0]) as client:
        yield client


@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({}, [200, 200, 200]),
        ({"docs_url": None}, [200, 404, 404]),
        ({"openapi_url": None}, [404, 404, 404]),
        ({"docs_url": "/elsewhere", "openapi_url": "/elsewhere.json"}, [200, 200, 200]),
    ],
)
def test_it_is_there_if_fastapis_own_is(options: dict[str, Any], there: list[int]) -> None:
    """By the same switches of the application."""
    client = TestClient(typed_app.make(**options)[0])
    assert [client.get(f"/rt/{path}").status_code for path in PATHS] == there


def test_it_is_no_part_of_openapi(client: TestClient) -> None:
    """As FastAPI's own documentation is not."""
    paths = client.get("/openapi.json").json()["paths"]
    assert "/rt/api/publish" in paths
    assert not [path for path in paths if "asyncapi" in path]


def test_the_page_names_nothing_absolute(client: TestClient) -> None:
    """It works under any path, runs nothing that is not the hub's, and all that it loads is there."""
    page = client.get("/rt/asyncapi")
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert not [address for address in addresses if re.match(r"/|\w+:", address)]
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    assert page.headers["cache-control"] == "no-cache"
    todo, seen = {address for address in addresses}, set()
    while todo:
        address = todo.pop()
        seen.add(address)
        answer = client.get(f"/rt/{address}")
        assert answer.status_code == 200, address
        if address.endswith(".js"):
            todo |= {f"asyncapi/{name}" for name in re.findall(r'from "\./([\w.-]+)"', answer.text)} - seen
    assert {"asyncapi/hub.js", "asyncapi/asyncapi-schema.js", "asyncapi/console.css"} <= seen


def test_other_files_are_not_served(client: TestClient) -> None:
    """Only what belongs to the page."""
    assert (STATIC / "chat.js").is_file()
    for name in ("chat.js", "console.js", "asyncapi-missing.js", "..%2fapp.py"):
        assert client.get(f"/rt/asyncapi/{name}").status_code == 404, name


def test_the_document_is_asked_for_again_each_time(client: TestClient) -> None:
    """It changes with the program."""
    assert client.get("/rt/asyncapi.json").headers["cache-control"] == "no-cache"
