"""The browser client as a file: how large it is, and that the types tell everything."""

from __future__ import annotations

import gzip
import re

from tests.support.fake_hub import STATIC

SOURCE, TYPES = ((STATIC / name).read_text() for name in ("hub.js", "hub.d.ts"))


def bodies(kind: str, text: str) -> str:
    """Of all that begins with `kind`."""
    return "".join(re.findall(rf"^{kind}.*?\{{\n(.*?)^\}}", text, re.MULTILINE | re.DOTALL))


# `Party` is what the exported classes have in common.
PUBLIC = bodies(r"(?:export )?class (?!Calls)", SOURCE)


def test_it_is_small_and_needs_nothing() -> None:
    """One module under 6 KB, gzipped as it stands."""
    assert len(gzip.compress(SOURCE.encode(), 9)) < 6000
    assert not re.search(r"^\s*import |import\(|require\(", SOURCE, re.MULTILINE)


def test_the_types_name_every_public_member() -> None:
    """What hub.js exports and its classes offer is in hub.d.ts, and nothing that begins with an underscore."""
    exported = re.findall(r"^export class (\w+)", SOURCE, re.MULTILINE)
    assert sorted(exported) == sorted(re.findall(r"^export class (\w+)", TYPES, re.MULTILINE))
    methods = set(re.findall(r"^  (?:async )?([a-z]\w*)\(.*\) \{$", PUBLIC, re.MULTILINE)) - {"constructor"}
    assert {"connect", "subscribe", "presenceStats", "on", "ready"} <= methods
    for name in methods:
        assert re.search(rf"^  {name}[<(]", TYPES, re.MULTILINE), name
    assert not re.search(r"\b_\w", TYPES)


def members(kind: str) -> set[str]:
    """Of the types of a kind."""
    return set(re.findall(r"^  (?:readonly )?(\w+)[?<(:]", bodies(f"export {kind}", TYPES), re.MULTILINE))


def test_the_types_promise_nothing_else() -> None:
    """Every member, event and option of hub.d.ts is something that the module knows."""
    methods, events = members("class") - {"constructor"}, members(r"interface \w+Events")
    options = members(r"interface \w+Options")
    assert {"publish", "position"} <= methods
    assert {"connecting", "join", "message"} <= events
    assert {"getToken", "since"} <= options
    for name in methods:
        assert re.search(rf"^  (async )?{name}\(|this\.{name} = ", PUBLIC, re.MULTILINE), name
    for name in events:
        assert f'"{name}"' in SOURCE, name
    for name in options:
        assert re.search(rf"\b{name}\b", SOURCE), name
