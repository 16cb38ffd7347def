"""Commands and their replies: paired in order, bounded, never repeated, never silent."""

from __future__ import annotations

import asyncio

import hiredis
import pytest

from hub.errors import BrokerUnavailable
from hub.redis_commands import OUTBOX_LIMIT, Commands, refuse
from hub.redis_link import Server
from hub.redis_scripts import Script
from tests.support.clock import run_virtually

TIMEOUT = 2.0
NOBODY = Server(False, b"")


class Wire:
    """A link that keeps what is written."""

    def __init__(self, server: Server = NOBODY) -> None:
        self.server = server
        self.writes: list[bytes] = []
        self.aborted = False

    def send(self, packed: bytes) -> None:
        self.writes.append(packed)

    def abort(self) -> None:
        self.aborted = True


def attached() -> tuple[Commands, Wire]:
    commands, wire = Commands(TIMEOUT), Wire()
    commands.attach(wire)
    return commands, wire


async def flushed() -> None:
    await asyncio.sleep(0)


def failure(future: asyncio.Future[None]) -> str:
    error = future.exception()  # raises if it is not done
    assert isinstance(error, BrokerUnavailable)
    return str(error)


NAMED = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$1\r\nB\r\n"
PING = b"*1\r\n$4\r\nPING\r\n"


async def test_a_server_that_has_taken_over_learns_its_lineage_first() -> None:
    """Before what has waited for it; a server that nobody was ever a copy of is told nothing."""
    commands, heir = Commands(TIMEOUT, lineage_key="key"), Wire(Server(False, b"B", heir=True))
    commands.execute(b"PING")
    commands.attach(heir)
    assert heir.writes == [NAMED + PING]
    commands.on_reply(b"OK")
    commands.name_server()
    commands.execute(b"PING")
    await flushed()
    assert heir.writes[1:] == [NAMED + PING]
    commands, first = Commands(TIMEOUT, lineage_key="key"), Wire(Server(False, b"A"))
    commands.attach(first)
    assert first.writes == []


async def test_a_server_that_refuses_its_lineage_gets_it_ahead_of_what_comes_next() -> None:
    """It may take writes at any moment, with a replica that is back (`min-replicas-to-write`): none comes first."""
    commands, heir = Commands(TIMEOUT, lineage_key="key"), Wire(Server(False, b"B", heir=True))
    commands.attach(heir)
    for reply in (hiredis.ReplyError("NOREPLICAS"), hiredis.ReplyError("NOREPLICAS"), b"OK"):
        ping = commands.execute(b"PING")
        await flushed()
        commands.on_reply(reply)
        commands.on_reply(b"PONG")
        assert ping.result() == b"PONG"
    commands.execute(b"PING")
    await flushed()
    assert heir.writes == [NAMED + PING] * 3 + [PING]
    commands.on_reply(b"PONG")
    assert commands.bytes == 0


async def test_a_lineage_that_was_taken_for_another() -> None:
    """The answer to what was asked before the server had other data says nothing of its lineage now."""
    commands, heir = Commands(TIMEOUT, lineage_key="key"), Wire(Server(False, b"A", heir=True))
    commands.attach(heir)
    commands.execute(b"PING")
    await flushed()
    heir.server = Server(False, b"B", heir=True)
    commands.name_server()
    commands.on_reply(b"OK")
    commands.on_reply(b"PONG")
    commands.execute(b"PING")
    await flushed()
    assert heir.writes[-1] == NAMED + PING


async def test_one_write_a_turn() -> None:
    """What is issued in one turn goes out together at its end, in order."""
    commands, wire = attached()
    first, second = commands.execute(b"PING"), commands.execute(b"ECHO", "ä")
    assert wire.writes == []
    await flushed()
    assert wire.writes == [b"*1\r\n$4\r\nPING\r\n" + "*2\r\n$4\r\nECHO\r\n$2\r\nä\r\n".encode()]
    commands.on_reply(b"PONG")
    assert first.done()
    assert not second.done()
    commands.on_reply(b"x")
    assert second.result() == b"x"


async def test_replies_are_paired_in_order() -> None:
    """An error, a caller that has gone and one that is too late do not shift the replies of the others."""
    commands, _ = attached()
    failed, gone, good = (commands.execute(b"PING") for _ in range(3))
    await flushed()
    gone.cancel()
    commands.on_reply(hiredis.ReplyError("NOPERM"))
    commands.on_reply(1)
    commands.on_reply(1)
    assert failure(failed) == "Redis refused: NOPERM"
    assert good.result() == 1


def test_a_late_reply_is_paired_with_its_own_command() -> None:
    """What is overdue fails and keeps its place, in case its reply still comes."""

    async def main() -> None:
        commands, _ = attached()
        late = commands.execute(b"PING")
        await asyncio.sleep(1.5)
        good = commands.execute(b"PING")
        await asyncio.sleep(1)
        commands.expire(commands.loop.time())
        assert failure(late) == "Redis did not answer in time; the publication may have been sent or not"
        assert not good.done()
        commands.on_reply(b"late")
        assert not good.done()
        commands.on_reply(b"good")
        assert good.result() == b"good"

    run_virtually(main)


def test_what_was_not_sent_expires_too() -> None:
    """In the order in which it was issued."""

    async def main() -> None:
        commands = Commands(TIMEOUT)
        old = commands.execute(b"PING")
        await asyncio.sleep(1)
        young = commands.execute(b"ECHO", "young")
        await asyncio.sleep(1)
        commands.expire(commands.loop.time())
        assert failure(old) == "not sent: Redis cannot be reached"
        assert not young.done()
        wire = Wire()
        commands.attach(wire)
        assert len(wire.writes) == 1
        assert b"young" in wire.writes[0]

    run_virtually(main)


async def test_a_loss_fails_what_was_sent_and_keeps_what_was_not() -> None:
    """A PUBLISH is never sent twice, and one that was not sent is not lost."""
    commands, wire = attached()
    sent = commands.execute(b"ECHO", "sent")
    await flushed()
    waits = commands.execute(b"ECHO", "waits")
    commands.on_lost(None)
    assert failure(sent) == "the connection to Redis broke; the publication may have been sent or not"
    await flushed()
    assert not waits.done()
    second = Wire()
    commands.attach(second)
    assert len(wire.writes) == len(second.writes) == 1
    assert b"waits" in second.writes[0]
    assert b"sent" not in second.writes[0]


async def test_there_is_a_limit_to_what_waits() -> None:
    """Beyond it publications are refused until replies have made room; a heartbeat still goes."""
    commands, wire = attached()
    half = b"x" * (OUTBOX_LIMIT // 2)
    first, refused = commands.execute(b"ECHO", half), commands.execute(b"ECHO", half)
    assert failure(refused) == "not sent: too many publications wait for Redis"
    assert commands.ask(b"PING") is not None
    await flushed()
    assert failure(commands.execute(b"ECHO", half)) == "not sent: too many publications wait for Redis"
    commands.on_reply(b"")
    commands.on_reply(b"")
    assert first.done()
    assert not commands.execute(b"ECHO", half).done()
    assert sum(write.count(b"PING") for write in wire.writes) == 1


@pytest.mark.parametrize("end", ["reply", "loss", "expiry", "refusal"])
async def test_room_is_given_back(end: str) -> None:
    """However a publication ends, what it took of the limit is free again."""
    commands = Commands(0 if end == "expiry" else TIMEOUT)
    for _ in range(3):
        if end in ("reply", "loss"):
            commands.attach(Wire())
        future = commands.execute(b"ECHO", b"x" * (OUTBOX_LIMIT - 100))
        assert not future.done()
        await flushed()
        if end == "reply":
            commands.on_reply(b"")
        elif end == "loss":
            commands.on_lost(None)
        elif end == "expiry":
            commands.expire(commands.loop.time())
        else:
            commands.turn_away()
            commands.welcome()
        assert future.done()


async def test_one_that_is_larger_than_the_limit_goes_alone() -> None:
    """Its size was allowed by the settings."""
    commands, _ = attached()
    assert not commands.execute(b"ECHO", b"x" * (OUTBOX_LIMIT + 1)).done()
    assert failure(commands.execute(b"PING")) == "not sent: too many publications wait for Redis"


async def test_nothing_is_accepted_while_redis_is_away() -> None:
    """From a failed attempt to connect until Redis is there again."""
    commands = Commands(TIMEOUT)
    waits = commands.execute(b"PING")
    assert not waits.done()
    commands.turn_away()
    assert failure(waits) == "not sent: Redis cannot be reached"
    assert failure(commands.execute(b"PING")) == "not sent: Redis cannot be reached"
    assert commands.ask(b"PING") is None
    commands.welcome()
    assert not commands.execute(b"PING").done()
    commands.turn_away("not sent: the broker is stopped")
    assert failure(commands.execute(b"PING")) == "not sent: the broker is stopped"
    commands.attach(Wire())
    assert not commands.execute(b"PING").done()


async def test_a_heartbeat_counts_as_a_question_until_redis_speaks() -> None:
    """Any reply is an answer."""
    commands, wire = attached()
    for count in (1, 2, 3):
        commands.ask(b"PING")
        assert commands.unanswered == count
    await flushed()
    commands.on_reply(b"")
    assert commands.unanswered == 0
    commands.abort()
    assert wire.aborted
    commands.on_lost(None)
    commands.abort()


async def test_a_reply_to_nothing_is_a_fault() -> None:
    """Out of step with Redis nothing can be told apart: the link has to end."""
    commands, _ = attached()
    with pytest.raises(IndexError):
        commands.on_reply(b"")


async def test_a_refusal_does_not_overwrite_a_result() -> None:
    """A future that is done stays as it is."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    refuse(future, "too late")
    assert future.result() is None


# Scripts

SCRIPT = Script("return ARGV[1]")
NOSCRIPT = hiredis.ReplyError("NOSCRIPT No matching script.")


def sent(wire: Wire) -> list[tuple[bytes, bytes]]:
    """The name and the last argument of each command that was written since the last call."""
    reader = hiredis.Reader()
    for packed in wire.writes:
        reader.feed(packed)
    wire.writes.clear()
    found = []
    while (command := reader.gets()) is not False:
        found.append((command[0], command[-1]))
    return found


def call(commands: Commands, name: str) -> asyncio.Future[bytes]:
    return commands.call(SCRIPT, ["key"], [name])


async def test_a_script_goes_by_its_digest() -> None:
    """With the number of keys, the keys and the arguments."""
    commands, wire = attached()
    result = call(commands, "ä")
    await flushed()
    assert wire.writes == [
        b"*5\r\n$7\r\nEVALSHA\r\n$40\r\n%s\r\n$1\r\n1\r\n$3\r\nkey\r\n$2\r\n\xc3\xa4\r\n" % SCRIPT.sha
    ]
    commands.on_reply(b"done")
    assert await result == b"done"


async def test_scripts_are_loaded_before_anything_else() -> None:
    """By each connection, and a server that refuses it costs nobody anything."""
    commands = Commands(TIMEOUT, [SCRIPT])
    waits = call(commands, "x")
    for reply in (SCRIPT.sha, hiredis.ReplyError("NOPERM")):
        wire = Wire()
        commands.attach(wire)
        again = call(commands, "y")
        await flushed()
        assert [name for name, _ in sent(wire)][:2] == [b"SCRIPT", b"EVALSHA"]
        commands.on_reply(reply)
        commands.on_reply(b"done")
        assert (waits if waits.done() else again).result() == b"done"
        commands.on_lost(None)


async def test_an_unknown_script_goes_in_full_and_nothing_overtakes_it() -> None:
    """Neither what was under way behind it nor what was issued meanwhile, other commands included."""
    commands, wire = attached()
    results = [call(commands, "1"), call(commands, "2")]
    await flushed()
    results.append(commands.execute(b"ECHO", "3"))
    commands.on_reply(NOSCRIPT)
    await flushed()
    assert sent(wire) == [(b"EVALSHA", b"1"), (b"EVALSHA", b"2")]
    results.append(call(commands, "4"))
    commands.on_reply(NOSCRIPT)
    await flushed()
    assert sent(wire) == [(b"EVAL", b"1"), (b"EVAL", b"2"), (b"ECHO", b"3"), (b"EVALSHA", b"4")]
    for number in (b"1", b"2", b"3", b"4"):
        commands.on_reply(number)
    assert [result.result() for result in results] == [b"1", b"2", b"3", b"4"]


async def test_an_unknown_script_that_nobody_waits_for_runs_too() -> None:
    """A publication is on its way when the call has returned, whatever becomes of the future."""
    commands, wire = attached()
    call(commands, "1").cancel()
    await flushed()
    commands.on_reply(NOSCRIPT)
    await flushed()
    assert sent(wire) == [(b"EVALSHA", b"1"), (b"EVAL", b"1")]


async def test_a_script_that_is_unknown_in_full_is_refused() -> None:
    """Whatever says so, it is not sent for ever."""
    commands, _ = attached()
    result = call(commands, "1")
    for _ in range(2):
        await flushed()
        commands.on_reply(NOSCRIPT)
    assert failure(result).startswith("Redis refused: NOSCRIPT")


async def test_an_unknown_script_survives_the_loss_of_the_connection() -> None:
    """It has not run, so it is like one that was not sent; what was under way behind it may have run."""
    commands, _ = attached()
    unknown, other = call(commands, "1"), commands.execute(b"ECHO", "2")
    await flushed()
    last = call(commands, "3")
    commands.on_reply(NOSCRIPT)
    commands.on_lost(None)
    assert failure(other) == "the connection to Redis broke; the publication may have been sent or not"
    second = Wire()
    commands.attach(second)
    assert sent(second) == [(b"EVAL", b"1"), (b"EVALSHA", b"3")]
    commands.on_reply(b"1")
    commands.on_reply(b"3")
    assert (unknown.result(), last.result()) == (b"1", b"3")


async def test_an_unknown_script_is_refused_after_the_end() -> None:
    """Nothing waits for a connection that does not come any more."""
    commands, _ = attached()
    unknown, other = call(commands, "1"), commands.execute(b"ECHO", "2")
    await flushed()
    commands.on_reply(NOSCRIPT)
    commands.turn_away("not sent: the broker is stopped")
    commands.on_lost(None)
    assert failure(unknown) == "not sent: the broker is stopped"
    assert other.done()


def test_an_unknown_script_does_not_wait_longer_than_others() -> None:
    """It was not run, and Redis says nothing more: it is refused at its deadline, and what is behind it goes on."""

    async def story() -> None:
        commands, wire = attached()
        unknown, other = call(commands, "1"), commands.execute(b"ECHO", "2")
        await flushed()
        commands.on_reply(NOSCRIPT)
        await asyncio.sleep(1)
        behind = commands.execute(b"ECHO", "3")
        await asyncio.sleep(TIMEOUT - 0.9)
        assert len(wire.writes) == 1
        commands.expire(asyncio.get_running_loop().time())
        assert failure(unknown) == "not sent: Redis cannot be reached"
        assert failure(other).startswith("Redis did not answer in time")
        await flushed()
        assert len(wire.writes) == 2
        for reply in (b"2", b"3"):
            commands.on_reply(reply)
        assert behind.result() == b"3"
        assert commands.bytes == 0

    run_virtually(story)


async def test_room_for_an_unknown_script_is_given_back() -> None:
    """What it took of the limit is free again after its reply."""
    commands, _ = attached()
    for _ in range(3):
        result = commands.call(SCRIPT, [], [b"x" * (OUTBOX_LIMIT - 200)])
        for reply in (NOSCRIPT, b""):
            await flushed()
            commands.on_reply(reply)
        assert await result == b""


async def test_a_reply_is_parsed() -> None:
    """The future has what the caller makes of it."""
    commands, _ = attached()
    result, called = commands.execute(b"PING", parse=len), commands.call(SCRIPT, [], ["x"], len)
    await flushed()
    for reply in (b"PONG", NOSCRIPT):
        commands.on_reply(reply)
    await flushed()
    commands.on_reply(b"four")
    assert result.result() == called.result() == 4


async def test_a_reply_that_means_nothing() -> None:
    """It is the failure of its own command, and replies stay paired."""
    commands, _ = attached()
    bad, good = commands.execute(b"PING", parse=len), commands.execute(b"PING", parse=len)
    await flushed()
    commands.on_reply(7)
    commands.on_reply(b"PONG")
    assert failure(bad).startswith("Redis answered 7, which means nothing: TypeError")
    assert good.result() == 4
