"""The fixture as the wheel's entry point gives it."""

from __future__ import annotations

from hub.testing.pytest_plugin import hub_cluster

__all__ = ["hub_cluster"]
