"""The AsyncAPI document: what it says of servers, channels, calls, and that AsyncAPI's own parser takes it."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field

from hub import Hub, Settings
from hub.asyncapi import AsyncApi, Place, describe
from hub.codegen import typescript as client_of
from hub.namespaces import BUILT_IN, ChannelOptions
from tests.support import typed_app, typescript
from tests.support.typed_app import Message

PLACE = Place(host="example.org", path="/connection/websocket", secure=True)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return describe(typed_app.hub, PLACE)


def described(settings: Settings | None = None) -> dict[str, Any]:
    return describe(Hub(settings or Settings()), PLACE)


def names(references: list[dict[str, str]]) -> list[str]:
    return [reference["$ref"].rpartition("/")[2] for reference in references]


def named_at_will() -> Hub:
    """Addresses, methods and models may be called what their authors like."""
    hub = Hub(Settings(namespaces={"räume": ChannelOptions(), "a/b~c%": ChannelOptions()}))

    class Größe(BaseModel):
        maß: int

    hub.channel("größen:{raum}:/~1%25", Größe)
    hub.channel("größen-2:{raum}", list[Größe])
    for name in ("größe/$ref", "größe.$ref", "", "😀"):
        hub.rpc(name)(lambda: None)
    return hub


@pytest.mark.timeout(300)
def test_the_official_parser_takes_it(document: dict[str, Any]) -> None:
    """@asyncapi/parser has neither errors nor warnings, whatever things are called; and it does look."""
    typescript.packages()
    odd = describe(named_at_will(), PLACE)
    assert len([each for each in odd["operations"].values() if "reply" in each]) == 4
    broken = {**document, "operations": {"one": {"action": "shout", "channel": {"$ref": "#/channels/chat"}}}}
    *right, wrong = typescript.parsed(document, odd, described(), broken)
    assert right == [[], [], []]
    assert wrong != []


# Servers


@pytest.mark.parametrize(
    ("base", "server"),
    [
        ("http://127.0.0.1:8000", {"host": "127.0.0.1:8000", "protocol": "ws"}),
        ("https://example.org", {"host": "example.org", "protocol": "wss"}),
    ],
)
def test_servers_are_where_it_was_asked_for(base: str, server: dict[str, str]) -> None:
    """Host, port and scheme of the request, and the path of the WebSocket under the router's prefix."""
    with TestClient(typed_app.make()[0], base_url=base) as client:
        found = client.get("/rt/asyncapi.json").json()["servers"]["hub"]
    assert server.items() <= found.items()
    assert found["pathname"] == "/rt/connection/websocket"


def test_servers_of_a_mounted_application() -> None:
    """The path has all that is in front."""
    outer = FastAPI()
    outer.mount("/inner", typed_app.make()[0])
    found = TestClient(outer).get("/inner/rt/asyncapi.json").json()
    assert found["servers"]["hub"]["pathname"] == "/inner/rt/connection/websocket"
    assert found["info"]["title"] == "Rooms"
    assert found["info"]["version"] == "1.2.3"


def test_it_is_made_anew_for_another_declaration_only() -> None:
    """Whoever asks does not make the worker build all schemas again; what is declared later is in it."""
    _, hub = typed_app.make()
    api = AsyncApi(hub)
    first = api.describe(PLACE)
    assert api.describe(Place(host="elsewhere", path="/", secure=False))["channels"] is first["channels"]
    hub.rpc("late")(lambda: None)
    assert "rpc.late" in api.describe(PLACE)["operations"]
    publishing = api.describe(PLACE)["operations"].keys()
    (channel,) = [each for each in hub.typed_channels if each.address == "news:all"]
    channel.on_publish(lambda: True)
    assert api.describe(PLACE)["operations"].keys() - publishing == {"news.all.publish"}


# Who may connect


def test_everybody_may_connect_to_a_hub_without_keys() -> None:
    """The scheme is described, and nothing asks for it."""
    document = described()
    assert "security" not in document["servers"]["hub"]
    assert "without a token" in document["servers"]["hub"]["description"]
    assert document["components"]["securitySchemes"]["token"]["bearerFormat"] == "JWT"


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"token_hmac_secret_key": "s" * 32}, True),
        ({"token": "t" * 16}, True),
        ({"token_hmac_secret_key": "s" * 32, "allow_anonymous_connect_without_token": True}, False),
        ({"token_hmac_secret_key": "s" * 32, "client_insecure": True}, False),
        ({"allow_anonymous_connect_without_token": False}, True),
    ],
)
def test_a_token_is_wanted_where_the_hub_wants_one(settings: dict[str, Any], wanted: bool) -> None:
    """By the same settings."""
    assert ("security" in described(Settings(**settings))["servers"]["hub"]) is wanted


def test_an_authenticator_decides() -> None:
    """What its tokens are, the hub does not know."""
    hub = Hub(Settings(token_hmac_secret_key="s" * 32))

    @hub.authenticate
    async def may_connect(connection: Any, token: str | None) -> bool:
        return True

    document = describe(hub, PLACE)
    assert "The application decides" in document["servers"]["hub"]["description"]
    assert "security" not in document["servers"]["hub"]
    assert "bearerFormat" not in document["components"]["securitySchemes"]["token"]


# Channels


def test_a_typed_channel(document: dict[str, Any]) -> None:
    """Address, model, parameters, features; its model is among the components, and those inside it too."""
    channel = document["channels"]["chat"]
    assert channel["address"] == "chat:{room}"
    assert channel["messages"]["Message"]["payload"] == {"$ref": "#/components/schemas/Message"}
    assert channel["x-hub"] == {"history": True, "recovery": True, "presence": True, "joinLeave": False}
    assert {"Message", "Author"} <= document["components"]["schemas"].keys()
    assert "$defs" not in document["components"]["schemas"]["Message"]


def test_parameters_have_their_schemas(document: dict[str, Any]) -> None:
    """Choices as AsyncAPI has them, types in an extension."""
    parameters = document["channels"]["articles"]["parameters"]
    assert parameters["section"]["enum"] == ["news", "sport"]
    assert parameters["number"]["x-schema"] == {"type": "integer"}
    assert document["channels"]["prices"]["parameters"]["id"]["x-schema"] == {"type": "string", "format": "uuid"}


def test_a_parameter_says_what_it_is() -> None:
    """By the description of its type."""
    hub = Hub(Settings())
    room = Annotated[str, Field(description="Where it is said.")]
    hub.channel("chat:{room}", Message, parameters={"room": room})
    assert describe(hub, PLACE)["channels"]["chat"]["parameters"]["room"]["description"] == "Where it is said."


def test_examples_are_right_or_left_out() -> None:
    """The author's, or one that is made from the schema; none if the model does not take that one."""
    hub = Hub(Settings())

    class Plate(BaseModel):
        number: str = Field(pattern="^[A-Z]{2}-[0-9]{4}$")

    hub.channel("plates:{id}", Plate)
    hub.channel("numbers:{id}", list[int])
    hub.channel("chat:{id}", Message)
    channels = describe(hub, PLACE)["channels"]
    assert "examples" not in channels["plates"]["messages"]["Plate"]
    assert "examples" not in channels["numbers"]["messages"]["list"]  # AsyncAPI has objects only
    (given,) = channels["chat"]["messages"]["Message"]["examples"]
    assert given["payload"] == {"text": "hello", "author": {"name": "Ann"}, "kind": "said"}


def test_clients_publish_where_they_may(document: dict[str, Any]) -> None:
    """With `on_publish`, or by an option; else the application only sends."""
    receiving = {name for name, each in document["operations"].items() if each["action"] == "receive"}
    assert {name for name in receiving if not name.startswith("rpc.")} == {
        "chat.publish",
        "prices.publish",
        "any.publish",
    }


def test_a_model_that_comes_in_otherwise_than_it_goes_out(document: dict[str, Any]) -> None:
    """Subscribers receive what the application writes, and what clients sent; clients send the second."""
    operations = document["operations"]
    assert names(operations["prices.subscribe"]["messages"]) == ["Price", "Price-Input"]
    assert names(operations["prices.publish"]["messages"]) == ["Price-Input"]
    going_out = document["components"]["schemas"]["Price-Output"]
    assert "name" in going_out["required"]
    assert "name" not in document["components"]["schemas"]["Price-Input"]["properties"]


def test_a_recursive_model_is_there_once(document: dict[str, Any]) -> None:
    """Both of its forms are the same."""
    assert names(document["operations"]["chat.tree.subscribe"]["messages"]) == ["Tree"]
    children = document["components"]["schemas"]["Tree"]["properties"]["children"]
    assert children["items"] == {"$ref": "#/components/schemas/Tree"}


def test_recursive_models_that_differ_stay_two() -> None:
    """A model that refers to one whose forms differ has two forms as well."""
    hub = Hub(Settings())

    class Node(BaseModel):
        price: typed_app.Price
        next: Node | None = None

    hub.channel("nodes:{id}", Node, allow_publish_for_client=True)
    schemas = describe(hub, PLACE)["components"]["schemas"]
    assert {"Node-Input", "Node-Output", "Price-Input", "Price-Output"} == schemas.keys()
    assert schemas["Node-Input"]["properties"]["next"]["anyOf"][0] == {"$ref": "#/components/schemas/Node-Input"}


def test_models_of_one_name_are_told_apart() -> None:
    """Two classes that are called the same are two schemas."""
    hub = Hub(Settings())

    class Other(BaseModel):
        number: int

    Other.__name__ = Other.__qualname__ = "Message"
    hub.channel("one:{id}", Message)
    hub.channel("two:{id}", Other)
    document = describe(hub, PLACE)
    one, two = (document["channels"][name]["messages"]["Message"]["payload"]["$ref"] for name in ("one", "two"))
    assert one != two
    schemas = document["components"]["schemas"]
    assert "number" in schemas[two.rpartition("/")[2]]["properties"]


def test_what_has_no_schema_is_anything() -> None:
    """A part that JSON Schema cannot describe does not take the others away."""
    hub = Hub(Settings())

    class Odd(BaseModel):
        model_config = {"arbitrary_types_allowed": True}
        number: int
        thing: complex | Hub = 0

    hub.channel("odd:{id}", Odd)
    properties = describe(hub, PLACE)["components"]["schemas"]["Odd"]["properties"]
    assert properties["number"]["type"] == "integer"
    assert {} in properties["thing"].get("anyOf", [])


def test_other_namespaces_have_any_payload() -> None:
    """Those of the settings, and the channels without one; a typed channel takes the place of its namespace."""
    document = described(Settings(namespaces={**BUILT_IN, "log": ChannelOptions(channel_regex="^[0-9]+$")}))
    addresses = {key: channel["address"] for key, channel in document["channels"].items()}
    assert addresses == {"chat": "chat:{name}", "log": "log:{name}", "any": "{name}"}
    assert document["channels"]["log"]["parameters"]["name"]["x-schema"]["pattern"] == "^[0-9]+$"
    assert document["operations"].keys() == {
        "chat.subscribe",
        "chat.publish",
        "log.subscribe",
        "any.subscribe",
        "any.publish",
    }
    assert [each["tags"] for each in document["channels"].values()] == [[{"name": "untyped"}]] * 3
    typed = [each for each in describe(typed_app.hub, PLACE)["channels"].values() if each["address"] == "chat:{name}"]
    assert typed == []


# Calls


def test_calls_are_requests_with_replies(document: dict[str, Any]) -> None:
    """On the channel that is the connection itself."""
    call = document["operations"]["rpc.rename"]
    assert call["action"] == "receive"
    assert call["description"] == "Give yourself another name."
    assert call["channel"] == call["reply"]["channel"] == {"$ref": "#/channels/connection"}
    messages = document["channels"]["connection"]["messages"]
    assert messages[names(call["messages"])[0]]["payload"] == {"$ref": "#/components/schemas/Rename"}
    assert messages[names(call["reply"]["messages"])[0]]["payload"] == {"$ref": "#/components/schemas/Renamed"}
    assert document["channels"]["connection"]["address"] is None


def test_calls_that_take_or_tell_nothing(document: dict[str, Any]) -> None:
    """Null; and anything where the function does not say."""
    messages = document["channels"]["connection"]["messages"]
    assert messages["server.time.request"]["payload"] == {"type": "null"}
    assert messages["forget.reply"]["payload"] == {"type": "null"}
    assert messages["anything.request"]["payload"] == messages["anything.reply"]["payload"] == {}
    assert document["operations"]["rpc.server.time"]["x-method"] == "server/time"


class Filter(BaseModel):
    text: str = ""


def test_a_call_that_does_without_data() -> None:
    """Where the function has a default, null is right, and the client that is written of it need not give any."""
    hub = Hub(Settings())

    @hub.rpc("search")
    async def search(body: Filter = Filter()) -> int:  # noqa: B008
        return len(body.text)

    document = describe(hub, PLACE)
    payload = document["channels"]["connection"]["messages"]["search.request"]["payload"]
    assert payload == {"anyOf": [{"$ref": "#/components/schemas/Filter"}, {"type": "null"}]}
    assert "readonly search: (data?: Filter | null) => Promise<number>;" in client_of(document)


def test_a_hub_without_calls_has_no_connection_channel() -> None:
    """There is nothing to say in it."""
    assert "connection" not in described()["channels"]
