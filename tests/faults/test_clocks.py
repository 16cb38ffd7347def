"""Workers whose clocks are wrong: nothing is lost, and all lasts as long as it should."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import redis

from hub.tokens import sign
from tests.support import needs
from tests.support.checker import Checker, all_reach
from tests.support.deployment import KEY
from tests.support.fleet import Fleet, Replica, running_fleet
from tests.support.ledger import Ledger
from tests.support.security_client import Closed, PlainClient, plain_request
from tests.support.skew import skewed, tidy_up
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timed]

CHANNELS = [f"news-{number}" for number in range(6)]
CLIENTS = 20
# Of the three replicas, in seconds.
SKEWS = (-600, 0, 600)
SECRET = "the secret of hubs with wrong clocks"
# Seconds: how much later than its token a connection ends.
GRACE = 1
SETTINGS = {
    "HUB_TOKEN_HMAC_SECRET_KEY": SECRET,
    "HUB_ALLOW_ANONYMOUS_CONNECT_WITHOUT_TOKEN": "true",
    "HUB_CLIENT_EXPIRED_GRACE": str(GRACE),
}


@pytest.fixture(scope="module")
def fleet(redis_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One clock is ten minutes behind, one ten minutes ahead. The last test kills these two."""
    folder = tmp_path_factory.mktemp("skew")
    with running_fleet(
        redis_binary, needs.nginx(), each=[skewed(seconds, folder) for seconds in SKEWS], **SETTINGS
    ) as running:
        assert [round(offset(replica) / 10) for replica in running.replicas] == [-60, 0, 60]
        yield running
        assert "Traceback" not in running.log
    for replica in running.replicas:
        tidy_up(replica.process.pid)


def offset(replica: Replica) -> float:
    """Seconds by which its clock is ahead, as it tells everybody."""
    with urllib.request.urlopen(f"http://127.0.0.1:{replica.port}/health/live") as response:
        return parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time()


async def test_nothing_is_lost(fleet: Fleet) -> None:
    """Order and recovery are Redis's business: clients that come and go among the three notice nothing."""
    ledger, rng = Ledger(), random.Random(1)
    checkers = [
        Checker(f"client {number}", fleet.port, [CHANNELS[number % len(CHANNELS)]], ledger, rng)
        for number in range(CLIENTS)
    ]
    try:
        await eventually(lambda: all(checker.ready for checker in checkers), 10)
        async with Traffic(fleet.url, KEY, CHANNELS, 100, ledger, publishers=2) as traffic:
            for _ in range(20):
                rng.choice(checkers).restart()
                await asyncio.sleep(0.2)
            await traffic.stop()
            tops = await traffic.publishers[0].tops(CHANNELS)
            assert await all_reach(checkers, tops, 10), checkers
    finally:
        await asyncio.gather(*(checker.leave() for checker in checkers))
    ledger.judge()
    print(ledger.verdict)
    assert not ledger.violations, ledger.verdict


# How long things last


def publish(replica: Replica, channel: str) -> None:
    """Into a history, with an idempotency key, whose result is kept for some time too."""
    body = json.dumps({"channel": channel, "data": "", "idempotency_key": channel}).encode()
    status, _, answer = plain_request(replica.port, "POST", "/api/publish", body, X_API_Key=KEY)
    assert status == 200, answer
    assert b'"result"' in answer, answer


def lifetimes(client: redis.Redis, replica: Replica) -> dict[str, float]:
    """How long each key of a publication lasts that this replica makes, by the name of the key; to half a second."""
    for attempt in range(50):  # until the machine is quick enough
        channel, begun = f"{replica.name}-{attempt}", time.monotonic()
        publish(replica, channel)
        left: dict[bytes, Any] = {key: client.pttl(key) for key in client.scan_iter(f"hub:*{channel}*")}
        passed = time.monotonic() - begun
        if passed < 0.5:
            return {key.decode().replace(channel, ""): value / 1000 + passed for key, value in left.items()}
    raise AssertionError("no publication was done within half a second")


def test_keys_last_as_long_whoever_writes_them(fleet: Fleet) -> None:
    """The history (300 s), its position and the result of a publication: each to the second."""
    with fleet.redis.client() as client:
        behind, right, ahead = (lifetimes(client, replica) for replica in fleet.replicas)
    assert len(right) == 3
    assert sorted(right.values())[0] == pytest.approx(300, abs=1)
    for other in (behind, ahead):
        assert other == pytest.approx(right, abs=1)
    worst = max(abs(other[key] - right[key]) for other in (behind, ahead) for key in right)
    print(f"keys last {sorted(map(round, right.values()))} s, with wrong clocks {worst:.3f} s more or less at most")


def show(port: int, exp: int) -> tuple[PlainClient, Any]:
    """Connect with a token that ends then; the answer."""
    client = PlainClient(port)
    client.say({"id": 1, "connect": {"token": sign({"sub": "42", "exp": exp}, SECRET)}})
    return client, client.answer(1)


def accepts(replica: Replica, exp: float) -> bool:
    client, answer = show(replica.port, int(exp))
    with client:
        assert "connect" in answer or answer["error"]["code"] == 109, answer
        return "connect" in answer


def late(replica: Replica, skew: int) -> float:
    """How much later than it should the replica ends a connection whose token ends, by its own clock, in 2 to 3 s."""
    exp = math.ceil(time.time() + skew) + 2
    client, answer = show(replica.port, exp)
    with client:
        assert answer["connect"]["ttl"] == pytest.approx(exp - skew - time.time(), abs=1)
        while not isinstance(heard := client.hear(), Closed):
            pass
        assert heard.code == 3005
        return time.time() + skew - exp - GRACE


async def test_tokens_are_judged_by_the_clock_of_the_worker(fleet: Fleet) -> None:
    """So who is ten minutes behind lets them live ten minutes longer; by its own clock each is right to the second."""
    now = time.time()
    for end, judged in ((-660, (0, 0, 0)), (-540, (1, 0, 0)), (60, (1, 1, 0)), (540, (1, 1, 0)), (660, (1, 1, 1))):
        assert [accepts(replica, now + end) for replica in fleet.replicas] == [bool(each) for each in judged], end
    times = [asyncio.to_thread(late, *pair) for pair in zip(fleet.replicas, SKEWS, strict=True)]
    lateness = await asyncio.gather(*times)
    print(f"connections ended {max(lateness):.2f} s after their tokens and the grace at most, by the clock of each")
    assert all(-0.1 < seconds < 1 for seconds in lateness)


def left_of_leases(client: redis.Redis) -> dict[str, float]:
    """Seconds that each worker's presence lease has left, by the clock of Redis, which has decided it."""
    seconds, micros = client.time()
    scores: Any = client.zrange("hub:leases", 0, -1, withscores=True)
    return {name.decode(): expiry / 1000 - seconds - micros / 1e6 for name, expiry in scores}


def lease_of(client: redis.Redis, channel: str) -> str:
    """Under which its only entry is."""
    [entry] = client.hvals(f"hub:presence:{{{channel}}}")  # type: ignore[misc]
    return str(entry.split()[0].decode())


async def test_presence_lasts_as_long_as_the_lease(fleet: Fleet) -> None:
    """A killed replica's clients go when its lease has run out by the clock of Redis, whatever its own says."""
    right = fleet.replicas[1]
    with fleet.redis.client() as client, ExitStack() as stack:
        for replica in fleet.replicas:
            member = stack.enter_context(PlainClient(replica.port))
            room = {"channel": f"room:{replica.name}"}
            member.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": room})
            assert "subscribe" in member.answer(2)
        leases = {replica.name: lease_of(client, f"room:{replica.name}") for replica in fleet.replicas}
        killed, ends = time.monotonic(), {}
        for replica in fleet.replicas:
            if replica is not right:
                replica.kill()
        left = left_of_leases(client)
        assert all(3 < left[lease] < 6.6 for lease in leases.values()), left
        del leases[right.name]
        while leases:
            assert time.monotonic() - killed < 10
            for name in tuple(leases):
                if not client.exists(f"hub:presence:{{room:{name}}}"):
                    ends[name] = (time.monotonic() - killed, left[leases.pop(name)])
            await asyncio.sleep(0.01)
        assert client.hlen(f"hub:presence:{{room:{right.name}}}") == 1
    print(
        "gone after (the lease had left): " + ", ".join(f"{gone:.2f} s ({left:.2f} s)" for gone, left in ends.values())
    )
    # The other looks for leases that have run out every 1.2 s at least; the rest is this machine.
    assert all(-0.1 < gone - left < 1.2 + 2 for gone, left in ends.values())
