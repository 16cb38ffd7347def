"""The environment as the hub reads it: `HUB_*` and `REDIS_URL`, of which not all that is there says something."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterator
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

from .errors import ConfigError

__all__ = ["Environment", "unknown_variables", "variable_of"]

PREFIX = "HUB_"
# The only setting with two variables; the first one wins.
_REDIS_URL = ("HUB_REDIS_URL", "REDIS_URL")
# Lists, of which an empty one says something: none, nobody.
_LISTS = frozenset({"HUB_API_KEY", "HUB_FORWARDED_ALLOW_IPS", "HUB_ORIGINS"})
# Kubernetes tells the pods of a namespace where its services are ("service links"): if one is named `hub`, HUB_PORT is
# tcp://10.96.12.7:8000 in all of them, and nobody has set it.
_SERVICE = ("tcp://", "udp://", "sctp://")
# The others that it sets, also of services named `hub-…`.
_LINK = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)")
# Of the command line, and of this project's tests.
_OTHERS = re.compile(r"URL|FAULTS|FAKETIME|PID|TEST_\w+")


class Environment(EnvSettingsSource):
    """The variables that are set; `HUB_TOKEN=` of a Compose or environment file is not, and the next source decides."""

    def __init__(self, settings: type[BaseSettings]) -> None:
        super().__init__(settings)
        found = {name: value for name, value in self.env_vars.items() if _is_set(name.upper(), value)}
        if url := found.get("redis_url"):  # as a name of the setting it would not win over the file
            found.setdefault("hub_redis_url", url)
        self.env_vars = found

    def prepare_field_value(self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool) -> Any:
        """Raises ConfigError for what is not JSON and should be; the base class would not say where it is wrong."""
        try:
            return super().prepare_field_value(field_name, field, value, value_is_complex)
        except ValueError as error:
            raise ConfigError(f"{field_name} ({variable_of(field_name)}): this is not JSON: {error}") from None


def variable_of(setting: str) -> str:
    """The variable that decides `setting` if no option does; empty if none is set."""
    sought = _REDIS_URL if setting == "redis_url" else (PREFIX + setting.upper(),)
    found = {name.upper(): name for name, value in os.environ.items() if _is_set(name.upper(), value)}
    return next((found[name] for name in sought if name in found), "")


def unknown_variables(settings: Collection[str]) -> Iterator[str]:
    """A sentence for each `HUB_*` that nobody reads. A misspelt secret would leave the hub open without a word."""
    known = [name.upper() for name in settings]
    for variable in sorted(os.environ):
        name = variable.upper()
        if name.startswith(PREFIX) and not _is_known(name.removeprefix(PREFIX), os.environ[variable], known):
            near = difflib.get_close_matches(name.removeprefix(PREFIX), known, 1)
            proposal = f": is {PREFIX}{near[0]} meant?" if near else ""
            yield f"{variable} is no setting and is ignored{proposal}"


def _is_known(name: str, value: str, settings: Collection[str]) -> bool:
    if name in settings or _OTHERS.fullmatch(name) or _LINK.fullmatch(name):
        return True
    return name.endswith("_PORT") and value.startswith(_SERVICE)


def _is_set(name: str, value: str | None) -> bool:
    if not value:
        return name in _LISTS
    return not (name == "HUB_PORT" and value.startswith(_SERVICE))
