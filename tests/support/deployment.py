"""`hub serve` processes on one Redis behind one nginx, of which a test may kill parts."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from .cluster import Proxy, compose, replicas_of, running_nginx
from .processes import children
from .redis import RedisProcess, running_redis
from .server import HubProcess, hub_serve

__all__ = ["KEY", "Deployment", "running_deployment", "serving"]

KEY = "key"

# Every channel recovers, with room for what a client misses in half a minute of 300/s; `short:` channels keep less than
# a client may recover; `soak:` channels are soon full, so that the workers' memory can be judged; `room:` channels know
# who is there.
CONFIG = f"""
api_key = "{KEY}"
recovery_limit = 10000
drain = 0.0

[without_namespace]
history_size = 10000
history_ttl = "300s"
force_recovery = true
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true

[namespaces.short]
history_size = 100
history_ttl = "300s"
force_recovery = true
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true

[namespaces.soak]
history_size = 2000
history_ttl = "300s"
force_recovery = true
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true

[namespaces.room]
presence = true
join_leave = true
force_push_join_leave = true
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
"""


class Deployment:
    """All of it; `log` is what the hubs have written."""

    def __init__(self, redis: RedisProcess, hubs: Sequence[HubProcess], proxy: Proxy) -> None:
        self.redis = redis
        self.hubs = hubs
        self.proxy = proxy

    @property
    def port(self) -> int:
        return self.proxy.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return "".join(hub.log for hub in self.hubs)

    @property
    def workers(self) -> list[int]:
        """The process ids of all workers that run."""
        return sorted(pid for hub in self.hubs for pid in workers_of(hub))

    def kill_a_worker(self, rng: random.Random) -> bool:
        """kill -9 of any; false if none runs at the moment."""
        if not (workers := self.workers):
            return False
        kill(rng.choice(workers))
        return True

    def cut_subscriptions(self, rng: random.Random) -> int:
        """CLIENT KILL of the pub/sub connections: of all, or of one worker; how many it were."""
        with self.redis.client() as client:
            if rng.random() < 0.5:
                return int(client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))
            feeds = [entry["id"] for entry in client.client_list() if entry["name"].endswith("-feed")]
            return int(client.client_kill_filter(_id=rng.choice(feeds))) if feeds else 0


def workers_of(hub: HubProcess) -> list[int]:
    return children(hub.pid, "hub.worker")


def kill(pid: int) -> None:
    """As the kernel does when memory runs out."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def serving(redis_url: str, *, workers: int = 1, **variables: str) -> Iterator[HubProcess]:
    """One `hub serve` with these workers; its log must be quiet at the end."""
    with tempfile.TemporaryDirectory(prefix="hub-config-") as folder:
        path = Path(folder) / "hub.toml"
        path.write_text(CONFIG)
        arguments = ("--workers", str(workers), "--redis-url", redis_url, "--config", str(path))
        with hub_serve(*arguments, env=variables) as hub:
            yield hub
            log = hub.log
    assert "Traceback" not in log, log
    assert "unexpected fault" not in log, log


@contextlib.contextmanager
def running_deployment(redis_binary: str, nginx: str, shape: Sequence[int] = (3,)) -> Iterator[Deployment]:
    """One `hub serve` for each number in `shape`, with as many workers; everything is ready."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(running_redis(redis_binary))
        hubs = [stack.enter_context(serving(redis.url, workers=workers)) for workers in shape]
        # The configuration names as many servers as Compose has replicas.
        names = list(replicas_of(compose()["services"]))
        upstreams = {name: hubs[number % len(hubs)].port for number, name in enumerate(names)}
        yield Deployment(redis, hubs, stack.enter_context(running_nginx(nginx, upstreams)))
