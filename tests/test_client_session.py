"""The session of a protocol client as the client sees it, whatever it says and in whatever frames.

The machine keeps an own account of the protocol's rules, and compares what the client is told: the replies in their
order, the close, and that nothing is left of it afterwards.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hub.client import LINGER
from hub.errors import Disconnect, Disconnects
from hub.protocol.session import State
from hub.tokens import sign
from tests.support.clock import VirtualLoop
from tests.support.protocol_clients import SECRET, Gated, Json, Session, World, world

STALE, CONFIRMED, PING, PONG = 10.0, 5.0, 20.0, 5.0
NEW, OPEN, CONNECTING = State.NEW, State.OPEN, State.CONNECTING
# How long a client may stay in a state, and how that ends; in the open, with a ping to answer.
TIMES = {
    NEW: (STALE, Disconnects.STALE),
    State.REFUSED: (LINGER, Disconnects.CONNECTION_CLOSED),
    OPEN: (PONG, Disconnects.NO_PONG),
}
SAYINGS = st.sampled_from(
    ["connect", "connect slowly", "connect too late", "connect without id"]
    + 3 * ["publish", "unsubscribe", "pong"]
    + ["publish without id", "send", "ping", "nothing"]
)
TOKENS = {
    "connect": "",
    "connect slowly": sign({"sub": "1", "channels": ["chat:a"]}, SECRET),
    "connect too late": sign({"sub": "1", "exp": 1}, SECRET),
}


def command(saying: str, number: int) -> Json:
    """As JSON. Those that are answered are so at once; what Redis is asked need not be answered before a close."""
    if saying in TOKENS:
        return {"id": number, "connect": {"token": TOKENS[saying]}}
    bodies: dict[str, Json] = {
        "connect without id": {"connect": {}},
        "publish": {"id": number, "publish": {"channel": "unknown:a", "data": 1}},
        "unsubscribe": {"id": number, "unsubscribe": {"channel": "b"}},
        "publish without id": {"publish": {"channel": "a", "data": 1}},
        "send": {"send": {"data": 1}},
        "ping": {"id": number, "ping": {}},
        "nothing": {"id": number},
        "pong": {},
    }
    return bodies[saying]


class SessionMachine(RuleBasedStateMachine):
    """One connection after the other on the same worker."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.stack = AsyncExitStack()
        self.broker = Gated()
        started = world(
            self.broker,
            client_stale_timeout=STALE,
            subscribe_timeout=CONFIRMED,
            ping_interval=PING,
            ping_timeout=PONG,
        )
        self.world: World = self.runner.run(self.stack.enter_async_context(started))
        self.numbers = 0
        self.open_another()

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            with self.runner:
                self.runner.run(self.end())

    async def end(self) -> None:
        self.session.client.on_close(1006, "")
        await self.stack.aclose()

    def pass_time(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    # The account

    def open_another(self) -> None:
        self.broker.gate.clear()

        async def opened() -> Session:
            return self.world.open()

        self.session = self.runner.run(opened())
        self.state = State.NEW
        self.closed: Disconnect | None = None
        # Ids of all replies; what waits for the one to `connect`; the number that `connect` had.
        self.answered: list[int] = []
        self.queue: list[tuple[str, int]] = []
        self.connecting = 0
        self.pongs = 0

    def ends(self, disconnect: Disconnect) -> None:
        self.state, self.closed = State.CLOSED, disconnect
        self.queue.clear()

    def takes(self, saying: str, number: int) -> None:
        """One command, in the words of the protocol."""
        if self.state is CONNECTING:
            self.queue.append((saying, number))
        elif self.state is NEW and saying in TOKENS:
            self.connects(saying, number)
        elif self.state is OPEN and saying in ("publish", "unsubscribe"):
            self.answered.append(number)
        elif self.state is OPEN and saying == "pong" and self.session.pings > self.pongs:
            self.pongs += 1
        elif self.state is OPEN and saying == "send":
            self.ends(Disconnects.NOT_AVAILABLE)
        elif self.state is not State.CLOSED:
            self.ends(Disconnects.BAD_REQUEST)

    def connects(self, saying: str, number: int) -> None:
        self.connecting = number
        if saying == "connect slowly":
            self.state = CONNECTING
            return
        self.answered.append(number)
        self.state = OPEN if saying == "connect" else State.REFUSED

    # What happens

    @precondition(lambda self: self.state is NEW)
    @rule(saying=st.sampled_from([*TOKENS]))
    def connect(self, saying: str) -> None:
        """As clients do; anything else that is said first is the end."""
        self.say([saying])

    @precondition(lambda self: self.state is OPEN and self.session.pings > self.pongs)
    @rule(times=st.integers(1, 2))
    def answer(self, times: int) -> None:
        """A second answer is to no ping."""
        self.say(["unsubscribe", *times * ["pong"]])

    @precondition(lambda self: self.state is not State.CLOSED)
    @rule(sayings=st.lists(SAYINGS, min_size=1, max_size=4))
    def say(self, sayings: list[str]) -> None:
        """One frame. Behind a `connect` that is refused nothing of it is heard."""
        numbered = [(saying, self.numbers + n) for n, saying in enumerate(sayings, 1)]
        self.numbers += len(sayings)
        frame = [command(saying, number) for saying, number in numbered]

        async def said() -> None:
            self.session.say(*frame)
            await asyncio.sleep(0.01)

        self.runner.run(said())
        refused = self.state is State.REFUSED
        for saying, number in numbered:
            if refused or self.state is not State.REFUSED:
                self.takes(saying, number)

    @precondition(lambda self: self.state is CONNECTING)
    @rule()
    def confirm(self) -> None:
        """Redis has subscribed; what was said meanwhile is handled."""
        self.broker.gate.set()
        self.pass_time(0.01)
        self.state = OPEN
        self.answered.append(self.connecting)
        waiting, self.queue = self.queue, []
        for saying, number in waiting:
            self.takes(saying, number)

    @precondition(lambda self: self.state is OPEN and self.session.pings == self.pongs)
    @rule()
    def ping(self) -> None:
        """There is one within the interval."""
        for _ in range(int(PING) + 1):
            if self.session.pings == self.pongs:
                self.pass_time(1)
        assert self.session.pings == self.pongs + 1

    @precondition(lambda self: self.state is CONNECTING)
    @rule()
    def give_up(self) -> None:
        """Redis does not subscribe in time: `connect` is refused, and what was said behind it is not heard."""
        self.pass_time(CONFIRMED + 1)
        self.state = State.REFUSED
        self.answered.append(self.connecting)
        self.queue.clear()

    @precondition(lambda self: self.state in TIMES and self.session.pings == self.pongs + (self.state is OPEN))
    @rule()
    def wait_too_long(self) -> None:
        """For what the client owes, or for what it was left to read."""
        seconds, disconnect = TIMES[self.state]
        self.pass_time(seconds + 1)
        self.ends(disconnect)

    @precondition(lambda self: self.state is not State.CLOSED)
    @rule(by_server=st.booleans())
    def close(self, by_server: bool) -> None:
        """Either side ends it, at any moment."""

        async def closed() -> None:
            if by_server:
                self.session.client.end(Disconnects.FORCE_DISCONNECT)
            else:
                self.session.client.on_close(1001, "going away")

        self.runner.run(closed())
        self.ends(Disconnects.FORCE_DISCONNECT)
        self.closed = Disconnects.FORCE_DISCONNECT if by_server else None

    @precondition(lambda self: self.state is State.CLOSED)
    @rule()
    def again(self) -> None:
        """Of the one before nothing is left."""
        self.runner.run(self.world.nothing_is_left())
        self.open_another()

    @invariant()
    def the_client_was_told_so(self) -> None:
        if hasattr(self, "session"):
            assert self.session.client.state is self.state
            assert self.session.answered == self.answered
            assert self.session.closed is self.closed


TestSession = SessionMachine.TestCase
TestSession.settings = settings(max_examples=100, stateful_step_count=25)
