"""Whatever one client says, it gets the documented answer, and a bystander on the same worker misses nothing.

The bystander hears a number every few milliseconds through all of it; at the end of each test he must have heard all of
them, in order and on the connection that he began with.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from hub.errors import Disconnects, Errors, table
from tests.sdk.session import token
from tests.support import garbage
from tests.support.centrifuge import PATH, Client, Json, client, connected
from tests.support.server import HubProcess, hub_serve

pytestmark = pytest.mark.timed

MAX_MESSAGE_SIZE = 65536

# Tokens are asked for, nobody may do what is not allowed here.
CONFIG = """
token_hmac_secret_key = "secret"
allow_anonymous_connect_without_token = true
client_channel_limit = 5
api_key = "key"
drain = 0.0

[without_namespace]
presence = true
join_leave = true
force_push_join_leave = true
history_size = 100
history_ttl = "300s"
force_recovery = true
allow_tags_filter = true
allowed_delta_types = ["fossil"]
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
allow_publish_for_subscriber = true
allow_publish_for_anonymous = true
allow_presence_for_client = true
allow_history_for_subscriber = true

[namespaces.closed]
presence = true
history_size = 10
history_ttl = "60s"

[namespaces.members]
presence = true
history_size = 10
history_ttl = "60s"
allow_subscribe_for_client = true
allow_publish_for_client = true
allow_presence_for_client = true
allow_history_for_client = true

[namespaces.readers]
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
channel_regex = "^[a-z]+$"
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """One worker, so that everybody is on the same."""
    path: Path = tmp_path_factory.mktemp("malformed") / "hub.toml"
    path.write_text(CONFIG)
    with hub_serve("--workers", "1", "--config", str(path)) as process:
        yield process


@pytest.fixture(autouse=True)
def _clean_log(hub: HubProcess) -> Iterator[None]:
    """No fault is logged, and the worker is not another one."""
    before = hub.log
    yield
    added = hub.log[len(before) :]
    assert "Traceback" not in added
    assert not re.search(r"\b(ERROR|CRITICAL)\b|unexpected fault", added), added


class Bystander:
    """Hears numbers all the time."""

    def __init__(self, listener: Client, http: httpx2.AsyncClient) -> None:
        self._listener = listener
        self._http = http
        self._count = 0
        self._longest = 0.0
        self._over = False
        self._talking = asyncio.create_task(self._talk())

    async def _talk(self) -> None:
        """Three times at least."""
        while self._count < 3 or not self._over:
            start = time.monotonic()
            self._count += 1
            answer = await self._http.post("publish", json={"channel": "bystander", "data": self._count})
            assert answer.json()["result"]["offset"]
            await self._listener.push("bystander", "pub", self._count)
            self._longest = max(self._longest, time.monotonic() - start)
            await asyncio.sleep(0.005)

    async def has_heard_all(self) -> None:
        """And is still there, without any of it having taken long."""
        self._over = True
        await self._talking
        heard = [publication["data"] for publication in self._listener.pushes("bystander", "pub")]
        assert heard == list(range(1, self._count + 1))
        assert self._listener.end is None
        assert self._longest < 2


@asynccontextmanager
async def bystanding(hub: HubProcess) -> AsyncIterator[Bystander]:
    headers = {"X-API-Key": "key"}
    async with (
        connected(hub.ws_url, token=token(sub="bystander")) as listener,
        httpx2.AsyncClient(base_url=f"{hub.url}/api/", headers=headers, trust_env=False) as http,
    ):
        await listener.ask("subscribe", channel="bystander")
        bystander = Bystander(listener, http)
        yield bystander
        await bystander.has_heard_all()


@pytest.fixture
async def bystander(hub: HubProcess) -> AsyncIterator[Bystander]:
    async with bystanding(hub) as everything:
        yield everything


# Sizes


def padded(size: int) -> str:
    """An rpc command of exactly this many bytes."""
    empty = '{"id":2,"rpc":{"data":""}}'
    return empty.replace('""', '"' + "x" * (size - len(empty)) + '"')


async def test_frames_up_to_the_limit(hub: HubProcess, bystander: Bystander) -> None:
    """64 KiB are handled; a byte more is 1009, in one frame, in fragments, or announced by the header alone."""
    async with connected(hub.ws_url) as good:
        await good.send(padded(MAX_MESSAGE_SIZE))
        assert (await good.reply(2))["error"]["code"] == 108
        await good.send(padded(MAX_MESSAGE_SIZE + 1))
        code, reason = await good.closed()
        assert code == 1009
        assert reason


async def test_a_message_that_grows_in_fragments(hub: HubProcess, bystander: Bystander) -> None:
    """1009 as soon as it is too large."""
    async with connected(hub.ws_url) as bad:
        await bad.send_fragments("x" * 1000 for _ in range(100))
        assert (await bad.closed())[0] == 1009


async def test_text_that_is_not_utf8(hub: HubProcess, bystander: Bystander) -> None:
    """1007 from the WebSocket layer for a text frame; 3501 for a binary one, whose JSON it is not."""
    async with connected(hub.ws_url) as text, connected(hub.ws_url) as binary:
        await text.send_as_text(b'{"id":2,"rpc":{"data":"\xff"}}')
        await binary.send(b'{"id":2,"rpc":{"data":"\xff"}}')
        assert (await text.closed())[0] == 1007
        assert await binary.closed() == (3501, "bad request")


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param("[" * 60000, id="nested arrays"),
        pytest.param('{"a":' * 10000, id="nested objects"),
        pytest.param('{"id":2,"publish":{"channel":"a","data":' + "[" * 50000 + "]" * 5000 + "}}", id="nested data"),
        pytest.param('{"id":2,"rpc":{"data":' + "9" * 60000 + "}}x", id="a long number"),
        pytest.param("\n" * 60000, id="blank lines"),
        pytest.param('{"id":2,"connect":{"name":"' + "x" * 100 + '"}}', id="a second connect, too long"),
    ],
)
async def test_frames_that_are_hard_to_read(hub: HubProcess, bystander: Bystander, frame: str) -> None:
    """3501, quickly."""
    async with connected(hub.ws_url) as bad:
        await bad.send(frame)
        assert await bad.closed() == (3501, "bad request")


async def test_a_frame_of_thousands_of_commands(hub: HubProcess, bystander: Bystander) -> None:
    """Each is answered, in the order in which they were asked."""
    count = 1800
    async with connected(hub.ws_url) as eager:
        await eager.send("\n".join(f'{{"id":{number},"rpc":{{"method":"m"}}}}' for number in range(2, count)))
        await eager.reply(count - 1)
        assert [message["id"] for message in eager.received[1:]] == list(range(2, count))


# Tokens


@pytest.mark.parametrize(
    ("claims", "end"),
    [
        pytest.param({"sub": "1", "exp": 1}, "error 109", id="expired"),
        pytest.param({"sub": "1", "nbf": 2**32 - 1}, "error 109", id="not valid yet"),
        pytest.param({"sub": "1", "exp": "soon"}, "close 3500", id="an exp that is a text"),
        pytest.param({"sub": ["1"]}, "close 3500", id="a sub that is a list"),
        pytest.param({"sub": "1", "channels": "x"}, "close 3500", id="channels that are none"),
        pytest.param({"sub": "1", "subs": {"x": 1}}, "close 3500", id="subs that are none"),
        pytest.param({"sub": "1", "channel": "x"}, "close 3500", id="of a subscription"),
        pytest.param({"sub": "1", "channels": ["unknown:x"]}, "error 102", id="channels of an unknown namespace"),
    ],
)
async def test_connection_tokens(hub: HubProcess, bystander: Bystander, claims: Json, end: str) -> None:
    """Each has its answer."""
    async with client(hub.ws_url) as bad:
        number = await bad.command("connect", token=token(**claims))
        if end.startswith("close"):
            assert await bad.closed() == (3500, "invalid token")
        else:
            assert f"error {(await bad.reply(number))['error']['code']}" == end


@pytest.mark.parametrize(
    ("claims", "end"),
    [
        pytest.param({"channel": "$x", "exp": 1}, "error 109", id="expired"),
        pytest.param({"channel": "$y"}, "close 3500", id="of another channel"),
        pytest.param({"channel": "$x", "sub": "2"}, "close 3500", id="of another user"),
        pytest.param({"channel": "$x", "client": "c"}, "close 3500", id="of another client"),
        pytest.param({"channel": 7}, "error 103", id="a channel that is a number"),
        pytest.param({}, "error 103", id="without a channel"),
    ],
)
async def test_subscription_tokens(hub: HubProcess, bystander: Bystander, claims: Json, end: str) -> None:
    """A token that is none refuses the command, one of somebody else ends the connection."""
    async with connected(hub.ws_url, token=token(sub="1")) as bad:
        number = await bad.command("subscribe", channel="$x", token=token(**{"sub": "1", **claims}))
        if end.startswith("close"):
            assert await bad.closed() == (3500, "invalid token")
        else:
            assert f"error {(await bad.reply(number))['error']['code']}" == end


async def test_without_the_right_key(hub: HubProcess, bystander: Bystander) -> None:
    """A signature by another key: 3500 for the connection, 103 for a subscription."""
    forged = token(sub="1").rpartition(".")[0] + ".AAAA"
    async with client(hub.ws_url) as bad:
        await bad.command("connect", token=forged)
        assert await bad.closed() == (3500, "invalid token")
    async with connected(hub.ws_url, token=token(sub="1")) as bad:
        forged = token(sub="1", channel="$x").rpartition(".")[0] + ".AAAA"
        assert (await bad.ask("subscribe", channel="$x", token=forged))["error"]["code"] == 103


# Permissions


@pytest.mark.parametrize(
    ("command", "fields", "anonymous", "member"),
    [
        pytest.param("subscribe", {"channel": "closed:x"}, 103, 103, id="subscribe, allowed to nobody"),
        pytest.param("subscribe", {"channel": "members:x"}, 103, 0, id="subscribe, allowed to users"),
        pytest.param("subscribe", {"channel": "$x"}, 103, 103, id="subscribe, with a token only"),
        pytest.param("subscribe", {"channel": "dialog#7"}, 103, 103, id="subscribe, other users only"),
        pytest.param("subscribe", {"channel": "dialog#1,7"}, 103, 0, id="subscribe, this user too"),
        pytest.param("subscribe", {"channel": "nobody:x"}, 102, 102, id="subscribe, unknown namespace"),
        pytest.param("subscribe", {"channel": "readers:X"}, 102, 102, id="subscribe, name not allowed"),
        pytest.param("subscribe", {"channel": "x\u0000"}, 107, 107, id="subscribe, control character"),
        pytest.param("publish", {"channel": "closed:x", "data": 1}, 103, 103, id="publish, allowed to nobody"),
        pytest.param("publish", {"channel": "members:x", "data": 1}, 103, 0, id="publish, allowed to users"),
        pytest.param("publish", {"channel": "outside", "data": 1}, 103, 103, id="publish, not subscribed"),
        pytest.param("publish", {"channel": "readers:x", "data": 1}, 103, 103, id="publish, readers"),
        pytest.param("presence", {"channel": "closed:x"}, 103, 103, id="presence, allowed to nobody"),
        pytest.param("presence", {"channel": "members:x"}, 103, 0, id="presence, allowed to users"),
        pytest.param("presence_stats", {"channel": "closed:x"}, 103, 103, id="presence_stats, allowed to nobody"),
        pytest.param("presence", {"channel": "readers:x"}, 108, 108, id="presence, off"),
        pytest.param("history", {"channel": "closed:x"}, 103, 103, id="history, allowed to nobody"),
        pytest.param("history", {"channel": "members:x"}, 103, 0, id="history, allowed to users"),
        pytest.param("history", {"channel": "outside"}, 103, 103, id="history, not subscribed"),
        pytest.param("history", {"channel": "readers:x"}, 108, 108, id="history, off"),
    ],
)  # fmt: skip
async def test_permissions(
    hub: HubProcess, bystander: Bystander, command: str, fields: Json, anonymous: int, member: int
) -> None:
    """Of somebody without a user id, and of user 1; what is refused is refused in both connections' own reply."""
    for code, sender in ((anonymous, ""), (member, token(sub="1"))):
        async with connected(hub.ws_url, token=sender) as opened:
            result = await opened.ask(command, **fields)
            assert result.get("error", {}).get("code", 0) == code
            assert opened.end is None


async def test_more_channels_than_allowed(hub: HubProcess, bystander: Bystander) -> None:
    """Error 106, and those before it stay; after leaving one there is room again."""
    async with connected(hub.ws_url) as greedy:
        results = [await greedy.ask("subscribe", channel=f"c{number}") for number in range(6)]
        assert [result.get("error", {}).get("code") for result in results] == [None] * 5 + [106]
        await greedy.ask("unsubscribe", channel="c0")
        assert "error" not in await greedy.ask("subscribe", channel="c6")


async def test_more_server_side_channels_than_allowed(hub: HubProcess, bystander: Bystander) -> None:
    """3505: the token promises what the hub does not give."""
    async with client(hub.ws_url) as greedy:
        await greedy.command("connect", token=token(sub="1", channels=[f"c{number}" for number in range(6)]))
        assert await greedy.closed() == (3505, "channel limit")


async def test_many_at_once(hub: HubProcess, bystander: Bystander) -> None:
    """Hundreds of bad clients, each with another fault, while the bystander listens."""
    bad = [
        "x", "{}", '{"id":1}', '{"id":1,"connect":{"token":"x"}}', '{"id":1,"connect":{}}\n{"id":1,"connect":{}}',
        '{"id":1,"connect":{}}\n{"send":{"data":1}}', '{"id":1,"connect":{}}\n{"id":2,"subscribe":{}}',
    ]  # fmt: skip

    async def one(frame: str) -> int:
        async with client(hub.ws_url) as opened:
            await opened.send(frame)
            code, reason = await opened.closed()
            assert reason
            return code

    codes = await asyncio.gather(*(one(frame) for _ in range(40) for frame in bad))
    assert codes == [3501, 3501, 3501, 3500, 3501, 3508, 3501] * 40


# Garbage


# What may end a connection that says anything at all; and what may be said in an error reply.
ENDS = {
    *((each.code, each.reason) for each in (Disconnects.BAD_REQUEST, Disconnects.INVALID_TOKEN)),
    *((each.code, each.reason) for each in (Disconnects.NOT_AVAILABLE, Disconnects.TOO_BIG)),
}
ERRORS = {(value.code, value.message) for _, value in table(Errors)} - {(100, Errors.INTERNAL.message)}
PUSHES = {"pub", "join", "leave", "unsubscribe"}
RESULTS = {*garbage.NAMES} - {"ping", "foo", "send"}
SENTINEL = 2**32 - 1


def answers(socket: ClientConnection) -> list[Json] | tuple[int, str]:
    """All until the answer to the last command, or how it ended."""
    messages: list[Json] = []
    try:
        while True:
            for line in str(socket.recv(10)).split("\n"):
                messages.append(json.loads(line))
            if any(message.get("id") == SENTINEL for message in messages):
                return messages
    except ConnectionClosed:
        check_messages(messages)
        return socket.protocol.close_code or 0, socket.protocol.close_reason or ""


def check_messages(messages: list[Json]) -> None:
    """Replies with a result or a documented error, pushes of known kinds; nothing else."""
    for message in messages:
        if "push" in message:
            assert message["push"].keys() - {"channel"} <= PUSHES, message
            continue
        number, kinds = message.pop("id"), set(message)
        assert isinstance(number, int)
        assert number > 0
        assert len(kinds) == 1, message
        if kinds == {"error"}:
            error = message["error"]
            assert (error["code"], error["message"]) in ERRORS, message
        else:
            assert kinds <= RESULTS, message


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.booleans(), frames=st.lists(garbage.frames, min_size=1, max_size=3))
def test_garbage(hub: HubProcess, first: bool, frames: list[str | bytes]) -> None:
    """Before `connect` or after it: documented replies, or a documented close; the worker is there for the next."""
    with connect(hub.ws_url + PATH, proxy=None, ping_interval=None) as socket:
        if not first:
            socket.send('{"id":1,"connect":{}}')
        try:
            for frame in frames:
                socket.send(frame)
            socket.send(f'{{"id":{SENTINEL},"rpc":{{"method":"none"}}}}')
        except ConnectionClosed:
            pass
        result = answers(socket)
    if isinstance(result, tuple):
        assert result in ENDS
    else:
        check_messages(result)


async def test_garbage_beside_a_bystander(hub: HubProcess) -> None:
    """The same, from a thread that does not stop, while the bystander hears all he should."""
    async with bystanding(hub):
        before = hub.log
        await asyncio.to_thread(test_garbage, hub)
        assert hub.log.count("ended with status") == before.count("ended with status") == 0
