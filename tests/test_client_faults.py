"""A protocol client that does wrong, or to which something goes wrong: what it is told of it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from hub.authority import Asker
from hub.client import LINGER
from hub.errors import BrokerUnavailable, Disconnects
from hub.memory import MemoryBroker
from hub.namespaces import ChannelOptions
from hub.protocol.session import State
from hub.tokens import sign
from tests.support.clock import in_virtual_time, unix_time  # noqa: F401
from tests.support.protocol_clients import SECRET, Json, about, connect, world


@in_virtual_time
async def test_nothing_is_handled_after_the_end() -> None:
    """Also where the connection tells of its end later: a frame whose first command is bad does nothing."""
    async with world(client_insecure=True) as w:
        session = w.open(at_once=False)
        session.say(connect())
        await asyncio.sleep(0.1)
        watcher = await w.connected()
        await watcher.ask(2, subscribe={"channel": "a"})
        session.say({"id": 2, "ping": {}}, about(3, "publish", "a", data=1))
        await asyncio.sleep(0.1)
        assert session.closed is Disconnects.BAD_REQUEST
        assert watcher.pushes("pub") == []
        assert session.client.state is State.OPEN
        for one in (session, watcher):
            one.client.on_close(1000, "")
        await w.nothing_is_left()


@in_virtual_time
async def test_a_refused_connect_leaves_the_client_to_read_why() -> None:
    """Error 109, nothing of what was sent with it is answered or done, and the end comes after a while."""
    async with world() as w:
        session = w.open()
        session.say(connect(sign({"sub": "1", "exp": 1}, SECRET)), about(2, "subscribe", "a"))
        await asyncio.sleep(0.1)
        assert session.received == [{"id": 1, "error": {"code": 109, "message": "token expired"}}]
        assert session.closed is None
        await asyncio.sleep(LINGER + 0.5)
        assert session.closed is Disconnects.CONNECTION_CLOSED
        again = w.open()
        again.say(connect(sign({"sub": "1", "exp": 1}, SECRET)))
        await asyncio.sleep(0.1)
        again.say(about(2, "subscribe", "a"))
        assert again.closed is Disconnects.BAD_REQUEST
        await w.nothing_is_left()


@in_virtual_time
async def test_a_refused_connect_is_in_no_channel() -> None:
    """If one server-side subscription cannot be made, the others end at once, not when the connection does."""
    async with world() as w:
        session = w.open()
        session.say(connect(sign({"sub": "1", "channels": ["chat:a", "unknown:b"]}, SECRET)))
        await asyncio.sleep(0.1)
        assert session.received == [{"id": 1, "error": {"code": 102, "message": "unknown channel"}}]
        assert session.client.state is State.REFUSED
        assert w.hub.registry.channels == {}
        assert len(w.hub.clients) == 0
        assert await w.hub.broker.presence.stats("chat:a") == (0, 0)
        session.client.on_close(1006, "")
        await w.nothing_is_left()


@in_virtual_time
async def test_a_fault_of_the_hub_answers_its_command_only(caplog: pytest.LogCaptureFixture) -> None:
    """Redis away, and whatever an application raises, is error 100; the connection stays."""

    class Away(MemoryBroker):
        def subscribe(self, channel: str) -> Any:
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            failed.set_exception(BrokerUnavailable("away"))
            return failed

        def publish(self, channel: str, payload: bytes) -> asyncio.Future[Any]:
            failed: asyncio.Future[None] = self.subscribe(channel)
            return failed

    async with world(Away(), client_insecure=True) as w:

        @w.hub.rpc("broken")
        async def broken(client: Asker, data: Any) -> None:
            raise ZeroDivisionError

        session = await w.connected()
        session.say(
            about(2, "subscribe", "a"), about(3, "publish", "a", data=1), {"id": 4, "rpc": {"method": "broken"}}
        )
        await asyncio.sleep(1)
        internal = {"code": 100, "message": "internal server error", "temporary": True}
        assert sorted(session.answered) == [1, 2, 3, 4]
        assert [session.replies(number)[0]["error"] for number in (2, 3, 4)] == [internal] * 3
        assert "ZeroDivisionError" in caplog.text
        assert session.closed is None
        assert w.hub.registry.channels == {}


@pytest.mark.parametrize("frame", [b"", b"x", b"[]", b'{"id":1}', b'{"id":2,"subscribe":{}}', b"\xff"])
@in_virtual_time
async def test_frames_that_are_no_commands(frame: bytes) -> None:
    """3501, also for those who have connected."""
    async with world() as w:
        session = await w.connected()
        session.client.on_message(frame, False)
        await asyncio.sleep(0.1)
        assert session.closed is Disconnects.BAD_REQUEST
        await w.nothing_is_left()


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"type": 1}, 108),
        ({"tf": {"op": "", "key": "a", "cmp": "eq", "val": "1"}}, 107),
        ({"channel": "filtered:a", "tf": {"op": "junk"}}, 107),
        ({"delta": "other"}, 3501),
    ],
)
@in_virtual_time
async def test_wishes_that_cannot_be_granted(wish: Json, code: int) -> None:
    """What the hub does not have, or the namespace does not allow."""
    filtered = ChannelOptions(allow_tags_filter=True, allow_subscribe_for_client=True)
    async with world(namespaces={"filtered": filtered}) as w:
        session = await w.connected(sub="1")
        session.say({"id": 2, "subscribe": {"channel": "a", **wish}})
        await asyncio.sleep(0.1)
        refused = [message["error"]["code"] for message in session.replies(2)]
        assert refused == ([code] if code < 1000 else [])
        assert (session.closed.code if session.closed else 0) == (0 if code < 1000 else code)
        assert w.hub.registry.channels == {}


@pytest.mark.parametrize("command", [{"refresh": {}}, {"refresh": {"token": "junk"}}, {"send": {"data": 1}}])
@in_virtual_time
async def test_commands_that_end_the_connection(command: Json) -> None:
    """A refresh with nothing or junk, and a message that nobody is there to take."""
    async with world() as w:
        session = await w.connected(sub="1")
        session.say({"id": 2, **command})
        await asyncio.sleep(0.1)
        assert session.closed is not None
        assert session.closed.code in (3500, 3501, 3508)
        await w.nothing_is_left()


@pytest.mark.parametrize("data", [b"1e999", b"-1e999", b"9" * 5000])
@in_virtual_time
async def test_numbers_that_python_does_not_have(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Where the application is given the data they are bad requests, not faults to be logged; else they pass."""
    async with world(client_insecure=True) as w:
        session = await w.connected()
        publish = b'{"id":%d,"publish":{"channel":"a","data":%s}}'
        session.client.on_message(publish % (2, data), True)

        @w.hub.rpc("m")
        async def method(client: Asker, data: Any) -> Any:
            return data

        @w.hub.on_publish
        async def judged(client: Asker, channel: str, data: Any) -> None:
            pass

        session.client.on_message(b'{"id":3,"rpc":{"method":"m","data":%s}}' % data, True)
        session.client.on_message(publish % (4, data), True)
        await asyncio.sleep(0.1)
        assert session.replies(2) == [{"id": 2, "publish": {}}]
        refused = {"code": 107, "message": "bad request"}
        assert [session.replies(number)[0]["error"] for number in (3, 4)] == [refused] * 2
        assert caplog.text == ""


@in_virtual_time
async def test_answers_that_come_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Redis takes a publication, or does not, when its client has gone: nobody is told, nothing is logged."""
    answers: list[asyncio.Future[Any]] = []

    class Late(MemoryBroker):
        def publish(self, channel: str, payload: bytes) -> asyncio.Future[Any]:
            answers.append(asyncio.get_running_loop().create_future())
            return answers[-1]

    async with world(Late(), client_insecure=True) as w:
        session = await w.connected()
        session.say(*(about(number, "publish", "a", data=1) for number in (2, 3, 4)))
        answers[0].set_result(None)
        await asyncio.sleep(0.1)
        session.close(Disconnects.SLOW)
        answers[1].set_result(None)
        answers[2].set_exception(BrokerUnavailable("away"))
        await asyncio.sleep(0.1)
        answers.clear()
        gc.collect()  # asyncio logs an exception that nobody has looked at
        assert caplog.text == ""
        assert session.answered == [1, 2]
        assert w.hub.unsent.total == 0
        await w.nothing_is_left()
