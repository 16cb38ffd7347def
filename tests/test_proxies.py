"""What HAProxy, Caddy and Traefik, as deploy/ configures them, do with a request."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub.app import create_app
from hub.config import Settings
from tests.support.cluster import ROOT, compose, replicas_of
from tests.support.proxies import CADDY, HAPROXY, KINDS, TRAEFIK, Kind, Running, proxying
from tests.support.upstream import HANDSHAKE, TOKEN, Backend, ask
from tests.support.waiting import eventually

# Proxies look after their replicas in real time.
pytestmark = pytest.mark.timed

DEPLOY = ROOT / "deploy"
FIELDS = Settings.model_fields
# What a log must not have, wherever in a request it came.
SECRETS = ("s3cret", "k3y", "c00kie", "b34rer")
UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
HEADERS = "X-API-Key: k3y\r\nCookie: session=c00kie\r\nAuthorization: Bearer b34rer\r\n"

# Caddy looks for a replica so long before it says that there is none.
QUICK = {"lb_try_duration 3s": "lb_try_duration 500ms"}

every_kind = pytest.mark.parametrize("kind", KINDS, ids=repr)


@contextlib.asynccontextmanager
async def proxied(kind: Kind, *statuses: int | None) -> AsyncIterator[tuple[Running, list[Backend]]]:
    """The proxy in front of three backends with these statuses; None is one that is down."""
    backends = [Backend(status or 0) for status in statuses]
    async with contextlib.AsyncExitStack() as stack:
        for backend, status in zip(backends, statuses, strict=True):
            if status is not None:
                await stack.enter_async_context(backend.running())
        ports = [backend.port for backend in backends]
        yield await stack.enter_async_context(proxying(kind, ports, QUICK if set(statuses) == {None} else {})), backends


def seen(backends: list[Backend]) -> int:
    return sum(len(backend.requests) for backend in backends)


# What arrives


@every_kind
async def test_a_handshake_arrives_as_it_was_sent(kind: Kind) -> None:
    """The upgrade, the host with its port, the origin and the query reach the hub; the address is the client's own."""
    async with proxied(kind, 200, 200, 200) as (proxy, backends):
        spoofed = "X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n"
        assert await ask(proxy.port, f"GET /ws/room?{TOKEN}", HANDSHAKE + spoofed) == 200
        (backend,) = (backend for backend in backends if backend.requests)
        assert backend.requests[0].startswith(f"GET /ws/room?{TOKEN} HTTP/1.1\r\n")
        expected = {
            "upgrade": "websocket",
            "connection": "upgrade",
            "host": "chat.example:8080",
            "origin": "http://chat.example:8080",
            "x-forwarded-for": "127.0.0.1",
            "x-real-ip": "127.0.0.1",
        }
        assert {name: backend.headers[name].lower() for name in expected} == expected
        assert backend.headers["x-forwarded-proto"] in ("http", "ws")  # uvicorn takes either


@every_kind
async def test_a_handshake_goes_to_the_next_replica(kind: Kind) -> None:
    """Those that have just gone are passed over; each handshake comes in; the log has the paths, not the secrets."""
    async with proxied(kind, 200, 200, 200) as (proxy, backends):
        backends[0].refuse()
        backends[1].refuse()
        for _ in range(10):
            assert await ask(proxy.port, f"GET /ws/room?{TOKEN}", HANDSHAKE + HEADERS) == 200
        assert len(backends[2].requests) == 10
        await eventually(lambda: proxy.log.count("/ws/room") >= 10)
        assert not [secret for secret in SECRETS if secret in proxy.log]


@every_kind
async def test_no_secret_is_logged_when_all_are_down(kind: Kind) -> None:
    """The error says where, not with what."""
    async with proxied(kind, None, None, None) as (proxy, _):
        assert await ask(proxy.port, f"GET /ws/room?{TOKEN}", HANDSHAKE + HEADERS) in (502, 503)
        await eventually(lambda: "/ws/room" in proxy.log)
        assert not [secret for secret in SECRETS if secret in proxy.log]


@every_kind
async def test_refused_handshakes_do_not_disturb_the_others(kind: Kind) -> None:
    """Replicas that take no more connections for the moment, with 503, are not down: what else comes reaches them."""
    async with proxied(kind, 503, 503, 503) as (proxy, backends):
        for _ in range(4):
            assert await ask(proxy.port, "GET /ws/room", HANDSHAKE) == 503
            assert await ask(proxy.port, "POST /api/publish", body=b"{}") == 503
        assert seen(backends) == 8


@pytest.mark.parametrize("kind", [HAPROXY, CADDY], ids=repr)
async def test_a_handshake_that_a_dying_replica_has_read(kind: Kind) -> None:
    """It is answered by the next one. (Traefik repeats nothing that was sent.)"""
    async with proxied(kind, 0, 0, 200) as (proxy, backends):
        for _ in range(4):
            assert await ask(proxy.port, f"GET /ws/room?{TOKEN}", HANDSHAKE) == 200
        assert len(backends[2].requests) == 4


@every_kind
async def test_a_publication_is_not_repeated(kind: Kind) -> None:
    """A replica that has read it and says nothing more may have published it."""
    async with proxied(kind, 0, 0, 0) as (proxy, backends):
        assert await ask(proxy.port, "POST /api/publish", body=b"{}") in (0, 500, 502, 503)
        assert seen(backends) == 1


# A client that reads nothing


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A replica that has endlessly much to say."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        if b"/health/" in await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            writer.write(UPGRADED)
            while True:
                writer.write(bytes(65536))
                await writer.drain()
    writer.close()


async def test_haproxy_drops_a_client_that_reads_nothing() -> None:
    """Else it would keep it, and megabytes for it, long after the hub dropped it."""
    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with proxying(HAPROXY, [port] * 3, {"tcp-ut 30s": "tcp-ut 1s"}) as proxy:
            with socket.create_connection(("127.0.0.1", proxy.port)) as client:
                client.sendall(f"GET /ws HTTP/1.1\r\nHost: chat\r\n{HANDSHAKE}\r\n".encode())
                await eventually(lambda: '"GET /ws" 101' in proxy.log)  # written at the end of a connection


# The files


@pytest.mark.parametrize("kind", [HAPROXY, CADDY], ids=repr)
def test_the_program_accepts_its_file(kind: Kind, tmp_path: Path) -> None:
    """It says so itself."""
    kind.write(tmp_path, 8080, [8001] * 3)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = kind.check(tmp_path)
    assert command is not None
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", [HAPROXY, CADDY, TRAEFIK], ids=repr)
def test_the_file_is_about_the_replicas(kind: Kind) -> None:
    """Those of the Compose file, at the path of their readiness, chosen by connections."""
    text = "".join((DEPLOY / name).read_text() for name in kind.files)
    ports = {word for service in replicas_of(compose()["services"]).values() for word in service["command"]}
    found = re.findall(r"\b(hub\d):(\d+)", text)
    assert [name for name, _ in found] == list(replicas_of(compose()["services"]))
    assert {port for _, port in found} <= ports
    assert str(create_app().url_path_for("ready")) in text
    assert re.search(r"leastconn|least_conn|p2c", text)


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m|h)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


@pytest.mark.parametrize(
    ("kind", "interval", "timeout", "times"),
    [
        (HAPROXY, r"inter (\d+s) fall 2", r"timeout check (\d+s)", 2),
        (CADDY, r"health_interval (\d+s)", r"health_timeout (\d+s)", 1),
        (TRAEFIK, r" interval: (\d+s)", r" timeout: (\d+s)", 1),
    ],
    ids=["haproxy", "caddy", "traefik"],
)
def test_the_notice_is_long_enough(kind: Kind, interval: str, timeout: str, times: int) -> None:
    """What the documentation says of HUB_DRAIN_NOTICE is longer than a replica that is not ready goes unnoticed."""
    text = "".join((DEPLOY / name).read_text() for name in kind.files)
    (every,), (patience,) = re.findall(interval, text), re.findall(timeout, text)
    page = (ROOT / "docs/deployment.md").read_text()
    (section,) = re.findall(rf"^### {kind!r}\n(.*?)^##", page, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    (notice,) = re.findall(r"`HUB_DRAIN_NOTICE=(\d+)`", section)
    assert float(notice) > times * seconds(every) + seconds(patience)


def test_the_timeouts_of_haproxy() -> None:
    """Idle clients outlive them, silent ones do not outlive the hub's, and a blocked second is no failed replica."""
    text = (DEPLOY / "haproxy.cfg").read_text()
    timeouts = {name: seconds(value) for name, value in re.findall(r"^ +timeout (\S+) (\S+)", text, re.MULTILINE)}
    noticed = FIELDS["ping_interval"].default + FIELDS["ping_timeout"].default
    assert min(timeouts[name] for name in ("client", "server", "tunnel")) > 2 * noticed
    assert timeouts["http-request"] == FIELDS["handshake_timeout"].default
    assert seconds(re.findall(r"tcp-ut (\S+)", text)[0]) > FIELDS["slow_timeout"].default
    assert timeouts["check"] > 1
    assert "on-marked-down" not in re.sub(r"#.*", "", text)


def test_the_timeouts_of_caddy() -> None:
    """Its header timeout is the hub's, and its idle connections end before the hub ends them."""
    text = (DEPLOY / "Caddyfile").read_text()
    assert float(re.findall(r"read_header (\d+)s", text)[0]) == FIELDS["handshake_timeout"].default
    assert float(re.findall(r"keepalive (\d+)s", text)[0]) < 5
    assert "flush_interval" not in re.sub(r"#.*", "", text)


def traefik(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "traefik" / name).read_text())
    return loaded


def test_the_static_file_of_traefik() -> None:
    """A request may take as long as the hub lets it, tokens stay out of the log, the other file is beside it."""
    static = traefik("traefik.yml")
    assert set(static) <= {"entryPoints", "providers", "log", "accessLog", "global"}
    timeouts = static["entryPoints"]["clients"]["transport"]["respondingTimeouts"]
    assert seconds(timeouts["readTimeout"]) == FIELDS["handshake_timeout"].default
    assert "writeTimeout" not in timeouts  # no answer may last longer than that
    fields = static["accessLog"]["fields"]
    assert fields["queryParameters"]["defaultMode"] == fields["headers"]["defaultMode"] == "drop"
    assert (DEPLOY / "traefik" / Path(static["providers"]["file"]["filename"]).name).is_file()


def test_the_dynamic_file_of_traefik() -> None:
    """What its parts call each other is what they are called; nothing but the keys that Traefik has."""
    http = traefik("hub.yml")["http"]
    router, service = http["routers"]["hub"], http["services"]["hub"]["loadBalancer"]
    assert router["entryPoints"] == list(traefik("traefik.yml")["entryPoints"])
    assert router["service"] in http["services"]
    assert set(router["middlewares"]) == set(http["middlewares"])
    assert service["serversTransport"] in http["serversTransports"]
    assert set(service) == {"strategy", "servers", "healthCheck", "passHostHeader", "serversTransport"}
    assert set(service["healthCheck"]) == {"path", "status", "interval", "timeout"}
    idle = http["serversTransports"]["hub"]["forwardingTimeouts"]["idleConnTimeout"]
    assert seconds(idle) < 5
