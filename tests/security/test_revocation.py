"""Rights end when they should: a user is thrown out of all workers at once, and a token's end is its client's end.

`make revocation` has a thousand connections.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.support.lean_socket import LeanSocket
from tests.support.redis import running_redis
from tests.support.security_client import CHANNELS
from tests.support.security_hub import CONFIG, api, guarded_hub, token
from tests.support.server import HubProcess

COUNT = int(os.environ.get("HUB_TEST_CONNECTIONS", "240"))
# Of the user who stays.
OTHERS = 30
GRACE = 1.0
# What S7 allows for everybody to be gone.
AT_ONCE, AFTER_THE_END = 1.0, 5.0


@pytest.fixture(scope="module")
def hub(redis_binary: str) -> Iterator[HubProcess]:
    config = f"client_expired_grace = {GRACE}\n{CONFIG}"
    with running_redis(redis_binary) as redis, guarded_hub(redis.url, "--workers", "3", config=config) as running:
        yield running


class Member:
    """One connected client; `ended` is when its socket was closed, and how."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.connected = asyncio.Event()
        self.socket: LeanSocket
        self.ended = 0.0

    def on_message(self, payload: bytes) -> None:
        self.heard.append(payload)
        self.connected.set()

    @classmethod
    async def join(cls, port: int, shown: str, *commands: dict[str, object]) -> Member:
        member = cls()
        async with asyncio.timeout(30):
            member.socket = await LeanSocket.open(port, CHANNELS, member.on_message)
            member.socket.ended.add_done_callback(lambda _: setattr(member, "ended", time.time()))
            said = ({"id": 1, "connect": {"token": shown}}, *commands)
            member.socket.send("\n".join(map(json.dumps, said)).encode())
            await member.connected.wait()
        if b'"connect"' not in member.heard[0]:
            member.socket.abort()
            await member.socket.ended
            raise PermissionError(member.heard[0].decode())
        return member


@asynccontextmanager
async def members(port: int, count: int, shown: str, *commands: dict[str, object]) -> AsyncIterator[list[Member]]:
    """So many, who have come a few at a time."""
    gate = asyncio.Semaphore(20)

    async def join() -> Member:
        async with gate:
            return await Member.join(port, shown, *commands)

    joined = await asyncio.gather(*(join() for _ in range(count)))
    try:
        yield joined
    finally:
        for member in joined:
            member.socket.abort()
        await asyncio.wait([member.socket.ended for member in joined], timeout=5)


async def all_end(gone: list[Member], timeout: float) -> Counter[tuple[int, str]]:
    """How they ended."""
    _, open_ = await asyncio.wait([member.socket.ended for member in gone], timeout=timeout)
    assert not open_, f"{len(open_)} of {len(gone)} are still connected"
    return Counter(member.socket.ended.result() for member in gone)


async def test_a_user_is_thrown_out(hub: HubProcess) -> None:
    """One call to one worker ends all connections of a user on all three within a second; others notice nothing."""
    async with members(hub.port, COUNT, token()) as gone, members(hub.port, OTHERS, token(user="7")) as others:
        nodes = (await asyncio.to_thread(api, hub, "info"))["nodes"]
        assert len([node for node in nodes if node["num_clients"]]) == 3
        begun = time.time()
        await asyncio.to_thread(api, hub, "disconnect", user="42")
        ends = await all_end(gone, 10)
        took = max(member.ended for member in gone) - begun
        print(f"{COUNT} connections on 3 workers closed within {took:.3f} s")
        assert set(ends) == {(3503, "force disconnect")}
        assert took <= AT_ONCE
        await asyncio.sleep(0.2)
        assert not any(member.socket.ended.done() for member in others)


async def test_some_are_spared(hub: HubProcess) -> None:
    """`whitelist` and `client` are ids of connections: those stay, or only that one goes."""
    async with members(hub.port, 9, token(user="13")) as joined:
        ids = [json.loads(member.heard[0].split(b"\n")[0])["connect"]["client"] for member in joined]
        await asyncio.to_thread(api, hub, "disconnect", user="13", client=ids[0])
        await all_end(joined[:1], 5)
        await asyncio.to_thread(api, hub, "disconnect", user="13", whitelist=ids[1:4])
        await all_end(joined[4:], 5)
        assert not any(member.socket.ended.done() for member in joined[1:4])


async def test_a_subscription_is_taken(hub: HubProcess) -> None:
    """`unsubscribe` takes a channel from all connections of a user: nothing of it arrives afterwards."""
    wish: dict[str, object] = {"id": 2, "subscribe": {"channel": "news:open"}}
    async with members(hub.port, 12, token(user="14"), wish) as joined:
        await eventually_heard(joined, b'"subscribe":{')
        await asyncio.to_thread(api, hub, "unsubscribe", user="14", channel="news:open")
        await eventually_heard(joined, b'"unsubscribe":{"code":2000')
        await asyncio.to_thread(api, hub, "publish", channel="news:open", data={"secret": 1})
        await asyncio.sleep(0.3)
        assert not any(b"secret" in payload for member in joined for payload in member.heard)


async def eventually_heard(joined: list[Member], wanted: bytes) -> None:
    async with asyncio.timeout(10):
        while not all(any(wanted in payload for payload in member.heard) for member in joined):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_token_ends(hub: HubProcess) -> None:
    """Who does not refresh is closed with 3005 when its token has ended and the grace is over, and not before."""
    end = int(time.time()) + 4
    async with members(hub.port, COUNT // 4, token(exp=end)) as joined:
        ends = await all_end(joined, end + GRACE + AFTER_THE_END + 5 - time.time())
        assert set(ends) == {(3005, "connection expired")}
        first, last = (choose(member.ended for member in joined) for choose in (min, max))
        print(f"closed {first - end:.3f} to {last - end:.3f} s after the end, {GRACE:g} s of it grace")
        assert end + GRACE <= first
        assert last <= end + GRACE + AFTER_THE_END


async def test_a_subscription_token_ends(hub: HubProcess) -> None:
    """The same for one subscription: 2501, and the connection stays."""
    end = int(time.time()) + 3
    shown = token(user="15", channel="$news:open", exp=end)
    wish: dict[str, object] = {"id": 2, "subscribe": {"channel": "$news:open", "token": shown}}
    async with members(hub.port, 6, token(user="15"), wish) as joined:
        await eventually_heard(joined, b'"unsubscribe":{"code":2501')
        assert end + GRACE <= time.time() <= end + GRACE + AFTER_THE_END
        await asyncio.to_thread(api, hub, "publish", channel="$news:open", data={"secret": 2})
        await asyncio.sleep(0.3)
        assert not any(b"secret" in payload for member in joined for payload in member.heard)
        assert not any(member.socket.ended.done() for member in joined)


async def test_an_old_token_lets_nobody_back_in(hub: HubProcess) -> None:
    """After its end a token is refused for connecting, whatever grace its connections had."""
    end = int(time.time()) + 1
    shown = token(exp=end)
    await asyncio.sleep(end + 0.1 - time.time())
    with pytest.raises(PermissionError, match="109"):
        await Member.join(hub.port, shown)
