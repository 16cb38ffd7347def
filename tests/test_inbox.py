"""What waits for an iterator: iterators that are too slow, and bursts that are not."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from hub.compat import Broadcast, Event, MessagesLost
from hub.inbox import VALUES, Inbox, lost_messages
from hub.types import Publication
from tests.support.broadcasts import soon


async def dropped_messages(broadcast: Broadcast) -> int:
    """The metric."""
    metrics = (await broadcast._hub.metrics("0")).decode()
    (number,) = re.findall(r'^hub_dropped_messages_total{cause="slow_reader".*} ([\d.]+)$', metrics, re.MULTILINE)
    return int(float(number))


async def test_a_slow_iterator_is_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It gets what was kept, in order, then the sentence and the number of what is missing, then goes on.

    Others hear everything; what is missing is counted and logged.
    """
    monkeypatch.setenv("HUB_MAX_MESSAGE_SIZE", "1000")
    monkeypatch.setenv("HUB_SLOW_BUDGET", "2000")
    monkeypatch.setattr("hub.inbox._lost._next", 0.0)
    before = lost_messages()
    async with Broadcast("memory://") as broadcast:
        dropped = await dropped_messages(broadcast)
        async with broadcast.subscribe("news") as slow, broadcast.subscribe("news") as fast:
            for number in range(100):
                await broadcast.publish("news", f"{number:0100}")
                assert int(await soon(fast)) == number
                assert slow._inbox.size <= 2000
            kept = [int(await soon(slow)) for _ in range(5)]
            await broadcast.publish("news", "100")  # there is room again, but it would hide the gap
            assert await soon(fast) == "100"
            sentence = r"'news' were dropped.*2000 bytes.*HUB_SLOW_BUDGET"
            with pytest.raises(MessagesLost, match=sentence) as lost:  # noqa: PT012 - it comes after the events
                async for event in slow:
                    kept.append(int(event.message))
            assert kept == list(range(len(kept)))
            assert len(kept) >= 2000 // 110
            assert (lost.value.channel, lost.value.lost) == ("news", 101 - len(kept))
            assert lost_messages() - before == 101 - len(kept)
            assert await dropped_messages(broadcast) - dropped == 101 - len(kept)
            assert repr(slow) == "<Subscriber 'news', 0 bytes wait>"
            await broadcast.publish("news", "again")
            assert await soon(slow) == await soon(fast) == "again"
    assert "messages dropped for iterators" in caplog.text


async def test_a_burst_is_not_slowness(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes in one turn of the event loop is kept by who waits for it, even if it is more than the budget."""
    monkeypatch.setenv("HUB_MAX_MESSAGE_SIZE", "1000")
    monkeypatch.setenv("HUB_SLOW_BUDGET", "2000")
    async with Broadcast("memory://") as broadcast, broadcast.subscribe("news") as subscriber:
        await asyncio.gather(*(broadcast.publish("news", f"{number:0500}") for number in range(50)))
        assert [int(await soon(subscriber)) for _ in range(50)] == list(range(50))


async def test_who_publishes_lets_others_read() -> None:
    """A loop of publications in memory, which never has to wait, does not keep iterators from their turns."""
    heard: list[Any] = []
    async with Broadcast("memory://") as broadcast, broadcast.subscribe("news") as subscriber:

        async def read() -> None:
            heard.append(await subscriber.get())

        reading = asyncio.create_task(read())
        for number in range(100):
            await broadcast.publish("news", f"{number}")
        assert heard == [Event("news", "0")]
        await reading


async def test_an_abyss_is_text() -> None:
    """JSON that is nested deeper than Python goes arrives as its text, and what follows it too."""
    deep = b"[" * 5000 + b"]" * 5000
    inbox = Inbox("x", 100_000)
    publications = [Publication(deep, kind=ord("j")), Publication(b"next")]
    inbox.write(b"".join(VALUES.frames("x", publications, None)))
    assert [await inbox.take(), await inbox.take()] == [deep.decode(), "next"]
