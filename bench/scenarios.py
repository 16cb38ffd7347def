"""What is measured, on any server."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from .load import Room, connect
from .measure import cpu_seconds, memory_bytes, pin
from .servers import Server

__all__ = ["FanoutFigures", "IdleFigures", "fan_out", "idle"]

WARM_UP = 1.0
WARM_CONNECTIONS = 200

Progress = Callable[[str], None]


@dataclass(frozen=True)
class FanoutFigures:
    """Of one window; deliveries are messages times sockets."""

    deliveries_per_second: float
    deliveries_per_cpu_second: float
    broker_cpu_share: float
    client_cpu_share: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class IdleFigures:
    """Of one connection in a room."""

    bytes_per_connection: float
    accept_cpu_ms: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def _pin(server: Server) -> None:
    """The measured process has CPU 0 for itself; the load and Redis share CPU 1."""
    pin(server.pid, 0)
    pin(0, 1)
    if server.broker_pid is not None:
        pin(server.broker_pid, 1)


def fan_out(server: Server, sockets: int, window: int, seconds: float) -> FanoutFigures:
    """One room, one publisher that keeps `window` messages outstanding."""
    _pin(server)
    room = Room(server.port, sockets)
    try:
        room.run(window, WARM_UP)
        before = cpu_seconds(server.pid)
        broker_before = cpu_seconds(server.broker_pid) if server.broker_pid else 0.0
        run = room.run(window, seconds)
        cpu = cpu_seconds(server.pid) - before
        broker = (cpu_seconds(server.broker_pid) if server.broker_pid else 0.0) - broker_before
    finally:
        room.close()
    cuts = statistics.quantiles(run.latencies, n=100)
    return FanoutFigures(
        deliveries_per_second=run.deliveries / run.seconds,
        deliveries_per_cpu_second=run.deliveries / max(cpu, 0.01),
        broker_cpu_share=broker / run.seconds,
        client_cpu_share=run.client_cpu / run.seconds,
        p50_ms=cuts[49] * 1000,
        p99_ms=cuts[98] * 1000,
        max_ms=max(run.latencies) * 1000,
    )


def idle(server: Server, connections: int) -> IdleFigures:
    """Open connections and leave them alone."""
    _pin(server)
    warm = [connect(server.port, "/ws/bench") for _ in range(WARM_CONNECTIONS)]
    time.sleep(1.0)
    memory, cpu = memory_bytes(server.pid), cpu_seconds(server.pid)
    opened = [connect(server.port, "/ws/bench") for _ in range(connections)]
    accept_cpu = cpu_seconds(server.pid) - cpu
    time.sleep(2.0)
    grown = memory_bytes(server.pid) - memory
    for sock in (*warm, *opened):
        sock.close()
    return IdleFigures(grown / connections, accept_cpu / connections * 1000)
