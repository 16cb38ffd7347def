"""A key set's endpoint that is slow, endless or wrong costs a bounded time and memory, and a bad token no fetch."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from hub import jwks
from hub.errors import ConfigError
from hub.jwks import MAX_KEYS, MAX_SIZE, KeysUnavailable
from hub.tokens import TokenInvalid, TokenKeys, TokenVerifier
from tests.support.certificate import self_signed
from tests.support.pem import private_pem
from tests.support.security_keys import HEAD, KeyEndpoint, jwk, key_endpoint
from tests.support.security_tls import tls_in_front
from tests.support.waiting import eventually

pytestmark = pytest.mark.timed

KEY = rsa.generate_private_key(65537, 2048)


def token(key: str, kid: str) -> str:
    return jwt.encode({"sub": "42"}, key, "RS256", {"kid": kid})


def forged(kid: str) -> str:
    """With a signature that nobody has made, since that is what it costs its sender."""
    header = jwt.utils.base64url_encode(json.dumps({"alg": "RS256", "kid": kid}).encode()).decode()
    return f"{header}.e30.{'A' * 342}"


def verifier(endpoint: KeyEndpoint) -> TokenVerifier:
    return TokenVerifier(TokenKeys(jwks_public_endpoint=endpoint.url))


async def unavailable(check: TokenVerifier) -> str:
    with pytest.raises(KeysUnavailable) as error:
        await check.connection(token(private_pem(KEY), "good"))
    return str(error.value)


async def test_bad_tokens_fetch_nothing() -> None:
    """Two hundred tokens with keys of their own invention, and as many with a bad signature: one fetch in all."""
    with key_endpoint() as endpoint:
        endpoint.has(jwk(KEY, "good"))
        check = verifier(endpoint)
        assert (await check.connection(token(private_pem(KEY), "good"))).user == "42"
        for number in range(200):
            for kid in (f"invented-{number}", "good"):
                with pytest.raises(TokenInvalid):
                    await check.connection(forged(kid))
        assert len(endpoint.requests) == 1


DRIPS = {
    "status line": itertools.chain([b"HTTP/1.1 200 "], itertools.repeat(b"O")),
    "headers": itertools.chain([b"HTTP/1.1 200 OK\r\n"], (b"X-%d: y\r\n" % n for n in range(10**6))),
    "one header": itertools.chain([b"HTTP/1.1 200 OK\r\nX: "], itertools.repeat(b"y")),
    "body": itertools.chain([HEAD], itertools.repeat(b" ")),
    "chunks": itertools.chain(
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], itertools.repeat(b"1\r\n \r\n")
    ),
    "size of a chunk": itertools.chain(
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], itertools.repeat(b"0")
    ),
}


@pytest.mark.parametrize("where", DRIPS)
async def test_an_answer_that_drips(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is no life: the fetch ends in time, wherever the answer drips, and another may begin."""
    monkeypatch.setattr(jwks, "TIMEOUT", 0.3)
    with key_endpoint() as endpoint:
        endpoint.pieces, endpoint.pause = DRIPS[where], 0.02
        check = verifier(endpoint)
        begun = time.monotonic()
        await unavailable(check)
        fetch = check._set._fetch if check._set is not None else None
        assert fetch is not None
        await eventually(fetch.done, 2)
        assert time.monotonic() - begun < 1.5
        assert "could not be fetched" in await unavailable(check)


ENDLESS = {
    "body": [HEAD + b" " * (MAX_SIZE + 1)],
    "body without end": [HEAD, *[b" " * 65536] * 64],
    "header": [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10**6],
    "headers": [b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10**5 + b"\r\n{}"],
    "chunk": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n" + b" " * 10**6],
    "length": [b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b" " * 10**6],
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_an_answer_without_end(what: str) -> None:
    """More than a real set has is not read, wherever it is too much."""
    with key_endpoint() as endpoint:
        endpoint.pieces = ENDLESS[what]
        assert "could not be fetched" in await unavailable(verifier(endpoint))


async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `https://` too, within the same limits; from a server that nobody vouches for comes no key."""
    certificate, key = self_signed(tmp_path)
    with key_endpoint() as endpoint, tls_in_front(endpoint.port, certificate, key) as port:
        endpoint.has(jwk(KEY, "good"))
        keys = TokenKeys(jwks_public_endpoint=f"https://127.0.0.1:{port}/keys")
        assert "certificate" in await unavailable(TokenVerifier(keys))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert (await TokenVerifier(keys).connection(token(private_pem(KEY), "good"))).user == "42"
        monkeypatch.setattr(jwks, "TIMEOUT", 0.3)
        endpoint.pieces, endpoint.pause = itertools.chain([HEAD], itertools.repeat(b" ")), 0.02
        begun = time.monotonic()
        await unavailable(TokenVerifier(keys))
        assert time.monotonic() - begun < 1.5


async def test_too_many_keys() -> None:
    """A set of more keys than anybody has is refused, so that a token cannot make the hub look through them."""
    with key_endpoint() as endpoint:
        endpoint.has(*[jwk(KEY, f"k{number}") for number in range(MAX_KEYS + 1)])
        assert f"it has {MAX_KEYS + 1} keys" in await unavailable(verifier(endpoint))


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"303 See Other", b"307 Temporary", b"308 Permanent"])
async def test_redirects(status: bytes) -> None:
    """Keys come from where the operator says, and not from where that sends us: inside its network, for example."""
    with key_endpoint() as elsewhere, key_endpoint() as endpoint:
        elsewhere.has(jwk(KEY, "good"))
        endpoint.pieces = [b"HTTP/1.1 " + status + b"\r\nLocation: " + elsewhere.url.encode() + b"\r\n\r\n"]
        assert "could not be fetched" in await unavailable(verifier(endpoint))
        assert elsewhere.requests == []


async def test_the_hub_brings_no_secret() -> None:
    """The request has no header that could tell of the hub, its version but for Python's apart."""
    with key_endpoint() as endpoint:
        endpoint.has(jwk(KEY, "good"))
        await verifier(endpoint).connection(token(private_pem(KEY), "good"))
        names = {line.split(b":")[0].lower() for line in endpoint.requests[0].split(b"\r\n")[1:] if line}
    assert names <= {b"host", b"accept", b"accept-encoding", b"connection", b"user-agent"}


@pytest.mark.parametrize(
    "url", ["https://user:marked-secret@127.0.0.1/keys", "http://[marked-secret", "ftp://marked-secret"]
)
def test_addresses_that_cannot_be_used(url: str) -> None:
    """The operator learns it at the start, and the log does not learn what stands in the address."""
    with pytest.raises(ConfigError, match="token_jwks_public_endpoint") as error:
        TokenVerifier(TokenKeys(jwks_public_endpoint=url))
    assert "marked-secret" not in str(error.value)
