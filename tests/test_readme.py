"""What a newcomer does first, on the wheel in an environment that has nothing else: the README's five commands.

And the programs of the skill that the wheel brings.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets
from packaging.requirements import Requirement

from tests.support.server import hub_serve
from tests.support.uvicorn_app import running
from tests.support.wheel import ROOT, Environment, build

TITLE = "## Five commands"
README = (ROOT / "README.md").read_text()
SECTION = README.partition(f"{TITLE}\n")[2].partition("\n## ")[0]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, code in BLOCK.findall(SECTION) if language == "sh" for line in code.splitlines()]

pytestmark = pytest.mark.timeout(300)


def test_there_are_five_and_the_site_begins_with_them() -> None:
    """The same text in both places."""
    assert [line.split()[0] for line in COMMANDS] == ["pip", "hub", "uvicorn", "curl", "pytest"]
    assert SECTION in (ROOT / "docs" / "index.md").read_text()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The first command: from this tree in place of an index."""
    folder = tmp_path_factory.mktemp("newcomer")
    hub, *tools = [Requirement(word) for word in shlex.split(COMMANDS[0])[2:]]
    assert hub.name == "broadcast-hub"
    return Environment(folder / "environment", build(folder), *hub.extras, tools=[tool.name for tool in tools])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files that the text names, each before its block."""
    for name, code in re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(code)
    assert {path.name for path in tmp_path.iterdir()} == {"app.py", "test_app.py"}
    return tmp_path


def test_run(environment: Environment) -> None:
    """The second command serves the chat."""
    program, serve, *options = shlex.split(COMMANDS[1])
    assert serve == "serve"
    with hub_serve(*options, program=[str(environment.bin / program)], env=environment.variables) as hub:
        assert hub.status("/") == 200


@pytest.fixture
def address(environment: Environment, project: Path) -> Iterator[str]:
    """The third command, on a free port."""
    program, *options = shlex.split(COMMANDS[2])
    command = [str(environment.bin / program), *options, "--port", "0"]
    with running(command, 1, environment.variables, project) as server:
        yield f"127.0.0.1:{server.port}"


async def test_embed(address: str) -> None:
    """The fourth command is heard by the clients of the application."""
    async with websockets.connect(f"ws://{address}/rt/ws/prices") as client:
        assert await asyncio.to_thread(curl, COMMANDS[3].replace("127.0.0.1:8000", address)) == 200
        async with asyncio.timeout(20):
            assert await client.recv() == '{"BTC":97000.0}'


def curl(line: str) -> int:
    """The status that curl would get."""
    _, *words = shlex.split(line)
    *options, url = words
    flags = dict(zip(options[::2], options[1::2], strict=True))
    name, _, value = flags["-H"].partition(": ")
    request = urllib.request.Request(url, flags["-d"].encode(), {name: value})
    with urllib.request.urlopen(request, timeout=20) as response:
        return int(response.status)


def test_test(environment: Environment, project: Path) -> None:
    """The fifth command passes, and would not if the application did nothing."""
    (command,) = shlex.split(COMMANDS[4])
    done = environment.run(command, cwd=project)
    assert re.search(r"^=+ 1 passed in", done.stdout, re.MULTILINE), done.stdout + done.stderr
    app = project / "app.py"
    app.write_text(app.read_text().replace("await hub.publish", "print"))
    done = environment.run(command, cwd=project)
    assert re.search(r"^=+ 1 failed in", done.stdout, re.MULTILINE), done.stdout + done.stderr


def test_the_skill(environment: Environment, tmp_path: Path) -> None:
    """The wheel has it, and its programs are an application with a test that passes."""
    (skill,) = (environment.site / "hub").glob(".agents/skills/*/SKILL.md")
    app, test = [code for language, code in BLOCK.findall(skill.read_text()) if language == "python"]
    (tmp_path / "app.py").write_text(app)
    (tmp_path / "test_app.py").write_text(test)
    done = environment.run("pytest", cwd=tmp_path)
    assert re.search(r"^=+ 1 passed in", done.stdout, re.MULTILINE), done.stdout + done.stderr
