"""Scenarios of many channels, of publishing, and of coming back."""

from __future__ import annotations

import time
from typing import Any

from tests.support.redis import RedisProcess

from .client import load_client
from .measure import TICK, cpu_of
from .plan import Figures, Plan
from .servers import Server

__all__ = ["many_channels", "publish", "publishers", "recovery"]

PUBLISHERS = 100
# Recovery: channels, and what each client missed.
CHANNELS, MISSED = 10, 20


def many_channels(server: Server, plan: Plan) -> Figures:
    """The CPU of a delivery where as many are spread over ever more channels; another worker publishes."""
    shapes = {
        "1_channel": (1, plan.channels),
        "100_channels": (100, plan.channels),
        f"{plan.channels}_channels": (plan.channels, plan.channels),
        "1_client_in_100_channels": (100, 1),
    }
    costs = {name: _cost(server, plan, *shape) for name, shape in shapes.items()}
    figures = {f"{name}_cpu_us_per_delivery": cost for name, cost in costs.items()}
    return figures | {"cost_ratio": costs[f"{plan.channels}_channels"] / costs["1_channel"]}


def _cost(server: Server, plan: Plan, channels: int, sockets: int) -> float:
    """Microseconds of a delivery."""
    with load_client() as load:
        where = {"port": server.port, "path": server.path, "publish_port": server.publish_port}
        load.call("spread", channels=channels, sockets=sockets, **where)
        load.call("rounds", deliveries=plan.channels, seconds=plan.warm_up, pids=server.pids)
        run = load.call("rounds", deliveries=plan.channels, seconds=plan.seconds, pids=server.pids)
        load.call("close")
    time.sleep(plan.pause)
    return float(max(run["cpu"]["server"], TICK) / run["deliveries"] * 1e6)


def publish(server: Server, plan: Plan) -> Figures:
    """What a process publishes of itself to Redis, and hears again; counted at Redis."""
    assert server.broker is not None
    time.sleep(plan.warm_up)
    before, cpu, start = _calls(server.broker), cpu_of(server.pids), time.perf_counter()
    time.sleep(plan.seconds)
    took, after = time.perf_counter() - start, cpu_of(server.pids)
    published = _calls(server.broker).get("publish", 0) - before.get("publish", 0)
    return {
        "publishes_per_second": published / took,
        "publishes_per_cpu_second": published / max(after["server"] - cpu["server"], TICK),
        "server_cpu_share": (after["server"] - cpu["server"]) / took,
        "redis_cpu_share": (after["broker"] - cpu["broker"]) / took,
    }


def publishers(server: Server, plan: Plan) -> Figures:
    """A hundred sockets that publish, each in a room of its own, with 8 messages outstanding each."""
    with load_client() as load:
        load.call("publishers", port=server.port, path=server.path, count=min(PUBLISHERS, plan.sockets))
        load.call("publish", window=8, seconds=plan.warm_up, pids=server.pids)
        # Those of the warm-up are outstanding still.
        run = load.call("publish", window=0, seconds=plan.seconds, pids=server.pids)
        load.call("close")
    seconds, cpu = run["seconds"], run["cpu"]
    return {
        "publishes_per_second": run["publications"] / seconds,
        "publishes_per_cpu_second": run["publications"] / max(cpu["server"], TICK),
        "server_cpu_share": cpu["server"] / seconds,
        "redis_cpu_share": cpu["broker"] / seconds,
    }


def recovery(server: Server, plan: Plan) -> Figures:
    """Clients of another worker come all to this one, which has never heard of their channels."""
    assert server.broker is not None
    with load_client() as load:
        sizes = {"clients": plan.sockets, "channels": CHANNELS, "missed": MISSED}
        load.call("leave", port=server.publish_port, path=server.path, **sizes)
        load.call("connect", port=server.port, path=server.path)
        before, cpu = _calls(server.broker), cpu_of(server.pids)
        run = load.call("recover")
        calls, after = _calls(server.broker), cpu_of(server.pids)
        load.call("close")
    new = {name: calls[name] - before.get(name, 0) for name in calls.keys() - {"info"}}
    return {
        "seconds": run["seconds"],
        "cpu_ms_per_client": max(after["server"] - cpu["server"], TICK) / plan.sockets * 1000,
        "redis_commands": float(sum(new.values())),
        "reads_per_channel": (new.get("xrange", 0) + new.get("xrevrange", 0)) / CHANNELS,
    }


def _calls(broker: RedisProcess) -> dict[str, int]:
    """How often Redis was told what so far, scripts included."""
    with broker.client() as client:
        stats: Any = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(entry["calls"]) for name, entry in stats.items()}
