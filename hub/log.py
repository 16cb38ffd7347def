"""Log lines: as text or JSON, without secrets, and no more than one a minute of a kind that repeats.

An event is one line (in text, a traceback follows it). A line about one connection has its id as the field
`connection`, for protocol clients the one that they know; `user` is whose it is. Connections that come and go are
at the level `debug`: ten thousand that come back are not ten thousand lines, but a number in the metrics.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal

__all__ = ["JsonFormatter", "RedactQuery", "Throttled", "configure", "extra_of", "redact_tokens"]

_SECRET_PARAMETER = re.compile(r"(?i)\b(token|sub_token|access_token|api_key|key)=(?!…)[^&\s\"']+")


class RedactQuery(logging.Filter):
    """Takes the values of token parameters out of log lines.

    uvicorn's own WebSocket classes log the whole query string at INFO, and its access log does so for HTTP.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        # uvicorn's access formatter needs the arguments one by one, so they are kept where that is enough.
        if isinstance(record.args, tuple):
            record.args = tuple(_redact(argument) for argument in record.args)
        if _SECRET_PARAMETER.search(message := record.getMessage()):
            record.msg, record.args = _redact(message), ()
        if record.exc_info:  # an exception may be an HTTP client's, with the whole URL
            text = record.exc_text or _plain.formatException(record.exc_info)
            if _SECRET_PARAMETER.search(text):  # else it is left to the formatter, which may have its own way
                record.exc_text = _redact(text)
        return True


def _redact(value: Any) -> Any:
    return _SECRET_PARAMETER.sub(r"\1=…", value) if isinstance(value, str) else value


_redaction = RedactQuery()
# For the texts of tracebacks.
_plain = logging.Formatter()


def redact_tokens() -> None:
    """Install the filter on uvicorn's loggers; twice is once."""
    for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi", "hypercorn.access", "hypercorn.error"):
        logging.getLogger(name).addFilter(_redaction)


# Seconds between two lines of a kind.
PAUSE = 60.0


class Throttled:
    """Logs the first event of a kind at once, and then a sum once a minute as long as there are any."""

    def __init__(self, log: logging.Logger, level: int, text: str) -> None:
        """`text` has one `%d`, the number of events since the last line."""
        self._log, self._level, self._text = log, level, text
        self._since = 0
        self._last = ""
        self._next = 0.0
        # All events so far.
        self.total: int = 0

    def add(self, count: int = 1, last: str = "") -> None:
        """`last` describes the newest event, for the line's end."""
        now = time.monotonic()
        # No lock, which a fork could leave locked, and a handler that comes back here would wait for: from here to the
        # log no function is called, and only then does the interpreter change threads.
        self.total += count
        self._since += count
        self._last = last
        if now >= self._next:
            since, self._since, self._next = self._since, 0, now + PAUSE
            self._tell(since, last)

    def _tell(self, count: int, last: str) -> None:
        self._log.log(self._level, self._text + (f" (the last: {last})" if last else ""), count)
        with suppress(RuntimeError):  # without an event loop the next event tells of those that are left
            asyncio.get_running_loop().call_later(PAUSE, self._tell_the_rest)

    def _tell_the_rest(self) -> None:
        """Else a burst would be told of when the next one comes, hours later, as if it had been then."""
        if self._since:
            self.add(0, self._last)


# What a line says besides its message, given as `extra`.
FIELDS = ("connection", "user")


def extra_of(connection: object) -> dict[str, str] | None:
    """What log lines say of a connection: its `extra`, if it has one."""
    return getattr(connection, "extra", None)


def _fields(record: logging.LogRecord) -> dict[str, str]:
    return {name: value for name in FIELDS if (value := getattr(record, name, ""))}


class _TextFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value!r}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields


class JsonFormatter(logging.Formatter):
    """An event as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = record.exc_text or self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(style: Literal["text", "json"], level: str) -> None:
    """Set up the root logger of a `hub serve` process."""
    handler = logging.StreamHandler(sys.stderr)
    text = _TextFormatter("%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if style == "json" else text)
    handler.addFilter(_redaction)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Start and stop of each process are told by the supervisor.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    redact_tokens()
