"""The judge of histories that fork, itself."""

from __future__ import annotations

import pytest

from tests.support.ledger import LEAP, Place
from tests.support.lineage import Fork, Line

LEAPT = LEAP + 1


def judged(heard: dict[Place, str], line: Line) -> set[str]:
    """The kinds of violations, where one client has heard this and that is there in the end."""
    fork = Fork()
    for place, text in heard.items():
        fork.accept("news", place, text)
        fork.hear("ann", "news", place, text)
    fork.judge_by({"news": line})
    return {violation.partition(":")[0] for violation in map(str, fork.violations)}


def test_a_leap() -> None:
    """What is there in front of it must have been heard."""
    heard = {Place("e", 4): "p:4:0", Place("e", LEAPT): "p:9:0"}
    assert judged(heard, Line("e", {4: "p:4:0", LEAPT: "p:9:0"})) == set()
    assert judged(heard, Line("e", {4: "p:4:0", 5: "p:5:0", LEAPT: "p:9:0"})) == {"lost"}
    assert judged(heard, Line("e.new", {4: "p:4:0", 5: "p:5:0", LEAPT: "p:9:0"})) == {"lost"}


def test_a_history_that_has_begun_anew() -> None:
    """Its offsets are others."""
    heard = {Place("e", 4): "p:4:0", Place("e", LEAPT): "p:9:0", Place("f", 6): "p:12:0"}
    assert judged(heard, Line("f", {5: "p:11:0", 6: "p:12:0"})) == set()


@pytest.mark.parametrize("epoch", ["e", "f"])
def test_a_silent_fork(epoch: str) -> None:
    """After something that is gone nothing may follow that is there."""
    heard = {Place("e", 4): "p:4:0", Place("e", 5): "p:5:0"}
    assert judged(heard, Line(epoch, {4: "q:1:0", 5: "p:5:0"})) == {"silent fork"}


@pytest.mark.parametrize(("told", "verdict"), [(True, set()), (False, {"silent fork"})])
def test_a_client_that_was_told(told: bool, verdict: set[str]) -> None:
    """By a worker that has never heard of the channel, before the new server had taken anything: nothing else tells."""
    fork = Fork()
    fork.accept("news", Place("e", 5), "p:5:0")
    fork.accept("news", Place("e", LEAPT), "p:9:0")
    fork.hear("ann", "news", Place("e", 5), "p:5:0")
    if told:
        fork.tell("ann", "news")
    fork.hear("ann", "news", Place("e", LEAPT), "p:9:0")
    fork.judge_by({"news": Line("e", {4: "p:4:0", LEAPT: "p:9:0"})})
    assert {violation.partition(":")[0] for violation in map(str, fork.violations)} == verdict
