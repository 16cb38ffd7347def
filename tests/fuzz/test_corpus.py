"""What the fuzzer has kept is replayed in every run of the tests; the fuzzer itself finds a bug that was planted."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.fuzz import toys
from tests.fuzz.__main__ import main
from tests.fuzz.engine import CORPUS, files, fuzz, is_installed, minimise
from tests.fuzz.targets import TARGETS
from tests.support.needs import missing

MOST_FILES, MOST_BYTES = 300, 300_000


@pytest.fixture
def atheris() -> None:
    if not is_installed():
        missing("atheris is not installed: pip install atheris (Linux on x86-64)")


@pytest.mark.parametrize("name", TARGETS)
def test_the_kept_inputs(name: str) -> None:
    """Every input that has ever reached something new keeps the invariants of its target."""
    for path in files(CORPUS / name):
        try:
            TARGETS[name].run(path.read_bytes())
        except Exception as error:
            pytest.fail(f"python -m tests.fuzz --target {name} --replay {path} fails: {error!r}")


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds(name: str) -> None:
    """What is good, what has to be refused, and what is easily got wrong."""
    for seed in TARGETS[name].seeds:
        assert TARGETS[name].run(seed) is not None, seed


@pytest.mark.parametrize("name", TARGETS)
def test_their_neighbours(name: str) -> None:
    """Each of these inputs with one byte changed and cut off somewhere: nearly good."""
    rng = random.Random(name)
    for known in [*TARGETS[name].seeds, *(path.read_bytes() for path in files(CORPUS / name))]:
        data = bytearray(known or b"\0")
        data[rng.randrange(len(data))] = rng.randrange(256)
        TARGETS[name].run(bytes(data[: rng.randrange(len(data) + 1)]))


def test_the_corpus_is_small() -> None:
    """It is part of the repository; `python -m tests.fuzz --smaller` keeps as few files as reach the same."""
    kept = files(CORPUS)
    assert kept, "the corpus is lost"
    assert {path.parent.name for path in kept} <= set(TARGETS)
    assert len(kept) <= MOST_FILES
    assert sum(path.stat().st_size for path in kept) <= MOST_BYTES


@pytest.mark.usefixtures("atheris")
def test_a_planted_bug_is_found(tmp_path: Path) -> None:
    """A bug behind seven comparisons, which only coverage leads to, is found and its input kept."""
    outcome = fuzz("tests.fuzz.toys:planted", tmp_path / "corpus", tmp_path / "crashes", seconds=40, seed=1)
    assert outcome.crash is not None
    assert "the planted bug" in outcome.report
    with pytest.raises(AssertionError, match="the planted bug"):
        toys.planted(outcome.crash.read_bytes())


@pytest.mark.usefixtures("atheris")
def test_what_is_new_is_kept(tmp_path: Path) -> None:
    """An input that reaches more is kept; of a corpus with more than that as few as reach the same."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(5):
        (corpus / str(number)).write_bytes(bytes((number,)))
    outcome = fuzz("tests.fuzz.toys:good", corpus, tmp_path / "crashes", seconds=1, seed=1)
    assert outcome.crash is None
    assert outcome.executions > 1000
    assert outcome.new >= 1
    assert any(toys.good(path.read_bytes()) == ["hub"] for path in files(corpus))
    before = len(files(corpus))
    minimise("tests.fuzz.toys:good", corpus)
    assert any(toys.good(path.read_bytes()) == ["hub"] for path in files(corpus))
    assert len(files(corpus)) < before


def test_a_failure_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--replay` runs one input, of the target that its file is named after or of another."""
    monkeypatch.setitem(TARGETS, "planted", toys.TARGETS["planted"])
    bad = tmp_path / "planted-crash-1"
    bad.write_bytes(b"hub\x81\x80!" + bytes(20))
    failed = CliRunner().invoke(main, ["--replay", str(bad)])
    assert str(failed.exception) == "the planted bug"
    assert CliRunner().invoke(main, ["--target", "server", "--replay", str(bad)]).output.startswith("server ")
