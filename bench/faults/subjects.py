"""Who is compared: how a worker of it is started, and how its clients speak."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .dialects import Centrifuge
from .publisher import Post, as_text, to_hub

__all__ = ["FAULTS_OF_ONE", "ROOT", "SUBJECTS", "Subject"]

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENTS = ROOT / ".cache" / "peers"
KEY = "bench"
# One process that shares nothing has nothing to do with Redis or with other workers.
FAULTS_OF_ONE = ("none", "slow-reader")

# One namespace, for the recoverable channel; the raw room is in none.
CONFIG = """
api_key = "bench"
drain = 0.0
log_level = "warning"

[namespaces.room]
history_size = 1000
history_ttl = "5m"
force_recovery = true
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One system in the form in which its documentation shows it."""

    title: str
    path: str
    dialect: str = "raw"
    post: Post = as_text
    # Of the module and of its environment in .cache/peers; "" for the hub.
    module: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    health: str = ""
    workers: int = 2
    # What tells its versions.
    packages: tuple[str, ...] = ("uvicorn", "websockets")

    @property
    def python(self) -> Path:
        return ENVIRONMENTS / self.module / "bin" / "python" if self.module else Path(sys.executable)

    @property
    def missing(self) -> str:
        """Why it cannot be run, if so."""
        return "" if self.python.exists() else f"{self.title}: not installed; run `make bench-faults`, or install.sh"

    def command(self, port: int, redis_url: str, folder: Path) -> list[str]:
        """What starts one worker. Only warnings and worse are logged."""
        if self.module:
            app = f"bench.peers.{self.module}:app"
            return [str(self.python), "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning"]
        config = folder / "hub.toml"
        config.write_text(CONFIG)
        arguments = ["--port", str(port), "--redis-url", redis_url, "--config", str(config)]
        return [str(self.python), "-m", "hub", "serve", "--workers", "1", *arguments]

    def versions(self) -> dict[str, str]:
        """Of its packages, as installed."""
        program = "import json, sys; from importlib.metadata import version as v; print(json.dumps({p: v(p) for p in "
        program += "sys.argv[1:]}))"
        command = [str(self.python), "-c", program, *self.packages]
        found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return found


_HUB = ("broadcast-hub", "uvicorn", "redis")
_DJANGO = ("channels", "channels-redis", "django", "redis", "uvicorn", "websockets")

SUBJECTS: Mapping[str, Subject] = {
    "hub-room": Subject(
        title="hub, raw room", path="/ws/bench", post=to_hub("bench", KEY), health="/health/ready", packages=_HUB
    ),
    "hub-channel": Subject(
        title="hub, channel with recovery",
        path="/connection/websocket",
        dialect="centrifuge",
        post=to_hub(Centrifuge.channel, KEY),
        health="/health/ready",
        packages=_HUB,
    ),
    "socketio": Subject(
        title="python-socketio, AsyncRedisManager",
        path="/socket.io/?EIO=4&transport=websocket",
        dialect="socket.io",
        module="python_socketio",
        packages=("python-socketio", "python-engineio", "redis", "uvicorn", "websockets"),
    ),
    "channels-core": Subject(
        title="Django Channels, channels_redis core",
        path="/ws",
        module="django_channels",
        environment={"CHANNEL_LAYER": "channels_redis.core.RedisChannelLayer"},
        packages=_DJANGO,
    ),
    "channels-pubsub": Subject(
        title="Django Channels, channels_redis pubsub",
        path="/ws",
        module="django_channels",
        environment={"CHANNEL_LAYER": "channels_redis.pubsub.RedisPubSubChannelLayer"},
        packages=_DJANGO,
    ),
    "broadcaster": Subject(
        title="broadcaster, Redis",
        path="/ws",
        module="encode_broadcaster",
        packages=("broadcaster", "starlette", "redis", "uvicorn", "websockets"),
    ),
    "litestar-pubsub": Subject(
        title="Litestar Channels, Redis pub/sub",
        path="/room",
        module="litestar_channels",
        environment={"CHANNELS_BACKEND": "pubsub"},
        packages=("litestar", "redis", "uvicorn", "websockets"),
    ),
    "litestar-streams": Subject(
        title="Litestar Channels, Redis streams",
        path="/room",
        module="litestar_channels",
        environment={"CHANNELS_BACKEND": "streams"},
        packages=("litestar", "redis", "uvicorn", "websockets"),
    ),
    "tutorial": Subject(
        title="FastAPI tutorial, ConnectionManager (one process)",
        path="/ws/1",
        module="tutorial_posted",
        workers=1,
        packages=("fastapi", "uvicorn", "websockets"),
    ),
}
