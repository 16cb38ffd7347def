"""docs/security.md names a test for each answer, and each is there."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from hub.cli_config import warnings_of
from hub.config import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| threat", "|---"))]
# What the table has to have an answer to.
THREATS = [
    *("origin hijack", "tokens and keys in urls", "enumeration", "replay", "flooding", "slow readers", "poisoned"),
    *("api key by time", "confusion", "key set", "compression bombs", "header floods", "csrf", "xss", "supply chain"),
]


def functions_of(path: Path) -> set[str]:
    """The functions of a file that pytest would run."""
    tree = ast.parse(path.read_text())
    found = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node.name for node in found if node.name.startswith("test_")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_each_answer_has_its_proof(row: str) -> None:
    """A row has a threat, an answer and at least one test, all of which exist."""
    threat, answer, proof = (cell.strip() for cell in row.strip("|").split("|"))
    assert threat
    assert answer.endswith(".")
    named = re.findall(r"`([^`]+)`", proof)
    assert named
    for name in named:
        path, _, function = name.partition("::")
        assert function in functions_of(ROOT / path), name


@pytest.mark.parametrize("threat", THREATS)
def test_each_threat_has_a_row(threat: str) -> None:
    """None of the usual ones is missing."""
    assert any(threat in row.split("|")[1].lower() for row in ROWS)


def test_every_file_here_proves_something() -> None:
    """No test of this folder is without a line on the page."""
    here = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}
    assert {name for name in here if name not in PAGE} == set()


def test_the_recommended_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are settings, and those of which `hub config check` does not warn."""
    found = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    text = found[1].replace("openssl rand -hex 32", "f0" * 32)
    path = tmp_path / "hub.toml"
    path.write_text(text)
    path.chmod(0o600)
    for name in ("HUB_CONFIG", "REDIS_URL", "HUB_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings.load(config=path)
    assert list(warnings_of(settings, path)) == []
    assert set(tomllib.loads(text)) <= set(Settings.model_fields)
    assert not settings.without_namespace.allow_subscribe_for_client


def test_reports_find_the_page() -> None:
    """SECURITY.md sends its readers here."""
    assert "docs/security.md" in (ROOT / "SECURITY.md").read_text()
