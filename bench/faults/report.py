"""The table for people, the file for programs, and the part of docs/guarantees.md that is written from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..report import machine
from .faults import FAULTS, Plan
from .play import Outcome
from .subjects import SUBJECTS
from .verdict import Verdict

__all__ = ["BEGIN", "END", "as_document", "as_json", "cell", "insert", "read"]

BEGIN = "<!-- faults: written by python -m bench.faults -->\n"
END = "<!-- /faults -->"

# Subject → fault → what came of it, or why it did not run.
Outcomes = Mapping[str, Mapping[str, Outcome]]

# How a note is read out.
NOTES = {
    "connections cut": "connections cut: {:g}",
    "connections swallowed": "connections: {:g}",
    "cut after s": "the slow one cut after {:g} s",
    "not cut within s": "the slow one not cut within {:g} s",
    "memory MB": "its worker's memory {:+g} MB",
}
DETAILS = "fault | who | accepted | refused | no answer | longest silence | lost | of it untold | told to clients"


def as_json(outcomes: Outcomes, plan: Plan, commands: list[str], versions: Mapping[str, Any]) -> dict[str, Any]:
    """Everything."""
    return {
        "machine": {name: value for name, value in machine().items() if name != "pinned"},
        "versions": dict(versions),
        "commands": commands,
        "plan": asdict(plan),
        "outcomes": {who: {fault: asdict(outcome) for fault, outcome in of.items()} for who, of in outcomes.items()},
    }


def read(path: Path) -> tuple[dict[str, dict[str, Outcome]], list[str]]:
    """The outcomes in such a file, and the commands that they are from; none if there is no file."""
    found = json.loads(path.read_text()) if path.exists() else {"outcomes": {}, "commands": []}
    outcomes = {who: {fault: _outcome(it) for fault, it in of.items()} for who, of in found["outcomes"].items()}
    return outcomes, found["commands"]


def _outcome(values: dict[str, Any]) -> Outcome:
    return Outcome(verdict=Verdict(**values["verdict"]), notes=values["notes"], log=values["log"])


# One cell


def cell(verdict: Verdict) -> str:
    """What a reader must know of one fault at one system."""
    parts = [_delivery(verdict)]
    parts.append(f"{_count(verdict.lost)} lost" if verdict.lost else "0 lost")
    if verdict.duplicates:
        parts.append(f"{_count(verdict.duplicates)} twice")
    if verdict.disorder:
        parts.append(f"{_count(verdict.disorder)} out of order")
    if _was_disturbed(verdict):
        parts.append(f"told: {', '.join(verdict.whom) or '**nobody**'}")
    return "; ".join(parts)


def _delivery(verdict: Verdict) -> str:
    if verdict.resumed is None:
        return "**deaf**" if verdict.deaf == verdict.clients else f"**{verdict.deaf} of {verdict.clients} deaf**"
    return f"{verdict.resumed:.1f} s"


def _was_disturbed(verdict: Verdict) -> bool:
    return bool(verdict.lost or verdict.deaf or verdict.duplicates or verdict.disorder or verdict.whom)


def _count(number: int) -> str:
    return f"{number:,}"


# The document


def as_document(result: Mapping[str, Any], outcomes: Outcomes) -> str:
    """What stands between the markers."""
    return "\n".join([*_conditions(result), "", *_matrix(outcomes), "", *_details(outcomes)])


def _conditions(result: Mapping[str, Any]) -> list[str]:
    machine, commands = result["machine"], "`, `".join(result["commands"])
    lines = [f"Measured {machine['when'][:10]} on {machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']},"]
    lines += [
        f"Python {machine['python']}, {result['versions']['redis-server']}, by `{commands}`.",
        "",
        "Versions:",
        "",
    ]
    for who, versions in result["versions"].items():
        if isinstance(versions, dict):
            lines.append(f"- {SUBJECTS[who].title}: " + ", ".join(f"{name} {v}" for name, v in versions.items()))
    return lines


def _matrix(outcomes: Outcomes) -> list[str]:
    """A table a fault: one with a column for each would be too wide."""
    lines = []
    for fault in _faults_in(outcomes):
        lines += ["", f"**{FAULTS[fault].title}**", "", "| who | delivery afterwards, lost, told |", "|---|---|"]
        for who, of in outcomes.items():
            if fault in of:
                lines.append(f"| {SUBJECTS[who].title} | {cell(of[fault].verdict)}{_notes(of[fault])} |")
    return lines[1:]


def _faults_in(outcomes: Outcomes) -> list[str]:
    return [fault for fault in FAULTS if any(fault in of for of in outcomes.values())]


def _notes(outcome: Outcome) -> str:
    """What happened besides, such as when the slow client was cut."""
    notes = [NOTES[name].format(value) for name, value in outcome.notes.items()]
    return f" ({'; '.join(notes)})" if notes else ""


def _details(outcomes: Outcomes) -> list[str]:
    lines = ["<details><summary>All figures</summary>", ""]
    lines += [
        "| fault | who | accepted | refused | no answer | longest silence | lost | of it untold | told to clients |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for fault in _faults_in(outcomes):
        for who, of in outcomes.items():
            if fault in of:
                lines.append(_detail(fault, SUBJECTS[who].title, of[fault].verdict))
    return [*lines, "", "</details>", ""]


def _detail(fault: str, title: str, verdict: Verdict) -> str:
    told = ", ".join(f"{what} ×{count}" for what, count in sorted(verdict.told.items()))  # noqa: RUF001
    health = f"; /health red after {verdict.red_after:.1f} s" if verdict.red_after is not None else ""
    figures = [verdict.accepted, verdict.refused, verdict.unanswered]
    cells = [fault, title, *map(_count, figures), f"{verdict.silence:.1f} s"]
    cells += [_count(verdict.lost), _count(verdict.lost_untold), (told or "nothing") + health]
    return f"| {' | '.join(cells)} |"


def insert(document: Path, text: str) -> None:
    """Replace what stands between the markers. Raises ValueError if they are not there."""
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no place for the table: {BEGIN.strip()} … {END}")
    document.write_text(before + begin + text + end + after)
