"""A JSON Web Key Set (RFC 7517) behind a URL.

The set is fetched in a thread when a token first needs it and kept. It is fetched again when a token names a key that
is not in it, and in the background when it is old, so that a key which its owner has withdrawn goes; where nobody has
asked for so long that it is very old, tokens wait for that. While the endpoint does not answer, the keys that are known
stay in use.

At most one fetch is under way, everybody who needs it waits for the same, and another begins only `COOLDOWN` seconds
later: clients choose the key that a token names, so they must not decide how often the endpoint is asked.
"""

from __future__ import annotations

import asyncio
import io
import socket
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection, HTTPMessage, HTTPResponse
from typing import IO, Any
from urllib.parse import urlsplit

import msgspec
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from .errors import ConfigError, HubError
from .keys import CURVES, RSA, Key, require_cryptography

__all__ = ["KeySet", "KeysUnavailable"]

# Real sets have a few kilobytes, and a handful of keys.
MAX_SIZE = 256 * 1024
MAX_KEYS = 100
TIMEOUT = 5.0
COOLDOWN = 10.0
LIFETIME = 300.0
# Nobody has asked since `LIFETIME`, or a fetch would have begun.
TOO_OLD = 2 * LIFETIME

_FAMILIES = {
    ("RSA", ""): RSA,
    ("EC", "P-256"): CURVES["secp256r1"],
    ("EC", "P-384"): CURVES["secp384r1"],
    ("EC", "P-521"): CURVES["secp521r1"],
    ("OKP", "Ed25519"): ("EdDSA",),
}


class KeysUnavailable(HubError):
    """The key that a token names is not known and the endpoint does not answer: the token may be good, later."""


class KeySet:
    """The keys behind `url`; belongs to one event loop."""

    def __init__(self, url: str, setting: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        require_cryptography(setting)
        _check(url, setting)
        self._url = url
        self._clock = clock
        # As of the last fetch that succeeded.
        self._keys: list[Key] = []
        # Of the last fetch: when it ended, None before the first; and what went wrong, "" if nothing did.
        self._ended: float | None = None
        self._failure = ""
        # Kept after its end, until the next.
        self._fetch: asyncio.Task[None] | None = None

    async def find(self, kid: str, algorithm: str) -> Key | None:
        """The key named `kid` for `algorithm`; without a name the only one that fits. Raises KeysUnavailable."""
        key = self._look(kid, algorithm)
        if self._due(LIFETIME if key else COOLDOWN):
            self._fetch = asyncio.create_task(self._refresh(), name="hub-jwks")
        if key and not self._too_old():
            return key
        if self._fetch is not None and not self._fetch.done():
            await asyncio.wait({self._fetch}, timeout=TIMEOUT)
            if key is None and not self._fetch.done():
                raise KeysUnavailable(f"the key set did not arrive within {TIMEOUT:g} seconds")
            key = self._look(kid, algorithm)
        if key is None and self._failure:
            raise KeysUnavailable(self._failure)
        return key

    def _look(self, kid: str, algorithm: str) -> Key | None:
        fitting = [key for key in self._keys if algorithm in key.algorithms and (not kid or key.kid == kid)]
        return fitting[0] if len(fitting) == 1 else None

    def _too_old(self) -> bool:
        """Whether a known key may be long gone; during an outage nobody waits to learn that."""
        return self._ended is not None and not self._failure and self._clock() - self._ended >= TOO_OLD

    def _due(self, age: float) -> bool:
        if self._fetch is not None and not self._fetch.done():
            return False
        # What is old and failed to become younger is tried again after the cool-down.
        return self._ended is None or self._clock() - self._ended >= (COOLDOWN if self._failure else age)

    async def _refresh(self) -> None:
        try:
            self._keys = await asyncio.to_thread(_fetch, self._url)
            self._failure = ""
        except Exception as error:  # whatever the endpoint does, tokens get their answer
            self._failure = f"the key set could not be fetched: {error}"
        finally:
            self._ended = self._clock()


def _check(url: str, setting: str) -> None:
    """Raises ConfigError. Its words do not cite the URL, which may have a secret in it."""
    try:
        parts = urlsplit(url)
    except ValueError:  # `http://[` is no address
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{setting} is not an http:// or https:// URL")
    if parts.username is not None:
        raise ConfigError(f"{setting} has a user in its URL; keys are public and fetched without one")


# In the thread


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The operator named the endpoint; nobody else does, and https stays https."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


class _Timely(io.RawIOBase):
    """What a socket brings within `TIMEOUT` in all; its own timeout is for each read alone, and never ends a drip."""

    def __init__(self, connection: socket.socket, stream: io.RawIOBase) -> None:
        self._connection, self._stream = connection, stream
        self._deadline = time.monotonic() + TIMEOUT

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"it took longer than {TIMEOUT:g} seconds")
        self._connection.settimeout(left)
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Timely(sock, self.fp.detach()))


class _TimelyHandler(urllib.request.AbstractHTTPHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **arguments: Any) -> HTTPResponse:
        def connect(host: str, **options: Any) -> HTTPConnection:
            connection: HTTPConnection = http_class(host, **options)
            connection.response_class = _Response
            return connection

        return super().do_open(connect, req, **arguments)


class _Http(_TimelyHandler, urllib.request.HTTPHandler):
    pass


class _Https(_TimelyHandler, urllib.request.HTTPSHandler):
    pass


def _fetch(url: str) -> list[Key]:
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    with urllib.request.build_opener(_NoRedirects, _Http, _Https).open(request, timeout=TIMEOUT) as response:
        return parse(_body(response))


def _body(response: HTTPResponse) -> bytes:
    """What the endpoint sends, within a limit."""
    body = bytearray()
    while chunk := response.read1(65536):
        body += chunk
        if len(body) > MAX_SIZE:
            raise ValueError(f"it is larger than {MAX_SIZE} bytes")
    return bytes(body)


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


class _Member(msgspec.Struct):
    kty: str
    crv: str = ""
    alg: str | None = None
    use: str | None = None
    kid: str = ""


def parse(body: bytes) -> list[Key]:
    """The keys of a set that can verify tokens; ValueError if there are none. Others are skipped (RFC 7517 §5)."""
    try:
        members = msgspec.json.decode(body, type=_Set).keys
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no key set: {error}") from None
    if len(members) > MAX_KEYS:
        raise ValueError(f"it has {len(members)} keys, allowed are {MAX_KEYS}")
    keys = [key for member in members if (key := _key(member)) is not None]
    if not keys:
        raise ValueError("it has no key that can verify tokens")
    return keys


def _key(jwk: dict[str, Any]) -> Key | None:
    """The public key of a member; None if it is for something else, or a secret: those do not come by URL."""
    try:
        member = msgspec.convert(jwk, _Member)
        algorithms = _FAMILIES.get((member.kty, member.crv), ())
        if member.alg is not None:
            algorithms = tuple(name for name in algorithms if name == member.alg)
        if not algorithms or member.use not in (None, "sig"):
            return None
        public = {name: value for name, value in jwk.items() if name != "d"}
        return Key(algorithms=algorithms, material=PyJWK(public, algorithms[0]).key, kid=member.kid)
    except (msgspec.ValidationError, PyJWTError):
        return None
