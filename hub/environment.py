"""The environment as the hub reads it: `HUB_*` and `REDIS_URL`, of which not all that is there says something."""

from __future__ import annotations

from pydantic_settings import BaseSettings, EnvSettingsSource

__all__ = ["Environment"]

PREFIX = "HUB_"
# Lists, of which an empty one says something: none, nobody.
_LISTS = frozenset({"HUB_API_KEY", "HUB_FORWARDED_ALLOW_IPS", "HUB_ORIGINS"})


class Environment(EnvSettingsSource):
    """The variables that are set; `HUB_TOKEN=` of a Compose or environment file is not, and the next source decides."""

    def __init__(self, settings: type[BaseSettings]) -> None:
        super().__init__(settings)
        self.env_vars = {name: value for name, value in self.env_vars.items() if _is_set(name.upper(), value)}


def _is_set(name: str, value: str | None) -> bool:
    return bool(value) or name in _LISTS
