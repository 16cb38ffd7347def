"""The hub with a Redis that trusts nobody: a password, a user who may do only what the hub needs, TLS.

The rule of the user is the one that docs/security.md tells; it is read from there.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from hub import Hub, Settings
from hub.errors import BrokerUnavailable
from hub.redis_link import open_link, private_pool
from tests.support.certificate import self_signed
from tests.support.redis import RedisProcess, running_redis
from tests.support.security_client import Closed, PlainClient
from tests.support.security_hub import api, guarded_hub, token
from tests.support.security_tls import tls_in_front
from tests.support.server import HubProcess
from tests.support.waiting import eventually

PAGE = Path(__file__).parents[2] / "docs/security.md"
PASSWORD = "marked-redis-password"
ADMIN = "the-administrators-password"


def documented_rule() -> list[str]:
    """The words of `ACL SETUSER hub …` on the page, with this test's password."""
    found = re.search(r"^redis-cli ACL SETUSER hub (.*?)\n```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return shlex.split(found[1].replace("\\\n", " ").replace("a-long-password", PASSWORD))


def use_everything(hub: HubProcess) -> None:
    """Each thing for which the hub needs Redis: publish, history, recovery, presence, control, idempotency."""
    with PlainClient(hub.port) as client:
        client.say({"id": 1, "connect": {"token": token()}}, {"id": 2, "subscribe": {"channel": "news:open"}})
        joined = client.answer(2)
        assert not isinstance(joined, Closed)
        assert "subscribe" in joined, joined
        publications = [
            {"channel": "news:open", "data": 1},
            {"channel": "news:open", "data": 2, "idempotency_key": "k"},
        ]
        for fields in (*publications, publications[1], {"channel": "news:open", "data": 3, "version": 7}):
            api(hub, "publish", **fields)
        api(hub, "publish", channel="plain", data=1, idempotency_key="k")
        for number, command in enumerate(("publish", "history", "presence", "presence_stats", "unsubscribe"), 3):
            fields = {"data": {}} if command == "publish" else {"limit": 10} if command == "history" else {}
            client.say({"id": number, command: {"channel": "news:open", **fields}})
            answer = client.answer(number)
            assert not isinstance(answer, Closed)
            assert "error" not in answer, (command, answer)
    wish = {"channel": "news:open", "recover": True, "offset": 1, "epoch": joined["subscribe"]["epoch"]}
    with PlainClient(hub.port) as client:
        client.say({"id": 1, "connect": {"token": token()}}, {"id": 2, "subscribe": wish})
        answer = client.answer(2)
        assert not isinstance(answer, Closed)
        assert len(answer["subscribe"]["publications"]) == 3
    assert api(hub, "history_remove", channel="news:open") == {}
    assert len(api(hub, "info")["nodes"]) == 1
    with PlainClient(hub.port, "/ws/room") as raw:
        raw.say("hello")
        assert raw.hear() == b"hello"


@contextmanager
def guarded_redis(binary: str, *options: str) -> Iterator[RedisProcess]:
    with running_redis(binary, "--requirepass", ADMIN, *options) as server:
        yield server


class Nobody:
    """Owns a link, and does nothing with it."""

    def on_reply(self, reply: Any) -> None: ...

    def on_lost(self, cause: Exception | None) -> None: ...


async def log_in(url: str) -> str:
    """What the hub says of a Redis that does not let it in; empty if it does."""
    try:
        link = await open_link(private_pool(url, 3.0, "test"), Nobody(), 3.0)
    except BrokerUnavailable as error:
        return str(error)
    link.abort()
    await asyncio.sleep(0)
    return ""


async def test_a_password(redis_binary: str) -> None:
    """`requirepass`, as it has always been; who has it not is told so, in words that do not cite the wrong one."""
    with guarded_redis(redis_binary) as redis:
        address = f"127.0.0.1:{redis.port}/0"
        assert await log_in(f"redis://:{ADMIN}@{address}") == ""
        assert await log_in(f"redis://default:{ADMIN}@{address}") == ""
        for credentials in ("", f":{PASSWORD}@", f"hub:{PASSWORD}@", f"{PASSWORD}:x@"):
            said = await log_in(f"redis://{credentials}{address}")
            assert re.search("NOAUTH|WRONGPASS|[Aa]uthentication|username-password", said), said
            assert PASSWORD not in said


def test_a_user_with_the_documented_rule(redis_binary: str) -> None:
    """It is enough for everything that the hub does, the rest is closed, and no part of it is superfluous."""
    with guarded_redis(redis_binary) as redis, redis.client(password=ADMIN) as admin:
        admin.execute_command("ACL", "SETUSER", "hub", *documented_rule())
        admin.execute_command("ACL", "LOG", "RESET")
        with guarded_hub(f"redis://hub:{PASSWORD}@127.0.0.1:{redis.port}/1") as hub:
            use_everything(hub)
            assert hub.status("/health/ready") == 200
            assert "NOPERM" not in hub.log
            assert PASSWORD not in hub.log
        assert admin.execute_command("ACL", "LOG") == []
        refused = forbidden(redis)
    assert refused == []


async def test_consumers_need_more(redis_binary: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without it a worker is not ready and says why; when it is allowed they hear, and nothing has to be restarted."""
    with guarded_redis(redis_binary) as redis, redis.client(password=ADMIN) as admin:
        admin.execute_command("ACL", "SETUSER", "hub", *documented_rule())
        hub = Hub(Settings.load(redis_url=f"redis://hub:{PASSWORD}@127.0.0.1:{redis.port}/1"))
        chat = hub.channel("chat:{room}", str)
        heard: list[str] = []

        @chat.on_message()
        async def note(text: str) -> None:
            heard.append(text)

        async with hub:
            await eventually(lambda: "Redis refused a subscription command" in caplog.text)
            await hub.publish("chat:a", "unheard")
            assert not hub.ready
            more = ("+psubscribe", "&hub:channel:chat:*", "&hub:channel:$chat:*")
            admin.execute_command("ACL", "SETUSER", "hub", *more)
            await eventually(lambda: hub.ready)
            await hub.publish("chat:a", "hi")
            await eventually(lambda: heard == ["hi"])


FORBIDDEN = """\
KEYS *
SCAN 0
RANDOMKEY
FLUSHALL
FLUSHDB
SWAPDB 0 1
CONFIG GET *
ACL LIST
MONITOR
SHUTDOWN
REPLICAOF NO ONE
MIGRATE h 1 k 0 1
MODULE LIST
CLIENT LIST
CLIENT KILL TYPE normal
BGSAVE
SCRIPT FLUSH
FUNCTION LIST
PSUBSCRIBE *
GET other
SET other x
DEL other
HGETALL other:presence
PUBLISH other x
SUBSCRIBE other
GET hubx
SET hub2:x y
PUBLISH hub2:channel:x y"""


def forbidden(redis: RedisProcess) -> list[str]:
    """What the hub's user may do and should not."""
    allowed = []
    with redis.client(username="hub", password=PASSWORD) as client:
        for line in FORBIDDEN.splitlines():
            try:
                client.execute_command(*line.split())
            except redis_py.exceptions.NoPermissionError:
                continue
            allowed.append(line)
        for keys in ("other", "hub2:x"):
            try:
                client.eval("return redis.call('GET', KEYS[1])", 1, keys)
            except (redis_py.exceptions.NoPermissionError, redis_py.exceptions.ResponseError):
                continue
            allowed.append(f"EVAL with {keys}")
    return allowed


def test_no_part_of_the_rule_is_superfluous(redis_binary: str) -> None:
    """Each command that it allows is one that the hub sends, directly or in a script."""
    root = Path(__file__).parents[2] / "hub"
    sources = "".join(
        path.read_text() for path in (*root.glob("redis_*.py"), root / "pubsub.py", *root.glob("lua/*.lua"))
    )
    sent = {word.lower() for word in re.findall(r"['\"]([A-Z]{3,}[A-Z]*)['\"]", sources)}
    # By redis-py, at the beginning of a connection.
    sent |= {"auth", "client|setname", "client|setinfo", "select", "script|load", "hello"}
    allowed = {word[1:] for word in documented_rule() if word.startswith("+")}
    assert allowed - sent == set()


@contextmanager
def redis_with_tls(binary: str, folder: Path) -> Iterator[tuple[int, Path]]:
    """A port that speaks nothing but TLS, and the certificate that a client must trust."""
    certificate, key = self_signed(folder)
    with guarded_redis(binary) as redis, tls_in_front(redis.port, certificate, key) as port:
        yield port, certificate


def test_tls(redis_binary: str, tmp_path: Path) -> None:
    """`rediss://` with a certificate authority of one's own, `ssl_ca_certs` in the URL, and a password."""
    with redis_with_tls(redis_binary, tmp_path) as (port, certificate):
        with guarded_hub(f"rediss://:{ADMIN}@127.0.0.1:{port}/0?ssl_ca_certs={certificate}") as hub:
            use_everything(hub)
            assert ADMIN not in hub.log


async def test_tls_with_nobody_to_trust(redis_binary: str, tmp_path: Path) -> None:
    """A certificate that nobody vouches for is refused, and so is one for another name; the password stays here."""
    with redis_with_tls(redis_binary, tmp_path) as (port, certificate):
        for address in (f"127.0.0.1:{port}/0", f"localhost:{port}/0?ssl_ca_certs={certificate}"):
            said = await log_in(f"rediss://:{ADMIN}@{address}")
            assert "certificate" in said.lower()
            assert ADMIN not in said
        assert await log_in(f"rediss://:{ADMIN}@127.0.0.1:{port}/0?ssl_ca_certs={certificate}") == ""
