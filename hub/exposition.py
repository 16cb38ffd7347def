"""How Prometheus reads the metrics: `/metrics`, and who may.

With several workers the one that is asked asks the others (`hub.siblings`) and answers for all, each series with the
label `worker`. A worker that does not answer is `hub_up` 0, and all else about it is missing rather than wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import chain

from fastapi import APIRouter, HTTPException, Request, Response

from .api import holds_key
from .config import Settings
from .metrics import UP, Vitals, render
from .siblings import Siblings

__all__ = ["merge", "metrics_router"]

# Seconds that the other workers have for their numbers; Prometheus waits 10 by default.
PATIENCE = 1.0

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"

LOCKED = (
    "The metrics are for who has an API key (HUB_API_KEY; send it as X-API-Key or as Authorization: apikey <key>) or "
    "is on this machine; HUB_METRICS=public opens them to everybody."
)


def merge(answers: Mapping[str, bytes | None]) -> bytes:
    """The numbers of several workers, by worker: in one text, a metric's lines are together."""
    metrics: dict[bytes, list[bytes]] = {}
    for text in answers.values():
        for block in (text or b"").split(b"# HELP ")[1:]:
            name, body = block[: block.index(b" ")], block.split(b"\n", 2)[2]
            metrics.setdefault(name, [b"# HELP " + block.removesuffix(body)]).append(body)
    return _up(answers) + b"".join(chain(*metrics.values()))


def _up(answers: Mapping[str, bytes | None]) -> bytes:
    lines = [f"# HELP {UP.name} {UP.help}", f"# TYPE {UP.name} {UP.kind}"]
    lines += [f'{UP.name}{{worker="{worker}"}} {int(text is not None)}' for worker, text in answers.items()]
    return "\n".join([*lines, ""]).encode()


# Asking for it


def metrics_router(
    vitals: Callable[[], Vitals], settings: Settings, siblings: Callable[[], Siblings | None]
) -> APIRouter:
    """`/metrics`, unless it is off."""
    router = APIRouter(tags=["metrics"])
    if settings.metrics == "off":
        return router

    @router.get("/metrics", response_class=Response, responses={401: {"description": "Not for everybody."}})
    async def metrics(request: Request) -> Response:
        """The numbers of all workers, in Prometheus' text format."""
        if settings.metrics != "public" and not (holds_key(request, settings.api_keys) or _is_local(request)):
            raise HTTPException(401, LOCKED, headers={"WWW-Authenticate": "apikey"})
        others = siblings()
        if others is None:
            answers: Mapping[str, bytes | None] = {str(os.getpid()): await render(vitals(), str(os.getpid()))}
        else:
            answers = await others.ask("metrics", PATIENCE)
        return Response(merge(answers), media_type=TEXT_FORMAT)

    return router


_LOCAL = ("127.0.0.1", "::1", "localhost")
# As a socket of IPv6 sees 127.0.0.1.
_MAPPED = "::ffff:127.0.0.1"
# A proxy on this machine connects from it too, for clients that are not on it.
_OF_PROXIES = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


def _is_local(request: Request) -> bool:
    """Whether it comes from this machine and by no proxy; a page of elsewhere would bring the name of its own host."""
    return (
        request.client is not None
        and request.client.host in (*_LOCAL, _MAPPED)
        and request.url.hostname in _LOCAL
        and not any(name in request.headers for name in _OF_PROXIES)
    )
