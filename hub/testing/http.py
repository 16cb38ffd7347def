"""HTTP calls of one worker, without a network; answers that go on for ever are read as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from .connection import HOST
from .worker import Worker

try:
    import httpx2
except ImportError as _error:  # pragma: no cover
    raise ImportError("hub.testing needs httpx2: pip install 'broadcast-hub[dev]'") from _error

__all__ = ["client_of"]


def client_of(worker: Worker, options: dict[str, Any]) -> httpx2.AsyncClient:
    """Its calls run in the worker."""
    return httpx2.AsyncClient(**{"transport": _Transport(worker), "base_url": f"http://{HOST}", **options})


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if not self._worker.running:
            raise ConnectionRefusedError(f"worker {self._worker.number} is not running")
        exchange = _Exchange(self._worker, await request.aread())
        status, headers = await exchange.begin(_scope(self._worker, request))
        return httpx2.Response(status, headers=headers, stream=exchange, request=request)


def _scope(worker: Worker, request: httpx2.Request) -> dict[str, Any]:
    url = request.url
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path.split(b"?")[0],
        "query_string": url.query,
        "server": (url.host, url.port),
        "client": ("127.0.0.1", 50000),
        "root_path": "",
        "state": worker.state.copy(),
    }


class _Exchange(httpx2.AsyncByteStream):
    """One request and its answer, which ends when the application has: its background tasks are done then."""

    def __init__(self, worker: Worker, body: bytes) -> None:
        self._worker = worker
        # What the application has not received yet; None once it has.
        self._request: bytes | None = body
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._chunks: deque[bytes] = deque()
        # Something has come from the application; the client has gone.
        self._arrived, self._gone = asyncio.Event(), asyncio.Event()

    async def begin(self, scope: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Status and headers. Raises what the application raises before them."""
        work = self._worker.app(scope, self._receive, self._send)
        self._task = self._worker.spawn(_finish(work), f"answers {scope['path']}")
        self._task.add_done_callback(lambda _: self._arrived.set())
        try:
            while self._head is None and not self._task.done():
                await self._wait()
        except asyncio.CancelledError:
            self._gone.set()
            raise
        if self._head is None:
            self._raise_fault()
            raise RuntimeError(f"the application has not answered {scope['method']} {scope['path']}")
        return self._head

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._chunks or not self._task.done():
            while self._chunks:
                yield self._chunks.popleft()
            if not self._task.done():
                await self._wait()
        self._raise_fault()

    async def aclose(self) -> None:
        self._gone.set()

    async def _wait(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()

    def _raise_fault(self) -> None:
        if self._task.cancelled():
            raise ConnectionResetError(f"worker {self._worker.number} was killed or stopped")
        self._task.result()

    # Called by the application

    async def _receive(self) -> dict[str, Any]:
        if self._request is None:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        body, self._request = self._request, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: dict[str, Any]) -> None:
        if self._gone.is_set():
            return  # as uvicorn does
        if message["type"] == "http.response.start":
            self._head = message["status"], list(message.get("headers", ()))
        elif body := message.get("body", b""):
            self._chunks.append(body)
        self._arrived.set()


async def _finish(work: Any) -> None:
    await work
