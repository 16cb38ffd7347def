"""Which pages may connect: by the exact origin, and what is no origin is none that may."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis import running_redis
from tests.support.security_client import CHANNELS, PlainClient, plain_request
from tests.support.security_hub import KEY, guarded_hub
from tests.support.server import HubProcess

ALLOWED = "https://app.example.com"
HOSTILE = [
    "null",
    "https://evil.example.org",
    # Another scheme, port, or part of the name.
    "http://app.example.com",
    "https://app.example.com:8443",
    "https://example.com",
    "https://xapp.example.com",
    "https://app.example.com.evil.example.org",
    "https://app.example.com.",
    "https://app.example.com@evil.example.org",
    "https://evil.example.org/https://app.example.com",
    "https://evil.example.org#https://app.example.com",
    "https://app.example.com https://evil.example.org",
    "https://app.example.com,https://evil.example.org",
    "*",
    "file://",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
    # What no parser of addresses likes.
    "http://[",
    "http://[::1",
    "http://a]b",
    "http://\xe2\x84\x80.com",
    "://",
    "http://",
    "http://127.0.0.1:port",
    "x" * 4000,
]


@pytest.fixture(scope="module")
def hub(redis_binary: str) -> Iterator[HubProcess]:
    with running_redis(redis_binary) as redis, guarded_hub(redis.url) as running:
        yield running


def status(hub: HubProcess, path: str, origin: str) -> int:
    with PlainClient(hub.port, path, Origin=origin) as client:
        return client.status


@pytest.mark.parametrize("path", [CHANNELS, "/ws/room", "/echo"])
@pytest.mark.parametrize("origin", HOSTILE)
def test_foreign_pages(hub: HubProcess, path: str, origin: str) -> None:
    """A page of elsewhere gets 403 from every endpoint, before anything that it says is read."""
    assert status(hub, path, origin) == 403


@pytest.mark.parametrize("path", [CHANNELS, "/ws/room", "/echo"])
def test_own_pages(hub: HubProcess, path: str) -> None:
    """A listed origin and the hub's own may."""
    assert status(hub, path, ALLOWED) == 101
    assert status(hub, path, f"http://127.0.0.1:{hub.port}") == 101


def test_pages_cannot_use_the_api(hub: HubProcess) -> None:
    """No page's script may read an answer of the API, nor send the key: there is no CORS, and no cookie counts."""
    for origin in (ALLOWED, "https://evil.example.org"):
        asked = {
            "Origin": origin,
            "Access_Control_Request_Method": "POST",
            "Access_Control_Request_Headers": "x-api-key",
        }
        preflight, head, _ = plain_request(hub.port, "OPTIONS", "/api/publish", **asked)
        assert preflight == 405
        assert b"access-control" not in head.lower()


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"])
def test_forms_cannot_use_the_api(hub: HubProcess, kind: str) -> None:
    """What a form of another site can send, cookies included, is refused: only the key counts."""
    body = b'{"channel":"news:open","data":{}}'
    cookie = f"api_key={KEY}; X-API-Key={KEY}; token={KEY}"
    refused, head, _ = plain_request(
        hub.port, "POST", "/api/publish", body, Content_Type=kind, Cookie=cookie, Origin="https://evil.example.org"
    )
    assert refused == 401
    assert b"access-control" not in head.lower()
    assert b"set-cookie" not in head.lower()


def test_headers_of_pages(hub: HubProcess) -> None:
    """The hub's own pages run no inline script, are framed by no other site, and are what they say they are."""
    _, head, body = plain_request(hub.port, "GET", "/")
    policy = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-security-policy:"))
    assert b"default-src 'self'" in policy
    assert b"frame-ancestors 'self'" in policy
    assert b"unsafe" not in policy
    assert b"x-content-type-options: nosniff" in head.lower()
    assert b"<script>" not in body
