"""`cent`, the Python library for the server API, as it comes from PyPI: every method of it that the hub has."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cent
import pytest
from cent import (
    AsyncClient,
    BatchRequest,
    BroadcastRequest,
    CentApiResponseError,
    CentUnauthorizedError,
    ChannelsRequest,
    Client,
    Disconnect,
    DisconnectRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    StreamPosition,
    SubscribeRequest,
    UnsubscribeRequest,
)

from tests.sdk.session import session
from tests.support.server import HubProcess, hub_serve

CONFIG = Path(__file__).parent / "hub.toml"

pytestmark = pytest.mark.sdk


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    """Two workers, so that most calls reach a worker other than the client's."""
    with hub_serve("--workers", "2", "--config", str(CONFIG)) as hub:
        yield hub


@pytest.fixture
def api(hub: HubProcess) -> Iterator[Client]:
    with Client(f"{hub.url}/api", "api_key") as client:
        yield client


@pytest.fixture
def channel() -> str:
    """A channel that no other test uses."""
    return f"cent_{uuid.uuid4().hex}"


def history(api: Client, channel: str, limit: int = -1, **options: Any) -> list[Any]:
    result = api.history(HistoryRequest(channel=channel, limit=limit, **options))
    return [publication.data for publication in result.publications]


def test_publish_reaches_a_subscriber_and_says_where_it_stands(hub: HubProcess, api: Client, channel: str) -> None:
    """Data and tags arrive as they were given; the result has the position in the stream."""
    with session(hub.ws_url) as client:
        epoch = client.ask("subscribe", channel=channel)["epoch"]
        result = api.publish(PublishRequest(channel=channel, data={"n": [1, "é"]}, tags={"a": "1"}))
        assert (result.offset, result.epoch) == (1, epoch)
        push = client.push("pub")
    assert (push["data"], push["tags"], push["offset"]) == ({"n": [1, "é"]}, {"a": "1"}, 1)
    assert "info" not in push


def test_publish_with_the_same_idempotency_key_publishes_once(api: Client, channel: str) -> None:
    """The second call gets the position of the first."""
    request = PublishRequest(channel=channel, data=1, idempotency_key="once")
    assert api.publish(request) == api.publish(request)
    assert history(api, channel) == [1]


def test_publish_can_leave_the_history_alone(hub: HubProcess, api: Client, channel: str) -> None:
    """With skip_history subscribers hear it and the stream does not keep it."""
    with session(hub.ws_url) as client:
        client.ask("subscribe", channel=channel)
        api.publish(PublishRequest(channel=channel, data="gone", skip_history=True))
        assert client.push("pub")["data"] == "gone"
    assert history(api, channel) == []


def test_broadcast_answers_for_each_channel(api: Client, channel: str) -> None:
    """An unknown namespace is an error of its own; the other channels get the publication."""
    channels = [f"{channel}_1", "nowhere:x", f"{channel}_2"]
    responses = api.broadcast(BroadcastRequest(channels=channels, data={"all": True})).responses
    assert [response.error.code if response.error else 0 for response in responses] == [0, 102, 0]
    assert [response.result.offset if response.result else 0 for response in responses] == [1, 0, 1]
    assert history(api, channels[0]) == history(api, channels[2]) == [{"all": True}]


def test_subscribe_and_unsubscribe_a_user(hub: HubProcess, api: Client, channel: str) -> None:
    """All of the user's connections are subscribed by the server with data, and unsubscribed with code 2000."""
    user = uuid.uuid4().hex
    with session(hub.ws_url, sub=user) as one, session(hub.ws_url, sub=user) as two:
        api.subscribe(SubscribeRequest(user=user, channel=channel, data={"why": "paid"}))
        for client in (one, two):
            subscription = client.push("subscribe")
            assert (subscription["data"], subscription["recoverable"]) == ({"why": "paid"}, True)
        api.publish(PublishRequest(channel=channel, data="hello"))
        assert one.push("pub")["data"] == two.push("pub")["data"] == "hello"
        api.unsubscribe(UnsubscribeRequest(user=user, channel=channel))
        for client in (one, two):
            assert client.push("unsubscribe") == {"code": 2000, "reason": "server unsubscribe"}


def test_subscribe_one_client_from_a_position(hub: HubProcess, api: Client, channel: str) -> None:
    """`client` leaves the user's other connections alone; `recover_since` gives it what it missed."""
    user = uuid.uuid4().hex
    first = api.publish(PublishRequest(channel=channel, data=1))
    api.publish(PublishRequest(channel=channel, data=2))
    with session(hub.ws_url, sub=user) as wanted, session(hub.ws_url, sub=user) as other:
        since = StreamPosition(offset=first.offset, epoch=first.epoch)
        api.subscribe(SubscribeRequest(user=user, channel=channel, client=wanted.client, recover_since=since))
        assert "data" not in wanted.push("subscribe")
        assert wanted.push("pub")["data"] == 2
        assert wanted.push("join", channel)["info"]["client"] == wanted.client
        assert set(api.presence(PresenceRequest(channel=channel)).presence) == {wanted.client}
        assert other.ask("subscribe", channel=channel)["recoverable"]


def test_disconnect_a_user(hub: HubProcess, api: Client) -> None:
    """Connections end with 3503 or with the code and reason given; those on the whitelist stay."""
    user = uuid.uuid4().hex
    with session(hub.ws_url, sub=user) as one, session(hub.ws_url, sub=user) as two:
        api.disconnect(DisconnectRequest(user=user, whitelist=[two.client]))
        assert one.closed() == (3503, "force disconnect")
        api.disconnect(DisconnectRequest(user=user, disconnect=Disconnect(code=4501, reason="moved out")))
        assert two.closed() == (4501, "moved out")


def test_refresh_a_user(hub: HubProcess, api: Client) -> None:
    """A new expiry is told to the client; `expired` ends its connections with 3005."""
    user = uuid.uuid4().hex
    with session(hub.ws_url, sub=user, exp=int(time.time()) + 60) as client:
        api.refresh(RefreshRequest(user=user, expire_at=int(time.time()) + 600))
        refreshed = client.push("refresh")
        assert refreshed["expires"]
        assert 590 <= refreshed["ttl"] <= 600
        api.refresh(RefreshRequest(user=user, expired=True))
        assert client.closed() == (3005, "connection expired")


def test_presence_and_its_counts(hub: HubProcess, api: Client, channel: str) -> None:
    """Clients by id with the claims' info; the counts are of clients and of different users."""
    with (
        session(hub.ws_url, sub="ann", info={"name": "Ann"}) as one,
        session(hub.ws_url, sub="ann") as two,
        session(hub.ws_url, sub="bob") as three,
    ):
        for client in (one, two, three):
            client.ask("subscribe", channel=channel)
            one.push("join", channel)  # who is told of is there
        presence = api.presence(PresenceRequest(channel=channel)).presence
        assert {key: info.user for key, info in presence.items()} == {
            one.client: "ann",
            two.client: "ann",
            three.client: "bob",
        }
        assert presence[one.client].conn_info == {"name": "Ann"}
        stats = api.presence_stats(PresenceStatsRequest(channel=channel))
        assert (stats.num_clients, stats.num_users) == (3, 2)


def test_history_in_pieces_and_backwards(api: Client, channel: str) -> None:
    """Limit, since and reverse; without a limit only the position."""
    for number in range(1, 6):
        api.publish(PublishRequest(channel=channel, data=number))
    top = api.history(HistoryRequest(channel=channel))
    assert (top.publications, top.offset) == ([], 5)
    assert history(api, channel, 2) == [1, 2]
    assert history(api, channel, 2, since=StreamPosition(offset=2, epoch=top.epoch)) == [3, 4]
    assert history(api, channel, 2, reverse=True) == [5, 4]


def test_history_from_another_epoch_is_refused(api: Client, channel: str) -> None:
    """A position of a stream that is gone is error 112."""
    api.publish(PublishRequest(channel=channel, data=1))
    with pytest.raises(CentApiResponseError) as caught:
        history(api, channel, since=StreamPosition(offset=1, epoch="another"))
    assert caught.value.code == 112


def test_history_remove_keeps_the_count(api: Client, channel: str) -> None:
    """What is kept goes; the next publication continues the offsets in the same epoch."""
    first = api.publish(PublishRequest(channel=channel, data=1))
    api.history_remove(HistoryRemoveRequest(channel=channel))
    assert history(api, channel) == []
    second = api.publish(PublishRequest(channel=channel, data=2))
    assert (second.offset, second.epoch) == (2, first.epoch)


def test_channels_of_all_workers(hub: HubProcess, api: Client, channel: str) -> None:
    """The channels with subscribers whose names match, with how many."""
    with session(hub.ws_url) as one, session(hub.ws_url) as two, session(hub.ws_url) as three:
        for client, name in ((one, "a"), (two, "a"), (three, "b")):
            client.ask("subscribe", channel=f"{channel}_{name}")
        found = api.channels(ChannelsRequest(pattern=f"{channel}_*")).channels
        assert {name: info.num_clients for name, info in found.items()} == {f"{channel}_a": 2, f"{channel}_b": 1}
        assert f"{channel}_a" in api.channels(ChannelsRequest()).channels


def test_info_counts_the_connections_of_all_workers(hub: HubProcess, api: Client) -> None:
    """Each worker is a node with a name of its own."""
    with session(hub.ws_url, sub="ann"), session(hub.ws_url, sub="ann"), session(hub.ws_url, sub="bob"):
        nodes = api.info(InfoRequest()).nodes
    assert len({node.uid for node in nodes}) == len(nodes) == 2
    assert all(node.name and node.version for node in nodes)
    assert sum(node.num_clients for node in nodes) == 3


@pytest.mark.parametrize("parallel", [False, True])
def test_batch(api: Client, channel: str, parallel: bool) -> None:
    """Results come in the order of the requests."""
    requests = [
        PublishRequest(channel=f"{channel}_1", data=1),
        BroadcastRequest(channels=[f"{channel}_2"], data=2),
        PresenceStatsRequest(channel=channel),
    ]
    published, sent, stats = api.batch(BatchRequest(requests=requests, parallel=parallel)).replies
    assert isinstance(published, cent.PublishResult)
    assert isinstance(sent, cent.BroadcastResult)
    assert isinstance(stats, cent.PresenceStatsResult)
    assert published.offset == 1
    assert history(api, f"{channel}_2") == [2]


def test_an_error_has_its_code(api: Client) -> None:
    """An unknown namespace is error 102, presence where there is none 108."""
    with pytest.raises(CentApiResponseError) as caught:
        api.publish(PublishRequest(channel="nowhere:x", data=1))
    assert (caught.value.code, caught.value.message) == (102, "unknown channel")
    with pytest.raises(CentApiResponseError) as caught:
        api.presence(PresenceRequest(channel="recovery:x"))
    assert caught.value.code == 108


def test_a_wrong_key_is_refused(hub: HubProcess, channel: str) -> None:
    """Nothing is published with it."""
    with Client(f"{hub.url}/api", "wrong") as client, pytest.raises(CentUnauthorizedError):
        client.publish(PublishRequest(channel=channel, data=1))


async def test_the_asynchronous_client_too(hub: HubProcess, channel: str) -> None:
    """It speaks through aiohttp instead of requests."""
    async with AsyncClient(f"{hub.url}/api", "test-api-key") as client:
        assert (await client.publish(PublishRequest(channel=channel, data={}))).offset == 1
        result = await client.history(HistoryRequest(channel=channel, limit=10))
        assert [publication.data for publication in result.publications] == [{}]
