"""Runs a target in a child process under libFuzzer, and keeps what it finds.

The corpus of a target is a directory: files that together reach everything that was reached so far, named by their
hash. New ones come into it only if they reach more than all of them.
"""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .target import Target

__all__ = ["CORPUS", "CRASHES", "Outcome", "files", "fuzz", "is_installed", "load", "minimise"]

HERE = Path(__file__).parent
CORPUS, CRASHES = HERE / "corpus", HERE / "crashes"
# For one input: seconds (of a machine that is busy with other things), and megabytes of the process.
LONGEST_RUN, MOST_MEMORY = 30, 1024
# Characters of what is printed about a failure.
MOST_REPORTED = 3000
# Files that libFuzzer writes for a failure begin with one of these.
FAILURES = ("crash-", "timeout-", "oom-", "leak-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run has shown."""

    executions: int
    # Of the decoders' branches and the target's own, as libFuzzer counts them.
    edges: int
    # Files that were added to the corpus.
    new: int
    # The input that fails, if there is one, and the end of what was printed about it.
    crash: Path | None = None
    report: str = ""


def is_installed() -> bool:
    """Whether this Python has atheris: there are wheels for Linux on x86-64 alone, and not for every version."""
    return find_spec("atheris") is not None


def load(name: str) -> Target:
    """The target `name`, which is `module:name`."""
    module, _, member = name.partition(":")
    target: Target = importlib.import_module(module).TARGETS[member]
    return target


def files(corpus: Path) -> list[Path]:
    """The inputs in a corpus, in the same order everywhere."""
    return sorted(path for path in corpus.rglob("*") if path.is_file())


def fuzz(name: str, corpus: Path, crashes: Path, *, seconds: int, seed: int) -> Outcome:
    """Fuzz a target for some seconds, or until it fails; what is new goes into `corpus`."""
    corpus.mkdir(parents=True, exist_ok=True)
    before = len(files(corpus))
    with _scratch(name) as scratch:
        work = scratch / "work"
        work.mkdir()
        options = (
            f"-max_total_time={seconds}",
            f"-seed={seed}",
            "-print_final_stats=1",
            f"-artifact_prefix={scratch}/",
        )
        output = _run(name, *options, f"-dict={scratch / 'words'}", str(work), str(corpus), str(scratch / "seeds"))
        crash = _kept_crash(name, scratch, crashes)
        _run(name, "-merge=1", str(corpus), str(work))
    return Outcome(
        executions=_last(r"number_of_executed_units: +(\d+)", output) or _last(r"^#(\d+)", output),
        edges=_last(r"cov: (\d+)", output),
        new=len(files(corpus)) - before,
        crash=crash,
        report=_traceback(output) if crash else "",
    )


def minimise(name: str, corpus: Path) -> None:
    """Keep as few files as reach, with the seeds, the same; how often they do so does not count."""
    with _scratch(name) as scratch:
        few = scratch / "seeds"
        seeds = files(few)
        output = _run(name, "-set_cover_merge=1", "-use_counters=0", str(few), str(corpus))
        if "MERGE-OUTER: successful" not in output:
            raise RuntimeError(f"the corpus of {name} was not read, so it stays as it is:\n{output[-2000:]}")
        for seed in seeds:
            seed.unlink()
        shutil.rmtree(corpus)
        shutil.copytree(few, corpus)


@contextmanager
def _scratch(name: str) -> Iterator[Path]:
    """A directory with the target's words in libFuzzer's form, and its seeds."""
    with tempfile.TemporaryDirectory(prefix="hub-fuzz-") as directory:
        target = load(name)
        words = (word if isinstance(word, bytes) else word.encode() for word in target.words)
        lines = ("".join(f"\\x{byte:02x}" for byte in word) for word in words)
        Path(directory, "words").write_text("# libFuzzer's form\n" + "".join(f'"{line}"\n' for line in lines))
        Path(directory, "seeds").mkdir()
        for number, seed in enumerate(target.seeds):
            Path(directory, "seeds", str(number)).write_bytes(seed)
        yield Path(directory)


def _run(name: str, *options: str) -> str:
    limits = (f"-max_len={load(name).longest}", f"-timeout={LONGEST_RUN}", f"-rss_limit_mb={MOST_MEMORY}")
    command = [sys.executable, "-m", "tests.fuzz.child", name, *limits, *options]
    done = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True, errors="replace")
    if done.returncode and not re.search(r"^Done|Test unit written to", done.stderr, re.MULTILINE):
        raise RuntimeError(f"{name} could not be fuzzed:\n{done.stderr[-2000:]}")
    return done.stderr + done.stdout


def _kept_crash(name: str, scratch: Path, crashes: Path) -> Path | None:
    for found in files(scratch):
        if found.name.startswith(FAILURES):
            crashes.mkdir(parents=True, exist_ok=True)
            return Path(shutil.copy(found, crashes / f"{name.partition(':')[2]}-{found.name}"))
    return None


def _last(pattern: str, output: str) -> int:
    """The last number that `pattern` finds; 0 without any."""
    found = re.findall(pattern, output, re.MULTILINE)
    return int(found[-1]) if found else 0


def _traceback(output: str) -> str:
    """What Python says about a failure, without what libFuzzer says about itself."""
    lines = (line for line in output.splitlines() if not re.match(r"#\d|INFO|==\d|MS: |stat::|\t", line))
    return "\n".join(lines)[-MOST_REPORTED:]
