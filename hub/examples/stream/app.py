"""A long answer, word by word, as from a language model: no word is lost or comes twice, whatever breaks.

Run it with `uvicorn hub.examples.stream.app:app --workers 4`.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from hub import BrokerUnavailable, ChannelOptions, Error, Hub, Refused, Settings
from hub.examples.pages import Pages

ANSWER = Path(__file__).with_name("answer.txt").read_text(encoding="utf-8")
# Every word is a publication, and all are kept: a page that has seen n of them gets the rest, from n + 1.
kept: dict[str, Any] = {"history_size": 300, "history_ttl": 600, "history_meta_ttl": 600, "force_recovery": True}
stream = ChannelOptions(allow_subscribe_for_client=True, allow_subscribe_for_anonymous=True, **kept)
hub = Hub(Settings.load(namespaces={"stream": stream}))
app = FastAPI()
app.include_router(hub.router, prefix="/rt")
app.mount("/", Pages(__file__))
writing: dict[str, asyncio.Task[None]] = {}


@hub.rpc("stream.ask")
async def ask(client: Any, question: Any) -> str:
    channel = f"stream:{secrets.token_hex(8)}"
    await hub.publish(channel, {"question": str(question)[:200]}, version=1)
    return channel


@hub.rpc("stream.go_on")
async def go_on(client: Any, channel: Any) -> None:
    """Write the rest of an answer in this worker; the page asks for it when nobody else does."""
    if len(writing) >= 50:
        raise Refused(Error(code=1000, message="too many answers are being written", temporary=True))
    if str(channel).startswith("stream:") and channel not in writing:
        writing[channel] = asyncio.create_task(write(channel))
        writing[channel].add_done_callback(lambda _: writing.pop(channel))


async def write(channel: str) -> None:
    with suppress(BrokerUnavailable):  # the hub has counted and logged it; the page asks again
        said = (await hub.history(channel, limit=-1)).publications
        # In place of the model. It says the same each time, so that any worker can go on in the middle.
        text = ANSWER.replace("{question}", json.loads(said[0].data)["question"]) if said else ""
        words = [{"word": word} for word in re.findall(r"\s*\S+", text)] + [{"end": True}] * bool(said)
        for number, word in list(enumerate(words, 2))[max(0, len(said) - 1) :]:
            await asyncio.sleep(0.03)
            # Redis takes each version once: if it was there already, another worker goes on with this answer.
            if (await hub.publish(channel, word, version=number)).suppressed:
                return
