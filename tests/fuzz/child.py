"""One target under libFuzzer (atheris), in a process of its own: `python -m tests.fuzz.child MODULE:NAME [options]`.

Coverage is that of the modules below; what a target has seen besides is turned into counters of the same kind.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable

import atheris

# What decodes; what only carries the bytes around would drown it.
INSTRUMENTED = (
    *("hub.protocol", "hub.tokens", "hub.keys", "hub.handshake", "hub.redis_link", "hub.types"),
    *("websockets.http11", "websockets.server", "websockets.headers", "tests.fuzz.toys"),
)
# Different texts from targets that can be told apart.
COUNTERS = 512


def _counters() -> list[Callable[[], None]]:
    """Functions that do nothing but be seen, each for itself."""

    def seen() -> None:
        return None

    return [atheris.instrument_func(type(seen)(seen.__code__.replace(), {})) for _ in range(COUNTERS)]


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        found = importlib.import_module(module)
    target, counters = found.TARGETS[name], _counters()

    def run(data: bytes) -> None:
        for text in target.run(data):
            counters[zlib.crc32(text.encode(errors="replace")) % COUNTERS]()

    # It starts itself anew for some of its work, by a shell.
    atheris.Setup([f"{sys.executable} -m tests.fuzz.child {sys.argv[1]}", *sys.argv[2:]], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
