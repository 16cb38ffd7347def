"""What is known of a run, and what follows from it. Times are of `time.monotonic`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["Heard", "Run", "Sent", "Verdict", "judge"]


@dataclass(slots=True)
class Sent:
    """A message that the publisher has sent."""

    number: int
    sent_at: float
    # When the call ended; None while it has not.
    answered_at: float | None = None
    # The HTTP status; 0 if the call ended without one.
    status: int = 0

    @property
    def accepted(self) -> bool:
        """The application was told that it is published."""
        return self.answered_at is not None and 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """The application was told that it is not."""
        return self.answered_at is not None and self.status >= 400


@dataclass(slots=True)
class Heard:
    """What a client has received."""

    name: str
    # Number and time of each message.
    messages: list[tuple[int, float]] = field(default_factory=list)
    # Time and name of everything else that its application would notice.
    told: list[tuple[float, str]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Run:
    """One fault, at one system."""

    sent: Sequence[Sent]
    heard: Sequence[Heard]
    # Messages sent before are not judged: everybody was in the room from here.
    start: float
    # From when to when the fault was there.
    fault: float
    calm: float
    end: float
    # Lines of level WARNING or above that the workers logged after the beginning of the fault.
    log: Sequence[str] = ()
    # Times at which a worker's health check said red, and after that green; None if it has none.
    health: Sequence[tuple[float, bool]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Counts are of messages; `lost` is that of the client that lost most."""

    accepted: int
    refused: int
    unanswered: int
    clients: int
    # Who heard nothing of what was sent after the fault.
    deaf: int
    # Seconds after the end of the fault until everybody heard of what was sent after it; None if somebody never did.
    resumed: float | None
    # The longest time in which some client heard nothing.
    silence: float
    lost: int
    # The same, of clients that were told nothing.
    lost_untold: int
    duplicates: int
    disorder: int
    # What clients were told, and how often.
    told: dict[str, int]
    log_lines: int
    log_sample: str
    # Seconds after the beginning of the fault until health turned red, None if it never did; whether it was green again
    # at the end. `health` says whether there is one.
    health: bool
    red_after: float | None
    green_again: bool

    @property
    def whom(self) -> list[str]:
        """Who was told."""
        told = {
            "clients": bool(self.told),
            "publisher": bool(self.refused or self.unanswered),
            "log": bool(self.log_lines),
            "/health": self.red_after is not None,
        }
        return [who for who, was in told.items() if was]


def judge(run: Run) -> Verdict:
    """What a reader of the table wants to know."""
    sent = [each for each in run.sent if each.sent_at >= run.start]
    accepted = [each.number for each in sent if each.accepted]
    losses = [(_lost(accepted, heard), bool(_told_since(heard, run.fault))) for heard in run.heard]
    resumes = [_resumed(heard, sent, run.calm) for heard in run.heard]
    told = Counter(what for heard in run.heard for what in _told_since(heard, run.fault))
    looks = run.health or ()
    red = [at for at, green in looks if not green and at >= run.fault]
    return Verdict(
        accepted=len(accepted),
        refused=sum(each.refused for each in sent),
        unanswered=sum(not each.accepted and not each.refused for each in sent),
        clients=len(run.heard),
        deaf=resumes.count(None),
        resumed=None if None in resumes else max((each for each in resumes if each is not None), default=None),
        silence=max((_silence(heard, run.start, run.end) for heard in run.heard), default=0.0),
        lost=max((lost for lost, _ in losses), default=0),
        lost_untold=max((lost for lost, was_told in losses if not was_told), default=0),
        duplicates=sum(len(heard.messages) - len({number for number, _ in heard.messages}) for heard in run.heard),
        disorder=sum(_disorder(heard, run.sent) for heard in run.heard),
        told=dict(told),
        log_lines=len(run.log),
        log_sample=run.log[0] if run.log else "",
        health=run.health is not None,
        red_after=red[0] - run.fault if red else None,
        green_again=bool(looks) and looks[-1][1],
    )


def _lost(accepted: Sequence[int], heard: Heard) -> int:
    return len(set(accepted) - {number for number, _ in heard.messages})


def _told_since(heard: Heard, fault: float) -> list[str]:
    return [what for at, what in heard.told if at >= fault]


def _resumed(heard: Heard, sent: Sequence[Sent], calm: float) -> float | None:
    """Seconds after `calm` until the first message that was sent after it."""
    after = {each.number for each in sent if each.sent_at >= calm}
    return next((at - calm for number, at in heard.messages if number in after), None)


def _silence(heard: Heard, start: float, end: float) -> float:
    times = [start, *(at for _, at in heard.messages if start <= at <= end), end]
    return max(later - earlier for earlier, later in pairwise(times))


def _disorder(heard: Heard, sent: Sequence[Sent]) -> int:
    """Messages that came after one that was sent only when they had been accepted. Calls that overlap have no order."""
    newest, count, seen = 0.0, 0, set[int]()
    for number, _ in heard.messages:
        message = sent[number]
        if number not in seen and message.accepted and (message.answered_at or newest) < newest:
            count += 1
        newest = max(newest, message.sent_at)
        seen.add(number)
    return count
