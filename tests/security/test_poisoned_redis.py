"""Somebody else writes into the hub's Redis: what is not the hub's is counted and skipped, and nobody suffers.

A real hub, a real server, a protocol client and a raw one that listen all the time. After each piece of poison both get
the next good publication, whole and as the first thing; the log has no traceback at the end (`guarded_hub`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis as redis_py

from tests.support.redis import RedisProcess, running_redis
from tests.support.security_client import Closed, PlainClient, plain_request
from tests.support.security_hub import CONFIG, api, guarded_hub, token
from tests.support.security_poison import BAD_CONTROL, BAD_ENTRIES, BAD_EVENTS, BAD_PRESENCE, GOOD, ODD_CONTROL
from tests.support.server import HubProcess

WITH_OPEN = f"""{CONFIG}
join_leave = true
force_push_join_leave = true

[namespaces.open]
join_leave = true
force_push_join_leave = true
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
"""
KEPT, OPEN = "news:open", "open:room"


class World:
    """The hub, its Redis, and who listens."""

    def __init__(self, hub: HubProcess, redis: redis_py.Redis, client: PlainClient, raw: PlainClient) -> None:
        self.hub, self.redis, self.client, self.raw = hub, redis, client, raw
        self._number = 10

    def say(self, channel: str, payload: bytes) -> None:
        self.redis.publish(f"hub:channel:{channel}", payload)

    def malformed(self) -> int:
        """What the hub has counted so far."""
        _, _, text = plain_request(self.hub.port, "GET", "/metrics")
        values = (line.split()[-1] for line in text.splitlines() if line.startswith(b"hub_malformed_payloads_total"))
        return int(sum(map(float, values)))

    def scripts(self) -> int:
        """How many scripts Redis has run."""
        return int(self.redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])

    def ask(self, command: str, **fields: object) -> dict[str, object]:
        """The reply to a command of the listening client."""
        self._number += 1
        self.client.say({"id": self._number, command: fields})
        answer = self.client.answer(self._number)
        assert not isinstance(answer, Closed)
        return answer

    def both_hear(self, mark: int) -> None:
        """The next thing that both listeners hear is a good publication, and whole."""
        self.say(OPEN, b'j\0{"mark":%d}' % mark)
        heard = self.client.hear()
        assert not isinstance(heard, Closed)
        assert json.loads(heard) == {"push": {"channel": OPEN, "pub": {"data": {"mark": mark}}}}
        assert self.raw.hear() == b'{"mark":%d}' % mark


@pytest.fixture(scope="module")
def redis(redis_binary: str) -> Iterator[RedisProcess]:
    with running_redis(redis_binary) as server:
        yield server


@pytest.fixture(scope="module")
def hub(redis: RedisProcess) -> Iterator[HubProcess]:
    with guarded_hub(redis.url, config=WITH_OPEN) as running:
        yield running


@pytest.fixture
def world(hub: HubProcess, redis: RedisProcess) -> Iterator[World]:
    """Both listeners are there, and have heard of the joins."""
    with ExitStack() as stack:
        raw = stack.enter_context(PlainClient(hub.port, f"/ws/{OPEN}"))
        client = stack.enter_context(PlainClient(hub.port))
        client.say({"id": 1, "connect": {"token": token()}})
        client.hear()
        for number, channel in enumerate((KEPT, OPEN), 2):
            client.say({"id": number, "subscribe": {"channel": channel}})
            told = {client.hear(), client.hear()}  # the reply and one's own join, in any order
            assert not any(isinstance(heard, Closed) or b'"error"' in heard for heard in told)
        yield World(hub, stack.enter_context(redis.client()), client, raw)


def test_publications(world: World) -> None:
    """Of each kind of poison in either channel none is told to anybody, and each is counted once."""
    for channel in (KEPT, OPEN):
        for number, (what, payload) in enumerate(BAD_EVENTS.items()):
            before = world.malformed()
            world.say(channel, payload)
            try:
                world.both_hear(number)
            except AssertionError as error:
                raise AssertionError(f"{what} in {channel}") from error
            assert world.malformed() == before + 1, f"{what} in {channel}"


def test_an_epoch_of_any_text(world: World) -> None:
    """What may be any text is written as one: nothing can be smuggled into what clients read."""
    world.say(OPEN, b'p1:a"}b:' + GOOD)
    heard = world.client.hear()
    assert not isinstance(heard, Closed)
    assert json.loads(heard)["push"]["pub"] == {"data": {"good": 1}, "offset": 1, "epoch": 'a"}b'}


def test_positions_that_nobody_has_reached(world: World) -> None:
    """A publication from beyond the end of the history is looked for once, and not for ever; others go on."""
    api(world.hub, "publish", channel=KEPT, data={"n": 1})
    assert b'"n":1' in world.client.hear()
    position = api(world.hub, "history", channel=KEPT)
    epoch = str(position["epoch"]).encode()
    for offset, named in ((1000, epoch), (2**64, epoch), (10**29, epoch), (5, b"another"), (1, b"another")):
        counted, scripts = world.malformed(), world.scripts()
        world.say(KEPT, b"p%d:%s:" % (offset, named) + GOOD)
        time.sleep(0.3)  # long enough for hundreds of reads
        assert world.scripts() - scripts < 8
        assert world.malformed() == counted + (named == epoch)
    result = world.ask("publish", channel=KEPT, data={"n": 2})
    assert "publish" in result


def test_what_workers_tell_each_other(world: World) -> None:
    """Orders that cannot be read or carried out are counted; those of nobody do nothing."""
    _, _, body = plain_request(world.hub.port, "GET", "/health/live")
    for channel in ("hub:nodes:all", f"hub:node:{json.loads(body)['node']}"):
        for what, payload in BAD_CONTROL.items():
            before = world.malformed()
            world.redis.publish(channel, payload)
            world.both_hear(1)
            assert world.malformed() == before + 1, what
        before = world.malformed()
        for payload in ODD_CONTROL.values():
            world.redis.publish(channel, payload)
        world.both_hear(2)
        assert world.malformed() == before
    assert world.hub.status("/health/ready") == 200


def test_entries_of_a_history(world: World) -> None:
    """Poison in a stream is left out of the history, for clients and the API, and who relies on it is told."""
    api(world.hub, "publish", channel="news:stream", data={"n": 1})
    since = api(world.hub, "history", channel="news:stream")
    end = int(since["offset"])
    for number, entry in enumerate(BAD_ENTRIES, end + 1):
        world.redis.xadd("hub:stream:{news:stream}", entry, id=f"{number}-0")
    world.redis.hset("hub:meta:{news:stream}", "s", str(end + len(BAD_ENTRIES)))
    before = world.malformed()
    assert [p["data"] for p in api(world.hub, "history", channel="news:stream", limit=100)["publications"]] == [
        {"n": 1}
    ]
    assert world.malformed() == before + len(BAD_ENTRIES)
    with PlainClient(world.hub.port) as client:
        wish = {"channel": "news:stream", "recover": True, "offset": end, "epoch": since["epoch"]}
        client.say({"id": 1, "connect": {"token": token()}}, {"id": 2, "subscribe": wish})
        answer = client.answer(2)
        assert not isinstance(answer, Closed)
        assert answer["subscribe"].get("was_recovering")
        assert not answer["subscribe"].get("recovered")
        client.say({"id": 3, "history": {"channel": "news:stream", "limit": 100}})
        answer = client.answer(3)
        assert not isinstance(answer, Closed)
        assert [p["data"] for p in answer["history"]["publications"]] == [{"n": 1}]
    assert api(world.hub, "publish", channel="news:stream", data={"n": 2})["offset"] == end + len(BAD_ENTRIES) + 1


def test_entries_of_presence(world: World) -> None:
    """Poison in a channel's presence is left out, for clients and the API; those who are there stay."""
    for client, value in BAD_PRESENCE.items():
        world.redis.hset(f"hub:presence:{{{KEPT}}}", client, value)
    before = world.malformed()
    there = world.ask("presence", channel=KEPT)["presence"]
    assert isinstance(there, dict)
    users = [info.get("user") for info in there["presence"].values()]
    assert users.count("42") == 1  # `types` has a number there, which is JSON and so nobody's fault
    assert len(users) <= 2
    assert world.malformed() >= before + len(BAD_PRESENCE) - 1
    listed = api(world.hub, "presence", channel=KEPT)["presence"]
    assert sorted(info["user"] for info in listed.values()) in (["42"], ["", "42"])
    world.redis.delete(f"hub:presence:{{{KEPT}}}")


def test_an_entry_in_ones_own_place(world: World) -> None:
    """Poison under the id of a client that is there: it can leave and come back, and so can the others."""
    channel = "news:usurped"
    with PlainClient(world.hub.port) as client:
        client.say({"id": 1, "connect": {"token": token()}}, {"id": 2, "subscribe": {"channel": channel}})
        connected = client.hear()
        assert isinstance(connected, bytes)
        own = json.loads(connected.split(b"\n")[0])["connect"]["client"]
        client.answer(2)
        client.say({"id": 3, "presence": {"channel": channel}})
        client.answer(3)
        for poison in (b"hello", b"lease 1 x 42{}", b""):
            world.redis.hset(f"hub:presence:{{{channel}}}", own, poison)
            said = [{"id": 4, "unsubscribe": {"channel": channel}}, {"id": 5, "subscribe": {"channel": channel}}]
            client.say(*said, {"id": 6, "presence": {"channel": channel}})
            answer = client.answer(6)
            assert not isinstance(answer, Closed)
            assert answer["presence"]["presence"].keys() == {own}
    assert set(refusals(world, channel).values()) == {0}


def refusals(world: World, channel: str) -> dict[str, int]:
    """What works in a channel, for a client of its own and the API: the code of each answer, 0 if it is none."""
    with PlainClient(world.hub.port) as client:
        client.say({"id": 1, "connect": {"token": token()}}, {"id": 2, "subscribe": {"channel": channel}})
        codes = {"subscribe": code_of(client.answer(2))}
        for number, (command, fields) in enumerate(
            {"publish": {"data": {}}, "history": {"limit": 1}, "presence": {}, "presence_stats": {}}.items(), 3
        ):
            client.say({"id": number, command: {"channel": channel, **fields}})
            codes[command] = code_of(client.answer(number))
    return codes


def code_of(answer: dict[str, object] | Closed) -> int:
    assert not isinstance(answer, Closed)
    error = answer.get("error")
    return int(error["code"]) if isinstance(error, dict) else 0


WRONG = {
    "meta": {"subscribe": 100, "publish": 103, "history": 103, "presence": 103, "presence_stats": 103},
    "stream": {"subscribe": 0, "publish": 0, "history": 0, "presence": 0, "presence_stats": 0},
    "presence": {"subscribe": 0, "publish": 0, "history": 0, "presence": 100, "presence_stats": 100},
    "users": {"subscribe": 0, "publish": 0, "history": 0, "presence": 0, "presence_stats": 100},
}


@pytest.mark.parametrize("kind", WRONG)
def test_keys_of_the_wrong_type(world: World, kind: str) -> None:
    """What cannot be answered is error 100, the rest and all other channels work, and so does this one afterwards."""
    channel = f"news:wrong-{kind}"
    key = f"hub:{kind}:{{{channel}}}"
    world.redis.set(key, "somebody else's")
    assert refusals(world, channel) == WRONG[kind]
    assert set(refusals(world, "news:right").values()) == {0}
    world.both_hear(3)
    world.redis.delete(key)
    assert set(refusals(world, channel).values()) == {0}
    assert world.hub.status("/health/ready") == 200


def test_a_huge_value(world: World) -> None:
    """Thirty megabytes in the place of one publication are skipped like any other poison."""
    before = world.malformed()
    world.say(KEPT, b'p1:epoch:j\0["' + b"x" * 30_000_000)
    world.both_hear(4)
    assert world.malformed() == before + 1
