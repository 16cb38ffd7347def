"""The benchmark beside its peers: who runs where, how they are spoken to, what is published of it."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest

from bench.dialects import PAYLOAD, SocketIO, client_frame, frame_at, head_of
from bench.plots import Bars, draw

from .support.certificate import self_signed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, uses epoll")
if sys.platform == "linux":
    from bench import __main__ as program
    from bench.document import BEGIN, END, insert, publish
    from bench.plan import Plan
    from bench.report import report
    from bench.scenarios import SCENARIOS
    from bench.servers import Contender, tutorial
    from bench.sockets import TlsSocket
    from bench.talk import LARGEST, Talker, frames_of
    from bench.targets import PEER_TARGETS, Sample

ROOT = Path(__file__).parent.parent


def quick(tmp_path: Path, *only: str) -> dict[str, Any]:
    """The medians of a quick run."""
    sizes = ["--sockets", "10", "--channels", "50"]
    command = [sys.executable, "-m", "bench", "--quick", *sizes, "--output", str(tmp_path / "out.json")]
    command += [word for name in only for word in ("--only", name)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())["medians"]
    return found


# Runs


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_reference_in_c_delivers(tmp_path: Path) -> None:
    """What one sends, all receive, in order: the load client has counted it."""
    figures = quick(tmp_path, "window-32", "c-loop")["window-32"]
    assert figures.keys() == {"c-loop"}
    assert figures["c-loop"]["deliveries_per_second"] > 0


@pytest.mark.timeout(120)
def test_many_channels_and_recovery_are_measured(redis_binary: str, tmp_path: Path) -> None:
    """Every message arrives; all clients recover what they missed, and the history is read at most twice a channel."""
    medians = quick(tmp_path, "many-channels", "recovery")
    spread, recovered = medians["many-channels"]["channels-pair"], medians["recovery"]["channels-pair"]
    assert spread["cost_ratio"] > 0
    assert spread["1_client_in_100_channels_cpu_us_per_delivery"] > 0
    assert 0 < recovered["reads_per_channel"] <= 2
    assert recovered["redis_commands"] >= 10


def test_publishing_is_counted_at_redis(redis_binary: str, tmp_path: Path) -> None:
    """Of the hub and of redis-py; both hear what they publish, or they end."""
    figures = quick(tmp_path, "publish")["publish"]
    assert figures.keys() == {"publish-hub", "publish-redis-py"}
    assert all(of["publishes_per_second"] > 10 for of in figures.values())


# Who runs


def test_without_peers_the_usual_is_run() -> None:
    """Three scenarios on four servers, and one on its own; what is mentioned replaces what is usual."""
    servers = ("hub", "hub-long", "channels", "tutorial")
    assert program.chosen((), peers=False) == [
        *((scenario, name) for scenario in ("window-1", "window-32") for name in servers),
        ("endpoints", "channels-pair"),
        *(("connections", name) for name in servers),
    ]
    assert program.chosen(("window-1", "hub", "nchan"), peers=False) == [("window-1", "hub"), ("window-1", "nchan")]
    assert program.chosen(("recovery",), peers=False) == [("recovery", "channels-pair")]


def test_with_peers_every_target_is_measured() -> None:
    """Each has its scenario and its servers among what is run; every scenario is, some of them more often."""
    runs = program.chosen((), peers=True)
    assert {scenario for scenario, _ in runs} == set(SCENARIOS)
    assert [runs.count((scenario, "hub")) for scenario in ("window-1", "window-32", "half-load")] == [2, 1, 2]
    for target in PEER_TARGETS:
        assert {(target.scenario, target.server), (target.scenario, target.against or target.server)} <= set(runs)


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And it is not run."""
    absent = Contender(title="absent", start=tutorial, missing=lambda: "absent: not installed; install it")
    monkeypatch.setitem(program.CONTENDERS, "nchan", absent)
    left_out: list[str] = []
    assert program.present([("window-1", "nchan"), ("window-1", "hub")], left_out) == [("window-1", "hub")]
    assert left_out == ["absent: not installed; install it"]
    assert "left out: absent: not installed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nchan", "tutorial"])
def test_who_does_not_hold_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer is left out, with the reason; without the tutorial there is nothing to compare with."""

    def start() -> Any:
        raise RuntimeError("under load: it lost a message")

    monkeypatch.setitem(program.CONTENDERS, name, Contender(title=name, start=start))
    left_out: list[str] = []
    run = program.run_all(Plan(repeats=1), [("window-1", name)], left_out)
    if name == "tutorial":
        with pytest.raises(RuntimeError, match="it lost a message"):
            list(run)
    else:
        assert list(run) == []
        assert left_out == ["nchan in window-1: under load: it lost a message"]


# How they are spoken to


def test_a_socket_io_client_is_let_in() -> None:
    """The packets of Engine.IO may come with the handshake; pings are answered; messages are events."""
    client, server = socket.socketpair()
    with client, server:
        server.sendall(b"\x81\x0e40{" + b'"sid":"abc"}')
        dialect = SocketIO()
        dialect.greet(client, b'\x81\x0d0{"sid":"abc"}')
        assert server.recv(4096) == client_frame(b"40")
    text = b'42["message","' + b"0" * PAYLOAD + b'"]'
    frame = head_of(len(text)) + text
    assert frame.startswith(dialect.head + b"0")
    assert len(frame) == dialect.frame
    assert dialect.reply(b"2") == client_frame(b"3")
    assert dialect.reply(b"41") is None


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_frames_have_the_shortest_length(size: int) -> None:
    """RFC 6455, 5.2: 7, 16 or 64 bits. A frame that is not all there is none."""
    frame = head_of(size) + b"x" * size
    assert len(frame) - size == (2 if size < 126 else 4 if size < 65536 else 10)
    assert frame_at(b"ab" + frame, 2) == (2 + len(frame) - size, 2 + len(frame))
    assert all(frame_at(frame[:end], 0) is None for end in range(min(len(frame), 12)))


def test_commands_are_packed_into_frames() -> None:
    """As many as a server takes in one frame, none twice."""
    commands = [{"id": number, "publish": {"channel": "c", "data": "." * 100}} for number in range(1000)]
    payloads = [frame[8:] for frame in frames_of(commands)]
    assert len(payloads) > 1
    assert all(len(payload) <= LARGEST for payload in payloads)
    assert [json.loads(line) for payload in payloads for line in payload.splitlines()] == commands


def test_a_refused_command_is_an_error() -> None:
    """Pushes and pings are passed over."""
    client, server = socket.socketpair()
    with client, server:
        for text in (b"{}", b'{"push":{"channel":"c"}}', b'{"id":1,"connect":{}}', b'{"id":2,"error":{"code":103}}'):
            server.sendall(head_of(len(text)) + text)
        talker = Talker(client)
        assert talker.hear(1) == [{"id": 1, "connect": {}}]
        with pytest.raises(ConnectionError, match="103"):
            talker.hear(1)


def test_the_end_of_a_conversation_is_an_error() -> None:
    """A close frame says why; a ping before it does not matter."""
    client, server = socket.socketpair()
    with client, server:
        server.sendall(b"\x89\x00" + b"\x88\x07\x0d\xad" + b"stale")
        with pytest.raises(ConnectionError, match="stale"):
            Talker(client).hear(1)


def test_a_tls_socket_empties_itself(tmp_path: Path) -> None:
    """What it holds already epoll would not tell: all records that have come are read at once."""
    certificate, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    trusting.sslsocket_class = TlsSocket
    near, far = socket.socketpair()
    data, sent = b"x" * 50_000, threading.Event()  # several records

    def serve() -> None:
        with context.wrap_socket(far, server_side=True) as server:
            server.sendall(data)
            sent.set()
            server.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    client = trusting.wrap_socket(near, server_hostname="127.0.0.1")
    try:
        assert sent.wait(10)
        client.setblocking(False)
        buffer = bytearray(100_000)
        assert client.recv_into(buffer) == len(data)
        assert buffer.startswith(data)
        with pytest.raises(BlockingIOError):
            client.recv_into(buffer)
    finally:
        client.setblocking(True)
        client.sendall(b".")
        thread.join(10)
        client.close()


# What is published


def test_plots_are_svg() -> None:
    """Well-formed, with a bar for each value and none for what was not measured; longer for more."""
    rows: dict[str, tuple[float | None, ...]] = {"a & b": (1000.0, 2_000_000.0), "c": (20_000.0, None)}
    for logarithmic in (False, True):
        text = draw(Bars(title="deliveries", series=("one", "many"), rows=rows, logarithmic=logarithmic))
        root = xml.etree.ElementTree.fromstring(text)
        drawn = [it for it in root.iter("{http://www.w3.org/2000/svg}rect") if it.get("height") == "12"]
        widths = [float(it.attrib["width"]) for it in drawn]
        assert len(widths) == 3
        assert 0 < widths[0] < widths[2] < widths[1] <= 860
    assert "a &amp; b" in text


def test_the_document_gets_tables_and_plots(tmp_path: Path) -> None:
    """Between its markers, with targets, versions and what was left out; the rest of it stays."""
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n{BEGIN}old\n{END}\nafter\n")
    samples = [
        Sample(scenario="window-1", server=server, figures={"deliveries_per_cpu_second": value})
        for server, value in (("hub", 300.0), ("tutorial", 100.0))
    ]
    result = report(samples, Plan(), PEER_TARGETS, {"nchan": {"nginx": "1.22"}}, ["ws: not installed\nand so on"])
    publish(result, {"hub": "the hub", "tutorial": "the tutorial"}, document)
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}")
    assert text.endswith(f"{END}\nafter\n")
    assert "| the hub | 300.00 |" in text
    assert "1 outstanding, hub / tutorial | 3.00 | at least 2 | reached |" in text
    assert "- nchan: nginx 1.22" in text
    assert "- left out: ws: not installed\n" in text
    assert "old" not in text
    assert "and so on" not in text
    assert "(plots/deliveries.svg)" in text
    assert (tmp_path / "plots" / "deliveries.svg").exists()


def test_a_document_without_a_place_is_an_error(tmp_path: Path) -> None:
    """It is not overwritten."""
    document = tmp_path / "other.md"
    document.write_text("nothing here\n")
    with pytest.raises(ValueError, match="has no place for the figures"):
        insert(document, "figures")
    assert document.read_text() == "nothing here\n"


def test_the_documentation_has_the_place() -> None:
    """`--document` can write into it."""
    before, begin, rest = (ROOT / "docs" / "benchmarks.md").read_text().partition(BEGIN)
    assert begin
    assert END in rest
    assert "## Measured" in before
