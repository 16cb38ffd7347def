"""What clients cost that say nothing: `python -m tests.soak_idle`.

Ten thousand protocol clients on one worker, each in a channel, who only answer pings. A line now and then tells the
worker's memory and processor time; the exit status is 1 if a client is lost, memory grows or the processor is busy.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass, field

import click
import uvloop

from tests.support.attackers import allow_many_sockets
from tests.support.canary import worker_of
from tests.support.centrifuge import PATH
from tests.support.figures import cpu_seconds, memory
from tests.support.lean_socket import LeanSocket
from tests.support.server import HubProcess, hub_serve
from tests.support.waiting import eventually

__all__ = ["Look", "Report", "run"]

# Clients that connect at the same time.
ABREAST = 50
# Goals: share of a core, growth of memory after the first look, bytes for each client.
MOST_CPU, MOST_DRIFT, MOST_BYTES = 0.05, 0.02, 28 * 1024


@dataclass(frozen=True, slots=True)
class Look:
    """At the worker: seconds since all are in, resident bytes, processor time so far."""

    at: float
    memory: int
    cpu: float


@dataclass(slots=True)
class Report:
    clients: int
    empty: Look
    # Seconds in which all connected.
    connecting: float = 0.0
    looks: list[Look] = field(default_factory=list)
    lost: int = 0

    @property
    def bytes_each(self) -> float:
        """Of a client, when all are in."""
        return (self.looks[0].memory - self.empty.memory) / self.clients

    @property
    def drift(self) -> float:
        """Growth from the first look to the last."""
        return self.looks[-1].memory / self.looks[0].memory - 1

    @property
    def cpu(self) -> float:
        """Share of a core from the first look to the last."""
        first, last = self.looks[0], self.looks[-1]
        return (last.cpu - first.cpu) / (last.at - first.at)

    @property
    def is_well(self) -> bool:
        return not self.lost and self.cpu < MOST_CPU and self.drift < MOST_DRIFT and self.bytes_each <= MOST_BYTES


async def run(hub: HubProcess, clients: int, seconds: float, every: float) -> Report:
    """Connect, and look on."""
    worker = await asyncio.to_thread(worker_of, hub.port)
    report, start = Report(clients, _look(worker, 0)), time.monotonic()
    sockets = await _connect(hub.port, clients)
    report.connecting = time.monotonic() - start
    await asyncio.sleep(2)  # for the garbage of the handshakes
    start = time.monotonic()
    while (passed := time.monotonic() - start) < seconds + every / 2:
        report.looks.append(_look(worker, passed))
        _tell(report)
        await asyncio.sleep(every - (time.monotonic() - start - passed))
    report.lost = sum(socket.ended.done() for socket in sockets)
    for socket in sockets:
        socket.abort()
    return report


def _look(worker: int, at: float) -> Look:
    return Look(at, memory(worker), cpu_seconds(worker))


async def _connect(port: int, clients: int) -> list[LeanSocket]:
    """All in a channel, ten in each."""
    sockets: list[LeanSocket] = []
    greeted = [0]

    async def connect(number: int) -> None:
        def on_message(payload: bytes) -> None:
            if payload == b"{}":
                socket.send(b"{}")
            elif b'"subscribe"' in payload:
                greeted[0] += 1

        socket = await LeanSocket.open(port, PATH, on_message)
        sockets.append(socket)
        channel = f"idle-{number // 10}"
        socket.send(b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"%s"}}' % channel.encode())

    for first in range(0, clients, ABREAST):
        await asyncio.gather(*(connect(number) for number in range(first, min(first + ABREAST, clients))))
    await eventually(lambda: greeted[0] == clients, 60)
    return sockets


def _tell(report: Report) -> None:
    """One line for the last look."""
    looks = report.looks
    before = looks[-2] if len(looks) > 1 else None
    cpu = f"{100 * (looks[-1].cpu - before.cpu) / (looks[-1].at - before.at):5.2f} %" if before else ""
    print(f"{looks[-1].at:7.0f} s  memory {looks[-1].memory / 2**20:7.1f} MB  processor {cpu}", flush=True)


@click.command()
@click.option("--clients", default=10_000, show_default=True)
@click.option("--seconds", default=600.0, show_default=True)
@click.option("--every", default=30.0, show_default=True, help="Seconds between two looks.")
def main(clients: int, seconds: float, every: float) -> None:
    """Hold idle clients; the exit status is 1 if they cost more than they should."""
    allow_many_sockets()
    os.nice(5)
    with (
        hub_serve("--workers", "1", "--drain", "0", env={"HUB_CLIENT_INSECURE": "true"}) as hub,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        report = runner.run(run(hub, clients, seconds, every))
    print(f"{clients} clients connected in {report.connecting:.1f} s, {clients / report.connecting:.0f} a second")
    print(
        f"{report.bytes_each / 1024:.1f} KiB each; in {report.looks[-1].at:.0f} s memory changed by {report.drift:+.1%}"
    )
    print(f"{report.cpu:.2%} of a core; {report.lost} clients lost")
    sys.exit(0 if report.is_well else 1)


if __name__ == "__main__":
    main()
