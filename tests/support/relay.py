"""A broker as a worker has it, with everything that it has heard."""

from __future__ import annotations

from hub.testing.contract import Ear

__all__ = ["Ear"]
