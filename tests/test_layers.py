"""The architecture: a module imports from its own layer and from lower ones only (see CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import hub
from hub.examples.gallery import EXAMPLES

ROOT = Path(hub.__file__).parent

LAYERS = (
    ("errors", "dev_only", "types", "namespaces", "environment", "config", "log", "histogram", "watchdog"),
    (
        *("registry", "deadlines", "tokens", "keys", "jwks", "publishing", "protocol"),
        *("protocol.envelope", "protocol.frames", "protocol.deflate", "protocol.backlog", "protocol.fossil"),
        *("protocol.tags", "protocol.sse", "protocol.surrogates"),
        *("protocol.forms", "protocol.stream", "protocol.commands", "protocol.replies", "protocol.session"),
    ),
    ("broker", "memory", "memory_history", "memory_presence"),
    (
        *("redis_sentinel", "redis_link", "redis_commands", "redis_scripts", "redis_feed", "redis_history"),
        *("redis_lease", "redis_presence", "redis_eviction", "redis_sync", "pubsub"),
    ),
    ("hub", "delivery", "direct_writes", "streams", "tracing", "authority", "admission", "capacity", "on_commit"),
    (
        *("handshake", "wire_contract", "wire_server", "asgi", "wire", "plain", "http", "inbox"),
        *("sse_wire", "sse_departure"),
    ),
    (
        "clients",
        "client",
        "pending",
        "orders",
        "subscription",
        "handlers",
        "control",
        "committing",
        "raw_users",
        "raw_sessions",
        "ws",
        "shared_connection",
        "channel_ws",
        "sse",
        "sse_client",
        "api",
        "api_methods",
        "api_models",
        "health",
        "metrics",
        "exposition",
        "siblings",
        *("pages", "console", "console_authority", "console_figures", "console_session"),
    ),
    (
        "embed",
        *(
            "typed",
            "typed.authentication",
            "typed.channel",
            "typed.dependencies",
            "typed.hub",
            "typed.join",
            "typed.messages",
            "typed.model",
        ),
        *("typed.options", "typed.pattern", "typed.rpc", "typed.rules"),
        *("asyncapi", "asyncapi.document", "asyncapi.examples", "asyncapi.routes", "asyncapi.schemas"),
        *("codegen", "codegen.client", "codegen.command", "codegen.names", "codegen.source", "codegen.types"),
        "sync",
        "compat",
        "broadcast",
        "broadcast_backend",
        "embedded",
        "app",
        "sockets",
        "supervisor",
        "worker",
        "cli",
        "cli_api",
        "cli_config",
        "cli_remote",
        "cli_token",
        "__init__",
        "__main__",
        *("examples", "examples.gallery", "examples.pages", "examples.repeat"),
        *(f"examples.{name}{module}" for name in EXAMPLES for module in ("", ".app")),
        "examples.notifications.notify",
        *("testing", "testing.scope", "testing.clock", "testing.fake_redis", "testing.worker", "testing.connection"),
        *("testing.protocol_client", "testing.http", "testing.cluster", "testing.contract", "testing.pytest_plugin"),
    ),
)
LAYER = {module: number for number, modules in enumerate(LAYERS) for module in modules}
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def module_name(path: Path) -> str:
    """`protocol/frames.py` as `protocol.frames`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, relative to the package."""
    found: set[str] = set()
    package = path.parts[:-1]
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {".".join((*base, name)) for name in names if name}
    return {name if name in LAYER else name.rpartition(".")[0] or name for name in found}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_nothing_points_upward(path: Path) -> None:
    """Each module has a layer, and imports nothing from a higher one."""
    name = module_name(path)
    assert name in LAYER, f"{path} has no layer: give it one here"
    upward = {other for other in imports(path) if LAYER.get(other, 0) > LAYER[name]}
    assert not upward - {"__version__"}


def test_redis_is_imported_in_one_layer() -> None:
    """redis-py is known to the drivers, and to `Hub` and `Publisher` for the type of their argument."""
    known = re.compile(r"^\s*(import|from) redis\b", re.MULTILINE)
    users = {module_name(path) for path in MODULES if known.search((ROOT / path).read_text())}
    assert users == {"redis_sentinel", "redis_link", "redis_sync", "pubsub", "embed", "sync"}
