"""docs/tokens.md: its programs make tokens that the hub takes, its settings are settings, its tables are complete."""

from __future__ import annotations

import re
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from hub import jwks, keys, tokens
from hub.config import Settings
from hub.tokens import TokenKeys, TokenVerifier

PAGE = (Path(__file__).parents[1] / "docs" / "tokens.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TOML = [tomllib.loads(block) for block in re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]


@pytest.fixture
def program() -> dict[str, Any]:
    """What all Python blocks define, read from top to bottom."""
    names: dict[str, Any] = {}
    for block in PYTHON:
        exec(block, names)
    return names


@pytest.fixture
def verifier() -> TokenVerifier:
    """One with the settings of the first TOML block."""
    return TokenVerifier(TokenKeys(hmac_secret=TOML[0]["token_hmac_secret_key"]))


async def test_the_programs(program: dict[str, Any], verifier: TokenVerifier) -> None:
    """The tokens of the first block are those of the user and channel, for ten minutes."""
    connection = await verifier.connection(program["connection_token"]("7"))
    assert (connection.user, connection.info) == ("7", b'{"name":"Ann"}')
    assert time.time() < connection.expire_at <= time.time() + 600
    subscription = await verifier.subscription(program["subscription_token"]("7", "$private:7"))
    assert (subscription.user, subscription.channel) == ("7", "$private:7")
    assert time.time() < subscription.expire_at <= time.time() + 600


async def test_the_endpoint(program: dict[str, Any], verifier: TokenVerifier) -> None:
    """The endpoint gives both kinds, and no token for a channel that is not the user's business."""
    client = TestClient(program["app"])
    connection = await verifier.connection(client.post("/hub/token").json()["token"])
    assert connection.user == "42"
    answer = client.post("/hub/token", params={"channel": "$private:1"})
    assert (await verifier.subscription(answer.json()["token"])).channel == "$private:1"
    assert client.post("/hub/token", params={"channel": "other"}).status_code == 403


def test_the_settings() -> None:
    """Each TOML block and each setting that the text names is one of the hub's, with a value that it takes."""
    named = set(re.findall(r"`(token_\w+|allow_anonymous\w+)`", PAGE))
    assert len(TOML) == 3
    assert named | {name for block in TOML for name in block} <= set(Settings.model_fields)
    assert {name for name in Settings.model_fields if name.startswith("token_")} <= named | set(TOML[1])
    for block in TOML:
        settings = Settings(**block)
        for name, value in block.items():
            found = getattr(settings, name)
            assert (found.get_secret_value() if hasattr(found, "get_secret_value") else found) == value


def test_the_claims() -> None:
    """The table has every claim that the hub reads and no other, and names all that may be in `subs` and `override`."""
    table = PAGE.partition("## Claims")[2].partition("## Keys")[0]
    rows = {name for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert rows == {
        "sub",
        *tokens._ConnectionClaims.__struct_fields__,
        *tokens._SubscriptionClaims.__struct_fields__,
    }
    for kind in (tokens._Override, tokens._Grant):
        assert all(f"`{name}`" in table for name in kind.__struct_fields__)


def test_the_numbers() -> None:
    """Limits, times and algorithms in the text are those of the code."""
    section = PAGE.partition("### A key set")[2]
    assert f"{jwks.TIMEOUT:g} seconds and {jwks.MAX_SIZE // 1024} KiB" in section
    assert f"every {jwks.COOLDOWN:g} seconds" in section
    assert f"older than {jwks.LIFETIME / 60:g} minutes" in section
    table = PAGE.partition("## Keys")[2].partition("###")[0].replace("RS\\*", "RS").replace("ES\\*", "ES")
    assert all(name in table for name in keys.ALGORITHMS)
