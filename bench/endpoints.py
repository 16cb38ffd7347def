"""The raw room and the channel endpoint of one worker, by turns.

Two processes differ by more than these two do: in what lies where in their memory, and in what the machine does
meanwhile. In one process, a moment apart, the same meets both.
"""

from __future__ import annotations

import contextlib
import statistics

from .client import LoadClient, load_client
from .dialects import PAYLOAD
from .measure import TICK
from .plan import Figures, Plan
from .servers import Server

__all__ = ["endpoints"]

WINDOWS = (1, 32)
# Of each endpoint, with each window; a fan-out's time is shared among them.
TURNS = 5
# Another channel than that of the channel endpoint: each has its own listeners.
ROOM = "/ws/beside"


def endpoints(server: Server, plan: Plan) -> Figures:
    """The CPU of a delivery from Redis to a socket; another worker takes what is published, and answers it."""
    with contextlib.ExitStack() as stack:
        raw = _listeners(stack, server, plan, ROOM, "raw")
        channel = _listeners(stack, server, plan, server.path, server.dialect)
        figures: Figures = {}
        for window in WINDOWS:
            figures |= _compare(server, plan, window, raw, channel)
        for load in (raw, channel):
            load.call("close")
    return figures


def _listeners(stack: contextlib.ExitStack, server: Server, plan: Plan, path: str, dialect: str) -> LoadClient:
    load = stack.enter_context(load_client())
    load.call(
        "room",
        port=server.port,
        path=path,
        count=plan.sockets,
        dialect=dialect,
        payload=PAYLOAD,
        publish_port=server.publish_port,
        tls=False,
    )
    return load


def _compare(server: Server, plan: Plan, window: int, raw: LoadClient, channel: LoadClient) -> Figures:
    turns = [(_cost(raw, server, window, plan), _cost(channel, server, window, plan)) for _ in range(TURNS + 1)]
    measured = turns[1:]  # the first is the warm-up
    return {
        f"window_{window}_raw_cpu_us_per_delivery": statistics.median(of_raw for of_raw, _ in measured),
        f"window_{window}_channel_cpu_us_per_delivery": statistics.median(of_channel for _, of_channel in measured),
        f"window_{window}_raw_by_channel": statistics.median(of_raw / of_channel for of_raw, of_channel in measured),
    }


def _cost(load: LoadClient, server: Server, window: int, plan: Plan) -> float:
    """Microseconds of a delivery."""
    run = load.call("run", window=window, seconds=plan.seconds / TURNS, pids=server.pids, rate=0)
    return float(max(run["cpu"]["server"], TICK) / run["deliveries"] * 1e6)
