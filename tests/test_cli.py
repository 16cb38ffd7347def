"""The command line: what is wrong is said in one line, and `hub publish` reaches a room."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hub import __version__
from hub.cli import cli
from tests.support.command_line import Run, command_line
from tests.support.redis import RedisProcess, running_redis
from tests.support.room import Member
from tests.support.server import HubProcess, hub_serve
from tests.support.waiting import eventually


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`hub ARGUMENTS` in this process."""
    return command_line(monkeypatch, capsys)


# What is wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "99999"], "99999 is not in the range"),
        (["--port", "http"], "'http' is not a valid integer"),
        (["--workers", "0"], "0 is not in the range"),
        (["--drain", "-1"], "-1.0 is not in the range"),
        (["--log-format", "xml"], "'xml' is not one of"),
        (["--redis-url", "http://s3cret@localhost"], "redis://, rediss://, unix://"),
        (["--redis-url", "redis://:s3cret@localhost:port"], "the Redis URL cannot be used"),
        (["--redis-url", "redis://:s3cret@localhost/0?nonsense=1"], "the Redis URL cannot be used"),
        (["--config", "nothing.toml"], "there is no file 'nothing.toml'"),
        (["--uds", "x" * 200], "AF_UNIX path too long"),
        (["--no-such-option"], "No such option"),
        (["surplus"], "unexpected extra argument"),
    ],
)
def test_bad_values_of_serve(run: Run, arguments: list[str], said: str) -> None:
    """One line on standard error that names the fault and no secret, status 2."""
    status, out, err = run("serve", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("hub: ")
    assert err.count("\n") == 1
    assert said in err
    assert "s3cret" not in err


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HUB_WORKERS", "many", "workers (HUB_WORKERS): "),
        ("HUB_DRAIN", "-1", "drain (HUB_DRAIN): "),
        ("HUB_PING_TIMEOUT", "60", "ping_timeout (HUB_PING_TIMEOUT) must not be longer than ping_interval"),
        ("HUB_NAMESPACES", "{", "namespaces (HUB_NAMESPACES): this is not JSON"),
        ("REDIS_URL", "localhost:6379", "redis://, rediss://, unix://"),
    ],
)
def test_bad_values_of_the_environment(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    """The same for variables."""
    monkeypatch.setenv(name, value)
    status, _, err = run("serve")
    assert (status, err.count("\n")) == (2, 1)
    assert said in err


def test_a_bad_file(run: Run, tmp_path: Path) -> None:
    """Unknown settings and what is no TOML are named with their file."""
    path = tmp_path / "hub.toml"
    path.write_text("wrokers = 4\n")
    assert "has unknown settings: wrokers" in run("serve", "--config", str(path))[2]
    path.write_text("= 4\n")
    assert f"hub: config: {path}: " in run("serve", "--config", str(path))[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid:8000: "),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1:8000: "),
    ],
)
def test_what_may_be_over_in_a_moment(run: Run, arguments: list[str], said: str) -> None:
    """A DNS that does not answer, an address that is not there yet: status 1, upon which systemd tries again."""
    status, out, err = run("serve", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"hub: {said}")
    assert err.count("\n") == 1


def test_help_and_version(run: Run) -> None:
    """Both end with status 0, and every option says what it does; no command at all is help too."""
    assert run("--version")[:2] == (0, f"hub, version {__version__}\n")
    status, out, _ = run("serve", "--help")
    assert status == 0
    for name in ("host", "port", "workers", "uds", "redis-url", "config", "log-format", "drain"):
        assert f"--{name}" in out
    assert "[env: REDIS_URL]" in " ".join(out.split())
    assert run()[0] == 2


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_explains_itself(run: Run, command: str) -> None:
    """What it does, and every option."""
    status, out, _ = run(command, "--help")
    assert status == 0
    assert out.startswith(f"Usage: hub {command}")
    for parameter in cli.commands[command].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    assert cli.commands[command].help


# hub publish


@pytest.fixture(scope="module")
def server(redis_binary: str) -> Iterator[RedisProcess]:
    with running_redis(redis_binary) as process:
        yield process


@pytest.fixture(scope="module")
def hub(server: RedisProcess) -> Iterator[HubProcess]:
    with hub_serve("--redis-url", server.url, "--drain", "0", env={"HUB_API_KEY": "key"}) as process:
        yield process


async def test_publish_by_http_and_by_redis(
    run: Run, hub: HubProcess, server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both reach the room, byte for byte, also from standard input."""
    member = await Member.join(f"{hub.ws_url}/ws/räum")
    by_http, by_redis = ("--url", hub.url, "--api-key", "key"), ("--redis-url", server.url)
    assert await asyncio.to_thread(run, "publish", "räum", "grüße 1", *by_http) == (0, "", "")
    assert await asyncio.to_thread(run, "publish", "räum", "grüße 2", *by_redis) == (0, "", "")
    monkeypatch.setattr("sys.stdin", io.StringIO('{"from": "stdin"}\n'))
    assert await asyncio.to_thread(run, "publish", "räum", "-", *by_http) == (0, "", "")
    await eventually(lambda: member.heard == ["grüße 1", "grüße 2", '{"from": "stdin"}\n'])
    await member.leave()


def test_publish_without_the_right_key(run: Run, hub: HubProcess) -> None:
    """Status 1 and the hub's answer."""
    status, _, err = run("publish", "room", "hi", "--url", hub.url, "--api-key", "wrong")
    assert status == 1
    assert err.startswith(f"hub: {hub.url} answered 401: The API key is missing or wrong")
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", ["--url", "--redis-url"])
def test_publish_to_nobody(run: Run, option: str) -> None:
    """Neither a hub nor a Redis there: one line, status 1, at once."""
    scheme = "http" if option == "--url" else "redis"
    status, _, err = run("publish", "room", "hi", option, f"{scheme}://127.0.0.1:1")
    assert status == 1
    assert err.count("\n") == 1
    assert "cannot" in err


def test_publish_to_an_impossible_room(run: Run, hub: HubProcess, server: RedisProcess) -> None:
    """Told before anything is sent; by the hub in its own words."""
    assert run("publish", "", "hi", "--redis-url", server.url)[0] == 1
    status, _, err = run("publish", "a\nb", "hi", "--url", hub.url, "--api-key", "key")
    said = "bad request: channel name has control characters (error 107)"
    assert (status, err) == (1, f"hub: {hub.url} refused: {said}\n")
