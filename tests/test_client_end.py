"""Nothing is left of a protocol client, whenever it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from hub.authority import Asker
from hub.errors import Disconnects
from hub.memory import MemoryBroker
from hub.protocol.session import State
from hub.tokens import sign
from tests.support.clock import EPOCH, in_virtual_time, unix_time  # noqa: F401
from tests.support.protocol_clients import SECRET, Session, about, connect, world


def hang_up(session: Session) -> None:
    session.client.on_close(1006, "")


SCRIPT = [
    connect(sign({"sub": "1", "channels": ["chat:s", "t"], "exp": EPOCH + 60}, SECRET)),
    about(2, "subscribe", "chat:a"),
    about(3, "subscribe", "b"),
    about(4, "publish", "chat:a", data=1),
    about(5, "presence", "chat:a"),
    about(6, "unsubscribe", "chat:a"),
    about(7, "subscribe", "chat:a"),
    about(8, "history", "chat:a", limit=-1),
    {"id": 9, "rpc": {"method": "slow"}},
    about(10, "unsubscribe", "b"),
]


class Slow(MemoryBroker):
    """Everything that has an answer takes a moment."""

    def subscribe(self, channel: str) -> Any:
        super().subscribe(channel)
        return asyncio.sleep(0.05)

    def read_history(self, *arguments: Any, **options: Any) -> Any:
        page = super().read_history(*arguments, **options)

        async def later() -> Any:
            await asyncio.sleep(0.03)
            return await page

        return asyncio.ensure_future(later())


@pytest.mark.parametrize("end", [hang_up, lambda session: session.close(Disconnects.SLOW)])
@pytest.mark.parametrize("step", range(0, 40))
@in_virtual_time
async def test_the_end_at_any_moment_leaves_nothing(step: int, end: Callable[[Session], None]) -> None:
    """Whatever is under way when the connection ends: no entry, no subscription, no deadline, no task stays."""
    async with world(Slow()) as w:
        ended: list[int] = []

        @w.hub.rpc("slow")
        async def slow(client: Asker, data: Any) -> None:
            await asyncio.sleep(0.05)

        @w.hub.on_disconnect
        async def disconnected(client: Asker, code: int, reason: str) -> None:
            ended.append(code)

        session = w.open()
        session.say(*SCRIPT)
        await asyncio.sleep(0.011 * step)
        was_open = session.client.state is State.OPEN
        await w.hub.subscribe_user("1", "chat:z")
        await asyncio.sleep(0)
        end(session)
        said = len(session.received)
        hang_up(session)
        await asyncio.sleep(0.5)
        await w.nothing_is_left()
        assert len(session.received) == said
        assert len(ended) == was_open


@in_virtual_time
async def test_the_end_before_anything_could_begin() -> None:
    """A close right behind the commands, in the same turn: what was never begun is not missed."""
    async with world() as w:
        session = w.open()
        session.say(connect())
        hang_up(session)
        await w.nothing_is_left()
        session = await w.connected()
        session.say(about(2, "subscribe", "chat:a"), about(3, "subscribe", "b"))
        hang_up(session)
        await w.nothing_is_left()


@in_virtual_time
async def test_a_broken_on_disconnect(caplog: pytest.LogCaptureFixture) -> None:
    """Its fault is logged, also one of its signature, and everything is released."""
    async with world() as w:
        for function in (lambda client, code, reason: None, lambda: None):
            w.hub.on_disconnect(function)  # type: ignore[type-var]
            hang_up(await w.connected())
            await w.nothing_is_left()
