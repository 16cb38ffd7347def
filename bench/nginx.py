"""A real nginx with one worker process, from a template."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .process import free_port, listens, running

__all__ = ["running_nginx"]


@contextlib.contextmanager
def running_nginx(
    template: Path, values: Mapping[str, object], ready: Callable[[int], bool] = listens
) -> Iterator[tuple[int, int]]:
    """Port and pid of the worker, when it is `ready`; besides `values`, a template may use @port@, @folder@, @user@."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as folder:
        # Started by root, its workers would be somebody who may not write here.
        user = "user root;" if os.geteuid() == 0 else ""
        text = _filled(template.read_text(), {**values, "port": port, "folder": folder, "user": user})
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(text)
        with running("nginx", "-p", folder, "-c", str(configuration), "-g", "daemon off;") as process:
            process.wait_for(lambda: ready(port) and process.children())
            yield port, process.children()["nginx"]


def _filled(template: str, values: Mapping[str, object]) -> str:
    """`@name@` replaced: nginx has its own use for `$` and braces."""
    for name, value in values.items():
        template = template.replace(f"@{name}@", str(value))
    return template
