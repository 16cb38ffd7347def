"""The package's types: all are known, and users' programs are right under mypy and pyright at their strictest."""

from __future__ import annotations

import ast
import asyncio
import importlib
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from tests.support.needs import node
from tests.support.npm import install
from tests.support.wheel import ROOT, Environment, build

HERE = Path(__file__).parent
PROGRAM = HERE / "data" / "user_program.py"
TESTS = HERE / "data" / "user_tests.py"
# What users import, where each has its names in `__all__`; and who says all of them.
PUBLIC = {"hub": PROGRAM, "hub.sync": PROGRAM, "hub.compat": PROGRAM, "hub.testing": TESTS}
# Programs to look at and to run: nobody imports them.
PROGRAMS = ("hub.examples.",)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Type checkers look at what users install, with all that its optional parts need."""
    folder = tmp_path_factory.mktemp("typing")
    extras = ("embedded", "jwt", "sql", "dev")
    return Environment(folder / "environment", build(folder), *extras)


def pyright(environment: Environment, folder: Path, *arguments: str) -> Any:
    """What pyright of npm says, as JSON; it finds the environment's Python by PATH."""
    install(HERE / "typing")
    script = HERE / "typing" / "node_modules" / "pyright" / "index.js"
    done = environment.run(node(), str(script), "--outputjson", *arguments, cwd=folder, timeout=280)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return json.loads(done.stdout)


def test_every_type_is_known(environment: Environment, tmp_path: Path) -> None:
    """`pyright --verifytypes hub`: of all that can be imported the types are written down, and complete."""
    found = pyright(environment, tmp_path, "--ignoreexternal", "--verifytypes", "hub")["typeCompleteness"]
    assert found["pyTypedPath"].startswith(str(environment.site))
    symbols = [each for each in found["symbols"] if not each["name"].startswith(PROGRAMS)]
    assert len(symbols) > 2000
    unclear = [each for each in symbols if not each["isTypeKnown"] or each["isTypeAmbiguous"]]
    faults = {f"{each['name']}: {fault['message']}" for each in unclear for fault in each["diagnostics"]}
    assert not faults, "\n".join(sorted(faults))


def test_users_programs_are_right_for_pyright(environment: Environment, tmp_path: Path) -> None:
    """In strict mode, without a complaint."""
    for path in (PROGRAM, TESTS):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    found = pyright(environment, tmp_path)
    assert found["summary"]["filesAnalyzed"] == 2
    assert [each["message"] for each in found["generalDiagnostics"]] == []


def test_users_programs_are_right_for_mypy(environment: Environment, tmp_path: Path) -> None:
    """`mypy --strict`, without a complaint; and it does see the types, for it finds a mistake."""
    text = PROGRAM.read_text()
    (tmp_path / "program.py").write_text(text)
    (tmp_path / "tests.py").write_text(TESTS.read_text())
    wrong = text.replace("idempotency_key=text, known=True", 'idempotency_key=text, known="yes"')
    wrong = wrong.replace('session, Message(text="committed"))', 'session, "committed")')
    (tmp_path / "mistake.py").write_text(wrong)
    untyped, option = mypy(environment, tmp_path, "program.py", "tests.py", "mistake.py")
    assert untyped.startswith("mistake.py:")
    assert option.startswith("mistake.py:")
    assert 'Argument 2 to "publish_on_commit" of "ChannelHandle"' in untyped
    assert 'Argument "known"' in option


def mypy(environment: Environment, folder: Path, *files: str) -> list[str]:
    """Its errors. It remembers what it found out about other packages from one run to the next."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file", ""]
    command += ["--python-executable", str(environment.python), "--cache-dir", str(ROOT / ".mypy_cache" / "users")]
    done = subprocess.run([*command, *files], cwd=folder, env=environment.variables, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


@pytest.mark.parametrize("module", PUBLIC)
def test_they_say_every_public_name(module: str) -> None:
    """What they import from each public module is all that there is."""
    tree = ast.parse(PUBLIC[module].read_text())
    imports = [part for part in ast.walk(tree) if isinstance(part, ast.ImportFrom)]
    said = {name.name for part in imports if part.module == module for name in part.names}
    assert said == set(importlib.import_module(module).__all__)


def test_the_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does what it says."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    program = runpy.run_path(str(PROGRAM), run_name="program")

    async def two_messages() -> list[Any]:
        async with program["two_messages"]() as subscriber:
            heard: list[Any] = await program["listen"](subscriber)
            return heard

    with TestClient(program["app"]) as client:
        assert client.portal is not None
        assert client.portal.call(program["publish"], "hello").offset == 1
        assert client.portal.call(program["publish"], "hello").suppressed
        client.portal.call(program["act"], "42")
        assert client.portal.call(program["talk"], "kitchen") == ["hello"]
        answer = client.portal.call(program["ask"])
        assert answer == {"texts": [], "users": [], "clients": 0, "workers": 1, "channels": {}, "ready": True}
        with Session(create_engine("sqlite://")) as session:
            client.portal.call(program["talk_on_commit"], session, "kitchen")
        assert client.portal.call(program["talk"], "kitchen") == ["hello", "committed"]
    assert asyncio.run(two_messages()) == ["one", {"number": 2}]


@pytest.mark.parametrize("name", ["test_everybody_hears", "test_what_goes_wrong"])
def test_the_tests_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And pass."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    asyncio.run(runpy.run_path(str(TESTS))[name]())
