"""Settings: where they come from, what is refused, and that secrets stay secret."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hub.config import Settings, WireOptions
from hub.errors import ConfigError

ROOT = Path(__file__).parent.parent
# Of these an empty one has a meaning of its own.
LISTS = ("origins", "api_key", "forwarded_allow_ips")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "HUB_REDIS_URL", *(f"HUB_{field.upper()}" for field in Settings.model_fields)):
        monkeypatch.delenv(name, raising=False)


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line wins over the environment, that over the file, that over the default."""
    file = tmp_path / "hub.toml"
    file.write_text('port = 1\nworkers = 2\nmax_connections = 3\norigins = ["https://a.example"]\n')
    monkeypatch.setenv("HUB_CONFIG", str(file))
    monkeypatch.setenv("HUB_PORT", "4")
    monkeypatch.setenv("HUB_WORKERS", "5")
    settings = Settings.load(port=6, workers=None)
    assert (settings.port, settings.workers, settings.max_connections, settings.drain) == (6, 5, 3, 5.0)
    assert settings.origins == ("https://a.example",)


def test_redis_url_and_origins_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """REDIS_URL is enough, HUB_REDIS_URL is more specific; origins are comma-separated."""
    monkeypatch.setenv("REDIS_URL", "redis://one")
    monkeypatch.setenv("HUB_ORIGINS", "https://a.example/, https://b.example")
    settings = Settings.load()
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "redis://one"
    assert settings.origins == ("https://a.example", "https://b.example")
    monkeypatch.setenv("HUB_REDIS_URL", "redis://two")
    assert Settings.load().redis_url.get_secret_value() == "redis://two"  # type: ignore[union-attr]


def test_a_list_is_as_good_as_commas() -> None:
    """Of a file or a program: a slash at the end of an origin, as browsers show it, kept it from matching any."""
    settings = Settings(origins=("https://A.example/", " http://b.example:8080", "", "null"), api_key=(" k1 ", "k2"))
    assert settings.origins == ("https://a.example", "http://b.example:8080", "null")
    assert settings.api_keys == ("k1", "k2")
    assert Settings.model_validate({"origins": "*"}).origins == ("*",)


def test_an_api_key_keeps_its_last_letter() -> None:
    """A random one in Base64 may end with a slash, which is no slash of an address."""
    assert Settings.model_validate({"api_key": "abc/, d"}).api_keys == ("abc/", "d")


@pytest.mark.parametrize("keys", [[""], [" ", ""], ",", ""])
def test_an_empty_api_key_is_none(keys: object) -> None:
    """In a list of a file or a program it was a key that everybody has who sends none: the API was open."""
    assert Settings.model_validate({"api_key": keys}).api_keys == ()


@pytest.mark.parametrize("variable", ["REDIS_URL", "HUB_REDIS_URL"])
def test_the_redis_url_comes_from_where_the_others_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """With either name: REDIS_URL did not win over the file."""
    file = tmp_path / "hub.toml"
    file.write_text('redis_url = "redis://file"\n')
    monkeypatch.setenv(variable, "redis://variable")
    found = (Settings.load(config=file).redis_url, Settings.load(config=file, redis_url="redis://option").redis_url)
    assert [url and url.get_secret_value() for url in found] == ["redis://variable", "redis://option"]


def test_empty_variables_are_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """`HUB_TOKEN=` in a Compose file turns tokens off; it does not ask for an empty one that nobody sends."""
    for name in ("HUB_TOKEN", "HUB_API_KEY", "REDIS_URL", "HUB_UDS"):
        monkeypatch.setenv(name, "")
    settings = Settings.load()
    assert (settings.token, settings.api_key, settings.redis_url, settings.uds) == (None, (), None, None)


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name not in LISTS])
def test_an_empty_variable_is_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The file decides what its setting is, or the default: `HUB_HOST=` listened on all interfaces.

    And `HUB_TOKEN=`, where Compose knew no value, let everybody in whom the file kept out.
    """
    file = tmp_path / "hub.toml"
    file.write_text('host = "::1"\ntoken = "a static token of clients"\n')
    expected = Settings.load(config=file)
    monkeypatch.setenv(f"HUB_{name.upper()}", "")
    assert Settings.load(config=file) == expected


def test_an_empty_list_is_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No origins, no keys, no proxies, whatever the file says."""
    file = tmp_path / "hub.toml"
    file.write_text('origins = "*"\napi_key = "key"\nforwarded_allow_ips = "*"\n')
    for name in LISTS:
        monkeypatch.setenv(f"HUB_{name.upper()}", "")
    settings = Settings.load(config=file)
    assert (settings.origins, settings.api_key, settings.forwarded_allow_ips) == ((), (), "")


def test_an_empty_host_is_unset_everywhere(tmp_path: Path) -> None:
    """In the file, as an option, and in Python."""
    file = tmp_path / "hub.toml"
    file.write_text('host = ""\n')
    hosts = {Settings.load(config=file).host, Settings.load(host="").host, Settings(host="").host}
    assert hosts == {"127.0.0.1"}


def test_the_address_of_a_service_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes sets HUB_PORT in all pods of a namespace that has a Service named `hub`: no `Hub()` started there."""
    for scheme in ("tcp", "udp", "sctp"):
        monkeypatch.setenv("HUB_PORT", f"{scheme}://10.96.12.7:8000")
        assert Settings.load().port == 8000
    monkeypatch.setenv("HUB_PORT", "http://10.96.12.7")
    with pytest.raises(ConfigError):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("HUB_PORT", "x", "port (HUB_PORT): Input should be a valid integer"),
        ("REDIS_URL", "localhost", "redis_url (REDIS_URL): a Redis URL begins with"),
        ("HUB_REDIS_URL", "localhost", "redis_url (HUB_REDIS_URL): a Redis URL begins with"),
        ("HUB_NAMESPACES", '{"a": {"history_ttl": "s"}}', "namespaces.a.history_ttl (HUB_NAMESPACES): "),
        ("HUB_NAMESPACES", '{"a": s3cret}', "namespaces (HUB_NAMESPACES): this is not JSON: Expecting value: line 1"),
        ("HUB_MESSAGE_BURST", "5", "message_burst (HUB_MESSAGE_BURST) needs message_rate: without it"),
        ("HUB_PING_INTERVAL", "5", "ping_timeout must not be longer than ping_interval (HUB_PING_INTERVAL)"),
    ],
)
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    """Without what is in it."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        Settings.load(redis_timeout=1)
    assert str(caught.value).startswith(sentence)
    assert "s3cret" not in str(caught.value)


def test_a_variable_that_decides_nothing_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option wins over it; and what is in the file has its name there."""
    file = tmp_path / "hub.toml"
    file.write_text('drain = "x"\n')
    monkeypatch.setenv("HUB_PORT", "8001")
    monkeypatch.setenv("HUB_DRAIN", "")
    with pytest.raises(ConfigError) as caught:
        Settings.load(config=file, port="x")
    assert [str(sentence).partition(":")[0] for sentence in caught.value.args] == ["port", "drain"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"port": "x"}, "port: "),
        ({"workers": 0}, "workers: "),
        ({"redis_url": "localhost"}, "a Redis URL begins with redis://"),
        ({"ping_timeout": 30, "ping_interval": 10}, "ping_timeout must not be longer"),
        ({"slow_budget": 1024}, "slow_budget must hold"),
        ({"slow_policy": "x"}, "slow_policy: "),
        ({"origins": "app.example.com"}, "origins: 'app.example.com' is no origin"),
        ({"origins": ["https://app.example.com/chat"]}, "origins: 'https://app.example.com/chat' is no origin"),
        ({"origins": "https://a.example, https://*.b.example"}, "origins: 'https://*.b.example' is no origin"),
        ({"slow_timeout": "inf"}, "slow_timeout: "),
        ({"config": "nowhere.toml"}, "there is no file 'nowhere.toml'"),
    ],
)
def test_bad_values_are_sentences(given: dict[str, object], sentence: str) -> None:
    """A wrong setting is named, in one line."""
    with pytest.raises(ConfigError) as caught:
        Settings.load(**given)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["prot = 1", "port = ", "[a]\nb=1"])
def test_a_bad_file_is_refused(tmp_path: Path, text: str) -> None:
    """A misspelt setting, or a file that is not TOML, is not ignored."""
    file = tmp_path / "hub.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"hub\.toml"):
        Settings.load(config=file)


@pytest.mark.parametrize("failing", ["open", "is_file"])
def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """It was a traceback: the file is root's with the mode 0600, or in a folder of that kind."""
    file = tmp_path / "hub.toml"
    file.touch()

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, failing, denied)
    with pytest.raises(ConfigError) as caught:
        Settings.load(config=file)
    assert str(caught.value) == f"config: {str(file)!r} cannot be read: Permission denied"


def test_secrets_are_not_shown() -> None:
    """Neither repr nor an error shows a token, a key or a password."""
    secret = "s3cret"
    settings = Settings.load(token=secret, api_key=secret, redis_url=f"redis://:{secret}@host")
    assert secret not in repr(settings)
    assert secret not in str(settings)
    with pytest.raises(ConfigError) as caught:
        Settings.load(redis_url=f"http://{secret}", token=secret)
    assert secret not in str(caught.value)


def test_what_a_worker_gets() -> None:
    """The supervisor's settings survive the pipe, secrets included."""
    settings = Settings.load(token="t", origins="https://a.example", slow_policy="keep_latest", message_rate=2.5)
    copy = Settings.load(**json.loads(settings.for_worker("unix:///tmp/x")))
    assert copy == settings.model_copy(update={"redis_url": copy.redis_url})
    assert copy.redis_url is not None
    assert copy.burst == 5


def test_wire_options_are_the_settings() -> None:
    """The defaults of a connection are those of the settings."""
    assert Settings.load().wire() == WireOptions()
    assert Settings.load(slow_timeout=3).wire().slow_timeout == 3


def test_the_reference_page_is_current() -> None:
    """docs/reference.md says what the tables say."""
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
