"""`python -m hub` is `hub`."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]


def main() -> None:
    """The command line. What it imports takes a while, in which `hub serve` may be told to stop already."""
    if sys.argv[1:2] == ["serve"] and os.name == "posix":
        _mind_signals()
    from .cli import main as command_line

    command_line()


def _mind_signals() -> None:
    """Until the supervisor does. As process 1 of a container, which has no defaults, it would not hear them at all."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # nothing has been made, and an import might catch an exception
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # by nohup: the supervisor looks at it
        signal.signal(signal.SIGHUP, lambda *_: None)


if __name__ == "__main__":
    main()
