"""Targets: tokens that nobody has signed, and the claims of those that somebody has."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Coroutine
from typing import Any

from hub.tokens import (
    MAX_TIME,
    ConnectionToken,
    SubscriptionToken,
    TokenExpired,
    TokenInvalid,
    TokenKeys,
    TokenVerifier,
)
from hub.types import channel_name

from .payloads import kind

__all__ = ["claims", "forged"]

SECRET = "a secret of at least thirty-two bytes"
NOW = 1_800_000_000.0
# Everybody has this one.
PUBLIC = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEjlM7b6C/e0YluzBmfAH7YH75+Lio
D+9bMAYocDGHsqNz6x294DMYNm0Gn4Om9ZAAU8c2M8sEGyHFXhqGwfQAtA==
-----END PUBLIC KEY-----
"""
KEYS = TokenKeys(hmac_secret=SECRET, ecdsa_public_key=PUBLIC)
VERIFIER = TokenVerifier(KEYS, clock=lambda: NOW)
# What applications set beside the secret.
VERIFIERS = (
    VERIFIER,
    TokenVerifier(TokenKeys(hmac_secret=SECRET, user_id_claim="id"), clock=lambda: NOW),
    TokenVerifier(TokenKeys(hmac_secret=SECRET, audience="hub", issuer="app"), clock=lambda: NOW),
)
HEADER = "eyJhbGciOiJIUzI1NiJ9"  # {"alg":"HS256"}
# With what a stranger could sign: with what is public, or not at all.
STRANGERS = (b"", b"\0", PUBLIC.encode(), PUBLIC.strip().encode(), b"secret", b"null")
DIGESTS = (hashlib.sha256, hashlib.sha384, hashlib.sha512)


def forged(data: bytes) -> list[str]:
    """A token as it comes, or a header and a payload, in a line each, that a stranger has signed: never a good one."""
    how, rest = data[:1], data[1:]
    token = rest.decode("latin-1") if how < b"\x10" else _of_a_stranger(how[0], rest)
    return [_refusal(VERIFIER.connection(token)), _refusal(VERIFIER.subscription(token))]


def _of_a_stranger(how: int, rest: bytes) -> str:
    header, _, payload = rest.partition(b"\n")
    signed = f"{_segment(header)}.{_segment(payload)}"
    digest = hmac.new(STRANGERS[how % len(STRANGERS)], signed.encode(), DIGESTS[how // 16 % len(DIGESTS)]).digest()
    return f"{signed}." if how > 0xF0 else f"{signed}.{_segment(digest)}"


def _refusal(verification: Coroutine[Any, Any, Any]) -> str:
    try:
        token = _done(verification)
    except TokenInvalid as error:
        reason = str(error)
    else:
        raise AssertionError(f"a stranger is let in: {token!r}")
    assert SECRET not in reason
    return kind(reason)


def claims(data: bytes) -> list[str]:
    """A payload that our application has signed: TokenInvalid, TokenExpired, or claims that keep their promises."""
    verifier, payload = VERIFIERS[(data[0] if data else 0) % len(VERIFIERS)], data[1:]
    signed = f"{HEADER}.{_segment(payload)}"
    token = f"{signed}.{_segment(hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest())}"
    seen = []
    for verification in (verifier.connection(token), verifier.subscription(token)):
        try:
            seen.append(_checked(_done(verification)))
        except (TokenInvalid, TokenExpired) as error:
            seen.append(kind(error))
    assert not all(text.startswith(("connection", "subscription")) for text in seen), "one token, two purposes"
    return seen


def _checked(token: ConnectionToken | SubscriptionToken) -> str:
    token.user.encode()
    assert 0 <= token.expire_at <= MAX_TIME
    if isinstance(token, SubscriptionToken):
        for text in (token.channel, token.client):
            text.encode()
        _check_json(token.info, token.data)
        return f"subscription {bool(token.user)} {bool(token.info)} {bool(token.data)} {bool(token.expire_at)}"
    for name in (*token.channels, *token.subs):
        assert channel_name(name) == name
    for grant in token.subs.values():
        _check_json(grant.info, grant.data)
    _check_json(token.info, token.meta)
    given = bool(token.user), bool(token.info), bool(token.meta), bool(token.expire_at)
    return f"connection {given} {bool(token.channels)} {bool(token.subs)}"


def _check_json(*parts: bytes) -> None:
    """What is copied into what clients are told."""
    for part in parts:
        assert b"\n" not in part
        if part:
            try:
                json.loads(part, parse_int=str, parse_float=str)
            except RecursionError:
                pass


def _segment(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def _done(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of what waits for nothing: there is no key set."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a token was waited for")
