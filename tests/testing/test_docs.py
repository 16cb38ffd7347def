"""docs/testing.md: its application and its tests, run as a user would; what its tables name exists."""

from __future__ import annotations

import re
from pathlib import Path

from hub.testing import Cluster, FakeRedisServer, ProtocolClient, Socket
from hub.testing.clock import LIMIT
from tests.testing.test_pytest_plugin import ROOT, run

PAGE = (ROOT / "docs/testing.md").read_text()
APP, *TESTS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

BROKER = """
from hub.memory import MemoryBroker


class MyBroker(MemoryBroker):
    def __init__(self, url):
        super().__init__()
"""


def test_the_programs(tmp_path: Path) -> None:
    """The blocks of the page are one test file; nothing else is configured."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "mybroker.py").write_text(BROKER)
    printed = run(tmp_path, "\n".join(TESTS), "-q", "-p", "anyio", "-W", "error", "-k", "not Broker or name_tells")
    count = sum(block.count("async def test_") for block in TESTS)
    assert f"{count + 1} passed" in printed, printed


def test_the_tables() -> None:
    """Methods that are there."""
    for names, kind in (
        (re.findall(r"`(?:await )?c\.(\w+)[(`]", PAGE), Cluster),
        (re.findall(r"`(?:await )?c\.redis\.(\w+)", PAGE), FakeRedisServer),
        (re.findall(r"`(?:await )?socket\.(\w+)\(", PAGE), Socket),
    ):
        assert names
        assert [name for name in names if not hasattr(kind, name) and name not in ("redis", "client")] == []
    rows = {
        kind: re.search(rf"^\| `(?:await )?c\.{kind}.*\|(.*)\|$", PAGE, re.MULTILINE) for kind in ("connect", "client")
    }
    for kind, methods in ((Socket, rows["connect"]), (ProtocolClient, rows["client"])):
        assert methods is not None
        named = re.findall(r"`(\w+)`", methods[1])
        assert len(named) >= 8
        assert [name for name in named if not hasattr(kind, name)] == []
    assert f"after {LIMIT:g} virtual seconds" in PAGE
