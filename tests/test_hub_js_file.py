"""The files of the browser client: how large they are, and that the types tell everything."""

from __future__ import annotations

import gzip
import re

from tests.support.fake_hub import STATIC


def test_it_is_small_and_needs_nothing() -> None:
    """One module under 6 KB, gzipped as it stands."""
    source = (STATIC / "hub.js").read_bytes()
    assert len(gzip.compress(source, 9)) < 6000
    assert not re.search(rb"^\s*import |import\(|require\(", source, re.MULTILINE)


def test_the_types_name_every_public_member() -> None:
    """What hub.js exports and its classes offer is in hub.d.ts, and nothing that begins with an underscore."""
    source, types = ((STATIC / name).read_text() for name in ("hub.js", "hub.d.ts"))
    for name in re.findall(r"^export class (\w+)", source, re.MULTILINE):
        assert f"export class {name}" in types
    methods = set(re.findall(r"^  (?:async )?([a-z]\w*)\(.*\) \{$", source, re.MULTILINE)) - {"constructor"}
    assert {"connect", "subscribe", "presenceStats"} <= methods
    for name in methods:
        assert re.search(rf"^  {name}[<(]", types, re.MULTILINE), name
    assert not re.search(r"\b_\w", types)
