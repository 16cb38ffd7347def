"""An innocent client that echoes all the time, in a process of its own so that only the server can hold it up.

`python -m tests.support.canary PORT` runs until its standard input ends and prints its longest round trip in seconds.
"""

from __future__ import annotations

import select
import subprocess
import sys
import time
from types import TracebackType

from tests.support.sockets import upgraded

# A masked text frame; a mask of zeros leaves the payload as it is.
TWEET = b"\x81\x85\0\0\0\0tweet"


class Canary:
    """Runs while the context is open; `longest` is known afterwards."""

    def __init__(self, port: int) -> None:
        self._command = [sys.executable, "-m", "tests.support.canary", str(port)]
        self.longest = 0.0

    def __enter__(self) -> Canary:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"singing\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        out, _ = self._process.communicate(timeout=20)
        if kind is None:
            self.longest = float(out)


def sing(port: int) -> float:
    """The longest round trip until standard input ends."""
    sock, longest = upgraded(port, "/echo"), 0.0
    print("singing", flush=True)
    while not select.select([sys.stdin], [], [], 0.001)[0]:
        start = time.monotonic()
        sock.sendall(TWEET)
        got = b""
        while len(got) < 7:
            if not (part := sock.recv(7 - len(got))):
                raise ConnectionError("the canary was disconnected")
            got += part
        longest = max(longest, time.monotonic() - start)
    sock.close()
    return longest


if __name__ == "__main__":
    print(sing(int(sys.argv[1])))
