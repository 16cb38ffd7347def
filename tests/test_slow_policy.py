"""`slow_policy` of a namespace: what a client that reads too slowly misses, and what never."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from hub import ConfigError, Hub, Settings
from hub.namespaces import ChannelOptions
from hub.protocol.commands import Subscribe
from hub.protocol.forms import JsonForm, RawForm
from hub.protocol.frames import split
from hub.subscription import plan
from hub.typed import History
from hub.types import SlowPolicy
from tests.protocol.test_frames import client_frame
from tests.support.uvicorn_server import serving
from tests.support.waiting import eventually
from tests.test_wire import Raw, raw, small_socket

OPEN_TO_ALL = {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}
KEPT = {"history_size": 1000, "history_ttl": 60, **OPEN_TO_ALL}


@asynccontextmanager
async def slow_client(options: dict[str, Any], *, path: bytes = b"/connection/websocket") -> AsyncIterator[tuple]:
    """A hub whose namespace `n` has these options, and the connection of a client that takes nothing by itself."""
    hub, app = Hub(Settings.load(drain=0, slow_budget=200_000, namespaces={"n": options})), FastAPI()
    app.include_router(hub.router)
    async with serving(app) as (port, _), raw(limit=1024, sock=small_socket(port)) as client:
        await client.handshake(path)
        yield hub, client


async def subscribe(hub: Hub, client: Raw, **wish: Any) -> None:
    commands = [{"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "n:a", **wish}}]
    client.writer.write(client_frame(1, b"\n".join(json.dumps(command).encode() for command in commands)))
    await eventually(lambda: hub.registry.subscriptions)


async def flood(hub: Hub, channel: str = "n:a") -> None:
    for number in range(200):
        await hub.publish(channel, f"{number:03}" * 16_000)
        await asyncio.sleep(0)


async def numbers_up_to(client: Raw, last: int) -> list[int]:
    """Of the publications that come, until `last`; everything else is replies."""
    numbers: list[int] = []
    while not numbers or numbers[-1] != last:
        head = await client.read(2)
        size = int.from_bytes(await client.read(2), "big") if head[1] == 126 else head[1]
        for line in (await client.read(size)).splitlines():
            if (push := json.loads(line).get("push")) is not None:
                numbers.append(int(push["pub"]["data"][:3]))
    return numbers


@pytest.mark.parametrize("policy", ["drop_oldest", "keep_latest"])
async def test_a_protocol_client_stays_and_gets_the_newest(policy: SlowPolicy) -> None:
    """In order, as much of it as fits or nothing but the latest; and what has nothing to do with it is answered."""
    async with slow_client({"slow_policy": policy, **OPEN_TO_ALL}) as (hub, client):
        await subscribe(hub, client)
        await flood(hub)
        client.writer.write(client_frame(1, b'{"id":3,"rpc":{"method":"none"}}'))
        numbers = await numbers_up_to(client, 199)
        assert numbers == sorted(set(numbers))
        assert len(numbers) < 200
        tail = len([number for number in numbers if number >= 195])
        assert tail == (4 if policy == "drop_oldest" else 1)  # 48 kB each, in 200 kB
        assert hub.registry.subscriptions == 1


async def test_a_reply_is_never_left_out() -> None:
    """It waits among the publications that are dropped."""
    async with slow_client({"slow_policy": "keep_latest", **OPEN_TO_ALL}) as (hub, client):
        await subscribe(hub, client)
        await flood(hub)
        client.writer.write(client_frame(1, b'{"id":77,"presence":{"channel":"n:a"}}'))
        [wire] = [wire for group in hub.registry.channels["n:a"].groups.values() for wire in group.values()]
        before = wire.queued
        await eventually(lambda: wire.queued != before)
        await flood(hub)
        texts: list[bytes] = []
        while not texts or b'"199199' not in texts[-1] or sum(b'"id":77' in text for text in texts) == 0:
            head = await client.read(2)
            size = int.from_bytes(await client.read(2), "big") if head[1] == 126 else head[1]
            texts.append(await client.read(size))
        assert [text for text in texts if b'"id":77' in text] == [
            b'{"id":77,"error":{"code":108,"message":"not available"}}'
        ]


@pytest.mark.parametrize(
    ("options", "wish"),
    [
        pytest.param({"allow_positioning": True, **KEPT, "allow_history_for_anonymous": True}, {"positioned": True}),
        pytest.param({"join_leave": True, "presence": True, **OPEN_TO_ALL}, {"join_leave": True}),
    ],
)
async def test_who_relies_on_hearing_everything_is_disconnected(options: dict[str, Any], wish: dict[str, Any]) -> None:
    """With 3008, and has missed nothing up to then."""
    allowed = {f"allow_{what}_for_{who}": True for what in ("presence", "history") for who in ("client", "anonymous")}
    async with slow_client({"slow_policy": "keep_latest", **allowed, **options}) as (hub, client):
        await subscribe(hub, client, **wish)
        await flood(hub)
        frames = list(split(await client.rest()))
        pushes = [json.loads(line)["push"] for _, text in frames[:-1] for line in text.splitlines() if b'"pub"' in line]
        numbers = [int(push["pub"]["data"][:3]) for push in pushes]
        assert 0 < len(numbers) < 200
        assert numbers == list(range(len(numbers)))
        assert int.from_bytes(frames[-1][1][:2], "big") == 3008


@pytest.mark.parametrize(("policy", "ended"), [("disconnect", True), ("keep_latest", False), (None, False)])
async def test_raw_rooms(policy: SlowPolicy | None, ended: bool) -> None:
    """The namespace of the room decides, and where it says nothing the setting."""
    settings = Settings.load(
        drain=0,
        slow_budget=200_000,
        slow_policy="drop_oldest",
        namespaces={"n": {"slow_policy": policy, **OPEN_TO_ALL}},
    )
    hub, app = Hub(settings), FastAPI()
    app.include_router(hub.router)
    async with serving(app) as (port, _), raw(limit=1024, sock=small_socket(port)) as client:
        await client.handshake(b"/ws/n:a")
        await eventually(lambda: hub.registry.subscriptions)
        await flood(hub)
        assert bool(hub.registry.subscriptions) is not ended


# Who gets which


@pytest.mark.parametrize(
    ("options", "wish", "slow"),
    [
        ({}, {}, "disconnect"),
        ({"slow_policy": "disconnect"}, {}, "disconnect"),
        ({"slow_policy": "drop_oldest"}, {}, "drop_oldest"),
        ({"slow_policy": "drop_oldest", "allow_positioning": True, **KEPT}, {}, "drop_oldest"),
        ({"slow_policy": "drop_oldest", "allow_positioning": True, **KEPT}, {"positioned": True}, "disconnect"),
        ({"slow_policy": "drop_oldest", "allow_recovery": True, **KEPT}, {"recoverable": True}, "disconnect"),
        (
            {"slow_policy": "drop_oldest", "allow_positioning": True, "force_recovery_mode": "cache", **KEPT},
            {"positioned": True},
            "disconnect",
        ),
        ({"slow_policy": "drop_oldest", "join_leave": True}, {"join_leave": True}, "disconnect"),
        (
            {"slow_policy": "keep_latest", "force_recovery": True, "force_recovery_mode": "cache", **KEPT},
            {},
            "keep_latest",
        ),
        (
            {
                "slow_policy": "keep_latest",
                "force_recovery": True,
                "force_recovery_mode": "cache",
                "allowed_delta_types": ("fossil",),
                **KEPT,
            },
            {"delta": "fossil"},
            "disconnect",
        ),
    ],
)
def test_plans(options: dict[str, Any], wish: dict[str, Any], slow: SlowPolicy) -> None:
    """In `cache` mode the latest is what counts, so that who recovers may miss what came before it."""
    form = plan(Subscribe("n:a", **wish), ChannelOptions(**options), lambda what: True).form
    assert isinstance(form, JsonForm)
    assert form.slow == slow


@pytest.mark.parametrize(
    "forced",
    [{"force_recovery": True, **KEPT}, {"force_positioning": True, **KEPT}, {"force_push_join_leave": True}],
)
@pytest.mark.parametrize("policy", ["drop_oldest", "keep_latest"])
def test_a_policy_that_nobody_would_have(policy: SlowPolicy, forced: dict[str, Any]) -> None:
    """It is refused, with the option that stands against it."""
    with pytest.raises(
        ValidationError, match=f"slow_policy '{policy}' leaves publications out, and with {next(iter(forced))}"
    ):
        ChannelOptions(slow_policy=policy, **forced)
    ChannelOptions(slow_policy="disconnect", **forced)


def test_typed_channels() -> None:
    """`slow=` is the option; a history by itself means recovery, with which it does not go."""
    hub = Hub(Settings())
    prices = hub.channel(
        "prices:{symbol}", float, slow="keep_latest", history=History(size=1, ttl=60), force_recovery_mode="cache"
    )
    assert prices.options.slow_policy == "keep_latest"
    assert hub.raw_form("prices:a") == RawForm("keep_latest")
    assert hub.raw_form("lobby") == RawForm("disconnect")
    with pytest.raises(ConfigError, match="slow_policy 'drop_oldest' leaves publications out"):
        hub.channel("chat:{room}", str, slow="drop_oldest", history=History(size=1, ttl=60))
