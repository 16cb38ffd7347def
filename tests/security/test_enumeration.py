"""Nobody without rights learns whether a channel exists: the answers are the same bytes, for the same work.

A channel exists here if somebody is in it and something was published in it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator

import pytest

from tests.support.redis import RedisProcess, running_redis
from tests.support.security_client import Closed, PlainClient, plain_request
from tests.support.security_hub import api, guarded_hub, token
from tests.support.server import HubProcess

# Each pair: one that exists, and one that does not, of the same length.
PAIRS = [
    ("news:open", "news:none"),
    ("$news:open", "$news:none"),
    ("news:#7,77", "news:#7,78"),
]
ASKED = {
    "subscribe": {},
    "recover": {"recover": True, "offset": 1, "epoch": "guessed"},
    "publish": {"data": {}},
    "history": {"limit": 10},
    "presence": {},
    "presence_stats": {},
    "unsubscribe": {},
    "sub_refresh": {"token": "bad"},
}


@pytest.fixture(scope="module")
def redis(redis_binary: str) -> Iterator[RedisProcess]:
    with running_redis(redis_binary) as server:
        yield server


@pytest.fixture(scope="module")
def hub(redis: RedisProcess) -> Iterator[HubProcess]:
    """With somebody in all channels that exist."""
    with guarded_hub(redis.url) as running, PlainClient(running.port) as member:
        existing = [channel for channel, _ in PAIRS]
        tokens = [token(user="7", channel=channel) for channel in existing]
        wishes = [{"channel": channel, "token": shown} for channel, shown in zip(existing, tokens, strict=True)]
        subscribes = [{"id": number, "subscribe": wish} for number, wish in enumerate(wishes, 2)]
        member.say({"id": 1, "connect": {"token": token(user="7")}}, *subscribes)
        for number in range(2, 2 + len(PAIRS)):
            answer = member.answer(number)
            assert not isinstance(answer, Closed)
            assert "subscribe" in answer, answer
        for channel in existing:
            api(running, "publish", channel=channel, data={"kept": True})
        yield running


def command(asked: str, channel: str) -> dict[str, object]:
    name = "subscribe" if asked == "recover" else asked
    return {"id": 2, name: {"channel": channel, **ASKED[asked]}}


def answer_to(hub: HubProcess, asked: str, channel: str, connect: str = "") -> bytes | Closed:
    """The very bytes that a client hears after the reply to `connect`."""
    with PlainClient(hub.port) as client:
        client.say({"id": 1, "connect": {"token": connect}})
        client.hear()
        client.say(command(asked, channel))
        return client.hear()


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(("existing", "missing"), PAIRS)
def test_the_same_bytes(hub: HubProcess, existing: str, missing: str, asked: str) -> None:
    """An anonymous client gets the same answer about both."""
    answer = answer_to(hub, asked, existing)
    assert answer == answer_to(hub, asked, missing)
    if asked != "unsubscribe":  # that of a channel in which one is not, is always done
        assert isinstance(answer, bytes)
        assert b'"error":{"code":103,' in answer


@pytest.mark.parametrize(("existing", "missing"), PAIRS[1:])
def test_the_same_bytes_for_a_user(hub: HubProcess, existing: str, missing: str) -> None:
    """So does a user for whom the channels are not."""
    for asked in ASKED:
        assert answer_to(hub, asked, existing, token()) == answer_to(hub, asked, missing, token()), asked


def test_no_work_for_what_is_refused(hub: HubProcess, redis: RedisProcess) -> None:
    """Redis is told nothing about either channel, so neither time nor load can tell them apart."""
    names = [channel for pair in PAIRS for channel in pair]
    with redis.client() as watcher, redis.client() as marker, watcher.monitor() as monitor:

        def told() -> list[str]:
            """What names a channel, of all that Redis was told since the last time."""
            marker.echo("that was all")
            lines = iter(lambda: monitor.next_command()["command"], "ECHO that was all")
            return [line for line in lines if any(name in line for name in names)]

        for channel in names:
            for asked in ASKED:
                answer_to(hub, asked, channel)
        assert told() == []
        api(hub, "history", channel=names[0])
        assert told() != []  # it does see what is done


def test_the_same_time(hub: HubProcess) -> None:
    """The median time of a refusal is that of the other within a tenth of a millisecond and a half of itself."""
    times: dict[str, list[float]] = {"news:open": [], "news:none": []}
    with PlainClient(hub.port) as client:
        client.say({"id": 1, "connect": {}})
        client.hear()
        for _ in range(300):
            for channel, spent in times.items():
                begun = time.perf_counter()
                client.say(command("history", channel))
                client.hear()
                spent.append(time.perf_counter() - begun)
    existing, missing = (statistics.median(spent) for spent in times.values())
    assert abs(existing - missing) < 0.0001 + 0.5 * min(existing, missing)


@pytest.mark.parametrize(("existing", "missing"), [*PAIRS, ("nowhere:open", "nowhere:none")])
def test_raw_rooms(hub: HubProcess, existing: str, missing: str) -> None:
    """The raw endpoint refuses rooms with the same bytes too; one that is open to all is open in both cases."""

    def refused(channel: str) -> tuple[bytes, bytes | Closed]:
        with PlainClient(hub.port, f"/ws/{channel.replace('#', '%23')}") as client:
            return client.head, client.hear() if "nowhere" not in channel else b""

    assert refused(existing) == refused(missing)


def test_the_api_without_its_key(hub: HubProcess) -> None:
    """Who has no API key gets one answer to everything, whatever of method, channel and key is nearly right."""
    methods = ("publish", "history", "presence", "channels", "disconnect")
    bodies = (json.dumps({"channel": channel}).encode() for channel in ("news:open", "news:none"))
    answers = {
        (status, content)
        for body in bodies
        for key in ("", "x", "key-of-the-guarded-huc", "k" * 1000)
        for method in methods
        for status, _, content in [plain_request(hub.port, "POST", f"/api/{method}", body, X_API_Key=key)]
    }
    assert len(answers) == 1
    assert {status for status, _ in answers} == {401}


def test_health_names_no_channel(hub: HubProcess) -> None:
    """What everybody may read has numbers only."""
    for path in ("/health/live", "/health/ready", "/openapi.json", "/"):
        _, _, body = plain_request(hub.port, "GET", path)
        assert b"news:open" not in body, path
