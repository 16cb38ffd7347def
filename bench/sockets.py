"""WebSockets of the load client: plain sockets after a handshake."""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from typing import Any

from .dialects import Dialect

__all__ = ["TIMEOUT", "open_sockets", "ready"]

# Handshakes that wait for their answer at the same time.
BATCH = 32
REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TIMEOUT = 30.0


class TlsSocket(ssl.SSLSocket):
    """It empties itself, as a plain socket does: what it holds already epoll would not tell."""

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Raises BlockingIOError where nothing of a message has come, only something of TLS."""
        if self.gettimeout() != 0:
            return super().recv_into(buffer, nbytes, flags)
        total, view = 0, memoryview(buffer)
        while total < len(view):
            try:
                got = super().recv_into(view[total:])
            except ssl.SSLWantReadError:
                if total:
                    break
                raise BlockingIOError from None
            if not got:
                break
            total += got
        return total


def ready(epoll: select.epoll, wait: float) -> list[tuple[int, int]]:
    """Descriptors that can be read, each with its events; asked for without sleeping for `wait` seconds at most.

    A server wakes who sleeps at its own expense, the slower server at each of its messages. The broker, and a proxy,
    have this CPU whenever they want it.
    """
    end = time.perf_counter() + wait
    while not (found := epoll.poll(0)) and time.perf_counter() < end:
        os.sched_yield()
    return found


def open_sockets(port: int, path: str, count: int, dialect: Dialect, *, tls: bool = False) -> list[socket.socket]:
    """`count` WebSockets that have been greeted."""
    context = _context() if tls else None
    request = REQUEST.format(path=path, port=port).encode()
    opened: list[socket.socket] = []
    while len(opened) < count:
        batch = [_request(port, request, context) for _ in range(min(BATCH, count - len(opened)))]
        for sock in batch:
            dialect.greet(sock, _await_handshake(sock))
        opened += batch
    return opened


def _context() -> ssl.SSLContext:
    """Who the server is does not matter to a measurement."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.sslsocket_class = TlsSocket
    return context


def _request(port: int, request: bytes, context: ssl.SSLContext | None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is not None:
        sock = context.wrap_socket(sock)
    sock.sendall(request)
    return sock


def _await_handshake(sock: socket.socket) -> bytes:
    """What has come behind the answer."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        if not (part := sock.recv(4096)):
            break
        answer += part
    if not answer.startswith(b"HTTP/1.1 101") or b"\r\n\r\n" not in answer:
        raise ConnectionError(f"the handshake failed: {answer[:200]!r}")
    return answer.partition(b"\r\n\r\n")[2]
