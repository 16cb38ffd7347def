"""One fault at one system: set the stage, let everybody talk, strike, watch, judge."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain

from tests.support.figures import memory

from .dialects import DIALECTS
from .faults import Fault, Plan, Scene
from .listener import Listener, SlowListener
from .publisher import Publisher
from .stage import Stage, staged
from .subjects import Subject
from .verdict import Run, Verdict, judge

__all__ = ["Outcome", "play"]

# Seconds until everybody must be in the room, between two looks at /health, and for what is still under way at the end.
JOIN_TIMEOUT = 40.0
HEALTH_PAUSE = 0.25
DRAIN = 1.0
# Before the fault a message may take this long; a machine on which it takes longer is too busy for a verdict.
PROMPT = 0.5
ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is reported of a run."""

    verdict: Verdict
    notes: dict[str, float] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


class TooBusy(RuntimeError):
    """Messages were late before anything was wrong."""


def play(subject: Subject, fault: Fault, plan: Plan, redis_binary: str) -> Outcome:
    """Raises RuntimeError if it cannot be played."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(TooBusy):
            return _play_once(subject, fault, plan, redis_binary)
    return _play_once(subject, fault, plan, redis_binary)


def _play_once(subject: Subject, fault: Fault, plan: Plan, redis_binary: str) -> Outcome:
    with staged(subject, redis_binary, durable=fault.durable, through_proxy=fault.through_proxy) as stage:
        return asyncio.run(_play(subject, fault, plan, stage))


async def _play(subject: Subject, fault: Fault, plan: Plan, stage: Stage) -> Outcome:
    size = plan.slow_size if fault.has_slow_reader else plan.size
    publisher = Publisher(stage.workers[0].port, subject.post, plan.rate, size)
    scene, listeners = Scene(stage, plan), list[Listener]()
    try:
        await _fill_room(subject, fault, scene, listeners)
        return await _strike(subject, fault, scene, listeners, publisher)
    finally:
        everybody = [*listeners, *([scene.slow] if scene.slow is not None else [])]
        await asyncio.gather(publisher.stop(), *(listener.leave() for listener in everybody))


async def _fill_room(subject: Subject, fault: Fault, scene: Scene, listeners: list[Listener]) -> None:
    """One client after the other, each there before the next, so that nothing but the fault is judged."""
    ports = [worker.port for worker in scene.stage.workers]
    for at, port in enumerate(ports):
        if fault.has_slow_reader and port == ports[-1]:  # before those of its worker, who may have to wait for it
            scene.slow = SlowListener("slow", [port], subject.path, DIALECTS[subject.dialect]())
            await _joined(scene.slow, subject)
        for number in range(scene.plan.clients):
            dialect = DIALECTS[subject.dialect]()
            listeners.append(Listener(f"{at}.{number}", [*ports[at:], *ports[:at]], subject.path, dialect))
            await _joined(listeners[-1], subject)


async def _joined(listener: Listener, subject: Subject) -> None:
    if not await _until(lambda: listener.is_there, JOIN_TIMEOUT):
        raise RuntimeError(f"{subject.title}: client {listener.heard.name} hears nothing, before any fault")


async def _strike(
    subject: Subject, fault: Fault, scene: Scene, listeners: list[Listener], publisher: Publisher
) -> Outcome:
    plan, stage = scene.plan, scene.stage
    start = time.monotonic()
    await asyncio.sleep(plan.before)
    _require_promptness(subject, listeners, publisher, start)
    memory_before = memory(stage.workers[-1].pid)
    for worker in stage.workers:
        worker.mark()
    looks: list[tuple[float, bool]] = []
    looking = asyncio.create_task(_look(stage, looks) if subject.health else asyncio.sleep(0))
    began = time.monotonic()
    await fault.strike(scene)
    calm = time.monotonic()
    await _until(lambda: all(_hears(listener, publisher, calm) for listener in listeners), plan.patience)
    await asyncio.sleep(plan.after)
    end = time.monotonic()
    if fault.has_slow_reader:
        scene.notes["memory MB"] = round((memory(stage.workers[-1].pid) - memory_before) / 1e6, 1)
    await publisher.stop()
    await asyncio.sleep(DRAIN)
    looking.cancel()
    log = list(chain.from_iterable(worker.news() for worker in stage.workers))
    run = Run(
        sent=publisher.sent,
        heard=[listener.heard for listener in listeners],
        start=start,
        fault=began,
        calm=calm,
        end=end,
        log=log,
        health=looks if subject.health else None,
    )
    return Outcome(verdict=judge(run), notes=scene.notes, log=log[:20])


def _require_promptness(subject: Subject, listeners: list[Listener], publisher: Publisher, start: float) -> None:
    """Raises TooBusy unless everybody has heard, in time, all that was sent since `start`."""
    now = time.monotonic()
    due = {each.number for each in publisher.sent if start <= each.sent_at < now - PROMPT}
    for listener in listeners:
        prompt = {n for n, at in listener.heard.messages if n in due and at - publisher.sent[n].sent_at < PROMPT}
        if prompt != due:
            late = f"{len(due - prompt)} of {len(due)} messages were late or lost at client {listener.heard.name}"
            raise TooBusy(f"{subject.title}: {late}, before any fault: the machine is too busy")


def _hears(listener: Listener, publisher: Publisher, calm: float) -> bool:
    """Whether the newest that it has heard was sent after `calm`."""
    messages = listener.heard.messages
    return bool(messages) and publisher.sent[messages[-1][0]].sent_at >= calm


async def _until(condition: Callable[[], bool], timeout: float) -> bool:
    """Whether it became true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def _look(stage: Stage, looks: list[tuple[float, bool]]) -> None:
    """Ask every worker for its health, again and again; the time of asking counts, and one that is red makes it red."""
    while True:
        asked = time.monotonic()
        states = await asyncio.gather(*(asyncio.to_thread(worker.health) for worker in stage.workers))
        looks.append((asked, all(state in (200, None) for state in states)))
        await asyncio.sleep(HEALTH_PAUSE)
