"""What the tables of golden frames have in common: configuration, texts, calls."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx2

from tests.support.centrifuge import Json

CONFIG = Path(__file__).parent.parent / "sdk" / "hub.toml"

CONNECT = '{"id":1,"connect":{}}'

# The protocol's texts (§6); the SDKs hand them to the application.
DISCONNECTS = {
    3001: "shutdown",
    3005: "connection expired",
    3012: "no pong",
    3500: "invalid token",
    3501: "bad request",
    3502: "stale",
    3503: "force disconnect",
    3508: "not available",
}
ERRORS = {
    102: "unknown channel",
    103: "permission denied",
    105: "already subscribed",
    107: "bad request",
    108: "not available",
    109: "token expired",
    112: "unrecoverable position",
}


def error(code: int) -> Json:
    return {"error": {"code": code, "message": ERRORS[code]}}


def past() -> int:
    return int(time.time()) - 60


def future() -> int:
    return int(time.time()) + 60


async def call(api: httpx2.AsyncClient, method: str, **request: Any) -> Json:
    """The result of a call that must go well."""
    answer = (await api.post(method, json=request)).json()
    assert "result" in answer, answer
    result: Json = answer["result"]
    return result
