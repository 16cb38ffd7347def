"""Who may do what: every permission of a namespace, tokens, the application's functions, and their precedence."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from hub.authority import Asker, Authority, Principal, RoomRights, User
from hub.config import Settings
from hub.errors import ConfigError, Disconnects, Ended, Refused
from hub.namespaces import ChannelOptions
from hub.tokens import Override, SubscribeGrant, sign

SECRET = "a secret of at least thirty-two bytes"
FUTURE = int(time.time()) + 86400


class Client:
    """One that asks."""

    client_id = "c-1"

    def __init__(self, user: str = "", *channels: str) -> None:
        self.user = user
        self._channels = channels

    def is_subscribed(self, channel: str) -> bool:
        return channel in self._channels


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


def authority(*, n: ChannelOptions | None = None, **settings: Any) -> Authority:
    """One with a namespace `n`."""
    given = Settings(**{"namespaces": {"n": n or ChannelOptions()}, **settings})
    return Authority(given, given.channels)


def request(query: bytes = b"") -> HTTPConnection:
    return HTTPConnection({"type": "websocket", "headers": [], "query_string": query, "path": "/"})


async def refusal(work: Awaitable[Any]) -> int:
    """The code with which something is refused, or ended; 0 if it is not."""
    try:
        await work
    except Refused as fault:
        return fault.error.code
    except Ended as fault:
        return fault.disconnect.code
    return 0


def refused(ask: Callable[..., Any], *arguments: Any) -> int:
    """The same of what does not wait."""
    try:
        ask(*arguments)
    except Refused as fault:
        return fault.error.code
    return 0


# Permissions of namespaces

TWICE = list(itertools.product((False, True), repeat=2))
THRICE = list(itertools.product((False, True), repeat=3))


@pytest.mark.parametrize(("for_client", "for_subscriber", "for_anonymous"), THRICE)
@pytest.mark.parametrize("user", ["", "ann"])
@pytest.mark.parametrize("subscribed", [False, True])
@pytest.mark.parametrize("what", ["publish", "presence", "history"])
def test_commands_in_a_channel(
    what: str, subscribed: bool, user: str, for_client: bool, for_subscriber: bool, for_anonymous: bool
) -> None:
    """Clients, or subscribers, may; and those without a user id only if they may as well."""
    options = ChannelOptions(
        presence=True,
        history_size=1,
        history_ttl=1,
        **{
            f"allow_{what}_for_client": for_client,
            f"allow_{what}_for_subscriber": for_subscriber,
            f"allow_{what}_for_anonymous": for_anonymous,
        },
    )
    rules, client = authority(n=options), Client(user, *["n:x"] * subscribed)
    expected = (for_client or (for_subscriber and subscribed)) and (bool(user) or for_anonymous)
    ask = {
        "publish": lambda: rules.may_publish(client, "n:x", options),
        "presence": lambda: rules.presence(client, "n:x"),
        "history": lambda: rules.history(client, "n:x"),
    }[what]
    assert refused(ask) == (0 if expected else 103)
    as_subscriber = (for_client or for_subscriber) and (bool(user) or for_anonymous)
    assert rules.may(client, "n:x", options, what) == as_subscriber


@pytest.mark.parametrize(("for_client", "for_anonymous"), TWICE)
@pytest.mark.parametrize("user", ["", "ann"])
async def test_subscribing(user: str, for_client: bool, for_anonymous: bool) -> None:
    """Clients may, and those without a user id only if they may as well."""
    options = ChannelOptions(allow_subscribe_for_client=for_client, allow_subscribe_for_anonymous=for_anonymous)
    allowed = for_client and (bool(user) or for_anonymous)
    assert await refusal(authority(n=options).subscribe(Client(user), "n:x", "")) == (0 if allowed else 103)


def test_what_a_namespace_does_not_have() -> None:
    """Presence and history that are off are not available, whoever asks; also where everybody may do everything."""
    for rules in (authority(), authority(client_insecure=True)):
        for ask in (rules.presence, rules.history):
            assert refused(ask, Client("ann", "n:x"), "n:x") == 108


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        ("x", 0),
        ("räum 1", 0),
        ("日本\u3000", 0),
        ("👩\u200d🚀", 0),
        ("x" * 255, 0),
        ("x" * 256, 107),
        ("ä" * 128, 107),
        ("a\nb", 107),
        ("\ud800", 107),
        ("n:x", 0),
        ("no:x", 102),
        ("$no:x", 102),
        ("$n:x", 0),
        ("n:", 0),
    ],
)
async def test_channel_names(channel: str, expected: int) -> None:
    """Those that raw clients may use, up to 255 bytes, in a namespace that is configured."""
    assert refused(authority().options, channel) == expected


@pytest.mark.parametrize(
    ("shape", "data", "expected"),
    [
        ("", b"1", 0),
        ("", b"", 107),
        ("json", b'"x"', 0),
        ("json_object", b'{"a":1}', 0),
        ("json_object", b"[]", 107),
        ("binary", b'"x"', 107),
    ],
)
def test_what_may_be_published(shape: Any, data: bytes, expected: int) -> None:
    """Something, and of the shape that the namespace wants."""
    rules = authority(n=ChannelOptions(publication_data_format=shape))
    assert refused(rules.publishable, "n:x", data) == expected


# Channels of their own kind


@pytest.mark.parametrize(
    ("channel", "user", "expected"),
    [
        ("#7", "7", 0),
        ("#7", "8", 103),
        ("dialog#7,12", "12", 0),
        ("dialog#7,12", "1", 103),
        ("dialog#7,12", "", 103),
        ("dialog#,", "", 103),
        ("n:dialog#7", "7", 0),
        ("$secret", "7", 103),
        ("$n:secret", "7", 103),
        ("$secret#7", "7", 103),
    ],
)
async def test_private_and_user_limited_channels(channel: str, user: str, expected: int) -> None:
    """`#users` are for these users and `$private` ones need a token, whatever the application would say."""
    rules = authority()

    async def yes(asker: Asker, channel: str) -> bool:
        return True

    for rules.hooks.subscribe in (None, yes):
        assert await refusal(rules.subscribe(Client(user), channel, "")) == expected
    assert await refusal(authority(client_insecure=True).subscribe(Client(user), channel, "")) == 0
    assert await rules.room(channel, trusted=True) == RoomRights(False, False)
    assert await authority(client_insecure=True).room(channel, trusted=False) == RoomRights(True, True)


# Who it is


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0),
        ({"token_hmac_secret_key": SECRET}, 3501),
        ({"token": "s3cret"}, 3501),
        ({"token": "s3cret", "client_insecure": True}, 0),
        ({"token_hmac_secret_key": SECRET, "allow_anonymous_connect_without_token": True}, 0),
        ({"token_hmac_secret_key": SECRET, "client_insecure": True}, 0),
        ({"allow_anonymous_connect_without_token": False}, 3501),
    ],
)
async def test_without_a_token(settings: Any, expected: int) -> None:
    """Nobody in particular, if that is allowed; it is not by itself where tokens are asked for."""
    rules = authority(**settings)
    assert await refusal(rules.connect(request(), "")) == expected
    if not expected:
        assert await rules.connect(request(), "") == Principal()


@pytest.mark.parametrize(
    ("query", "token", "expected"),
    [
        (b"", "s3cret", 0),
        (b"token=s3cret", "", 0),
        (b"", "wrong", 3500),
        (b"token=wrong", "", 3501),
        (b"token=s3cret", "wrong", 3500),
        (b"", "s3cr\ud800t", 3500),
    ],
)
async def test_the_static_token(query: bytes, token: str, expected: int) -> None:
    """HUB_TOKEN closes the hub to protocol clients as it does to raw ones."""
    assert await refusal(authority(token="s3cret").connect(request(query), token)) == expected


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"sub": "1"}, 0),
        ({"sub": "1", "exp": FUTURE}, 0),
        ({"sub": "1", "exp": 1}, 109),
        ({"sub": "1", "exp": FUTURE, "expire_at": 1}, 110),
        ({"sub": 1}, 3500),
    ],
)
async def test_connection_tokens(claims: Any, expected: int) -> None:
    """Expired ones are refused so that the client gets another, bad ones end it."""
    rules = authority(token_hmac_secret_key=SECRET)
    assert await refusal(rules.connect(request(), sign(claims, SECRET))) == expected
    assert await refusal(rules.connect(request(), sign(claims, f"not {SECRET}"))) == 3500


async def test_what_a_token_says() -> None:
    """Channels without more, or with what they have; `subs` win."""
    rules = authority(token_hmac_secret_key=SECRET)
    claims = {"sub": "1", "info": {"n": 1}, "exp": FUTURE, "channels": ["a", "b"]}
    principal = await rules.connect(request(), sign(claims, SECRET))
    plain = SubscribeGrant()
    assert principal == Principal(user="1", info=b'{"n":1}', expire_at=FUTURE, subs={"a": plain, "b": plain})
    claims["subs"] = {"c": {"info": 1, "data": 2, "override": {"presence": {"value": True}}}}
    principal = await rules.connect(request(), sign(claims, SECRET))
    granted = principal.subs["c"]
    assert granted == SubscribeGrant(info=b"1", data=b"2", override=Override(presence=True))
    grant = rules.grant("c", granted)
    assert (grant.options.presence, grant.options.join_leave, grant.info, grant.data) == (True, False, b"1", b"2")
    assert not rules.options("c").presence


async def test_keys_that_cannot_be_fetched() -> None:
    """A token that cannot be judged now is an error that passes, on `connect` and on `refresh`."""
    rules = authority(token_jwks_public_endpoint="http://127.0.0.1:9/none")
    token = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.e30.AAAA"
    for work in (
        rules.connect(request(), token),
        rules.refresh(None, token, "1"),
        rules.subscribe(Client(), "x", token),
    ):
        assert await refusal(work) == 100


async def test_the_personal_channel() -> None:
    """Of every user with an id, in the namespace that is set; a grant of the token for it is kept."""
    settings = {"token_hmac_secret_key": SECRET, "subscribe_to_user_personal_channel": True}
    for namespace, channel in (("", "#7"), ("n", "n:#7")):
        rules = authority(user_personal_channel_namespace=namespace, **settings)
        assert set((await rules.connect(request(), sign({"sub": "7"}, SECRET))).subs) == {channel}
        claims = {"sub": "7", "subs": {"a": {}, channel: {"data": 1}}}
        principal = await rules.connect(request(), sign(claims, SECRET))
        assert {name: grant.data for name, grant in principal.subs.items()} == {"a": b"", channel: b"1"}
        assert set((await rules.refresh(None, sign({"sub": "7"}, SECRET), "7")).subs) == {channel}
        assert (await rules.connect(request(), sign({}, SECRET))).subs == {}


# Subscription tokens


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, 0),
        ({"client": "c-1"}, 0),
        ({"exp": FUTURE}, 0),
        ({"exp": 1}, 109),
        ({"exp": FUTURE, "expire_at": 1}, 110),
        ({"channel": "$y"}, 3500),
        ({"sub": "2"}, 3500),
        ({"client": "c-2"}, 3500),
        ({"channel": ""}, 103),
    ],
)
async def test_subscription_tokens(claims: Any, expected: int) -> None:
    """For this channel, this user, and this connection if it names one; for refreshes too."""
    rules = authority(token_hmac_secret_key=SECRET)
    token = sign({"sub": "1", "channel": "$x", **claims}, SECRET)
    for work in (rules.subscribe, rules.sub_refresh):
        assert await refusal(work(Client("1"), "$x", token)) == expected
        assert await refusal(work(Client("1"), "$x", "junk")) == 103
        assert await refusal(work(Client("1"), "no:x", token)) == 102


async def test_a_subscription_token_wins() -> None:
    """Over the namespace, the application and the users in the name; what it overrides is for its subscription."""
    rules = authority(token_hmac_secret_key=SECRET)

    async def no(asker: Asker, channel: str) -> bool:
        return False

    rules.hooks.subscribe = no
    claims = {
        "info": {"a": 1},
        "b64data": "MQ==",
        "exp": FUTURE,
        "override": {"force_push_join_leave": {"value": True}},
    }
    for channel in ("n:x", "$n:x", "n:x#2"):
        token = sign({"sub": "1", "channel": channel, **claims}, SECRET)
        grant = await rules.subscribe(Client("1"), channel, token)
        assert (grant.info, grant.data, grant.expire_at) == (b'{"a":1}', b"1", FUTURE)
        assert grant.options == ChannelOptions(force_push_join_leave=True)


# The application's functions


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (False, 3500),
        (None, 3500),
        (True, Principal()),
        (User(id="7"), Principal(user="7")),
        (
            User(id="7", info={"n": "é"}, channels=("a",), expire_at=FUTURE),
            Principal(user="7", info='{"n":"é"}'.encode(), subs={"a": SubscribeGrant()}, expire_at=FUTURE),
        ),
        (User(id="7", expire_at=1), 110),
    ],
)
async def test_authenticate(answer: Any, expected: Any) -> None:
    """The application alone says who it is, from the request and whatever it takes for a token."""
    rules = authority(token_hmac_secret_key=SECRET, token="s3cret")
    asked: list[Any] = []

    async def authenticate(connection: HTTPConnection, token: str | None) -> Any:
        asked.append((connection.url.path, token))
        return answer

    rules.hooks.authenticate = authenticate
    if isinstance(expected, int):
        assert await refusal(rules.connect(request(), "")) == expected
    else:
        assert await rules.connect(request(), "") == expected
        assert await rules.connect(request(), "s3cret") == expected
    assert asked[0] == ("/", None)


async def test_authenticate_again() -> None:
    """A refresh is the application's too: the same user goes on, another or nobody does not."""
    rules = authority()

    async def authenticate(connection: HTTPConnection, token: str | None) -> User | None:
        return User(id=token, expire_at=1 if token == "late" else FUTURE) if token else None

    rules.hooks.authenticate = authenticate
    assert (await rules.refresh(request(), "7", "7")).expire_at == FUTURE
    assert await refusal(rules.refresh(request(), "8", "7")) == 3500
    assert await refusal(rules.refresh(request(), "", "7")) == 3500
    assert await refusal(rules.refresh(request(), "late", "late")) == 3005
    assert await refusal(rules.refresh(None, "7", "7")) == 3501


@pytest.mark.parametrize("answer", [True, False, None])
@pytest.mark.parametrize("open_", [True, False])
async def test_on_subscribe_and_on_publish(answer: bool | None, open_: bool) -> None:
    """They decide; None leaves it to the namespace. Where publications are judged, raw clients only listen."""
    names = [f"allow_{what}_for_{who}" for what in ("subscribe", "publish") for who in ("client", "anonymous")]
    rules = authority(n=ChannelOptions(**dict.fromkeys(names, open_)))
    expected = open_ if answer is None else answer
    asked: list[Any] = []

    async def may_subscribe(asker: Asker, channel: str) -> bool | None:
        asked.append((asker.user, channel))
        return answer

    async def may_publish(asker: Asker, channel: str, data: Any) -> bool | None:
        asked.append((asker.user, channel, data))
        return answer

    rules.hooks.subscribe = may_subscribe
    assert await refusal(rules.subscribe(Client("ann"), "n:x", "")) == (0 if expected else 103)
    assert await rules.room("n:x", trusted=False) == RoomRights(expected, open_)
    rules.hooks.publish = may_publish
    assert await refusal(rules.ask_publish(Client("ann"), "n:x", b'{"a":1}')) == (0 if expected else 103)
    assert await rules.room("n:x", trusted=False) == RoomRights(expected, False)
    assert asked == [("ann", "n:x"), ("", "n:x"), ("ann", "n:x", {"a": 1}), ("", "n:x")]


@pytest.mark.parametrize(("for_client", "for_anonymous"), TWICE)
@pytest.mark.parametrize("trusted", [False, True])
async def test_rooms(trusted: bool, for_client: bool, for_anonymous: bool) -> None:
    """A raw client that had to show a token is a client, another one is anonymous."""
    names = [f"allow_{what}_for_" for what in ("subscribe", "publish")]
    options = {f"{name}client": for_client for name in names} | {f"{name}anonymous": for_anonymous for name in names}
    allowed = for_client and (trusted or for_anonymous)
    rights = await authority(n=ChannelOptions(**options)).room("n:x", trusted=trusted)
    assert rights == RoomRights(allowed, allowed)
    listener = ChannelOptions(allow_subscribe_for_client=True, allow_publish_for_subscriber=True)
    assert await authority(n=listener).room("n:x", trusted=True) == RoomRights(True, True)


# Everybody, and nobody


async def test_insecure() -> None:
    """Everybody may do everything, but a token that is shown must be good."""
    options = ChannelOptions(presence=True, history_size=1, history_ttl=1)
    rules = authority(n=options, client_insecure=True, token_hmac_secret_key=SECRET)
    client = Client()
    await rules.subscribe(client, "n:x", "")
    rules.may_publish(client, "n:x", options)
    rules.presence(client, "n:x")
    rules.history(client, "n:x")
    assert await refusal(rules.subscribe(client, "no:x", "")) == 102
    assert await refusal(rules.subscribe(client, "n:x", "junk")) == 103
    assert await refusal(rules.connect(request(), "junk")) == Disconnects.INVALID_TOKEN.code


def test_a_key_that_cannot_be_used() -> None:
    """It is found when the hub is made, not when the first client comes."""
    with pytest.raises(ConfigError, match="token_rsa_public_key"):
        authority(token_rsa_public_key="no key")
