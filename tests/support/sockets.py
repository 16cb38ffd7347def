"""Many raw WebSocket clients in one process: what a test sends is exactly what is on the wire."""

from __future__ import annotations

import select
import socket
import time

__all__ = ["HANDSHAKE", "connect", "receive_all", "upgraded"]

HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def connect(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    """A TCP connection to loopback."""
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(10)
    sock.connect(("127.0.0.1", port))
    return sock


def upgraded(port: int, path: str, *, receive_buffer: int | None = None, headers: bytes = b"") -> socket.socket:
    """A WebSocket connection after its handshake, which may have more `headers`."""
    sock = connect(port, receive_buffer=receive_buffer)
    sock.sendall((HANDSHAKE % path.encode())[:-2] + headers + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        if not (byte := sock.recv(1)):
            raise ConnectionError(f"handshake refused: {answer!r}")
        answer += byte
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return sock


def receive_all(socks: list[socket.socket], size: int, timeout: float = 10) -> list[float]:
    """Read `size` bytes from each; when (monotonic) each had them."""
    waiting = {sock.fileno(): (sock, index, size) for index, sock in enumerate(socks)}
    arrived = [0.0] * len(socks)
    deadline = time.monotonic() + timeout
    with select.epoll() as epoll:
        for fileno in waiting:
            epoll.register(fileno, select.EPOLLIN)
        while waiting:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(waiting)} of {len(socks)} clients did not get {size} bytes")
            for fileno, _ in epoll.poll(1):
                sock, index, left = waiting[fileno]
                if not (data := sock.recv(left)):
                    raise ConnectionError(f"client {index} was disconnected")
                left -= len(data)
                waiting[fileno] = (sock, index, left)
                if not left:
                    arrived[index] = time.monotonic()
                    epoll.unregister(fileno)
                    del waiting[fileno]
    return arrived
