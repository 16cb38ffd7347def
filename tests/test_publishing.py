"""Values of the application's as publications: models of pydantic, and sentences about what cannot be one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import fakeredis
import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from starlette.websockets import WebSocket, WebSocketState

from hub import Hub, Refused, Settings
from hub.compat import Broadcast, ConnectionManager
from hub.namespaces import ChannelOptions
from hub.publishing import publication_of
from hub.sync import Publisher
from hub.types import DataKind, Publication
from tests.support.waiting import eventually

KEPT = {"orders": ChannelOptions(history_size=10, history_ttl=60)}
CHANNEL = "orders:1"


class OrderEvent(BaseModel):
    number: UUID = UUID(int=7)
    at: datetime = datetime(2026, 1, 2, tzinfo=UTC)
    state: str = Field(default="new\n", alias="is")


class Orders(RootModel[list[OrderEvent]]): ...


class Odd(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    engine: Any = Ellipsis


TEXT = '{"number":"00000000-0000-0000-0000-000000000007","at":"2026-01-02T00:00:00Z","is":"new\\n"}'


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (OrderEvent(), TEXT),
        (Orders([OrderEvent()]), f"[{TEXT}]"),
        ([OrderEvent(), 1], f"[{TEXT},1]"),
        ({"order": {"event": OrderEvent()}}, f'{{"order":{{"event":{TEXT}}}}}'),
    ],
    ids=["model", "root", "list", "dict"],
)
def test_models(data: object, text: str) -> None:
    """They travel as JSON by their aliases, as in typed channels and in FastAPI's answers; inside of others too."""
    assert publication_of(data) == Publication(text.encode(), DataKind.JSON)


async def test_every_way_of_the_hub_takes_them() -> None:
    """At once, and after a commit: as they were when they were given."""
    async with Hub(Settings(redis_url=None, namespaces=KEPT)) as hub:
        await hub.publish(CHANNEL, OrderEvent())
        with Session(create_engine("sqlite://")) as session:
            hub.publish_on_commit(session, CHANNEL, (event := OrderEvent()))
            event.state = "other"
            session.commit()
        await asyncio.sleep(0)
        await eventually(lambda: not hub._committed)
        page = await hub.history(CHANNEL, limit=-1)
    assert [publication.data.decode() for publication in page.publications] == [TEXT] * 2


async def test_broadcast_takes_them() -> None:
    """Iterators get the value that JSON has of them."""
    async with Broadcast("memory://") as broadcast, broadcast.subscribe("orders") as subscriber:
        await broadcast.publish("orders", OrderEvent())
        event = await subscriber.get()
    assert event.message["is"] == "new\n"


async def test_one_connection_takes_them() -> None:
    """`send_personal_message`."""
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    async def receive() -> Any: ...

    websocket = WebSocket({"type": "websocket", "headers": []}, receive, send)
    websocket.application_state = WebSocketState.CONNECTED
    async with Hub(Settings(redis_url=None)) as hub:
        await ConnectionManager(hub=hub, channel=CHANNEL).send_personal_message(OrderEvent(), websocket)
    assert sent == [{"type": "websocket.send", "text": TEXT}]


def test_a_publisher_takes_them() -> None:
    """At once and after a commit."""
    client = fakeredis.FakeRedis()
    with Publisher(Settings(namespaces=KEPT), redis=client) as publisher:
        publisher.publish(CHANNEL, OrderEvent())
        with Session(create_engine("sqlite://")) as session:
            publisher.publish_on_commit(session, CHANNEL, OrderEvent())
            session.commit()
    entries: Any = client.xrange(f"hub:stream:{{{CHANNEL}}}")
    assert [TEXT.encode() in fields[b"d"] for _, fields in entries] == [True, True]


async def test_a_typed_channel_checks_them() -> None:
    """As all that is published there: by the JSON that clients get."""
    hub = Hub(Settings(redis_url=None))
    hub.channel("orders:{number}", OrderEvent)
    async with hub:
        await hub.publish(CHANNEL, OrderEvent())
        with pytest.raises(Refused, match="data: number: Input should be a valid UUID"):
            await hub.publish(CHANNEL, RootModel[dict[str, str]]({"number": "x"}))


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (object(), "JSON has nothing for an object of type object"),
        ({"engine": [1j]}, "JSON has nothing for an object of type complex"),
        (print, "JSON has nothing for an object of type builtin_function_or_method"),
        (Odd(engine=object()), "pydantic has no JSON for this Odd: Unable to serialize unknown type"),
        ({(1, 2): 1}, "JSON has nothing for an object of type tuple"),
    ],
    ids=["object", "nested", "function", "model", "key"],
)
def test_what_json_cannot_say(data: object, cause: str) -> None:
    """The error names the type, and what to give in its place."""
    with pytest.raises(TypeError) as raised:
        publication_of(data)
    assert str(raised.value).startswith(f"the data cannot be published, because {cause}")
    assert str(raised.value).endswith(
        "; give bytes, a str, a model of pydantic, or what JSON can say: dict (by str or numbers), list, int, float, "
        "bool, None, and in them datetime, UUID, Decimal, Enum, dataclasses"
    )


def hub_publish(exclude: Any) -> None:
    asyncio.run(Hub(Settings(redis_url=None)).publish("room", "x", exclude=exclude))


def typed_publish(exclude: Any) -> None:
    room = Hub(Settings(redis_url=None)).channel("chat:{room}", str)(room="x")
    asyncio.run(room.publish("x", exclude=exclude))


def sync_publish(exclude: Any) -> None:
    Publisher(Settings(), redis=fakeredis.FakeRedis()).publish("room", "x", exclude=exclude)


@pytest.mark.parametrize("publish", [hub_publish, typed_publish, sync_publish])
@pytest.mark.parametrize("wrong", ["", "client", None, 7])
def test_ids_that_are_none(publish: Callable[[Any], None], wrong: Any) -> None:
    """An `Asker.client_id` is a str: whoever takes it for `exclude` is told for whom that works."""
    with pytest.raises(TypeError) as raised:
        publish(wrong)
    assert str(raised.value) == (
        f"exclude is the `id` of a connection of `join`, which is bytes, and not {type(wrong).__name__}; protocol "
        "clients (`client_id`) cannot be left out"
    )
