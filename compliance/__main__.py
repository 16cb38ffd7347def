"""`python -m compliance [CASES]`: run the suite against `hub serve --config compliance/hub.toml`, and judge.

CASES are the suite's patterns separated by commas; all without any. Exit status 1 if a case is not OK.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.support.server import hub_serve

from . import suite
from .report import ALL_CASES, Report

HERE = Path(__file__).parent
REPORTS = HERE.parent / ".cache" / "compliance"
# Seconds; all cases took 2,736 beside other work on two cores.
TIMEOUT = 7200.0


def main(arguments: list[str]) -> int:
    cases = arguments[0].split(",") if arguments else ["*"]
    try:
        program = suite.wstest()
    except suite.Missing as missing:
        print(f"compliance: SKIPPED. {missing}")
        return 0
    start = time.monotonic()
    with hub_serve("--config", str(HERE / "hub.toml")) as hub:
        path = suite.run(program, f"{hub.ws_url}/echo", cases, REPORTS, timeout=TIMEOUT)
        log = hub.log
    if not path.exists():
        print(f"compliance: the suite ended without a report; see {path.parent / 'wstest.log'}")
        return 1
    report = Report.read(path)
    faults = report.faults()
    if cases == ["*"] and len(report) != ALL_CASES:
        faults.append(f"{ALL_CASES} cases were expected")
    if "Traceback" in log:
        faults.append(f"the hub logged a traceback:\n{log}")
    print(f"compliance: {report}; {time.monotonic() - start:.0f} s")
    for fault in faults:
        print(f"  {fault}")
    print(f"  details: {path.with_suffix('.html')}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
