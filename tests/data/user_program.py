"""A user's program that says every public name, for type checkers; `tests/test_typing.py` also imports and runs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection

import hub as package
from hub import (
    Allow,
    Asker,
    BrokerUnavailable,
    ChannelHandle,
    ChannelOptions,
    ClientInfo,
    ConfigError,
    DataKind,
    Denied,
    Disconnect,
    Error,
    Event,
    History,
    HistoryResult,
    Hub,
    HubError,
    InvalidChannel,
    Joined,
    MessageTooBig,
    NodeInfo,
    Override,
    PresenceStats,
    Publication,
    PublishResult,
    Refused,
    Settings,
    StreamPosition,
    TypedChannel,
    TypedHistory,
    TypedPublication,
    User,
)
from hub.compat import (
    Broadcast,
    BroadcastBackend,
    ConnectionManager,
    MessagesLost,
    Subscriber,
    Unsubscribed,
)
from hub.compat import Event as Heard
from hub.sync import Publisher

NEWS = ChannelOptions(
    history_size=50,
    history_ttl=600.0,
    force_recovery=True,
    presence=True,
    allow_subscribe_for_client=True,
    allow_subscribe_for_anonymous=True,
)
NOT_YOURS = Error(code=403, message="not yours")

hub = Hub(Settings(redis_url=None, namespaces={"news": NEWS}))
app = FastAPI()
app.include_router(hub.router, prefix="/rt")


# Who may do what


@hub.authenticate
async def authenticate(connection: HTTPConnection, token: str | None) -> User | bool:
    if token is None:
        return False
    return User(id=token, info={"name": token.title()}, channels=(f"news:{token}",), expire_at=0)


@hub.on_subscribe
async def may_subscribe(client: Asker, channel: str) -> bool | None:
    return None if client.user else False


@hub.on_publish
async def may_publish(client: Asker, channel: str, data: Any) -> bool | None:
    return client.is_subscribed(channel)


@hub.on_disconnect
async def gone(client: Asker, code: int, reason: str) -> None:
    print(client.client_id, code, reason)


@hub.rpc("rename")
async def rename(client: Asker, data: Any) -> dict[str, str]:
    if not isinstance(data, str):
        raise Refused(NOT_YOURS)
    return {"name": data}


# Channels with a model


class Message(BaseModel):
    text: str


Me = Annotated[User | None, Depends(Hub.user)]
Happening = Annotated[Event, Depends(Hub.event)]

chat: TypedChannel[Message] = hub.channel(
    "chat:{room}", Message, history=History(size=100, ttl="5m"), presence=True, slow="disconnect"
)


@chat.on_subscribe
async def may_join(room: str, me: Me) -> Allow:
    if me is None or room == "closed":
        raise Denied("not a member")
    return Allow(data={"title": room}, info={"name": me.id})


@chat.on_publish
async def may_say(room: str, message: Message, event: Happening) -> bool:
    return event.client is not None and len(message.text) < 1000


@chat.on_unsubscribe
async def left(room: str) -> None:
    print("somebody has left", room)


@app.websocket("/rooms/{room}")
async def endpoint_of_a_room(websocket: WebSocket, room: str) -> None:
    joined: Joined[Message]
    async with chat(room=room).join(websocket) as joined:
        async for text in joined.iter_text():
            await joined.publish(Message(text=text), exclude_self=True)


async def talk(room: str) -> list[str]:
    handle: ChannelHandle[Message] = chat(room=room)
    await handle.publish(Message(text="hello"), idempotency_key=room)
    history: TypedHistory[Message] = await handle.history(limit=10)
    publications: list[TypedPublication[Message]] = history.publications
    return [each.data.text for each in publications]


def talk_on_commit(session: Session, room: str) -> None:
    chat(room=room).publish_on_commit(session, Message(text="committed"), tags={"kind": "text"}, delta=True)
    hub.publish_on_commit(session, "news:today", Message(text="committed"), known=True)
    session.commit()


async def talk_on_async_commit(session: AsyncSession, room: str) -> None:
    chat(room=room).publish_on_commit(session, Message(text="committed"))
    await session.commit()


# Publishing, asking, acting


async def publish(text: str) -> PublishResult | None:
    try:
        return await hub.publish("news:today", {"text": text}, tags={"kind": "text"}, idempotency_key=text, known=True)
    except BrokerUnavailable as error:
        print("Redis is away:", error)
    except (InvalidChannel, MessageTooBig) as error:
        print("a mistake of ours:", error)
    return None


def texts(publications: list[Publication]) -> list[str]:
    return [each.data.decode() for each in publications if each.kind is not DataKind.BINARY]


async def ask() -> dict[str, object]:
    history: HistoryResult = await hub.history("news:today", limit=10)
    since: StreamPosition = history.position
    later: HistoryResult = await hub.history("news:today", since=since, limit=-1)
    present: dict[str, ClientInfo] = await hub.presence("news:today")
    stats: PresenceStats = await hub.presence_stats("news:today")
    nodes: list[NodeInfo] = await hub.info()
    return {
        "texts": texts(history.publications + later.publications),
        "users": sorted(info.user for info in present.values()),
        "clients": stats.num_clients,
        "workers": len(nodes),
        "channels": await hub.channels("news:*"),
        "ready": hub.ready,
    }


async def act(user: str) -> None:
    await hub.subscribe_user(user, "news:today", override=Override(presence=True))
    await hub.unsubscribe_user(user, "news:today")
    await hub.refresh_user(user, expire_at=1_900_000_000)
    await hub.disconnect_user(user, disconnect=Disconnect(code=4500, reason="logged out"))
    await hub.remove_history("news:today")


def publish_from_a_thread(settings: Settings) -> int:
    with Publisher(settings) as publisher:
        return publisher.publish("news:today", "from a thread").offset


def reason(error: HubError) -> str:
    return "the settings" if isinstance(error, ConfigError) else "something else"


# What others began


manager = ConnectionManager(hub=hub, channel="chat")


@app.websocket("/ws/{client_id}")
async def websocket_endpoint(websocket: WebSocket, client_id: int) -> None:
    await manager.connect(websocket)
    try:
        while True:
            data = await websocket.receive_text()
            await manager.send_personal_message(f"You wrote: {data}", websocket)
            await manager.broadcast(f"Client #{client_id} says: {data}")
    except WebSocketDisconnect:
        manager.disconnect(websocket)


async def listen(subscriber: Subscriber) -> list[Any]:
    heard: list[Any] = []
    try:
        while len(heard) < 2:
            event: Heard = await subscriber.get()
            heard.append(event.message)
    except (MessagesLost, Unsubscribed) as end:
        print(end)
    return heard


def on_a_backend(backend: BroadcastBackend) -> Broadcast:
    return Broadcast(backend=backend)


@asynccontextmanager
async def two_messages() -> AsyncGenerator[Subscriber]:
    async with Broadcast("memory://") as broadcast, broadcast.subscribe(channel="chat") as subscriber:
        await broadcast.publish(channel="chat", message="one")
        await broadcast.publish(channel="chat", message={"number": 2})
        yield subscriber


def version() -> str:
    return package.__version__
