"""A channel's position: whatever the feed does, what is delivered is in order and complete, or the gap is told.

The machine has a history that forgets, a feed that is late, loses and repeats, and reads whose answers are old when
they come. It keeps a record of what was ever published and holds every delivery and every recovery against that.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from hub.protocol import stream as module
from hub.protocol.stream import Filled, Stream, renewed
from hub.types import HistoryOptions, Publication, StreamPosition

SIZE, TTL = 4, 10.0
KEPT = HistoryOptions(size=SIZE, ttl=TTL, meta_ttl=1000.0)


def pub(offset: int, epoch: str = "A", data: bytes = b"1") -> Publication:
    return Publication(data, offset=offset, epoch=epoch)


def pubs(first: int, last: int, epoch: str = "A") -> list[Publication]:
    return [pub(offset, epoch) for offset in range(first, last + 1)]


def offsets(publications: list[Publication] | None) -> list[int] | None:
    return None if publications is None else [publication.offset for publication in publications]


@dataclass
class Page:
    """What a read has found."""

    kept: list[Publication]
    top: StreamPosition


class History:
    """The history as Redis has it: the last `SIZE` publications, all of them gone `TTL` after the last one."""

    def __init__(self) -> None:
        self.epoch, self.top = "A", 0
        # Epochs so far.
        self.epochs = 1
        self.kept: list[Publication] = []
        self.ends = 0.0
        # What was published at each offset, from 1 on, whether it is kept or not.
        self.line: list[bytes] = []

    @property
    def position(self) -> StreamPosition:
        return StreamPosition(self.top, self.epoch)

    def expire(self, now: float) -> None:
        if now >= self.ends:
            self.kept = []

    def publish(self, data: bytes, now: float) -> Publication:
        self.expire(now)
        self.top += 1
        publication = pub(self.top, self.epoch, data)
        self.line.append(data)
        self.kept = [*self.kept, publication][-SIZE:]
        self.ends = now + TTL
        return publication

    def wipe(self) -> None:
        self.epochs += 1
        self.epoch, self.top, self.kept, self.line = f"E{self.epochs}", 0, [], []

    def forget(self, count: int) -> None:
        """A server takes over that never had the last ones."""
        self.top = max(0, self.top - count)
        del self.line[self.top :]
        self.kept = [p for p in self.kept if p.offset <= self.top]

    def renew(self) -> None:
        self.epochs += 1
        self.epoch = renewed(self.epoch, f"r{self.epochs}")
        self.kept = [replace(p, epoch=self.epoch) for p in self.kept]

    def read(self, known: StreamPosition, since: int | None, limit: int) -> Page:
        """After `since`; the newest part if that is None or of another history."""
        if since is None or known.epoch != self.epoch:
            return Page(self.kept[-limit:], self.position)
        return Page([p for p in self.kept if p.offset > since], self.position)

    def has_after(self, offset: int) -> bool:
        """Whether it can tell all that came after `offset`."""
        return offsets([p for p in self.kept if p.offset > offset]) == list(range(offset + 1, self.top + 1))


class StreamMachine(RuleBasedStateMachine):
    """Everything that can happen to a stream, in any order."""

    @initialize(limit=st.sampled_from([2, 6]))
    def begin_with(self, limit: int) -> None:
        self.limit = limit
        self.stream = Stream(KEPT, limit)
        self.now = 0.0
        self.history = History()
        # All that was ever published, in order; a publication's data is its place here.
        self.published: list[Publication] = []
        # On its way: publications, and the order to forget as many as had been published when the history was removed.
        self.feed: list[Publication | int] = []
        # By epoch and offset, what has come over the present feed.
        self.heard: dict[tuple[str, int], Publication] = {}
        # Of the read under way.
        self.asked = False
        self.since: int | None = None
        self.page: Page | None = None
        # What two subscribers have: one that relies on positions, and one that takes what comes.
        self.stands: StreamPosition | None = None
        # What the first has heard at each offset since it was last told that something is lost.
        self.stretch: dict[int, bytes] = {}
        self.raw: list[int] = []
        # Where the stream last began anew in another history; when it last learned something; how many of what was
        # published are removed.
        self.begun = StreamPosition(0, "")
        self.news = 0.0
        self.removed = 0

    # What happens

    @rule(lost=st.booleans())
    def publish(self, lost: bool) -> None:
        publication = self.history.publish(b"%d" % len(self.published), self.now)
        self.published.append(publication)
        if not lost:
            self.feed.append(publication)

    @rule(count=st.integers(1, SIZE + 1))
    def talk(self, count: int) -> None:
        """Several that arrive as they should."""
        for _ in range(count):
            self.publish(lost=False)
        while self.feed:
            self.hear(times=1)

    @rule(times=st.integers(1, 2))
    def hear(self, times: int) -> None:
        """The next one arrives; perhaps twice."""
        if self.feed:
            event = self.feed.pop(0)
            for _ in range(times):
                self.arrive(event)

    @rule(data=st.data())
    def hear_again(self, data: st.DataObject) -> None:
        """Something that was heard before."""
        if self.heard:
            self.arrive(data.draw(st.sampled_from(list(self.heard.values()))))

    @rule()
    def lose(self) -> None:
        if self.feed and isinstance(self.feed[0], Publication):
            del self.feed[0]

    @rule(seconds=st.integers(1, 6))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.history.expire(self.now)

    @rule()
    def remove_history(self) -> None:
        self.history.kept = []
        self.feed.append(len(self.published))

    @rule()
    def wipe(self) -> None:
        self.history.wipe()

    @rule()
    def lose_the_feed(self) -> None:
        """What was on its way is lost, orders too, which the next read makes up for; what was held back is dropped."""
        self.removed = max([self.removed, *(event for event in self.feed if isinstance(event, int))])
        self.feed.clear()
        self.heard.clear()
        self.stream.doubt(self.now)

    @rule(count=st.integers(0, SIZE + 1), more=st.integers(0, 2 * SIZE))
    def fail_over(self, count: int, more: int) -> None:
        """To a server that lacks the last ones, and goes on from there unheard."""
        self.lose_the_feed()
        self.stream.suspected = True
        self.history.forget(count)
        for _ in range(more):
            self.publish(lost=True)

    # Reads: begun, carried out, and heard of at three different times

    @precondition(lambda self: not self.asked)
    @rule(back=st.booleans())
    def begin(self, back: bool) -> None:
        self.since = self.stream.begin(self.limit if back else 0)
        self.asked, self.page = True, None
        assert not self.stream.live

    @precondition(lambda self: self.asked)
    @rule()
    def carry_out(self) -> None:
        page = self.history.read(self.stream.position, self.since, self.limit)
        if self.since is not None and self.stream.is_contradicted(page.kept, page.top, self.now):
            self.history.renew()
            page = self.history.read(self.stream.position, None, self.limit)
        self.page = page

    @precondition(lambda self: self.page is not None)
    @rule()
    def answer(self) -> None:
        assert self.page is not None
        page, self.asked, self.page = self.page, False, None
        expected = self.is_lost(page)
        filled = self.stream.fill(page.kept, page.top, self.now)
        self.news = self.now
        assert filled.lost is expected
        self.take_filled(filled, page)

    @precondition(lambda self: self.asked)
    @rule()
    def fail(self) -> None:
        self.asked, self.page = False, None

    @precondition(lambda self: not self.asked)
    @rule(back=st.booleans())
    def read(self, back: bool) -> None:
        self.begin(back)
        self.carry_out()
        self.answer()

    # What is seen

    def arrive(self, event: Publication | int) -> None:
        if isinstance(event, int):
            self.stream.forget()
            self.removed = event
            return
        self.heard[event.epoch, event.offset] = event
        was_live = self.stream.live
        delivered = self.stream.arrive(event, self.now)
        if delivered:
            self.news = self.now
        assert delivered is not None or (was_live and self.stream.gap)
        self.take(delivered or [])

    def is_lost(self, page: Page) -> bool:
        """Whether a subscriber missed something that can be had neither from the page nor from what was heard."""
        if self.stands is None:
            return False
        if page.top.epoch != self.stands.epoch:
            return True
        found = self.heard.keys() | {(p.epoch, p.offset) for p in page.kept}
        missing = range(self.stands.offset + 1, page.top.offset + 1)
        return any((page.top.epoch, offset) not in found for offset in missing)

    def take_filled(self, filled: Filled, page: Page) -> None:
        if filled.lost or self.stands is None:
            if self.stands is None or self.stands.epoch != page.top.epoch:
                self.begun = page.top
            self.stands, self.stretch = page.top, {}
            self.take(
                [p for p in filled.deliver if p.offset > page.top.offset and p.epoch == page.top.epoch], raw=False
            )
            self.take_raw(filled.deliver)
        else:
            self.take(filled.deliver)

    def take(self, publications: list[Publication], *, raw: bool = True) -> None:
        """As the subscriber that relies on positions: the next one each, exactly as it was published."""
        for publication in publications:
            assert self.stands is not None
            self.stands = StreamPosition(self.stands.offset + 1, self.stands.epoch)
            assert (publication.offset, publication.epoch) == self.stands
            self.stretch[publication.offset] = publication.data
        if raw:
            self.take_raw(publications)

    def take_raw(self, publications: list[Publication]) -> None:
        """As the other one: nothing twice, nothing out of order, nothing invented."""
        for publication in publications:
            number = int(publication.data)
            self.check_content(publication)
            assert not self.raw or self.raw[-1] < number
            self.raw.append(number)

    @invariant()
    def position_is_what_was_delivered(self) -> None:
        """Who joins now is told this position, so everybody must have what is before it."""
        assert self.stands is None or self.stands == self.stream.position

    @invariant()
    def nobody_has_a_wrong_picture(self) -> None:
        """Who was not told has heard what the history says, and no other one that had the same offsets."""
        if self.stream.live and self.stands is not None and self.stands.epoch == self.history.epoch:
            for offset, data in self.stretch.items():
                assert self.history.line[offset - 1] == data

    @invariant()
    def recovery_is_complete_or_refused(self) -> None:
        """From every position that a client can claim."""
        if not self.stream.live:
            return
        here = self.stream.position
        for offset in range(here.offset + 2):
            for epoch in ("", here.epoch, "other"):
                self.check_recovery(StreamPosition(offset, epoch), here)

    def check_recovery(self, since: StreamPosition, here: StreamPosition) -> None:
        recovery = self.stream.recover(since, self.limit, self.now)
        if recovery is None:
            return
        missed = list(range(since.offset + 1, here.offset + 1))
        if recovery.publications is None:
            foreign = since.epoch == "other" or since.offset > here.offset or len(missed) > self.limit
            kept = [p.offset for p in self.history.kept if p.epoch == here.epoch]
            assert foreign or not set(missed) <= set(kept)
            return
        assert since.epoch != "other"
        assert offsets(recovery.publications) == missed
        assert len(missed) <= self.limit
        for publication in recovery.publications:
            self.check_content(publication)
            assert publication.epoch == here.epoch
            assert int(publication.data) >= self.removed
        assert not missed or self.now < self.news + TTL

    def check_content(self, publication: Publication) -> None:
        """As it was published, if under an earlier epoch."""
        assert replace(self.published[int(publication.data)], epoch=publication.epoch) == publication

    # The end: the feed runs dry and reads get through

    def teardown(self) -> None:
        if not hasattr(self, "stream"):
            return
        while self.feed:
            self.arrive(self.feed.pop(0))
        self.fail()
        for _ in range(3):
            if self.stream.live and not self.stream.gap and self.stream.position == self.history.position:
                break
            self.read(back=False)
        assert self.stream.live
        assert not self.stream.gap
        assert self.stream.position == self.history.position
        self.everything_kept_was_delivered()
        for offset in range(self.history.top + 1):
            self.everything_kept_is_recovered(offset)

    def everything_kept_was_delivered(self) -> None:
        """But what was there before the subscribers were, and more of another history than one read may have."""
        for publication in self.history.kept:
            number, (offset, epoch) = int(publication.data), self.begun
            assert number in self.raw or (epoch == publication.epoch and publication.offset <= offset)

    def everything_kept_is_recovered(self, offset: int) -> None:
        since = StreamPosition(offset, self.history.epoch)
        recovery = self.stream.recover(since, self.limit, self.now)
        if recovery is None:
            self.read(back=True)
            recovery = self.stream.recover(since, self.limit, self.now)
        assert recovery is not None
        if self.history.has_after(offset) and self.history.top - offset <= self.limit:
            assert offsets(recovery.publications) == list(range(offset + 1, self.history.top + 1))


TestStream = StreamMachine.TestCase
TestStream.settings = settings(deadline=None, stateful_step_count=40, max_examples=250)


# The same, case by case


def live(offset: int = 0, limit: int = 100, history: HistoryOptions = KEPT) -> Stream:
    """A stream that has found an empty history at this position."""
    stream = Stream(history, limit)
    assert stream.begin() is None
    assert stream.fill([], StreamPosition(offset, "A"), 0.0) == Filled([], False)
    return stream


def test_nothing_is_delivered_before_the_first_read() -> None:
    """What comes while the position is not known follows the read that finds it."""
    stream = Stream(KEPT, 100)
    assert not stream.live
    stream.begin()
    assert stream.arrive(pub(2), 0.0) == []
    assert stream.arrive(pub(3), 0.0) == []
    assert stream.fill(pubs(1, 2), StreamPosition(2, "A"), 0.0) == Filled([pub(3)], False)
    assert stream.live
    assert stream.position == (3, "A")


def test_a_gap_is_filled_in_order() -> None:
    """A lost publication is delivered before those that showed the loss."""
    stream = live()
    assert stream.arrive(pub(1), 0.0) == [pub(1)]
    assert stream.arrive(pub(3), 0.0) is None
    assert stream.gap
    assert stream.begin() == 0  # the one at the position is read again, to see that it is the same
    assert not stream.gap
    assert stream.arrive(pub(4), 0.0) == []
    assert stream.fill(pubs(2, 3), StreamPosition(3, "A"), 0.0) == Filled(pubs(2, 4), False)
    assert not stream.gap


def test_what_was_heard_and_trimmed_is_not_lost() -> None:
    """A small history may have dropped what arrived while it was read."""
    stream = live(5)
    stream.begin()
    for publication in pubs(6, 9):
        stream.arrive(publication, 0.0)
    assert stream.fill(pubs(8, 9), StreamPosition(9, "A"), 0.0) == Filled(pubs(6, 9), False)


def test_a_loss_is_told_and_the_rest_delivered() -> None:
    """What the history has dropped is gone; the stream goes on from its end."""
    stream = live(5)
    assert stream.arrive(pub(8), 0.0) is None
    stream.begin()
    assert stream.fill(pubs(7, 8), StreamPosition(8, "A"), 0.0) == Filled(pubs(7, 8), True)
    assert stream.recover(StreamPosition(6, "A"), 100, 0.0) == module.Recovery(pubs(7, 8))
    assert stream.recover(StreamPosition(5, "A"), 100, 0.0) == module.Recovery(None)


def test_a_publication_of_another_history_is_one_loss_not_many() -> None:
    """What an old history still sends after a wipe is dropped: it is older than the read that found the new one."""
    stream = live(5)
    stream.begin()
    stream.arrive(pub(6), 0.0)
    assert stream.fill([], StreamPosition(0, "B"), 0.0).lost
    assert stream.gap  # it may be newer than the read, so one more
    stream.begin()
    assert stream.fill([], StreamPosition(0, "B"), 0.0) == Filled([], False)
    assert not stream.gap
    assert stream.arrive(pub(1, "B"), 0.0) == [pub(1, "B")]


def test_a_position_that_went_back_is_a_loss() -> None:
    """A replica that took over may not have had the last publications: their offsets come again with other data."""
    stream = live(5)
    stream.begin(2)
    assert stream.fill(pubs(2, 3), StreamPosition(3, "A"), 0.0) == Filled([], True)
    assert stream.arrive(pub(4), 0.0) == [pub(4)]


def lived(last: int) -> Stream:
    """A stream that has delivered so many, the data being the offsets."""
    stream = live()
    for offset in range(1, last + 1):
        stream.arrive(pub(offset, data=b"%d" % offset), 0.0)
    return stream


@pytest.mark.parametrize("top", [2, 3, 4])
def test_a_server_that_takes_over_without_the_last_publications(top: int) -> None:
    """Behind the position, at it and after it: another publication stands there than the one that was delivered."""
    stream = lived(3)
    stream.doubt(0.0)
    assert not stream.live
    assert stream.arrive(pub(4, data=b"other"), 0.0) == []
    stream.begin()
    kept = [pub(offset, data=b"new %d" % offset) for offset in range(3, top + 1)]
    assert stream.is_contradicted(kept, StreamPosition(top, "A"), 0.0)
    assert stream.fill(kept, StreamPosition(top, "A"), 0.0).lost


def test_a_server_that_takes_over_with_everything() -> None:
    """The publication at the position proves it: nothing is lost, and what was missed is delivered."""
    stream = lived(3)
    stream.doubt(0.0)
    stream.suspected = True
    assert stream.begin() == 2
    kept = [pub(3, data=b"3"), pub(4), pub(5)]
    assert not stream.is_contradicted(kept, StreamPosition(5, "A"), 0.0)
    assert stream.fill(kept, StreamPosition(5, "A"), 0.0) == Filled(pubs(4, 5), False)
    assert not stream.suspected


def test_a_proof_that_was_trimmed() -> None:
    """Only of another server it is asked for; it is not missed where it has ended with its history."""
    stream, page, end = lived(3), (pubs(4, 7), StreamPosition(7, "A")), ([], StreamPosition(3, "A"))
    stream.begin()
    assert not stream.is_contradicted(*page, 0.0)
    stream.suspected = True
    assert stream.is_contradicted(*page, 0.0)
    assert stream.is_contradicted(*end, 0.0)
    assert stream.is_contradicted(*page, TTL)  # as many as are kept: it may have been among them
    assert not stream.is_contradicted(pubs(4, 6), StreamPosition(6, "A"), TTL)
    assert not stream.is_contradicted(*end, TTL)
    stream = lived(3)
    stream.doubt(TTL - 1)
    stream.begin()
    stream.suspected = True
    assert stream.is_contradicted(*end, TTL + 100)
    assert not live().is_contradicted(pubs(1, 4), StreamPosition(4, "A"), 0.0)


def test_a_renewed_history_is_told_and_not_repeated() -> None:
    """Who relies on positions is told; who takes what comes hears what is new in it, and nothing twice."""
    epoch = renewed("A", "1")
    assert renewed(epoch, "2") == "A.2"
    stream = lived(3)
    stream.begin()
    old = [pub(offset, epoch, b"%d" % offset) for offset in (1, 2)]
    new = [pub(3, epoch, b"new 3"), pub(4, epoch, b"new 4")]
    assert not stream.is_contradicted([*old, *new], StreamPosition(4, epoch), 0.0)
    assert stream.fill([*old, *new], StreamPosition(4, epoch), 0.0) == Filled(new, True)
    assert stream.recover(StreamPosition(2, "A"), 100, 0.0) == module.Recovery(None)
    assert stream.recover(StreamPosition(2, epoch), 100, 0.0) == module.Recovery(new)
    stream.begin()
    kept = [pub(offset, "A.2", b"x%d" % offset) for offset in range(1, 6)]
    assert stream.fill(kept, StreamPosition(5, "A.2"), 0.0) == Filled(kept, True)
    stream.begin()
    stream.fill([], StreamPosition(5, "A.3"), 0.0)
    stream.begin()
    assert stream.fill(kept, StreamPosition(5, "A.4"), 0.0) == Filled([], True)


def test_a_position_far_ahead_costs_nothing() -> None:
    """A broken counter in Redis is a loss, not a search of all offsets between."""
    stream = live(5)
    stream.begin()
    assert stream.fill([], StreamPosition(2**62, "A"), 0.0) == Filled([], True)


def test_what_is_held_back_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """While Redis answers no reads; what did not fit shows as a gap."""
    monkeypatch.setattr(module, "HELD_LIMIT", 3)
    stream = live()
    stream.begin()
    for publication in pubs(1, 10):
        stream.arrive(publication, 0.0)
    assert stream.fill([], StreamPosition(0, "A"), 0.0) == Filled(pubs(1, 3), False)
    assert stream.arrive(pub(11), 0.0) is None


def test_reads_are_counted() -> None:
    """So that others can see whether one has begun since."""
    stream = live()
    assert stream.reads == 1
    stream.begin()
    assert stream.reads == 2


# What is remembered


def test_a_few_publications_are_remembered() -> None:
    """No more than the history keeps, or a client may recover, by number and bytes; the read knows about the others."""
    stream = live()
    for publication in pubs(1, SIZE + 2):
        stream.arrive(publication, 0.0)
    assert [p.offset for p in stream.ring] == [3, 4, 5, 6]
    small = live(limit=2)
    for publication in pubs(1, 6):
        small.arrive(publication, 0.0)
    assert [p.offset for p in small.ring] == [5, 6]
    assert small.recover(StreamPosition(3, "A"), 100, 0.0) is None
    assert small.recover(StreamPosition(3, "A"), 2, 0.0) == module.Recovery(None)


def test_large_publications_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one is, alone, for those who want nothing else."""
    monkeypatch.setattr(module, "RING_BYTES", 10)
    stream = live()
    stream.arrive(pub(1, data=b"123456"), 0.0)
    stream.arrive(pub(2, data=b"123456"), 0.0)
    assert [p.offset for p in stream.ring] == [2]
    large = pub(3, data=b"12345678901")
    stream.arrive(large, 0.0)
    assert not stream.ring
    assert stream.newest(0.0) == large
    assert stream.recover(StreamPosition(2, "A"), 100, 0.0) is None
    assert stream.begin(100) == 0
    stream.fill([large], StreamPosition(3, "A"), 0.0)
    assert stream.recover(StreamPosition(2, "A"), 100, 0.0) == module.Recovery([large])
    assert stream.recover(StreamPosition(1, "A"), 100, 0.0) == module.Recovery(None)


def test_a_read_further_back() -> None:
    """It replaces what is remembered, and brings what is new at the same time."""
    stream = live(limit=2, history=HistoryOptions(size=10, ttl=TTL, meta_ttl=1000.0))
    for publication in pubs(1, 5):
        stream.arrive(publication, 0.0)
    assert stream.recover(StreamPosition(2, "A"), 4, 0.0) is None
    assert stream.begin(4) == 1
    assert stream.fill(pubs(3, 6), StreamPosition(6, "A"), 0.0) == Filled([pub(6)], False)
    assert [p.offset for p in stream.ring] == [5, 6]


def test_a_hole_in_the_history_ends_what_is_remembered() -> None:
    """What somebody else wrote among the publications cannot be recovered over."""
    stream = Stream(KEPT, 100)
    stream.begin()
    stream.fill([pub(1), pub(3), pub(4)], StreamPosition(4, "A"), 0.0)
    assert stream.recover(StreamPosition(2, "A"), 100, 0.0) == module.Recovery(pubs(3, 4))
    assert stream.recover(StreamPosition(1, "A"), 100, 0.0) == module.Recovery(None)
    stream = Stream(KEPT, 100)
    stream.begin()
    stream.fill(pubs(1, 3), StreamPosition(4, "A"), 0.0)
    assert stream.newest(0.0) is None
    assert stream.recover(StreamPosition(3, "A"), 100, 0.0) == module.Recovery(None)


def test_what_is_remembered_ends_with_the_history() -> None:
    """All at once, `ttl` after the last publication; Redis is asked from then on."""
    stream = live()
    stream.arrive(pub(1), 0.0)
    stream.arrive(pub(2), 9.0)
    assert stream.newest(18.9) == pub(2)
    assert stream.recover(StreamPosition(0, "A"), 100, 18.9) == module.Recovery(pubs(1, 2))
    assert stream.recover(StreamPosition(0, "A"), 100, 19.0) is None
    assert stream.newest(19.0) is None
    assert stream.recover(StreamPosition(2, "A"), 100, 19.0) == module.Recovery([])
    stream.begin(100)
    stream.fill([], StreamPosition(2, "A"), 19.0)
    assert stream.recover(StreamPosition(0, "A"), 100, 19.0) == module.Recovery(None)


def test_a_publication_after_the_end_is_remembered_alone() -> None:
    """The history began again with it."""
    stream = live()
    stream.arrive(pub(1), 0.0)
    stream.arrive(pub(2), 11.0)
    assert [p.offset for p in stream.ring] == [2]


def test_a_read_does_not_prolong_what_is_remembered() -> None:
    """The same publications found again are as old as before; what is found for the first time is taken for new."""
    stream = Stream(KEPT, 100)
    stream.begin()
    stream.fill(pubs(1, 2), StreamPosition(2, "A"), 0.0)
    stream.begin(100)
    stream.fill(pubs(1, 2), StreamPosition(2, "A"), 9.0)
    assert stream.newest(9.9) == pub(2)
    assert stream.newest(10.0) is None
    stream.begin(100)
    stream.fill(pubs(1, 2), StreamPosition(2, "A"), 11.0)
    assert stream.newest(20.9) == pub(2)
    assert stream.newest(21.0) is None


def test_a_removed_history_is_forgotten() -> None:
    """The position stays; Redis knows what came since."""
    stream = live()
    stream.arrive(pub(1), 0.0)
    stream.forget()
    assert stream.position == (1, "A")
    assert stream.newest(0.0) is None
    assert stream.recover(StreamPosition(0, "A"), 100, 0.0) is None
    assert stream.arrive(pub(2), 0.0) == [pub(2)]
    assert stream.recover(StreamPosition(1, "A"), 100, 0.0) == module.Recovery([pub(2)])


def test_a_history_that_is_removed_while_it_is_read_is_forgotten() -> None:
    """The answer may be from before; it is delivered, and not remembered. The next read is."""
    stream = live()
    stream.begin()
    stream.forget()
    assert stream.fill([pub(1)], StreamPosition(1, "A"), 0.0) == Filled([pub(1)], False)
    assert stream.newest(0.0) is None
    assert stream.recover(StreamPosition(0, "A"), 100, 0.0) is None
    stream.begin(100)
    stream.fill([pub(1)], StreamPosition(1, "A"), 0.0)
    assert stream.recover(StreamPosition(0, "A"), 100, 0.0) == module.Recovery([pub(1)])


@pytest.mark.parametrize("later", [0, 2])
def test_a_removal_that_nobody_has_heard_of_is_found_by_the_next_read(later: int) -> None:
    """The order was lost with the feed: a history without the publication at the position has none before it either."""
    stream = live()
    for publication in pubs(1, 3):
        stream.arrive(publication, 0.0)
    stream.doubt(0.0)
    since = stream.begin()
    assert since == 2
    came = pubs(4, 3 + later)
    assert stream.fill(came, StreamPosition(3 + later, "A"), 0.0) == Filled(came, False)
    assert stream.recover(StreamPosition(1, "A"), 100, 0.0) is None
    assert stream.recover(StreamPosition(3, "A"), 100, 0.0) == module.Recovery(came)
    assert stream.newest(0.0) == (came[-1] if came else None)
