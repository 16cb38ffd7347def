"""What is measured, on which servers. A scenario is a function, and an entry in `SCENARIOS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .endpoints import endpoints
from .fan_out import connections, fan_out, half_load, payloads, presence
from .plan import Figures, Plan
from .servers import Server
from .special import many_channels, publish, publishers, recovery

__all__ = ["SCENARIOS", "Scenario"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`servers` are those that it is about; empty: all that are compared.

    `times` is how often it is measured in a repetition beside peers: more often where little decides.
    """

    measure: Callable[[Server, Plan], Figures]
    servers: tuple[str, ...] = ()
    times: int = 1


SCENARIOS: dict[str, Scenario] = {
    "window-1": Scenario(partial(fan_out, window=1), times=2),
    "window-32": Scenario(partial(fan_out, window=32)),
    "endpoints": Scenario(endpoints, ("channels-pair",)),
    "connections": Scenario(connections),
    "half-load": Scenario(half_load, ("hub", "channels", "tutorial", "nchan", "c-loop"), times=2),
    "publish": Scenario(publish, ("publish-hub", "publish-redis-py")),
    "publishers": Scenario(publishers, ("hub",)),
    "many-channels": Scenario(many_channels, ("channels-pair",)),
    "recovery": Scenario(recovery, ("channels-pair",)),
    "two-workers": Scenario(partial(fan_out, window=1), ("hub", "hub-pair")),
    "payloads": Scenario(payloads, ("hub", "tutorial")),
    "presence": Scenario(presence, ("channels", "channels-presence")),
    "tls": Scenario(partial(fan_out, window=1), ("hub", "hub-tls")),
}
