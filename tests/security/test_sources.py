"""What the sources do not do: no text that comes from elsewhere is ever run, and no server is believed blindly."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "hub").rglob("*.py"))
# They make objects, or run code, out of bytes.
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "code", "codeop", "xml", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__", "input", "execfile"}
METHODS = {"system", "popen", "loads_unsafe", "unsafe_load", "mktemp", "tempnam"}


def trees() -> Iterator[tuple[Path, ast.AST]]:
    for path in SOURCES:
        yield path, ast.parse(path.read_text())


def name_of(node: ast.Call) -> str:
    """`f` of `f()`, `.m` of `x.m()`."""
    match node.func:
        case ast.Name(id):
            return id
        case ast.Attribute(attr=attribute):
            return f".{attribute}"
    return ""


def calls() -> Iterator[tuple[Path, ast.Call]]:
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield path, node


def test_there_are_sources() -> None:
    """The search looks at something."""
    assert len(SOURCES) > 50


def test_nothing_is_run_that_comes_from_elsewhere() -> None:
    """No eval, exec, pickle and the like, in any module, for any data."""
    found = [f"{path.name}: {name_of(node)}" for path, node in calls() if name_of(node) in CALLS]
    found += [f"{path.name}: {name_of(node)}" for path, node in calls() if name_of(node)[1:] in METHODS]
    for path, tree in trees():
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found += [f"{path.name}: imports {name}" for name in names if name.partition(".")[0] in MODULES]
    assert found == []


def test_no_shell() -> None:
    """Programs are started with a list of words."""
    for path, node in calls():
        assert not any(keyword.arg == "shell" for keyword in node.keywords), path
        assert name_of(node) != ".create_subprocess_shell", path


def test_certificates_are_checked() -> None:
    """Nothing turns the verification of TLS off."""
    text = "".join(path.read_text() for path in SOURCES)
    assert not re.search(r"CERT_NONE|_create_unverified|verify\s*=\s*False|check_hostname\s*=\s*False", text)


# What is only another form of the same.
CALLED = re.compile(r"(\.(en|de)code|\.strip|\.get_secret_value)\([^()]*\)$")


def test_secrets_are_compared_in_constant_time() -> None:
    """No `==` or `in` has a key, a token or a password on one side: `hmac.compare_digest` compares them."""
    secret = re.compile(r"(?i)(^|_|\.)(api_?keys?|secret|password|static|digest|signature|given)$")
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq | ast.In | ast.NotIn):
                sides = [CALLED.sub("", ast.unparse(side)) for side in (node.left, *node.comparators)]
                empty = any(side in ("''", "b''", "None", "()") for side in sides)
                found += [f"{path.name}: {ast.unparse(node)}" for side in sides if secret.search(side) and not empty]
    assert found == []


def test_chance_that_matters_is_the_systems() -> None:
    """Names that nobody may guess come from `os.urandom`, `secrets` or `uuid4`; `random` is for waiting times only."""
    allowed = {"uniform", "random"}
    for path, node in calls():
        match node.func:
            case ast.Attribute(value=ast.Name(id="random"), attr=attribute):
                assert attribute in allowed, f"{path.name}: random.{attribute}"
        assert name_of(node) != ".uuid1", path


SCRIPTS = sorted((ROOT / "hub/lua").glob("*.lua"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_run_no_text(script: Path) -> None:
    """Lua in Redis takes what clients say as arguments, and never as code."""
    text = re.sub(r"--.*", "", script.read_text())
    assert not re.search(r"\b(loadstring|load|dofile|require|setfenv|getfenv|debug|cjson|cmsgpack|struct)\b", text)


PAGES = sorted([*(ROOT / "hub/static").glob("*.js"), *(ROOT / "hub/templates").glob("*.html")])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_write_no_html(page: Path) -> None:
    """What others have said is put into pages as text: no page makes HTML or code of a string."""
    text = page.read_text()
    wrong = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|\beval\(|new Function|srcdoc"
    )
    assert not re.search(wrong, text)
    assert not re.search(r"""\son\w+\s*=\s*["']""", text) or page.suffix == ".js"
    assert not re.search(r"""(src|href)\s*=\s*["']https?://""", text), "a page loads nothing from elsewhere"
    if page.suffix == ".html":
        assert "|safe" not in text
        assert "{% autoescape false" not in text


def test_versions_are_pinned() -> None:
    """What the hub is built and tested with is named to the last digit, its container's base included."""
    pins = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    assert pins
    assert [pin for pin in pins if pin and not re.fullmatch(r"[\w.\-\[\]]+==[\w.+!]+(\s*;.*)?", pin)] == []
