"""The environment as the hub reads it: `HUB_*` and `REDIS_URL`, of which not all that is there says something."""

from __future__ import annotations

import os
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

from .errors import ConfigError

__all__ = ["Environment", "variable_of"]

PREFIX = "HUB_"
# Lists, of which an empty one says something: none, nobody.
_LISTS = frozenset({"HUB_API_KEY", "HUB_FORWARDED_ALLOW_IPS", "HUB_ORIGINS"})
# Kubernetes tells the pods of a namespace where its services are ("service links"): if one is named `hub`, HUB_PORT is
# tcp://10.96.12.7:8000 in all of them, and nobody has set it.
_SERVICE = ("tcp://", "udp://", "sctp://")


class Environment(EnvSettingsSource):
    """The variables that are set; `HUB_TOKEN=` of a Compose or environment file is not, and the next source decides."""

    def __init__(self, settings: type[BaseSettings]) -> None:
        super().__init__(settings)
        self.env_vars = {name: value for name, value in self.env_vars.items() if _is_set(name.upper(), value)}

    def prepare_field_value(self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool) -> Any:
        """Raises ConfigError for what is not JSON and should be; the base class would not say where it is wrong."""
        try:
            return super().prepare_field_value(field_name, field, value, value_is_complex)
        except ValueError as error:
            raise ConfigError(f"{field_name} ({variable_of(field_name)}): this is not JSON: {error}") from None


def variable_of(setting: str) -> str:
    """The variable that decides `setting` if no option does; empty if none is set."""
    sought = [PREFIX + setting.upper()] + ["REDIS_URL"] * (setting == "redis_url")
    found = {name.upper(): name for name, value in os.environ.items() if _is_set(name.upper(), value)}
    return next((found[name] for name in sought if name in found), "")


def _is_set(name: str, value: str | None) -> bool:
    if not value:
        return name in _LISTS
    return not (name == "HUB_PORT" and value.startswith(_SERVICE))
