"""TypeScript's compiler and Node.js, with the packages in tests/codegen/node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hub.pages import STATIC

from .needs import node
from .npm import install

PACKAGES = Path(__file__).parents[1] / "codegen" / "node"
COMPILER = PACKAGES / "node_modules" / "typescript" / "bin" / "tsc"

# As strict as there is.
_OPTIONS = {
    "strict": True,
    "noUncheckedIndexedAccess": True,
    "exactOptionalPropertyTypes": True,
    "noImplicitReturns": True,
    "noUnusedLocals": True,
    "noUnusedParameters": True,
    "verbatimModuleSyntax": True,
    "erasableSyntaxOnly": True,
    "isolatedModules": True,
    "target": "es2022",
    "lib": ["es2022", "dom"],
    "types": [],
    "module": "nodenext",
}


def packages() -> None:
    """The packages are there, or the test is skipped."""
    install(PACKAGES)


def program(folder: Path, **files: str) -> None:
    """Put programs, each `name="text"`, beside hub.js into a folder."""
    for name in ("hub.js", "hub.d.ts"):
        shutil.copy(STATIC / name, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    options = {"compilerOptions": _OPTIONS, "files": [f"{name}.ts" for name in files]}
    (folder / "tsconfig.json").write_text(json.dumps(options))
    for name, text in files.items():
        (folder / f"{name}.ts").write_text(text, encoding="utf-8")


def compiled(folder: Path) -> list[str]:
    """Compile what is in the folder; the compiler's complaints."""
    done = subprocess.run([node(), str(COMPILER), "-p", "."], cwd=folder, capture_output=True, text=True, timeout=200)
    assert bool(done.returncode) == bool(done.stdout), done.stdout + done.stderr
    return done.stdout.splitlines()


def parsed(*documents: Any) -> list[list[dict[str, Any]]]:
    """What AsyncAPI's own parser has to say against each of these documents: errors and warnings."""
    script = [node(), str(PACKAGES / "validate.mjs")]
    done = subprocess.run(script, input=json.dumps(documents), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = []
    for answer in json.loads(done.stdout):
        found.append([fault for fault in answer["faults"] if fault["severity"] < 2])
        assert answer["parsed"] or found[-1]
    return found
