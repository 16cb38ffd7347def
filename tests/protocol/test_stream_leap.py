"""Offsets that leap where another server goes on: who followed recovers, who heard what is lost is told."""

from __future__ import annotations

import pytest

from hub.protocol.stream import Stream
from hub.types import HistoryOptions, Publication, StreamPosition

LIMIT = 5
KEPT = HistoryOptions(size=10, ttl=60.0, meta_ttl=600.0)
LEAP = 1_000_000
# The last that the new server had of the old one, and the first that it took itself.
FORK, FIRST = 10, LEAP + 1


def pub(offset: int, before: int = 0) -> Publication:
    return Publication(b"%d" % offset, offset=offset, epoch="A", before=before)


def old(first: int, last: int) -> list[Publication]:
    return [pub(offset) for offset in range(first, last + 1)]


def new(count: int) -> list[Publication]:
    """What the new server has taken."""
    return [pub(FIRST, before=FORK), *(pub(FIRST + number) for number in range(1, count))]


def at(offset: int) -> StreamPosition:
    return StreamPosition(offset, "A")


def standing(kept: list[Publication]) -> Stream:
    """A stream that has read this as the newest part of its history."""
    stream = Stream(KEPT, LIMIT)
    assert stream.begin() is None
    stream.fill(kept, at(kept[-1].offset), 0.0)
    return stream


def recovered(stream: Stream, since: int) -> list[int] | None:
    """The offsets; None if the client is told. It must not take a read."""
    recovery = stream.recover(at(since), LIMIT, 0.0)
    assert recovery is not None
    return None if recovery.publications is None else [p.offset for p in recovery.publications]


def test_who_stands_where_the_other_server_goes_on() -> None:
    """The leap is the next publication, live as well as read."""
    stream = standing(old(8, FORK))
    assert stream.arrive(pub(FIRST, before=FORK), 0.0) == [pub(FIRST, before=FORK)]
    assert stream.arrive(pub(FIRST + 1), 0.0) == [pub(FIRST + 1)]
    stream = standing(old(8, FORK))
    stream.doubt(0.0)
    assert stream.begin() == FORK - 1
    page = [pub(FORK), *new(2)]
    assert not stream.is_contradicted(page, at(FIRST + 1), 0.0)
    filled = stream.fill(page, at(FIRST + 1), 0.0)
    assert (filled.deliver, filled.lost) == (new(2), False)


@pytest.mark.parametrize("stood", [FORK - 1, FORK + 1, FORK + 3])
def test_who_stands_elsewhere(stood: int) -> None:
    """Behind it is a gap that the history fills; beyond it is what is lost, and that is told under the same epoch."""
    stream = standing(old(8, stood))
    stream.suspected = True
    assert stream.arrive(pub(FIRST, before=FORK), 0.0) is None
    assert stream.begin() == stood - 1
    page = [p for p in (*old(8, FORK), *new(1)) if p.offset >= stood]
    assert not stream.is_contradicted(page, at(FIRST), 0.0)
    filled = stream.fill(page, at(FIRST), 0.0)
    assert filled.lost is (stood > FORK)
    assert stream.live
    assert stream.position == at(FIRST)
    if stood < FORK:
        assert filled.deliver == [pub(FORK), pub(FIRST, before=FORK)]


def test_a_history_that_no_longer_has_what_stands_here() -> None:
    """It has expired, or was pushed out; that the next one follows it is proof enough."""
    stream = standing(old(8, FORK))
    stream.doubt(0.0)
    stream.begin()
    assert not stream.is_contradicted(new(2), at(FIRST + 1), 0.0)
    assert not stream.fill(new(2), at(FIRST + 1), 0.0).lost


def test_another_publication_in_this_place_is_contradiction_still() -> None:
    stream = standing(old(8, FORK))
    stream.doubt(0.0)
    stream.begin()
    other = Publication(b"other", offset=FORK, epoch="A")
    assert stream.is_contradicted([other, *new(1)], at(FIRST), 0.0)


def test_recovery_over_a_leap() -> None:
    """From where the other server goes on, and before; not from where it never was."""
    stream = standing([*old(8, FORK), *new(2)])
    assert recovered(stream, FORK) == [FIRST, FIRST + 1]
    assert recovered(stream, FORK - 1) == [FORK, FIRST, FIRST + 1]
    assert recovered(stream, FIRST) == [FIRST + 1]
    assert recovered(stream, FIRST + 1) == []
    for lost in (FORK + 1, FORK + 3, LEAP, FIRST + 2):
        assert recovered(stream, lost) is None


def test_recovery_from_before_what_is_remembered() -> None:
    """A read goes as many publications back as there may be, the leap counted as the one step that it is."""
    stream = standing(new(2))
    assert recovered(stream, FORK) == [FIRST, FIRST + 1]
    assert recovered(stream, FORK - 2) is None  # the history was read as a whole, and has no more
    stream = Stream(KEPT, LIMIT)
    stream.begin()
    stream.fill([pub(FORK)], at(FORK), 0.0)
    for publication in new(2):
        stream.arrive(publication, 0.0)
    stream._floor = 0  # it was read only in part
    assert stream.recover(at(FORK - 2), LIMIT, 0.0) is None
    assert stream.begin(LIMIT) == FORK + 2 - LIMIT
    stream.fill([*old(8, FORK), *new(2)], at(FIRST + 1), 0.0)
    assert recovered(stream, FORK - 2) == [9, 10, FIRST, FIRST + 1]


def test_two_leaps() -> None:
    """Each hole is one of its own."""
    second = 2 * LEAP + 1
    stream = standing([*old(9, FORK), *new(1), pub(second, before=FIRST)])
    assert recovered(stream, FIRST) == [second]
    assert recovered(stream, FORK) == [FIRST, second]
    assert recovered(stream, FORK + 1) is None
    assert recovered(stream, FIRST + 1) is None
