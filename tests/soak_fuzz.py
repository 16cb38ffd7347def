"""Nonsense by the hundred thousand: `python -m tests.soak_fuzz`.

Random frames to `/ws`, `/echo` and the protocol's endpoint of one worker, seed after seed, beside a client that echoes
all the time. The exit status is 1 if the worker logs a fault or dies, if a connection hangs, if the echoes have to
wait, or if memory grows.
"""

from __future__ import annotations

import random
import re
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table

from tests.protocol.test_frames import client_frame
from tests.support.attackers import Attacker, allow_many_sockets, watch
from tests.support.canary import Canary, worker_of
from tests.support.centrifuge import PATH
from tests.support.figures import memory, open_files
from tests.support.garbage import random_commands, random_frames
from tests.support.server import HubProcess, hub_serve
from tests.support.sockets import HANDSHAKE

__all__ = ["Round", "fuzz", "fuzzed_hub"]

PATHS = ("/ws/x", "/echo", PATH, PATH)
CONNECT = client_frame(1, b'{"id":1,"connect":{}}')
# Connections at a time, and frames on each.
CONNECTIONS, FRAMES = 100, 20
# Seconds for the last answer.
PATIENCE = 10.0
# A close frame with a reason; who got it is waited for, for some seconds.
CLOSE = re.compile(rb"\x88[\x02-\x7d][\x03-\x0f][\x00-\xff][ -~]*\Z")
PONG = b"\x8a\x06alive?"
MEGABYTE = 2**20
# Worst wait of the echoes in seconds, and growth in bytes, that are still well.
LONGEST_WAIT, MOST_GROWTH = 0.05, 50 * MEGABYTE


@dataclass(slots=True)
class Round:
    """What one seed has shown."""

    seed: int
    frames: int = 0
    stuck: int = 0
    # Round trips of the neighbour in seconds: what the worker is to blame for, and what was measured.
    longest_wait: float = 0.0
    measured: float = 0.0
    growth: int = 0
    seconds: float = 0.0
    # Lines of the log that should not be there.
    faults: int = 0
    died: bool = False

    @property
    def is_well(self) -> bool:
        bad = self.stuck or self.faults or self.died
        return not bad and self.longest_wait <= LONGEST_WAIT and self.growth <= MOST_GROWTH


def fuzzed_hub() -> AbstractContextManager[HubProcess]:
    """Of one worker, which lets everybody do everything."""
    allow_many_sockets()
    return hub_serve("--workers", "1", "--drain", "0", env={"HUB_CLIENT_INSECURE": "true"})


def fuzz(hub: HubProcess, seed: int, frames: int) -> Round:
    """So many frames; ends when each connection was ended or has answered."""
    rng, outcome, worker = random.Random(seed), Round(seed), worker_of(hub.port)
    files = open_files(worker) + 1  # the neighbour's
    before, lines, start = memory(worker), len(hub.log), time.monotonic()
    with Canary(hub.port) as canary:
        while outcome.frames < frames:
            outcome.frames += CONNECTIONS * FRAMES
            outcome.stuck += _attack(hub, rng)
        outcome.stuck += _left_open(worker, files)
    outcome.longest_wait, outcome.measured = canary.longest, canary.measured
    outcome.seconds = time.monotonic() - start
    outcome.growth = memory(worker) - before
    outcome.faults = len(re.findall(r"Traceback|\b(?:ERROR|CRITICAL)\b|unexpected fault", hub.log[lines:]))
    outcome.died = worker_of(hub.port) != worker
    return outcome


def _attack(hub: HubProcess, rng: random.Random) -> int:
    """Some connections, of which a few vanish; how many hang."""
    with ExitStack() as stack:
        attackers = []
        for _ in range(CONNECTIONS):
            attackers.append(Attacker(hub.port))
            stack.callback(attackers[-1].sock.close)
            attackers[-1].send(_conversation(rng))
        for attacker in attackers[::10]:
            attacker.reset()
        return len(_stuck([attacker for number, attacker in enumerate(attackers) if number % 10]))


def _left_open(worker: int, files: int) -> int:
    """Connections that the worker has not ended after all clients have."""
    deadline = time.monotonic() + PATIENCE
    while (left := open_files(worker) - files) > 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    return max(0, left)


def _conversation(rng: random.Random) -> bytes:
    """A good handshake and what comes after it, in one piece."""
    path = rng.choice(PATHS)
    begin = HANDSHAKE % path.encode()
    if path != PATH or rng.random() < 0.3:
        return begin + random_frames(rng, FRAMES)
    commands = (client_frame(1, random_commands(rng)) for _ in range(FRAMES))
    return begin + (CONNECT if rng.random() < 0.9 else b"") + b"".join(commands)


def _stuck(attackers: list[Attacker]) -> list[Attacker]:
    """Those that do not answer a ping, and are not ended even by zeros, which complete any frame."""
    for attacker in attackers:
        attacker.send(client_frame(9, b"alive?"))
    silent = watch(attackers, 0.5, lambda attacker: PONG in attacker.got)
    for attacker in silent:
        attacker.send(bytes(200_000))
    return watch(silent, PATIENCE, lambda attacker: PONG in attacker.got or CLOSE.search(attacker.got) is not None)


# The program


def table(rounds: list[Round]) -> Table:
    """What the operator sees."""
    shown = Table(title="random frames", show_header=True)
    for column in ("seed", "frames", "seconds", "neighbour's longest wait", "memory", "stuck", "faults"):
        shown.add_column(column, justify="right")
    for one in rounds:
        wait = f"{one.longest_wait * 1000:.1f} ms ({one.measured * 1000:.1f} measured)"
        growth = f"{one.growth / MEGABYTE:+.1f} MB"
        faults = str(one.faults + one.died)
        shown.add_row(str(one.seed), str(one.frames), f"{one.seconds:.0f}", wait, growth, str(one.stuck), faults)
    return shown


@click.command()
@click.option("--frames", default=100_000, show_default=True, help="Of each seed.")
@click.option("--seeds", default=5, show_default=True)
@click.option("--first", default=1, show_default=True, help="The first seed.")
def main(frames: int, seeds: int, first: int) -> None:
    """Throw random frames at a worker; the exit status is 1 if that does anything to it."""
    with fuzzed_hub() as hub:
        rounds = [fuzz(hub, seed, frames) for seed in range(first, first + seeds)]
    Console(width=120).print(table(rounds))
    sys.exit(0 if all(one.is_well for one in rounds) else 1)


if __name__ == "__main__":
    main()
