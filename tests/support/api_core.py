"""A hub that does nothing but remember what the server API asked of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Raw

from hub.types import NOWHERE, PresenceStats, Publication, PublishResult, StreamPosition


@dataclass
class Page:
    """Of a history."""

    publications: list[Publication]
    position: StreamPosition = NOWHERE


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, Raw) else value


class RecordingCore:
    """Answers with `answers[name]`, which is raised if it is an exception, or called if it can be."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.answers: dict[str, Any] = {
            "publish": PublishResult(),
            "presence": {},
            "presence_stats": PresenceStats(0, 0),
            "history": Page([]),
            "channels": {},
            "info": [],
        }

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*arguments: Any, **keywords: Any) -> Any:
            given = {key: _plain(value) for key, value in keywords.items()}
            self.calls.append((name, tuple(_plain(argument) for argument in arguments), given))
            answer = self.answers.get(name)
            if callable(answer):
                answer = answer(*arguments, **keywords)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    @property
    def last(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        return self.calls[-1]
