"""`hub token`: what it makes, the hub takes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hub.tokens import TokenInvalid, TokenKeys, TokenVerifier
from tests.support.command_line import Run, command_line

SECRET = "a secret of more than thirty-two bytes"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return command_line(monkeypatch, capsys)


@pytest.fixture
def verifier() -> TokenVerifier:
    return TokenVerifier(TokenKeys(hmac_secret=SECRET))


def made(run: Run, *arguments: str) -> str:
    status, out, err = run("token", *arguments)
    assert (status, err) == (0, "")
    return out.strip()


async def test_a_connection_token(run: Run, verifier: TokenVerifier) -> None:
    """With everything, from the environment or the option."""
    options = ("--user", "42", "--info", '{"name": "Ann"}', "--channels", "a, chat:b", "--expires", "10m")
    token = await verifier.connection(made(run, *options, "--secret", SECRET))
    assert (token.user, token.info, token.channels) == ("42", b'{"name":"Ann"}', ("a", "chat:b"))
    assert 590 < token.expire_at - time.time() <= 600


async def test_a_subscription_token(run: Run, verifier: TokenVerifier) -> None:
    """For one channel."""
    options = ("--user", "42", "--channel", "$private", "--info", "1", "--expires", "30")
    token = await verifier.subscription(made(run, *options, "--secret", SECRET))
    assert (token.user, token.channel, token.info) == ("42", "$private", b"1")
    assert 20 < token.expire_at - time.time() <= 30


async def test_the_defaults(run: Run, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody, for one hour, with the secret of the environment; or for ever."""
    monkeypatch.setenv("HUB_TOKEN_HMAC_SECRET_KEY", SECRET)
    token = await verifier.connection(made(run))
    assert token.user == ""
    assert 3590 < token.expire_at - time.time() <= 3600
    assert (await verifier.connection(made(run, "--expires", "0"))).expire_at == 0


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_algorithms(run: Run, verifier: TokenVerifier, algorithm: str) -> None:
    """All that a secret can sign."""
    secret = SECRET * 2
    token = made(run, "--user", "42", "--algorithm", algorithm, "--secret", secret)
    assert (await TokenVerifier(TokenKeys(hmac_secret=secret)).connection(token)).user == "42"
    with pytest.raises(TokenInvalid):
        await verifier.connection(token)


async def test_what_the_hub_asks_for_is_in_it(run: Run, tmp_path: Path) -> None:
    """Audience, issuer and the user's claim are those of the configuration."""
    file = tmp_path / "hub.toml"
    file.write_text(
        f'token_hmac_secret_key = "{SECRET}"\ntoken_audience = "hub"\ntoken_issuer = "me"\n'
        'token_user_id_claim = "user_id"\n'
    )
    keys = TokenKeys(hmac_secret=SECRET, audience="hub", issuer="me", user_id_claim="user_id")
    token = made(run, "--user", "42", "--config", str(file))
    assert (await TokenVerifier(keys).connection(token)).user == "42"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there is no secret to sign with"),
        (["--secret", "x", "--channel", "a", "--channels", "b"], "--channels is for connecting"),
        (["--secret", "x", "--info", "Ann"], "Invalid value for '--info': 'Ann' is not JSON"),
        (["--secret", "x", "--expires", "soon"], "Invalid value for '--expires': 'soon' is not a number of seconds"),
        (["--secret", "x", "--expires", "-1"], "Invalid value for '--expires': '-1' is not a number of seconds"),
        (["--secret", "x", "--algorithm", "none"], "Invalid value for '--algorithm': 'none' is not one of"),
    ],
)
def test_bad_arguments(run: Run, arguments: list[str], said: str) -> None:
    """One line, status 2, no token."""
    status, out, err = run("token", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"hub: {said}")
