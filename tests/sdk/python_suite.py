"""Runs `tests.test_client` of centrifuge-python as it is, in its folder: `python python_suite.py PORT REPORT`.

Two things are changed from outside, none in its tests. They have the server's address written into them, so clients of
that address are led to PORT; and the hub does not speak Protobuf, so such a client skips its subtest instead.
"""

from __future__ import annotations

import functools
import json
import sys
import unittest
from pathlib import Path
from typing import Any

# Where the suite expects its server.
WRITTEN = "localhost:8000"


def lead_clients_to(port: int) -> None:
    """Every later `Client` of the written address connects to `port`, with JSON."""
    from centrifuge import Client

    created = Client.__init__

    @functools.wraps(created)
    def init(self: Client, address: str, *arguments: Any, **options: Any) -> None:
        if WRITTEN in address and options.get("use_protobuf"):
            raise unittest.SkipTest("the hub does not speak Protobuf")
        created(self, address.replace(WRITTEN, f"127.0.0.1:{port}"), *arguments, **options)

    Client.__init__ = init  # type: ignore[method-assign]


class Result(unittest.TextTestResult):
    """Counts what has passed, subtests by their encoding."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.passed: list[str] = []

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.passed.append(test.id())

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is None:
            self.passed.append(subtest.id())


def main(port: int, report: Path) -> None:
    sys.path.insert(0, str(Path.cwd()))
    lead_clients_to(port)
    from tests import centrifugo  # type: ignore[attr-defined]  # of the suite, not of the hub

    centrifugo.CENTRIFUGO_HTTP_URL = f"http://127.0.0.1:{port}"
    suite = unittest.defaultTestLoader.loadTestsFromName("tests.test_client")
    result: Any = unittest.TextTestRunner(resultclass=Result, verbosity=2).run(suite)
    faults = [f"{test.id()}\n{text}" for test, text in [*result.failures, *result.errors]]
    skipped = [(test.id(), reason) for test, reason in result.skipped]
    report.write_text(json.dumps({"passed": result.passed, "faults": faults, "skipped": skipped}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
