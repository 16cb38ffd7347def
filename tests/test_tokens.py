"""Tokens: whose they are, what they say, and everything that makes one no good."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from hub import keys as keys_module
from hub import tokens
from hub.errors import ConfigError
from hub.keys import Key, hmac_key
from hub.tokens import (
    ConnectionToken,
    Override,
    SubscribeGrant,
    SubscriptionToken,
    TokenExpired,
    TokenInvalid,
    TokenKeys,
    TokenVerifier,
    sign,
)
from tests.support.pem import private_pem, public_pem

SECRET = "a secret of at least thirty-two bytes"
NOW = 1_800_000_000

RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


def verifier(*, now: float = NOW, **keys: Any) -> TokenVerifier:
    """One with the usual secret, at a fixed time."""
    return TokenVerifier(TokenKeys(**({"hmac_secret": SECRET} | keys)), clock=lambda: now)


def segment(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def signed(payload: bytes, header: bytes = b'{"alg":"HS256"}', secret: str = SECRET) -> str:
    """A token of exactly these bytes."""
    head = f"{segment(header)}.{segment(payload)}"
    signature = jwt.get_algorithm_by_name("HS256").sign(head.encode(), secret.encode())
    return f"{head}.{segment(signature)}"


async def connection(**claims: Any) -> ConnectionToken:
    return await verifier().connection(sign(claims, SECRET))


async def subscription(**claims: Any) -> SubscriptionToken:
    return await verifier().subscription(sign({"channel": "news"} | claims, SECRET))


# Connection tokens


async def test_the_least_connection_token() -> None:
    """Without claims it is the anonymous user's and does not expire."""
    assert await connection() == ConnectionToken(user="")


async def test_a_whole_connection_token() -> None:
    """Each claim arrives in its field; JSON comes compact and with its numbers as they were written."""
    payload = b"""{"sub": "42", "exp": 1800000060, "nbf": 1799999990, "iat": 1799999999.5, "jti": "x", "aud": "a",
        "iss": "b", "info": {"name": "\xc3\x84nn",\n "big": 12345678901234567890123, "f": 1.00}, "meta": [1, null],
        "channels": ["a", "b:c"], "something": {"else": 1}}"""
    assert await verifier().connection(signed(payload)) == ConnectionToken(
        user="42",
        info='{"name":"Änn","big":12345678901234567890123,"f":1.00}'.encode(),
        meta=b"[1,null]",
        channels=("a", "b:c"),
        expire_at=1800000060,
    )


async def test_null_is_absent() -> None:
    """Libraries write null for what is not set."""
    names = ("exp", "nbf", "iat", "jti", "iss", "aud", "info", "b64info", "expire_at", "channels", "subs", "meta")
    payload = json.dumps({"sub": "1", "channel": None} | dict.fromkeys(names)).encode()
    assert await verifier().connection(signed(payload)) == ConnectionToken(user="1")


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, 0),
        ({"exp": NOW + 60}, NOW + 60),
        ({"exp": NOW + 60.9}, NOW + 60.9),
        ({"exp": NOW + 0.5}, NOW + 0.5),
        ({"exp": NOW + 60, "expire_at": NOW + 600}, NOW + 600),
        ({"exp": NOW + 60, "expire_at": 0}, 0),
        ({"exp": NOW + 60, "expire_at": -1}, 0),
        ({"expire_at": NOW - 5}, NOW - 5),
        ({"exp": NOW * 1000}, 2**32 - 1),
    ],
)
async def test_when_the_connection_expires(claims: dict[str, Any], expected: int) -> None:
    """`expire_at` wins over `exp`, 0 is never, and milliseconds are as far as the protocol's numbers go."""
    assert (await connection(**claims)).expire_at == expected
    assert (await subscription(**claims)).expire_at == expected


@pytest.mark.parametrize("claims", [{"exp": NOW}, {"exp": NOW - 0.5}, {"nbf": NOW + 1}, {"exp": 1, "expire_at": 0}])
async def test_a_token_outside_of_its_time(claims: dict[str, Any]) -> None:
    """Past `exp` and before `nbf` it is expired, whatever `expire_at` says; the client gets a new one."""
    with pytest.raises(TokenExpired):
        await connection(**claims)
    with pytest.raises(TokenExpired):
        await subscription(**claims)


async def test_a_token_from_a_clock_ahead() -> None:
    """`iat` in the future is no reason to refuse."""
    assert await connection(sub="1", iat=NOW + 3600, nbf=NOW, exp=NOW + 7200)


async def test_subs() -> None:
    """Each has its info, data and override; base64 wins over the plain claim; null and {} are plain ones."""
    subs = {
        "a": {"info": {"x": 1}, "data": [1], "override": {"presence": {"value": True}, "join_leave": {"value": False}}},
        "b": {"info": 1, "b64info": base64.b64encode(b'{ "y" : 2 }').decode(), "b64data": "MQ==", "data": 0},
        "c": {"override": {"force_recovery": None, "unknown": 1}, "b64info": ""},
        "d": None,
    }
    token = await connection(sub="1", subs=subs, channels=["z"])
    assert token.channels == ()  # subs wins
    assert token.subs == {
        "a": SubscribeGrant(info=b'{"x":1}', data=b"[1]", override=Override(presence=True, join_leave=False)),
        "b": SubscribeGrant(info=b'{"y":2}', data=b"1"),
        "c": SubscribeGrant(),
        "d": SubscribeGrant(),
    }


async def test_empty_subs_leave_the_channels() -> None:
    """`subs` wins only if it has something."""
    assert (await connection(subs={}, channels=["z"])).channels == ("z",)


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": 42},
        {"sub": ["42"]},
        {"exp": "tomorrow"},
        {"exp": True},
        {"nbf": {}},
        {"iat": "now"},
        {"jti": 1},
        {"iss": 1},
        {"aud": {"a": 1}},
        {"expire_at": "never"},
        {"channels": "a"},
        {"channels": [1]},
        {"channels": [""]},
        {"channels": ["a\nb"]},
        {"channels": ["x" * 256]},
        {"subs": ["a"]},
        {"subs": {"": {}}},
        {"subs": {"a": []}},
        {"subs": {"a": {"override": {"presence": True}}}},
        {"subs": {"a": {"override": {"presence": {"value": 1}}}}},
        {"b64info": "not base64!"},
        {"b64info": base64.b64encode(b"not JSON").decode()},
        {"b64info": base64.b64encode(b'"\xff"').decode()},
        {"b64info": base64.b64encode(b"[" * 100_000).decode()},
        {"channel": "news"},
        {"channel": ""},
    ],
    ids=str,
)
async def test_claims_that_are_refused(claims: dict[str, Any]) -> None:
    """A claim of the wrong shape makes the token invalid, and so does a channel in a connection token."""
    with pytest.raises(TokenInvalid):
        await verifier().connection(signed(json.dumps(claims).encode()))


# Subscription tokens


async def test_the_least_subscription_token() -> None:
    """It needs a channel and nothing else."""
    assert await subscription() == SubscriptionToken(user="", channel="news")


async def test_a_whole_subscription_token() -> None:
    """Each claim arrives in its field."""
    token = await subscription(
        sub="42",
        client="abc",
        info={"a": 1},
        b64data=base64.b64encode(b"{}").decode(),
        exp=NOW + 1,
        override={name: {"value": True} for name in ("force_push_join_leave", "force_recovery", "force_positioning")},
    )
    assert token == SubscriptionToken(
        user="42",
        channel="news",
        client="abc",
        info=b'{"a":1}',
        data=b"{}",
        expire_at=NOW + 1,
        override=Override(force_push_join_leave=True, force_recovery=True, force_positioning=True),
    )


@pytest.mark.parametrize("claims", [{"channel": None}, {"channel": ""}, {"channel": 1}, {"client": 1}, {"data": ...}])
async def test_subscription_claims_that_are_refused(claims: dict[str, Any]) -> None:
    """Without a channel it is no subscription token."""
    payload = json.dumps(claims, default=lambda _: "?").encode().replace(b'"?"', b"[1,]")
    with pytest.raises(TokenInvalid):
        await verifier().subscription(signed(payload))


# User, audience, issuer


@pytest.mark.parametrize(("value", "user"), [("ann", "ann"), (42, "42"), ("", "")])
async def test_another_user_claim(value: str | int, user: str) -> None:
    """A configured claim names the user in both kinds of token, also by number; `sub` does not count then."""
    check = verifier(user_id_claim="uid")
    assert (await check.connection(sign({"sub": "x", "uid": value}, SECRET))).user == user
    assert (await check.subscription(sign({"uid": value, "channel": "c"}, SECRET))).user == user


@pytest.mark.parametrize("claims", [{"sub": "x"}, {"uid": None}, {"uid": True}, {"uid": ["a"]}, {"uid": 1.5}])
async def test_another_user_claim_that_is_not_there(claims: dict[str, Any]) -> None:
    """Nobody becomes anonymous because the configuration and the token's maker disagree."""
    with pytest.raises(TokenInvalid, match="uid"):
        await verifier(user_id_claim="uid").connection(sign(claims, SECRET))


@pytest.mark.parametrize("audience", ["hub", ["other", "hub"]])
async def test_audience(audience: str | list[str]) -> None:
    """The configured one has to be among the token's."""
    assert await verifier(audience="hub").connection(sign({"aud": audience}, SECRET))


@pytest.mark.parametrize("claims", [{}, {"aud": None}, {"aud": "hubs"}, {"aud": []}, {"aud": ["other"]}])
async def test_another_audience(claims: dict[str, Any]) -> None:
    """A token for somebody else, or for nobody, is invalid rather than expired."""
    with pytest.raises(TokenInvalid, match="audience"):
        await verifier(audience="hub").connection(sign(claims | {"exp": 1}, SECRET))


async def test_issuer() -> None:
    """The configured one has to be the token's."""
    check = verifier(issuer="me")
    assert await check.connection(sign({"iss": "me"}, SECRET))
    for claims in ({}, {"iss": "you"}):
        with pytest.raises(TokenInvalid, match="issuer"):
            await check.subscription(sign({"channel": "c", **claims}, SECRET))


# Signatures


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_hmac(algorithm: str) -> None:
    """One secret serves the three algorithms; another secret does not, be it ever so similar."""
    assert (await verifier().connection(sign({"sub": "1"}, SECRET, algorithm))).user == "1"
    with pytest.raises(TokenInvalid, match="signature"):
        await verifier().connection(sign({"sub": "1"}, SECRET + " ", algorithm))


async def test_a_short_secret_is_not_warned_about_for_each_token() -> None:
    """Warnings are errors here; the configuration of the public SDKs' tests has a short one."""
    token = sign({"sub": "1"}, "secret")
    assert (await TokenVerifier(TokenKeys(hmac_secret="secret")).connection(token)).user == "1"


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512"])
async def test_rsa(algorithm: str) -> None:
    """An RSA key serves its three algorithms."""
    check = verifier(rsa_public_key=public_pem(RSA))
    assert (await check.connection(sign({"sub": "1"}, private_pem(RSA), algorithm))).user == "1"
    with pytest.raises(TokenInvalid, match="signature"):
        await check.connection(sign({"sub": "1"}, private_pem(OTHER_RSA), algorithm))


@pytest.mark.parametrize("algorithm", CURVES)
async def test_ecdsa(algorithm: str) -> None:
    """The curve of an ECDSA key decides its one algorithm."""
    key = ec.generate_private_key(CURVES[algorithm])
    check = verifier(ecdsa_public_key=public_pem(key))
    token = sign({"sub": "1"}, private_pem(key), algorithm)
    assert (await check.connection(token)).user == "1"
    with pytest.raises(TokenInvalid, match="signature"):
        await check.connection(token[:-8] + "AAAAAAAA")
    other = "ES384" if algorithm == "ES256" else "ES256"
    with pytest.raises(TokenInvalid, match="no key for algorithm"):
        await check.connection(sign({"sub": "1"}, private_pem(ec.generate_private_key(CURVES[other])), other))


async def test_a_public_key_is_no_secret() -> None:
    """Algorithm confusion: who knows the public key cannot sign HS256 with it, with or without a secret."""
    pem = public_pem(RSA)
    token = signed(b'{"sub":"admin"}', secret=pem)
    for keys in (TokenKeys(rsa_public_key=pem), TokenKeys(rsa_public_key=pem, hmac_secret=SECRET)):
        with pytest.raises(TokenInvalid):
            await TokenVerifier(keys).connection(token)
    assert not keys_module.rsa_key(pem, "x").verifies("HS256", b"", b"")


async def test_a_secret_verifies_no_signature_of_a_key_pair() -> None:
    """The other way: with a secret alone a token that claims RS256 is refused for want of a key."""
    for algorithm in ("RS256", "ES256", "EdDSA"):
        header = json.dumps({"alg": algorithm}).encode()
        with pytest.raises(TokenInvalid, match="no key for algorithm"):
            await verifier().connection(signed(b"{}", header=header))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "hs256", "PS256", "HS1", "ES256K"])
async def test_algorithms_that_are_refused(algorithm: str) -> None:
    """`none`, other spellings and others that are not ours."""
    header = json.dumps({"alg": algorithm}).encode()
    for token in (signed(b"{}", header=header), f"{segment(header)}.{segment(b'{}')}."):
        with pytest.raises(TokenInvalid, match="not supported"):
            await verifier().connection(token)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        "é.b.c",
        "\ud800.b.c",
        "a.b.c",
        "e30.e30.",
        "W10.e30.e30",
        "====.e30.e30",
        " . . ",
    ],
    ids=ascii,
)
async def test_what_is_no_token(token: str) -> None:
    """Whatever a client sends as a token is invalid and nothing worse."""
    with pytest.raises(TokenInvalid):
        await verifier().connection(token)


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b"[]",
        b"",
        b'{"alg":1}',
        b'{"alg":null}',
        b'{"alg":"HS256","kid":1}',
        b'{"alg":"HS256","crit":["b64"]}',
        b'{"alg":"HS256","crit":["exp"],"exp":1}',
        b'{"alg":"HS256","x":"\xff"}',
        b'{"alg":"HS256"} x',
    ],
)
async def test_headers_that_are_refused(header: bytes) -> None:
    """A critical extension cannot be ignored, and a header that is no object names no algorithm."""
    with pytest.raises(TokenInvalid):
        await verifier().connection(signed(b"{}", header=header))


@pytest.mark.parametrize("position", range(3))
async def test_a_changed_token(position: int) -> None:
    """Each of the three parts is under the signature."""
    parts = sign({"sub": "1"}, SECRET).split(".")
    parts[position] = sign({"sub": "2"}, SECRET + "!", "HS384").split(".")[position]
    with pytest.raises(TokenInvalid):
        await verifier().connection(".".join(parts))


async def test_no_key() -> None:
    """Without a key no token is good."""
    assert not TokenKeys().any
    with pytest.raises(TokenInvalid, match="no key"):
        await TokenVerifier(TokenKeys()).connection(sign({}, SECRET))


@pytest.mark.parametrize("name", ["hmac_secret", "hmac_previous_secret", "rsa_public_key", "ecdsa_public_key"])
def test_any(name: str) -> None:
    """`any` is true with each kind of key, and no secret is in the representation."""
    keys = TokenKeys(**{name: SECRET})
    assert keys.any
    assert TokenKeys(jwks_public_endpoint="https://x").any
    assert ("secret" in name) is (SECRET not in repr(keys))


@pytest.mark.parametrize(("until", "now", "good"), [(0, NOW, True), (NOW, NOW - 1, True), (NOW, NOW, False)])
async def test_rotation(until: int, now: float, good: bool) -> None:
    """The previous secret is good for ever or until a time; the present one always."""
    check = verifier(hmac_secret="new", hmac_previous_secret="old", hmac_previous_secret_valid_until=until, now=now)
    assert await check.connection(sign({}, "new"))
    if good:
        assert await check.connection(sign({}, "old"))
    else:
        with pytest.raises(TokenInvalid, match="signature"):
            await check.connection(sign({}, "old"))


# Payloads

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)
NAMES = [
    "sub",
    "exp",
    "nbf",
    "iat",
    "aud",
    "iss",
    "info",
    "b64info",
    "meta",
    "channels",
    "subs",
    "expire_at",
    "channel",
]


@given(st.binary() | st.dictionaries(st.sampled_from(NAMES), JSON).map(lambda value: json.dumps(value).encode()))
async def test_any_payload(payload: bytes) -> None:
    """Whatever an application has signed, it is a token or one of two errors, and its JSON is one line of UTF-8."""
    check = verifier()
    for read in (check.connection, check.subscription):
        try:
            token = await read(signed(payload))
        except (TokenInvalid, TokenExpired):
            continue
        assert 0 <= token.expire_at < 2**32
        assert b"\n" not in token.info
        if token.info:
            json.loads(token.info.decode())


@pytest.mark.parametrize(
    "payload",
    [
        b'{"sub":"\\ud800"}',
        b'{"sub":"\\ud800 and more text"}',
        b'{"exp":1e999}',
        b'{"exp":' + b"9" * 5000 + b"}",
        b'{"info":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"info":"\xff"}',
        b'{"info":{"a":NaN}}',
        b'{"sub":1e999}',
        b'{"sub":' + b"9" * 5000 + b"}",
    ],
    ids=range(9),
)
async def test_payloads_that_are_refused(payload: bytes) -> None:
    """What JSON parsers disagree about, or choke on, is invalid."""
    with pytest.raises((TokenInvalid, TokenExpired)):
        await verifier().connection(signed(payload))


# Configuration


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hmac_secret": public_pem(RSA)}, "token_hmac_secret_key"),
        ({"hmac_previous_secret": public_pem(RSA)}, "token_hmac_previous_secret_key"),
        ({"rsa_public_key": "x"}, "token_rsa_public_key is not a public key"),
        ({"rsa_public_key": private_pem(RSA)}, "token_rsa_public_key is not a public key"),
        ({"rsa_public_key": public_pem(ec.generate_private_key(ec.SECP256R1()))}, "another kind than RSA"),
        ({"ecdsa_public_key": public_pem(RSA)}, "another kind than EC"),
        ({"ecdsa_public_key": public_pem(ed25519.Ed25519PrivateKey.generate())}, "another kind than EC"),
        ({"ecdsa_public_key": public_pem(ec.generate_private_key(ec.SECP256K1()))}, "secp256k1"),
        ({"jwks_public_endpoint": "file:///etc/passwd"}, "token_jwks_public_endpoint"),
        ({"jwks_public_endpoint": "https://"}, "token_jwks_public_endpoint"),
    ],
    ids=range(10),
)
def test_keys_that_cannot_be_used(keys: dict[str, str], message: str) -> None:
    """The operator is told which setting is wrong, at the start and not by the first client."""
    with pytest.raises(ConfigError, match=message):
        TokenVerifier(TokenKeys(**keys))


@pytest.mark.parametrize(
    "keys",
    [
        {"rsa_public_key": public_pem(RSA)},
        {"ecdsa_public_key": public_pem(RSA)},
        {"jwks_public_endpoint": "https://example.com/jwks"},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_keys_that_need_the_extra(keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cryptography the error says what to install; secrets work without."""
    monkeypatch.setattr(keys_module, "has_crypto", False)
    with pytest.raises(ConfigError, match=r"broadcast-hub\[jwt\]"):
        TokenVerifier(TokenKeys(**keys))
    assert TokenVerifier(TokenKeys(hmac_secret=SECRET, hmac_previous_secret="x"))


def test_a_key_has_its_algorithms() -> None:
    """A secret is for HMAC alone."""
    key = hmac_key(SECRET, "x")
    assert key == Key(algorithms=("HS256", "HS384", "HS512"), material=SECRET.encode())


# Signing


def test_sign() -> None:
    """What is signed is what another library reads."""
    token = sign({"sub": "1", "exp": int(time.time()) + 9}, SECRET)
    assert jwt.decode(token, SECRET, ["HS256"])["sub"] == "1"
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}


@pytest.mark.parametrize(
    ("claims", "secret", "algorithm"),
    [
        ({}, SECRET, "none"),
        ({}, SECRET, "XX256"),
        ({}, "", "HS256"),
        ({}, SECRET, "RS256"),
        ({}, private_pem(RSA), "ES256"),
        ({}, private_pem(RSA), "HS256"),
        ({"a": object()}, SECRET, "HS256"),
    ],
    ids=range(7),
)
def test_what_cannot_be_signed(claims: dict[str, Any], secret: str, algorithm: str) -> None:
    """A wrong algorithm, key or claim is a ConfigError for the command line to print."""
    with pytest.raises(ConfigError):
        sign(claims, secret, algorithm)


def test_exports() -> None:
    """What is exported is there."""
    assert all(hasattr(tokens, name) for name in tokens.__all__)
