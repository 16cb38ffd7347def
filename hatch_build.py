"""Packs a wheel that is built 3 % smaller than zlib does; it is unpacked as ever."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import zopfli.zlib
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Zopfli:
    """A compressor as `zipfile` uses them."""

    def __init__(self, *options: object) -> None:
        self._parts: list[bytes] = []

    def compress(self, data: bytes) -> bytes:
        self._parts.append(data)
        return b""

    def flush(self) -> bytes:
        """The deflated data: a zlib stream without its header (2 bytes) and its checksum (4)."""
        return zopfli.zlib.compress(b"".join(self._parts), numiterations=60)[2:-4]


class Tight(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Write the wheel again. An editable one is left as it is: it is small, and nobody keeps it."""
        if version == "standard":
            path = Path(artifact_path)
            tight = path.with_suffix(".tight")
            with zipfile.ZipFile(path) as old, zipfile.ZipFile(tight, "w") as new:
                _copy(old, new)
            tight.replace(path)


def _copy(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
    with patch.object(zipfile, "_get_compressor", Zopfli):  # it takes no compressors of others
        for entry in old.infolist():
            new.writestr(entry, old.read(entry))
