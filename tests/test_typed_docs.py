"""docs/typed.md: its program does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from hub import Hub
from hub.embedded import EmbeddedServer
from tests.support.waiting import eventually

PAGE = (Path(__file__).parents[1] / "docs" / "typed.md").read_text()


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, redis_server: EmbeddedServer) -> dict[str, Any]:
    """What all Python blocks define, read from top to bottom."""
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    names: dict[str, Any] = {"__name__": "program"}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "typed.md", "exec", dont_inherit=True), names)
    return names


class Talk:
    """A protocol client in a TestClient."""

    def __init__(self, socket: Any, token: str) -> None:
        self._socket = socket
        assert "client" in self.ask("connect", token=token)

    def ask(self, name: str, **fields: Any) -> Any:
        self._socket.send_json({"id": 1, name: fields})
        while "id" not in (reply := self._socket.receive_json()):
            pass
        return reply.get(name, reply.get("error"))


def test_the_program(program: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Members talk, others are told why they may not; endpoint, call and consumer are there."""
    lobby = "chat:lobby"
    with TestClient(program["app"]) as http:
        with http.websocket_connect("/connection/websocket") as socket:
            ann = Talk(socket, "ann")
            assert ann.ask("subscribe", channel=lobby)["data"] == {"title": "Lobby"}
            assert ann.ask("subscribe", channel="chat:attic") == {"code": 103, "message": "not a member"}
            assert ann.ask("publish", channel=lobby, data={"author": "ann", "text": "hi"}) == {}
            assert ann.ask("publish", channel=lobby, data={"author": "bob", "text": "hi"})["code"] == 103
            told = ann.ask("publish", channel=lobby, data={"author": "ann"})
            assert told == {"code": 107, "message": "data: text: Field required"}
            assert told["message"] in PAGE
            assert ann.ask("rpc", method="rename", data={"room": "lobby", "title": " Hall "}) == {
                "data": {"title": "Hall"}
            }
        with http.websocket_connect("/connection/websocket") as socket:
            nobody = Talk(socket, "")
            told = nobody.ask("rpc", method="rename", data={"room": "lobby", "title": "Hall"})
            assert told == {"code": 401, "message": "log in first"}
        assert http.post("/rooms/lobby", json={"author": "app", "text": "spam"}).json() == 2
        with (
            http.websocket_connect("/rooms/lobby/live?author=bob") as bob,
            http.websocket_connect("/rooms/lobby/live?author=eve") as eve,
        ):
            bob.send_text("hello")
            assert eve.receive_json() == {"author": "bob", "text": "hello"}
        assert http.portal is not None
        assert http.portal.call(program["last_words"], "lobby") == ["hello", "spam", "hi"]
        http.post("/rooms/attic/close").raise_for_status()
        assert http.portal.call(program["last_words"], "attic") == ["this room is closed"]
        program["tell"]("spam")
        assert http.portal.call(program["last_words"], "lobby")[0] == "spam"
        printed: list[str] = []

        def told_both() -> bool:
            printed.append(capsys.readouterr().out)
            lines = "".join(printed).splitlines()
            return "ann left lobby: 1000 " in lines and lines.count("spam in lobby") == 2

        http.portal.call(eventually, told_both)


def test_the_table() -> None:
    """Every argument of `hub.channel` has its line."""
    table = PAGE.partition("| argument | |")[2].partition("\n\n")[0]
    names = set(re.findall(r"^\| `(\w+)|, `(\w+)=True`|, (keywords)", table, re.MULTILINE))
    hints = set(Hub.channel.__annotations__) - {"return"}
    assert {name for names_of_line in names for name in names_of_line if name} == hints
