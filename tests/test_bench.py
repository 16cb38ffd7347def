"""The benchmark runs to its end, its load client counts rightly, and its verdicts follow from the figures."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench.dialects import PAYLOAD, Centrifuge, Raw

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, uses epoll")
if sys.platform == "linux":
    from click.testing import CliRunner

    from bench import __main__ as program
    from bench.room import Room
    from bench.targets import TARGETS, Sample, judge, medians

ROOT = Path(__file__).parent.parent
PING = b"\x89\x04ping"
# A message's header on the way in and on the way out: 16-bit lengths; clients mask.
CLIENT_HEADER = b"\x81\xfe" + PAYLOAD.to_bytes(2, "big") + b"\0\0\0\0"
HEADER = b"\x81\x7e" + PAYLOAD.to_bytes(2, "big")
SHARES = {"server_cpu_share", "redis_cpu_share", "client_cpu_share"}
FANOUT = {"deliveries_per_second", "deliveries_per_cpu_second", "p50_ms", "p99_ms", "max_ms"} | SHARES
CONNECTIONS = {"accept_cpu_ms", "accepted_per_second", "rss_kib_per_connection", "pss_kib_per_connection"}


@pytest.mark.timeout(120)
def test_a_quick_run_measures_every_server(redis_binary: str, tmp_path: Path) -> None:
    """Each figure is there and is a number that can be; none is judged, because it means nothing at this size."""
    command = [sys.executable, "-m", "bench", "--quick", "--output", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert len(report["targets"]) == len(TARGETS)
    for server in ("hub", "channels", "tutorial"):
        for window in ("window-1", "window-32"):
            figures = report["medians"][window][server]
            assert figures.keys() == FANOUT
            assert all(figures[name] > 0 for name in FANOUT - SHARES)
            assert figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
        assert report["medians"]["connections"][server].keys() == CONNECTIONS
        assert report["medians"]["connections"][server]["accept_cpu_ms"] > 0
    assert report["medians"]["connections"]["tutorial"]["rss_kib_per_connection"] > 1


# The load client


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """`size` bytes, or fewer at the end."""
    data = b""
    while len(data) < size and (part := sock.recv(size - len(data))):
        data += part
    return data


@contextmanager
def room_of(count: int, serve: Callable[[list[socket.socket], bytes], None]) -> Iterator[tuple[Room, list[bytes]]]:
    """A room whose server is `serve(sockets, payload)`, called for each message; what else the publisher sends."""
    pairs = [socket.socketpair() for _ in range(count)]
    servers, others = [server for _, server in pairs], []

    def run() -> None:
        while first := read_exactly(servers[0], 2):
            if first == CLIENT_HEADER[:2]:
                serve(servers, read_exactly(servers[0], len(CLIENT_HEADER) - 2 + PAYLOAD)[-PAYLOAD:])
            else:
                others.append(first + read_exactly(servers[0], 4 + (first[1] & 0x7F)))

    def run_until_closed() -> None:
        with suppress(ConnectionError):  # the room may be closed while it is written to
            run()

    thread = threading.Thread(target=run_until_closed)
    thread.start()
    room = Room([client for client, _ in pairs], Raw())
    try:
        yield room, others
    finally:
        room.close()
        thread.join(10)
        for server in servers:
            server.close()


def test_frames_in_pieces_are_counted() -> None:
    """Pings between messages are answered and not counted, and it does not matter where a frame is cut."""

    def chop(sockets: list[socket.socket], payload: bytes) -> None:
        sockets[0].sendall(PING)
        stream = HEADER + payload
        for piece in (stream[:3], stream[3:50], stream[50:]):
            for sock in sockets:
                sock.sendall(piece)

    with room_of(3, chop) as (room, others):
        figures = room.run(2, 0.3, {})
    assert figures["messages"] > 10
    assert figures["messages"] * 3 <= figures["deliveries"] <= (figures["messages"] + 2) * 3
    assert 0 < figures["p50"] <= figures["p99"] <= figures["max"]
    assert set(others) == {b"\x8a\x84\0\0\0\0ping"}


def test_a_lost_message_is_noticed() -> None:
    """A server that delivers other messages than those that were sent gets no figures."""

    def swap(sockets: list[socket.socket], payload: bytes) -> None:
        number = int(payload[:16])
        wrong = str(number + (number > 5)).zfill(16).encode() + payload[16:]
        for sock in sockets:
            sock.sendall(HEADER + wrong)

    with room_of(2, swap) as (room, _), pytest.raises(ConnectionError, match="message 7 arrived in the place of"):
        room.run(1, 5, {})


def test_a_close_frame_is_an_error() -> None:
    """A server that drops clients under load gets no figures."""

    def close(sockets: list[socket.socket], payload: bytes) -> None:
        sockets[1].sendall(b"\x88\x02\x0b\xc0")

    with room_of(2, close) as (room, _), pytest.raises(ConnectionError, match="unexpected frame 0x88"):
        room.run(1, 5, {})


def test_a_lost_connection_is_an_error() -> None:
    """A server that resets clients under load gets no figures."""

    def close_after_the_first(sockets: list[socket.socket], payload: bytes) -> None:
        for sock in sockets:
            sock.sendall(HEADER + payload)
        sockets[1].shutdown(socket.SHUT_WR)

    with room_of(2, close_after_the_first) as (room, _), pytest.raises(ConnectionError, match="closed a connection"):
        room.run(1, 5, {})


def test_sockets_that_subscribe_late_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that only some have heard, before all were there, do not count and do not disturb the order."""
    monkeypatch.setattr("bench.room.PATIENCE", 0.05)

    def admit_slowly(sockets: list[socket.socket], payload: bytes) -> None:
        present = 1 + int(payload[:16])
        for sock in sockets[:present]:
            sock.sendall(HEADER + payload)

    with room_of(3, admit_slowly) as (room, _):
        room.settle()
        figures = room.run(1, 0.2, {})
    assert figures["messages"] > 10
    assert figures["messages"] * 3 <= figures["deliveries"] <= (figures["messages"] + 1) * 3


def test_a_slow_server_is_not_given_more_and_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that needs longer for a message than patience lasts catches up all the same."""
    monkeypatch.setattr("bench.room.PATIENCE", 0.02)
    monkeypatch.setattr("bench.room.TIMEOUT", 2.0)

    def take_time(sockets: list[socket.socket], payload: bytes) -> None:
        time.sleep(0.06)
        for sock in sockets:
            sock.sendall(HEADER + payload)

    with room_of(3, take_time) as (room, _):
        room.settle()
        assert room.run(1, 0.3, {})["messages"] >= 1


def test_sockets_that_never_subscribe_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said how many of them there are."""
    monkeypatch.setattr("bench.room.PATIENCE", 0.05)
    monkeypatch.setattr("bench.room.TIMEOUT", 0.2)

    def answer_the_first(sockets: list[socket.socket], payload: bytes) -> None:
        sockets[0].sendall(HEADER + payload)

    with room_of(3, answer_the_first) as (room, _), pytest.raises(TimeoutError, match="2 of 3 sockets have heard"):
        room.settle()


def test_an_open_load_does_not_wait() -> None:
    """So many a second are sent, however long the server stands still, and no more when it is fast."""

    def stand_still_once(sockets: list[socket.socket], payload: bytes) -> None:
        if int(payload[:16]) == 0:
            time.sleep(0.3)
        for sock in sockets:
            sock.sendall(HEADER + payload)

    with room_of(2, stand_still_once) as (room, _):
        figures = room.run(1, 0.6, {}, rate=100)
    assert 35 <= figures["messages"] <= 61
    assert figures["p99"] >= 0.2


def test_the_centrifuge_dialect_knows_how_a_publication_arrives() -> None:
    """Its frame follows from the answer to connect; the publisher's own answers belong to the conversation."""
    client, server = socket.socketpair()
    with client, server:
        answer = b'{"id":1,"connect":{"client":"c1","version":"1","ping":25}}\n{"id":2,"subscribe":{}}'
        server.sendall(b"\x81" + bytes((len(answer),)) + answer)
        dialect = Centrifuge()
        dialect.greet(client)
        assert b'"connect":{}' in server.recv(4096)
    text = '{"push":{"channel":"bench","pub":{"data":"' + "0" * PAYLOAD + '","info":{"user":"","client":"c1"}}}}'
    frame = b"\x81\x7e" + len(text).to_bytes(2, "big") + text.encode()
    assert frame.startswith(dialect.head + b"0")
    assert len(frame) == dialect.frame
    assert dialect.reply(b'{"id":3,"publish":{}}') == b""
    assert dialect.reply(b'{"id":3,"error":{"code":103}}') is None


# Verdicts


def samples(hub: float, tutorial: float) -> list[Sample]:
    """Three repetitions of window 1, one of them far off."""
    return [
        Sample(scenario="window-1", server=server, figures={"deliveries_per_cpu_second": value * noise})
        for noise in (1.0, 1.1, 100.0)
        for server, value in (("hub", hub), ("tutorial", tutorial))
    ]


def test_a_ratio_is_of_medians() -> None:
    """The hub's median is divided by the tutorial's; targets without a measurement are left out."""
    (verdict,) = judge(medians(samples(36, 20)))
    assert verdict.measured == pytest.approx(1.8)
    assert verdict.reached
    (verdict,) = judge(medians(samples(35, 20)))
    assert not verdict.reached
    assert judge(medians(sample for sample in samples(36, 20) if sample.server == "hub")) == []


@pytest.mark.parametrize(("hub", "arguments", "status"), [(35, [], 0), (35, ["--check"], 1), (36, ["--check"], 0)])
def test_the_exit_status(
    hub: float, arguments: list[str], status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A missed target is told; it is a failure only with --check."""
    monkeypatch.setattr(program, "prepare", lambda plan, runs: None)
    monkeypatch.setattr(program, "run_all", lambda *_: iter(samples(hub, 20)))
    result = CliRunner().invoke(program.main, [*arguments, "--output", str(tmp_path / "out.json")])
    assert result.exit_code == status
    assert ("missed:" in result.output) is (hub == 35)
    assert len(json.loads((tmp_path / "out.json").read_text())["samples"]) == 6
