"""All that one may do to a worker, again and again: `python -m tests.soak_abuse`.

A million channels wanted by one client, a hundred thousand names in turn, ten thousand commands a second, thousands of
handshakes that break off, connections that vanish: beside a client that echoes all the time. The exit status is 1 if
memory afterwards is more than a tenth above what it was after the first round, if files stay open, or if the echoes
had to wait.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import click
import uvloop
from rich.console import Console
from rich.table import Table
from websockets.sync.client import connect

from tests.support.abuse import fickle, greedy, hectic
from tests.support.attackers import Attacker, allow_many_sockets, watch
from tests.support.canary import Canary, worker_of
from tests.support.figures import memory, open_files
from tests.support.server import HubProcess, hub_serve
from tests.support.silence import vanish
from tests.support.sockets import HANDSHAKE, upgraded

__all__ = ["Sizes", "Step", "abuse"]

LONGEST_WAIT, MOST_GROWTH = 0.05, 0.10
MEGABYTE = 2**20
# A worker that waits less long than usual for those who do not answer, so that a round is over soon.
SETTINGS = {f"HUB_{name}": "2" for name in ("PING_INTERVAL", "PING_TIMEOUT", "SLOW_TIMEOUT", "HANDSHAKE_TIMEOUT")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of one round."""

    greedy: int = 1_000_000
    fickle: int = 100_000
    hectic: float = 10.0
    handshakes: int = 5000
    vanished: int = 500


@dataclass(slots=True)
class Step:
    """What one attack has shown."""

    name: str
    seconds: float = 0.0
    longest_wait: float = 0.0
    memory: int = 0
    files: int = 0
    told: str = ""


@dataclass(slots=True)
class Report:
    steps: list[Step] = field(default_factory=list)
    # Resident bytes after each round.
    rounds: list[int] = field(default_factory=list)
    faults: int = 0

    @property
    def growth(self) -> float:
        """From the end of the first round to the end of the last."""
        return self.rounds[-1] / self.rounds[0] - 1

    @property
    def is_well(self) -> bool:
        waits = max(step.longest_wait for step in self.steps)
        return self.growth < MOST_GROWTH and waits <= LONGEST_WAIT and not self.faults


def abuse(hub: HubProcess, sizes: Sizes, rounds: int) -> Report:
    """So many rounds."""
    report, worker, lines = Report(), worker_of(hub.port), len(hub.log)
    for number in range(rounds):
        for name, attack in _attacks(hub, sizes, number).items():
            step = Step(name)
            report.steps.append(step)
            start = time.monotonic()
            with Canary(hub.port) as canary:
                step.told = _run(attack)
            step.seconds = time.monotonic() - start
            step.longest_wait = canary.longest
            step.memory, step.files = memory(worker), open_files(worker)
        time.sleep(5)  # for what leaves slowly
        report.rounds.append(memory(worker))
        print(f"round {number + 1} of {rounds}: {report.rounds[-1] / MEGABYTE:.1f} MB", flush=True)
    report.faults = len(re.findall(r"Traceback|\b(?:ERROR|CRITICAL)\b|unexpected fault", hub.log[lines:]))
    return report


def _run(attack: Callable[[], Awaitable[Counter[int]] | str]) -> str:
    """What it got, in words."""
    result = attack()
    if isinstance(result, str):
        return result
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        replies = runner.run(_await(result))
    return ", ".join(f"{count} x {code or 'granted'}" for code, count in sorted(replies.items()))


async def _await(result: Awaitable[Counter[int]]) -> Counter[int]:
    return await result


def _attacks(hub: HubProcess, sizes: Sizes, number: int) -> dict[str, Callable[[], Awaitable[Counter[int]] | str]]:
    return {
        f"one client wants {sizes.greedy} channels": lambda: greedy(hub.port, sizes.greedy),
        f"{sizes.fickle} names in turn": lambda: fickle(hub.port, sizes.fickle, f"round-{number}"),
        "10,000 commands a second": lambda: hectic(hub.port, 10_000, sizes.hectic),
        f"{sizes.handshakes} handshakes break off": lambda: _break_off(hub, sizes.handshakes, random.Random(number)),
        f"{sizes.vanished} clients vanish": lambda: _vanish(hub, sizes.vanished),
    }


def _break_off(hub: HubProcess, count: int, rng: random.Random) -> str:
    """In the middle; some with a head that is too large, some reset."""
    head, ended = HANDSHAKE % b"/ws", 0
    for first in range(0, count, 1000):
        with ExitStack() as stack:
            attackers = [Attacker(hub.port) for _ in range(min(1000, count - first))]
            for attacker in attackers:
                stack.callback(attacker.sock.close)
                large = b"GET /ws HTTP/1.1\r\nX: " + b"y" * 70_000
                attacker.send(large if rng.random() < 0.1 else head[: rng.randrange(len(head))])
            ended += len(attackers) - len(watch(attackers, 2 + 1.5, lambda attacker: attacker.ended))
    return f"{ended} were cut off in time"


def _vanish(hub: HubProcess, count: int) -> str:
    """Into a room in which somebody speaks; how long they are there."""
    with ExitStack() as stack:
        # It answers pings by itself: on a busy machine the others take longer to come than the hub has patience.
        speaker = stack.enter_context(connect(f"ws://127.0.0.1:{hub.port}/ws/gone?echo=0", ping_interval=None))
        worker = worker_of(hub.port)
        before = open_files(worker)
        gone = [stack.enter_context(closing(upgraded(hub.port, "/ws/gone"))) for _ in range(count)]
        for sock in gone:
            vanish(sock)
        start = time.monotonic()
        while open_files(worker) > before and time.monotonic() - start < 30:
            speaker.send("x" * 1000)
            time.sleep(0.02)
        return f"gone after {time.monotonic() - start:.1f} s"


# The program


def table(report: Report) -> Table:
    """What the operator sees."""
    shown = Table(title="abuse")
    for column in ("attack", "seconds", "neighbour's longest wait", "memory", "files", "outcome"):
        shown.add_column(column, justify="left" if column in ("attack", "outcome") else "right")
    for step in report.steps:
        wait, size = f"{step.longest_wait * 1000:.1f} ms", f"{step.memory / MEGABYTE:.1f} MB"
        shown.add_row(step.name, f"{step.seconds:.1f}", wait, size, str(step.files), step.told)
    return shown


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--greedy", default=Sizes().greedy, show_default=True, help="Channels that one client wants.")
@click.option("--fickle", default=Sizes().fickle, show_default=True, help="Channels that one client is in by turns.")
def main(rounds: int, greedy: int, fickle: int) -> None:
    """Abuse a worker; the exit status is 1 if that leaves anything behind."""
    allow_many_sockets()
    with hub_serve("--workers", "1", "--drain", "0", env={"HUB_CLIENT_INSECURE": "true", **SETTINGS}) as hub:
        report = abuse(hub, Sizes(greedy=greedy, fickle=fickle), rounds)
    console = Console(width=140)
    console.print(table(report))
    after = ", ".join(f"{size / MEGABYTE:.1f} MB" for size in report.rounds)
    console.print(f"memory after each round: {after}; {report.growth:+.1%}; {report.faults} faults in the log")
    sys.exit(0 if report.is_well else 1)


if __name__ == "__main__":
    main()
