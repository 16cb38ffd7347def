"""An innocent client that echoes all the time, in a process of its own so that only the server can hold it up.

`python -m tests.support.canary PORT` runs until its standard input ends and prints its longest round trips in seconds.

On a busy machine a process also waits for a processor, which says nothing about the server. The kernel counts that
time; `longest` is without what the canary and the worker so waited during a round trip, `measured` is with it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import TracebackType

from hub.protocol.frames import split
from tests.support.sockets import upgraded

# Seconds that a neighbour's round trip may take while the server is attacked. The lower one is what the guarantees ask
# for; a virtual machine may also lose its processors for some time, which no kernel inside it counts.
LONGEST_WAIT = 0.05 if os.environ.get("HUB_FAULTS") == "full" else 0.1

# A masked text frame; a mask of zeros leaves the payload as it is.
TWEET = b"\x81\x85\0\0\0\0tweet"


class Canary:
    """Runs while the context is open; both figures are known afterwards."""

    def __init__(self, port: int) -> None:
        self._command = [sys.executable, "-m", "tests.support.canary", str(port)]
        self.longest = self.measured = 0.0

    def __enter__(self) -> Canary:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"singing\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        out, _ = self._process.communicate(timeout=20)
        if kind is None:
            self.longest, self.measured = map(float, out.split())
            waits = f"{self.longest * 1000:.1f} ms without waits for a processor"
            print(f"the longest of a neighbour's round trips: {self.measured * 1000:.1f} ms; {waits}")


def worker_of(port: int) -> int:
    """The process that serves a connection; the only one, or this says little."""
    with closing(upgraded(port, "/ws/canary?hello=1")) as sock:
        ((_, payload),) = split(sock.recv(4096))
        return int(json.loads(payload)["hub"]["hello"]["worker"])


def waited_for_a_processor(*pids: int | str) -> float:
    """Seconds since these processes began; 0 where the kernel does not tell."""
    files = [Path(f"/proc/{pid}/schedstat") for pid in pids]
    return sum(int(file.read_text().split()[1]) for file in files if file.exists()) / 1e9


def round_trip(sock: socket.socket) -> float:
    start = time.monotonic()
    sock.sendall(TWEET)
    got = b""
    while len(got) < 7:
        if not (part := sock.recv(7 - len(got))):
            raise ConnectionError("the canary was disconnected")
        got += part
    return time.monotonic() - start


def sing(port: int) -> tuple[float, float]:
    """The longest round trips until standard input ends: by the server's fault, and measured."""
    pids, longest, measured = ("self", worker_of(port)), 0.0, 0.0
    with closing(upgraded(port, "/echo")) as sock:
        print("singing", flush=True)
        while not select.select([sys.stdin], [], [], 0.001)[0]:
            waited = waited_for_a_processor(*pids)
            trip = round_trip(sock)
            measured = max(measured, trip)
            longest = max(longest, trip - (waited_for_a_processor(*pids) - waited))
    return longest, measured


if __name__ == "__main__":
    print(*sing(int(sys.argv[1])))
