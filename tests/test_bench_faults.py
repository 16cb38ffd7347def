"""The comparison under faults: its verdicts follow from what was heard, and the hub's rows come out of real runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.faults.dialects import Centrifuge, SocketIO, message, number_of
from bench.faults.faults import FAULTS
from bench.faults.report import BEGIN, END, cell, insert
from bench.faults.subjects import SUBJECTS, Subject
from bench.faults.verdict import Heard, Run, Sent, Verdict, judge

ROOT = Path(__file__).parent.parent
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@on_linux
@pytest.mark.timeout(120)
def test_the_hub_in_a_quick_run(redis_binary: str, tmp_path: Path) -> None:
    """Nobody is deaf after a cut, the recoverable channel loses nothing, and what a raw room loses is logged."""
    only = [word for name in ("hub-room", "hub-channel", "kill-pubsub") for word in ("--only", name)]
    command = [sys.executable, "-m", "bench.faults", "--quick", *only, "--output", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads((tmp_path / "out.json").read_text())["outcomes"]
    assert set(outcomes) == {"hub-room", "hub-channel"}, done.stderr
    for who, of in outcomes.items():
        assert of["kill-pubsub"]["notes"]["connections cut"] > 0
        verdict = of["kill-pubsub"]["verdict"]
        assert verdict["accepted"] > 20
        assert verdict["deaf"] == verdict["duplicates"] == verdict["disorder"] == 0, (who, verdict)
        assert verdict["log_lines"] > 0
    assert outcomes["hub-channel"]["kill-pubsub"]["verdict"]["lost"] == 0


# Verdicts


def sent(count: int) -> list[Sent]:
    """Messages a second apart, each accepted a tenth of a second later."""
    return [Sent(number, float(number), number + 0.1, 204) for number in range(count)]


def heard(*numbers: int, late: float = 0.2) -> Heard:
    return Heard("client", [(number, number + late) for number in numbers])


def verdict_of(*clients: Heard, messages: list[Sent] | None = None, **changes: Any) -> Verdict:
    """Of ten messages, with a fault from 3 to 5."""
    values = {"start": 0.0, "fault": 3.0, "calm": 5.0, "end": 10.0, **changes}
    return judge(Run(sent=messages or sent(10), heard=clients, **values))


def test_nothing_has_happened() -> None:
    """Who heard everything lost nothing and heard on at once."""
    verdict = verdict_of(heard(*range(10)))
    assert (verdict.accepted, verdict.lost, verdict.deaf, verdict.duplicates, verdict.disorder) == (10, 0, 0, 0, 0)
    assert verdict.resumed == pytest.approx(0.2)
    assert cell(verdict) == "0.2 s; 0 lost"


def test_a_loss_without_a_word() -> None:
    """The client that lost most counts, and it matters whether it was told."""
    silent, told = heard(0, 1, 2, 5, 6, 7, 8, 9), heard(0, 1, 2, 3, 4, 9)
    told.told = [(3.5, "close 1006")]
    verdict = verdict_of(silent, told)
    assert (verdict.lost, verdict.lost_untold) == (4, 2)
    assert verdict.told == {"close 1006": 1}
    assert verdict.whom == ["clients"]
    assert cell(verdict_of(silent)) == "0.2 s; 2 lost; told: **nobody**"


def test_what_was_told_before_the_fault_is_not_about_it() -> None:
    """Nor is what was sent before everybody was there."""
    client = heard(*range(5, 10))
    client.told = [(1.0, "close 1006")]
    verdict = verdict_of(client, start=5.0)
    assert (verdict.accepted, verdict.lost, verdict.told) == (5, 0, {})


def test_deaf() -> None:
    """Who hears old messages only is deaf; the others do not hide it."""
    verdict = verdict_of(heard(*range(5)), heard(*range(10)))
    assert (verdict.deaf, verdict.resumed, verdict.lost) == (1, None, 5)
    assert cell(verdict).startswith("**1 of 2 deaf**; 5 lost")
    assert cell(verdict_of(heard(*range(5)))).startswith("**deaf**")
    assert verdict.silence == pytest.approx(5.8)


def test_refused_and_unanswered_messages_are_not_lost() -> None:
    """The application knows of them."""
    messages = sent(10)
    messages[3].status, messages[4].status = 503, 0
    verdict = verdict_of(heard(0, 1, 2, 5, 6, 7, 8, 9), messages=messages)
    assert (verdict.accepted, verdict.refused, verdict.unanswered, verdict.lost) == (8, 1, 1, 0)
    assert verdict.whom == ["publisher"]


def test_twice_and_out_of_order() -> None:
    """A second delivery is a duplicate; the first one of an older message, after a newer, is disorder."""
    again = verdict_of(Heard("client", [(n, 5.5) for n in (0, 1, 2, 1, 3, 4, 5, 6, 7, 8, 9)]))
    assert (again.duplicates, again.disorder, again.lost) == (1, 0, 0)
    turned = verdict_of(Heard("client", [(n, 5.5) for n in (0, 1, 3, 2, 4, 5, 6, 7, 8, 9)]))
    assert (turned.duplicates, turned.disorder) == (0, 1)


def test_calls_that_overlap_have_no_order() -> None:
    """The second was sent before the first was answered."""
    messages = sent(10)
    messages[2].answered_at = 3.5
    turned = verdict_of(Heard("client", [(n, 5.5) for n in (0, 1, 3, 2, 4, 5, 6, 7, 8, 9)]), messages=messages)
    assert turned.disorder == 0


def test_the_health_check_tells() -> None:
    """When it turned red, and whether it is green again; one that was red before is not news."""
    verdict = verdict_of(heard(*range(10)), health=[(1.0, False), (2.0, True), (3.5, False), (6.0, True)])
    assert (verdict.red_after, verdict.green_again, verdict.whom) == (0.5, True, ["/health"])
    assert verdict_of(heard(*range(10)), health=[(4.0, True)]).red_after is None


# What clients say and hear


def test_a_message_is_found_however_it_is_wrapped() -> None:
    """Its text is as long as it should be."""
    assert len(message(7, 64)) == 64
    assert number_of('42["message","' + message(7, 64) + '"]') == 7
    assert number_of("hello") is None


def test_socket_io() -> None:
    """It joins the namespace, answers pings, and knows an event."""
    dialect = SocketIO()
    assert dialect.take('0{"sid":"x"}').answers == ["40"]
    assert dialect.take("2").answers == ["3"]
    assert dialect.take('42["message","#1#"]').payloads == ['42["message","#1#"]']
    assert dialect.take("41").told == ["Socket.IO packet 41"]


def test_centrifuge_recovers_from_its_position() -> None:
    """The position is that of the reply, and moves with what is heard; what is not recovered is told."""
    dialect = Centrifuge()
    assert "recover" not in dialect.greeting()[0]
    dialect.take('{"id":2,"subscribe":{"epoch":"e","offset":4}}')
    dialect.take('{"push":{"channel":"room:bench","pub":{"data":"#9#","offset":5}}}')
    assert '"recover": true, "epoch": "e", "offset": 5' in dialect.greeting()[0]
    again = dialect.take(
        '{"id":2,"subscribe":{"recovered":true,"epoch":"e","publications":[{"data":"#1#","offset":6}]}}'
    )
    assert (again.payloads, again.told) == (["#1#"], ["recovered: true"])
    assert dialect.take('{"id":2,"subscribe":{"epoch":"f","offset":1}}').told == ["recovered: false"]
    ended = dialect.take('{"push":{"channel":"room:bench","unsubscribe":{"code":2500,"reason":"x"}}}')
    assert (ended.told, ended.joined) == (["unsubscribe 2500"], False)
    assert "connect" not in dialect.again()[0]


# The rest


def test_the_document_has_a_place_for_the_tables(tmp_path: Path) -> None:
    """What stands there is replaced, the rest stays."""
    document = tmp_path / "guarantees.md"
    document.write_text(f"before\n{BEGIN}old\n{END}\nafter\n")
    insert(document, "new\n")
    assert document.read_text() == f"before\n{BEGIN}new\n{END}\nafter\n"
    document.write_text("no place")
    with pytest.raises(ValueError, match="no place for the table"):
        insert(document, "new\n")
    insert_into = (ROOT / "docs" / "guarantees.md").read_text()
    assert BEGIN in insert_into
    assert END in insert_into


def test_every_peer_has_its_program_and_its_packages() -> None:
    """What install.sh installs is what the comparison looks for."""
    for subject in SUBJECTS.values():
        if subject.module:
            assert (ROOT / "bench" / "peers" / f"{subject.module}.py").exists()
            pinned = (ROOT / "bench" / "peers" / f"{subject.module}.txt").read_text()
            assert subject.packages[0] in pinned
    assert next(iter(FAULTS)) == "none"


def test_what_is_not_installed_is_said() -> None:
    """With the command that installs it."""
    assert not SUBJECTS["hub-room"].missing
    gone = Subject(title="Something", path="/", module="not_there")
    assert "make bench-faults" in gone.missing
