"""What waits for a slow client: bounded, whole frames, and by the chosen policy."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.protocol.backlog import Backlog, Lossy
from hub.protocol.frames import binary_frame, split

chunks = st.lists(st.lists(st.binary(max_size=40).map(binary_frame), min_size=1, max_size=5).map(b"".join), max_size=20)


OLDEST, LATEST = Lossy("a", "drop_oldest"), Lossy("a", "keep_latest")


def drain(backlog: Backlog) -> list[bytes]:
    return [backlog.pop() for _ in range(100) if backlog]


@given(chunks)
def test_disconnect_keeps_all_or_refuses(pushed: list[bytes]) -> None:
    """Everything up to the first refusal is kept, and never more than the budget."""
    backlog, kept = Backlog(100), []
    for chunk in pushed:
        if not backlog.push(chunk):
            assert sum(map(len, kept)) + len(chunk) > 100
            break
        kept.append(chunk)
    assert backlog.size == sum(map(len, kept)) <= 100
    assert drain(backlog) == kept


@given(chunks)
def test_drop_oldest_keeps_the_newest_that_fit(pushed: list[bytes]) -> None:
    """What remains is a tail of whole frames within the budget, and the rest is counted."""
    backlog = Backlog(100)
    for chunk in pushed:
        assert backlog.push(chunk, OLDEST)
        assert backlog.size <= 100
    sent = list(split(b"".join(pushed)))
    rest = list(split(b"".join(drain(backlog))))
    assert rest == sent[len(sent) - len(rest) :]
    assert bool(rest) is bool(sent)
    assert backlog.dropped == len(sent) - len(rest)
    assert backlog.size == 0


@given(chunks)
def test_keep_latest(pushed: list[bytes]) -> None:
    """Only the newest frame remains."""
    backlog = Backlog(100)
    for chunk in pushed:
        assert backlog.push(chunk, LATEST)
    sent = list(split(b"".join(pushed)))
    assert list(split(b"".join(drain(backlog)))) == sent[-1:]
    assert backlog.dropped == max(0, len(sent) - 1)


def test_empty() -> None:
    """An empty backlog is false and has nothing to give."""
    backlog = Backlog(1)
    assert not backlog
    with pytest.raises(IndexError):
        backlog.pop()


def frame(text: str) -> bytes:
    return binary_frame(text.encode())


def test_the_latest_of_each_channel() -> None:
    """One price does not push out another."""
    backlog = Backlog(1000)
    for number in range(3):
        for channel in ("a", "b"):
            assert backlog.push(
                frame(f"{channel}{number}") + frame(f"{channel}{number}!"), Lossy(channel, "keep_latest")
            )
    assert drain(backlog) == [frame("a2!"), frame("b2!")]
    assert backlog.dropped == 10


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=30).map(binary_frame)), max_size=40), st.data())
def test_mixed(pushed: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """What is not lossy is all there and in order, whatever else waits; and what is missing is counted."""
    kinds = [None, OLDEST, Lossy("b", "keep_latest"), Lossy("c", "disconnect")]
    backlog, given, got = Backlog(100), [], []
    for kind, chunk in pushed:
        if not backlog.push(chunk, kinds[kind]):
            break
        given.append((kind, chunk))
        assert backlog.size <= 100
        if data.draw(st.booleans()):
            got.append(backlog.pop())
    got += drain(backlog)
    assert backlog.dropped == len(given) - len(got)
    assert backlog.size == 0
    sure = [chunk for kind, chunk in given if kind in (0, 3)]
    rest = iter(got)
    assert all(chunk in rest for chunk in sure)
    if given:
        assert given[-1][1] == got[-1]


def test_what_may_not_be_dropped_fills_it() -> None:
    """No room is left for a publication: the client is disconnected, as without a policy."""
    backlog = Backlog(100)
    assert backlog.push(frame("x" * 90))
    assert backlog.push(frame("1234"), LATEST)
    assert not backlog.push(frame("123456789"), OLDEST)
    assert not backlog.push(frame("y" * 20))


def test_a_message_larger_than_the_budget() -> None:
    """It is the newest, so it is kept, alone."""
    backlog = Backlog(10)
    for policy in ("drop_oldest", "keep_latest"):
        assert backlog.push(frame("x" * 50), Lossy("a", policy))
    assert drain(backlog) == [frame("x" * 50)]
    assert backlog.dropped == 1


def test_the_latest_is_not_dropped_for_others() -> None:
    """Nobody would tell the client that its price is old: so what has no room beside it ends the connection."""
    backlog = Backlog(100)
    assert backlog.push(frame("price" * 10), LATEST)
    for number in range(20):
        assert backlog.push(frame(f"line {number}"), OLDEST)
    assert drain(backlog)[0] == frame("price" * 10)
    assert backlog.push(frame("price" * 10), LATEST)
    assert not backlog.push(frame("reply" * 11))


def test_nothing_stays_behind() -> None:
    """However long a client is slow, its tables have the size of what waits."""
    backlog = Backlog(1000)
    assert backlog.push(frame("a reply that stands in front"))
    for number in range(5000):
        assert backlog.push(frame("a"), Lossy(f"{number % 3}", "keep_latest"))
        assert backlog.push(frame("b"), OLDEST)
        assert len(backlog._chunks) < 1000
    assert len(backlog._latest) == 3
    drained = [backlog.pop() for _ in range(1000) if backlog]
    assert sum(map(len, drained)) <= 1000
    assert (backlog._chunks, backlog._oldest, backlog._latest, backlog._gone) == (deque(), deque(), {}, 0)


@given(chunks, st.integers(min_value=0, max_value=200))
def test_small_ones_are_taken_together(pushed: list[bytes], most: int) -> None:
    """In order, as many as fit, and each at least alone."""
    backlog, kept = Backlog(1 << 20), [chunk for chunk in pushed if chunk]
    for number, chunk in enumerate(kept):
        backlog.push(chunk, (None, OLDEST)[number % 2])
    taken = []
    while backlog:
        taken.append(backlog.pop(most))
    ends = {sum(map(len, kept[: number + 1])) for number in range(len(kept))}
    assert b"".join(taken) == b"".join(kept)
    at = 0
    for piece in taken:
        assert at + len(piece) == max(
            [min(end for end in ends if end > at), *(end for end in ends if end <= at + most)]
        )
        at += len(piece)


def test_what_was_taken_back_is_not_taken() -> None:
    """Nor does it end a piece."""
    backlog = Backlog(100)
    for chunk, lossy in [(b"a", None), (b"\x81\x01b", LATEST), (b"c", None), (b"\x81\x01d", LATEST)]:
        backlog.push(chunk, lossy)
    assert backlog.pop(100) == b"ac\x81\x01d"
    assert not backlog
