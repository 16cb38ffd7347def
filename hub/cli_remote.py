"""How the command line talks to a running hub, and how it shows what it hears."""

from __future__ import annotations

import functools
import http.client
import json
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from email.message import Message
from pathlib import Path
from typing import IO, Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .config import Settings
from .errors import ConfigError, HubError

__all__ = [
    "Remote",
    "address_of",
    "address_options",
    "compact",
    "config_option",
    "connect",
    "printable",
    "remote_options",
    "show_table",
]

TIMEOUT = 10.0

config_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file of the hub, for what is not given.  [env: HUB_CONFIG]"
)


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: it would carry the key elsewhere, and turn a POST into a GET."""

    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str) -> None:
        return None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Unix(urllib.request.HTTPHandler):
    """Every host is behind one Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._connection = functools.partial(_UnixConnection, path)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class Remote:
    """The server API of a hub at `url`, or behind the Unix socket `uds`."""

    def __init__(self, url: str, api_key: str, uds: Path | None = None) -> None:
        # Its name in sentences.
        self.url: str = str(uds or url.rstrip("/"))
        self._base = "http://localhost" if uds else self.url
        self._api_key = api_key
        # A proxy cannot reach the socket.
        there = (_Unix(uds), urllib.request.ProxyHandler({})) if uds else ()
        self._opener = urllib.request.build_opener(_Stay, *there)

    def call(self, method: str, **fields: Any) -> dict[str, Any]:
        """The result of a method. Raises HubError in one sentence."""
        body = msgspec.json.encode({name: value for name, value in fields.items() if value is not None})
        answer = self._post(f"{self._base}/api/{method}", body)
        if error := answer.get("error"):
            raise HubError(f"{self.url} refused: {error.get('message')} (error {error.get('code')})")
        result = answer.get("result")
        if not isinstance(result, dict):
            raise HubError(f"{self.url} does not answer like a hub")
        return result

    def _post(self, url: str, body: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "X-API-Key": self._api_key}
        try:
            with self._opener.open(urllib.request.Request(url, body, headers), timeout=TIMEOUT) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise HubError(f"{self.url} answered {error.code}: {_detail(error)}") from None
        except json.JSONDecodeError:
            raise HubError(f"{self.url} does not answer like a hub") from None
        except (OSError, ValueError) as error:
            raise HubError(f"cannot reach a hub at {self.url}: {getattr(error, 'reason', error)}") from None
        return answer if isinstance(answer, dict) else {}


def _detail(error: urllib.error.HTTPError) -> str:
    if location := error.headers.get("Location"):
        return f"it is at {location}"
    body = error.read(10_000).decode(errors="replace")
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200] or error.reason


_url_option = click.option(
    "--url", envvar="HUB_URL", help="Address of a hub.  [env: HUB_URL; default: where it listens by its settings]"
)
_key_option = click.option("--api-key", help="One of its API keys.  [env: HUB_API_KEY]")


def address_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--url`, `--api-key` and `--config`, for `connect`."""
    return _url_option(_key_option(config_option(command)))


def remote_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """These and `--json`; the command gets a `Remote` and `as_json`."""

    @functools.wraps(command)
    def run(url: str | None, api_key: str | None, config: Path | None, **given: Any) -> Any:
        return command(connect(Settings.load(config=config), url, api_key), **given)

    return address_options(click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")(run))


def connect(settings: Settings, url: str | None, api_key: str | None) -> Remote:
    """The hub at `url`, or the one with these settings. Raises ConfigError."""
    key = next(iter(settings.api_keys), "") if api_key is None else api_key
    if not key.isascii() or not key.isprintable():
        raise ConfigError("an API key has ASCII characters only, since it travels in an HTTP header")
    return Remote(url, key) if url else Remote(address_of(settings), key, settings.uds)


def address_of(settings: Settings) -> str:
    """Where a hub with these settings is reached from its own machine."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


# Output


def compact(value: Any) -> str:
    """JSON in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def printable(text: str) -> str:
    """What others have sent must not steer this terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on a terminal; elsewhere lines with tabs, for other programs."""
    texts = [[printable(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in (columns, *texts):
            click.echo("\t".join(line))
        return
    table = Table(*columns, box=box.ROUNDED)
    for text in texts:
        table.add_row(*map(Text, text))
    Console().print(table)
