"""Replies that wait for Redis: in order, and those that are due together in one write."""

from __future__ import annotations

import asyncio
from typing import Any

from hub.errors import BrokerUnavailable
from hub.pending import PendingReplies, PendingReply, settle
from hub.protocol.commands import Command, Publish
from hub.protocol.replies import reply


def publication(number: int) -> PendingReply:
    return PendingReply(Command(number, Publish("a")), asyncio.get_running_loop().create_future())


def numbers(due: list[PendingReply]) -> list[int]:
    return [pending.command.id for pending in due]


async def test_what_redis_answers_in_one_go_is_due_in_one_go() -> None:
    pending, told = PendingReplies(), list[list[int]]()
    waiting = [publication(number) for number in (1, 2, 3, 4)]
    for one in waiting:
        pending.add(one, lambda due: told.append(numbers(due)))
    for one in waiting[:3]:
        one.future.set_result(None)
    await asyncio.sleep(0)
    assert (told, len(pending)) == ([[1, 2, 3]], 1)
    waiting[3].future.set_result(None)
    await asyncio.sleep(0)
    assert (told, len(pending)) == ([[1, 2, 3], [4]], 0)


async def test_order_is_that_of_the_commands() -> None:
    """One that is answered earlier waits for those before it; what is added meanwhile is not forgotten."""
    pending, told = PendingReplies(), list[Any]()
    first, second, third = (publication(number) for number in (1, 2, 3))

    def on_due(due: list[PendingReply]) -> None:
        told.append(numbers(due))
        if len(told) == 1:
            pending.add(third, on_due)

    pending.add(first, on_due)
    pending.add(second, on_due)
    second.future.set_result(None)
    await asyncio.sleep(0)
    assert told == []
    first.future.set_result(None)
    await asyncio.sleep(0)
    assert told == [[1, 2]]
    third.future.set_result(None)
    await asyncio.sleep(0)
    assert told == [[1, 2], [3]]


async def test_faults_stand_beside_the_replies() -> None:
    """A command without an id gets no reply, but its fault is told."""
    good, silent, bad = publication(7), publication(0), publication(9)
    good.future.set_result(None)
    silent.future.set_result(None)
    fault = BrokerUnavailable("away")
    bad.future.set_exception(fault)
    assert settle([good, silent, bad], 0) == (reply(7, "publish"), [(bad.command, fault)])
