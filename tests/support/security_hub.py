"""A `hub serve` as it should be in production: origins, tokens, an API key, one namespace for users."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt

from .security_client import plain_request
from .server import HubProcess, hub_serve

__all__ = ["CONFIG", "KEY", "SECRET", "api", "guarded_hub", "token"]

SECRET, KEY = "the secret of the guarded hub, more than 32 bytes", "key-of-the-guarded-hub"
_WRONG = "the secret of somebody else, more than 32 bytes"
CONFIG = f"""
api_key = "{KEY}"
origins = ["https://app.example.com"]
token_hmac_secret_key = "{SECRET}"
allow_anonymous_connect_without_token = true

[namespaces.news]
presence = true
history_size = 10000
history_ttl = "300s"
force_recovery = true
allow_subscribe_for_client = true
allow_publish_for_subscriber = true
allow_history_for_subscriber = true
allow_presence_for_subscriber = true
"""


@contextlib.contextmanager
def guarded_hub(redis_url: str, *arguments: str, config: str = CONFIG) -> Iterator[HubProcess]:
    """It runs; at the end its log has neither a traceback nor one of its secrets."""
    with tempfile.TemporaryDirectory(prefix="hub-config-") as folder:
        path = Path(folder) / "hub.toml"
        path.write_text(config)
        with hub_serve("--config", str(path), "--redis-url", redis_url, *arguments) as hub:
            yield hub
            log = hub.log
    assert "Traceback" not in log, log
    assert SECRET not in log
    assert KEY not in log


def token(kind: str = "good", *, user: str = "42", **claims: object) -> str:
    """A token that is as it should be, but for what `kind` says: expired, wrong key, alg none."""
    claims = {"sub": user, "exp": int(time.time()) + (-5 if kind == "expired" else 600), **claims}
    if kind == "alg none":
        return jwt.encode(claims, "", "none")
    return jwt.encode(claims, _WRONG if kind == "wrong key" else SECRET, "HS256")


def api(hub: HubProcess, method: str, **fields: object) -> dict[str, Any]:
    """The result of a call of the server API."""
    status, _, body = plain_request(hub.port, "POST", f"/api/{method}", json.dumps(fields).encode(), X_API_Key=KEY)
    assert status == 200, body
    result: dict[str, Any] = json.loads(body)["result"]
    return result
