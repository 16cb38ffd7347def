"""What is measured, on any server. A scenario is one more function here, and an entry in `SCENARIOS`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .client import load_client
from .measure import TICK, cpu_seconds, memory_bytes
from .servers import Server

__all__ = ["SCENARIOS", "Figures", "Plan"]

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


def fan_out(server: Server, plan: Plan, window: int) -> Figures:
    """One room, one publisher that keeps `window` messages outstanding."""
    with load_client() as load:
        load.room(server.port, server.path, plan.sockets, server.dialect)
        load.run(window, plan.warm_up, server.pids)
        run = load.run(window, plan.seconds, server.pids)
        load.close()
    seconds, cpu = run["seconds"], run["cpu"]
    return {
        "deliveries_per_second": run["deliveries"] / seconds,
        "deliveries_per_cpu_second": run["deliveries"] / max(cpu["server"], TICK),
        "p50_ms": run["p50"] * 1000,
        "p99_ms": run["p99"] * 1000,
        "max_ms": run["max"] * 1000,
        "server_cpu_share": cpu["server"] / seconds,
        "redis_cpu_share": cpu.get("broker", 0.0) / seconds,
        "client_cpu_share": cpu["client"] / seconds,
    }


def connections(server: Server, plan: Plan) -> Figures:
    """Open connections in a room and leave them alone."""
    with load_client() as load:
        load.idle(server.port, server.path, plan.warm_connections, server.dialect)
        time.sleep(plan.pause)
        memory, cpu, start = memory_bytes(server.pid), cpu_seconds(server.pid), time.perf_counter()
        load.idle(server.port, server.path, plan.idle, server.dialect)
        took = time.perf_counter() - start
        time.sleep(plan.pause)
        cpu = max(cpu_seconds(server.pid) - cpu, TICK)
        grown = {name: now - memory[name] for name, now in memory_bytes(server.pid).items()}
        load.close()
    return {
        "accept_cpu_ms": cpu / plan.idle * 1000,
        "accepted_per_second": plan.idle / took,
        "rss_kib_per_connection": grown["Rss"] / plan.idle / 1024,
        "pss_kib_per_connection": grown["Pss"] / plan.idle / 1024,
    }


SCENARIOS: dict[str, Callable[[Server, Plan], Figures]] = {
    "window-1": partial(fan_out, window=1),
    "window-32": partial(fan_out, window=32),
    "connections": connections,
}
