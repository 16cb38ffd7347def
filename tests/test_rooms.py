"""Rooms across workers: everybody hears everybody, in one order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
import websockets

from tests.support.server import HubProcess, hub_serve

CLIENTS, ROUNDS = 40, 10


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with hub_serve("--workers", "4", env={"HUB_API_KEY": "key"}) as process:
        yield process


async def worker_of(client: websockets.ClientConnection) -> int:
    """The process that serves a client which asked for a hello."""
    worker: int = json.loads(await client.recv())["hub"]["hello"]["worker"]
    return worker


async def across_workers(url: str) -> list[websockets.ClientConnection]:
    """So many clients, not all of one worker: on a busy machine one of them may take many in a row."""
    clients, workers = [], []
    async with asyncio.timeout(30):
        while len(clients) < CLIENTS or len(set(workers)) == 1:
            clients.append(await websockets.connect(url))
            workers.append(await worker_of(clients[-1]))
            if len(clients) > CLIENTS:
                await clients.pop(0).close()
                del workers[0]
    return clients


async def collect(client: websockets.ClientConnection, count: int) -> list[str | bytes]:
    async with asyncio.timeout(10):
        return [await client.recv() for _ in range(count)]


async def test_forty_clients_ten_times(hub: HubProcess) -> None:
    """40 clients over 4 workers, each sends one message, each receives all 40, in the same order, ten times."""
    clients = await across_workers(f"{hub.ws_url}/ws/forty?hello=1")
    for turn in range(ROUNDS):
        sent = [f"{turn}-{number}" for number in range(CLIENTS)]
        await asyncio.gather(*(client.send(text) for client, text in zip(clients, sent, strict=True)))
        received = await asyncio.gather(*(collect(client, CLIENTS) for client in clients))
        assert sorted(received[0]) == sorted(sent)
        assert all(messages == received[0] for messages in received)
    await asyncio.gather(*(client.close() for client in clients))


async def test_text_and_binary_are_kept_byte_for_byte(hub: HubProcess) -> None:
    """Text stays text and binary stays binary, from nothing to the size limit."""
    samples: list[str | bytes] = ["", b"", "grüße 🎉\x00\n", bytes(range(256)), "x" * 65536, b"\xff" * 65536]
    async with (
        websockets.connect(f"{hub.ws_url}/ws/bytes") as sender,
        websockets.connect(f"{hub.ws_url}/ws/bytes?echo=0") as receiver,
    ):
        for sample in samples:
            await sender.send(sample)
        assert await collect(receiver, len(samples)) == samples
        assert await collect(sender, len(samples)) == samples


async def test_echo_0_leaves_out_the_sender_only(hub: HubProcess) -> None:
    """With echo=0 one hears the others and not oneself, whichever worker serves whom."""
    url = f"{hub.ws_url}/ws/quiet?echo=0"
    clients = [await websockets.connect(url) for _ in range(8)]
    await asyncio.gather(*(client.send(str(number)) for number, client in enumerate(clients)))
    for number, client in enumerate(clients):
        others = {str(other) for other in range(8)} - {str(number)}
        assert set(await collect(client, 7)) == others
    await clients[0].send("end")
    assert await collect(clients[1], 1) == ["end"]
    await asyncio.gather(*(client.close() for client in clients))


async def test_a_joiner_hears_what_is_sent_after_the_handshake(hub: HubProcess) -> None:
    """Once the handshake is answered nothing is missed, though it is the channel's first on its worker."""
    for turn in range(30):
        room = f"{hub.ws_url}/ws/join-{turn}"
        async with websockets.connect(room) as receiver, websockets.connect(room) as sender:
            await sender.send("now")
            assert await collect(receiver, 1) == ["now"]


async def test_lobby_and_echo(hub: HubProcess) -> None:
    """`/ws` is the room lobby; `/echo` answers its sender and nobody else."""
    async with websockets.connect(f"{hub.ws_url}/ws") as a, websockets.connect(f"{hub.ws_url}/ws/lobby") as b:
        await a.send("hi")
        assert await collect(b, 1) == ["hi"]
    async with websockets.connect(f"{hub.ws_url}/echo") as a, websockets.connect(f"{hub.ws_url}/echo") as b:
        await a.send("mine")
        await b.send(b"yours")
        assert await collect(a, 1) == ["mine"]
        assert await collect(b, 1) == [b"yours"]
