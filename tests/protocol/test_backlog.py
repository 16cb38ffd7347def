"""What waits for a slow client: bounded, whole frames, and by the chosen policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.protocol.backlog import Backlog
from hub.protocol.frames import binary_frame, split

chunks = st.lists(st.lists(st.binary(max_size=40).map(binary_frame), min_size=1, max_size=5).map(b"".join), max_size=20)


def drain(backlog: Backlog) -> list[bytes]:
    return [backlog.pop() for _ in range(100) if backlog]


@given(chunks)
def test_disconnect_keeps_all_or_refuses(pushed: list[bytes]) -> None:
    """Everything up to the first refusal is kept, and never more than the budget."""
    backlog, kept = Backlog(100, "disconnect"), []
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
    backlog = Backlog(100, "drop_oldest")
    for chunk in pushed:
        assert backlog.push(chunk)
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
    backlog = Backlog(100, "keep_latest")
    for chunk in pushed:
        assert backlog.push(chunk)
    sent = list(split(b"".join(pushed)))
    assert list(split(b"".join(drain(backlog)))) == sent[-1:]
    assert backlog.dropped == max(0, len(sent) - 1)


def test_empty() -> None:
    """An empty backlog is false and has nothing to give."""
    backlog = Backlog(1, "disconnect")
    assert not backlog
    with pytest.raises(IndexError):
        backlog.pop()
