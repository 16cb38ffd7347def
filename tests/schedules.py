"""Random faults, many times, each time from another seed: `make faults`.

Two workers, a master with a replica, and a proxy between them. A schedule is a few faults at random moments, while
publishers publish and clients judge: in the end each client has everything that was published after it was told the
last time that something is lost, nothing twice and nothing out of order. A seed that fails is printed, with its
schedule, and can be run alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import click
import uvloop
from redis.exceptions import RedisError

from hub.embedded import find_server
from tests.support.checker import Checker, all_reach
from tests.support.deployment import KEY, kill, serving, workers_of
from tests.support.lineage import Fork, line_of
from tests.support.proxy import Proxy
from tests.support.redis import RedisProcess
from tests.support.sentinel import follow, replicated
from tests.support.server import HubProcess
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

__all__ = ["FAULTS", "Outcome", "Place", "fail_over", "kill_a_worker", "place", "run", "wipe"]

CLIENTS, CHANNELS, RATE = 6, 3, 120
# Seconds in which the faults of a schedule begin; and after the last, until everybody has to have everything.
SPAN, PATIENCE = 1.5, 20.0
# As AOF has it: what was acknowledged is there after a restart.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class Place:
    """Where it all happens; one for many schedules."""

    def __init__(self, master: RedisProcess, replica: RedisProcess, proxy: Proxy, hub: HubProcess) -> None:
        self.master, self.replica, self.proxy, self.hub = master, replica, proxy, hub

    def node(self, rng: random.Random) -> str:
        """One worker, by what its connections have in common; all of them if there is none."""
        nodes = sorted({each.name.rpartition("-")[0] for each in self.proxy.open() if each.name.startswith("hub-")})
        return rng.choice([*nodes, "hub-"])


@contextlib.contextmanager
def place(binary: str, workers: int = 2) -> Iterator[Place]:
    with replicated(binary, *DURABLE) as (master, replica, proxy), serving(proxy.url, workers=workers) as hub:
        yield Place(master, replica, proxy, hub)


# The faults. Each is over when it returns; Redis and the workers may need a while longer.

Fault = Callable[[Place, random.Random], Awaitable[None]]


async def cut_subscriptions(at: Place, rng: random.Random) -> None:
    await _tell(at, "CLIENT", "KILL", "TYPE", "pubsub")


async def cut_commands(at: Place, rng: random.Random) -> None:
    await _tell(at, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def flush_scripts(at: Place, rng: random.Random) -> None:
    await _tell(at, "SCRIPT", "FLUSH")


async def wipe(at: Place, rng: random.Random) -> None:
    await _tell(at, "FLUSHALL")


async def pause(at: Place, rng: random.Random) -> None:
    milliseconds = rng.choice([200, 1000, 3500])
    await _tell(at, "CLIENT", "PAUSE", milliseconds, rng.choice(["WRITE", "ALL"]))
    await asyncio.sleep(milliseconds / 1000)


async def freeze(at: Place, rng: random.Random) -> None:
    at.master.send_signal(signal.SIGSTOP)
    await asyncio.sleep(rng.choice([0.2, 1.0, 4.5]))
    at.master.send_signal(signal.SIGCONT)


async def restart(at: Place, rng: random.Random) -> None:
    """With all its data."""
    at.master.kill()
    await asyncio.sleep(rng.uniform(0, 1))
    await asyncio.to_thread(at.master.start)


async def fail_over(at: Place, rng: random.Random) -> None:
    """To the replica, which lacks what was written for a while; the old master becomes its replica."""
    lag = rng.choice([0.0, 0.05, 0.3])
    if lag:
        for link in [each for each in at.proxy.open() if not each.name]:
            link.stall()
        await asyncio.sleep(lag)
    with at.replica.client() as client:
        client.replicaof("no", "one")
    new = at.replica
    if rng.random() < 0.5:  # else some workers may still be at the old one when others come to the new one
        at.master.kill()
    at.proxy.route = lambda name: new.port
    await asyncio.sleep(rng.uniform(0, 0.3))
    at.master.kill()
    at.master, at.replica = new, at.master
    await asyncio.to_thread(_rejoin, at)


def _rejoin(at: Place) -> None:
    at.replica.start()
    follow(at.replica, at.proxy.port)


async def stall(at: Place, rng: random.Random) -> None:
    node = at.node(rng)
    at.proxy.stall(node)
    await asyncio.sleep(rng.choice([0.3, 1.5, 4.5]))
    at.proxy.release(node)


async def swallow(at: Place, rng: random.Random) -> None:
    node = at.node(rng)
    at.proxy.blackhole(node)
    await asyncio.sleep(rng.choice([0.1, 1.0, 4.0]))
    at.proxy.release(node)


async def delay(at: Place, rng: random.Random) -> None:
    at.proxy.latency = 0.2
    await asyncio.sleep(rng.uniform(0.2, 1.0))
    at.proxy.latency = 0.0


async def lose_packets(at: Place, rng: random.Random) -> None:
    at.proxy.loss = 0.05
    await asyncio.sleep(rng.uniform(0.2, 1.5))
    at.proxy.loss = 0.0


async def kill_a_worker(at: Place, rng: random.Random) -> None:
    if workers := workers_of(at.hub):
        kill(rng.choice(workers))


async def freeze_a_worker(at: Place, rng: random.Random) -> None:
    if workers := workers_of(at.hub):
        worker = rng.choice(workers)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGSTOP)
            await asyncio.sleep(rng.choice([0.2, 1.0, 3.0]))
            os.kill(worker, signal.SIGCONT)


async def _tell(at: Place, *command: str | int) -> None:
    """Redis, past the proxy; it may be away."""

    def tell() -> None:
        with at.master.client(socket_timeout=1, retry=None) as client, contextlib.suppress(RedisError):
            client.execute_command(*command)

    await asyncio.to_thread(tell)


FAULTS: Sequence[Fault] = (
    *(cut_subscriptions, cut_commands, flush_scripts, wipe, pause, freeze, restart, fail_over),
    *(stall, swallow, delay, lose_packets, kill_a_worker, freeze_a_worker),
)
# These change or end the server itself; two at once would be one server too many.
_SERVER = {freeze, restart, fail_over, wipe, pause}


# One schedule


@dataclass(slots=True)
class Outcome:
    """What became of it."""

    seed: int
    steps: list[tuple[float, str]]
    fork: Fork
    # Seconds from the end of the last fault until everybody had everything.
    settled: float = 0.0
    lost: int = 0
    events: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        steps = ", ".join(f"{name} at {when:.2f}" for when, name in self.steps)
        told, accepted = self.events["told"], sum(map(len, self.fork.taken.values()))
        return (
            f"seed {self.seed}: {steps}; settled in {self.settled:.2f} s, {accepted} accepted, of which Redis lost "
            f"{self.lost}, {self.fork.deliveries} deliveries, told {told} times: {self.fork.verdict}"
        )


async def run(at: Place, seed: int) -> Outcome:
    """One schedule; its channels and clients are its own."""
    rng = random.Random(seed)
    steps = sorted(((rng.uniform(0, SPAN), rng.choice(FAULTS)) for _ in range(rng.randint(1, 4))), key=itemgetter(0))
    outcome = Outcome(seed, [(when, fault.__name__) for when, fault in steps], Fork())
    channels = [f"s{seed}-{time.monotonic_ns()}-{number}" for number in range(CHANNELS)]
    checkers = [
        Checker(f"client {number}", at.hub.port, channels, outcome.fork, random.Random(seed + number))
        for number in range(CLIENTS)
    ]
    try:
        await eventually(lambda: all(checker.ready for checker in checkers), 30)
        async with Traffic(at.hub.url, KEY, channels, RATE, outcome.fork, publishers=2) as traffic:
            await _disturb(at, steps, rng, checkers)
            start = time.monotonic()
            await asyncio.sleep(0.3)
            await traffic.stop()
            await _settle(at, traffic, channels, checkers, outcome)
            outcome.settled = time.monotonic() - start
    except (TimeoutError, AssertionError) as error:
        outcome.fork.violation("lost", f"{type(error).__name__}: {error}")
    finally:
        await asyncio.gather(*(checker.leave() for checker in checkers))
    for checker in checkers:
        outcome.events += checker.events
    _judge(at, channels, outcome)
    return outcome


async def _disturb(at: Place, steps: list[tuple[float, Fault]], rng: random.Random, checkers: list[Checker]) -> None:
    """All faults, each at its time, but one of those of the server after the other; and clients that come and go."""
    server = asyncio.Lock()

    async def one(when: float, fault: Fault, dice: random.Random) -> None:
        await asyncio.sleep(when)
        async with server if fault in _SERVER else contextlib.nullcontext():
            await fault(at, dice)

    async def come_and_go(dice: random.Random) -> None:
        for _ in range(4):
            await asyncio.sleep(dice.uniform(0, SPAN / 2))
            dice.choice(checkers).restart()

    dice = [random.Random(rng.random()) for _ in range(len(steps) + 1)]
    faults = (one(when, fault, own) for (when, fault), own in zip(steps, dice, strict=False))
    await asyncio.gather(*faults, come_and_go(dice[-1]))


async def _settle(at: Place, traffic: Traffic, channels: list[str], checkers: list[Checker], outcome: Outcome) -> None:
    """A last publication gets into each channel, and everybody is there."""
    publisher, taken = traffic.publishers[0], outcome.fork.taken
    before = {channel: len(taken[channel]) for channel in channels}
    async with asyncio.timeout(PATIENCE):
        while any(len(taken[channel]) == before[channel] for channel in channels):
            await publisher.batch(channels, parallel=False)
        while True:
            with contextlib.suppress(AssertionError):
                tops = await publisher.tops(channels)
                if await all_reach(checkers, tops, 1):
                    return


def _judge(at: Place, channels: list[str], outcome: Outcome) -> None:
    with at.master.client() as client:
        lines = {channel: line_of(client, channel) for channel in channels}
    outcome.fork.judge_by(lines)
    outcome.lost = outcome.fork.lost_in(lines)


# The program


async def _run_all(at: Place, first: int, count: int) -> list[Outcome]:
    failed = []
    for seed in range(first, first + count):
        outcome = await run(at, seed)
        print(outcome, flush=True)
        if outcome.fork.violations:
            failed.append(outcome)
            print(f"again: python -m tests.schedules --seed {seed} --count 1", flush=True)
    return failed


@click.command()
@click.option("--seed", default=1, show_default=True, help="The first.")
@click.option("--count", default=1000, show_default=True, help="Schedules, each from the seed after the last.")
def main(seed: int, count: int) -> None:
    """Run random fault schedules; the exit status is 1 if one of them lost, repeated or turned round anything."""
    redis = find_server()
    if redis is None:
        raise click.ClickException("this needs a Redis or Valkey server")
    with place(str(redis[0])) as at, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        failed = runner.run(_run_all(at, seed, count))
    print(f"{count} schedules, {len(failed)} failed: {[outcome.seed for outcome in failed] or 'none'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
