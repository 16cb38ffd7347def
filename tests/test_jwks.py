"""A key set is fetched when it is needed, once for all, and never as often as clients would like."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from hub import jwks
from hub.jwks import COOLDOWN, LIFETIME, MAX_SIZE, KeySet, KeysUnavailable, parse
from hub.tokens import TokenInvalid, TokenKeys, TokenVerifier, sign
from tests.support.pem import private_pem, public_pem
from tests.support.waiting import eventually

RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
ES = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    """The public key as a member of a set."""
    kind = {"rsa": RSAAlgorithm, "ec": ECAlgorithm, "ed25519": OKPAlgorithm}[type(key).__module__.split(".")[-1]]
    member: dict[str, Any] = kind.to_jwk(key.public_key(), as_dict=True)
    return {**member, **({"kid": kid} if kid else {}), **more}


def members() -> list[dict[str, Any]]:
    return [jwk(RSA, "r"), jwk(ES, "e"), jwk(ED, "d", alg="EdDSA", use="sig")]


class Endpoint:
    """An HTTP server with a key set, on a thread."""

    def __init__(self) -> None:
        self.body: bytes | None = None
        self.keys = members()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests = 0
        # Answers wait for it.
        self.gate = threading.Event()
        self.gate.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.requests += 1
                endpoint.gate.wait(10)
                body = endpoint.body if endpoint.body is not None else json.dumps({"keys": endpoint.keys}).encode()
                self.send_response(endpoint.status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    pass  # it had enough

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


class Clock:
    """Time that passes by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    yield server
    server.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(endpoint: Endpoint, clock: Clock) -> KeySet:
    return KeySet(endpoint.url, "jwks", clock=clock)


async def settled(keys: KeySet) -> None:
    """Return when no fetch is under way."""
    await eventually(lambda: keys._fetch is None or keys._fetch.done())


def verifier(endpoint: Endpoint, **more: str) -> TokenVerifier:
    return TokenVerifier(TokenKeys(jwks_public_endpoint=endpoint.url, **more))


def token(key: Any, algorithm: str, kid: str | None = None) -> str:
    """One of user 1."""
    return jwt.encode({"sub": "1"}, private_pem(key), algorithm, {"kid": kid} if kid else None)


# Tokens


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA, "RS256", "r"), (RSA, "RS512", "r"), (ES, "ES256", "e"), (ED, "EdDSA", "d")]
)
@pytest.mark.parametrize("named", [True, False])
async def test_tokens_of_a_set(endpoint: Endpoint, key: Any, algorithm: str, kid: str, named: bool) -> None:
    """Each kind of key verifies its tokens; without a kid if it is the only one of its kind."""
    check = verifier(endpoint)
    for _ in range(3):
        assert (await check.connection(token(key, algorithm, kid if named else None))).user == "1"
    assert endpoint.requests == 1


async def test_a_token_with_another_key_of_the_set(endpoint: Endpoint) -> None:
    """The key that a token names is the one that verifies it."""
    endpoint.keys = [jwk(RSA, "a"), jwk(OTHER, "b")]
    check = verifier(endpoint)
    assert await check.connection(token(OTHER, "RS256", "b"))
    with pytest.raises(TokenInvalid, match="signature"):
        await check.connection(token(OTHER, "RS256", "a"))
    with pytest.raises(TokenInvalid, match="no key"):
        await check.connection(token(OTHER, "RS256"))  # one of two, so which?
    with pytest.raises(TokenInvalid, match="no key"):
        await check.connection(token(ES, "ES256", "a"))


async def test_a_secret_never_comes_from_a_set(endpoint: Endpoint) -> None:
    """A set's `oct` member verifies nothing, and tokens with HMAC do not even ask for the set."""
    endpoint.keys = [{"kty": "oct", "k": "c2VjcmV0", "kid": "s", "alg": "HS256"}, *members()]
    with pytest.raises(TokenInvalid, match="no key"):
        await verifier(endpoint).connection(sign({"sub": "1"}, "secret"))
    assert endpoint.requests == 0


async def test_other_keys_beside_a_set(endpoint: Endpoint) -> None:
    """A secret verifies beside a set, and configured key pairs are asked first."""
    check = verifier(endpoint, hmac_secret="secret", rsa_public_key=public_pem(OTHER))
    endpoint.status = 500
    assert await check.connection(sign({}, "secret"))
    assert await check.connection(token(OTHER, "RS256", "x"))
    assert endpoint.requests == 0
    with pytest.raises(KeysUnavailable):
        await check.connection(token(RSA, "RS256", "r"))


# Fetching


async def test_one_fetch_for_all(endpoint: Endpoint, keys: KeySet) -> None:
    """Who comes while a fetch is under way waits for that one, on the loop that goes on meanwhile."""
    endpoint.gate.clear()
    looking = [asyncio.create_task(keys.find("r", "RS256")) for _ in range(20)]
    await eventually(lambda: endpoint.requests)
    looking[0].cancel()  # one who leaves does not spoil it for the others
    endpoint.gate.set()
    found = await asyncio.gather(*looking[1:])
    assert all(found)
    assert endpoint.requests == 1


async def test_an_unknown_key_is_looked_for_now_and_then(endpoint: Endpoint, keys: KeySet, clock: Clock) -> None:
    """Invented key ids cost one fetch in a while, and a key that was added is found after it."""
    for number in range(50):
        assert await keys.find(f"k{number}", "RS256") is None
    assert endpoint.requests == 1
    endpoint.keys.append(jwk(OTHER, "new"))
    clock.now += COOLDOWN - 0.1
    assert await keys.find("new", "RS256") is None
    clock.now += 0.1
    assert await keys.find("new", "RS256")
    assert await keys.find("r", "RS256")
    assert endpoint.requests == 2


async def test_a_withdrawn_key_goes(endpoint: Endpoint, keys: KeySet, clock: Clock) -> None:
    """An old set is fetched again in the background: nobody waits, and then the key is unknown."""
    assert await keys.find("r", "RS256")
    endpoint.keys = members()[1:]
    clock.now += LIFETIME - 0.1
    assert await keys.find("r", "RS256")
    await settled(keys)
    assert endpoint.requests == 1
    clock.now += 0.1
    endpoint.gate.clear()
    assert await keys.find("r", "RS256")
    assert await keys.find("r", "RS256")
    endpoint.gate.set()
    await settled(keys)
    assert await keys.find("r", "RS256") is None
    assert endpoint.requests == 2


async def test_a_key_that_was_withdrawn_while_nobody_asked(endpoint: Endpoint, keys: KeySet, clock: Clock) -> None:
    """The first token after a quiet night waits for the set: it came in with a key that was gone since the evening."""
    assert await keys.find("r", "RS256")
    endpoint.keys = members()[1:]
    clock.now += 2 * LIFETIME
    assert not any(await asyncio.gather(keys.find("r", "RS256"), keys.find("r", "RS256")))
    assert await keys.find("e", "ES256")
    assert endpoint.requests == 2


@pytest.mark.parametrize("fault", ["status", "silence"])
async def test_an_outage_after_a_quiet_night(
    endpoint: Endpoint, keys: KeySet, clock: Clock, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known keys stay in use then, too; and who comes when the fetch has failed does not wait."""
    assert await keys.find("r", "RS256")
    clock.now += 2 * LIFETIME
    endpoint.status = 503
    if fault == "silence":
        monkeypatch.setattr(jwks, "TIMEOUT", 0.05)
        endpoint.gate.clear()
    assert await keys.find("r", "RS256")
    endpoint.gate.set()
    await settled(keys)
    endpoint.gate.clear()
    clock.now += COOLDOWN
    monkeypatch.setattr(jwks, "TIMEOUT", 30.0)
    assert await asyncio.wait_for(keys.find("r", "RS256"), 5)
    endpoint.gate.set()
    await settled(keys)
    assert endpoint.requests == 3


async def test_an_outage(endpoint: Endpoint, keys: KeySet, clock: Clock) -> None:
    """Known keys stay in use, others are unavailable rather than wrong, and the end of it is noticed."""
    assert await keys.find("r", "RS256")
    endpoint.status = 503
    clock.now += LIFETIME
    for _ in range(3):
        assert await keys.find("r", "RS256")
        await settled(keys)
        with pytest.raises(KeysUnavailable, match="503"):
            await keys.find("new", "RS256")
    assert endpoint.requests == 2
    clock.now += COOLDOWN
    assert await keys.find("r", "RS256")
    await settled(keys)
    assert endpoint.requests == 3
    endpoint.status = 200
    endpoint.keys.append(jwk(OTHER, "new"))
    clock.now += COOLDOWN
    assert await keys.find("new", "RS256")
    assert await keys.find("nobody", "RS256") is None


async def test_nobody_is_there(endpoint: Endpoint, clock: Clock) -> None:
    """A refused connection is an outage as well; the next attempt has to wait."""
    endpoint.stop()
    keys = KeySet(endpoint.url, "jwks", clock=clock)
    for _ in range(2):
        with pytest.raises(KeysUnavailable, match="could not be fetched"):
            await keys.find("r", "RS256")


async def test_silence(endpoint: Endpoint, keys: KeySet, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits longer than the timeout, and no second fetch begins while the first hangs."""
    monkeypatch.setattr(jwks, "TIMEOUT", 0.05)
    monkeypatch.setattr(jwks, "_fetch", lambda url: endpoint.gate.wait(10) and [])
    endpoint.gate.clear()
    with pytest.raises(KeysUnavailable, match="did not arrive within"):
        await keys.find("r", "RS256")
    first = keys._fetch
    clock.now += COOLDOWN
    with pytest.raises(KeysUnavailable, match="did not arrive within"):
        await keys.find("r", "RS256")
    assert keys._fetch is first
    endpoint.gate.set()
    await settled(keys)


async def test_a_socket_that_says_nothing(endpoint: Endpoint, keys: KeySet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fetch itself ends by its timeout, so that the thread is free again."""
    monkeypatch.setattr(jwks, "TIMEOUT", 0.05)
    endpoint.gate.clear()
    with pytest.raises(KeysUnavailable):
        await keys.find("r", "RS256")
    await settled(keys)
    with pytest.raises(KeysUnavailable, match="timed out"):
        await keys.find("r", "RS256")


async def test_a_body_without_end(endpoint: Endpoint, keys: KeySet) -> None:
    """More than the limit is not kept."""
    endpoint.body = b" " * (4 * MAX_SIZE)
    with pytest.raises(KeysUnavailable, match="larger than"):
        await keys.find("r", "RS256")


async def test_redirects_are_refused(endpoint: Endpoint, keys: KeySet) -> None:
    """Only the operator says where keys come from."""
    endpoint.status, endpoint.headers = 302, {"Location": endpoint.url}
    with pytest.raises(KeysUnavailable, match="302"):
        await keys.find("r", "RS256")
    assert endpoint.requests == 1


# Sets


@pytest.mark.parametrize(
    "body", [b"", b"x", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[1]}', b'{"keys":[]}', b'{"keys":[{}]}', b'"\xff"']
)
def test_what_is_no_set(body: bytes) -> None:
    """It is a ValueError, for the message of the outage."""
    with pytest.raises(ValueError, match="key"):
        parse(body)


@pytest.mark.parametrize(
    "member",
    [
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "unheard-of"},
        {"kty": 1},
        jwk(RSA, "x", use="enc"),
        jwk(RSA, "x", alg="PS256"),
        jwk(RSA, "x", alg="HS256"),
        jwk(RSA, "x", alg="none"),
        jwk(ES, "x", alg="RS256"),
        jwk(ES, "x", crv="secp256k1"),
        jwk(ES, "x", x="AA"),
        jwk(RSA, "x", n=None),
        jwk(RSA, "x", n=1),
        jwk(RSA, "x", n="é"),
        jwk(ED, "x", x="AA"),
        jwk(RSA, None) | {"kid": ["x"]},
    ],
    ids=range(15),
)
def test_members_that_are_skipped(member: dict[str, Any]) -> None:
    """What is not for us, or broken, does not spoil the others."""
    found = parse(json.dumps({"keys": [member, jwk(ES, "good")]}).encode())
    assert [key.kid for key in found] == ["good"]


def test_the_algorithms_of_a_member() -> None:
    """A member that names its algorithm is for that one, else for those of its kind."""
    found = parse(json.dumps({"keys": [jwk(RSA, "a", alg="RS384"), jwk(RSA, "b"), jwk(ES, "c")]}).encode())
    assert [key.algorithms for key in found] == [("RS384",), ("RS256", "RS384", "RS512"), ("ES256",)]


def test_a_private_key_in_a_set_is_used_as_a_public_one() -> None:
    """Somebody else's mistake is not kept in memory."""
    member = ECAlgorithm.to_jwk(ES, as_dict=True)
    assert "d" in member
    (key,) = parse(json.dumps({"keys": [member]}).encode())
    assert not hasattr(key.material, "private_numbers")
