"""The faults. Each is a coroutine that returns when it is over; what it leaves behind stays until the stage ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from .listener import SlowListener
from .stage import Stage

__all__ = ["FAULTS", "Fault", "Plan", "Scene"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything; times in seconds."""

    # Clients of each worker.
    clients: int = 3
    # Messages a second, and characters of each.
    rate: float = 20
    size: int = 64
    # Undisturbed, before the fault.
    before: float = 2
    # How long Redis is down, how long it is frozen, how often connections are cut, how long the slow one is watched.
    down: float = 2
    frozen: float = 10
    cuts: int = 5
    slow: float = 15
    # Characters of a message while a client does not read: the kernel takes megabytes before a server notices.
    slow_size: int = 32768
    # Delivery goes on being judged for this long after everybody hears again, and who hears nothing after
    # `patience` is deaf.
    after: float = 3
    patience: float = 30


@dataclass(slots=True)
class Scene:
    """What a fault may touch."""

    stage: Stage
    plan: Plan
    # The client that will not read, where there is one.
    slow: SlowListener | None = None
    # What happened, for the report.
    notes: dict[str, float] = field(default_factory=dict)


async def _none(scene: Scene) -> None:
    pass


async def _restart(scene: Scene) -> None:
    """kill -9, and up again."""
    redis = scene.stage.redis
    redis.kill()
    await asyncio.sleep(scene.plan.down)
    await asyncio.to_thread(redis.start)


async def _freeze(scene: Scene) -> None:
    """SIGSTOP: connections stay, and nothing is answered."""
    scene.stage.redis.send_signal(signal.SIGSTOP)
    await asyncio.sleep(scene.plan.frozen)
    scene.stage.redis.send_signal(signal.SIGCONT)


def _cut(kind: str) -> Callable[[Scene], Awaitable[None]]:
    async def cut(scene: Scene) -> None:
        killed = 0
        with scene.stage.redis.client() as client:
            for number in range(scene.plan.cuts):
                await asyncio.sleep(0.5 if number else 0)
                killed += int(client.execute_command("CLIENT", "KILL", "TYPE", kind))
        scene.notes["connections cut"] = killed

    return cut


async def _black_hole(scene: Scene) -> None:
    """What is sent on the present connections of the last worker is swallowed, for good; new ones work."""
    present = scene.stage.proxy.open()
    for connection in present:
        connection.blackhole()
    scene.notes["connections swallowed"] = len(present)


async def _slow_reader(scene: Scene) -> None:
    assert scene.slow is not None
    scene.slow.stop_reading()
    loop = asyncio.get_running_loop()
    start = loop.time()
    while loop.time() - start < scene.plan.slow:
        await asyncio.sleep(0.25)
        if "cut after s" not in scene.notes and not scene.slow.is_connected:
            scene.notes["cut after s"] = round(loop.time() - start, 1)
    if "cut after s" not in scene.notes:
        scene.notes["not cut within s"] = scene.plan.slow


async def _kill_worker(scene: Scene) -> None:
    scene.stage.workers[-1].kill()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One of them; `title` is for the table."""

    title: str
    strike: Callable[[Scene], Awaitable[None]]
    # What the stage needs for it.
    durable: bool = False
    through_proxy: bool = False
    has_slow_reader: bool = False


FAULTS: Mapping[str, Fault] = {
    "none": Fault(title="no fault", strike=_none),
    "restart-data": Fault(title="Redis kill -9, back after 2 s with its data", strike=_restart, durable=True),
    "restart-empty": Fault(title="Redis kill -9, back after 2 s empty", strike=_restart),
    "kill-pubsub": Fault(title="CLIENT KILL TYPE pubsub, five times", strike=_cut("pubsub")),
    "kill-normal": Fault(title="CLIENT KILL TYPE normal, five times", strike=_cut("normal")),
    "freeze": Fault(title="Redis SIGSTOP for 10 s", strike=_freeze),
    "black-hole": Fault(title="one worker's Redis connections swallow all", strike=_black_hole, through_proxy=True),
    "slow-reader": Fault(title="one client stops reading", strike=_slow_reader, has_slow_reader=True),
    "kill-worker": Fault(title="kill -9 of one of two workers", strike=_kill_worker),
}
