"""The history in memory: what it frees, and when. What it answers is the contract's (`test_history.py`)."""

from __future__ import annotations

import pytest

from hub import memory_history
from hub.memory_history import MemoryHistory
from hub.types import HistoryOptions, PublishResult

MINUTE = HistoryOptions(size=10, ttl=60, meta_ttl=600)


def append(
    history: MemoryHistory, now: float, channel: str = "room", options: HistoryOptions = MINUTE
) -> PublishResult:
    return history.append(now, channel, b"x", options, 0, "")


def payloads(history: MemoryHistory) -> int:
    """How many publications are in memory, gone or not."""
    return sum(len(stream.entries) for stream in history._streams.values())


def queued(history: MemoryHistory) -> int:
    return len(history._ends._heap) + len(history._lives._heap)


def offsets(history: MemoryHistory, now: float) -> list[int]:
    return [offset for offset, _ in history.read(now, "room", None, -1, False, 600).publications]


def test_publications_end_at_their_time_and_not_before() -> None:
    """`ttl` after the last one of the channel."""
    history = MemoryHistory()
    append(history, 0)
    append(history, 50)
    assert offsets(history, 109.9) == [1, 2]
    assert offsets(history, 110) == []
    assert append(history, 111).offset == 3
    assert offsets(history, 170.9) == [3]


def test_a_shorter_ttl_counts_at_once() -> None:
    """The last publication says how long all are kept, also if an earlier one said longer."""
    history = MemoryHistory()
    append(history, 0)
    append(history, 0, options=HistoryOptions(size=10, ttl=1, meta_ttl=2))
    assert offsets(history, 0.9) == [1, 2]
    append(history, 0.9, options=HistoryOptions(size=10, ttl=1, meta_ttl=2))
    assert append(history, 3).offset == 1


def test_the_position_is_forgotten_after_its_own_time() -> None:
    """`meta_ttl` after the last publication or read."""
    history = MemoryHistory()
    epoch = append(history, 0).epoch
    assert history.read(599, "room", None, 0, False, 600).position == (1, epoch)
    assert history.read(1198, "room", None, 0, False, 600).position == (1, epoch)
    assert history.read(1798, "room", None, 0, False, 600).position.epoch != epoch


def test_what_has_ended_is_freed_by_any_other_channel() -> None:
    """Nobody has to look at a channel for its memory to be given back."""
    history = MemoryHistory()
    for number in range(100):
        append(history, 0, f"room-{number}")
    append(history, 59, "room-0")
    assert payloads(history) == 101
    append(history, 60, "other")
    assert payloads(history) == 3
    assert len(history) == 101
    append(history, 600, "other")
    assert len(history) == 2
    append(history, 660, "other")
    assert len(history) == 1
    append(history, 10_000, "another")
    assert (len(history), payloads(history)) == (1, 1)


def test_a_forgotten_channel_takes_its_publications_along() -> None:
    """Also those that would have been kept for longer, and a channel of that name begins with nothing."""
    history = MemoryHistory()
    brief = HistoryOptions(size=10, ttl=60, meta_ttl=10)
    append(history, 0, "room", brief)
    append(history, 0, "back", brief)
    append(history, 10, "other")
    assert payloads(history) == 1
    assert append(history, 11, "back").offset == 1
    append(history, 60, "other")
    assert payloads(history) == 3
    assert queued(history) == 4


def test_a_read_frees_too() -> None:
    """And what it adds itself is freed in the end."""
    history = MemoryHistory()
    for number in range(100):
        history.read(number, f"room-{number}", None, -1, False, 10)
    assert len(history) == 10
    history.read(1000, "room", None, -1, False, 10)
    assert len(history) == 1


def test_the_queues_do_not_grow_with_use() -> None:
    """However often a channel is used, empty, removed and used again, it is in each once."""
    history = MemoryHistory()
    for now in range(0, 100_000, 7):
        append(history, now, options=HistoryOptions(size=3, ttl=1 + now % 13, meta_ttl=10 + now % 600))
        history.read(now, "room", None, -1, True, 1 + now % 50)
        if now % 3 == 0:
            history.remove("room")
        assert queued(history) <= 2
        assert payloads(history) <= 3


def test_there_is_a_limit_to_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ones that would be forgotten next go first, and begin a new epoch when they come back."""
    monkeypatch.setattr(memory_history, "MAX_CHANNELS", 10)
    history = MemoryHistory()
    epoch = append(history, 0, "room-0").epoch
    for number in range(1, 10):
        append(history, number, f"room-{number}")
    assert append(history, 10, "room-0") == (2, epoch, False)
    for number in range(20):
        append(history, 11, f"other-{number}")
        assert len(history) <= 10
    assert append(history, 12, "other-19").offset == 2
    assert append(history, 12, "room-0").epoch != epoch


def test_results_are_kept_for_five_minutes() -> None:
    """Then they are freed, in order, by the next question."""
    history = MemoryHistory()
    for number in range(10):
        history.remember(number, "room", str(number), PublishResult(number, "e"))
    assert history.first_result(299.9, "room", "0") == PublishResult(0, "e")
    assert history.first_result(305, "room", "5") is None
    assert history.first_result(305, "room", "6") == PublishResult(6, "e")
    assert len(history._results) == 4
    assert history.first_result(1000, "room", "9") is None
    assert not history._results
