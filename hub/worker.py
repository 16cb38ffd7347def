"""One worker process of `hub serve`, started by the supervisor: `python -m hub.worker LISTENING_FD SOCKET`.

On the socket, a path, it answers the other workers. The settings come as one line of JSON on standard input, which then
stays open as long as the supervisor lives. The line `ready` on standard output says that it serves, a line `retire`
later that another worker should take its place.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import uvicorn

from .app import WebSocketsFirst, create_app
from .config import Settings
from .embed import Hub
from .health import readiness
from .http import HubHttpProtocol
from .log import configure
from .siblings import Siblings
from .wire import HubProtocol
from .wire_server import wire_server

__all__ = ["main"]

# An orphan has nobody to wait for: it drains this long at most.
ORPHAN_GRACE = 2.0


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._introduce()
        await super().startup(sockets)
        # What lives as long as the process need not be walked over at each collection: accepting gets 14 % cheaper.
        gc.collect()
        gc.freeze()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        pipe = os.dup(1)
        os.dup2(2, 1)  # the pipe has another end from now on: what is printed goes where the log goes
        self._hub.retire_here = lambda: _say(pipe, b"retire\n")

    async def _introduce(self) -> None:
        """Answer the other workers, from now until the connections are closed."""
        hub = self._hub
        assert hub.siblings is not None
        await hub.siblings.start({"metrics": hub.metrics, "ready": lambda _: readiness(hub)})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        wire_server(self.config, self.server_state, self.lifespan.state).draining = True
        await super().shutdown(sockets)
        assert self._hub.siblings is not None
        await self._hub.siblings.stop()


def _say(pipe: int, line: bytes) -> None:
    with contextlib.suppress(OSError):  # the supervisor is gone, and so will this worker be
        os.write(pipe, line)


def _end_with_supervisor(folder: Path) -> None:
    """`folder` is the supervisor's, which cannot remove it any more."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_GRACE)
    os._exit(1)


def _read_settings() -> Settings:
    line = b""
    while not line.endswith(b"\n"):  # unbuffered: what follows belongs to the lifeline
        if not (byte := os.read(0, 1)):
            raise SystemExit("hub.worker is started by `hub serve`, not by hand")
        line += byte
    return Settings.load(**json.loads(line))


def main() -> None:
    """Serve until SIGTERM; the exit status is 0 then."""
    # Until uvicorn takes them over, and again when it has shut down and raises the signal once more.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    settings = _read_settings()
    configure(settings.log_format, settings.log_level)
    path = Path(sys.argv[2])
    threading.Thread(target=_end_with_supervisor, args=(path.parent,), name="hub lifeline", daemon=True).start()
    app = create_app(settings)
    hub: Hub = app.state.hub
    hub.siblings = Siblings(path, settings.workers)
    # The supervisor's notice of the end.
    signal.signal(signal.SIGUSR1, lambda *_: setattr(hub, "leaving", True))
    config = uvicorn.Config(
        WebSocketsFirst(app),
        http=HubHttpProtocol,
        ws=HubProtocol,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        ws_max_size=settings.max_message_size,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=math.ceil(settings.drain) + 1,
    )
    listening = socket.socket(fileno=int(sys.argv[1]))
    _Server(config, hub).run(sockets=[listening])


if __name__ == "__main__":
    main()
