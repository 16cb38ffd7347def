"""An application with typed channels and one of each function, for tests of what these are asked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from starlette.exceptions import WebSocketException
from starlette.requests import HTTPConnection

from hub import Allow, Denied, Event, History, Hub, Settings, User

__all__ = ["DB", "Database", "Me", "Member", "Message", "What", "authenticate", "club", "db", "made"]


class Message(BaseModel):
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member(User):
    """What this application knows of its users."""

    groups: tuple[str, ...] = ()


class Database:
    """Its sessions: how many are open, how many were, how many were rolled back."""

    def __init__(self) -> None:
        # Its sessions are opened in threads.
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.open = self.opened = self.rolled_back = 0

    def session(self) -> Iterator[Database]:
        with self._lock:
            self.open += 1
            self.opened += 1
        try:
            yield self
        except Exception:
            with self._lock:
                self.rolled_back += 1
            raise
        finally:
            with self._lock:
                self.open -= 1


# Of all tests; each begins with a fresh one, by `reset`.
db = Database()

DB = Annotated[Database, Depends(db.session)]
Me = Annotated[Member | None, Depends(Hub.user)]
What = Annotated[Event, Depends(Hub.event)]


def made(**settings: Any) -> tuple[Hub, FastAPI]:
    hub, app = Hub(Settings(drain=0, **settings)), FastAPI()
    app.include_router(hub.router)
    return hub, app


async def authenticate(connection: HTTPConnection, token: str | None) -> User | bool:
    return Member(id=token, groups=("staff",)) if token else True


def club(**settings: Any) -> tuple[Hub, FastAPI, list[Any]]:
    """An application with one of each function; what they saw is in the list."""
    hub, app = made(**settings)
    hub.authenticate(authenticate)
    seen: list[Any] = []
    chat = hub.channel("chat:{room}", Message, history=History(100, 300), presence=True)

    @chat.on_subscribe
    async def may_join(room: str, me: Me, db: DB, x_who: Annotated[str, Header()] = "") -> Allow | bool | None:
        seen.append(("subscribe", room, me, db.open, x_who))
        match room:
            case "denied":
                raise Denied("not a member")
            case "absent":
                raise HTTPException(404, "no such room")
            case "busy":
                raise HTTPException(503)
            case "policy":
                raise WebSocketException(1008, "read the rules first")
            case "broken":
                raise ZeroDivisionError("s3cret")
            case "odd":
                return "yes"  # type: ignore[return-value]
            case "told":
                return Allow(data={"title": room}, info={"role": "guest"})
        return {"no": False, "yes": True}.get(room)

    @chat.on_publish
    def may_say(room: str, message: Message, me: Me, db: DB) -> bool | None:
        seen.append(("publish", room, message, me and me.id, db.open))
        if message.text == "slow":
            time.sleep(0.1)
        return {"no": False, "yes": True}.get(message.text)

    @chat.on_unsubscribe
    async def left(room: str, what: What) -> None:
        await asyncio.sleep(0.05)
        seen.append(("left", room, what.code))

    @chat.on_disconnect
    def gone(room: str, what: What, me: Me) -> None:
        seen.append(("gone", room, what.channel, what.code, me and me.id))

    return hub, app, seen
