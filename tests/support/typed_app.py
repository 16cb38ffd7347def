"""An application with channels and calls of many kinds, for what is made from its declarations."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel, Field, computed_field

from hub import History, Hub, Settings
from hub.authority import Asker
from hub.namespaces import ChannelOptions

T = TypeVar("T")


class Section(StrEnum):
    NEWS = "news"
    SPORT = "sport"


class Author(BaseModel):
    name: str = Field(description="As others see it.", examples=["Ann"])
    age: int | None = None


class Message(BaseModel):
    """What is said in a room."""

    text: str = Field(min_length=1, max_length=200, examples=["hello"])
    author: Author
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    kind: Literal["said", "shouted"] = "said"


class Tree(BaseModel):
    """Recursive."""

    label: str
    children: list[Tree] = []


class Price(BaseModel):
    """It does not go out as it comes in."""

    pair: tuple[str, str]
    amount: Decimal = Field(alias="the amount")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def name(self) -> str:
        return "/".join(self.pair)


class Page(BaseModel, Generic[T]):
    items: list[T]


class Rename(BaseModel):
    name: str = Field(examples=["Bob"])


class Renamed(BaseModel):
    before: str
    after: str


def make(settings: Settings | None = None, **options: Any) -> tuple[FastAPI, Hub]:
    """The application, `options` are FastAPI's, and its hub."""
    hub = Hub(settings or Settings())
    _channels(hub)
    _calls(hub)
    app = FastAPI(title="Rooms", version="1.2.3", **options)
    app.include_router(hub.router, prefix="/rt")
    return app, hub


def _channels(hub: Hub) -> None:
    chat = hub.channel("chat:{room}", Message, history=History(size=10, ttl=60), presence=True)
    hub.channel("chat:{room}:tree", Tree)
    hub.channel("articles:{section}:{number}", Message, parameters={"section": Section, "number": int})
    everybody = ChannelOptions(allow_publish_for_client=True, allow_publish_for_anonymous=True)
    hub.channel("prices:{id}", Price, parameters={"id": UUID}, options=everybody)
    hub.channel("news:all", dict[str, int])

    @chat.on_publish
    async def may_publish(room: str) -> bool:
        return room != "closed"


def _calls(hub: Hub) -> None:
    @hub.rpc("rename")
    async def rename(body: Rename) -> Renamed:
        """Give yourself another name."""
        return Renamed(before="Ann", after=body.name)

    @hub.rpc("server/time")
    async def time() -> datetime:
        return datetime(2026, 1, 31, tzinfo=UTC)

    @hub.rpc("pages")
    async def pages(body: Page[int]) -> Page[str]:
        return Page[str](items=[str(item) for item in body.items])

    @hub.rpc("forget")
    async def forget() -> None: ...

    @hub.rpc("anything")
    async def anything(client: Asker, data: Any) -> Any:
        return data


app, hub = make()
