"""Tokens that somebody without a key makes: none is believed, whatever its header says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hub.errors import ConfigError
from hub.tokens import TokenInvalid, TokenKeys, TokenVerifier
from tests.support.pem import private_pem, public_pem
from tests.support.security_keys import jwk, key_endpoint

pytestmark = pytest.mark.timed

SECRET = "a secret of the operator, more than 32 bytes"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
MALLORY = rsa.generate_private_key(65537, 2048)
CLAIMS = {"sub": "admin"}
HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


def part(value: Any) -> bytes:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def forged(header: dict[str, Any], secret: bytes, claims: dict[str, Any] = CLAIMS) -> str:
    """A token signed by hand: no library warns of what it does."""
    signed = part(header) + b"." + part(claims)
    digest = hmac.new(secret, signed, HASHES.get(header["alg"], hashlib.sha256)).digest()
    return (signed + b"." + part(digest)).decode()


async def refused(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(TokenInvalid) as error:
        await verifier.connection(token)
    with pytest.raises(TokenInvalid):
        await verifier.subscription(token)
    return str(error.value)


def public_forms(key: Any) -> list[bytes]:
    """A public key in every form in which somebody may have it."""
    public = key.public_key()
    pem, info = PublicFormat.SubjectPublicKeyInfo, Encoding.DER
    forms = [public.public_bytes(Encoding.PEM, pem), public.public_bytes(info, pem)]
    if isinstance(key, rsa.RSAPrivateKey):
        forms += [public.public_bytes(Encoding.PEM, PublicFormat.PKCS1), public.public_bytes(info, PublicFormat.PKCS1)]
    return [
        *forms,
        *(form.strip() for form in forms),
        forms[0].replace(b"\n", b"\r\n"),
        json.dumps(jwk(key, "k")).encode(),
    ]


@pytest.mark.parametrize("algorithm", HASHES)
@pytest.mark.parametrize("with_secret", [False, True])
async def test_a_public_key_is_no_secret(algorithm: str, with_secret: bool) -> None:
    """HS256 with what everybody knows of an RSA or EC key as the secret, whether there is a real secret or not."""
    keys = {"rsa_public_key": public_pem(RSA), "ecdsa_public_key": public_pem(EC)}
    verifier = TokenVerifier(TokenKeys(**keys, hmac_secret=SECRET if with_secret else ""))
    for secret in (*public_forms(RSA), *public_forms(EC), b"", b"\x00"):
        await refused(verifier, forged({"alg": algorithm, "typ": "JWT"}, secret))


async def test_a_key_of_a_set_is_no_secret() -> None:
    """The same with a key that comes from a set."""
    with key_endpoint() as endpoint:
        endpoint.has(jwk(RSA, "r"))
        verifier = TokenVerifier(TokenKeys(jwks_public_endpoint=endpoint.url))
        assert (await verifier.connection(jwt.encode(CLAIMS, private_pem(RSA), "RS256", {"kid": "r"}))).user == "admin"
        for secret in public_forms(RSA):
            await refused(verifier, forged({"alg": "HS256", "kid": "r"}, secret))


@pytest.mark.parametrize(
    "name", ["none", "None", "NONE", "nOnE", "", " none", "HS256 ", "hs256", "HS1", "PS256", "ES256K"]
)
@pytest.mark.parametrize("signature", ["", "AAAA", "e30"])
async def test_no_algorithm(name: str, signature: str) -> None:
    """`none` in any spelling, and algorithms that the hub does not have, are refused."""
    verifier = TokenVerifier(TokenKeys(hmac_secret=SECRET, rsa_public_key=public_pem(RSA)))
    token = f"{part({'alg': name}).decode()}.{part(CLAIMS).decode()}.{signature}"
    await refused(verifier, token)


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": jwk(MALLORY, "mine")},
        {"jwk": jwk(MALLORY, "r"), "kid": "r"},
        {"jku": "URL", "kid": "mine"},
        {"x5u": "URL"},
        {"x5c": [base64.b64encode(b"certificate").decode()]},
        {"kid": "mine"},
        {"kid": "r"},
        {"kid": "../../../../dev/null"},
        {"kid": "r' OR '1'='1"},
        {"kid": "URL"},
        {"kid": "r\x00"},
        {"kid": "x" * 50_000},
        {"kid": ["r"]},
        {"kid": {"r": 1}},
        {"crit": ["exp"], "kid": "r"},
        {"b64": False, "crit": ["b64"], "kid": "r"},
        {"zip": "DEF", "kid": "r"},
    ],
    ids=lambda header: "-".join(header),
)
async def test_headers_that_bring_their_own_key(header: dict[str, Any]) -> None:
    """What a header says of keys is a name and no more: no key, address or file that it names is ever used."""
    with key_endpoint() as endpoint, key_endpoint() as mine:
        endpoint.has(jwk(RSA, "r"))
        mine.has(jwk(MALLORY, "mine"))
        verifier = TokenVerifier(TokenKeys(jwks_public_endpoint=endpoint.url, hmac_secret=SECRET))
        header = {name: mine.url if value == "URL" else value for name, value in header.items()}
        signed = part({"alg": "RS256", **header}) + b"." + part(CLAIMS)
        signature = jwt.get_algorithm_by_name("RS256").sign(
            signed, jwt.get_algorithm_by_name("RS256").prepare_key(private_pem(MALLORY))
        )
        await refused(verifier, (signed + b"." + part(signature)).decode())
        await refused(verifier, forged({"alg": "HS256", **header}, b""))
        assert mine.requests == []


async def test_two_headers_in_one() -> None:
    """A name that is there twice does not show one algorithm to one reader and another to the next."""
    verifier = TokenVerifier(TokenKeys(hmac_secret=SECRET))
    for header in (b'{"alg":"HS256","alg":"none"}', b'{"alg":"none","alg":"HS256"}'):
        signed = part(header) + b"." + part(CLAIMS)
        await refused(verifier, (signed + b".").decode())
        await refused(verifier, (signed + b"." + part(hmac.new(b"", signed, hashlib.sha256).digest())).decode())


@pytest.mark.parametrize("algorithm", HASHES)
async def test_a_part_of_a_signature(algorithm: str) -> None:
    """A signature counts as a whole: neither its beginning nor something longer is enough."""
    verifier = TokenVerifier(TokenKeys(hmac_secret=SECRET))
    token = forged({"alg": algorithm}, SECRET.encode())
    assert (await verifier.connection(token)).user == "admin"
    signed, _, signature = token.rpartition(".")
    digest = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    for wrong in (b"", digest[:1], digest[:16], digest[:-1], digest + b"\x00", digest * 2, digest[::-1]):
        await refused(verifier, f"{signed}.{part(wrong).decode()}")


HUGE = {
    "user": forged({"alg": "HS256"}, SECRET.encode(), {"sub": "u" * 2**20}),
    "signature": "e30.e30." + "A" * 2**20,
    "dots": "." * 2**20,
    "deep": forged({"alg": "HS256"}, SECRET.encode(), {"sub": "u"})[:0] + "e30." + "W1tb" * 2**18 + ".AAAA",
    "deep header": base64.urlsafe_b64encode(b'{"alg":' + b"[" * 2**18).decode() + ".e30.AAAA",
    "many channels": forged({"alg": "HS256"}, b"wrong", {"sub": "u", "channels": ["c"] * 10**5}),
}


@pytest.mark.parametrize("kind", HUGE)
async def test_huge_tokens(kind: str) -> None:
    """A megabyte of nonsense is refused within a few milliseconds, and what is well signed is just long."""
    verifier = TokenVerifier(TokenKeys(hmac_secret=SECRET, rsa_public_key=public_pem(RSA)))
    begun = time.perf_counter()
    if kind == "user":
        assert len((await verifier.connection(HUGE[kind])).user) == 2**20
    else:
        await refused(verifier, HUGE[kind])
    assert time.perf_counter() - begun < 0.5


async def test_claims_are_not_read_before_the_signature() -> None:
    """What nobody has signed is not even parsed: a broken payload is told from a broken signature by nobody."""
    verifier = TokenVerifier(TokenKeys(hmac_secret=SECRET))
    header = part({"alg": "HS256"}).decode()
    answers = {
        await refused(verifier, f"{header}.{payload}.AAAA")
        for payload in ("e30", "bm9uZQ", "////", part({"exp": 1}).decode())
    }
    assert answers == {"the signature does not match"}


@pytest.mark.parametrize("form", range(2))
def test_a_public_key_as_the_secret_is_refused_at_the_start(form: int) -> None:
    """The operator's own mistake: a public key in the place of the secret would let everybody sign."""
    with pytest.raises(ConfigError, match="token_hmac_secret_key is not a secret"):
        TokenVerifier(TokenKeys(hmac_secret=public_forms((RSA, EC)[form])[0].decode()))
