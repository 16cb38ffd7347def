"""What the suite found. Anything that is not OK, and not known to have no verdict, is a failure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

__all__ = ["ALL_CASES", "Report"]

# Of the suite's version in `suite.py`.
ALL_CASES = 517
# Cases for which the suite gives no verdict on any server: it only notes what the server does.
INFORMATIONAL = ("7.1.6", "7.13.1", "7.13.2")
# How the connection of a case may end.
GOOD_CLOSES = ("OK", "INFORMATIONAL")


class Report:
    """The result of each case, by its number."""

    def __init__(self, results: Mapping[str, Mapping[str, object]]) -> None:
        self._results = results

    @classmethod
    def read(cls, path: Path) -> Report:
        """From the suite's `index.json`, for the one server in it. Raises ValueError for anything else."""
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or len(found) != 1:
            raise ValueError(f"{path} is not a report about one server")
        [results] = found.values()
        return cls(results)

    def __len__(self) -> int:
        return len(self._results)

    def __str__(self) -> str:
        counts = Counter(str(result["behavior"]) for result in self._results.values())
        return f"{len(self)} cases: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())

    def faults(self) -> list[str]:
        """One line a case that is not as it should be, in the suite's order."""
        return [
            f"{case}: {result['behavior']}, close {result['behaviorClose']} ({result.get('remoteCloseCode')})"
            for case, result in sorted(self._results.items(), key=_number)
            if not _is_good(case, result)
        ]


def _is_good(case: str, result: Mapping[str, object]) -> bool:
    verdict = result["behavior"] == "OK" or (result["behavior"] == "INFORMATIONAL" and case in INFORMATIONAL)
    return verdict and result["behaviorClose"] in GOOD_CLOSES


def _number(item: tuple[str, object]) -> list[int]:
    return [int(part) for part in item[0].split(".")]
