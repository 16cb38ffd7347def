"""Every block of code in the documentation is at least something that its language and the hub take.

Many pages also have tests that run their programs: tests/test_*_docs.py, tests/test_migrating.py, tests/test_readme.py.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from hub import Settings
from hub.cli import cli
from tests.support.needs import node
from tests.support.uvicorn_app import ROOT

WHERE = ("*.md", "docs/*.md", "examples/*.md", "hub/.agents/*/*/*.md")
PAGES = {page: page.read_text() for where in WHERE for page in sorted(ROOT.glob(where))}
BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[tuple[str, str, str]]:
    """Where, the language, the code."""
    for page, text in PAGES.items():
        for found in BLOCK.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield f"{page.relative_to(ROOT)}:{line}", found[2].strip(), found[3]


BLOCKS = list(blocks())


def python(code: str) -> None:
    """It compiles, in a coroutine where it awaits, and what it imports of the hub is there."""
    tree = ast.parse(code)
    compile(tree, "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    for part in ast.walk(tree):
        if isinstance(part, ast.ImportFrom) and (part.module or "").partition(".")[0] == "hub":
            module = importlib.import_module(part.module or "")
            assert [name.name for name in part.names if not hasattr(module, name.name)] == []


def javascript(code: str) -> None:
    """It is a module."""
    command = [node(), "--input-type=module", "--check"]
    done = subprocess.run(command, input=code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def html(code: str) -> None:
    """Its scripts are modules, too."""
    for script in re.findall(r"<script[^>]*>(.*?)</script>", code, re.DOTALL):
        javascript(script)


def toml(code: str) -> None:
    """They are settings of the hub."""
    Settings(**tomllib.loads(code))
    assert set(tomllib.loads(code)) <= set(Settings.model_fields)


def sh(code: str) -> None:
    """A shell could read it; and what it calls exists: commands of the hub, targets of make, programs."""
    done = subprocess.run(["sh", "-n"], input=code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in code.replace("\\\n", " ").splitlines():
        command(shlex.split(line, comments=True))


def command(words: list[str]) -> None:
    """One line of a shell."""
    while words and re.fullmatch(r"\w+=.*|-?\w*env", words[0]):
        words = words[1:]
    if words[:1] == ["hub"]:
        hub_command(cli, words[1:])
    elif words[:1] == ["make"]:
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif words[:1] == ["uvicorn"] and words[1].count(".") > 1:
        module, _, name = words[1].partition(":")
        path = ROOT / (module.replace(".", "/") + ".py")
        assert re.search(rf"^{name}\b", path.read_text(), re.MULTILINE)


def hub_command(group: click.Command, words: list[str]) -> None:
    """It exists, and takes these arguments."""
    if isinstance(group, click.Group):
        chosen = group.get_command(click.Context(group), words[0])
        assert chosen is not None
        hub_command(chosen, words[1:])
    else:
        words = [word for word in words if not word.startswith("$") and word not in ("<", ">", "|", "&")]
        group.make_context(group.name, words)


def nothing(code: str) -> None:
    """Not code: what is printed, a diff, a signature."""


CHECKS: dict[str, Callable[[str], object]] = {
    "python": python,
    "js": javascript,
    "py": nothing,
    "ts": nothing,  # tests/codegen compiles and runs it
    "html": html,
    "toml": toml,
    "sh": sh,
    "json": json.loads,
    "diff": nothing,
    "": nothing,
}


@pytest.mark.parametrize(("language", "code"), [pytest.param(*block[1:], id=block[0]) for block in BLOCKS])
def test_it_is_what_it_says(language: str, code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each block, by its language; one without a check is not in the documentation."""
    for name in ("REDIS_URL", "HUB_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert language in CHECKS, f"nothing is known of {language!r} here"
    CHECKS[language](code)


def test_there_are_blocks() -> None:
    """The pattern finds as many as there are fences."""
    fences = sum(len(re.findall(r"^ *```", text, re.MULTILINE)) for text in PAGES.values())
    assert fences == 2 * len(BLOCKS) > 80
