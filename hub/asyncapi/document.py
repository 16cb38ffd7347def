"""The AsyncAPI 3.0 document of a hub's channels and calls.

It describes the application, as AsyncAPI has it: what the application *sends* in a channel, subscribers receive, and
what it *receives* there, clients publish. The server's path is that of the WebSocket; a channel's address is the name
that the protocol's commands give, and no path.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ..config import Settings
from ..namespaces import ChannelOptions
from ..typed.channel import TypedChannel
from ..typed.hub import TypedHub
from ..typed.rpc import RpcMethod
from .examples import example
from .schemas import Schema, Wanted, schemas_of

__all__ = ["Place", "describe"]

Part = dict[str, Any]

# The channel of calls and answers.
CONNECTION = "connection"

PROTOCOL = " ".join(
    (
        "All channels share one WebSocket that speaks the",
        "[Centrifuge client protocol](https://centrifugal.dev/docs/transports/client_protocol), version 2: a text",
        'frame has one or several lines, each one a JSON object. A client says `{"id": 1, "connect": {}}` first, with',
        "its `token` in there if it has one. A channel's address is the `channel` of the commands `subscribe` and",
        "`publish`, and a payload is the `data` of a publication. The operations `rpc.*` are the command `rpc`, whose",
        "`method` is their title; payloads are its `data` and that of the answer. `{}` from the hub is a ping,",
        "answered by the same.",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the application is: `host` with its port, `path` of the WebSocket, and whether it is reached by TLS."""

    host: str
    path: str
    secure: bool
    title: str = "broadcast-hub"
    version: str = "0"


def describe(hub: TypedHub, place: Place) -> Part:
    """The document: typed channels with their models, other namespaces with any payload, calls."""
    models = _Models(hub)
    channels: dict[str, Part] = {}
    operations: dict[str, Part] = {}
    for key, channel in named_channels(hub).items():
        channels[key] = _typed_channel(channel, key, models)
        operations |= _typed_operations(channel, key, channels[key])
    for key, (address, options) in _untyped(hub).items():
        channels[key] = _untyped_channel(address, options)
        operations |= _untyped_operations(key, options)
    if hub.rpc_methods:
        channels[CONNECTION], calls = _calls(hub, models)
        operations |= calls
    return {
        "asyncapi": "3.0.0",
        "info": {"title": place.title, "version": place.version, "description": PROTOCOL},
        "defaultContentType": "application/json",
        "servers": {"hub": _server(hub, place)},
        "channels": channels,
        "operations": operations,
        "components": {"schemas": models.shared, "securitySchemes": {"token": _token(hub)}},
    }


# Names


def _key(text: str, fallback: str = "channel") -> str:
    """What stands for a text in the document, and is no trouble in a reference."""
    return ".".join(re.findall(r"\w+", text, re.ASCII)) or fallback


def _unique(key: str, taken: Any) -> str:
    number, found = 1, key
    while found in taken:
        number += 1
        found = f"{key}.{number}"
    return found


def named_channels(hub: TypedHub) -> dict[str, TypedChannel[Any]]:
    """The typed channels by the literal parts of their addresses: `chat`, `chat.typing`."""
    found: dict[str, TypedChannel[Any]] = {}
    for channel in hub.typed_channels:
        literals = ":".join(re.split(r"\{[^{}]*\}", channel.address))
        found[_unique(_key(literals), {CONNECTION, *found})] = channel
    return found


def _named_methods(hub: TypedHub) -> dict[str, RpcMethod]:
    found: dict[str, RpcMethod] = {}
    for name, method in hub.rpc_methods.items():
        found[_unique(_key(name, "method"), found)] = method
    return found


# The server


def _server(hub: TypedHub, place: Place) -> Part:
    server: Part = {
        "host": place.host,
        "pathname": place.path,
        "protocol": "wss" if place.secure else "ws",
        "description": f"WebSocket, Centrifuge client protocol version 2. {_who(hub)}",
    }
    return server | ({"security": [{"$ref": "#/components/securitySchemes/token"}]} if _wants_token(hub) else {})


def _has_keys(settings: Settings) -> bool:
    names = ("token_hmac_secret_key", "token_rsa_public_key", "token_ecdsa_public_key", "token_jwks_public_endpoint")
    return any(getattr(settings, name) for name in (*names, "token"))


def _wants_token(hub: TypedHub) -> bool:
    """Whether clients without one are turned away, as far as the settings say it."""
    said = hub.settings.allow_anonymous_connect_without_token
    if hub.settings.client_insecure or hub.authority.hooks.authenticate is not None:
        return False
    return _has_keys(hub.settings) if said is None else not said


def _who(hub: TypedHub) -> str:
    if hub.authority.hooks.authenticate is not None:
        return "The application decides who may connect, with or without a token."
    return "Clients show a token." if _wants_token(hub) else "Clients may connect without a token."


def _token(hub: TypedHub) -> Part:
    own = hub.authority.hooks.authenticate is not None
    text = "The `token` of the command `connect`; raw rooms and server-sent events take it as `?token=` too."
    return {"type": "http", "scheme": "bearer", "description": text} | ({} if own else {"bearerFormat": "JWT"})


# Schemas


class _Models:
    """The schemas of all that is declared, and an example of each."""

    def __init__(self, hub: TypedHub) -> None:
        self._wanted = dict(_wanted(hub))
        self._found, self.shared = schemas_of(self._wanted)

    def differ(self, one: str, other: str) -> bool:
        return self._found[one] != self._found[other]

    def __getitem__(self, key: str) -> Schema:
        return self._found[key]

    def message(self, key: str, name: str) -> Part:
        if key not in self._found:
            return {"name": name, "payload": {}, "summary": "Any JSON."}
        message = {"name": name, "payload": self._found[key]}
        sample = example(self._found[key], self.shared)
        return message | ({"examples": [{"payload": sample}]} if self._fits(key, sample) else {})

    def _fits(self, key: str, sample: Any) -> bool:
        if not isinstance(sample, dict):  # AsyncAPI has examples of objects only
            return False
        try:
            TypeAdapter(self._wanted[key].type).validate_python(sample)
        except ValidationError:
            return False
        return True


def _wanted(hub: TypedHub) -> Iterator[tuple[str, Wanted]]:
    for key, channel in named_channels(hub).items():
        yield f"{key} out", Wanted(channel.model, "serialization")
        yield f"{key} in", Wanted(channel.model, "validation")
        for name, kind in channel.parameters.items():
            yield f"{key} {{{name}}}", Wanted(kind, "validation")
    for key, method in _named_methods(hub).items():
        if method.body is not None:
            yield f"{key} request", Wanted(method.body | None if method.optional else method.body, "validation")
        if (result := _result(method)) is not None:
            yield f"{key} reply", Wanted(result, "serialization")


def _result(method: RpcMethod) -> Any:
    """NoneType for a function that says it returns None; None for one that says nothing."""
    if method.result is not None:
        return method.result
    said = getattr(inspect.unwrap(method.function), "__annotations__", {}).get("return", ...)
    return NoneType if said in (None, "None") else None


# Typed channels


def _typed_channel(channel: TypedChannel[Any], key: str, models: _Models) -> Part:
    name = _model_name(channel.model)
    messages = {name: models.message(f"{key} out", name)}
    if models.differ(f"{key} in", f"{key} out"):  # what clients send is relayed as they sent it
        messages[f"{name}-Input"] = models.message(f"{key} in", f"{name}-Input")
    return {
        "address": channel.address,
        "messages": messages,
        "parameters": {each: _parameter(key, each, models) for each in channel.parameters},
        "x-hub": _features(channel.options),
    }


def _model_name(model: Any) -> str:
    return _key(getattr(model, "__name__", str(model)), "Message")


def _parameter(key: str, name: str, models: _Models) -> Part:
    """AsyncAPI has no schemas here, but values to choose from; the schema is in an extension."""
    schema = models[f"{key} {{{name}}}"]
    if "$ref" in schema:
        schema = models.shared[str(schema["$ref"]).rpartition("/")[2]]
    parameter: Part = {"x-schema": schema}
    if isinstance(schema.get("enum"), list):
        parameter["enum"] = [str(value) for value in schema["enum"]]
    if isinstance(text := schema.get("description"), str):
        parameter["description"] = text
    return parameter


def _features(options: ChannelOptions) -> dict[str, bool]:
    return {
        "history": options.history is not None,
        "recovery": options.force_recovery or options.allow_recovery,
        "presence": options.presence,
        "joinLeave": options.join_leave,
    }


def _typed_operations(channel: TypedChannel[Any], key: str, described: Part) -> dict[str, Part]:
    first, *others = [{"$ref": f"#/channels/{key}/messages/{name}"} for name in described["messages"]]
    published = _may_publish(channel.options)
    # Clients that may publish have what they sent delivered, the fields with defaults missing.
    found = {f"{key}.subscribe": _operation("send", key, [first, *others] if published else [first])}
    if published:
        found[f"{key}.publish"] = _operation("receive", key, others or [first])
    return found


def _may_publish(options: ChannelOptions) -> bool:
    permission = options.permissions["publish"]
    return permission.client or permission.subscriber


def _operation(action: Literal["send", "receive"], key: str, messages: list[Part]) -> Part:
    summary = "What subscribers receive." if action == "send" else "What clients may publish."
    return {"action": action, "channel": {"$ref": f"#/channels/{key}"}, "summary": summary, "messages": messages}


# Other namespaces


def _untyped(hub: TypedHub) -> dict[str, tuple[str, ChannelOptions]]:
    """Namespaces of the settings, and the channels that have none."""
    typed = {channel.namespace for channel in hub.typed_channels}
    taken = {CONNECTION, *named_channels(hub)}
    found: dict[str, tuple[str, ChannelOptions]] = {}
    for name, options in hub.namespaces.named.items():
        if name not in typed:
            found[_unique(_key(name), {*taken, *found})] = (f"{name}:{{name}}", options)
    found[_unique("any", {*taken, *found})] = ("{name}", hub.namespaces.without)
    return found


def _untyped_channel(address: str, options: ChannelOptions) -> Part:
    about = "of the namespace" if ":" in address else "without a namespace; `/ws/{name}` is the same as a raw room"
    return {
        "address": address,
        "description": f"Channels {about}. Their publications are not declared, and may be anything.",
        "messages": {"data": {"name": "data", "payload": {}, "summary": "Any JSON."}},
        "parameters": {"name": {"x-schema": _name_schema(options)}},
        "tags": [{"name": "untyped"}],
        "x-hub": _features(options),
    }


def _name_schema(options: ChannelOptions) -> Schema:
    return {"type": "string"} | ({"pattern": options.channel_regex} if options.channel_regex else {})


def _untyped_operations(key: str, options: ChannelOptions) -> dict[str, Part]:
    messages = [{"$ref": f"#/channels/{key}/messages/data"}]
    found = {f"{key}.subscribe": _operation("send", key, messages)}
    if _may_publish(options):
        found[f"{key}.publish"] = _operation("receive", key, messages)
    return found


# Calls


def _calls(hub: TypedHub, models: _Models) -> tuple[Part, dict[str, Part]]:
    """The channel of the connection itself, and an operation for each method."""
    channel: Part = {
        "address": None,
        "description": "The connection itself: calls and their answers, by the protocol's command `rpc`.",
        "messages": {},
        "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
    }
    operations = {}
    for key, method in _named_methods(hub).items():
        for part in ("request", "reply"):
            message = models.message(f"{key} {part}", f"{key}.{part}")
            channel["messages"][f"{key}.{part}"] = message
        if not method.takes:
            channel["messages"][f"{key}.request"] |= {"payload": {"type": "null"}, "summary": "Nothing."}
        operations[f"rpc.{key}"] = _call(key, method)
    return channel, operations


def _call(key: str, method: RpcMethod) -> Part:
    channel = {"$ref": f"#/channels/{CONNECTION}"}
    about = inspect.getdoc(method.function) if inspect.isroutine(method.function) else None
    return {
        "action": "receive",
        "channel": channel,
        "title": method.name,
        **({"description": about} if about else {}),
        "messages": [{"$ref": f"#/channels/{CONNECTION}/messages/{key}.request"}],
        "reply": {"channel": channel, "messages": [{"$ref": f"#/channels/{CONNECTION}/messages/{key}.reply"}]},
        "x-method": method.name,
    }
