"""pytest's fixture `hub_cluster`, without any configuration: see docs/testing.md.

Outside of the package, because pytest loads this at the start of every run: `hub` is imported when a test wants the
fixture, and not before, so it costs nothing where nobody does and coverage sees all of it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hub.testing import Cluster

__all__ = ["hub_cluster"]

if "hub.testing.contract" not in sys.modules:
    pytest.register_assert_rewrite("hub.testing.contract")


@pytest.fixture
def hub_cluster() -> type[Cluster]:
    """`hub.testing.Cluster`: `async with hub_cluster(app, workers=3) as c: ...`"""
    from hub.testing import Cluster

    return Cluster
