"""`hub.channel`: what it declares, what it refuses, and one of its channels in Python."""

from functools import partial
from typing import Annotated, Any, get_type_hints
from uuid import UUID, uuid4

import pytest
from fastapi import BackgroundTasks, Depends, Query, Request, Response, WebSocket
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection

from hub import (
    ChannelOptions,
    ConfigError,
    Event,
    History,
    Hub,
    InvalidChannel,
    MessageTooBig,
    Refused,
    Settings,
    StreamPosition,
    TypedPublication,
)
from hub.embedded import EmbeddedServer
from hub.namespaces import BUILT_IN
from hub.sync import Publisher
from hub.typed import ChannelKeywords


class Message(BaseModel):
    text: str
    to: str = Field(default="all", alias="for")


KEPT = History(size=10, ttl="5m")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


@pytest.fixture
def hub() -> Hub:
    return Hub(Settings())


# Declaration


def test_what_a_channel_says_of_itself(hub: Hub) -> None:
    """Address, namespace, parameters, model, options; and the hub knows all of them."""
    chat = hub.channel("chat:{room}", Message)
    game = hub.channel("game:{id}:{side}", dict[str, int], parameters={"id": UUID})
    assert (chat.address, chat.namespace, chat.model, chat.parameters) == (
        "chat:{room}",
        "chat",
        Message,
        {"room": str},
    )
    assert game.parameters == {"id": UUID, "side": str}
    assert hub.typed_channels == (chat, game)
    assert repr(chat) == "<TypedChannel 'chat:{room}' of Message>"
    assert repr(chat.rules.pattern) == "<Pattern 'chat:{room}'>"


def test_annotations_are_types(hub: Hub) -> None:
    """A parameter has the type that a function annotates, from then on."""
    game = hub.channel("game:{id}", Message)
    assert hub.namespaces.find("game:x") is not None

    @game.on_subscribe
    def may_watch(id: int) -> None: ...

    assert game.parameters == {"id": int}
    assert hub.namespaces.find("game:x") is None
    assert hub.namespaces.find("game:7") == game.options
    with pytest.raises(ConfigError, match=r"id is int in test_annotations.*, and UUID in .*; annotate it the same"):

        @game.on_disconnect
        def gone(id: UUID) -> None: ...


class Room(BaseModel):
    """What a dependency makes of a room's name."""

    name: str


def room_of(room: str) -> Room:
    return Room(name=room)


def test_a_dependency_of_a_parameters_name(hub: Hub) -> None:
    """`room: Annotated[Room, Depends(room_of)]`, as in FastAPI: what that returns is not the parameter's type.

    It was taken for it, and no channel had a name that is a Room: all of them were unknown.
    """
    chat = hub.channel("chat:{room}", Message)

    @chat.on_subscribe
    def annotated(room: Annotated[Room, Depends(room_of)]) -> None: ...

    @chat.on_publish
    def by_default(room: Room = Depends(room_of)) -> None: ...  # noqa: B008

    assert chat.parameters == {"room": str}
    assert chat(room="lobby").name == "chat:lobby"
    assert hub.authority.options("chat:lobby") is chat.options


def test_the_defaults(hub: Hub) -> None:
    """Clients may subscribe and see what the channel has; they may not publish."""
    bare, full = (
        hub.channel("a:{x}", Message),
        hub.channel("b:{x}", Message, history=KEPT, presence=True, join_leave=True),
    )
    on = {"allow_subscribe_for_client", "allow_subscribe_for_anonymous"}
    assert switched_on(bare.options) == on
    on |= {"presence", "join_leave", "force_push_join_leave", "force_recovery"}
    on |= {f"allow_{what}_for_{who}" for what in ("presence", "history") for who in ("subscriber", "anonymous")}
    assert switched_on(full.options) == on
    assert (full.options.history_size, full.options.history_ttl) == (10, 300)


def switched_on(options: ChannelOptions) -> set[str]:
    return {name for name, value in options if value is True}


def test_publishers(hub: Hub) -> None:
    """With `on_publish` clients may publish, unless the options say who may."""
    chat = hub.channel("a:{x}", Message)
    only = hub.channel("b:{x}", Message, allow_publish_for_subscriber=True)
    for channel in (chat, only):
        channel.on_publish(lambda: None)
    wide = {"allow_publish_for_client", "allow_publish_for_anonymous"}
    assert switched_on(chat.options) & wide == wide
    assert not switched_on(only.options) & wide
    assert hub.authority.options("a:1") is chat.options


def test_options_and_keywords(hub: Hub) -> None:
    """Any option of a namespace, from `options` and over these by keyword."""
    options = ChannelOptions(history_size=5, history_ttl=60, allow_subscribe_for_anonymous=False)
    chat = hub.channel("a:{x}", Message, options=options, force_recovery_mode="cache", allow_tags_filter=True)
    assert chat.options.history is not None
    assert chat.options.history.size == 5
    assert (chat.options.allow_subscribe_for_anonymous, chat.options.force_recovery) == (False, True)
    assert (chat.options.force_recovery_mode, chat.options.allow_tags_filter) == ("cache", True)


def test_keywords_are_complete() -> None:
    """Each option of a namespace is a keyword, a parameter, or what address and model say."""
    said = {"presence", "join_leave", "history_size", "history_ttl", "slow_policy"}
    said |= {"channel_regex", "publication_data_format"}
    assert set(get_type_hints(ChannelKeywords)) == set(ChannelOptions.model_fields) - said


def test_the_built_in_namespace_is_replaced(hub: Hub) -> None:
    """Of this hub alone: neither the settings nor other hubs have changed."""
    before = BUILT_IN["chat"].model_dump()
    hub.channel("chat:{room}", Message)
    assert not hub.authority.options("chat:x").presence
    assert BUILT_IN["chat"].model_dump() == hub.settings.namespaces["chat"].model_dump() == before
    assert Hub(hub.settings).authority.options("chat:x").presence


def test_several_channels_of_a_namespace(hub: Hub) -> None:
    """Each has its own options; other names are unknown, private ones are the same channel's."""
    rooms, users = hub.channel("chat:room:{id}", Message, presence=True), hub.channel("chat:user:{id}", Message)
    assert hub.authority.options("chat:room:1") is rooms.options
    assert hub.authority.options("chat:user:1") is hub.authority.options("$chat:user:1") is users.options
    with pytest.raises(Refused, match="unknown channel"):
        hub.authority.options("chat:1")


@pytest.mark.parametrize(
    ("address", "options", "error"),
    [
        ("orders:{id}", {}, "the settings define the namespace 'orders' too; take it out of there"),
        ("chat:lobby", {}, r"a name could be one of 'chat:\{room\}' as well"),
        ("a:{x}", {"parameters": {"y": int}}, r"has no \{y\}; write it into the address"),
        ("a:{x}", {"channel_regex": "x"}, "channel_regex cannot be set, the address says"),
        ("a:{x}", {"publication_data_format": "binary"}, "publication_data_format cannot be set, the model says"),
        ("a:{x}", {"history": History(size=0, ttl=5)}, "history needs both history_size and history_ttl"),
        (
            "a:{x}",
            {"history": History(size=1, ttl="soon")},
            "history_ttl: a duration is a number of seconds, or a text",
        ),
        ("a:{x}", {"prescence": True}, "prescence: Extra inputs are not permitted"),
    ],
)
def test_refused_declarations(address: str, options: Any, error: str) -> None:
    """Each fault is a sentence that says what to do."""
    hub = Hub(Settings(namespaces={"orders": ChannelOptions()}))
    hub.channel("chat:{room}", Message)
    with pytest.raises(ConfigError, match=error):
        hub.channel(address, Message, **options)
    assert len(hub.typed_channels) == 1


def test_a_model_without_a_schema(hub: Hub) -> None:
    """What pydantic cannot validate is no model."""
    with pytest.raises(ConfigError, match=r"pydantic cannot validate <class 'hub.embed.Hub'>"):
        hub.channel("a:{x}", Hub)


def test_the_personal_namespace() -> None:
    """The users' own channels would not fit the address."""
    settings = Settings(subscribe_to_user_personal_channel=True, user_personal_channel_namespace="chat")
    with pytest.raises(ConfigError, match="'chat' is the namespace of the users' personal channels"):
        Hub(settings).channel("chat:{room}", Message)


async def test_a_running_hub_is_declared(hub: Hub) -> None:
    """Clients that are there already would have other rules."""
    chat = hub.channel("chat:{room}", Message)
    async with hub:
        for declare in (
            lambda: hub.channel("a:{x}", Message),
            lambda: chat.on_subscribe(lambda room: True),
            lambda: chat.on_message()(lambda room: None),
            lambda: hub.rpc("x")(lambda: None),
        ):
            with pytest.raises(ConfigError, match="is declared while the hub runs; declare it before"):
                declare()


# Functions


def needs_request(request: Request) -> None: ...


def needs_response(response: Response) -> None: ...


def needs_body(message: Message) -> None: ...


def nested(found: Annotated[None, Depends(needs_request)]) -> None: ...


def no_place(romm: str) -> None: ...


def odd(room: Event) -> None: ...


def background(tasks: BackgroundTasks) -> None: ...


def websocket(socket: WebSocket) -> None: ...


def anything(**others: str) -> None: ...


def unknown_type(room: "NotThere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (no_place, "no_place: nothing says what 'romm' is; the channel has room, the data have the model's type"),
        (anything, "nothing says what 'others' is"),
        (needs_body, "nothing says what 'message' is"),
        (odd, "odd: Invalid args .* is a valid Pydantic field type"),
        (needs_request, "needs_request takes a Request, and a WebSocket has none; take .*HTTPConnection"),
        (nested, "nested: found takes a Request"),
        (websocket, "takes a WebSocket, which belongs to the hub"),
        (needs_response, "takes a Response"),
        (background, "takes BackgroundTasks"),
        (unknown_type, "unknown_type: its annotations cannot be read .*NotThere.*; define at the top of the module"),
    ],
)
def test_refused_functions(hub: Hub, function: Any, error: str) -> None:
    """A function that could not be called is refused when it is declared."""
    chat = hub.channel("chat:{room}", Message)
    with pytest.raises(ConfigError, match=error):
        chat.on_subscribe(function)


def test_a_body_deeper_down(hub: Hub) -> None:
    """The data of an event are the function's own, and not its dependencies'."""

    def may_say(found: Annotated[None, Depends(needs_body)]) -> None: ...

    with pytest.raises(ConfigError, match="found takes a body"):
        hub.channel("chat:{room}", Message).on_publish(may_say)


def of_a_header(connection: HTTPConnection) -> None: ...


@pytest.mark.parametrize("asked", [of_a_header, Hub.user, Hub.event])
def test_consumers_have_no_client(hub: Hub, asked: Any) -> None:
    """There is no connection whose headers they could ask for."""
    chat = hub.channel("chat:{room}", Message)
    if asked is of_a_header:
        with pytest.raises(ConfigError, match="of_a_header asks for a client's connection, and a consumer has none"):
            chat.on_message()(of_a_header)
        return

    def consume(found: Annotated[Any, Depends(asked)]) -> None: ...

    if asked is Hub.event:
        chat.on_message()(consume)
    else:
        with pytest.raises(ConfigError, match="found asks for a client's connection"):
            chat.on_message()(consume)


def test_one_function_each(hub: Hub) -> None:
    """A second one would silently take the place of the first."""
    chat = hub.channel("chat:{room}", Message)
    for name in ("on_subscribe", "on_publish", "on_unsubscribe", "on_disconnect"):
        getattr(chat, name)(lambda room: None)
        with pytest.raises(ConfigError, match=f"has an {name} already; ask both in one function"):
            getattr(chat, name)(lambda room: None)


def test_once_needs_a_history(hub: Hub) -> None:
    """A publication is known by its place in it."""
    with pytest.raises(ConfigError, match=r"once=True needs a history.*; set history="):
        hub.channel("chat:{room}", Message).on_message(once=True)


def test_consumers_have_names_of_their_own(hub: Hub) -> None:
    """By them workers agree about who handles a message."""

    class Handler:
        def __call__(self) -> None: ...

    chat = hub.channel("chat:{room}", Message, history=KEPT)
    for function in (Handler(), needs_nothing, partial(partial(needs_nothing))):
        chat.on_message()(function)
    names = [
        f"{__name__}.{name}" for name in ("test_consumers_have_names_of_their_own.<locals>.Handler", "needs_nothing")
    ]
    assert [consumer.name for consumer in chat.consumers[:2]] == names
    chat.on_message(once=True)(needs_nothing)
    with pytest.raises(ConfigError, match=r"needs_nothing handles messages already, .*; give this one another"):
        chat.on_message(once=True)(partial(needs_nothing))


def needs_nothing() -> None: ...


def test_a_query_of_the_handshake(hub: Hub) -> None:
    """Whoever means it says so."""

    def may_join(page: Annotated[str, Query()], event: Annotated[Event, Depends(hub.event)]) -> None: ...

    hub.channel("chat:{room}", Message).on_subscribe(may_join)


# One of them


async def test_publish_and_read(hub: Hub) -> None:
    """A message goes out by its aliases, and comes back from the history as a message."""
    chat = hub.channel("chat:{room}", Message, history=KEPT)
    async with hub:
        room = chat(room="x")
        assert str(room) == "chat:x"
        sent = await room.publish(Message(text="hi", **{"for": "ann"}), idempotency_key="1", tags={"a": "b"})
        assert (await room.publish(Message(text="again"), idempotency_key="1")).suppressed
        history = await room.history()
        (found,) = history.publications
        assert found == TypedPublication(Message(text="hi", **{"for": "ann"}), 1, sent.epoch, {"a": "b"}, None)
        assert history.position == StreamPosition(1, sent.epoch)
        raw = (await hub.history("chat:x", limit=-1)).publications[0]
        assert raw.data == b'{"text":"hi","for":"ann"}'
        assert (await room.history(since=history.position)).publications == []
        assert (await room.history(limit=1, reverse=True)).publications == [found]


async def test_what_does_not_fit_is_left_out(hub: Hub) -> None:
    """A publication of a program that does not know the model is counted, and the others are read."""
    chat = hub.channel("chat:{room}", Message, history=KEPT)
    async with hub:
        other = Hub(Settings(namespaces={"chat": ChannelOptions(history_size=10, history_ttl=300)}), broker=hub.broker)
        async with other:
            await other.publish("chat:x", {"txt": "hi"})
            await hub.start()
            await chat(room="x").publish(Message(text="hi"))
            history = await chat(room="x").history()
    assert [publication.data.text for publication in history.publications] == ["hi"]
    assert history.unreadable == hub.unreadable.total == 1


async def test_wrong_values(hub: Hub) -> None:
    """What is not a message, too large, or not a room."""
    chat = hub.channel("chat:{room}", Message)
    game = hub.channel("game:{id}", Message, parameters={"id": UUID})
    async with hub:
        with pytest.raises(ValueError, match="data: text: Field required"):
            await chat(room="x").publish({"txt": "hi"})  # type: ignore[arg-type]
        with pytest.raises(MessageTooBig):
            await chat(room="x").publish(Message(text="x" * 70000))
        with pytest.raises(TypeError, match="the values of tags must be texts"):
            await chat(room="x").publish(Message(text="x"), tags={"a": 1})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match=r"id of 'game:\{id\}'"):
            game(id="x")
        for room in ("x" * 300, "a\nb"):
            with pytest.raises(InvalidChannel, match="channel name has"):
                chat(room=room)
        assert game(id=(number := uuid4())).name == f"game:{number}"
        with pytest.raises(Refused, match="not available"):
            await chat(room="x").presence()
        with pytest.raises(Refused, match="not available"):
            await chat(room="x").presence_stats()


async def test_hub_publish_knows_the_model(hub: Hub) -> None:
    """The untyped way does not lead around it."""
    hub.channel("chat:{room}", Message)
    async with hub:
        await hub.publish("chat:x", {"text": "hi"})
        await hub.publish("chat:x", '{"text": "hi"}')
        for data, complaint in (
            ({"txt": "hi"}, "data: text: Field required"),
            ({"text": 1, "for": 2}, "data: text: Input should be a valid string; for: Input should be a valid string"),
            ("hi", "data: Input should be an object"),
            (b"hi", "data must be JSON"),
            ("", "data is missing"),
        ):
            with pytest.raises(Refused, match=complaint) as caught:
                await hub.publish("chat:x", data)
            assert (caught.value.error.code, caught.value.error.message) == (107, str(caught.value))
        with pytest.raises(Refused, match="'chat:x:y' is not one of the namespace's typed channels"):
            await hub.publish("chat:x:y", {"text": "hi"})


async def test_faults_are_named_up_to_a_number(hub: Hub) -> None:
    """Three of them; nothing of the data is in the sentence."""

    class Many(BaseModel):
        a: int
        b: int
        c: int
        d: int

    hub.channel("a:{x}", Many)
    async with hub:
        with pytest.raises(Refused) as caught:
            await hub.publish("a:1", dict.fromkeys("abc", "s3cret"))
    assert str(caught.value).startswith("data: a: Input should be a valid integer")
    assert str(caught.value).endswith("; and 1 more")
    assert "s3cret" not in str(caught.value)


def test_without_an_event_loop(hub: Hub, redis_server: EmbeddedServer) -> None:
    """A Publisher that is given the hub keeps what is declared, and takes what fits."""
    hub.channel("news:{topic}", Message, history=KEPT)
    for given, kept in ((hub, True), (None, False)):
        with Publisher(redis=redis_server.url, hub=given) as publisher:
            sent = publisher.publish("news:x", {"text": "hi"})
            assert bool(sent.offset) is kept
    with Publisher(redis=redis_server.url, hub=hub) as publisher:
        assert publisher.settings is hub.settings
        with pytest.raises(Refused, match="data: text: Field required"):
            publisher.publish("news:x", {"txt": "hi"})
