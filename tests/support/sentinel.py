"""A master, a replica and sentinels that fail over by themselves, all of them real, on loopback."""

from __future__ import annotations

import contextlib
import functools
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from .proxy import Connection, Proxy, proxy_to
from .redis import RedisProcess, free_port, running_redis

__all__ = ["SERVICE", "SentinelProcess", "Watched", "follow", "replicated", "watched"]

SERVICE = "mymaster"
# A server that says nothing for so many milliseconds is down.
DOWN_AFTER = 1000
# As many sentinels have to agree.
QUORUM = 2


class SentinelProcess:
    """One sentinel."""

    def __init__(self, binary: str, folder: Path, master: int) -> None:
        self.port = free_port()
        configuration = folder / f"sentinel-{self.port}.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {master} {QUORUM}\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}\n"
            f"sentinel failover-timeout {SERVICE} 4000\n"
        )
        self.process = subprocess.Popen([binary, str(configuration), "--sentinel"], stdout=subprocess.DEVNULL)

    def client(self) -> redis.Redis:
        """A plain client of the test's own; close it."""
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=2)

    def knows(self, replicas: int, sentinels: int) -> bool:
        """Whether it has found as many replicas and other sentinels, and takes the master for one."""
        with contextlib.suppress(redis.RedisError), self.client() as client:
            state = client.sentinel_master(SERVICE)
            return int(state["num-slaves"]) >= replicas and int(state["num-other-sentinels"]) >= sentinels
        return False

    def master(self) -> int:
        """The port of the server that it takes for the master."""
        with self.client() as client:
            return int(client.sentinel_get_master_addr_by_name(SERVICE)[1])

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


class Watched:
    """`master` and `replica` as they were at first; the sentinels reach the master through `proxy`, as all do."""

    def __init__(
        self, master: RedisProcess, replica: RedisProcess, proxy: Proxy, sentinels: list[SentinelProcess]
    ) -> None:
        self.master, self.replica, self.proxy, self.sentinels = master, replica, proxy, sentinels

    @property
    def url(self) -> str:
        """For the hub."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in self.sentinels)}/{SERVICE}"

    def wait_for_failover(self, timeout: float = 20) -> float:
        """Seconds until the replica is the master and a majority of the sentinels says so."""

        def over() -> bool:
            return sum(each.master() == self.replica.port for each in self.sentinels) >= QUORUM

        return _wait(over, timeout)

    def hold_replication(self) -> list[Connection]:
        """The replica gets nothing any more, and does not notice."""
        # The connections of sentinels and workers have names.
        links = [each for each in self.proxy.open() if not each.name]
        for link in links:
            link.stall()
        return links


def _wait(condition: Callable[[], bool], timeout: float) -> float:
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout:
            raise TimeoutError(f"not within {timeout} s")
        time.sleep(0.02)
    return time.monotonic() - start


def follow(replica: RedisProcess, port: int) -> None:
    """Make it a replica of the server at `port`, and wait until it has everything."""
    with replica.client() as client:
        client.replicaof("127.0.0.1", str(port))
        _wait(lambda: client.info("replication")["master_link_status"] == "up", 10)


@contextmanager
def replicated(binary: str, *options: str) -> Iterator[tuple[RedisProcess, RedisProcess, Proxy]]:
    """A master, a replica of it, and the proxy in front of the master through which the replica gets what it has."""
    # A quick full synchronization; by default the master waits 5 s for other replicas first.
    options = (*options, "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
    with running_redis(binary, *options) as master, running_redis(binary, *options) as replica:
        with proxy_to(master.port) as proxy:
            follow(replica, proxy.port)
            yield master, replica, proxy


@contextmanager
def watched(binary: str, sentinels: int = 3) -> Iterator[Watched]:
    """All of it, in agreement."""
    with replicated(binary) as (master, replica, proxy), TemporaryDirectory(prefix="hub-test-sentinel-") as folder:
        processes: list[SentinelProcess] = []
        try:
            for _ in range(sentinels):
                processes.append(SentinelProcess(binary, Path(folder), proxy.port))
            for process in processes:
                _wait(functools.partial(process.knows, 1, sentinels - 1), 20)
            yield Watched(master, replica, proxy, processes)
        finally:
            for process in processes:
                process.stop()
