"""`hub config check`: faults are named one by one, meanings told in words, insecure settings warned of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.command_line import Run, command_line
from tests.support.pem import public_pem

Check = Callable[[str], tuple[int, str, str]]

GOOD = """
api_key = ["a key of sixteen", "another key that is long"]
token_hmac_secret_key = "a secret of more than thirty-two bytes"
token_hmac_previous_secret_key = "a secret of more than 32 bytes, too"
token_hmac_previous_secret_key_valid_until = 1900000000
token_jwks_public_endpoint = "https://login.example/keys"
subscribe_to_user_personal_channel = true
user_personal_channel_namespace = "news"

[without_namespace]
allow_subscribe_for_client = true

[namespaces.news]
history_size = 100
history_ttl = "1h30m"
allow_recovery = true
force_recovery_mode = "cache"
presence = true
join_leave = true
allowed_delta_types = ["fossil"]
delta_publish = true
allow_tags_filter = true
channel_regex = "^[a-z]+$"
publication_data_format = "json_object"
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
allow_publish_for_subscriber = true
allow_presence_for_subscriber = true
allow_presence_for_anonymous = true
allow_history_for_client = true

[namespaces.safe]
history_size = 5
history_ttl = 60
force_positioning = true
presence = true
join_leave = true
force_push_join_leave = true
allowed_delta_types = ["fossil"]

[namespaces.sure]
history_size = 5
history_ttl = 45
force_recovery = true

[namespaces.asking]
history_size = 5
history_ttl = "2d"
allow_positioning = true
"""

MEANS = """\
Who may connect
  clients           clients with a token
  tokens            HMAC, HMAC with the secret before until 2030-03-17 17:46 UTC, keys from https://login.example/keys
  personal channel  news:#<user>
  server API        with one of 2 keys
Channels without a namespace
  subscribe         clients with a user id
  publish           the server API only
  history           off
  recovery          off
  presence          off
  joins, leaves     off
Channels news:...
  subscribe         everybody
  publish           subscribers with a user id
  history           100 publications for 90 min, read by clients with a user id
  recovery          subscribers that ask, the latest publication
  presence          subscribers
  joins, leaves     subscribers that ask
  names             match ^[a-z]+$
  publications      are JSON objects
  deltas            all publications
  filters           by tags
Channels safe:...
  subscribe         with a token for the channel
  publish           the server API only
  history           5 publications for 1 min, read by the server API only
  recovery          off, but subscribers learn of losses
  presence          the server API only
  joins, leaves     all subscribers
  deltas            publications that ask for it
Channels sure:...
  subscribe         with a token for the channel
  publish           the server API only
  history           5 publications for 45 s, read by the server API only
  recovery          all subscribers
  presence          off
  joins, leaves     off
Channels asking:...
  subscribe         with a token for the channel
  publish           the server API only
  history           5 publications for 2 d, read by the server API only
  recovery          off, but subscribers learn of losses if they ask
  presence          off
  joins, leaves     off
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return command_line(monkeypatch, capsys)


@pytest.fixture
def check(run: Run, tmp_path: Path) -> Check:
    """`hub config check` on a file with this text, which only its owner can read."""

    def check(text: str) -> tuple[int, str, str]:
        file = tmp_path / "hub.toml"
        file.write_text(text)
        file.chmod(0o600)
        return run("config", "check", str(file))

    return check


def test_what_a_file_means(check: Check) -> None:
    """Each namespace in words, and nothing to warn of."""
    assert check(GOOD) == (0, MEANS, "")


def test_an_empty_file(check: Check) -> None:
    """The built-in namespace, no tokens, no API."""
    status, out, err = check("")
    assert (status, err) == (0, "")
    assert "  clients           everybody\n" in out
    assert "  tokens            none is accepted: there is no key\n" in out
    assert "  server API        off\n" in out
    assert "Channels chat:...\n" in out


def test_other_keys(check: Check) -> None:
    """A token key of any kind closes the hub to clients without one."""
    keys = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    pems = zip(("token_rsa_public_key", "token_ecdsa_public_key"), map(public_pem, keys), strict=True)
    _, out, _ = check("".join(f'{name} = """{pem}"""\n' for name, pem in pems) + 'api_key = "a key of sixteen"\n')
    assert "clients with a token" in out
    assert "  tokens            RSA, ECDSA\n" in out
    assert "  server API        with 1 key\n" in out


def test_every_fault_is_named(check: Check) -> None:
    """One line each, status 2, no meaning."""
    status, out, err = check('drain = -1\nport = "x"\n[namespaces.chat]\nhistroy_size = 1\nhistory_ttl = "soon"\n')
    assert (status, out) == (2, "")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["hub"] * 4
    for name in ("drain", "port", "namespaces.chat.histroy_size", "namespaces.chat.history_ttl"):
        assert f"hub: {name}: " in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("= 1", "config: "),
        ("wrokers = 4", "has unknown settings: wrokers"),
        ("[namespaces.chat]\nhistory_size = 1", "history needs both history_size and history_ttl"),
    ],
)
def test_other_faults(check: Check, text: str, said: str) -> None:
    """What is no TOML, and what is wrong only together."""
    status, _, err = check(text)
    assert (status, err.count("\n")) == (2, 1)
    assert said in err


# What the settings themselves cannot know to be wrong; here with the beginning of the sentence.
UNUSABLE = [
    ('token_rsa_public_key = "garbage"', "token_rsa_public_key is not a public key in PEM format"),
    ('token_ecdsa_public_key = "garbage"', "token_ecdsa_public_key is not a public key in PEM format"),
    ('token_hmac_secret_key = "ssh-rsa AAAA"', "token_hmac_secret_key is not a secret"),
    ('token_jwks_public_endpoint = "ftp://x"', "token_jwks_public_endpoint"),
    ('token_jwks_public_endpoint = "no url"', "token_jwks_public_endpoint"),
    ('redis_url = "redis://h:notaport/0"', "redis_url: the Redis URL cannot be used"),
    ('redis_url = "redis://h/abc"', "redis_url: the Redis URL cannot be used"),
    ('redis_url = "redis://h/0?foo=1"', "redis_url: the Redis URL cannot be used"),
    ('redis_url = "redis+sentinel://h1,h2"', "redis_url: the Redis URL cannot be used"),
    ('examples = true\ntoken = "a token of the clients"', "examples: everybody may use them"),
]


@pytest.mark.parametrize(("text", "said"), UNUSABLE)
def test_what_would_not_start(check: Check, run: Run, tmp_path: Path, text: str, said: str) -> None:
    """`check` approved of it, and then `hub serve` ended, some of them with a worker's traceback: both say the same."""
    checked = check(text)
    served = run("serve", "--config", str(tmp_path / "hub.toml"), "--host", "no.such.host.invalid")
    assert checked == served
    status, out, err = checked
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"hub: {said}")


def test_an_unusable_variable_is_named(check: Check, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that is wrong; but an option wins over a variable."""
    monkeypatch.setenv("HUB_TOKEN_RSA_PUBLIC_KEY", "garbage")
    monkeypatch.setenv("REDIS_URL", "redis://h/abc")
    _, _, err = check('redis_url = "redis://h"')
    key, url = err.splitlines()
    assert key == "hub: token_rsa_public_key (HUB_TOKEN_RSA_PUBLIC_KEY) is not a public key in PEM format"
    assert url.startswith("hub: redis_url (REDIS_URL): the Redis URL cannot be used")
    assert "redis_url: the Redis URL cannot be used" in run("serve", "--redis-url", "redis://h/abc")[2]


def test_nothing_is_connected(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Redis, nor the key set, nor is there an event loop to do it in."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("there is a connection or an event loop")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("asyncio.new_event_loop", refuse)
    text = 'redis_url = "redis://127.0.0.1:1/0"\ntoken_jwks_public_endpoint = "https://127.0.0.1:1/keys"\n'
    assert check(text)[0] == 0


def test_no_file(run: Run) -> None:
    """It is named."""
    status, _, err = run("config", "check", "nothing.toml")
    assert (status, err) == (2, "hub: config: there is no file 'nothing.toml'\n")


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("client_insecure = true", "client_insecure is on: everybody may subscribe"),
        ('host = "0.0.0.0"', "everybody who reaches 0.0.0.0 may connect without a token"),
        ('token_hmac_secret_key = "secret"', "token_hmac_secret_key is shorter than 32 bytes"),
        (
            'token_hmac_previous_secret_key = "secret"\ntoken_hmac_previous_secret_key_valid_until = 1',
            "token_hmac_previous_secret_key is shorter than 32 bytes",
        ),
        (
            'token_hmac_previous_secret_key = "a secret of more than thirty-two bytes"',
            "token_hmac_previous_secret_key has no token_hmac_previous_secret_key_valid_until",
        ),
        ('api_key = ["key", "a key of sixteen"]', "api_key is shorter than 16 characters"),
        ('token = "token"', "token is shorter than 16 characters"),
        ('console_password = "password"', "console_password is shorter than 16 characters"),
        ('token_jwks_public_endpoint = "http://login.example/keys"', "token_jwks_public_endpoint is not https"),
        ('origins = "*"', "origins allows any web site"),
        ('forwarded_allow_ips = "*"', "forwarded_allow_ips believes anybody"),
    ],
)
def test_warnings(check: Check, text: str, warning: str) -> None:
    """One line each on standard error; the status stays 0, and no secret is shown."""
    status, out, err = check(text)
    assert (status, err.count("\n")) == (0, 1)
    assert err.startswith(f"warning: {warning}")
    assert "secret of more" not in out + err


def test_a_file_that_all_can_read(check: Check, run: Run, tmp_path: Path) -> None:
    """Matters if there are secrets in it."""
    check('token_hmac_secret_key = "a secret of more than thirty-two bytes"')
    file = tmp_path / "hub.toml"
    file.chmod(0o644)
    assert run("config", "check", str(file))[2] == (
        f"warning: {file} has secrets, and every user of this machine can read it\n"
    )
    file.write_text("workers = 2\n")
    assert run("config", "check", str(file))[2] == ""
