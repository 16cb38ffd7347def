"""The workers of one `hub serve`, as they ask each other: each answers on a Unix socket in a folder of the supervisor.

They share the address that they listen on, so a request for metrics or health comes to any one of them, and what it
answers has to be true for all. A question is one line, an answer is all that follows until the end. Who does not answer
in time is stopped, blocked or gone, and that is an answer too.

A socket's name is `<place>.<serial>`: the places are numbered from 0 and each has one worker, except while a new worker
takes the place of an old one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

__all__ = ["Siblings"]

log: logging.Logger = logging.getLogger("hub.siblings")

# Answers a question; given what follows the question's first word.
Answer = Callable[[str], Awaitable[bytes]]

# Seconds that a worker has for its own answer to a question that came.
PATIENCE = 5.0


class Siblings:
    """The workers of one supervisor, this one included."""

    def __init__(self, socket: Path, places: int) -> None:
        """`socket` is this worker's own."""
        self._socket = socket
        self._places = places
        # From `start` to `stop`.
        self._server: asyncio.Server | None = None
        self._answers: Mapping[str, Answer] = {}
        # Questions that are being asked; who asks the same meanwhile gets the same answers.
        self._asked: dict[str, asyncio.Task[dict[str, bytes | None]]] = {}

    def __repr__(self) -> str:
        return f"<Siblings of {self._socket.name}, {self._places} places>"

    async def start(self, answers: Mapping[str, Answer]) -> None:
        """Answer questions, by their first word. Raises OSError."""
        self._answers = answers
        self._server = await asyncio.start_unix_server(self._serve, str(self._socket))

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._socket.unlink(missing_ok=True)

    async def ask(self, question: str, timeout: float) -> dict[str, bytes | None]:
        """What each worker says, by its name; None for one that does not answer in time or is not there.

        A worker's name is its place; one that has a successor is `<place>.<serial>`. It is added to the question.
        """
        task = self._asked.get(question)
        if task is None:
            task = asyncio.create_task(self._ask_all(question, timeout), name="hub siblings")
            self._asked[question] = task
            task.add_done_callback(lambda _: self._asked.pop(question))
        return await asyncio.shield(task)

    # Asking

    async def _ask_all(self, question: str, timeout: float) -> dict[str, bytes | None]:
        sockets = self._sockets()
        asking = [_ask(path, f"{question} {name}", timeout) for name, path in sockets.items()]
        answers = dict(zip(sockets, await asyncio.gather(*asking), strict=True))
        return {**dict.fromkeys(map(str, range(self._places))), **answers}

    def _sockets(self) -> dict[str, Path]:
        """Of all workers, by name."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        with contextlib.suppress(FileNotFoundError):  # the supervisor is gone
            for path in self._socket.parent.iterdir():
                place, _, serial = path.name.partition(".")
                found[int(place)].append(int(serial))
        named = {}
        for number, serials in sorted(found.items()):
            *old, newest = sorted(serials)
            named[str(number)] = self._path(number, newest)
            named |= {f"{number}.{each}": self._path(number, each) for each in old}
        return named

    def _path(self, place: int, serial: int) -> Path:
        return self._socket.with_name(f"{place}.{serial}")

    # Answering

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                kind, _, rest = (await reader.readline()).decode().strip().partition(" ")
                writer.write(await self._answers[kind](rest))
                await writer.drain()
        except OSError as error:  # TimeoutError is one
            log.debug("another worker has not waited for an answer: %s", error)
        except Exception:
            log.exception("unexpected fault in the answer to another worker")
        finally:
            writer.close()


async def _ask(path: Path, question: str, timeout: float) -> bytes | None:
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                writer.write(question.encode() + b"\n")
                return await reader.read() or None
            finally:
                writer.close()
    except OSError as error:
        log.debug("the worker at %s does not answer: %s", path, error or "no time")
        return None
