"""Scenarios of one room, and of connections."""

from __future__ import annotations

import time
from typing import Any

from .client import load_client
from .dialects import PAYLOAD
from .measure import TICK, cpu_seconds, memory_bytes
from .plan import Figures, Plan
from .servers import Server, tutorial

__all__ = ["connections", "fan_out", "half_load", "half_of_saturation", "payloads", "presence"]

# Bytes; the largest is what the hub takes without being told otherwise.
PAYLOADS = (64, 512, 4096, 65536)


def fan_out(server: Server, plan: Plan, window: int, rate: float = 0.0) -> Figures:
    """One room, one publisher that keeps `window` messages outstanding, or sends at a `rate`."""
    run = _run(server, plan, plan.sockets, window, rate)
    seconds, cpu = run["seconds"], run["cpu"]
    figures = {
        "deliveries_per_second": run["deliveries"] / seconds,
        "deliveries_per_cpu_second": run["deliveries"] / max(cpu["server"], TICK),
        "p50_ms": run["p50"] * 1000,
        "p99_ms": run["p99"] * 1000,
        "max_ms": run["max"] * 1000,
        "server_cpu_share": cpu["server"] / seconds,
        "redis_cpu_share": cpu.get("broker", 0.0) / seconds,
        "client_cpu_share": cpu["client"] / seconds,
    }
    return figures | ({"proxy_cpu_share": cpu["proxy"] / seconds} if "proxy" in cpu else {})


def _run(server: Server, plan: Plan, sockets: int, window: int, rate: float = 0.0, payload: int = PAYLOAD) -> Any:
    """A warm-up and a run."""
    with load_client() as load:
        load.call(
            "room",
            port=server.port,
            path=server.path,
            count=sockets,
            dialect=server.dialect,
            payload=payload,
            publish_port=server.publish_port,
            tls=server.tls,
        )
        load.call("run", window=window, seconds=plan.warm_up, pids=server.pids, rate=rate)
        run = load.call("run", window=window, seconds=plan.seconds, pids=server.pids, rate=rate)
        load.call("close")
        return run


def half_load(server: Server, plan: Plan) -> Figures:
    """An open load of evenly spaced messages."""
    return {"messages_per_second": plan.rate, **fan_out(server, plan, 1, plan.rate)}


def half_of_saturation(plan: Plan) -> float:
    """Messages a second: half of what the tutorial's manager does when 32 are always outstanding."""
    with tutorial() as server:
        return fan_out(server, plan, 32)["deliveries_per_second"] / plan.sockets / 2


def payloads(server: Server, plan: Plan) -> Figures:
    """Messages of other sizes, 8 outstanding, to a tenth of the sockets."""
    figures: Figures = {}
    for size in PAYLOADS:
        run = _run(server, plan, max(2, plan.sockets // 10), 8, payload=size)
        figures[f"deliveries_per_cpu_second_{size}_bytes"] = run["deliveries"] / max(run["cpu"]["server"], TICK)
        figures[f"p99_ms_{size}_bytes"] = run["p99"] * 1000
    return figures


def connections(server: Server, plan: Plan) -> Figures:
    """Open connections in a room and leave them alone."""
    with load_client() as load:
        where = {"port": server.port, "path": server.path, "dialect": server.dialect}
        load.call("idle", count=plan.warm_connections, **where)
        time.sleep(plan.pause)
        memory, cpu, start = memory_bytes(server.pid), cpu_seconds(server.pid), time.perf_counter()
        load.call("idle", count=plan.idle, **where)
        took = time.perf_counter() - start
        time.sleep(plan.pause)
        cpu = max(cpu_seconds(server.pid) - cpu, TICK)
        grown = {name: now - memory[name] for name, now in memory_bytes(server.pid).items()}
        load.call("close")
    return {
        "accept_cpu_ms": cpu / plan.idle * 1000,
        "accepted_per_second": plan.idle / took,
        "rss_kib_per_connection": grown["Rss"] / plan.idle / 1024,
        "pss_kib_per_connection": grown["Pss"] / plan.idle / 1024,
    }


def presence(server: Server, plan: Plan) -> Figures:
    """A fan-out with one message outstanding, and connections, in a channel where it is known who is there or not."""
    return fan_out(server, plan, 1) | connections(server, plan)
