"""Secrets stay where they are: none is in a log, an error, a repr, a process title, or what anybody may read.

Every secret of the test is marked (`s3cr3t-…`), so that whatever holds a part of one is found.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from hub import Hub, Settings
from hub.errors import ConfigError
from hub.memory import MemoryBroker
from hub.pubsub import RedisBroker
from hub.tokens import TokenKeys, TokenVerifier
from tests.support.cluster import Proxy, running_nginx
from tests.support.command_line import command_line
from tests.support.needs import nginx
from tests.support.processes import children
from tests.support.redis import RedisProcess, running_redis
from tests.support.security_client import CHANNELS, Closed, PlainClient, plain_request
from tests.support.server import HubProcess, hub_serve

MARK = "s3cr3t"
REDIS, API, API2 = f"{MARK}-redis-password", f"{MARK}-api-key-number-one", f"{MARK}-api-key-number-two"
HMAC, PREVIOUS = f"{MARK}-hmac-secret-of-more-than-32-bytes", f"{MARK}-previous-secret-of-more-than-32-bytes"
STATIC, JWKS = f"{MARK}-static-token-of-clients", f"{MARK}-query-of-the-key-set"
ENVIRONMENT = {
    "HUB_API_KEY": f"{API},{API2}",
    "HUB_TOKEN": STATIC,
    "HUB_TOKEN_HMAC_SECRET_KEY": HMAC,
    "HUB_TOKEN_HMAC_PREVIOUS_SECRET_KEY": PREVIOUS,
    "HUB_TOKEN_JWKS_PUBLIC_ENDPOINT": f"http://127.0.0.1:9/keys?key={JWKS}",
}


def signed(secret: str = HMAC, algorithm: str = "HS256", **claims: Any) -> str:
    """A token whose very text is a secret."""
    return jwt.encode({"sub": "42", "exp": int(time.time()) + 600, "channels": [], **claims}, secret, algorithm)


def unsigned(**header: str) -> str:
    """The first part of a token."""
    return jwt.utils.base64url_encode(json.dumps(header).encode()).decode()


# What a client may show, good and bad.
TOKENS = {
    "good": signed(),
    "previous": signed(PREVIOUS),
    "static": STATIC,
    "wrong": signed("another secret, of more than 32 bytes"),
    "expired": signed(exp=1),
    "unknown key": f"{unsigned(alg='RS256', kid='x')}.e30.{MARK}AAAA",
    "nonsense": f"{MARK}.{MARK}.{MARK}",
    "nearly the static one": STATIC[:-1],
}
# The mark, and the signatures of the tokens: whoever has the rest of one can do nothing.
LEAKS = [MARK, *(token.rpartition(".")[2] for token in TOKENS.values() if token.startswith("ey"))]


def leaks(text: str | bytes, what: str) -> None:
    """Fail if a secret is in `text`."""
    found = text.decode(errors="replace") if isinstance(text, bytes) else text
    for leak in LEAKS:
        at = found.find(leak)
        assert at < 0, f"{what} has a secret: …{found[max(0, at - 200) : at + 80]}…"


class Deployment:
    """Redis with a password, a hub at its most talkative, nginx in front."""

    def __init__(self, hub: HubProcess, proxy: Proxy, redis: RedisProcess) -> None:
        self.hub, self.proxy, self.redis = hub, proxy, redis


@contextmanager
def deployed(redis_binary: str, log_format: str) -> Iterator[Deployment]:
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis(redis_binary, "--requirepass", REDIS))
        url = f"redis://:{REDIS}@127.0.0.1:{redis.port}/0"
        options = ("--log-level", "debug", "--log-format", log_format, "--workers", "2", "--drain", "0")
        hub = stack.enter_context(hub_serve(*options, env={**ENVIRONMENT, "REDIS_URL": url}))
        upstreams = dict.fromkeys(("hub1", "hub2", "hub3"), hub.port)
        yield Deployment(hub, stack.enter_context(running_nginx(nginx(), upstreams)), redis)


def clients(port: int) -> None:
    """Each token in each way in which a client can show it."""
    for token in TOKENS.values():
        for path in (f"/ws/room?token={token}", f"/ws?hello=1&token={token}", f"/echo?TOKEN={token}&token={token}"):
            with PlainClient(port, path) as raw:
                if raw.status == 101:
                    raw.say("hello")
                    leaks(repr(raw.hear()), path[:5])
                leaks(raw.head + raw.body, "the answer to a handshake")
        with PlainClient(port, f"{CHANNELS}?token={token}") as client:
            client.say(
                {"id": 1, "connect": {"token": token}}, {"id": 2, "subscribe": {"channel": "$x", "token": token}}
            )
            answer = client.hear()
            leaks(repr(answer), "the answer to connect")
            if isinstance(answer, Closed) or b'"error"' in answer:  # nothing follows
                continue
            client.say({"id": 3, "refresh": {"token": token}}, f'{{"id":4,"connect":{{"token":"{token}"', "nonsense")
            leaks(repr(client.hear()), "the answer to nonsense")
        headers = {"Authorization": f"Bearer {token}", "Cookie": f"token={token}", "Origin": "https://evil.example.org"}
        with PlainClient(port, CHANNELS, Sec_WebSocket_Protocol=f"token.{token}", **headers) as client:
            assert client.status == 403


def callers(port: int) -> None:
    """Keys, good and bad, in each way in which the API takes them; requests that fail with them."""
    bodies = (b'{"channel":"x","data":1}', b"{", b'{"channel":""}', f'{{"{MARK}x":1'.encode())
    for key in (API, API2, API[:-1], f"{MARK}-wrong"):
        for way in ({"X_API_Key": key}, {"Authorization": f"apikey {key}"}, {}):
            query = "" if way else f"?api_key={key}"
            for body in bodies[:3]:
                _, head, answer = plain_request(port, "POST", f"/api/publish{query}", body, **way)
                leaks(head + answer, "an answer of the API")
        for path in ("/metrics", "/health/ready", "/nowhere", "/openapi.json", "/docs", "/"):
            _, head, answer = plain_request(port, "GET", f"{path}?api_key={key}&token={key}", X_API_Key=key)
            leaks(head + answer, path)
    plain_request(port, "BAD METHOD", f"/api/publish?api_key={API}", X_API_Key=API)


def processes(hub: HubProcess) -> Iterator[tuple[str, str]]:
    """Titles and command lines of all processes of the hub; a worker's environment too."""
    for pid in (hub.pid, *children(hub.pid)):
        for name in ("cmdline", "comm"):
            yield f"{name} of {pid}", Path(f"/proc/{pid}/{name}").read_text()
    for pid in children(hub.pid, "hub.worker"):
        yield f"environment of worker {pid}", Path(f"/proc/{pid}/environ").read_text()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_deployment(redis_binary: str, log_format: str) -> None:
    """Clients and callers show every secret there is, Redis goes and comes; nothing that is written down has one."""
    with deployed(redis_binary, log_format) as all_:
        port = all_.hub.port if log_format == "text" else all_.proxy.port
        clients(port)
        callers(port)
        for what, text in processes(all_.hub):
            leaks(text, what)
        with all_.redis.client(password=REDIS) as redis:
            redis.client_kill_filter(_type="normal", skipme=True)
            redis.client_kill_filter(_type="pubsub")
            redis.config_set("requirepass", "another")
            redis.client_kill_filter(_type="normal", skipme=True)
        deadline = time.monotonic() + 10
        while "cannot connect" not in all_.hub.log and time.monotonic() < deadline:
            time.sleep(0.05)
        plain_request(all_.hub.port, "POST", "/api/publish", b'{"channel":"x","data":1}', X_API_Key=API)
        all_.hub.stop()
        plain_request(all_.proxy.port, "GET", f"/ws/room?token={STATIC}")
        assert "cannot connect" in all_.hub.log
        leaks(all_.hub.log, "the log")
        leaks(all_.proxy.access_log, "nginx' access log")
        leaks(all_.proxy.error_log, "nginx' error log")
        assert "/ws/room" in all_.proxy.access_log  # it is the log, and it does log


BAD = {
    "REDIS_URL": [
        f"http://:{REDIS}@h/0", f"redis://:{REDIS}/x@h:6379/0", f"redis://:{REDIS}@h:{REDIS}/0", f"redis://:{REDIS}@h/0?{REDIS}=1",
        f"redis://:{REDIS}@[h/0", f"redis+sentinel://:{REDIS}@h", f"redis+sentinel://:{REDIS}@h:x/m", f"rediss://:{REDIS}@h/0?ssl_cert_reqs={REDIS}",
    ],
    "HUB_API_KEY": [f"{API}\x00", f"ä{API}"],
    "HUB_TOKEN_HMAC_SECRET_KEY": [f"-----BEGIN PUBLIC KEY-----\n{HMAC}\n-----END PUBLIC KEY-----", f"ssh-rsa {HMAC}"],
    "HUB_TOKEN_RSA_PUBLIC_KEY": [f"-----BEGIN PUBLIC KEY-----\n{HMAC}\n-----END PUBLIC KEY-----", HMAC],
    "HUB_TOKEN_ECDSA_PUBLIC_KEY": [HMAC],
    "HUB_TOKEN_JWKS_PUBLIC_ENDPOINT": [f"https://user:{JWKS}@h/keys", f"https://[{JWKS}", f"file:///{JWKS}"],
    "HUB_TOKEN_HMAC_PREVIOUS_SECRET_KEY_VALID_UNTIL": [f"{MARK}"],
    "HUB_NAMESPACES": [f'{{"x": "{MARK}'],
    "HUB_PORT": [MARK],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_values_that_cannot_be_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value is told by its setting's name and never cited: it may be a secret in the wrong place."""
    for known in ("HUB_CONFIG", "REDIS_URL", *ENVIRONMENT):
        monkeypatch.delenv(known, raising=False)
    for value in BAD[name]:
        if "\x00" not in value:
            monkeypatch.setenv(name, value)
        else:
            continue
        try:
            hub = Hub(Settings.load())
        except ConfigError as error:
            leaks(repr(error) + "".join(traceback.format_exception(error)), name)
        else:
            leaks(repr(hub) + repr(hub.settings) + repr(hub.broker), name)


def everything(settings: Settings) -> Iterator[tuple[str, object]]:
    """Whatever of a hub may end in a log line or in a debugger's window."""
    hub = Hub(settings, broker=MemoryBroker())
    yield "settings", settings
    yield "dump", settings.model_dump()
    yield "JSON", settings.model_dump_json()
    yield "hub", hub
    yield "wire", settings.wire()
    yield "keys", hub.authority._tokens._keys
    yield "each key", hub.authority._tokens._lasting
    yield "verifier", hub.authority._tokens
    yield "authority", hub.authority
    yield "admission", hub._admission
    yield "token keys", TokenKeys(hmac_secret=HMAC, hmac_previous_secret=PREVIOUS)
    yield "broker", RedisBroker(f"redis://:{REDIS}@127.0.0.1:1/0")
    yield "broker's name", RedisBroker(f"redis://user:{REDIS}@127.0.0.1:1/0").name


def test_reprs() -> None:
    """No repr, dump or name of anything shows a secret."""
    environment = {name.removeprefix("HUB_").lower(): value for name, value in ENVIRONMENT.items()}
    del environment["token_jwks_public_endpoint"]  # not a secret by its name; see test_the_key_sets_address
    settings = Settings(**environment, redis_url=f"redis://:{REDIS}@127.0.0.1:1/0")
    for what, value in everything(settings):
        leaks(repr(value), what)
        leaks(str(value), what)


async def test_the_reason_of_a_bad_token() -> None:
    """What the log says of a token that was refused has no part of the token, and no key."""
    verifier = TokenVerifier(TokenKeys(hmac_secret=HMAC))
    for what, token in TOKENS.items():
        try:
            await verifier.connection(token)
        except Exception as error:
            leaks(repr(error), what)


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`hub config check` of a good and of a bad file, and commands that find no hub."""
    run = command_line(monkeypatch, capsys)
    path = tmp_path / "hub.toml"
    lines = [f'{name.removeprefix("HUB_").lower()} = "{value}"' for name, value in ENVIRONMENT.items()]
    path.write_text("\n".join([*lines, f'redis_url = "redis://:{REDIS}@h/0"']))
    for extra in ("", f'\nport = "{MARK}"', f"\n[namespaces.x]\nhistory_size = '{MARK}'", f"\nport = {REDIS}"):
        path.write_text(path.read_text() + extra)
        status, out, err = run("config", "check", str(path))
        leaks(out + err, "hub config check")
        assert status == (2 if extra else 0)
    for arguments in (["info"], ["publish", "room", "hello"]):
        status, out, err = run(*arguments, "--url", "http://127.0.0.1:9", "--api-key", API)
        assert status == 1
        leaks(out + err, arguments[0])
    status, out, err = run("serve", "--redis-url", f"http://:{REDIS}@h/0")
    assert status == 2
    leaks(out + err, "hub serve")


def test_pages() -> None:
    """What the repository shows to everybody has no secret of an old test, and no private key."""
    root = Path(__file__).parents[2]
    files = [path for path in root.glob("deploy/**/*") if path.is_file()]
    for path in (*root.glob("docs/*.md"), *root.glob("*.md"), *files, *root.glob("hub/**/*.py")):
        text = path.read_text()
        assert MARK not in text, path
        assert not re.search(r"BEGIN (RSA |EC )?PRIVATE KEY", text), path


def test_a_crash_tells_nothing() -> None:
    """A fault that nobody catches prints a traceback; even that has no secret, because no frame's values are in it."""
    code = "import os\nfrom hub import Hub, Settings\nhub = Hub(Settings.load())\nraise RuntimeError(repr(hub))"
    environment = {**ENVIRONMENT, "REDIS_URL": f"redis://:{REDIS}@127.0.0.1:1/0", "PATH": "/usr/bin"}
    with tempfile.TemporaryDirectory() as folder:
        root = str(Path(__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, cwd=folder, env={**environment, "PYTHONPATH": root}
        )
    assert b"RuntimeError" in done.stderr
    leaks(done.stdout + done.stderr, "a traceback")
