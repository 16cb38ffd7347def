"""The examples' pages in windows of which a test knows the worker."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.async_api import Page, expect

from .processes import children
from .server import HubProcess
from .waiting import eventually

__all__ = ["PATIENCE", "freeze", "kill", "land", "online", "worker_of", "workers"]

# Seconds; a machine that is busy with other things may need them.
PATIENCE = 30.0


def workers(hub: HubProcess) -> list[int]:
    return sorted(children(hub.pid, "hub.worker"))


async def online(page: Page) -> None:
    await expect(page.locator("#state")).to_have_attribute("data-state", "online", timeout=PATIENCE * 1000)


async def worker_of(page: Page) -> str:
    """How the page calls its worker."""
    return (await page.locator("#state").inner_text()).removeprefix("worker ")


@contextmanager
def _alone(hub: HubProcess, pid: int) -> Iterator[None]:
    """The other workers stand still, so this one accepts whoever comes."""
    others = [other for other in workers(hub) if other != pid]
    try:
        for other in others:
            os.kill(other, signal.SIGSTOP)
        yield
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)


async def land(hub: HubProcess, *pages: Page) -> list[int]:
    """Connect each page anew, one to each worker; their pids."""
    await eventually(lambda: len(workers(hub)) >= len(pages), timeout=PATIENCE)
    pids = workers(hub)[: len(pages)]
    for page, pid in zip(pages, pids, strict=True):
        with _alone(hub, pid):
            await page.evaluate("hub.disconnect(); hub.connect()")
            await expect(page.locator("#state")).to_have_text(re.compile("^worker "), timeout=PATIENCE * 1000)
    assert len({await worker_of(page) for page in pages}) == len(pages)
    return pids


def freeze(pid: int) -> None:
    """The worker hears nothing of what is sent to it from now on, and nobody knows: until it is killed."""
    os.kill(pid, signal.SIGSTOP)


async def kill(hub: HubProcess, pid: int) -> None:
    """SIGKILL to a worker, and wait until the supervisor has started another."""
    count = len(workers(hub))
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: pid not in workers(hub) and len(workers(hub)) == count, timeout=PATIENCE)
