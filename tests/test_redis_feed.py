"""The subscriptions of a worker: what is wanted, what Redis has confirmed, and what proves that it arrives."""

from __future__ import annotations

import asyncio
import logging

import hiredis
import pytest

from hub.errors import BrokerUnavailable
from hub.redis_feed import DEAF, LINGER, REFUSED_PAUSE, SUBSCRIBE_BATCH, Feed
from tests.support.clock import run_virtually

CONTROL, EVERYBODY = b"hub:node:me", b"hub:nodes:all"


class Wire:
    """A link that keeps the commands that were written, without the hub's prefix."""

    def __init__(self) -> None:
        self.commands: list[tuple[bytes, ...]] = []

    def send(self, packed: bytes) -> None:
        reader = hiredis.Reader()
        reader.feed(packed)
        name, *channels = reader.gets()
        self.commands.append((name, *(channel.removeprefix(b"hub:channel:") for channel in channels)))

    def abort(self) -> None: ...


class Fed:
    """A feed, its link, and what it said."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.told: list[bytes] = []
        self.confirmations = 0
        self.feed = Feed(
            CONTROL.decode(), EVERYBODY.decode(), "hub:channel:", self.deliver, self.told.append, self.confirm
        )
        self.wire = Wire()

    def deliver(self, channel: str, payload: bytes) -> None:
        if payload == b"bad":
            raise ValueError("cannot take this")
        self.heard.append((channel, payload))

    def confirm(self) -> None:
        self.confirmations += 1

    def attach(self) -> list[tuple[bytes, ...]]:
        self.wire = Wire()
        self.feed.attach(self.wire)
        return self.wire.commands

    def acknowledge(self, *channels: str, kind: bytes = b"subscribe") -> None:
        for channel in channels:
            self.feed.on_reply([kind, b"hub:channel:" + channel.encode(), 1])

    def beat(self, number: int) -> None:
        self.feed.on_reply([b"message", CONTROL, b"%d" % number])


@pytest.fixture
async def fed() -> Fed:
    """A feed that is connected and complete."""
    fed = Fed()
    fed.attach()
    fed.feed.on_reply([b"subscribe", CONTROL, 1])
    fed.wire.commands.clear()
    return fed


# Subscribing


async def test_the_joiners_of_a_turn_share_one_command(fed: Fed) -> None:
    """And those of one channel share one subscription, which is done when Redis says so."""
    first, again, other = fed.feed.subscribe("ä"), fed.feed.subscribe("ä"), fed.feed.subscribe("b")
    assert first is again
    await asyncio.sleep(0)
    assert fed.wire.commands == [(b"SUBSCRIBE", "ä".encode(), b"b")]
    assert not first.done()
    fed.acknowledge("ä")
    assert first.done()
    assert not other.done()
    assert fed.feed.subscribe("ä") is first
    await asyncio.sleep(0)
    assert len(fed.wire.commands) == 1


async def test_what_was_wanted_before_there_was_a_link() -> None:
    """It is subscribed with the link, and the control channel last: its confirmation is that of all."""
    fed = Fed()
    future = fed.feed.subscribe("room")
    assert fed.attach() == [(b"SUBSCRIBE", b"room", EVERYBODY, CONTROL)]
    fed.acknowledge("room")
    assert future.done()
    assert not fed.feed.confirmed.is_set()
    fed.feed.on_reply([b"subscribe", CONTROL, 2])
    assert fed.feed.confirmed.is_set()
    assert fed.confirmations == 1
    assert repr(fed.feed) == "<Feed 1 of 1 channels confirmed, 0 leaving>"


async def test_many_channels_are_several_commands() -> None:
    """No single command holds up Redis."""
    fed = Fed()
    for number in range(2 * SUBSCRIBE_BATCH):
        fed.feed.subscribe(f"room-{number}")
    commands = fed.attach()
    assert [len(command) - 1 for command in commands] == [SUBSCRIBE_BATCH, SUBSCRIBE_BATCH, 2]
    assert commands[-1] == (b"SUBSCRIBE", EVERYBODY, CONTROL)


def test_many_channels_are_left_by_several_commands() -> None:
    """When a worker's clients go at once, nobody else waits for Redis either."""

    async def main() -> None:
        fed = Fed()
        names = [f"room-{number}" for number in range(SUBSCRIBE_BATCH + 1)]
        for name in names:
            fed.feed.subscribe(name)
        commands = fed.attach()
        fed.acknowledge(*names)
        commands.clear()
        for name in names:
            fed.feed.unsubscribe(name)
        await asyncio.sleep(LINGER)
        fed.feed.leave_due()
        assert [(command[0], len(command) - 1) for command in commands] == [
            (b"UNSUBSCRIBE", SUBSCRIBE_BATCH),
            (b"UNSUBSCRIBE", 1),
        ]

    run_virtually(main)


async def test_a_loss_takes_the_confirmations_back(fed: Fed) -> None:
    """What was confirmed is to be confirmed again; who still waits goes on waiting."""
    confirmed, waiting = fed.feed.subscribe("a"), fed.feed.subscribe("b")
    fed.acknowledge("a")
    fed.feed.on_lost(None)
    assert not fed.feed.confirmed.is_set()
    assert fed.feed.wanted["a"] is not confirmed
    assert fed.feed.wanted["b"] is waiting
    assert fed.attach() == [(b"SUBSCRIBE", b"a", b"b", EVERYBODY, CONTROL)]
    fed.acknowledge("a", "b")
    assert waiting.done()
    assert fed.feed.wanted["a"].done()


async def test_a_loss_in_the_turn_of_a_join(fed: Fed) -> None:
    """Between the call and its write: the next link brings it."""
    fed.feed.subscribe("a")
    fed.feed.on_lost(None)
    await asyncio.sleep(0)
    assert fed.wire.commands == []
    assert fed.attach() == [(b"SUBSCRIBE", b"a", EVERYBODY, CONTROL)]


async def test_a_name_that_cannot_be_sent_is_its_callers_fault_alone(fed: Fed) -> None:
    """The others of the turn are not affected."""
    good = fed.feed.subscribe("good")
    with pytest.raises(UnicodeEncodeError):
        fed.feed.subscribe("\ud800")
    await asyncio.sleep(0)
    fed.acknowledge("good")
    assert good.done()
    assert list(fed.feed.wanted) == ["good"]


# Leaving


def test_leaving_takes_its_time() -> None:
    """UNSUBSCRIBE goes out after the linger, once, and not for those who have returned."""

    async def main() -> None:
        fed = Fed()
        fed.attach()
        for name in ("a", "b", "c"):
            fed.feed.subscribe(name)
        await asyncio.sleep(0)
        fed.acknowledge("a", "b", "c")
        fed.wire.commands.clear()
        for name in ("a", "b", "c", "unknown"):
            fed.feed.unsubscribe(name)
        await asyncio.sleep(LINGER - 0.01)
        fed.feed.leave_due()
        assert fed.wire.commands == []
        returned = fed.feed.subscribe("b")
        assert returned.done()
        await asyncio.sleep(0.02)
        fed.feed.leave_due()
        fed.feed.leave_due()
        assert fed.wire.commands == [(b"UNSUBSCRIBE", b"a", b"c")]
        assert list(fed.feed.wanted) == ["b"]

    run_virtually(main)


def test_a_return_after_the_unsubscribe_waits_for_its_own_confirmation() -> None:
    """The UNSUBSCRIBE that is under way is confirmed first and counts for nothing."""

    async def main() -> None:
        fed = Fed()
        fed.attach()
        fed.feed.subscribe("a")
        fed.acknowledge("a")
        fed.feed.unsubscribe("a")
        await asyncio.sleep(LINGER)
        fed.feed.leave_due()
        returned = fed.feed.subscribe("a")
        fed.acknowledge("a", kind=b"unsubscribe")
        assert not returned.done()
        fed.acknowledge("a")
        assert returned.done()

    run_virtually(main)


def test_nothing_is_left_before_it_was_confirmed() -> None:
    """So that a channel never has two commands under way, whose confirmations could be taken for each other's."""

    async def main() -> None:
        fed = Fed()
        fed.attach()
        fed.feed.subscribe("a")
        fed.feed.unsubscribe("a")
        await asyncio.sleep(5 * LINGER)
        fed.wire.commands.clear()
        fed.feed.leave_due()
        assert fed.wire.commands == []
        fed.acknowledge("a")
        fed.feed.leave_due()
        assert fed.wire.commands == [(b"UNSUBSCRIBE", b"a")]

    run_virtually(main)


def test_what_lingers_is_not_subscribed_again() -> None:
    """A loss ends the linger; without a link, its time does. Who waits is told."""

    async def main() -> None:
        fed = Fed()
        fed.attach()
        waiting = fed.feed.subscribe("a")
        fed.feed.unsubscribe("a")
        fed.feed.on_lost(None)
        assert isinstance(waiting.exception(), BrokerUnavailable)
        waiting = fed.feed.subscribe("b")
        fed.feed.unsubscribe("b")
        await asyncio.sleep(LINGER)
        fed.feed.leave_due()
        assert isinstance(waiting.exception(), BrokerUnavailable)
        assert fed.attach() == [(b"SUBSCRIBE", EVERYBODY, CONTROL)]

    run_virtually(main)


# Hearing


async def test_publications_are_delivered(fed: Fed, caplog: pytest.LogCaptureFixture) -> None:
    """Names and payloads as they were; a delivery that fails is logged and takes no other with it."""
    for payload in (b"1", b"bad", b"\xff"):
        fed.feed.on_reply([b"message", "hub:channel:ä".encode(), payload])
    assert fed.heard == [("ä", b"1"), ("ä", b"\xff")]
    assert "cannot take this" in caplog.text


async def test_refusals_are_logged(fed: Fed, caplog: pytest.LogCaptureFixture) -> None:
    """NOPERM, for example; a PONG outside of any subscription is no refusal."""
    fed.feed.on_reply(b"PONG")
    assert caplog.records == []
    fed.feed.on_reply(hiredis.ReplyError("NOPERM"))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "NOPERM" in caplog.text


def test_channels_that_are_refused() -> None:
    """Asked for again after a while, one by one, because a refusal takes the whole command; what nobody wants is left.

    Redis refuses while a script is running for too long, and under an ACL that somebody may mend.
    """

    async def main() -> None:
        fed = Fed()
        fed.attach()
        fed.feed.on_reply([b"subscribe", CONTROL, 1])
        joining = [fed.feed.subscribe(name) for name in ("a", "b", "c")]
        await asyncio.sleep(0)
        fed.feed.on_reply(hiredis.ReplyError("BUSY"))
        fed.feed.unsubscribe("c")
        fed.wire.commands.clear()
        await asyncio.sleep(REFUSED_PAUSE / 2)
        fed.feed.join_again()
        assert fed.wire.commands == []
        await asyncio.sleep(REFUSED_PAUSE / 2)
        fed.feed.join_again()
        fed.feed.join_again()
        assert fed.wire.commands == [(b"SUBSCRIBE", b"a"), (b"SUBSCRIBE", b"b"), (b"UNSUBSCRIBE", b"c")]
        assert isinstance(joining.pop().exception(), BrokerUnavailable)
        fed.acknowledge("a")
        fed.feed.on_reply(hiredis.ReplyError("NOPERM"))
        await asyncio.sleep(REFUSED_PAUSE)
        fed.feed.join_again()
        assert fed.wire.commands[3:] == [(b"SUBSCRIBE", b"b")]
        fed.acknowledge("b")
        assert all(future.done() for future in joining)
        await asyncio.sleep(REFUSED_PAUSE)
        fed.feed.join_again()
        assert len(fed.wire.commands) == 4

    run_virtually(main)


def test_patterns_that_are_refused() -> None:
    """Not ready, though all channels are confirmed; and asked for again until Redis allows them, on each connection."""

    async def main() -> None:
        fed = Fed()
        overheard: list[str] = []
        fed.feed.listen("chat:", lambda channel, payload: overheard.append(channel))
        for _ in range(2):
            assert fed.attach()[0] == (b"PSUBSCRIBE", b"chat:*")
            fed.feed.on_reply(hiredis.ReplyError("NOPERM"))
            fed.feed.on_reply([b"subscribe", CONTROL, 1])
            fed.feed.on_reply([b"message", CONTROL, b"1"])
            assert not fed.feed.heard_within(3)
            fed.wire.commands.clear()
            fed.feed.listen_again()
            assert fed.wire.commands == []
            await asyncio.sleep(REFUSED_PAUSE)
            fed.feed.on_reply([b"message", CONTROL, b"2"])
            fed.feed.listen_again()
            fed.feed.listen_again()
            assert fed.wire.commands == [(b"PSUBSCRIBE", b"chat:*")]
            fed.feed.on_reply([b"psubscribe", b"hub:channel:chat:*", 1])
            assert fed.feed.heard_within(3)
            await asyncio.sleep(REFUSED_PAUSE)
            fed.feed.listen_again()
            assert len(fed.wire.commands) == 1
            fed.feed.on_lost(None)
        assert overheard == []

    run_virtually(main)


async def test_any_word_is_an_answer(fed: Fed) -> None:
    """Pings count as questions until Redis says anything."""
    fed.feed.ping()
    fed.feed.ping()
    assert fed.feed.unanswered == 2
    fed.feed.on_reply([b"message", b"hub:channel:a", b""])
    assert fed.feed.unanswered == 0
    fed.feed.on_lost(None)
    fed.feed.ping()
    assert fed.feed.unanswered == 0


def test_ready_is_a_heartbeat_on_this_connection() -> None:
    """Subscribed and heard, lately, and not on a connection that is gone."""

    async def main() -> None:
        fed = Fed()
        fed.attach()
        fed.beat(1)
        assert not fed.feed.heard_within(3)
        fed.feed.on_reply([b"subscribe", CONTROL, 1])
        fed.beat(2)
        assert fed.feed.heard_within(3)
        await asyncio.sleep(3.1)
        assert not fed.feed.heard_within(3)
        fed.beat(3)
        assert fed.feed.heard_within(3)
        fed.feed.on_lost(None)
        fed.attach()
        fed.feed.on_reply([b"subscribe", CONTROL, 1])
        assert not fed.feed.heard_within(3)

    run_virtually(main)


async def test_junk_on_the_control_channel_is_no_heartbeat(fed: Fed) -> None:
    """Whoever may publish there can neither end the link nor prove anything."""
    fed.feed.on_reply([b"message", CONTROL, b"junk"])
    assert not fed.feed.heard_within(3)


async def test_deaf_is_an_answer_that_overtook_heartbeats(fed: Fed) -> None:
    """Redis keeps the order of what it sends: a PONG without the heartbeats before it proves that they do not come."""
    fed.feed.expect(1)
    for _ in range(DEAF):
        assert not fed.feed.deaf
        fed.feed.ping()
        fed.feed.on_reply([b"pong", b""])
    assert fed.feed.deaf
    fed.beat(1)
    assert not fed.feed.deaf


async def test_what_looks_like_deafness(fed: Fed) -> None:
    """A heartbeat that was heard before Redis's word that it took it; one that comes just before the PONG."""
    for number in range(1, 10):
        fed.beat(number)
        fed.feed.expect(number)
        fed.feed.ping()
        fed.feed.on_reply([b"pong", b""])
    for number in range(10, 20):
        fed.feed.expect(number)
        fed.feed.ping()
        fed.beat(number)
        fed.feed.on_reply([b"pong", b""])
    assert not fed.feed.deaf


async def test_heartbeats_of_before_are_not_owed_to_a_new_connection(fed: Fed) -> None:
    """Nor is anything while it is not complete."""
    fed.feed.expect(7)
    fed.feed.on_lost(None)
    fed.attach()
    fed.feed.expect(8)
    fed.feed.ping()
    fed.feed.on_reply([b"pong", b""])
    fed.feed.on_reply([b"subscribe", CONTROL, 1])
    for _ in range(DEAF + 1):
        fed.feed.ping()
        fed.feed.on_reply([b"pong", b""])
    assert not fed.feed.deaf


async def test_close_tells_who_waits(fed: Fed) -> None:
    """And wants nothing more."""
    done, waiting = fed.feed.subscribe("a"), fed.feed.subscribe("b")
    fed.acknowledge("a")
    fed.feed.close("the end")
    assert done.result() is None
    assert str(waiting.exception()) == "the end"
    assert fed.feed.wanted == {}


async def test_redis_reads_its_data(fed: Fed) -> None:
    """It passes heartbeats on and keeps nothing: that is not what others may rely on. It is over with the next PING."""
    fed.beat(1)
    assert fed.feed.heard_within(3)
    fed.feed.on_reply(hiredis.ReplyError("LOADING Redis is loading the dataset in memory"))
    fed.beat(2)
    assert not fed.feed.heard_within(3)
    assert not fed.feed.turned_down
    fed.feed.on_reply([b"pong", b""])
    assert fed.feed.heard_within(3)
    fed.feed.on_reply(hiredis.ReplyError("LOADING Redis is loading the dataset in memory"))
    fed.feed.on_lost(None)
    fed.attach()
    fed.feed.on_reply([b"subscribe", CONTROL, 1])
    fed.beat(3)
    assert fed.feed.heard_within(3)
