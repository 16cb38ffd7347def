"""What the connections of one worker share: turns, socket options, where their limits come from."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import sys
import weakref

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from hub.config import WireOptions
from hub.wire_server import HIGH_WATER, LOW_WATER, OPTIONS_STATE, PIECES_PER_TURN, Turns, wire_server


def configured(**options: object) -> Config:
    config = Config(lambda: None, log_config=None, **options)  # type: ignore[arg-type]
    config.load()
    return config


async def test_turns_are_fair_and_in_order() -> None:
    """No more than the budget in one turn; who had to wait comes before who comes now, and everybody comes."""
    turns, done = Turns(asyncio.get_running_loop()), []
    per_turn: list[int] = []

    def arrive(name: int) -> None:
        if turns.take():
            done.append(name)
        else:
            turns.later(lambda: done.append(name))

    for name in range(50):
        arrive(name)
    while len(done) < 60:
        per_turn.append(len(done))
        await asyncio.sleep(0)
        if len(per_turn) == 1:
            for name in range(50, 60):
                arrive(name)
    assert done == list(range(60))
    assert max(after - before for before, after in itertools.pairwise(per_turn)) <= PIECES_PER_TURN
    assert turns.take()


async def test_work_that_makes_work_waits_for_the_next_turn() -> None:
    """A connection with much to do takes one piece a turn, so others come in between."""
    turns, done = Turns(asyncio.get_running_loop()), []

    def work(name: str, left: int) -> None:
        done.append(name)
        if left:
            turns.later(lambda: work(name, left - 1))

    turns.later(lambda: work("a", 2))
    turns.later(lambda: work("b", 2))
    for _ in range(5):
        await asyncio.sleep(0)
    assert "".join(done) == "ababab"


@pytest.mark.skipif(sys.platform != "linux", reason="options of Linux")
async def test_socket_options() -> None:
    """The kernel keeps little for a client that does not read, and gives up on one that has vanished."""
    server = wire_server(configured(), ServerState(), {OPTIONS_STATE: WireOptions(ping_interval=20, slow_timeout=7)})
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=sock)
        server.tune(transport)
        tuned = transport.get_extra_info("socket")
        assert tuned.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == HIGH_WATER
        assert tuned.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 37_000
        assert transport.get_write_buffer_limits() == (LOW_WATER, HIGH_WATER)
        transport.abort()
        await asyncio.sleep(0)


async def test_unix_sockets_have_no_such_options() -> None:
    """And need none."""
    server = wire_server(configured(), ServerState(), {})
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        server.tune(transport)
        transport.abort()
        await asyncio.sleep(0)


async def test_limits_without_a_hub_are_uvicorns() -> None:
    """`--ws-max-size`, `--ws-ping-interval` and `--ws-ping-timeout` mean what they say."""
    state = ServerState()
    options = wire_server(configured(ws_max_size=7, ws_ping_interval=8, ws_ping_timeout=3), state, {}).options
    assert (options.max_message_size, options.ping_interval, options.ping_timeout) == (7, 8, 3)


async def test_one_for_each_server_and_no_longer() -> None:
    """All connections of a server share it; it does not outlive the server."""
    config, state = configured(), ServerState()
    server = wire_server(config, state, {})
    assert wire_server(config, state, {}) is server
    assert wire_server(config, ServerState(), {}) is not server
    gone = weakref.ref(server)
    gc.disable()
    del server, state
    gc.enable()
    assert gone() is None
