"""Many calls in one request: each is checked, refused and run for itself, and its JSON is the caller's to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from hub.errors import Errors, Refused
from hub.types import PublishResult
from tests.support.api_core import RecordingCore
from tests.test_api import KEY, PUBLISHED, application, call


@pytest.fixture
def core() -> RecordingCore:
    return RecordingCore()


@pytest.fixture
def client(core: RecordingCore) -> Iterator[TestClient]:
    with TestClient(application(core)) as client:
        yield client


def send(client: TestClient, *commands: bytes) -> list[Any]:
    """The replies to commands as they are written."""
    body = b'{"commands": [%s]}' % b", ".join(commands)
    answer = client.post("/api/batch", content=body, headers=KEY)
    assert answer.status_code == 200
    replies: list[Any] = answer.json()["replies"]
    return replies


@pytest.mark.parametrize("parallel", [False, True])
def test_batch(client: TestClient, core: RecordingCore, parallel: bool) -> None:
    """Replies in order without a wrapper; a refused command has its error, and the others run."""
    core.answers["publish"] = PublishResult(1, "e")
    core.answers["presence"] = Refused(Errors.NOT_AVAILABLE)
    commands: list[Any] = [
        {"publish": {"channel": "room", "data": {"a": 1}}},
        {"presence": {"channel": "room"}},
        {"history": {}},
        {"nonsense": {}},
        {"batch": {"commands": []}},
        {},
        {"presence_stats": {"channel": "room"}},
    ]
    answer = call(client, "batch", commands=commands, parallel=parallel)
    assert answer == {
        "replies": [
            {"publish": {"offset": 1, "epoch": "e"}},
            {"error": {"code": 108, "message": "not available"}},
            {"error": {"code": 107, "message": "bad request: channel: Field required"}},
            {"error": {"code": 104, "message": "method not found"}},
            {"error": {"code": 104, "message": "method not found"}},
            {"error": {"code": 107, "message": "bad request: a command of a batch has one method"}},
            {"presence_stats": {"num_clients": 0, "num_users": 0}},
        ]
    }
    assert core.calls[0] == ("publish", ("room", b'{"a":1}'), PUBLISHED)


# In each of them a command is wrong, and what its error says.
WRONG = [
    (b'{"info": []}', "Input should be a valid dictionary or instance of InfoRequest"),
    (b'{"channels": null}', "Input should be a valid dictionary or instance of ChannelsRequest"),
    (b'{"publish": "room"}', "Input should be a valid dictionary or instance of PublishRequest"),
    (b'{"publish": [1e999]}', "Input should be a valid dictionary or instance of PublishRequest"),
    (b'{"nonsense": 5}', "method not found"),
    (b'{"batch": {"commands": [5]}}', "method not found"),
    (b'{"info": {}, "channels": 5}', "a command of a batch has one method"),
    (b'{"history": {"channel": "room", "limit": 1e999}}', "limit: Input should be a valid integer"),
    (b'{"history": {"channel": "room", "limit": %s}}' % (b"9" * 5000), "limit: Input should be a valid integer"),
    (b'{"publish": {"channel": 1e999, "data": 1}}', "channel: Input should be a valid string"),
    (b'{"publish": {"channel": "room", "data": 1, "tags": {"a": 1e999}}}', "tags: Input should be a valid dictionary"),
]


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize(("wrong", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_command_is_alone(client: TestClient, core: RecordingCore, wrong: bytes, said: str, at: int) -> None:
    """Its neighbours are as they are without it: numbers keep their digits, texts stay texts, `info` any JSON.

    All of them were once decoded to Python and back where one was not an object of objects: 0.1 became another number,
    the text `{"a":1}` an object, and `info` 5 five NUL bytes.
    """
    data = b'{"price":0.10000000000000000001,"id":12345678901234567890123}'
    commands = [
        b'{"publish": {"channel": "room", "data": %s}}' % data,
        rb'{"publish": {"channel": "room", "data": "{\"a\":1}"}}',
        b'{"subscribe": {"user": "42", "channel": "room", "info": 5, "data": {"role": "host"}}}',
    ]
    replies = send(client, *commands[:at], wrong, *commands[at:])
    assert said in replies.pop(at)["error"]["message"]
    assert replies == [{"publish": {}}, {"publish": {}}, {"subscribe": {}}]
    assert [arguments for _, arguments, _ in core.calls] == [
        ("room", data),
        ("room", rb'"{\"a\":1}"'),
        ("42", "room"),
    ]
    assert (core.last[2]["info"], core.last[2]["data"]) == (b"5", b'{"role":"host"}')


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (b"{}", "commands: Input should be a valid list"),
        (b"5", "commands: Input should be a valid list"),
        (b"1e999", "commands: Input should be a valid list"),
        (b'[{"info": {}}, 5]', "commands.1: Input should be a valid dictionary"),
        (b"[null]", "commands.0: Input should be a valid dictionary"),
        (b"null", "commands: Field required"),
    ],
)
def test_what_is_no_list_of_commands(client: TestClient, core: RecordingCore, commands: bytes, said: str) -> None:
    """The request is refused as a whole, before anything of it is done."""
    answer = client.post("/api/batch", content=b'{"commands": %s}' % commands, headers=KEY).json()
    assert answer["error"]["code"] == 107
    assert said in answer["error"]["message"]
    assert not core.calls


def test_fields_that_do_not_count(client: TestClient, core: RecordingCore) -> None:
    """Null is absent except as JSON of the caller's, and unknown fields may be anything."""
    command = b'{"publish": {"channel": "room", "data": null, "tags": null, "commands": [1e999], "else": 1e999}}'
    assert send(client, command) == [{"publish": {}}]
    assert core.last == ("publish", ("room", b"null"), PUBLISHED)
