"""docs/publishing.md: its programs, run as one application, publish what it says; its tables are complete."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

from hub.cli import cli
from hub.embedded import EmbeddedServer
from hub.errors import BrokerUnavailable
from hub.protocol import envelope
from hub.publishing import PublishOptions
from hub.types import PublishResult
from tests.support.command_line import command_line
from tests.support.waiting import eventually

PAGE = (Path(__file__).parents[1] / "docs" / "publishing.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def program(redis_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What all Python blocks define, read from top to bottom, with the settings that the page has."""
    (settings,) = blocks("toml")
    (tmp_path / "hub.toml").write_text(settings)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUB_API_KEY", "key")
    shared(redis_server, monkeypatch)
    names: dict[str, Any] = {"__name__": "program"}
    for block in blocks("python"):
        exec(compile(block, "publishing.md", "exec", dont_inherit=True), names)
    names["Base"].metadata.create_all(names["engine"])
    yield names
    names["publisher"].close()
    names["engine"].dispose()


def shared(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings that everybody has."""
    monkeypatch.setenv("HUB_CONFIG", "hub.toml")
    monkeypatch.setenv("REDIS_URL", server.url)


def states(server: EmbeddedServer, number: int) -> list[str]:
    """What was published of an order."""
    with redis.Redis.from_url(server.url) as client:
        entries: Any = client.xrange(f"hub:stream:{{orders:{number}}}")
    return [re.findall(rb'"state": ?"(\w+)"', envelope.decode(each[b"d"]).data)[0].decode() for _, each in entries]


def test_the_programs(
    program: dict[str, Any],
    redis_server: EmbeddedServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An order from its beginning to its end, told by all the ways there are."""
    with TestClient(program["app"]) as client:
        client.post("/orders/7").raise_for_status()
        assert client.portal is not None
        client.portal.call(eventually, lambda: states(redis_server, 7) == ["new"])  # the commit has not waited for it
        program["charge"](7)
        program["announce"](7)
        program["announce"](7)
        assert client.post("/orders/7/ship").json() == {"offset": 4}
        client.post("/orders/8/cancel").raise_for_status()
        run = command_line(monkeypatch, capsys)
        shared(redis_server, monkeypatch)
        for line in blocks("sh")[0].splitlines():
            program_name, *words = shlex.split(line.replace("$HUB_API_KEY", "key"))
            if program_name == "hub":
                assert run(*words)[0] == 0
            else:
                body, url = words[words.index("-d") + 1], words[-1]
                path = url.removeprefix("http://127.0.0.1:8000")
                assert "result" in client.post(path, content=body, headers={"X-API-Key": "key"}).json()
    assert states(redis_server, 7) == ["new", "paid", "packed", "shipped", "delivered", "returned"]
    assert states(redis_server, 8) == ["cancelled"]


def test_the_transactions(program: dict[str, Any], redis_server: EmbeddedServer) -> None:
    """All of an import is told, or nothing."""
    program["import_orders"]([1, 2])
    with pytest.raises(Exception, match="UNIQUE"):
        program["import_orders"]([3, 1])
    assert [states(redis_server, number) for number in (1, 2, 3)] == [["imported"], ["imported"], []]


def test_the_repetition(program: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It tries three times, and then says that it has not succeeded."""
    attempts: list[str] = []

    def refuse(*_: object, idempotency_key: str) -> None:
        attempts.append(idempotency_key)
        raise BrokerUnavailable("not sent")

    monkeypatch.setattr(program["publisher"], "publish", refuse)
    monkeypatch.setattr(program["time"], "sleep", lambda seconds: None)
    with pytest.raises(RuntimeError, match="order 7 is packed"):
        program["announce"](7)
    assert attempts == ["packed-7"] * 3


def test_the_tables() -> None:
    """Every option, every field of the result, and a command that exists."""
    table = PAGE.partition("| option | |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(PublishOptions.__annotations__)
    sentence = PAGE.partition("The result has")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", sentence)) == set(PublishResult._fields)
    assert "publish" in cli.commands
