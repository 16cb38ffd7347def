"""Who may do what, cell by cell, against a real `hub serve`.

Five questions make a cell: where the page is from, how the client has connected, which subscription token it shows, in
which channel, to do what. `RULES` answers them all; it is read from top to bottom, and nothing of the hub is asked.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.redis import running_redis
from tests.support.security_client import Closed, PlainClient
from tests.support.security_hub import api, guarded_hub, token
from tests.support.server import HubProcess

# The user whose tokens are good, and one who is somebody else.
ME, ANOTHER = "42", "7"

ORIGINS = {
    "none": "",
    "allowed": "https://app.example.com",
    "other": "https://evil.example.org",
    "null": "null",
    "sub-domain": "https://app.example.com.evil.example.org",
}
# How the client connects; what it shows then to subscribe.
CONNECTIONS = ("none", "good", "expired", "wrong key", "alg none")
SUBSCRIPTIONS = ("none", "good", "expired", "wrong key", "alg none", "another user", "another channel")
NAMES = {
    "namespace": "news:open",
    "private": "$news:closed",
    "own": f"news:#{ME}",
    "another's": f"news:#{ANOTHER}",
    "unknown": "nowhere:open",
    "too long": "news:" + "x" * 251,
}
ACTIONS = ("subscribe", "recover", "publish", "history", "presence")
ANY = "*"


class Cell(NamedTuple):
    """One question."""

    origin: str
    connection: str
    subscription: str
    channel: str
    action: str


class Rule(NamedTuple):
    """Who it is about, each field with `|` between alternatives; and what they get."""

    origin: str
    connection: str
    subscription: str
    channel: str
    action: str
    answer: str


# Commands other than `subscribe` are said by a client that has tried to subscribe first.
RULES = [
    # Pages of elsewhere get no connection, whatever they show.
    Rule("other|null|sub-domain", ANY, ANY, ANY, ANY, "HTTP 403"),
    # A bad token is worse than none.
    Rule(ANY, "expired", ANY, ANY, ANY, "error 109"),
    Rule(ANY, "wrong key|alg none", ANY, ANY, ANY, "close 3500"),
    # Names are judged before anything that they could be about.
    Rule(ANY, ANY, ANY, "too long", ANY, "error 107"),
    Rule(ANY, ANY, ANY, "unknown", ANY, "error 102"),
    # A subscription token that is good for somebody, or for something, else is a stolen one.
    Rule(ANY, ANY, "another user|another channel", ANY, ANY, "close 3500"),
    Rule(ANY, "none", "good", ANY, ANY, "close 3500"),
    # Who shows one is judged by it, also where none was needed.
    Rule(ANY, "good", "good", ANY, ANY, "ok"),
    Rule(ANY, ANY, "expired", ANY, "subscribe|recover", "error 109"),
    Rule(ANY, ANY, "expired|wrong key|alg none", ANY, ANY, "error 103"),
    # Without one it is up to the channel; this namespace is for users.
    Rule(ANY, "good", "none", "namespace|own", ANY, "ok"),
    Rule(ANY, ANY, ANY, ANY, ANY, "error 103"),
]


def expected(cell: Cell) -> str:
    """What the first rule that is about this cell says."""
    return next(rule.answer for rule in RULES if all(map(_covers, rule, cell)))


def _covers(pattern: str, value: str) -> bool:
    return pattern == ANY or value in pattern.split("|")


# A page of elsewhere has no chance to show a subscription token, so the best one and none stand for all.
CELLS = [
    *map(Cell._make, itertools.product(("none", "allowed"), CONNECTIONS, SUBSCRIPTIONS, NAMES, ACTIONS)),
    *map(Cell._make, itertools.product(("other", "null", "sub-domain"), CONNECTIONS, ("none", "good"), NAMES, ACTIONS)),
]


def connection_token(kind: str) -> str:
    return "" if kind == "none" else token(kind)


def subscription_token(kind: str, channel: str) -> str:
    if kind == "none":
        return ""
    user = ANOTHER if kind == "another user" else ME
    return token(kind, user=user, channel="news:other" if kind == "another channel" else channel)


def conversation(connection: str, subscription: str, channel: str, action: str) -> list[dict[str, object]]:
    """What a client says, all at once; the last command is the one that the cell asks about."""
    wish: dict[str, object] = {"channel": channel}
    if shown := subscription_token(subscription, channel):
        wish["token"] = shown
    if action == "recover":
        wish |= {"recover": True, "offset": 1, "epoch": "guessed"}
    said = [{"id": 1, "connect": {"token": connection_token(connection)}}, {"id": 2, "subscribe": wish}]
    details = {"publish": {"data": {}}, "history": {"limit": 10}, "presence": {}}
    if action in details:
        said.append({"id": 3, action: {"channel": channel, **details[action]}})
    return said


@pytest.fixture(scope="module")
def hub(redis_binary: str) -> Iterator[HubProcess]:
    with running_redis(redis_binary) as redis, guarded_hub(redis.url) as running:
        yield running


def ask(hub: HubProcess, cell: Cell) -> str:
    """What the hub answers to a cell."""
    headers = {"Origin": ORIGINS[cell.origin]} if ORIGINS[cell.origin] else {}
    with PlainClient(hub.port, **headers) as client:
        if client.status != 101:
            return f"HTTP {client.status}"
        said = conversation(cell.connection, cell.subscription, NAMES[cell.channel], cell.action)
        client.say(*said)
        answer = client.answer(len(said))
    if isinstance(answer, Closed):
        return f"close {answer.code}"
    return f"error {answer['error']['code']}" if "error" in answer else "ok"


def test_every_cell(hub: HubProcess) -> None:
    """Each cell is answered as the rules say, and nothing that was refused has happened."""
    wrong = []
    published: Counter[str] = Counter()
    for cell in CELLS:
        answer = ask(hub, cell)
        if answer != expected(cell):
            wrong.append(f"{cell}: {answer}, not {expected(cell)}")
        published[cell.channel] += cell.action == "publish" and expected(cell) == "ok"
    assert len(CELLS) == 3000
    assert {cell.origin for cell in CELLS} == ORIGINS.keys()
    assert wrong == []
    for name in ("namespace", "private", "own", "another's"):
        kept = api(hub, "history", channel=NAMES[name], limit=10000)["offset"]
        assert kept == published[name], name


def test_every_rule_is_about_something() -> None:
    """No rule is dead, and each answer that a client can get is in the table."""
    first = Counter(next(rule for rule in RULES if all(map(_covers, rule, cell))) for cell in CELLS)
    assert [rule for rule in RULES if not first[rule]] == []
    answers = {rule.answer for rule in RULES}
    assert answers == {"ok", "HTTP 403", "close 3500", "error 102", "error 103", "error 107", "error 109"}
