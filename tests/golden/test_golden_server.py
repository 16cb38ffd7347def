"""What a real Centrifuge server does by itself: the server API on its clients, pings, expiry, the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from unittest.mock import ANY

import httpx2
import pytest

from tests.sdk.session import token
from tests.support.centrifuge import Client, Json, client, connected
from tests.support.server import HubProcess, hub_serve
from tests.support.waiting import eventually

from .words import CONFIG, DISCONNECTS, ERRORS, call, error, future

# Server-side subscriptions, and the server API


async def test_the_personal_channel(hub: HubProcess, channel: str) -> None:
    """Subscribed with `connect`; the client hears its own join there and may publish."""
    user = channel
    async with connected(hub.ws_url, token=token(sub=user)) as bob:
        subs = bob.received[0]["connect"]["subs"]
        assert subs == {f"#{user}": {"recoverable": True, "epoch": ANY, "positioned": True}}
        assert await bob.push(f"#{user}", "join") == {"info": {"user": user, "client": ANY}}
        assert await bob.ask("publish", channel=f"#{user}", data="me") == {}
        assert (await bob.push(f"#{user}", "pub"))["data"] == "me"


async def test_the_api_unsubscribes(hub: HubProcess, api: httpx2.AsyncClient, channel: str) -> None:
    """A push with 2000, after which nothing of the channel comes."""
    async with connected(hub.ws_url, token=token(sub=channel)) as bob:
        await bob.ask("subscribe", channel=channel)
        assert await call(api, "unsubscribe", user=channel, channel=channel) == {}
        push = await bob.push(channel, "unsubscribe")
        assert push == {"code": 2000, "reason": "server unsubscribe"}
        assert await bob.ask("presence_stats", channel=channel) == {"num_clients": 0, "num_users": 0}


async def test_the_api_subscribes(hub: HubProcess, api: httpx2.AsyncClient, channel: str) -> None:
    """A push with the position, if there is one; publications follow."""
    async with connected(hub.ws_url, token=token(sub=channel)) as bob:
        assert await call(api, "subscribe", user=channel, channel=channel) == {}
        push = await bob.push(channel, "subscribe")
        assert push == {"recoverable": True, "epoch": ANY, "positioned": True}
        await call(api, "publish", channel=channel, data=1)
        assert await bob.push(channel, "pub") == {"data": 1, "offset": 1, "epoch": push["epoch"]}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(None, (3503, "force disconnect"), id="by default"),
        pytest.param({"code": 4500, "reason": "bye"}, (4500, "bye"), id="with a code"),
        pytest.param({"code": 4000, "reason": ""}, (4000, ANY), id="without a reason"),
    ],
)
async def test_the_api_disconnects(
    hub: HubProcess, api: httpx2.AsyncClient, channel: str, asked: Json | None, expected: tuple[int, str]
) -> None:
    """A close frame whose reason is never empty: with an empty one JavaScript reconnects even when it must not."""
    async with connected(hub.ws_url, token=token(sub=channel)) as bob:
        await call(api, "disconnect", user=channel, **({"disconnect": asked} if asked else {}))
        code, reason = await bob.closed()
        assert (code, reason) == expected
        assert reason


async def test_the_api_publishes_once(ann: Client, api: httpx2.AsyncClient, channel: str) -> None:
    """The same idempotency key: the same place, one push."""
    await ann.ask("subscribe", channel=channel)
    first = await call(api, "publish", channel=channel, data="a", idempotency_key="k")
    assert first == {"offset": 1, "epoch": ANY}
    assert await call(api, "publish", channel=channel, data="b", idempotency_key="k") == first
    await call(api, "publish", channel=channel, data="c")
    await ann.push(channel, "pub", 2)
    assert [publication["data"] for publication in ann.pushes(channel, "pub")] == ["a", "c"]


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("publish", {"channel": "unknown:x", "data": 1}, 102),
        ("publish", {"channel": "x"}, 107),
        ("presence", {"channel": "recovery:x"}, 108),
        ("presence_stats", {"channel": "recovery:x"}, 108),
        ("history", {"channel": "x", "since": {"offset": 1, "epoch": "foreign"}}, 112),
        ("history", {"channel": "unknown:x"}, 102),
    ],
)
async def test_the_api_refuses(api: httpx2.AsyncClient, method: str, request_: Json, code: int) -> None:
    """With status 200; in transport mode with the HTTP status that fits."""
    response = await api.post(method, json=request_)
    assert response.status_code == 200
    assert response.json() == {"error": {"code": code, "message": ANY}}
    assert response.json()["error"]["message"].startswith(ERRORS[code])
    response = await api.post(method, json=request_, headers={"X-Centrifugo-Error-Mode": "transport"})
    assert response.status_code == {102: 404, 107: 400, 108: 400, 112: 416}[code]
    assert response.json()["code"] == code


async def test_who_may_call_the_api(hub: HubProcess) -> None:
    """Both keys of the configuration, in any of three places; 401, 405 and 400 for what is wrong."""
    async with httpx2.AsyncClient(base_url=f"{hub.url}/api/", trust_env=False) as http:
        for key in ("api_key", "test-api-key"):
            assert (await http.post("info", json={}, headers={"X-API-Key": key})).status_code == 200
            assert (await http.post("info", json={}, headers={"Authorization": f"apikey {key}"})).status_code == 200
            assert (await http.post(f"info?api_key={key}", json={})).status_code == 200
        assert (await http.post("info", json={})).status_code == 401
        assert (await http.post("info", json={}, headers={"X-API-Key": "wrong"})).status_code == 401
        assert (await http.get("info", headers={"X-API-Key": "api_key"})).status_code == 405
        assert (await http.post("info", content=b"{", headers={"X-API-Key": "api_key"})).status_code == 400


# Time


@pytest.fixture(scope="module")
def impatient() -> Iterator[HubProcess]:
    """The same with short times."""
    times = {"PING_INTERVAL": "2", "PING_TIMEOUT": "1", "CLIENT_STALE_TIMEOUT": "1", "CLIENT_EXPIRED_GRACE": "0.5"}
    environment = {f"HUB_{name}": value for name, value in times.items()}
    with hub_serve("--config", str(CONFIG), "--drain", "0", env=environment) as process:
        yield process


async def test_no_pong(impatient: HubProcess) -> None:
    """The first ping comes in the second half of the interval; 3012 a timeout later, whatever else is said."""
    async with connected(impatient.ws_url, answers_pings=False) as mute:
        start = asyncio.get_running_loop().time()

        async def talk() -> None:
            while mute.end is None:
                await mute.command("rpc")
                await asyncio.sleep(0.1)

        talking = asyncio.create_task(talk())
        assert await mute.closed() == (3012, DISCONNECTS[3012])
        ended = asyncio.get_running_loop().time()
        await talking
        assert mute.received[0]["connect"]["ping"] == 2
        assert len(mute.pings) == 1
        assert 0.9 <= mute.pings[0] - start <= 2.5
        assert 0.9 <= ended - mute.pings[0] <= 2


async def test_pongs(impatient: HubProcess) -> None:
    """A client that answers stays; a second answer to the same ping ends it."""
    async with connected(impatient.ws_url) as good:
        await eventually(lambda: len(good.pings) == 3, 10)
        await good.ask("rpc")
        await good.send("{}")
        assert await good.closed() == (3501, DISCONNECTS[3501])


async def test_stale(impatient: HubProcess) -> None:
    """Who does not `connect` in time is closed."""
    async with client(impatient.ws_url) as opened:
        assert await opened.closed(3) == (3502, DISCONNECTS[3502])


async def test_the_connection_expires(impatient: HubProcess) -> None:
    """At the end of its token and a grace; who refreshes stays."""
    async with (
        connected(impatient.ws_url, token=token(sub="1", exp=int(time.time()) + 2)) as idle,
        connected(impatient.ws_url, token=token(sub="1", exp=int(time.time()) + 2)) as eager,
    ):
        assert await eager.ask("refresh", token=token(sub="1", exp=future())) == {"expires": True, "ttl": ANY}
        assert await idle.closed() == (3005, DISCONNECTS[3005])
        assert await eager.ask("rpc") == error(108)


async def test_shutdown() -> None:
    """SIGTERM: 3001, upon which SDKs go to another worker."""
    with hub_serve("--config", str(CONFIG), "--drain", "0.2") as hub:
        async with connected(hub.ws_url) as opened:
            stopping = asyncio.create_task(asyncio.to_thread(hub.stop))
            assert await opened.closed() == (3001, DISCONNECTS[3001])
            assert await stopping == 0
