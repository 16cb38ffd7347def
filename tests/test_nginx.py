"""What deploy/nginx.conf does with a request, seen by servers in the place of the replicas."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator

import pytest

from hub.config import Settings
from tests.support import needs
from tests.support.cluster import ROOT, Proxy, fixed_port, running_nginx
from tests.support.upstream import HANDSHAKE, TOKEN, Backend, ask
from tests.support.waiting import eventually


@contextlib.asynccontextmanager
async def proxied(*statuses: int | None) -> AsyncIterator[tuple[Proxy, list[Backend]]]:
    """nginx in front of backends with these statuses; None is one that is down."""
    backends = [Backend(status or 0) for status in statuses]
    async with contextlib.AsyncExitStack() as stack:
        for backend, status in zip(backends, statuses, strict=True):
            if status is not None:
                await stack.enter_async_context(backend.running())
        upstreams = {f"hub{number}": backend.port for number, backend in enumerate(backends, 1)}
        yield stack.enter_context(running_nginx(needs.nginx(), upstreams)), backends


async def request(proxy: Proxy, line: str, headers: str = "", body: bytes = b"") -> int:
    """The status of nginx's answer."""
    return await ask(proxy.port, line, headers, body)


async def test_a_handshake_arrives_as_it_was_sent() -> None:
    """The upgrade, the host with its port, the origin and the query reach the hub; the address is the client's own."""
    async with proxied(200, 200, 200) as (proxy, backends):
        spoofed = "X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n"
        assert await request(proxy, f"GET /ws/room?{TOKEN}", HANDSHAKE + spoofed) == 200
        (backend,) = (backend for backend in backends if backend.requests)
        assert backend.requests[0].startswith(f"GET /ws/room?{TOKEN} HTTP/1.1\r\n")
        expected = {
            "upgrade": "websocket",
            "connection": "upgrade",
            "host": "chat.example:8080",
            "origin": "http://chat.example:8080",
            "x-forwarded-for": "127.0.0.1",
            "x-real-ip": "127.0.0.1",
            "x-forwarded-proto": "http",
        }
        assert {name: backend.headers[name] for name in expected} == expected


async def test_plain_requests_keep_the_connection_to_the_replica() -> None:
    """They carry neither an upgrade nor a `Connection: close`."""
    async with proxied(200, 200, 200) as (proxy, backends):
        assert await request(proxy, "GET /") == 200
        (backend,) = (backend for backend in backends if backend.requests)
        assert not backend.headers.keys() & {"upgrade", "connection"}


async def test_a_handshake_goes_to_the_next_replica() -> None:
    """Those that are down are passed over; each handshake comes in, and no log has the token."""
    async with proxied(None, None, 200) as (proxy, backends):
        for _ in range(10):
            assert await request(proxy, f"GET /ws/room?{TOKEN}", HANDSHAKE) == 200
        assert len(backends[2].requests) == 10
        await eventually(lambda: proxy.access_log.count('"GET /ws/room" 200') == 10)
        assert f"127.0.0.1:{backends[0].port}, " in proxy.access_log
        assert TOKEN not in proxy.access_log + proxy.error_log


async def test_a_handshake_that_a_dying_replica_has_read() -> None:
    """It is answered by the next one."""
    async with proxied(0, 0, 200) as (proxy, backends):
        assert await request(proxy, "GET /ws/room", HANDSHAKE) == 200
        assert len(backends[2].requests) == 1


async def test_refused_handshakes_do_not_disturb_the_others() -> None:
    """Replicas that take no more connections for the moment, with 503, are not down: what else comes is served."""
    async with proxied(503, 503, 503) as (proxy, backends):
        for _ in range(4):
            assert await request(proxy, "GET /ws/room", HANDSHAKE) == 503
            assert await request(proxy, "POST /api/publish", body=b"{}") == 503  # and not nginx's own 502
        assert sum(len(backend.requests) for backend in backends) == 8
        assert "502" not in proxy.access_log


async def test_a_publication_is_not_repeated() -> None:
    """A 503 of one replica is the answer, and so is its silence: it may have published all the same."""
    for status, answer in ((503, 503), (0, 502)):
        async with proxied(status, status, status) as (proxy, backends):
            assert await request(proxy, "POST /api/publish", body=b"{}") == answer
            assert sum(len(backend.requests) for backend in backends) == 1


async def test_nothing_is_left_in_the_error_log_when_all_are_down() -> None:
    """502, and the token is not quoted."""
    async with proxied(None, None, None) as (proxy, _):
        assert await request(proxy, f"GET /ws/room?{TOKEN}", HANDSHAKE) == 502
        await eventually(lambda: '"GET /ws/room" 502' in proxy.access_log)
        assert TOKEN not in proxy.access_log + proxy.error_log


async def test_a_client_that_reads_nothing_is_dropped() -> None:
    """Else nginx would keep it, and megabytes for it, long after the hub dropped it."""
    dropped = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        writer.close()
        dropped.set()

    port = fixed_port()
    upstreams = {f"hub{number}": port for number in (1, 2, 3)}
    async with await asyncio.start_server(flood, "127.0.0.1", port):
        with running_nginx(needs.nginx(), upstreams, send_timeout="1s") as proxy, socket.socket() as client:
            client.connect(("127.0.0.1", proxy.port))
            client.sendall(f"GET /ws HTTP/1.1\r\nHost: chat\r\n{HANDSHAKE}\r\n".encode())
            await asyncio.wait_for(dropped.wait(), 10)
            with pytest.raises(ConnectionResetError):
                read_to_the_end(client)


def read_to_the_end(client: socket.socket) -> None:
    while client.recv(65536):
        pass


def test_idle_clients_outlive_the_timeouts() -> None:
    """nginx waits longer than the hub takes to notice a dead client by its pings."""
    text = (ROOT / "deploy/nginx.conf").read_text()
    # Blocked writes to a client, after a blank: proxy_send_timeout is the other way.
    assert re.findall(r" send_timeout (\d+)s;", text) == [f"{Settings.model_fields['slow_timeout'].default:g}"]
    waits = [60 * int(minutes) for minutes in re.findall(r"proxy_(?:read|send)_timeout (\d+)m;", text)]
    fields = Settings.model_fields
    assert len(waits) == 2
    assert min(waits) > 2 * (fields["ping_interval"].default + fields["ping_timeout"].default)
    # uvicorn closes an idle connection after 5 s.
    assert float(re.findall(r"keepalive_timeout (\d+)s;", text)[0]) < 5
