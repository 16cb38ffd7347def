"""Where an AsyncAPI document comes from: a running application, a file, or the program itself."""

from __future__ import annotations

import importlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..asyncapi import AsyncApi, Place, describe
from ..embed import Hub
from ..errors import ConfigError, HubError

__all__ = ["document_of"]

# Seconds.
TIMEOUT = 10.0


def document_of(source: str) -> Mapping[str, Any]:
    """The document at a URL, in a file, or of `module:name`, where `name` is an application or a Hub.

    Raises HubError for what cannot be reached, ConfigError for what is none of these.
    """
    if source.startswith(("http://", "https://")):
        return _parsed(_fetched(source), source)
    if source.endswith(".json") or Path(source).is_file():
        return _parsed(_read(Path(source)), source)
    return _described(_imported(source), source)


def _fetched(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            body: bytes = response.read()
            return body
    except urllib.error.HTTPError as error:
        with error:
            raise HubError(f"{url} answered {error.code}; the document is at asyncapi.json beside /ws") from None
    except (OSError, ValueError) as error:
        raise HubError(f"cannot read {url}: {getattr(error, 'reason', error)}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from None


def _parsed(body: bytes, source: str) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ConfigError(f"{source} is no JSON object; an AsyncAPI document was expected")
    return document


# The program itself


def _imported(source: str) -> Any:
    module, colon, name = source.partition(":")
    if not colon or not module or not name:
        raise ConfigError(f"{source!r} is no URL, no file and no program; write it as 'module:application'")
    if "" not in sys.path:  # as uvicorn does: a console script has the folder of the script
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module and not module.startswith(f"{error.name}."):
            raise
        raise ConfigError(f"there is no module {module!r} here; run this where the program is") from None
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise ConfigError(f"the module {module!r} has no {name!r}")
    return found


def _described(found: Any, source: str) -> Mapping[str, Any]:
    place = Place(host="localhost", path="/connection/websocket", secure=False)  # clients are told where it is
    if isinstance(found, Hub):
        return describe(found, place)
    hubs = list(_hubs(getattr(found, "routes", ())))
    if len(hubs) != 1:
        what = "does not include the router of a hub" if not hubs else "includes several hubs: name one of them"
        raise ConfigError(f"{source!r} {what}")
    return describe(hubs[0], replace(place, title=found.title, version=found.version))


def _hubs(routes: Iterable[Any]) -> Iterator[Any]:
    """Those whose routers are among these, by the route of their document."""
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        yield from _hubs(getattr(inner, "routes", ()))
        owner = getattr(getattr(route, "endpoint", None), "__self__", None)
        if isinstance(owner, AsyncApi) and route.name == "hub_asyncapi":
            yield owner.hub
