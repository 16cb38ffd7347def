"""How much is measured, and what a measurement is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Figures", "Plan"]

# Name → value, in the units that the names say.
Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    sockets: int = 1000
    seconds: float = 5.0
    # Before each fan-out.
    warm_up: float = 1.0
    idle: int = 5000
    # Opened before the idle ones are counted: a fresh process still grows its pools and caches.
    warm_connections: int = 500
    # After connections were opened, for what the server does behind them.
    pause: float = 1.0
    repeats: int = 3
    # Messages a second of the open load; 0 is half of what saturates the tutorial's manager.
    rate: float = 0.0
    # Where there are many channels, and the deliveries between which everybody waits for everybody.
    channels: int = 10000
