"""What the Autobahn test suite asks for, in the cases that most servers do not fully meet (`make compliance` runs all).

Each is a conversation on `/echo`: the segments that the client sends, and all that it must get until the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from hub.protocol.frames import binary_frame, close_frame, pong_frame, text_frame
from tests.protocol.test_frames import client_frame
from tests.test_wire import hub_on_uvicorn, raw

pytestmark = pytest.mark.both_loops

GOOD, ECHO = client_frame(1, b"Hello, world!"), text_frame(b"Hello, world!")
PING, CLOSE = client_frame(9, b""), client_frame(8, b"\x03\xe8")
REFUSED = close_frame(1002, "protocol error")
NOT_UTF8 = close_frame(1007, "text message is not UTF-8")
GREEK = "κόσμε".encode()
TOO_LARGE = b"\xf4\x90\x80\x80"


def octets(data: bytes) -> list[bytes]:
    return [bytes([octet]) for octet in data]


CASES = {
    # A good message, a broken frame and a ping in one segment: the message is answered, the ping is not.
    "3.2 reserved bit": ([GOOD + client_frame(1, b"Hello, world!", rsv=2) + PING], ECHO + REFUSED),
    "3.3 reserved bits, octet-wise frames": ([GOOD, client_frame(1, b"x", rsv=3), PING], ECHO + REFUSED),
    "3.4 reserved bit of compression": (octets(GOOD + client_frame(1, b"x", rsv=4) + PING), ECHO + REFUSED),
    "4.1.3 reserved opcode": ([GOOD + client_frame(5, b"") + PING], ECHO + REFUSED),
    "4.1.4 reserved opcode with payload": ([GOOD + client_frame(6, b"Hello") + PING], ECHO + REFUSED),
    "4.2.3 reserved control opcode": ([GOOD + client_frame(13, b"") + PING], ECHO + REFUSED),
    "4.2.4 reserved control opcode with payload": ([GOOD + client_frame(14, b"Hello") + PING], ECHO + REFUSED),
    "5.15 continuation of nothing": (
        [
            client_frame(1, b"Hello, ", fin=False)
            + client_frame(0, b"world!")
            + client_frame(0, b"more", fin=False)
            + client_frame(1, b"again")
        ],
        ECHO + REFUSED,
    ),
    # Text that can no longer become UTF-8 is refused before the rest of it is there.
    "6.4.1 not UTF-8 in the second fragment": (
        [client_frame(1, GREEK, fin=False), client_frame(0, TOO_LARGE, fin=False)],
        NOT_UTF8,
    ),
    "6.4.2 not UTF-8 early in the second fragment": (
        [client_frame(1, GREEK + TOO_LARGE[:1], fin=False), client_frame(0, TOO_LARGE[1:2], fin=False)],
        NOT_UTF8,
    ),
    "6.4.3 not UTF-8 in an unfinished frame": ([client_frame(1, GREEK + TOO_LARGE + b"x" * 50)[:-50]], NOT_UTF8),
    "6.4.4 not UTF-8 in an unfinished frame, octet-wise": (
        octets(client_frame(1, GREEK + TOO_LARGE + b"x" * 50)[:-52]),
        NOT_UTF8,
    ),
    # A close ends a message that is not finished, and is an ordinary close.
    "7.1.5 close inside a message": (
        [client_frame(1, b"Hello", fin=False), CLOSE + client_frame(0, b"more")],
        close_frame(1000),
    ),
    "7.1.2 two closes": ([GOOD + CLOSE + CLOSE + PING], ECHO + close_frame(1000)),
    # Pings inside a message are answered before it.
    "5.19 fragments and pings": (
        [
            client_frame(1, b"Hello", fin=False) + client_frame(9, b"1") + client_frame(0, b", ", fin=False),
            client_frame(9, b"2") + client_frame(0, b"world!") + CLOSE,
        ],
        pong_frame(b"1") + pong_frame(b"2") + ECHO + close_frame(1000),
    ),
}


async def converse(port: int, segments: list[bytes]) -> bytes:
    """All that a client gets that sends these segments."""
    async with raw(port, limit=2**20) as client:
        await client.handshake()
        for segment in segments:
            client.writer.write(segment)
            await asyncio.sleep(0.005)  # a segment of its own; that it is one changes nothing in the outcome
        return await client.rest()


async def test_conversations() -> None:
    """The client gets what it must, to the byte, whatever it sends afterwards."""
    async with hub_on_uvicorn() as (_, port, _):
        got = await asyncio.gather(*(converse(port, segments) for segments, _ in CASES.values()))
    assert dict(zip(CASES, got, strict=True)) == {case: expected for case, (_, expected) in CASES.items()}


def fragments(opcode: int, payload: bytes, size: int) -> Iterator[bytes]:
    """A message in frames of `size` bytes."""
    starts = range(0, len(payload), size)
    for at in starts:
        yield client_frame(0 if at else opcode, payload[at : at + size], fin=at == starts[-1])


@pytest.mark.parametrize(("opcode", "size"), [(1, 64), (2, 1024), (2, 2**22)], ids=["9.3.1", "9.4.3", "9.2.6"])
async def test_large_messages_in_any_fragments(opcode: int, size: int) -> None:
    """4 MiB come back whole, in however many frames they came."""
    payload = b"*" * 2**22 if opcode == 1 else bytes(range(256)) * 2**14
    expected = (text_frame if opcode == 1 else binary_frame)(payload)
    options = {"max_message_size": 2**22, "slow_budget": 2**23}
    async with hub_on_uvicorn(**options) as (_, port, _), raw(port, limit=2**20) as client:
        await client.handshake()
        client.writer.write(b"".join(fragments(opcode, payload, size)))
        async with asyncio.timeout(20):
            assert await client.reader.readexactly(len(expected)) == expected
