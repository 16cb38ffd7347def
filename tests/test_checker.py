"""The judge of the fault tests is judged: whatever a server does wrong, a client that checks notices, and says what.

The server here is a few lines with a fault to order; the real one is not needed.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import websockets
from websockets.asyncio.server import ServerConnection

from tests.support.checker import Checker, all_reach
from tests.support.ledger import Ledger, Place, content
from tests.support.waiting import eventually

Json = dict[str, Any]


class Server:
    """One channel with history; every publication goes through `spoil` on its way to the clients."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.epoch = "one"
        self.stream: list[str] = []
        self.sockets: list[ServerConnection] = []
        # What is sent in place of a publication, and in place of the reply to a subscription.
        self.spoil: Callable[[Json], list[Json]] = lambda publication: [publication]
        self.answer: Callable[[Json], Json] = lambda reply: reply
        self.requests: list[Json] = []
        self.port = 0

    async def publish(self, count: int = 1) -> None:
        for _ in range(count):
            text = content("p", sum(map(len, self.ledger.accepted.values())))
            self.stream.append(text)
            offset = len(self.stream)
            self.ledger.accept("news", Place(self.epoch, offset), text)
            for publication in self.spoil(self._publication(offset)):
                await self.push({"pub": publication})

    async def push(self, body: Json) -> None:
        for socket in self.sockets:
            await socket.send(json.dumps({"push": {"channel": "news", **body}}))

    async def unsubscribe(self) -> list[ServerConnection]:
        """Everybody, who will come back; the sockets that it were."""
        unsubscribed = list(self.sockets)
        await self.push({"unsubscribe": {"code": 2500, "reason": "insufficient state"}})
        self.sockets.clear()
        return unsubscribed

    def wipe(self) -> None:
        self.epoch, self.stream = "two", []

    @property
    def top(self) -> dict[str, Place]:
        return {"news": Place(self.epoch, len(self.stream))}

    def _publication(self, offset: int) -> Json:
        epoch = {"epoch": self.epoch} if offset == 1 else {}
        return {"data": self.stream[offset - 1], "offset": offset, **epoch}

    async def serve(self, socket: ServerConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosedError):
            async for frame in socket:
                for command in map(json.loads, str(frame).split("\n")):
                    if "connect" in command:
                        await socket.send(json.dumps({"id": command["id"], "connect": {"client": "c", "ping": 25}}))
                    elif command:
                        await self._subscribe(socket, command)
        self.sockets = [other for other in self.sockets if other is not socket]

    async def _subscribe(self, socket: ServerConnection, command: Json) -> None:
        request = command["subscribe"]
        self.requests.append(request)
        result: Json = {"recoverable": True, "positioned": True, "epoch": self.epoch}
        if not request.get("recover"):
            result["offset"] = len(self.stream)
        elif request["epoch"] == self.epoch:
            missed = [self._publication(offset + 1) for offset in range(request["offset"], len(self.stream))]
            result |= {"was_recovering": True, "recovered": True, "offset": request["offset"], "publications": missed}
        else:
            result |= {"was_recovering": True, "offset": len(self.stream)}
        await socket.send(json.dumps({"id": command["id"], "subscribe": self.answer(result)}))
        self.sockets.append(socket)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def server(ledger: Ledger) -> AsyncIterator[Server]:
    fake = Server(ledger)
    async with websockets.serve(fake.serve, "127.0.0.1", 0) as serving:
        fake.port = next(iter(serving.sockets)).getsockname()[1]
        yield fake


@contextlib.asynccontextmanager
async def listening(server: Server) -> AsyncIterator[Checker]:
    """A checker that is subscribed; at the end everything is judged."""
    checker = Checker("c", server.port, ["news"], server.ledger, random.Random(1))
    try:
        await eventually(lambda: server.sockets)
        yield checker
        await all_reach([checker], server.top, 1)
    finally:
        await checker.leave()
    server.ledger.judge()


async def test_nothing_to_complain_of(server: Server, ledger: Ledger) -> None:
    """Publications, a lost connection, a 2500 and a wipe that is told: a good server passes."""
    async with listening(server) as checker:
        await server.publish(10)
        checker.restart()
        await eventually(lambda: not server.sockets)
        await server.publish(3)
        await eventually(lambda: server.sockets)
        await server.publish(2)
        await server.unsubscribe()
        await server.publish(2)
        await eventually(lambda: server.sockets)
        server.wipe()
        await server.unsubscribe()
        await server.publish(5)
        await eventually(lambda: server.sockets)
        await server.publish()
        await server.sockets[0].close(3001, "shutdown")
        await eventually(lambda: checker.events["recovered"] == 3)
    assert not ledger.violations, ledger.verdict
    assert checker.events == {
        "connected": 3, "recovered": 3, "told": 1, "closed 1006": 1, "unsubscribed 2500": 2, "closed 3001": 1
    }  # fmt: skip
    assert [(s.epoch, s.start, s.last) for s in checker.stretches["news"]] == [("one", 0, 17), ("two", 5, 6)]
    assert ledger.deliveries == 18


async def test_it_recovers_from_where_it_is(server: Server) -> None:
    """As the SDKs: without a position at first, then with epoch and offset."""
    async with listening(server) as checker:
        await server.publish(2)
        await eventually(lambda: checker.at("news") == Place("one", 2))
        checker.restart()
        await eventually(lambda: len(server.requests) == 2)
    assert [request.get("recover") for request in server.requests] == [None, True]
    assert (server.requests[1]["epoch"], server.requests[1]["offset"]) == ("one", 2)


def at(offset: int, instead: Callable[[Json], list[Json]]) -> Callable[[Json], list[Json]]:
    """Something else in place of one publication."""
    return lambda publication: instead(publication) if publication["offset"] == offset else [publication]


def late() -> Callable[[Json], list[Json]]:
    """The third comes after the fourth."""
    kept: list[Json] = []

    def spoil(publication: Json) -> list[Json]:
        if publication["offset"] == 3:
            kept.append(publication)
            return []
        return [publication, kept.pop()] if publication["offset"] == 4 else [publication]

    return spoil


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("lost", at(3, lambda publication: [])),
        ("duplicated", at(3, lambda publication: [publication, publication])),
        ("out of order", late()),
        ("changed", at(3, lambda publication: [{**publication, "data": content("p", 99)}])),
        ("malformed", at(3, lambda publication: [publication, {"offset": 4}])),
        ("silent change", at(3, lambda publication: [{**publication, "epoch": "two"}])),
    ],
)
async def test_a_spoiled_publication(server: Server, ledger: Ledger, kind: str, spoil: Any) -> None:
    """Each kind of harm has its name, and is counted once."""
    server.spoil = spoil
    async with listening(server):
        await server.publish(5)
    assert ledger.violations == {kind: 1}, ledger.verdict


async def test_the_last_is_lost(server: Server) -> None:
    """Nothing comes after it that would show the gap: the client is not at the end."""
    server.spoil = at(5, lambda publication: [])
    async with listening(server) as checker:
        await server.publish(5)
        assert not await all_reach([checker], server.top, 0.2)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("lost", lambda reply: {**reply, "publications": reply["publications"][1:]}),
        ("duplicated", lambda reply: {**reply, "publications": reply["publications"][:1] + reply["publications"]}),
        ("moved", lambda reply: {**reply, "epoch": "two"}),
        ("recovery ignored", lambda reply: {**reply, "was_recovering": False, "recovered": False}),
    ],
)
async def test_a_spoiled_recovery(server: Server, ledger: Ledger, kind: str, change: Any) -> None:
    """The reply to a recovery is judged too."""
    async with listening(server) as checker:
        await server.publish(2)
        await eventually(lambda: checker.at("news") == Place("one", 2))
        server.answer = change
        checker.restart()
        await eventually(lambda: not server.sockets)
        await server.publish(3)
        await eventually(lambda: server.sockets)
    assert ledger.violations[kind] == 1, ledger.verdict


async def test_a_wipe_in_silence(server: Server, ledger: Ledger) -> None:
    """The new history goes on where the old one was: the offsets fit, and what is there is not what was there."""
    async with listening(server) as checker:
        await server.publish(2)
        await eventually(lambda: checker.at("news") == Place("one", 2))
        server.wipe()
        server.spoil = lambda publication: []
        await server.publish(2)
        server.spoil = lambda publication: [publication]
        await server.publish()
        await eventually(lambda: checker.at("news") == Place("one", 3))
        assert not await all_reach([checker], server.top, 0.1)
    assert ledger.violations == {"invented": 1}, ledger.verdict


async def test_an_end_without_return(server: Server, ledger: Ledger) -> None:
    """A terminal close code is a violation, even though the client comes back."""
    async with listening(server):
        await server.sockets[0].close(3501, "bad request")
        await eventually(lambda: len(server.requests) == 2)
    assert ledger.violations == {"turned away": 1}, ledger.verdict


async def test_push_without_a_subscription(server: Server, ledger: Ledger) -> None:
    """After unsubscribe nothing may come until the next reply."""
    async with listening(server):
        (socket,) = await server.unsubscribe()
        late = {"channel": "news", "pub": {"data": content("p", 0), "offset": 1}}
        await socket.send(json.dumps({"push": late}))
        await eventually(lambda: server.sockets)
    assert ledger.violations == {"not subscribed": 1}, ledger.verdict


def test_publishing_twice() -> None:
    """The same content at two places, and two contents at the same place."""
    ledger = Ledger()
    one, two = content("p", 1), content("p", 2)
    ledger.accept("news", Place("e", 1), one)
    ledger.accept("news", Place("e", 2), two)
    ledger.accept("news", Place("e", 2), content("p", 3))
    ledger.doubt("news", one)
    for offset, text in enumerate((one, one), 1):
        ledger.hear("c", "news", Place("e", offset + 2), text)
    ledger.judge()
    assert ledger.violations == {"place given twice": 1, "published twice": 1}


def test_the_order_of_a_publisher() -> None:
    """What was accepted first stands first, within one epoch."""
    ledger = Ledger()
    for epoch, offset, number in (("e", 1, 5), ("e", 2, 6), ("f", 1, 1), ("f", 2, 3), ("f", 3, 2)):
        ledger.accept("news", Place(epoch, offset), content("p", number))
    ledger.judge()
    assert ledger.violations == {"out of order": 1}
